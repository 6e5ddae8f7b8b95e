"""Series out of a history, ready to be drawn: pure Python, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Record = Mapping[str, Any]


class Curve(NamedTuple):
    """One line of a picture; all four are equally long, and NaN where there is no score."""

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
    share = last.get("share", 1.0)
    return [
        record
        for record in of_benchmark(records, last["benchmark"])
        if record["step"] < last["step"] and record.get("share", 1.0) == share
    ]


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


def number(value: float | None) -> float:
    """A cell of a record as a float; null is NaN."""
    return math.nan if value is None else float(value)


def _curve(records: Sequence[Record], rows: Sequence[Mapping[str, Any] | None]) -> Curve:
    sds, se, chance = (tuple(number((row or {}).get(field)) for row in rows) for field in ("sds", "se", "chance"))
    return Curve(tuple(record["step"] for record in records), sds, se, chance)
