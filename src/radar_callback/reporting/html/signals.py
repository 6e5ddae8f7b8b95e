"""Charts of what else an evaluation measures: asymmetry, what images are worth, fluency, movement of parts, learned items."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from radar_callback.reporting.curves import breaks
from radar_callback.reporting.html.drawing import add_band, add_zero, colour, framed, literal
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable

Point = tuple[int, float, float]
"""Step, value and standard error, which is NaN where there is none."""

_HEIGHT = 300


def asymmetry(runs: Sequence[Run]) -> go.Figure | None:
    """Perception less reasoning over time; None where no run has both."""

    def points(run: Run) -> list[Point]:
        values = zip(run.diagnosis.steps, run.diagnosis.asymmetry.tolist(), strict=True)
        return [(step, value, math.nan) for step, value in values if math.isfinite(value)]

    return _over_time(runs, points, "perception − reasoning (SDS)", zero=True)


def image_gain(runs: Sequence[Run]) -> go.Figure | None:
    """What images are worth over time; None where it was not measured."""

    def points(run: Run) -> list[Point]:
        rows = [(record["step"], record.get("image_gain", {}).get("overall")) for record in run.records]
        return [(step, row["sds"], row.get("se", math.nan)) for step, row in rows if row and "sds" in row]

    return _over_time(runs, points, "SDS with image − without", zero=True)


def fluency(runs: Sequence[Run]) -> go.Figure | None:
    """How probable the words of all candidates are; None where it was not measured."""

    def points(run: Run) -> list[Point]:
        return [(record["step"], record["fluency"], math.nan) for record in run.records if "fluency" in record]

    return _over_time(runs, points, "log-probability a token (nats)")


def moved(run: Run) -> go.Figure | None:
    """How far each part of the model moved between evaluations; None where it was not measured."""
    figure = go.Figure()
    for i, part in enumerate(dict.fromkeys(part for record in run.records for part in record.get("moved", {}))):
        # On a scale of logarithms, there is no place for a part that did not move at all.
        points = [(r["step"], value, math.nan) for r in run.records if (value := r.get("moved", {}).get(part, 0)) > 0]
        _line(figure, points, readable(part), i)
    if not figure.data:
        return None
    return framed(figure, "change of weights, relative", _HEIGHT).update_yaxes(type="log", dtick=1, tickformat=".0e")


def learned(run: Run) -> go.Figure | None:
    """How many items became right and wrong at each evaluation; None where it was not counted."""
    rows = [(record["step"], record.get("change", {}).get("abilities", {})) for record in run.records]
    known = [(step, _total(found, "learned"), _total(found, "forgotten")) for step, found in rows if found]
    if not any(up or down for _, up, down in known):
        return None
    steps, ups, downs = map(list, zip(*known, strict=True))
    figure = go.Figure()
    figure.add_bar(x=steps, y=ups, name="learned", marker={"color": colour(1)})
    figure.add_bar(
        x=steps, y=[-n for n in downs], name="forgotten", marker={"color": colour(4)}, customdata=downs,
        hovertemplate="(%{x}, %{customdata})<extra>forgotten</extra>",
    )  # fmt: skip
    figure.update_layout(barmode="relative", bargap=0.35)
    return framed(figure, "items, since the evaluation before", _HEIGHT)


def _over_time(
    runs: Sequence[Run], points: Callable[[Run], list[Point]], y: str, zero: bool = False
) -> go.Figure | None:
    """A line for each run that has the values."""
    figure = go.Figure()
    for i, run in enumerate(runs):
        _line(figure, _with_gaps(points(run), run), run.name, i)
    if not figure.data:
        return None
    if zero:
        add_zero(figure)
    return framed(figure, y, _HEIGHT, legend=len(runs) > 1)


def _with_gaps(points: Sequence[Point], run: Run) -> list[Point]:
    """The points, with one of no value before the first of other items, as curves have it."""
    found: list[Point] = []
    waiting = [run.records[i]["step"] for i in breaks(run.records)]
    for point in points:
        if waiting and point[0] >= waiting[0]:
            waiting = [step for step in waiting if step > point[0]]
            found += [(point[0], math.nan, 0.0)] if found else []
        found.append(point)
    return found


def _line(figure: go.Figure, points: Sequence[Point], name: str, index: int) -> None:
    if not points:
        return
    steps, values, errors = map(list, zip(*points, strict=True))
    if all(map(math.isfinite, errors)):
        add_band(figure, steps, values, errors, colour(index), str(index))
    figure.add_scatter(
        x=steps, y=[None if math.isnan(y) else y for y in values], name=literal(name),
        legendgroup=str(index), mode="lines+markers", line={"color": colour(index)},
        hovertemplate="%{y:.3g} at step %{x}<extra>%{fullData.name}</extra>",
    )  # fmt: skip


def _total(rows: Mapping[str, Mapping[str, Any]], field: str) -> int:
    return sum(int(row.get(field, 0)) for row in rows.values())
