"""The benchmarks run, and measure the same arithmetic in every way; what they find is not a test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.scoring import batches, items, measure

from tests.helpers.families import FAMILIES, TINY

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
KEYS = {
    "family", "vocab", "k", "strategy", "ratio_to_authors", "fraction_of_floor", "max_abs_diff", "peak_mib", "padding_share",
}  # fmt: skip


@pytest.mark.parametrize("name", ["llava", "qwen3_5"])
def test_a_family_is_measured_in_every_way_it_honours(name):
    rows = measure(name, TINY, k=3, n=4, rounds=1, tokens=300)
    ways = {row["strategy"] for row in rows}
    assert ways == {"authors", "reference", "cached"} | ({"packed"} if name == "llava" else set())
    assert [row["strategy"] for row in rows if row["auto"]] == ["packed" if name == "llava" else "cached"]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["max_abs_diff"] < 1e-4 and row["peak_mib"] > 0 and row["ratio_to_authors"] > 0
        assert row["flops_ratio"] > 1.5, "the authors' way repeats what the floor does once"
    assert name in report.markdown([{**row, "vocab": 32_000, "k": 2} for row in rows])


def test_memory_counts_what_lives_at_once_and_no_weights():
    model = torch.nn.Linear(512, 512, bias=False)
    megabyte = torch.zeros(512, 512)

    def run():
        with torch.no_grad():
            x = model(megabyte)  # 1 MiB
            y = x + 1  # and another
            del x
            return y * 2  # in place of the first

    assert peak_mib(model, run) == pytest.approx(2, abs=0.01)


def test_batches_are_the_engines_own():
    model, processor = FAMILIES["llava"]()
    samples = items(model, processor, 6, 3, 32)
    for together in (True, False):
        formed = batches(samples, together, 200)
        assert sorted(id(s) for batch in formed for s in batch) == sorted(map(id, samples)) and len(formed) > 1


@pytest.mark.slow
def test_the_accelerators_part_runs_without_one():
    command = [
        sys.executable,
        "-m",
        "benchmarks.device",
        "--device",
        "cpu",
        "--dry-run",
        "--items",
        "4",
        "--tokens",
        "300",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parents[1], timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {(row["family"], row["strategy"]) for row in rows} >= {
        (model, way) for model in ("llava_onevision_0.5b", "qwen2_vl_2b") for way in ("packed", "reference")
    }


def test_committed_results_hold_what_readers_look_for():
    rows = json.loads((RESULTS / "scoring.json").read_text())
    assert {row["family"] for row in rows} == set(FAMILIES)
    assert {(row["vocab"], row["k"]) for row in rows} == set(report.CELLS)
    assert all(row.keys() >= KEYS and row["max_abs_diff"] < 1e-4 for row in rows)
    assert all(row["ratio_to_authors"] > 1 for row in rows if row["auto"])
