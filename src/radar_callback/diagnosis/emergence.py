"""When each ability emerged, how far it got, and in which order, with how sure one can be of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from radar_callback.diagnosis.detector import JITTER
from radar_callback.diagnosis.series import Array, Series

ABOVE = 0.05
"""An ability has emerged once its score is this far above chance, in SDS, and stays there."""

SURE = 3.0
"""Standard errors above chance that it takes to believe so, with some twenty abilities looked at."""

DRAWS = 200
"""Curves drawn to see how much the answers depend on luck."""


@dataclass(frozen=True)
class Emergence:
    """How one ability developed.

    Attributes:
        name: The ability.
        group: Its group.
        onset: First step from which its score is at least `ABOVE` above chance for good, or None if that has not come.
        onset_low: Lower end of the onset's 95% interval, a step.
        onset_high: Upper end; None if it may not have come.
        half_rise: First step at which half of the way from chance to where it is now was done.
        level: Where it is now, in SDS.
        plateau: Whether it has stopped rising.
        slope: Rise over the last five evaluations, in SDS a thousand steps.
        slope_se: Its standard error.
        progress: Share of the way from chance to 1.
        rank: Its place in the order of onsets, from 1; None without onset.
        rank_low: Lower end of the place's 95% interval.
        rank_high: Upper end.
    """

    name: str
    group: str
    onset: int | None
    onset_low: int | None
    onset_high: int | None
    half_rise: int | None
    level: float
    plateau: bool
    slope: float
    slope_se: float
    progress: float
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None


def emerged(one: Series) -> int | None:
    """Position of the evaluation at which an ability rose above chance for good, or None.

    The curve is fitted by a rising one (isotonic regression: R. E. Barlow et al., 1972) and the first evaluation taken at
    which that is `ABOVE` chance. It counts only if the latest value is above chance beyond doubt, so that what has come and
    gone again has not emerged.
    """
    above = one.sds - one.chance
    there = np.flatnonzero(np.isfinite(above))
    if len(there) < 2:
        return None
    last = there[-2:]
    noise = np.hypot(one.se[last], JITTER)
    if np.any(above[last] < np.maximum(SURE * noise, ABOVE)):
        return None
    rising = _rising(above[there])
    return int(there[np.argmax(rising >= ABOVE)])


def emergences(series: Mapping[str, Series], seed: int = 0) -> dict[str, Emergence]:
    """Every ability's development; orders and intervals from a parametric bootstrap.

    Each of `DRAWS` drawn runs has the curves' values moved by what they may be off by: the same for all of an ability's
    evaluations, since the same items are scored each time, and a little for each.

    Args:
        series: All abilities.
        seed: Of the draws.
    """
    onsets = {name: emerged(one) for name, one in series.items()}
    rng = np.random.default_rng(seed)
    drawn = {name: _drawn_onsets(one, rng) for name, one in series.items()}
    names = list(series)
    if not names:
        return {}
    table = np.array([drawn[name] for name in names]).T.reshape(-1, len(names))
    # What has not come is last, and shares its place with all that has not come either.
    places = 1 + (table[:, None, :] < table[:, :, None]).sum(2) if len(names) else table
    order = sorted((at, name) for name, at in onsets.items() if at is not None)
    found = {}
    for i, name in enumerate(names):
        at = onsets[name]
        rank = None if at is None else 1 + sum(other < at for other, _ in order)
        low, high = np.percentile(places[:, i], [2.5, 97.5]) if at is not None else (np.nan, np.nan)
        found[name] = _emergence(series[name], at, drawn[name], rank, low, high)
    return found


def _emergence(one: Series, at: int | None, drawn: Array, rank: int | None, low: float, high: float) -> Emergence:
    there = np.flatnonzero(np.isfinite(one.sds))
    if not len(there):
        return Emergence(one.name, one.group, None, None, None, None, np.nan, False, np.nan, np.nan, np.nan)
    level = float(np.mean(one.sds[there[-2:]])) if at is not None else float(one.sds[there[-1]])
    slope, slope_se = _slope(one, there[-5:])
    half = None
    if at is not None:
        chance = one.chance[there[-1]]
        rising = _rising(one.sds[there])
        half = int(one.steps[there[np.argmax(rising >= (chance + level) / 2)]])
    ends = np.percentile(drawn, [2.5, 97.5], method="nearest") if at is not None else (np.inf, np.inf)
    span = (one.steps[there[-1]] - one.steps[there[-5:][0]]) / 1000
    return Emergence(
        name=one.name,
        group=one.group,
        onset=None if at is None else int(one.steps[at]),
        onset_low=_step(one, min(ends[0], np.inf if at is None else at)),
        onset_high=_step(one, ends[1] if at is None else max(ends[1], at)),
        half_rise=half,
        level=level,
        plateau=at is not None and len(there) >= 5 and (slope - 1.96 * slope_se) * span < 0.02,
        slope=slope,
        slope_se=slope_se,
        progress=float(one.progress[there[-1]]),
        rank=rank,
        rank_low=None if rank is None else int(low),
        rank_high=None if rank is None else int(high),
    )


def _drawn_onsets(one: Series, rng: np.random.Generator) -> Array:
    """Onsets, as positions, of curves that might as well have been seen; infinity where none comes."""
    above = one.sds - one.chance
    there = np.flatnonzero(np.isfinite(above))
    found = np.full(DRAWS, np.inf)
    # The two sources of error are drawn in any case, so that one ability's draws do not depend on another's values.
    shared, own = rng.standard_normal(DRAWS), rng.standard_normal((DRAWS, len(one.steps)))
    if len(there) < 2:
        return found
    se = np.nan_to_num(one.se[there])
    for i in range(DRAWS):
        rising = _rising(above[there] + shared[i] * se + own[i, there] * JITTER)
        if rising[-1] >= ABOVE:
            found[i] = there[np.argmax(rising >= ABOVE)]
    return found


def _rising(values: Array) -> Array:
    fitted: Array = isotonic_regression(values).x
    return fitted


def _slope(one: Series, at: NDArray[np.int64]) -> tuple[float, float]:
    """Least squares through the last evaluations, in SDS a thousand steps, and its error from jitter alone."""
    x = one.steps[at] / 1000
    if len(at) < 2 or x[-1] == x[0]:
        return float("nan"), float("nan")
    spread = x - x.mean()
    slope = float(spread @ one.sds[at] / (spread @ spread))
    return slope, float(JITTER / np.sqrt(spread @ spread))


def _step(one: Series, at: float) -> int | None:
    return None if not np.isfinite(at) else int(one.steps[int(at)])
