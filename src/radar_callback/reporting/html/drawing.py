"""What all of the report's charts are drawn with: lines, bands, marks of alarms, and the frame around them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from radar_callback.diagnosis import Finding
from radar_callback.reporting.curves import Curve, breaks
from radar_callback.reporting.style import GRID, INK, MUTED, line_style, readable, short, text_width

ALARM = "#aa3344"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_SIZE = 12
"""Of letters, in pixels."""

_DASHES = ("solid", "dash", "dot", "dashdot")
# Those of `reporting.style`, in its order.
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


def literal(name: str) -> str:
    """A name as it stands, within plotly's texts: these understand some HTML, and fill in fields of the form `%{x}`."""
    return escape(name).replace("%{", "%&#123;")


def legend_width(name: str) -> int:
    """Pixels that a name takes in a legend."""
    return round(96 * text_width(short(name), 0.75 * _SIZE))


def add_curve(figure: go.Figure, line: Curve, name: str, index: int | None, shown: str = "") -> None:
    """Draws a curve with a band of one standard error.

    Args:
        figure: To draw on.
        line: The curve.
        name: Of what it is.
        index: Number of its style; None for the ink of everything together.
        shown: The name in the legend, where that is another.
    """
    tone, n = (INK, 0) if index is None else (colour(index), index)
    errors = [0.0 if math.isnan(se) else se for se in line.se]
    add_band(figure, line.steps, line.sds, errors, tone, str(index))
    figure.add_scatter(
        x=line.steps, y=[None if math.isnan(value) else value for value in line.sds], name=literal(shown or name),
        legendgroup=str(index), mode="lines+markers", line={"color": tone, "width": 2, "dash": _DASHES[n // 9 % 4]},
        marker={"symbol": _SYMBOLS[n % 9], "size": 6}, customdata=errors,
        # The name by reference: within the template, plotly would fill in what looks like a field.
        meta=literal(name), hovertemplate="%{y:.3f} ± %{customdata:.3f} at step %{x}<extra>%{meta}</extra>",
    )  # fmt: skip


def add_band(
    figure: go.Figure, x: Sequence[int], y: Sequence[float], errors: Sequence[float], tone: str, group: str = ""
) -> None:
    """Shades one standard error around a line, in pieces where it is: a point of the same step as the next is a gap."""
    pieces: list[list[tuple[int, float, float]]] = [[]]
    for i, (a, b, e) in enumerate(zip(x, y, errors, strict=True)):
        if not math.isnan(b):
            pieces[-1].append((a, b, e))
        elif i + 1 < len(x) and x[i + 1] == a:
            pieces.append([])
    for known in (piece for piece in pieces if len(piece) > 1):
        there = [a for a, _, _ in known]
        figure.add_scatter(
            x=[*there, *there[::-1]],
            y=[*(b + e for _, b, e in known), *(b - e for _, b, e in known[::-1])],
            fill="toself", mode="none", fillcolor=pale(tone), hoverinfo="skip", showlegend=False, legendgroup=group or None,
        )  # fmt: skip


def add_breaks(figure: go.Figure, records: Sequence[Mapping[str, Any]]) -> None:
    """Draws a line between evaluations that asked for different items, and says so."""
    for i in breaks(records):
        figure.add_vline(
            x=(records[i - 1]["step"] + records[i]["step"]) / 2,
            line={"color": MUTED, "width": 1, "dash": "dot"},
            annotation={
                "text": "other items", "textangle": -90, "xanchor": "right", "yanchor": "top",
                "font": {"size": 10, "color": MUTED},
            },
        )  # fmt: skip


def add_chance(figure: go.Figure, lines: Sequence[Curve]) -> None:
    """Draws what guessing gives, once for each level."""
    levels = {round(line.chance[-1], 2) for line in lines if line.chance and math.isfinite(line.chance[-1])}
    for level in sorted(levels):
        figure.add_hline(y=level, line={"color": MUTED, "width": 1, "dash": "dash"})


def add_zero(figure: go.Figure) -> None:
    """Draws the line where a difference is none."""
    figure.add_hline(y=0, line={"color": MUTED, "width": 1, "dash": "dash"})


def add_rings(figure: go.Figure, line: Curve, index: int, ability: str, alarms: Sequence[Finding]) -> None:
    """Rings the points of the curve with this index at which an alarm named its ability; it is told on hovering."""
    at = dict(zip(line.steps, line.sds, strict=True))
    mine = [
        one for one in alarms if ability in (one.subject, *one.others) and not math.isnan(at.get(one.step, math.nan))
    ]
    if mine:
        figure.add_scatter(
            x=[one.step for one in mine], y=[at[one.step] for one in mine], mode="markers", name="alarm",
            legendgroup=str(index), showlegend=False,
            marker={"symbol": "circle-open", "size": 14, "color": ALARM, "line": {"width": 2}},
            hovertext=["<br>".join(map(literal, textwrap.wrap(one.message, 60))) for one in mine], hoverinfo="text",
        )  # fmt: skip


def add_alarm_lines(figure: go.Figure, alarms: Sequence[Finding]) -> None:
    """A line at each step with an alarm, and what it was."""
    for step in dict.fromkeys(one.step for one in alarms):
        kinds = ", ".join(dict.fromkeys(literal(readable(one.kind)) for one in alarms if one.step == step))
        figure.add_vline(x=step, line={"color": ALARM, "width": 1.2, "dash": "dot"})
        figure.add_annotation(
            x=step, y=1.0, yref="paper", text=kinds, textangle=-90, showarrow=False, xanchor="right", yanchor="top",
            font={"size": 10, "color": ALARM},
        )  # fmt: skip


def pale(tone: str, opacity: float = 0.13) -> str:
    """A colour to fill areas with."""
    red, green, blue = (int(tone[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def framed(figure: go.Figure, y: str, height: int, legend: bool = True) -> go.Figure:
    """Axes, legend and margins of a chart over training steps.

    Args:
        figure: With its lines.
        y: Title of the vertical axis.
        height: In pixels; the width is that of the page.
        legend: Whether to say which line is which.
    """
    figure.update_layout(
        height=height,
        showlegend=legend,
        font={"family": FONT, "size": _SIZE, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 52, "r": 12, "t": 16, "b": 40},
        # In the whole chart's foot: below the axis, it would cover the axis' title where it has many rows.
        legend={"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
        hovermode="closest",
    )
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "tickfont": {"color": MUTED}}
    small = {"size": 11, "color": MUTED}
    figure.update_xaxes(
        title={"text": "training step", "font": small, "standoff": 6}, showgrid=False, showline=True, **axis
    )
    figure.update_xaxes(tickformat=",", automargin=True)
    figure.update_yaxes(title={"text": y, "font": small}, **axis)
    return figure
