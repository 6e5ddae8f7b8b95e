"""Where a run goes on with other items: how its lines end, in loggers that draw one line through all values of a key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from radar_callback.diagnosis.series import same_items
from radar_callback.reporting.curves import number, of_benchmark
from radar_callback.result import labelled

Record = Mapping[str, Any]

_NOT_PAIRED = ("radar/fluency", "radar/image_gain")


def closing_metrics(records: Sequence[Record], label: str = "") -> dict[str, float]:
    """What to log at the step of the latest evaluation before its own values, if it asked for other items than the one before.

    The items that both have in common say how far each score has moved since. The line of the earlier items is led on by that to
    this step, and the line of the new ones begins at the same step: between steps, no line joins scores of different items.

    Args:
        records: A history up to and including the evaluation.
        label: As for the evaluation's own keys.

    Returns:
        Values by key, NaN where nothing is known; empty if the items are the same.

    Example:
        >>> row = {"group": "perception", "sds": 0.31, "accuracy": 0.25}
        >>> before = {"step": 0, "benchmark": "b", "subset": "few", "abilities": {"colour": row}, "groups": {}, "overall": row}
        >>> change = {"since": 0, "abilities": {"colour": {"sds": 0.02, "count": 16, "learned": 2, "forgotten": 1}}}
        >>> after = {**before, "step": 20, "subset": "more", "change": change}
        >>> {key: round(value, 3) for key, value in closing_metrics([before, after]).items() if "sds/" in key}
        {'radar/sds/colour': 0.33, 'radar/sds/overall': 0.33}
    """
    if not records:
        return {}
    now = records[-1]
    earlier = [record for record in of_benchmark(records, now["benchmark"]) if record["step"] < now["step"]]
    if not earlier or same_items(earlier[-1], now):
        return {}
    before = earlier[-1]
    change = now.get("change") or {}
    moved = change.get("abilities", {}) if change.get("since") == before["step"] else {}
    values: dict[str, float] = {}
    by_group: dict[str, list[float]] = {}
    for name, row in before["abilities"].items():
        by = moved.get(name, {})
        values[f"radar/sds/{name}"] = sds = number(row["sds"]) + number(by.get("sds"))
        learned = number(by.get("learned")) - number(by.get("forgotten"))
        values[f"radar/accuracy/{name}"] = number(row["accuracy"]) + learned / max(1.0, number(by.get("count")))
        values[f"radar/sds_logprob/{name}"] = math.nan
        for group in (row.get("group", ""), "overall"):
            by_group.setdefault(group, []).append(sds)
    for group in (*before["groups"], "overall"):
        scored = [sds for sds in by_group.get(group, []) if not math.isnan(sds)]
        values[f"radar/sds/{group}"] = sum(scored) / len(scored) if scored else math.nan
    if {"radar/sds/perception", "radar/sds/reasoning"} <= values.keys():
        values["radar/asymmetry"] = values["radar/sds/perception"] - values["radar/sds/reasoning"]
    values |= dict.fromkeys(_NOT_PAIRED, math.nan)
    return {labelled(key, label): value for key, value in values.items()}
