"""`radar-callback score`, from a source folder to numbers in a file, and the line that each mistake gets."""

import json
import subprocess
import sys

import pytest

from radar_callback.cli import main
from tests.helpers import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "vlm"
    tiny.llava().save_pretrained(folder)
    tiny.llava_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=12)


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


def test_the_document_is_what_the_contract_says(checkpoint, bench, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert run("score", checkpoint, "--benchmark", bench, "--json", out, "--per-sample") == 0
    document = json.loads(out.read_text())
    assert document["model"] == str(checkpoint) and document["benchmark"] == "tiny"
    assert document["coverage"] == 1 and document["count"] == 12
    for row in document["abilities"].values():
        assert row.keys() == {"group", "sds", "sds_logprob", "accuracy", "count", "se", "chance"}
    assert document["groups"].keys() == {"perception", "reasoning"}
    assert len(document["samples"]) == 12
    for sample in document["samples"]:
        assert sample.keys() == {
            "key", "meta", "ability", "category", "prompt", "candidates", "target", "mean_logits", "mean_logprobs", "sds",
            "sds_logprob", "correct",
        }  # fmt: skip
        assert sample["target"] == 0 and len(sample["candidates"]) == len(sample["mean_logits"])
        assert sample["meta"] == {"id": int(sample["key"].removeprefix("item-"))}
        assert sample["correct"] == (max(sample["mean_logits"]) == sample["mean_logits"][0])
    shown = capsys.readouterr().out
    assert "colour" in shown and str(out) in shown.replace("\n", "")


def test_without_per_sample_there_are_no_samples_and_limit_limits(checkpoint, bench, tmp_path):
    out = tmp_path / "scores.json"
    assert run("score", checkpoint, "--benchmark", bench, "--json", out, "--limit", 1) == 0
    document = json.loads(out.read_text())
    assert "samples" not in document and document["count"] == 3


def test_dtype_and_prompt_make_a_difference(checkpoint, bench, tmp_path):
    scores = {}
    variants = {"plain": [], "bf16": ["--dtype", "bfloat16"], "asked": ["--prompt", "{images}Q: {question} A:"]}
    for name, options in variants.items():
        assert run("score", checkpoint, "--benchmark", bench, "--json", tmp_path / name, *options) == 0
        scores[name] = json.loads((tmp_path / name).read_text())["abilities"]["colour"]["sds"]
    assert scores["plain"] != scores["bf16"] == pytest.approx(scores["plain"], abs=0.05)
    assert abs(scores["asked"] - scores["plain"]) > 1e-4


@pytest.mark.parametrize("data", ["mathv_sample", "nlvr_sample"])
def test_real_items_from_folder_to_numbers(data, shared, golden, tmp_path):
    assert run("shards", "build", shared / "data" / data, tmp_path / "shards", "--from", "jsonl") == 0
    assert run("shards", "verify", tmp_path / "shards") == 0
    out = tmp_path / "scores.json"
    assert (
        run(
            "score",
            golden / "tiny_qwen2vl",
            "--benchmark",
            tmp_path / "shards",
            "--json",
            out,
            "--limit",
            3,
            "--per-sample",
        )
        == 0
    )
    document = json.loads(out.read_text())
    assert document["coverage"] == 1
    assert document["count"] == len(document["samples"]) == 3 * len(document["abilities"])
    assert all(0 < sample["sds"] < 1 for sample in document["samples"])
    assert document["overall"]["chance"] == pytest.approx(0.2 if data == "mathv_sample" else 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--benchmark": "nowhere"}, "nowhere"),
        ({"--prompt": "sonnet"}, "Unknown prompt style 'sonnet'"),
        ({"--json": "no/such/folder/x.json"}, "Expected --json in a folder that exists"),
        ({"--device": "warp"}, "warp"),
        ({"--limit": "0"}, "limit"),
        ({"model": "./nothing-here"}, "Expected a checkpoint at ./nothing-here, but there is nothing"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(change, message, checkpoint, bench, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"--benchmark": str(bench), "--json": str(tmp_path / "x.json")} | change
    model = options.pop("model", str(checkpoint))
    assert run("score", model, *[part for pair in options.items() for part in pair]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len([line for line in shown.splitlines() if line.startswith("radar-callback: ")]) == 1
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_checkpoint_and_one_without_processor(bench, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("score", tmp_path / "empty", "--benchmark", bench, "--json", tmp_path / "x.json") == 2
    assert "to be a checkpoint of an image-text-to-text model" in capsys.readouterr().err
    tiny.llava().save_pretrained(tmp_path / "bare")
    assert run("score", tmp_path / "bare", "--benchmark", bench, "--json", tmp_path / "x.json") == 2
    assert "Found no processor" in capsys.readouterr().err


def test_it_is_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "radar_callback", "score", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "--per-sample" in done.stdout
