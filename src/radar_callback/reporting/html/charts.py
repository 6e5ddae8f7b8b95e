"""The report's charts, as plotly figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from radar_callback.reporting.curves import Curve, curves, group_curves, members, overall_curve
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import GRID, INK, MUTED, line_style, readable

_PLOTLY_DASH = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "x",
    "triangle-left",
    "triangle-right",
)


def colour(index: int) -> str:
    """The colour of the line with this number, as in the library's other pictures."""
    return line_style(index).colour


def label(name: str) -> str:
    """A name as people write it, safe within plotly's texts, which understand some HTML."""
    return escape(readable(name))


def ability_curves(run: Run) -> dict[str, go.Figure]:
    """A figure for each group: its abilities' scores with bands of a standard error, chance, and alarms."""
    lines = curves(run.records)
    alarms = [finding for finding in run.diagnosis.findings if finding.is_alarm]
    figures = {}
    for group, names in members(run.records).items():
        figure = go.Figure()
        for i, name in enumerate(names):
            _curve(figure, lines[name], label(name), i)
        _chance(figure, [lines[name] for name in names])
        for alarm in alarms:
            if alarm.subject in names or alarm.subject not in lines:
                figure.add_vline(x=alarm.step, line={"color": "#aa3344", "width": 1.2, "dash": "dot"})
                figure.add_annotation(
                    x=alarm.step, y=1.0, yref="paper", text=label(alarm.kind), textangle=-90, showarrow=False, xanchor="right",
                    yanchor="top", font={"size": 10, "color": "#aa3344"},
                )  # fmt: skip
        figures[group] = _framed(figure, "training step", "SDS", height=430)
    values = [value for line in lines.values() for value in line.sds if math.isfinite(value)] or [0.0, 1.0]
    for figure in figures.values():
        figure.update_yaxes(range=[max(0.0, min(values) - 0.06), min(1.02, max(values) + 0.06)])
    return figures


def means(run: Run) -> go.Figure:
    """Groups and everything together."""
    figure = go.Figure()
    _curve(figure, overall_curve(run.records), "overall", None)
    groups = group_curves(run.records)
    for i, (name, line) in enumerate(groups.items()) if len(groups) > 1 else ():
        _curve(figure, line, label(name), i + 1)
    return _framed(figure, "training step", "SDS", height=320)


def asymmetry(runs: Sequence[Run]) -> go.Figure | None:
    """Perception less reasoning over time; None where no run has both."""
    figure = go.Figure()
    for i, run in enumerate(runs):
        values = [None if math.isnan(value) else value for value in run.diagnosis.asymmetry.tolist()]
        if any(value is not None for value in values):
            figure.add_scatter(
                x=run.diagnosis.steps, y=values, name=label(run.name), mode="lines+markers", line={"color": colour(i)}
            )
    if not figure.data:
        return None
    figure.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dash"})
    return _framed(figure, "training step", "perception − reasoning (SDS)", height=300, legend=len(runs) > 1)


def image_gain(runs: Sequence[Run]) -> go.Figure | None:
    """What images are worth over time; None where it was not measured."""
    figure = go.Figure()
    for i, run in enumerate(runs):
        rows = [(r["step"], (r.get("image_gain") or {}).get("overall")) for r in run.records]
        known = [(step, row["sds"], row["se"] or 0.0) for step, row in rows if row and row["sds"] is not None]
        if known:
            steps, gains, errors = map(list, zip(*known, strict=True))
            _band(figure, steps, gains, errors, colour(i))
            figure.add_scatter(x=steps, y=gains, name=label(run.name), mode="lines+markers", line={"color": colour(i)})
    if not figure.data:
        return None
    figure.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dash"})
    return _framed(figure, "training step", "SDS with image − without", height=300, legend=len(runs) > 1)


def moved(run: Run) -> go.Figure | None:
    """How far each part of the model moved between evaluations; None where it was not measured."""
    parts = dict.fromkeys(part for record in run.records for part in record.get("moved") or {})
    figure = go.Figure()
    for i, part in enumerate(parts):
        points = [(r["step"], value) for r in run.records if (value := (r.get("moved") or {}).get(part))]
        if points:
            figure.add_scatter(
                x=[step for step, _ in points], y=[value for _, value in points], name=label(part), mode="lines+markers",
                line={"color": colour(i)},
            )  # fmt: skip
    if not figure.data:
        return None
    return _framed(figure, "training step", "change of weights, relative", height=300).update_yaxes(type="log")


def radar(
    traces: Iterable[tuple[str, Mapping[str, float], bool]], abilities: Sequence[str], chance: Sequence[float]
) -> go.Figure:
    """A radar chart.

    Args:
        traces: Name, score by ability, and whether to show it at first.
        abilities: In the order of the spokes.
        chance: Of each.
    """
    around = [label(name) for name in [*abilities, abilities[0]]]
    figure = go.Figure()
    figure.add_scatterpolar(
        r=[*chance, chance[0]],
        theta=around,
        name="chance",
        mode="lines",
        line={"color": MUTED, "dash": "dash", "width": 1.2},
    )
    for i, (name, scores, shown) in enumerate(traces):
        values = [scores.get(ability) for ability in abilities]
        figure.add_scatterpolar(
            r=[*values, values[0]], theta=around, name=escape(name), mode="lines+markers", fill="toself", opacity=0.75,
            line={"color": colour(i)}, visible=True if shown else "legendonly",
        )  # fmt: skip
    figure.update_layout(
        height=560,
        polar={
            "radialaxis": {"range": [0, 1], "gridcolor": GRID, "tickfont": {"size": 10, "color": MUTED}, "angle": 90},
            "angularaxis": {"gridcolor": GRID, "tickfont": {"size": 11}, "direction": "clockwise"},
            "bgcolor": "white",
        },
        legend={"orientation": "h", "y": -0.12},
        margin={"l": 70, "r": 70, "t": 40, "b": 40},
        font={"family": _FONT, "color": INK},
        paper_bgcolor="white",
    )
    return figure


def side_by_side(runs: Sequence[Run]) -> dict[str, go.Figure]:
    """A small figure for each ability with every run in it; `overall` first."""
    lines = [{"overall": overall_curve(run.records), **curves(run.records)} for run in runs]
    names = dict.fromkeys(name for one in lines for name in one)
    top = max(
        (value for one in lines for line in one.values() for value in line.sds if math.isfinite(value)), default=1.0
    )
    figures = {}
    for name in names:
        figure = go.Figure()
        for i, (run, one) in enumerate(zip(runs, lines, strict=True)):
            if name in one:
                _curve(figure, one[name], label(run.name), i)
        _chance(figure, [one[name] for one in lines if name in one])
        small = _framed(figure, "", "", height=230, legend=name == "overall")
        small.update_layout(
            title={"text": label(name), "font": {"size": 13}, "x": 0.02, "y": 0.97},
            margin={"l": 36, "r": 8, "t": 34, "b": 26},
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.25},
        )
        figures[name] = small.update_yaxes(range=[0, min(1.02, top + 0.05)])
    return figures


_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _curve(figure: go.Figure, line: Curve, name: str, index: int | None) -> None:
    tone = INK if index is None else colour(index)
    n = 0 if index is None else index
    errors = [0.0 if math.isnan(se) else se for se in line.se]
    _band(figure, line.steps, line.sds, errors, tone, name)
    figure.add_scatter(
        x=line.steps, y=[None if math.isnan(value) else value for value in line.sds], name=name, legendgroup=name,
        mode="lines+markers", line={"color": tone, "width": 2, "dash": _PLOTLY_DASH[n // 9 % 4]},
        marker={"symbol": _SYMBOLS[n % 9], "size": 6},
        customdata=errors, hovertemplate="%{y:.3f} ± %{customdata:.3f} at step %{x}<extra>" + name + "</extra>",
    )  # fmt: skip


def _band(
    figure: go.Figure, x: Sequence[int], y: Sequence[float], errors: Sequence[float], tone: str, group: str = ""
) -> None:
    known = [(a, b, e) for a, b, e in zip(x, y, errors, strict=True) if not math.isnan(b)]
    if len(known) < 2:
        return
    there = [a for a, _, _ in known]
    figure.add_scatter(
        x=[*there, *there[::-1]],
        y=[*(b + e for _, b, e in known), *(b - e for _, b, e in known[::-1])],
        fill="toself", mode="none", fillcolor=_pale(tone), hoverinfo="skip", showlegend=False, legendgroup=group or None,
    )  # fmt: skip


def _pale(tone: str) -> str:
    red, green, blue = (int(tone[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _chance(figure: go.Figure, lines: Sequence[Curve]) -> None:
    levels = {round(line.chance[-1], 2) for line in lines if line.chance and math.isfinite(line.chance[-1])}
    for level in sorted(levels):
        figure.add_hline(y=level, line={"color": MUTED, "width": 1, "dash": "dash"})


def _framed(figure: go.Figure, x: str, y: str, height: int, legend: bool = True) -> go.Figure:
    figure.update_layout(
        height=height,
        showlegend=legend,
        font={"family": _FONT, "size": 12, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 52, "r": 12, "t": 16, "b": 44},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top"},
        hovermode="closest",
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "tickfont": {"color": MUTED}}
    figure.update_xaxes(title={"text": x, "font": {"size": 11, "color": MUTED}}, showgrid=False, showline=True, **axis)
    figure.update_yaxes(title={"text": y, "font": {"size": 11, "color": MUTED}}, **axis)
    return figure
