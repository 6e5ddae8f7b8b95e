"""A record as the report can rely on it: what is optional is there in the right shape, or not there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NUMBERS = (
    "time",
    "seconds",
    "samples",
    "failed",
    "coverage",
    "share",
    "items_per_ability",
    "padding",
    "waited",
    "memory_growth",
    "fluency",
)
_COLUMNS = ("sds", "se", "count", "learned", "forgotten")


def tidied(record: Mapping[str, Any]) -> dict[str, Any]:
    """Drops what is null, not a number, or not of this library's shape: a history may be of another version or edited.

    Args:
        record: A line of a history.

    Example:
        >>> tidied({"step": 3, "fluency": None, "moved": {"tower": 0.1, "head": "x"}, "change": 5, "abilities": {}})
        {'step': 3, 'moved': {'tower': 0.1}, 'abilities': {}}
    """
    made: dict[str, Any] = {field: record[field] for field in _NUMBERS if _is_number(record.get(field))}
    for field in ("scorer", "subset"):
        if isinstance(name := record.get(field), str):
            made[field] = name
    for field in ("moved", "failures"):
        if isinstance(found := record.get(field), dict):
            made[field] = {name: value for name, value in found.items() if _is_number(value)}
    if isinstance(found := record.get("image_gain"), dict):
        made["image_gain"] = _rows(found)
    change = record.get("change")
    if isinstance(change, dict) and _is_number(change.get("since")) and isinstance(change.get("abilities"), dict):
        made["change"] = {"since": change["since"], "abilities": _rows(change["abilities"])}
    made["abilities"] = {name: {"group": "all"} | _known(row) for name, row in record["abilities"].items()}
    optional = {*_NUMBERS, "scorer", "subset", "moved", "failures", "image_gain", "change"}
    return {key: made.get(key, value) for key, value in record.items() if key in made or key not in optional}


def _rows(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {field: row[field] for field in _COLUMNS if _is_number(row.get(field))}
        for name, row in found.items()
        if isinstance(row, dict)
    }


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if _is_number(value) or isinstance(value, str)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
