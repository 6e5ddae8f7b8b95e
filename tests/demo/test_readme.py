"""What README says of the demo is what the run gave whose picture it shows (its history is kept with the benchmarks' results)."""

import gzip
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records():
    packed = ROOT / "benchmarks" / "results" / "demo_history.jsonl.gz"
    return [json.loads(line) for line in gzip.decompress(packed.read_bytes()).splitlines()]


def test_abilities_rise_from_learning_and_reasoning_does_not(records):
    first, last = (record["abilities"] for record in (records[0], records[-1]))
    risen = [name for name, row in last.items() if row["sds"] > 0.8]
    still = [
        n for n, r in last.items() if r["group"] == "reasoning" and abs(r["sds"] - r["chance"]) < 2 * r["se"] + 0.02
    ]
    assert len(risen) >= 4 and len(still) >= 2
    assert all(abs(first[name]["sds"] - first[name]["chance"]) < 0.06 for name in risen), "they began at chance"
    assert {record["share"] for record in records} == {1.0}, "every point of the same items"


def test_times_are_the_runs(records):
    said = (ROOT / "README.md").read_text()
    (quoted,) = re.findall(
        r"(\d+) evaluations of ([\d,]+) items, the first ([\d.]+) s \(.*?\), each later one ([\d.]+) s; (\d+)%",
        said.replace("\n", " "),
    )
    seconds = [record["seconds"] for record in records]
    wall = records[-1]["time"] - (records[0]["time"] - seconds[0])
    later = sum(seconds[1:]) / (len(seconds) - 1)
    found = (
        f"{len(records)}",
        f"{records[-1]['samples']:,}",
        f"{seconds[0]:.1f}",
        f"{later:.1f}",
        f"{100 * sum(seconds) / wall:.0f}",
    )
    assert quoted == found
