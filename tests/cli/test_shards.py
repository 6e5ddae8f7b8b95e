"""`radar-callback shards`: what it prints, and its exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import radar_callback
from radar_callback.benchmark.reader import Benchmark
from radar_callback.cli import main


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for i in range(6):
        buffer = io.BytesIO()
        Image.new("RGB", (8 + i, 6), (40 * i, 0, 0)).save(buffer, "PNG")
        (folder / f"{i}.png").write_bytes(buffer.getvalue())
        lines.append(
            {"id": i, "question": f"Is it {i}?", "options": ["yes", "no"], "answer": "yes", "image": f"{i}.png"}
        )
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def bench(source, tmp_path, capsys) -> Path:
    assert main(["shards", "build", str(source), str(tmp_path / "bench"), "--from", "jsonl"]) == 0
    capsys.readouterr()
    return tmp_path / "bench"


@pytest.fixture
def fails(capsys):
    """Runs a command that must end with status 2 and one line on stderr; gives that line."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("radar-callback: ")
        assert err.count("\n") == 1
        return err

    return run


def test_build(source, tmp_path, capsys):
    out = tmp_path / "bench"
    arguments = ["shards", "build", str(source), str(out), "--from", "jsonl"]
    options = [
        "--name",
        "six",
        "--licence",
        "CC0",
        "--ability",
        "truth",
        "--group",
        "reasoning",
        "--max-shard-mb",
        "0.005",
    ]
    assert main([*arguments, *options]) == 0
    printed, err = capsys.readouterr()
    benchmark = Benchmark(out)
    shards = len(list(out.glob("*.tar")))
    assert shards > 1
    assert printed.startswith(f"Wrote six: 6 items in {shards} shards, ")
    assert err == ""
    assert (benchmark.name, benchmark.licence, benchmark.taxonomy.tree) == ("six", "CC0", {"reasoning": {"truth": []}})


def test_build_says_what_it_left_out(source, tmp_path, capsys, fails):
    (source / "3.png").write_text("<html>")
    arguments = ["shards", "build", str(source), str(tmp_path / "bench"), "--from", "jsonl"]
    assert "questions.jsonl:4: Expected an image, but" in fails(*arguments)
    assert not (tmp_path / "bench").exists()
    assert main([*arguments, "--keep-going"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Wrote mine: 5 items in 1 shard, ")
    assert printed[1] == "Left out 1 item: 1 bad_image"
    assert printed[2].startswith("  line#4: ")


def test_build_m3bench_and_mini_options(golden, tmp_path, capsys, fails):
    m3 = golden / "m3bench"
    orders = {}
    for order in ("item", "authors"):
        arguments = ["shards", "build", m3, tmp_path / order, "--from", "m3bench", "--option-order", order]
        assert main([str(argument) for argument in arguments]) == 0
        assert "Left out 1 item: 1 too_many_images" in capsys.readouterr().out
        orders[order] = Benchmark(tmp_path / order).fingerprint
    assert orders["item"] != orders["authors"]
    assert "item or authors, but got 'mine'" in fails(
        "shards", "build", m3, tmp_path / "x", "--from", "m3bench", "--option-order", "mine"
    )


def test_wrong_usage(source, bench, tmp_path, fails):
    build = ["shards", "build", source, tmp_path / "new", "--from"]
    assert "Expected --from to be one of m3bench, jsonl, mini, but got 'coco'" in fails(*build, "coco")
    assert "--option-order is none of them" in fails(*build, "jsonl", "--option-order", "authors")
    assert "--ability is none of them" in fails(*build, "m3bench", "--ability", "x")
    assert "Missing option '--from'" in fails(*build[:-1])
    assert "--max-shard-mb" in fails(*build, "jsonl", "--max-shard-mb", "0")
    assert "Missing argument" in fails("shards", "build")
    assert "--nope" in fails("shards", "inspect", bench, "--nope")
    assert "No such command 'bad'" in fails("bad")
    assert "M3-Bench folders" in fails(*build, "m3bench")
    assert "Expected radar-mini or a seed" in fails("shards", "build", "x", tmp_path / "new", "--from", "mini")
    assert "add --overwrite" in fails("shards", "build", source, bench, "--from", "jsonl")
    assert "there is no" in fails("shards", "inspect", tmp_path / "absent")
    assert "there is no" in fails("shards", "verify", tmp_path / "absent")
    assert "/dev/null" in fails("shards", "build", source, "/dev/null/x", "--from", "jsonl")
    assert not (tmp_path / "new").exists()


def test_help_and_no_arguments(capsys):
    assert main(["--help"]) == 0
    assert "shards" in capsys.readouterr().out
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("Usage:")
    assert main(["shards", "build", "--help"]) == 0
    assert "--keep-going" in capsys.readouterr().out


def test_inspect(bench, capsys):
    assert main(["shards", "inspect", str(bench)]) == 0
    table = capsys.readouterr().out
    assert "mine: 6 items, 0 left out, 1 ability" in table
    assert "8x6–13x6" in table
    assert "answer: 'yes'   distractors: ['no']" in table
    assert main(["shards", "inspect", str(bench), "--json", "--examples", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["items"], found["skipped"], found["fingerprint"]) == (6, {}, Benchmark(bench).fingerprint)
    assert found["abilities"] == [
        {
            "group": "all",
            "ability": "mine",
            "items": 6,
            "skipped": 0,
            "categories": {},
            "candidates": [2, 2],
            "chance": 0.5,
            "images": [1, 1],
            "pixels": [[8, 6], [13, 6]],
            "bytes": sum(item.size for item in Benchmark(bench).items),
        }
    ]
    assert len(found["examples"]) == 1


def test_inspect_shows_damage_where_it_meets_it(bench, capsys):
    path = bench / "shard-000.tar"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert main(["shards", "inspect", str(bench)]) == 0
    assert "cannot be read: shard-000.tar: item" in capsys.readouterr().out


def test_verify(bench, capsys):
    assert main(["shards", "verify", str(bench)]) == 0
    assert capsys.readouterr().out == f"No damage found in {bench}\n"
    path = bench / "shard-000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    assert main(["shards", "verify", str(bench)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shard-000.tar: has 5000 bytes where the manifest says ")
    assert lines[-1] == f"{len(lines) - 1} damages found in {bench}"


def test_verify_a_manifest_that_cannot_be_read_is_damage(bench, capsys):
    (bench / "manifest.json").write_text("{")
    assert main(["shards", "verify", str(bench)]) == 1
    assert "manifest.json: Expected" in capsys.readouterr().out


def test_as_a_process_without_loading_torch(bench):
    source = str(Path(radar_callback.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "COLUMNS": "80"}
    run = "import sys; from radar_callback.cli import main; status = main(sys.argv[1:]); "
    report = "print([m for m in ('torch', 'transformers', 'lightning', 'webdataset', 'wandb') if m in sys.modules])"
    for arguments in (["--help"], ["shards", "inspect", str(bench)], ["shards", "verify", str(bench)]):
        done = subprocess.run(
            [sys.executable, "-c", run + report, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]", arguments
        assert done.stderr == ""
    done = subprocess.run(
        [sys.executable, "-m", "radar_callback", "shards", "verify", "absent"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("radar-callback: Expected a benchmark's folder")
    assert "Traceback" not in done.stderr
