"""Charts of scores: a run's abilities and their means, and several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from radar_callback.diagnosis import Finding
from radar_callback.reporting.curves import Curve, curves, group_curves, members, overall_curve
from radar_callback.reporting.html.drawing import (
    add_alarm_lines,
    add_breaks,
    add_chance,
    add_curve,
    add_rings,
    framed,
    legend_width,
)
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable, short


def ability_curves(run: Run) -> dict[str, go.Figure]:
    """A figure for each group: its abilities' scores with bands of a standard error, chance, and alarms."""
    lines, alarms = curves(run.records), run.alarms
    widest = max((legend_width(name) for name in lines), default=0)
    figures = {}
    for group, names in members(run.records).items():
        figure = go.Figure()
        for i, name in enumerate(names):
            add_curve(figure, lines[name], readable(name), i, short(name))
            add_rings(figure, lines[name], i, name, alarms)
        add_chance(figure, [lines[name] for name in names])
        add_alarm_lines(figure, [one for one in alarms if _concerns(one, names, lines)])
        add_breaks(figure, run.records)
        figures[group] = framed(figure, "SDS", height=430).update_yaxes(range=_span(lines.values()))
        figures[group].update_layout(meta={"entrywidth": widest})  # see page.js
    return figures


def means(run: Run) -> go.Figure:
    """Groups and everything together."""
    figure = go.Figure()
    add_curve(figure, overall_curve(run.records), "overall", None)
    groups = group_curves(run.records)
    for i, (name, line) in enumerate(groups.items()) if len(groups) > 1 else ():
        add_curve(figure, line, readable(name), i + 1)
    add_breaks(figure, run.records)
    return framed(figure, "SDS", height=320)


def overall_side_by_side(runs: Sequence[Run]) -> go.Figure:
    """The mean over all abilities of every run."""
    figure = go.Figure()
    lines = [overall_curve(run.records) for run in runs]
    for i, (run, line) in enumerate(zip(runs, lines, strict=True)):
        add_curve(figure, line, run.name, i)
    add_chance(figure, lines)
    return framed(figure, "overall SDS", height=320)


def abilities_side_by_side(runs: Sequence[Run]) -> dict[str, go.Figure]:
    """A small figure for each ability with every run in it, all with the same axes."""
    lines = [curves(run.records) for run in runs]
    span = _span(line for one in lines for line in one.values())
    last = max(run.records[-1]["step"] for run in runs)
    figures = {}
    for name in dict.fromkeys(name for one in lines for name in one):
        figure = go.Figure()
        for i, (run, one) in enumerate(zip(runs, lines, strict=True)):
            if name in one:
                add_curve(figure, one[name], run.name, i)
                add_rings(figure, one[name], i, name, run.alarms)
        add_chance(figure, [one[name] for one in lines if name in one])
        figures[name] = framed(figure, "", height=190, legend=False)
        figure.update_layout(margin={"l": 36, "r": 18, "t": 6, "b": 24})
        figure.update_traces(marker={"size": 4}, selector={"mode": "lines+markers"})
        figure.update_xaxes(title=None, range=[-0.04 * last, 1.04 * last] if last else None, nticks=5)
        figure.update_yaxes(title=None, range=span, nticks=5)
    return figures


def _concerns(alarm: Finding, names: Sequence[str], all_names: Iterable[str]) -> bool:
    """Whether an alarm belongs in a figure of some abilities: it is about one of them, or about none in particular."""
    told = {alarm.subject, *alarm.others}
    return bool(told & {*names}) or not told & {*all_names}


def _span(lines: Iterable[Curve]) -> list[float]:
    values = [value for line in lines for value in line.sds if math.isfinite(value)] or [0.0, 1.0]
    return [max(0.0, min(values) - 0.06), min(1.02, max(values) + 0.06)]
