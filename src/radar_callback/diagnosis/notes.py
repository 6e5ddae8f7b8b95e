"""How a run develops: abilities that stall, that have nothing left to learn, that have not begun; the one behind all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from radar_callback.diagnosis.detector import JITTER
from radar_callback.diagnosis.emergence import ABOVE, SURE
from radar_callback.diagnosis.findings import Finding, Kind
from radar_callback.diagnosis.series import Array, Series

WINDOW = 6
"""Evaluations over which an ability that rises at all would show it."""

LATE = 12
"""Evaluations after which an ability at chance is worth a word."""

FULL = 0.95
"""Share of the way from chance to 1 from which on an ability is saturated."""


def developments(series: Mapping[str, Series]) -> list[Finding]:
    """Stalls, saturations and abilities late at chance, each once, when it was first so.

    Args:
        series: All abilities.
    """
    found = []
    # Not nanmean, which warns where nothing at all was scored.
    scored = np.array([one.sds for one in series.values()])
    counts = np.isfinite(scored).sum(axis=0)
    overall = np.where(counts > 0, np.nansum(scored, axis=0) / np.maximum(counts, 1), np.nan)
    for one in series.values():
        found += [*_stall(one, overall), *_saturated(one), *_at_chance(one)]
    return sorted(found, key=lambda finding: finding.step)


def _stall(one: Series, overall: Array) -> list[Finding]:
    """Risen, not high, and for a window not risen any more, while all together have."""
    for t in range(2 * WINDOW, len(one.steps)):
        s = t - WINDOW
        begun = one.sds[s] - one.chance[s] > max(SURE * one.se[s], ABOVE)
        rise = one.sds[t] - one.sds[s]
        half = 1.96 * np.hypot(np.sqrt(2) * JITTER, 0.5 * one.se[t])
        if begun and one.progress[t] < 0.8 and abs(rise) < 0.03 and overall[t] - overall[s] > 0.03:
            return [_finding(Kind.STALL, one, t, s, rise, half)]
    return []


def _saturated(one: Series) -> list[Finding]:
    for t in range(2, len(one.steps)):
        if np.all(one.progress[t - 2 : t + 1] >= FULL):
            return [_finding(Kind.SATURATED, one, t, t - 2, one.sds[t], 1.96 * one.se[t])]
    return []


def _at_chance(one: Series) -> list[Finding]:
    t = LATE
    if t < len(one.steps) and np.nanmax(one.sds[: t + 1] - one.chance[: t + 1]) < max(ABOVE, SURE * one.se[t]):
        return [_finding(Kind.AT_CHANCE, one, t, 0, one.sds[t] - one.chance[t], 1.96 * one.se[t])]
    return []


def _finding(kind: Kind, one: Series, t: int, since: int, size: float, half: float) -> Finding:
    return Finding(
        kind=kind,
        subject=one.name,
        step=int(one.steps[t]),
        since=int(one.steps[since]),
        size=float(size),
        low=float(size - half),
        high=float(size + half),
    )


@dataclass(frozen=True)
class Bottleneck:
    """The ability that holds the run back.

    Attributes:
        name: The ability.
        progress: How much of the way from chance to 1 it has done.
        peers: The median of the others.
        slope: Its rise over the last five evaluations, in SDS a thousand steps.
    """

    name: str
    progress: float
    peers: float
    slope: float


def bottleneck(progress: Mapping[str, float], slopes: Mapping[str, float]) -> Bottleneck | None:
    """The ability furthest behind its peers; of those that are as far behind within noise, the one that rises least.

    Args:
        progress: By ability.
        slopes: By ability.

    Example:
        >>> found = bottleneck({"colour": 0.8, "count": 0.02, "maths": 0.01}, {"colour": 0.1, "count": 0.3, "maths": 0.0})
        >>> found.name, round(found.peers, 2)
        ('maths', 0.41)
    """
    known = {name: value for name, value in progress.items() if np.isfinite(value)}
    if len(known) < 2:
        return None
    last = min(known.values())
    near = [name for name, value in known.items() if value - last < 0.05]
    name = min(near, key=lambda one: (np.nan_to_num(slopes.get(one, 0.0)), known[one]))
    peers = float(np.median([value for other, value in known.items() if other != name]))
    return Bottleneck(name, known[name], peers, float(slopes.get(name, np.nan)))
