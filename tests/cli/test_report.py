"""`radar-callback report`: a page that stands alone, says what the history says, and trusts no text it is given."""

import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from radar_callback.cli import main
from radar_callback.item_history import ItemHistory
from radar_callback.item_scores import ItemScores
from radar_callback.item_table import item_index
from tests.diagnosis.runs import CURVES, history
from tests.helpers import tiny

NASTY = "<script>alert('x')</script>"


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


def written(records, path):
    rows = [{"overall": {"sds": 0.5, "se": 0.01, "chance": 0.25}, **record} for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def body(page):
    """What a reader sees, without plotly's own code."""
    return re.sub(r"<head>.*?</head>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def falling(name, t, value):
    return value - 0.3 if name == "colour" and t >= 12 else value


def test_what_the_history_tells_is_on_the_page(tmp_path, capsys):
    path, page = written(history(change=falling), tmp_path / "run" / "radar_history.jsonl"), tmp_path / "out.html"
    assert run("report", path, "--html", page, "--title", "A run") == 0
    shown = body(page)
    assert (
        "colour has fallen at step 1200" in shown and "<strong>1 alarm.</strong>" in shown and "<h1>A run</h1>" in shown
    )
    assert "20 evaluations from step 0 to 1,900" in shown and "Furthest behind its peers is maths" in shown
    table = shown[shown.index("<h2>Emergence</h2>") :]
    order = [table.index(f"<td>{name}</td>") for name in ("size", "object", "shape", "count", "maths")]
    assert order == sorted(order), "the earliest first"
    for title in (
        "Ability curves",
        "Radar",
        "Behind the scores",
        "Learned and forgotten",
        "Run",
    ):
        assert f"<h2>{title}</h2>" in shown
    for title in ("Perception ahead of reasoning", "What images are worth", "How far parts of the model moved"):
        assert f"<h3>{title}</h3>" in shown
    assert str(page) in capsys.readouterr().out.replace("\n", "")


def test_it_asks_nobody_for_anything(tmp_path):
    path, page = written(history(), tmp_path / "radar_history.jsonl"), tmp_path / "out.html"
    assert run("report", path, "--html", page) == 0
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"(?!data:)", text)
    assert re.findall(r"<link[^>]+href=\"([^\"]*)", text) == ["data:,"]
    assert "@import" not in text.partition("<script>")[0]


def test_no_text_from_a_file_becomes_markup(tmp_path):
    curves = {NASTY: CURVES["colour"], "maths": CURVES["maths"]}
    records = [
        {**record, "benchmark": NASTY}
        for record in history(curves=curves, change=lambda n, t, v: v - 0.4 if t > 11 and n == NASTY else v)
    ]
    for record in records:
        record["moved"] = {NASTY: 0.1}
        record["scorer"], record["failures"] = NASTY, {NASTY: 3}
    path, page = written(records, tmp_path / "radar_history.jsonl"), tmp_path / "out.html"
    other = written(records, tmp_path / "b" / "radar_history.jsonl")
    for arguments in ([path], [path, other, "--name", NASTY, "--name", "b"]):
        assert run("report", *arguments, "--html", page, "--title", NASTY) == 0
        text = page.read_text(encoding="utf-8")
        assert "alert(" in text and NASTY not in text
        assert "<script>alert" not in text.replace("\\u003c", "<<")


def test_several_runs_side_by_side(tmp_path):
    paths = [
        written(history(seed=i), tmp_path / name / "radar_history.jsonl") for i, name in enumerate(("small", "large"))
    ]
    page = tmp_path / "out.html"
    assert run("report", *paths, "--html", page) == 0
    shown = body(page)
    assert "<h2>Side by side</h2>" in shown and "onset: small" in shown and "level: large" in shown
    assert shown.count("plotly-graph-div") == len(CURVES) + 1 + 3
    packed = tmp_path / "packed" / "history.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    assert run("report", packed, paths[1], "--name", "first", "--name", "second", "--html", page) == 0
    assert "onset: first" in body(page)


def test_items_with_their_pictures_where_the_shards_are_at_hand(tmp_path):
    from radar_callback import Benchmark

    folder = tiny.benchmark(tmp_path / "tiny", n=12)
    index = item_index(Benchmark(folder))
    path, page = tmp_path / "run" / "radar_history.jsonl", tmp_path / "out.html"
    written([{**record, "benchmark": index.benchmark} for record in history(3)], path)
    kept = ItemHistory(path.with_name("radar_items.jsonl"), index)
    rng = np.random.default_rng(0)
    for step in (0, 100, 200):
        flat = np.concatenate([rng.dirichlet(np.ones(k)) for k in index.candidates]).astype(np.float32)
        kept.append(step, ItemScores(flat, np.log(flat)))
    before, after = (kept.scores[step].sds(index) for step in (100, 200))
    worst = index.keys[int(np.argmin(after - before))]
    assert run("report", path, "--html", page) == 0
    plain = body(page)
    assert worst in plain and "data:image/jpeg" not in plain and "Fell most from step 100 to 200" in plain
    assert run("report", path, "--html", page, "--shards", folder) == 0
    assert "data:image/jpeg;base64," in body(page) and "The circle" in body(page)


def test_the_items_behind_an_alarm(tmp_path):
    from radar_callback import Benchmark

    folder = tiny.benchmark(tmp_path / "tiny", n=12)
    index = item_index(Benchmark(folder))
    path, page = tmp_path / "run" / "radar_history.jsonl", tmp_path / "out.html"
    written([{**record, "benchmark": index.benchmark} for record in history(change=falling)], path)
    kept = ItemHistory(path.with_name("radar_items.jsonl"), index)
    rng = np.random.default_rng(0)
    for step in range(0, 2000, 100):
        flat = np.concatenate([rng.dirichlet(np.ones(k)) for k in index.candidates]).astype(np.float32)
        kept.append(step, ItemScores(flat, np.log(flat)))
    before, after = (kept.scores[step].sds(index) for step in (1100, 1200))
    worst = index.keys[int(np.argmin(after - before))]
    assert run("report", path, "--html", page, "--shards", folder) == 0
    shown = body(page)
    listed = shown[shown.index("<h3>Fell most from step 1,100 to 1,200: colour fell</h3>") :]
    assert worst in listed[: listed.index("</article>")], "the worst first"
    assert "<h3>Fell most from step 1,800 to 1,900</h3>" in listed and "since the best evaluation</h3>" in listed


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.jsonl", "does not exist"),
        (lambda folder: _file(folder / "x.jsonl", "hello\n"), "radar history"),
        (lambda folder: _file(folder / "empty.jsonl", ""), "at least one evaluation"),
        (lambda folder: _file(folder / "x.jsonl.gz", "hello\n"), "packed history"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, capsys, make, said):
    page = tmp_path / "out.html"
    assert run("report", make(tmp_path), "--html", page) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not page.exists()


def _file(path, content):
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--html", "no/such/folder/out.html"], "a folder that exists"),
        (["--html", "out.html", "--benchmark", "m3"], "it has those of made up"),
        (["--html", "out.html", "--name", "a", "--name", "b"], "a different --name for each"),
        (["--html", "out.html", "--shards", "nowhere"], "nowhere"),
        ([], "--html"),
    ],
)
def test_wrong_usage_gets_one_line(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    path = written(history(4), tmp_path / "radar_history.jsonl")
    assert run("report", path, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path / "out.html").exists()


def test_help_does_not_wait_for_heavy_imports():
    code = (
        "import sys; from radar_callback.cli import main; main(['report', '--help']); sys.exit('plotly' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
