"""The report's tables of abilities and of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from radar_callback.diagnosis import Emergence
from radar_callback.reporting.html.drawing import colour
from radar_callback.reporting.html.markup import Markup, percent, signed, table, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable

RECENT = 6
"""Evaluations in the table of changes: as many as a page is wide."""


def emergence(run: Run) -> Markup:
    """When each ability emerged and how it stands."""
    gains = run.records[-1].get("image_gain", {})
    unit = _unit(run)
    rows = [
        [
            readable(one.name),
            readable(one.group),
            _with_interval(one.onset, one.onset_low, one.onset_high),
            _with_interval(one.rank, one.rank_low, one.rank_high),
            one.half_rise,
            one.level,
            percent(one.progress),
            _with_error(one.slope * unit / 1000, one.slope_se * unit / 1000),
            "plateau" if one.plateau else "rising" if one.slope > 2 * one.slope_se else "",
            _with_error(gains.get(one.name, {}).get("sds"), gains.get(one.name, {}).get("se")),
        ]
        for one in run.diagnosis.emergence
    ]
    heads = ["ability", "group", "onset", "order", "half-rise", "level", "progress", f"slope a {unit:,} steps", "trend"]
    return table([*heads, "image gain"], rows) if gains else table(heads, [row[:-1] for row in rows])


def changes(run: Run) -> Markup:
    """How many items were learned and forgotten, by ability, over the latest evaluations."""
    recent = [record for record in run.records if record.get("change", {}).get("abilities")][-RECENT:]
    if not recent:
        return Markup("")
    heads = ["ability", *(f"{r['change']['since']:,} → {r['step']:,}" for r in recent)]
    rows = [[readable(name), *(_change(r["change"]["abilities"].get(name)) for r in recent)] for name in run.abilities]
    return table(heads, rows)


def at_a_glance(runs: Sequence[Run]) -> Markup:
    """A row for each run."""
    groups = list(dict.fromkeys(group for run in runs for group in run.records[-1]["groups"]))
    heads = [
        "run",
        "evaluations",
        "last step",
        "overall",
        *map(readable, groups),
        "emerged",
        "furthest behind",
        "alarms",
    ]
    rows = []
    for i, run in enumerate(runs):
        last, found = run.records[-1], run.diagnosis
        emerged = sum(one.onset is not None for one in found.emergence)
        rows.append(
            [
                Markup(f'<span class="swatch" style="background:{colour(i)}"></span>{text(run.name)}'),
                len(run.records),
                last["step"],
                last["overall"].get("sds"),
                *(last["groups"].get(group, {}).get("sds") for group in groups),
                f"{emerged} of {len(found.emergence)}",
                readable(found.bottleneck.name) if found.bottleneck else None,
                len(run.alarms),
            ]
        )
    return table(heads, rows)


def comparison(runs: Sequence[Run]) -> Markup:
    """Onset and final score of each ability in each run."""
    found = [{one.name: one for one in run.diagnosis.emergence} for run in runs]
    heads = ["ability", *(f"onset: {run.name}" for run in runs), *(f"level: {run.name}" for run in runs)]
    rows = [
        [
            readable(name),
            *(_onset(one.get(name)) for one in found),
            *(run.records[-1]["abilities"].get(name, {}).get("sds") for run in runs),
        ]
        for name in dict.fromkeys(name for run in runs for name in run.abilities)
    ]
    return table(heads, rows)


def _unit(run: Run) -> int:
    """Steps, in a power of ten, over which a slope of this run has digits to show."""
    span = run.records[-1]["step"] - run.records[0]["step"]
    return 10 ** max(1, len(str(span)) - 1)


def _onset(one: Emergence | None) -> Markup:
    return Markup("–") if one is None else _with_interval(one.onset, one.onset_low, one.onset_high)


def _with_interval(value: int | None, low: int | None, high: int | None) -> Markup:
    if value is None:
        return Markup("–")
    if low == high == value:
        return text(value)
    return Markup(
        f'{text(value)} <span class="interval">{text(low)} – {text(high) if high is not None else "?"}</span>'
    )


def _with_error(value: float | None, error: float | None) -> Markup:
    if value is None or math.isnan(value):
        return Markup("–")
    return Markup(f"{signed(value)} ± {text(error)}")


def _change(row: Mapping[str, Any] | None) -> Markup:
    if not row or "sds" not in row:
        return Markup("–")
    sds, se = row["sds"], row.get("se")
    sure = se is not None and abs(sds) > 3 * se and abs(sds) >= 0.02
    counts = f'<span class="interval">+{text(row.get("learned", 0))} −{text(row.get("forgotten", 0))}</span>'
    return Markup(
        f"<strong>{signed(sds)}</strong> {counts}" if sure else f'<span class="faint">{signed(sds)}</span> {counts}'
    )
