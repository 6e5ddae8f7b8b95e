"""`python -m benchmarks.diagnosis`: how soon and how rightly faults are found in the runs that `.runs` has made, and how often
something is found where nothing is.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.diagnosis.faults import FAULTS, Fault
from benchmarks.diagnosis.runs import PLANTED, RUNS, slug
from benchmarks.diagnosis.simulate import emerging, healthy_runs, measured
from radar_callback.diagnosis import alarms_of
from radar_callback.diagnosis.alarms import ERROR, EVALUATIONS
from radar_callback.diagnosis.detector import falls, movements, restlessness, threshold
from radar_callback.diagnosis.emergence import ABOVE, emerged
from radar_callback.diagnosis.findings import Finding

Record = Mapping[str, Any]
RESULT = RUNS.parent / "diagnosis.json"

TUNED_ON, HELD_OUT = (1, 2), 3
"""Seeds of the runs that faults were planted in. The detector was settled with the first two at hand; the third came later."""

LOSS_JITTER = 0.002
"""What a healthy run's held-out loss moves up by in any case, in nats: the smallest tried, and no healthy run has an alarm."""


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a packed file."""
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def loss_alarms(losses: Sequence[Record], jitter: float = LOSS_JITTER) -> list[int]:
    """Steps at which the held-out loss alone gives an alarm: the same test as for an ability, on the same pairs' losses."""
    each = np.array([record["losses"] for record in losses])
    moved = np.diff(each, axis=0)
    se = np.concatenate([[np.nan], moved.std(axis=1, ddof=1) / np.sqrt(each.shape[1])])
    level = -each.mean(axis=1)
    restless = restlessness(level[None], np.ones((1, len(level)), dtype=bool), jitter)
    at = np.flatnonzero(falls(movements(level, se, restless)) >= threshold(1, EVALUATIONS, ERROR))
    return [losses[t]["step"] for t in at]


def names(finding: Finding) -> set[str]:
    """What a finding names: an ability, a part, a cause."""
    return {finding.subject, str(finding.cause)}


def of_fault(runs: Path, fault: Fault, base: int) -> dict[str, Any] | None:
    """How one fault was found."""
    folder = runs / f"base-{base}-{slug(fault.name)}"
    if not (folder / "history.jsonl.gz").exists():
        return None
    records = read(folder / "history.jsonl.gz")
    steps = [record["step"] for record in records if record["step"] > PLANTED]
    alarms = [alarm for alarm in alarms_of(records) if alarm.step > PLANTED]
    losses = [step for step in loss_alarms(_joined(runs, folder, base)) if step > PLANTED]
    return {
        "name": fault.name,
        "base": base,
        "flagged_after": steps.index(alarms[0].step) + 1 if alarms else None,
        "named_right": bool(alarms) and bool(names(alarms[0]) & fault.right),
        "loss_flagged_after": steps.index(losses[0]) + 1 if losses else None,
        "said": alarms[0].message if alarms else "",
    }


def _joined(runs: Path, folder: Path, base: int) -> list[dict[str, Any]]:
    """The held-out losses of the run up to the fault and behind it."""
    before = [line for line in read(runs / f"base-{base}" / "held_out.jsonl.gz") if line["step"] <= PLANTED]
    return before + [line for line in read(folder / "held_out.jsonl.gz") if line["step"] > PLANTED]


def main() -> None:
    """Reads the runs, simulates more, writes and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--simulated", type=int, default=2000)
    options = parser.parse_args()
    faults, seen = (
        [row for base in bases for fault in FAULTS if (row := of_fault(options.runs, fault, base))]
        for bases in ((HELD_OUT,), TUNED_ON)
    )
    bases = [base for base in (HELD_OUT, *TUNED_ON) if (options.runs / f"base-{base}").exists()]
    healthy = sorted(options.runs.glob("healthy-*"), key=lambda p: int(p.name.split("-")[1]))
    histories = [read(path / "history.jsonl.gz") for path in [*healthy, *(options.runs / f"base-{b}" for b in bases)]]
    wrong = [records for records in histories if alarms_of(records)]
    loss_wrong = [path.name for path in healthy if loss_alarms(read(path / "held_out.jsonl.gz"))]
    parts = [measured(records) for records in histories]
    alarmed = sum(bool(alarms_of(run)) for run in healthy_runs(parts, options.simulated, 21, seed=1))
    long = options.simulated // 10
    alarmed_long = sum(bool(alarms_of(run)) for run in healthy_runs(parts, long, EVALUATIONS, seed=2))
    onsets = [(emerged(one), truth) for one, truth in emerging(parts, options.simulated, 3, ABOVE)]
    within = [
        found is None if truth is None else found is not None and abs(found - truth) <= 1 for found, truth in onsets
    ]
    result = {
        "faults": faults,
        "faults_tuned_on": seen,
        "healthy_runs": len(histories),
        "false_alarms": len(wrong),
        "loss_false_alarms": len(loss_wrong),
        "simulated_runs": options.simulated,
        "simulated_false_alarms": alarmed,
        "simulated_long_runs": long,
        "simulated_long_false_alarms": alarmed_long,
        "onset_within_one": float(np.mean(within)),
        "simulated_curves": len(onsets),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(report(result))


def report(result: Mapping[str, Any]) -> str:
    """The study's table, as the field guide has it: each fault in the run that nothing was settled with, then in the others."""
    lines = [
        "| Fault | flagged after | named right | by the loss alone | what it said | in the runs it was settled with |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["faults"]:
        told = [
            row["flagged_after"] or "never",
            "yes" if row["named_right"] else "no",
            row["loss_flagged_after"] or "never",
            row["said"].partition(". Usual")[0] or "–",
            ", ".join(_short(other) for other in result["faults_tuned_on"] if other["name"] == row["name"]),
        ]
        lines.append(f"| {row['name']} | {' | '.join(map(str, told))} |")
    soon = sum((row["flagged_after"] or 99) <= 3 for row in result["faults"])
    right = sum(row["named_right"] for row in result["faults"])
    lines += [
        "",
        f"{soon} of {len(result['faults'])} flagged within 3 evaluations, {right} named right. "
        f"{result['false_alarms']} of {result['healthy_runs']} healthy runs with a false alarm; simulated from their noise: "
        f"{result['simulated_false_alarms']} of {result['simulated_runs']} runs of 21 evaluations, "
        f"{result['simulated_long_false_alarms']} of {result['simulated_long_runs']} of 100. "
        f"Onset within one evaluation of the truth in {100 * result['onset_within_one']:.1f}% of "
        f"{result['simulated_curves']} simulated curves.",
    ]
    return "\n".join(lines)


def _short(row: Mapping[str, Any]) -> str:
    after = row["flagged_after"]
    return "never" if after is None else f"{after}{'' if row['named_right'] else ' (named wrong)'}"


if __name__ == "__main__":
    main()
