"""Runs that never were, put together from real healthy ones: their curves, and what their scores moved by around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from radar_callback.diagnosis.series import Series, series_of

Array = NDArray[np.float64]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """One real run, taken apart.

    Attributes:
        names: Abilities.
        smooth: `[abilities, T]` rising curves fitted to the scores.
        noise: `[abilities, T]` what is left.
        moved_se: `[abilities, T]` standard errors of the changes.
        se: `[abilities, T]` standard errors of the scores.
        chance: `[abilities]`.
    """

    names: tuple[str, ...]
    smooth: Array
    noise: Array
    moved_se: Array
    se: Array
    chance: Array


def measured(records: Sequence[Record]) -> Measured:
    """Takes a healthy run apart."""
    series = list(series_of(records).values())
    sds = np.array([one.sds for one in series])
    smooth = np.array([isotonic_regression(row).x for row in sds])
    return Measured(
        names=tuple(one.name for one in series),
        smooth=smooth,
        noise=sds - smooth,
        moved_se=np.array([one.moved_se for one in series]),
        se=np.array([one.se for one in series]),
        chance=np.array([one.chance[-1] for one in series]),
    )


def healthy_runs(parts: Sequence[Measured], count: int, evaluations: int, seed: int) -> Iterator[list[Record]]:
    """Simulated healthy runs: the curves of one real run, stretched, around which scores move as in another.

    An evaluation's noise is taken from a real one as a whole, and that of the next from the next, so that abilities that move
    together, and drifts that take a while, are as they were. In a run that is longer than the real ones it goes to and fro
    about the same place of the real one, since a young run is louder than an old one.
    Its sign is turned over half the time: around a fitted rising curve, falls and rises are alike.

    Args:
        parts: Real runs.
        count: How many to make.
        evaluations: Of each.
        seed: Of the choices.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        curve, other = (parts[i] for i in rng.integers(len(parts), size=2))
        length = curve.smooth.shape[1]
        places = np.linspace(0, length - 1, evaluations)
        smooth = np.array([np.interp(places, np.arange(length), row) for row in curve.smooth])
        sign = rng.choice([-1, 1])
        noisy = _to_and_fro(places, length)
        # The movement between two evaluations has the error of that between them, whichever way it goes.
        between = np.maximum(noisy, np.roll(noisy, 1))
        yield [
            _record(curve, t, smooth[:, t] + sign * other.noise[:, at], other.se[:, at], other.moved_se[:, between[t]])
            for t, at in enumerate(noisy)
        ]


def _to_and_fro(places: Array, length: int) -> NDArray[np.int64]:
    """Evaluations of a real run, each next to the one before, never far from `places`, never the first (it is like no other)."""
    at, way, found = 1, 1, []
    for place in places:
        low, high = max(1, round(place) - 2), min(length - 1, round(place) + 2)
        if not low <= at + way <= high:
            way = 1 if at < high else -1
        at = int(np.clip(at + way, 1, length - 1))
        found.append(at)
    return np.array(found)


def _record(curve: Measured, t: int, scores: Array, se: Array, moved_se: Array) -> Record:
    cells = zip(curve.names, scores, se, moved_se, curve.chance, strict=True)
    abilities, changes = {}, {}
    for name, sds, error, moved, chance in cells:
        abilities[name] = {"group": "", "sds": float(sds), "se": float(error), "chance": float(chance)}
        changes[name] = {"sds": 0.0, "se": float(moved)}
    return {"step": t, "abilities": abilities, "change": {"abilities": changes}}


def emerging(parts: Sequence[Measured], count: int, seed: int, above: float) -> Iterator[tuple[Series, int | None]]:
    """Simulated curves of one ability, each with the evaluation at which it truly rose above chance.

    A real ability's fitted curve, shifted and stretched, with the sampling error of a set of items (the same at all
    evaluations, which are of the same items) and the noise of a real run. A quarter never rise.

    Args:
        parts: Real runs.
        count: How many to make.
        seed: Of the choices.
        above: What counts as above chance, in SDS.
    """
    rng = np.random.default_rng(seed)
    risen = [(p, a) for p in parts for a in range(len(p.names)) if p.smooth[a, -1] - p.chance[a] > 2 * above]
    for _ in range(count):
        part, a = risen[rng.integers(len(risen))]
        t = np.arange(part.smooth.shape[1])
        flat = rng.random() < 0.25
        height = np.clip(part.smooth[a] - part.chance[a], 0, None) * (not flat)
        truth = np.interp((t - rng.uniform(-2, 6)) / rng.uniform(0.7, 1.5), t, height, left=0.0)
        other = parts[rng.integers(len(parts))]
        b = rng.integers(len(other.names))
        # Where it has not risen, candidates are about as likely as each other and items vary little.
        se = np.interp(truth, [0.0, 0.3, 0.7], [0.015, 0.035, 0.015])
        scores = part.chance[a] + truth + se * rng.standard_normal() + other.noise[b] * rng.choice([-1, 1])
        one = Series("ability", "", t, scores, se, np.full(len(t), part.chance[a]), other.moved_se[b])
        reached = np.flatnonzero(truth >= above)
        yield one, int(reached[0]) if len(reached) else None
