"""How many items an evaluation scores, worked out from what one takes and how often it is wanted: pure functions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from radar_callback.benchmark.manifest import Item

LEAST_ITEMS = 16
"""Items of an ability below which a score says next to nothing: its standard error would be above 0.1."""

FEWEST_POINTS = 12
"""Evaluations that the granted time is divided among: a curve of so many shows how an ability develops."""

WORTH_A_BREAK = 4.0
"""Times as many items must be within reach for the items to be changed during a run: standard errors are then halved."""


@dataclass(frozen=True)
class Subset:
    """A part of a benchmark; every smaller one is within the larger ones.

    Attributes:
        share: Of each ability's items, where that is not below `LEAST_ITEMS`; see :meth:`Benchmark.portion`.
        items: To be scored.
        forwards: The same, and those that are scored a second time with grey images.
        items_per_ability: Of the ability with the most.
    """

    share: float
    items: int
    forwards: int
    items_per_ability: int


WHOLE = Subset(1.0, 1, 1, 1)
"""Where nothing is known of a benchmark: all of it, in a unit of its own."""


def subsets_of(counts: Iterable[int], blind_share: float = 0.0) -> tuple[Subset, ...]:
    """All of a benchmark, a half, a quarter and so on, as long as no ability gets below `LEAST_ITEMS` for it.

    Args:
        counts: Items of each ability, each above 0.
        blind_share: Of the scored items, those that are also scored with grey images.

    Returns:
        The largest first; there is at least one.

    Example:
        >>> [(one.share, one.items, one.items_per_ability) for one in subsets_of([128, 40, 6])]
        [(1.0, 174, 128), (0.5, 90, 64), (0.25, 54, 32), (0.125, 38, 16)]
        >>> len(subsets_of([16, 9]))
        1
    """
    counts = list(counts)
    found: list[Subset] = []
    share = 1.0
    while True:
        asked = [min(n, max(math.ceil(share * n), LEAST_ITEMS)) for n in counts]
        if found and sum(asked) == found[-1].items:
            return tuple(found)
        blind = sum(math.ceil(share * blind_share * n) for n in counts)
        found.append(Subset(share, sum(asked), sum(asked) + blind, max(asked, default=0)))
        share /= 2


def first_subset(
    subsets: Sequence[Subset], seconds_per_item: float | None, evaluations: float, seconds: float
) -> Subset:
    """What to score before it is known how fast the run trains.

    Args:
        subsets: The largest first.
        seconds_per_item: What one takes; None if that could not be found out.
        evaluations: Planned ones.
        seconds: What all of them may take together.

    Returns:
        The largest of which all planned ones fit, or `FEWEST_POINTS` if more are planned; else the smallest.

    Example:
        >>> parts = subsets_of([128] * 18)
        >>> first_subset(parts, 0.03, evaluations=21, seconds=120).items, first_subset(parts, 0.03, 2, 120).items
        (288, 1152)
    """
    wanted = min(evaluations, FEWEST_POINTS)
    for subset in subsets if seconds_per_item is not None else ():
        assert seconds_per_item is not None
        if wanted * subset.forwards * seconds_per_item <= seconds:
            return subset
    return subsets[-1]


def resized(
    now: Subset, subsets: Sequence[Subset], seconds_per_item: float, evaluations: float, seconds: float, lasting: float
) -> Subset:
    """What to score for the rest of a run, once it is known how fast it trains and what an evaluation takes.

    As a rule that is what was scored so far, since curves break where it changes.

    Args:
        now: What was scored so far.
        subsets: The largest first.
        seconds_per_item: What one takes.
        evaluations: Those still to come, infinite if the end is not known.
        seconds: What these may take together, as far as is known now.
        lasting: What each may take if there is one at every planned step.

    Example:
        >>> parts = subsets_of([128] * 18)
        >>> small, large = parts[-1], parts[0]
        >>> resized(small, parts, 0.01, evaluations=20, seconds=100, lasting=5).items  # twice as many is no reason
        288
        >>> resized(small, parts, 0.01, evaluations=20, seconds=1000, lasting=50).items
        2304
        >>> resized(large, parts, 0.05, evaluations=20, seconds=100, lasting=5).items  # not one more would fit
        288
    """
    fitting = next((one for one in subsets if one.forwards * seconds_per_item <= lasting), None)
    if fitting is not None and fitting.forwards >= WORTH_A_BREAK * now.forwards:
        return fitting
    cost = now.forwards * seconds_per_item
    if cost > lasting and seconds < cost * min(evaluations, FEWEST_POINTS) / 2:
        smaller = [one for one in subsets if one.forwards <= now.forwards]
        return first_subset(smaller, seconds_per_item, evaluations, seconds)
    return now


def in_turn(passed: int, remaining: float, affordable: float) -> bool:
    """Whether the evaluation that is due is one of those that are made, where not all can be: they are spread evenly.

    Args:
        passed: Due ones that were let pass since the last that was made.
        remaining: Due ones from this one on.
        affordable: How many of them can be made.

    Example:
        >>> made, passed, left = [], 0, 4
        >>> for number in range(10):
        ...     if in_turn(passed, 10 - number, left):
        ...         made, passed, left = [*made, number], 0, left - 1
        ...     else:
        ...         passed += 1
        >>> made
        [2, 4, 7, 9]
    """
    if affordable < 1:
        return False
    if affordable >= remaining:
        return True
    return passed + 1 >= math.floor((passed + remaining) / affordable + 0.5)


@dataclass(frozen=True)
class Few:
    """A few batches of an evaluation, to time them.

    Attributes:
        batches: So many a rank.
        items: Of each, at most; None for whole batches.
    """

    batches: int
    items: int | None = None

    def of(self, batches: Sequence[tuple[int, ...]], ranks: int) -> list[tuple[int, ...]]:
        """Those, from all over the batches: they are sorted by size, and a few are to be like all.

        Example:
            >>> Few(batches=2, items=1).of([(0, 1), (2, 3), (4, 5), (6, 7)], ranks=1)
            [(2,), (6,)]
        """
        count = self.batches * ranks
        if len(batches) > count:
            batches = [batches[int((i + 0.5) * len(batches) / count)] for i in range(count)]
        return [batch[: self.items] for batch in batches]


def subset_name(items: Iterable[Item]) -> dict[str, Any]:
    """Names a set of items by their keys, whatever their order, and says how many there are of the commonest ability."""
    chosen = list(items)
    keys = "\n".join(sorted(item.key for item in chosen))
    most = max(Counter(item.ability for item in chosen).values(), default=0)
    return {"subset": hashlib.sha256(keys.encode()).hexdigest()[:12], "items_per_ability": most}
