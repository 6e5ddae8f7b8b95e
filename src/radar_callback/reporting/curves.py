"""Series out of a history, ready to be drawn: pure Python, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from radar_callback.diagnosis.series import same_items

Record = Mapping[str, Any]


class Curve(NamedTuple):
    """One line of a picture; all four are equally long, and NaN where there is no score.

    Where an evaluation asked for other items than the one before, a point without a score stands between them, at the step of the
    later one: a line through both would show a difference between items as one between steps.
    """

    steps: tuple[int, ...]
    sds: tuple[float, ...]
    se: tuple[float, ...]
    chance: tuple[float, ...]


def of_benchmark(records: Sequence[Record], benchmark: str | None = None) -> list[Record]:
    """The points of one benchmark, sorted by step: a curve never mixes two sets of items.

    Args:
        records: A history.
        benchmark: Its name; by default the one that was evaluated last.
    """
    if benchmark is None and records:
        benchmark = max(records, key=lambda record: record["step"])["benchmark"]
    return sorted((r for r in records if r["benchmark"] == benchmark), key=lambda record: record["step"])


def of_same_items(records: Sequence[Record], last: Record) -> list[Record]:
    """The points before one that scored the same items: where a budget thins evaluations, not all do.

    Args:
        records: A history.
        last: One of its points, or the one that comes next.
    """
    return [
        record
        for record in of_benchmark(records, last["benchmark"])
        if record["step"] < last["step"] and same_items(record, last)
    ]


def breaks(records: Sequence[Record]) -> list[int]:
    """Positions of the points that asked for other items than the one before.

    Args:
        records: Points of one benchmark, sorted by step.

    Example:
        >>> breaks([{"subset": "a"}, {"subset": "a"}, {"subset": "b"}])
        [2]
    """
    return [i for i in range(1, len(records)) if not same_items(records[i - 1], records[i])]


def curves(records: Sequence[Record], benchmark: str | None = None) -> dict[str, Curve]:
    """A curve for each ability.

    Args:
        records: A history.
        benchmark: Which benchmark's points; by default the one that was evaluated last.

    Returns:
        `{ability: (steps, sds, se, chance)}`, in the order in which abilities first appear.

    Example:
        >>> def record(step, sds):
        ...     return {"step": step, "benchmark": "b", "abilities": {"colour": {"sds": sds, "se": 0.1, "chance": 0.5}}}
        >>> curves([record(0, 0.5), record(10, None)])["colour"].sds
        (0.5, nan)
    """
    chosen = of_benchmark(records, benchmark)
    names = dict.fromkeys(name for record in chosen for name in record["abilities"])
    return {name: _curve(chosen, [record["abilities"].get(name) for record in chosen]) for name in names}


def group_curves(records: Sequence[Record], benchmark: str | None = None) -> dict[str, Curve]:
    """A curve for each group: the mean over its abilities."""
    chosen = of_benchmark(records, benchmark)
    names = dict.fromkeys(name for record in chosen for name in record["groups"])
    return {name: _curve(chosen, [record["groups"].get(name) for record in chosen]) for name in names}


def overall_curve(records: Sequence[Record], benchmark: str | None = None) -> Curve:
    """The curve of the mean over all abilities."""
    chosen = of_benchmark(records, benchmark)
    return _curve(chosen, [record["overall"] for record in chosen])


def members(records: Sequence[Record], benchmark: str | None = None) -> dict[str, list[str]]:
    """`{group: [ability]}`, in the order in which they first appear."""
    tree: dict[str, dict[str, None]] = {}
    for record in of_benchmark(records, benchmark):
        for name, row in record["abilities"].items():
            tree.setdefault(row.get("group", "all"), {})[name] = None
    return {group: list(names) for group, names in tree.items()}


def is_gap(curve: Curve, i: int) -> bool:
    """Whether a point only stands between evaluations of different items."""
    return i + 1 < len(curve.steps) and curve.steps[i] == curve.steps[i + 1]


def segments(values: Sequence[float], curve: Curve) -> list[list[float]]:
    """Values along a curve, in pieces that are of the same items.

    Args:
        values: One for each point of the curve.
        curve: The curve.

    Example:
        >>> nothing = float("nan")
        >>> curve = Curve((0, 10, 10, 20), (0.3, nothing, 0.4, 0.5), (0, 0, 0, 0), (0, 0, 0, 0))
        >>> segments(curve.sds, curve)
        [[0.3], [0.4, 0.5]]
    """
    found: list[list[float]] = [[]]
    for i, value in enumerate(values):
        if is_gap(curve, i):
            found.append([])
        else:
            found[-1].append(value)
    return found


def number(value: float | None) -> float:
    """A cell of a record as a float; null is NaN."""
    return math.nan if value is None else float(value)


def _curve(records: Sequence[Record], rows: Sequence[Mapping[str, Any] | None]) -> Curve:
    sds, se, chance = (tuple(number((row or {}).get(field)) for row in rows) for field in ("sds", "se", "chance"))
    steps = tuple(record["step"] for record in records)
    for i in reversed(breaks(records)):
        steps = (*steps[:i], steps[i], *steps[i:])
        sds, se = ((*column[:i], math.nan, *column[i:]) for column in (sds, se))
        chance = (*chance[:i], chance[i], *chance[i:])
    return Curve(steps, sds, se, chance)
