"""The documentation says what the code does; here is what can be checked without reading it."""

import ast
import json
import re
from pathlib import Path

import pytest

from radar_callback.errors import Reason
from tests.helpers.evaluations import evaluation

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(language):
    found = [
        (page.name, block)
        for page in PAGES
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert found
    return found


def test_every_reason_is_explained_and_no_other():
    table = (DOCS / "score.md").read_text().partition("## What is not scored")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [str(reason) for reason in Reason]


def test_every_log_key_is_listed():
    text = (DOCS / "callback.md").read_text()
    names = {"colour": "<ability>", "perception": "<group>"}
    for key in evaluation(0, {"perception": ["colour"], "reasoning": ["maths"]}).metrics(overhead=0.0):
        *front, last = key.split("/")
        if last not in ("reasoning", "maths"):
            assert f"`{'/'.join([*front, names.get(last, last)])}`" in text


def test_the_abilities_of_the_built_in_benchmark_are_those_listed():
    from radar_callback.benchmark.mini import TREE

    text = (DOCS / "benchmark.md").read_text()
    for group, abilities in TREE.items():
        assert f"| {group} | {', '.join(name.replace('_', ' ') for name in abilities)} |" in text


def test_every_command_is_listed():
    from radar_callback.cli import app, shards

    text = (DOCS / "command_line.md").read_text()
    for command in app.registered_commands:
        assert f"| `{command.callback.__name__}" in text
    for command in shards.app.registered_commands:
        assert f"| `shards {command.name or command.callback.__name__}" in text


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_are_python(page, code):
    ast.parse(code)


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_json_blocks_are_json(page, text):
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


def test_pictures_of_a_history_as_the_page_says(tmp_path, monkeypatch):
    (code,) = [code for page, code in blocks("python") if page == "wandb.md"]
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(evaluation(step).to_record()) + "\n" for step in (0, 10)]
    Path("radar_history.jsonl").write_text("".join(lines))
    exec(code, {})
    assert Path("curves.png").stat().st_size > 10_000 and Path("radar.pdf").stat().st_size > 10_000


def test_every_test_that_a_table_names_is_there():
    folder = Path(__file__).parent
    named = re.findall(r"`([\w/]+/?test_\w+\.py)`", "".join(page.read_text() for page in PAGES))
    assert len(named) > 40
    assert [name for name in named if not ((folder / name).exists() or (folder.parent / name).exists())] == []
