"""A history as arrays, which is how everything in this folder looks at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One ability (or the mean of all) over the evaluations of a run, each array `[T]`; NaN where there is no value.

    Attributes:
        name: The ability.
        group: Its group.
        steps: Training steps.
        sds: Soft Discrimination Score.
        se: Its standard error over items.
        chance: What guessing gives.
        moved_se: Standard error of the difference to the evaluation before, item by item. Where a history has no item scores,
            that of two separate means.
    """

    name: str
    group: str
    steps: NDArray[np.int64]
    sds: Array
    se: Array
    chance: Array
    moved_se: Array

    @property
    def progress(self) -> Array:
        """How much of the way from chance to 1 is done."""
        return (self.sds - self.chance) / (1 - self.chance)


def series_of(records: Sequence[Record]) -> dict[str, Series]:
    """Every ability of a history, in the order of its last evaluation.

    Args:
        records: Evaluations of one benchmark, sorted by step.

    Example:
        >>> def record(step, sds):
        ...     row = {"group": "perception", "sds": sds, "se": 0.03, "chance": 0.25}
        ...     return {"step": step, "abilities": {"colour": row}}
        >>> colour = series_of([record(0, 0.25), record(100, 0.7)])["colour"]
        >>> colour.sds.tolist(), colour.progress.round(2).tolist()
        ([0.25, 0.7], [0.0, 0.6])
    """
    if not records:
        return {}
    steps = np.array([record["step"] for record in records], dtype=np.int64)
    found = {}
    for name, last in records[-1]["abilities"].items():
        rows = [record["abilities"].get(name, {}) for record in records]
        changes = [record.get("change", {}).get("abilities", {}).get(name, {}) for record in records]
        se = _column(rows, lambda row: row.get("se"))
        apart = np.sqrt(np.square(se) + np.square(np.concatenate([[np.nan], se[:-1]])))
        paired = _column(changes, lambda row: row.get("se"))
        found[name] = Series(
            name=name,
            group=last.get("group", ""),
            steps=steps,
            sds=_column(rows, lambda row: row.get("sds")),
            se=se,
            chance=_column(rows, lambda row: row.get("chance")),
            moved_se=np.where(np.isnan(paired), apart, paired),
        )
    return found


def same_items(one: Record, other: Record) -> bool:
    """Whether two evaluations of a benchmark asked for the same items.

    Example:
        >>> same_items({"subset": "a", "share": 1.0}, {"subset": "b", "share": 1.0}), same_items({"share": 1.0}, {})
        (False, True)
    """
    names = one.get("subset"), other.get("subset")
    # Histories of earlier releases name the share only.
    return names[0] == names[1] if all(names) else one.get("share", 1.0) == other.get("share", 1.0)


def aligned(series: Mapping[str, Series], records: Sequence[Record], at: int = 0) -> dict[str, Series]:
    """Every ability as if all evaluations had asked for the items of one of them.

    Where the items change, one set is within the other. What the common ones moved by is taken for the movement of the
    ability, and all else for a difference between items, which is taken out. Without item scores nothing is known of the
    movement, and it counts as none.

    Args:
        series: From :func:`series_of`.
        records: What they come from.
        at: Position of the evaluation whose items are meant.
    """
    changed = [t for t in range(1, len(records)) if not same_items(records[t - 1], records[t])]
    return {name: _aligned(one, records, changed, at) for name, one in series.items()} if changed else dict(series)


def _aligned(one: Series, records: Sequence[Record], changed: Sequence[int], at: int) -> Series:
    offset = np.zeros(len(records))
    for t in changed:
        change = records[t].get("change") or {}
        paired = change.get("abilities", {}).get(one.name, {}).get("sds")
        known = paired is not None and change.get("since") == records[t - 1]["step"]
        jump = one.sds[t] - one.sds[t - 1] - (paired if known else 0.0)
        offset[t:] += 0.0 if np.isnan(jump) else jump
    sds = one.sds - (offset - offset[at])
    chance = np.where(np.isnan(one.chance), np.nan, one.chance[at])
    return replace(one, sds=sds, chance=chance)


def column(records: Sequence[Record], *path: str) -> Array:
    """A number of each record, found along a path of keys; NaN where there is none."""

    def look(record: Any) -> Any:
        for key in path:
            record = record.get(key) if isinstance(record, Mapping) else None
        return record

    return _column(records, look)


def _column(rows: Sequence[Any], get: Callable[[Any], Any]) -> Array:
    values = [get(row) for row in rows]
    return np.array([np.nan if value is None else float(value) for value in values])
