"""Every item's scores at one step, as flat arrays: what two evaluations are compared by, item by item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ItemIndex:
    """Which items a benchmark has, in the order in which arrays of scores hold them.

    Attributes:
        benchmark: Its name.
        keys: One an item, unique.
        abilities: What each item measures.
        clusters: A number an item; items that share an image have the same one, since they succeed or fail together.
        candidates: K of each item; the correct candidate is the first.
    """

    benchmark: str
    keys: tuple[str, ...]
    abilities: tuple[str, ...]
    clusters: tuple[int, ...]
    candidates: tuple[int, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each item's candidates begin in a flat array, `[N + 1]`."""
        return np.concatenate([[0], np.cumsum(self.candidates)]).astype(np.int64)

    @cached_property
    def shares_images(self) -> bool:
        """Whether any two items have an image in common."""
        return len(set(self.clusters)) < len(self.clusters)

    def of_ability(self, ability: str) -> NDArray[np.int64]:
        """Positions of an ability's items."""
        return np.flatnonzero(np.asarray(self.abilities) == ability)


@dataclass(frozen=True)
class ItemScores:
    """What the model at one step gave every candidate of every item; NaN where an item was not scored.

    Attributes:
        probabilities: `[sum of K]` float32: `softmax` over an item's candidates of their mean raw logits (equation 4).
        logprobs: `[sum of K]` float32: mean log-probability of each candidate's tokens, in nats.
        success: `[N]` boolean: what :func:`radar_callback.functional.discrimination_success` said of the scores themselves,
            before they were rounded; None in files that were written before it was kept.
    """

    probabilities: Floats
    logprobs: Floats
    success: NDArray[np.bool_] | None = None

    def sds(self, index: ItemIndex) -> Floats:
        """`[N]`: probability of each item's correct candidate.

        Example:
            >>> index = ItemIndex("mini", ("a", "b"), ("colour", "count"), (0, 1), (2, 3))
            >>> scores = ItemScores(np.float32([0.9, 0.1, 0.2, 0.5, 0.3]), np.float32([-1, -3, -2, -2, -2]))
            >>> scores.sds(index).tolist() == np.float32([0.9, 0.2]).tolist()
            True
        """
        return self.probabilities[index.starts[:-1]]

    def correct(self, index: ItemIndex) -> NDArray[np.bool_]:
        """`[N]`: whether no candidate of an item has a higher score than the correct one; false if not scored.

        Where it was not kept, it is made out from the probabilities by the same rule, for which a tie is a success.

        Example:
            >>> index = ItemIndex("mini", ("a", "b"), ("colour", "count"), (0, 1), (2, 2))
            >>> scores = ItemScores(np.float32([0.5, 0.5, 0.4, 0.6]), np.float32([-1, -1, -2, -2]))
            >>> scores.correct(index).tolist()
            [True, False]
        """
        if self.success is not None:
            return self.success
        best = np.fmax.reduceat(self.probabilities, index.starts[:-1])
        return np.asarray(self.sds(index) >= best)

    def fluency(self, index: ItemIndex) -> float:
        """Mean log-probability of the tokens of all candidates, right and wrong, in nats; NaN if nothing was scored.

        It says how well the model still writes such answers at all, whatever it sees: an optimizer that diverges ruins it,
        pictures that are not looked at do not.
        """
        scored = np.flatnonzero(np.isfinite(self.sds(index)))
        if not len(scored):
            return float("nan")
        sums = np.add.reduceat(self.logprobs.astype(np.float64), index.starts[:-1])[scored]
        return float(np.mean(sums / np.asarray(index.candidates)[scored]))


def clusters_of(images: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Numbers items so that those which share an image, directly or through others, have the same number.

    Args:
        images: For each item, something that tells its images apart, such as their checksums.

    Example:
        >>> clusters_of([[1], [2], [1, 3], [3], []])
        (0, 1, 0, 0, 4)
    """
    rows = [tuple(row) for row in images]
    first = list(range(len(rows)))

    def root(item: int) -> int:
        while first[item] != item:
            first[item] = first[first[item]]
            item = first[item]
        return item

    seen: dict[int, int] = {}
    for item, row in enumerate(rows):
        for image in row:
            a, b = sorted((root(seen.setdefault(image, item)), root(item)))
            first[b] = a
    return tuple(root(item) for item in range(len(rows)))
