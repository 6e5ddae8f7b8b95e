"""One evaluation as a radar (spider) chart: a spoke an ability, with what guessing gives as the ring to leave behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from radar_callback.reporting.curves import number, of_same_items
from radar_callback.reporting.style import GRID, INK, MUTED, group_style, literal_text, readable, short

Record = Mapping[str, Any]

_EDGE = 1.0
_GROUP_BAND = 0.045


def radar_figure(record: Record, earlier: Record | None = None, title: str | None = None) -> Figure:
    """Draws the scores of all abilities, group by group around the circle, from 0 in the middle to 1 at the edge.

    Args:
        record: An evaluation, as `RadarResult.to_record` gives it.
        earlier: Another evaluation of the same benchmark, drawn as a thin line: the first one shows what training has
            brought, the previous one what the last stretch has.
        title: Shown on top; by default the step.
    """
    names = [name for group in _grouped(record).values() for name in group]
    angles = _angles(len(names))
    figure = Figure(figsize=(8.4, 8.4), facecolor="white")
    axes = figure.add_axes((0.15, 0.085, 0.7, 0.7), projection="polar")
    assert isinstance(axes, PolarAxes)
    _circle(axes, angles)
    _groups(figure, axes, record, angles)

    rows = [record["abilities"][name] for name in names]
    _polygon(
        axes, angles, [number(row["chance"]) for row in rows], MUTED, dashes=(0, (4, 3)), width=1.3, label="chance",
        marker=None if len(names) > 2 else "D",
    )  # fmt: skip
    if earlier is not None:
        before = [number(earlier["abilities"].get(name, {}).get("sds")) for name in names]
        _polygon(axes, angles, before, "#d55e00", width=1.3, marker="s", label=f"step {earlier['step']:,}")
    scores = [number(row["sds"]) for row in rows]
    _polygon(axes, angles, scores, "#332288", width=2.2, marker="o", fill=True, label=f"step {record['step']:,}")
    _names(axes, names, angles, scores)

    overall = number(record["overall"]["sds"])
    figure.text(
        0.03, 0.975, title or f"{record['benchmark']} at step {record['step']:,}",
        va="top", fontsize=15, color=INK, fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.03, 0.938, "Soft Discrimination Score" + ("" if math.isnan(overall) else f"  ·  overall {overall:.2f}"),
        va="top", fontsize=10, color=MUTED,
    )  # fmt: skip
    figure.legend(
        *axes.get_legend_handles_labels(), loc="upper right", bbox_to_anchor=(0.98, 0.985), fontsize=9.5, frameon=False,
        labelcolor=INK,
    )  # fmt: skip
    return literal_text(figure)


def first_of(records: Sequence[Record], record: Record) -> Record | None:
    """The first evaluation of the same items, if there is an earlier one."""
    same = of_same_items(records, record)
    return same[0] if same else None


def _grouped(record: Record) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, row in record["abilities"].items():
        groups.setdefault(row.get("group", "all"), []).append(name)
    return groups


def _angles(n: int) -> list[float]:
    """Clockwise; the border between the last and the first spoke is at the top, so that two groups lie left and right."""
    return [math.pi / 2 - 2 * math.pi * (i + 0.5) / n for i in range(n)]


def _circle(axes: PolarAxes, angles: Sequence[float]) -> None:
    axes.set_ylim(0, _EDGE + _GROUP_BAND)
    axes.set_facecolor("white")
    axes.grid(False)
    axes.spines["polar"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    round_about = [2 * math.pi * i / 180 for i in range(181)]
    for radius in (0.25, 0.5, 0.75, 1.0):
        axes.plot(round_about, [radius] * 181, color=GRID, linewidth=1.0, zorder=0)
        axes.text(
            math.pi / 2, radius, f"{radius:g}", fontsize=8, color=MUTED, ha="center", va="center", zorder=5,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    for angle in angles:
        axes.plot([angle, angle], [0, _EDGE], color=GRID, linewidth=1.0, zorder=0)


def _groups(figure: Figure, axes: PolarAxes, record: Record, angles: Sequence[float]) -> None:
    """A coloured arc at the edge for each group, and its name and mean in that colour below the title."""
    groups = _grouped(record)
    if len(groups) < 2:
        return
    half, start = math.pi / len(angles), 0
    for i, (group, names) in enumerate(groups.items()):
        colour = group_style(i).colour
        first, last = angles[start] + half, angles[start + len(names) - 1] - half
        gap = min(0.02, half / 4)
        axes.bar(
            (first + last) / 2, _GROUP_BAND * 0.6, width=first - last - 2 * gap, bottom=_EDGE + _GROUP_BAND * 0.4,
            color=colour, alpha=0.55, linewidth=0, zorder=1,
        )  # fmt: skip
        start += len(names)
        score = number(record["groups"].get(group, {}).get("sds"))
        figure.text(
            0.03, 0.913 - 0.024 * i, readable(group) + ("" if math.isnan(score) else f"  {score:.2f}"),
            va="top", fontsize=10.5, color=colour, fontweight="bold",
        )  # fmt: skip


def _polygon(
    axes: PolarAxes,
    angles: Sequence[float],
    values: Sequence[float],
    colour: str,
    *,
    width: float,
    label: str,
    dashes: str | tuple[float, tuple[float, ...]] = "-",
    marker: str | None = None,
    fill: bool = False,
) -> None:
    """A closed line; it has a gap, and no filling, where an ability has no score."""
    axes.plot(
        [*angles, angles[0]], [*values, values[0]], color=colour, linewidth=width, linestyle=dashes, marker=marker,
        markersize=width * 2.2, label=label, zorder=4 if fill else 3,
    )  # fmt: skip
    if fill and all(map(math.isfinite, values)) and len(values) > 2:
        axes.fill(angles, values, color=colour, alpha=0.12, linewidth=0, zorder=2)


def _names(axes: PolarAxes, names: Sequence[str], angles: Sequence[float], scores: Sequence[float]) -> None:
    """Beyond the edge, anchored on the side that looks at the centre."""
    for name, angle, score in zip(names, angles, scores, strict=True):
        x, y = math.cos(angle), math.sin(angle)
        value = "no score" if math.isnan(score) else f"{score:.2f}"
        axes.text(
            angle, _EDGE + _GROUP_BAND + 0.05, fill(short(name), width=14) + "\n" + value,
            fontsize=9.5, color=MUTED if math.isnan(score) else INK, clip_on=False, linespacing=1.15,
            ha="center" if abs(x) < 0.1 else "left" if x > 0 else "right",
            va="center" if abs(y) < 0.6 else "bottom" if y > 0 else "top", multialignment="center",
        )  # fmt: skip
