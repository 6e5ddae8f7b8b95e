"""Pictures of a history and of one evaluation, as plain `matplotlib.figure.Figure` objects.

Never through pyplot: its global state belongs to the user, and it is not safe outside the main thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from radar_callback.reporting.curves import Curve, breaks, curves, group_curves, members, of_benchmark, overall_curve
from radar_callback.reporting.labels import declutter
from radar_callback.reporting.style import (
    GRID,
    INK,
    MUTED,
    LineStyle,
    group_style,
    line_style,
    literal_text,
    readable,
    short,
    text_width,
)

Record = Mapping[str, Any]

_LABEL_SIZE = 9.5
_BESIDE = 0.15  # inches between a panel and the names beside it
_OVERALL = LineStyle(INK, "o", "-")


def curves_figure(records: Sequence[Record], title: str | None = None, benchmark: str | None = None) -> Figure:
    """The curves of a run: a panel for each group of abilities, below them the means and the asymmetry.

    Bands are one standard error; dashed lines are what guessing gives.

    Args:
        records: A history.
        title: Shown on top; by default the benchmark's name.
        benchmark: Which benchmark's points; by default the one that was evaluated last.

    Raises:
        ValueError: If there is no point to draw.
    """
    chosen = of_benchmark(records, benchmark)
    if not chosen:
        raise ValueError("Expected at least one evaluation to draw curves of, but the history has none.")
    groups, lines, tree = group_curves(chosen), curves(chosen), members(chosen)
    asymmetric = {"perception", "reasoning"} <= groups.keys()
    page = _Page(panels=len(tree), halves=asymmetric, labels=[*lines, *groups])
    page.heading(
        title or f"Soft Discrimination Score on {chosen[-1]['benchmark']}",
        "dashed: what guessing gives  ·  band: one standard error  ·  number: last score"
        + ("  ·  gap with dots: other items from here on" if breaks(chosen) else ""),
    )

    limits = _limits(lines.values())
    for i, (group, names) in enumerate(tree.items()):
        axes = page.panel(i)
        _frame(axes, chosen, limits, "abilities" if [group] == ["all"] == list(tree) else readable(group))
        _lines(axes, {name: lines[name] for name in names})

    means = {"overall": overall_curve(chosen), **(groups if len(groups) > 1 else {})}
    summary = page.summary(0)
    _frame(summary, chosen, _limits(means.values()), "mean over abilities")
    _lines(summary, means, [_OVERALL, *(group_style(i) for i in range(len(means) - 1))])
    if asymmetric:
        _asymmetry(page.summary(1), chosen, groups["perception"], groups["reasoning"])
    return literal_text(page.figure)


class _Page:
    """The sheet of `curves_figure`, laid out in inches so that labels get the room they need at any number of panels."""

    WIDTH, LEFT, TOP, PANEL, SUMMARY, GAP = 13.2, 0.5, 1.05, 4.1, 1.7, 0.85

    def __init__(self, panels: int, halves: bool, labels: Sequence[str]) -> None:
        self.columns = min(panels, 2)
        self.halves = 2 if halves else 1
        self.rows = math.ceil(panels / self.columns)
        widest = max(text_width(_end_label(0.0, label), _LABEL_SIZE) for label in [*labels, "overall"])
        self.label_room = _BESIDE + widest + 0.1
        self.height = self.TOP + self.rows * (self.PANEL + self.GAP) + self.SUMMARY + 0.5
        self.figure = Figure(figsize=(self.WIDTH, self.height), facecolor="white")

    def heading(self, title: str, subtitle: str) -> None:
        for text, below, size, colour, weight in [
            (title, 0.12, 15, INK, "bold"),
            (subtitle, 0.43, 9.5, MUTED, "normal"),
        ]:
            self.figure.text(
                self.LEFT / self.WIDTH,
                1 - below / self.height,
                text,
                va="top",
                fontsize=size,
                color=colour,
                weight=weight,
            )

    def panel(self, index: int) -> Axes:
        row, column = divmod(index, self.columns)
        return self._axes(self.columns, column, self.TOP + row * (self.PANEL + self.GAP), self.PANEL)

    def summary(self, column: int) -> Axes:
        return self._axes(self.halves, column, self.TOP + self.rows * (self.PANEL + self.GAP), self.SUMMARY)

    def _axes(self, columns: int, column: int, top: float, height: float) -> Axes:
        cell = self.WIDTH / columns
        width = cell - self.LEFT - self.label_room
        return self.figure.add_axes(
            (
                (column * cell + self.LEFT) / self.WIDTH,
                1 - (top + height) / self.height,
                width / self.WIDTH,
                height / self.height,
            )
        )


def _limits(lines: Iterable[Curve]) -> tuple[float, float]:
    """The same range of scores for all panels, so that heights compare: what is there, chance included."""
    values: list[float] = []
    for line in lines:
        for sds, se, chance in zip(line.sds, line.se, line.chance, strict=True):
            values += [sds - _or_zero(se), sds + _or_zero(se), chance]
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    spare = max(0.04, 0.15 - (max(finite) - min(finite)) / 2)
    return max(min(finite) - spare, -0.02), min(max(finite) + spare, 1.02)


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _frame(axes: Axes, records: Sequence[Record], limits: tuple[float, float], title: str) -> None:
    steps = [record["step"] for record in records]
    first, last = min(steps), max(steps)
    pad = 0.02 * (last - first) or 1.0
    axes.set_xlim(first - pad, last + pad)
    axes.set_ylim(*limits)
    axes.set_title(title, loc="left", fontsize=11.5, color=INK, fontweight="bold")
    axes.set_xlabel("training step", fontsize=9, color=MUTED, loc="right", labelpad=1)
    axes.set_facecolor("white")
    for i in breaks(records):
        axes.axvline((steps[i - 1] + steps[i]) / 2, color=MUTED, linewidth=1.0, linestyle=":", zorder=1)
    axes.grid(True, color=GRID, linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=MUTED, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True) if last > first else FixedLocator([first]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)


def _lines(axes: Axes, lines: Mapping[str, Curve], styles: Sequence[LineStyle] | None = None) -> None:
    styles = styles or [line_style(i) for i in range(len(lines))]
    _chance(axes, list(lines.values()), styles)
    for line, style in zip(lines.values(), styles, strict=True):
        _line(axes, line, style)
    _end_labels(axes, lines, styles)


def _line(axes: Axes, line: Curve, style: LineStyle) -> None:
    lone = len(line.steps) == 1
    whole = all(map(math.isfinite, line.sds))  # a score between two gaps is drawn by its marker alone
    axes.plot(
        line.steps, line.sds, color=style.colour, linestyle=style.dashes, linewidth=1.8,
        marker=style.marker, markersize=6 if lone else 4, markevery=max(1, len(line.steps) // 20) if whole else 1, zorder=3,
    )  # fmt: skip
    low = [sds - se for sds, se in zip(line.sds, line.se, strict=True)]
    high = [sds + se for sds, se in zip(line.sds, line.se, strict=True)]
    if lone:
        axes.vlines(line.steps, low, high, color=style.colour, linewidth=1.2, zorder=2)
    else:
        axes.fill_between(line.steps, low, high, color=style.colour, alpha=0.13, linewidth=0, zorder=2)


def _chance(axes: Axes, lines: Sequence[Curve], styles: Sequence[LineStyle]) -> None:
    """A dashed line for each level of chance: grey where several abilities share it, else in its ability's colour."""
    owners: dict[float, list[LineStyle]] = {}
    for line, style in zip(lines, styles, strict=True):
        known = [value for value in line.chance if math.isfinite(value)]
        if known:
            owners.setdefault(round(known[-1], 2), []).append(style)
    for level, sharing in owners.items():
        colour = sharing[0].colour if len(sharing) == 1 and len(owners) > 1 else MUTED
        axes.axhline(level, color=colour, linewidth=1.0, linestyle=(0, (4, 4)), alpha=0.8, zorder=1)


def _end_labels(axes: Axes, lines: Mapping[str, Curve], styles: Sequence[LineStyle]) -> None:
    """Names right of the lines, at the height of each one's last score, pushed apart where they would overlap."""
    ends = []
    for (name, line), style in zip(lines.items(), styles, strict=True):
        scored = [i for i, sds in enumerate(line.sds) if math.isfinite(sds)]
        if scored:
            ends.append((name, style, line.steps[scored[-1]], line.sds[scored[-1]]))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    low, high = axes.get_ylim()
    height = axes.get_position().height * figure.get_figheight() * 72
    gap = (high - low) * _LABEL_SIZE * 1.28 / height
    places = declutter([sds for *_, sds in ends], gap, low + gap / 2, high - gap / 2)
    for (name, style, step, sds), y in zip(ends, places, strict=True):
        axes.annotate(
            _end_label(sds, name),
            xy=(step, sds), xytext=(_beside(axes), y), textcoords=("axes fraction", "data"), annotation_clip=False,
            fontsize=_LABEL_SIZE, color=style.colour, va="center", ha="left",
            arrowprops={
                "arrowstyle": "-", "color": style.colour, "linewidth": 0.7, "alpha": 0.6,
                "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3,
            },
        )  # fmt: skip


def _end_label(sds: float, name: str) -> str:
    return f"{sds:.2f}  {short(name)}"


def _beside(axes: Axes) -> float:
    """Just right of the axes, in fractions of their width."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return 1 + _BESIDE / (axes.get_position().width * figure.get_figwidth())


def _asymmetry(axes: Axes, records: Sequence[Record], perception: Curve, reasoning: Curve) -> None:
    ahead = [p - r for p, r in zip(perception.sds, reasoning.sds, strict=True)]
    finite = [value for value in ahead if math.isfinite(value)] or [0.0]
    top, bottom = max(*finite, 0.05), min(*finite, -0.05)
    pad = 0.15 * (top - bottom)
    _frame(axes, records, (bottom - pad, top + pad), "asymmetry: perception minus reasoning")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.axhline(0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 4)), zorder=1)
    axes.plot(perception.steps, ahead, color=INK, linewidth=1.8, marker="o", markersize=4, zorder=3)
    axes.fill_between(perception.steps, 0, ahead, color=INK, alpha=0.1, linewidth=0, zorder=2)
    axes.annotate(
        f"{finite[-1]:+.2f}", (perception.steps[-1], finite[-1]), xytext=(_beside(axes), finite[-1]),
        textcoords=("axes fraction", "data"), annotation_clip=False, fontsize=_LABEL_SIZE, color=INK, va="center",
    )  # fmt: skip
