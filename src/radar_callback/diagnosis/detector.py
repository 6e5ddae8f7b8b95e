"""Has something fallen? Asked after every evaluation of a run, with a bound on how often the answer is a false yes.

Looking at a curve again and again and testing each time would sooner or later find a fall in any healthy run. An e-detector
(Shin, Ramdas and Rinaldo, 2024, "E-detectors: a nonparametric framework for sequential change detection") does not have that
weakness: its Shiryaev-Roberts statistic grows by at most one an evaluation, on average, as long as nothing falls, so by Doob's
inequality it passes a threshold `c` within T evaluations with a probability of at most `T / c`, however often it is looked at.
"""

from __future__ import annotations

import numpy as np

from radar_callback.diagnosis.series import Array

JITTER = 0.008
"""What a healthy ability's mean moves by in any case, in SDS: no two batches of training are alike. Measured."""

_PRIOR = 20
"""Movements that the standard errors are worth, against those of the run itself, when it comes to how large noise is."""

_BETS = np.array([0.5, 1.0, 2.0, 3.5])
"""Sizes of a fall, in standard deviations, that the mixture is prepared for."""


def movements(values: Array, moved_se: Array, jitter: float = JITTER) -> Array:
    """How far each value is from the one before, in standard deviations of what it moves by while nothing is wrong.

    Movements and not levels are watched, because a level that only drifts has movements whose mean is zero given all that was
    before, as the bound on false alarms needs.

    Args:
        values: `[T]`; NaN where there is none.
        moved_se: `[T]` standard errors of the differences from one to the next.
        jitter: What a value moves by in any case, in its own unit.

    Returns:
        `[T]`; NaN at the first value and where there is none.
    """
    found = np.full(len(values), np.nan)
    there = np.flatnonzero(np.isfinite(values))
    sd = np.hypot(np.nan_to_num(moved_se[there[1:]]), jitter)
    found[there[1:]] = np.diff(values[there]) / sd
    return found


def noise(scores: Array) -> Array:
    """How large a run's own noise is, by the errors expected: below 1 where items err less alike than by chance.

    A benchmark whose answers are balanced is quieter than its items, taken as independent, let expect: a model that comes to
    prefer "left" loses as many items as it wins. So the noise is learned from the movements downwards of all abilities so far
    (those upwards are learning), each counted for at most three deviations, since one of them may be a fall.

    Args:
        scores: `[curves, T]` from `movements`.

    Returns:
        `[T]`, each from the evaluations before it only.
    """
    down = np.where(scores < 0, np.maximum(scores, -3.0), np.nan)
    squares = np.nansum(np.square(down), axis=0)
    counts = np.isfinite(down).sum(axis=0)
    before_squares = np.concatenate([[0.0], np.cumsum(squares)[:-1]])
    before_counts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    scale: Array = np.sqrt((_PRIOR + before_squares) / (_PRIOR + before_counts))
    return scale


def falls(scores: Array) -> Array:
    """The logarithm of the Shiryaev-Roberts statistic after each evaluation, for a fall in the mean of standard scores.

    Args:
        scores: `[T]` movements by their standard deviations; NaN counts as no evidence.

    Returns:
        `[T]`. Under "no fall" (each score sub-Gaussian with mean 0 or more, given what was before) the chance that it ever
        passes `log(c)` within T evaluations is at most `T / c`.

    Example:
        >>> falls(np.array([0.3, -0.2, 0.1, -4.0, -5.0])).round(1).tolist()
        [-1.1, -0.3, -0.1, 6.7, 17.9]
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
