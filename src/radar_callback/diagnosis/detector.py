"""Has something fallen? Asked after every evaluation of a run, with a bound on how often the answer is a false yes.

Looking at a curve again and again and testing each time would sooner or later find a fall in any healthy run. An e-detector
(Shin, Ramdas and Rinaldo, 2024, "E-detectors: a nonparametric framework for sequential change detection") does not have that
weakness: its Shiryaev-Roberts statistic grows by at most one an evaluation, on average, as long as nothing falls, so by Doob's
inequality it passes a threshold `c` within T evaluations with a probability of at most `T / c`, however often it is looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radar_callback.diagnosis.series import Array

JITTER = 0.008
"""What the mean of an ability moves by from one evaluation to the next when nothing happens, late in a run, in SDS. Measured."""

USUAL = 0.04
"""What the mean of an ability that has risen moves by when nothing happens, early in a run, when steps are large. Measured."""

USUAL_TOGETHER = 0.008
"""The same for the mean of several abilities. Measured."""

_WORTH = 4
"""Movements that `USUAL` is worth against those of the run itself."""

_OTHERS = 2
"""Movements of its own that those of the other curves are worth to a curve."""

_RECENT = 6
"""Evaluations that tell how restless a run is now."""

_ITEMS = 0.5
"""What is left of the items' standard error: answers are balanced, so items err in both directions. Measured."""

_BETS = np.array([0.5, 1.0, 2.0, 3.5, 5.0])
"""Sizes of a fall, in standard deviations, that the mixture is prepared for."""


def restlessness(values: Array, risen: NDArray[np.bool_], usual: float = USUAL) -> Array:
    """How far curves move down from one evaluation to the next while nothing is wrong, learned from the run itself.

    No two batches of training are alike, so scores move, and the more the larger the steps. What the learning rate is nobody
    needs to say: the movements downwards of the last few evaluations tell (those upwards are learning). Each counts for at
    most three times the usual, since one of them may be a fall.

    Args:
        values: `[curves, T]`; NaN where there is none.
        risen: `[curves, T]`: whether a curve had left its floor by then; one that has not says nothing.
        usual: What to expect before anything is known.

    Returns:
        `[T]`, each from the evaluations before it only.
    """
    moved = np.diff(values, axis=1, prepend=np.nan)
    down = np.where(np.roll(risen, 1, axis=1) & (moved < 0), np.maximum(moved, -3 * usual), np.nan)
    found = np.empty(values.shape[1])
    for t in range(values.shape[1]):
        recent = down[:, max(1, t - _RECENT) : t]
        known = recent[np.isfinite(recent)]
        found[t] = np.sqrt((_WORTH * usual**2 + np.square(known).sum()) / (_WORTH + len(known)))
    return found


def own_restlessness(values: Array, pooled: Array) -> Array:
    """The same for one curve, where it is calmer than the others: it may be watched more closely.

    Never more than what the others move by, or a curve that falls slowly would be taken for a restless one.

    Args:
        values: `[T]`; NaN where there is none.
        pooled: `[T]` from :func:`restlessness`, of the others.

    Returns:
        `[T]`, each from the evaluations before it only.

    Example:
        >>> calm = np.array([0.90, 0.91, 0.90, 0.91, 0.90, 0.91, 0.90, 0.91])
        >>> own_restlessness(calm, np.full(8, 0.03)).round(3).tolist()
        [0.03, 0.03, 0.025, 0.022, 0.02, 0.019, 0.018, 0.017]
    """
    moved = np.diff(values, prepend=np.nan)
    found = np.empty(len(values))
    for t in range(len(values)):
        recent = moved[max(1, t - _RECENT) : t]
        known = recent[np.isfinite(recent)]
        own = np.sqrt((_OTHERS * pooled[t] ** 2 + np.square(known).sum()) / (_OTHERS + len(known)))
        found[t] = min(pooled[t], own)
    return found


def movements(values: Array, moved_se: Array, restless: Array) -> Array:
    """How far each value is from the one before, in standard deviations of what it moves by while nothing is wrong.

    Movements and not levels are watched, because a level that only drifts has movements whose mean is zero given all that was
    before, as the bound on false alarms needs.

    Args:
        values: `[T]`; NaN where there is none.
        moved_se: `[T]` standard errors of the differences from one to the next.
        restless: `[T]` from :func:`restlessness`.

    Returns:
        `[T]`; NaN at the first value and where there is none.
    """
    found = np.full(len(values), np.nan)
    there = np.flatnonzero(np.isfinite(values))
    at = there[1:]
    found[at] = np.diff(values[there]) / np.hypot(_ITEMS * np.nan_to_num(moved_se[at]), restless[at])
    return found


def falls(scores: Array) -> Array:
    """The logarithm of the Shiryaev-Roberts statistic after each evaluation, for a fall in the mean of standard scores.

    Args:
        scores: `[T]` movements by their standard deviations; NaN counts as no evidence.

    Returns:
        `[T]`. Under "no fall" (each score sub-Gaussian with mean 0 or more, given what was before) the chance that it ever
        passes `log(c)` within T evaluations is at most `T / c`.

    Example:
        >>> falls(np.array([0.3, -0.2, 0.1, -4.0, -5.0])).round(1).tolist()
        [-1.4, -0.5, -0.3, 6.9, 18.8]
    """
    logs = np.full(len(_BETS), -np.inf)
    found = []
    for score in scores:
        if not np.isnan(score):
            logs = np.logaddexp(logs, 0.0) - _BETS * score - np.square(_BETS) / 2
        found.append(np.logaddexp.reduce(logs) - np.log(len(_BETS)))
    return np.array(found)


def threshold(curves: int, evaluations: int, error: float) -> float:
    """The value of `falls` at which to raise an alarm.

    Args:
        curves: Watched at the same time.
        evaluations: Of the longest run to guarantee anything for.
        error: Bound on the probability of any false alarm in such a run.

    Example:
        >>> round(threshold(curves=18, evaluations=100, error=0.01), 1)
        12.1
    """
    return float(np.log(curves * evaluations / error))
