"""Differences between two scores of the same items: their mean, and how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radar_callback.item_scores import ItemIndex, ItemScores
from radar_callback.result import Change, Gain


def clustered_mean(values: NDArray[np.floating], clusters: NDArray[np.integer]) -> tuple[float, float, int]:
    """Mean and its standard error where values within a cluster are not independent.

    Args:
        values: `[N]`; NaN where there is none.
        clusters: `[N]` a number for each.

    Returns:
        Mean, standard error and number of values that are there. The error is the sandwich estimator with each cluster's
        residuals added up before they are squared (Liang and Zeger, 1986; for evaluations of language models: Miller, 2024,
        "Adding Error Bars to Evals", section 2.2), with the usual correction for few clusters. It is NaN for fewer than two.

    Example:
        >>> alone = clustered_mean(np.array([1.0, 0.0, 1.0, 0.0]), np.arange(4))
        >>> pairs = clustered_mean(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
        >>> [round(x, 3) for x in alone], [round(x, 3) for x in pairs]
        ([0.5, 0.289, 4], [0.5, 0.5, 4])
    """
    there = np.isfinite(values)
    values, clusters = values[there].astype(np.float64), clusters[there]
    n = len(values)
    if n == 0:
        return math.nan, math.nan, 0
    mean = float(values.mean())
    _, members = np.unique(clusters, return_inverse=True)
    sums = np.bincount(members, weights=values - mean)
    groups = len(sums)
    se = math.sqrt(float(np.square(sums).sum()) * groups / (groups - 1)) / n if groups > 1 else math.nan
    return mean, se, n


def image_gain(index: ItemIndex, sighted: ItemScores, blind: ItemScores) -> dict[str, Gain]:
    """How much better items are scored with their images than with grey ones.

    Args:
        index: The items.
        sighted: Their scores.
        blind: The scores of some of them without their images.

    Returns:
        A row for each ability that has items scored both ways, and `overall`: the mean over these abilities.
    """
    gained = sighted.sds(index).astype(np.float64) - blind.sds(index)
    clusters = np.asarray(index.clusters)
    rows: dict[str, Gain] = {}
    for ability in dict.fromkeys(index.abilities):
        at = index.of_ability(ability)
        mean, se, count = clustered_mean(gained[at], clusters[at])
        if count:
            rows[ability] = Gain(sds=mean, se=se, count=count)
    if rows:
        n = len(rows)
        rows["overall"] = Gain(
            sds=sum(row["sds"] for row in rows.values()) / n,
            se=math.sqrt(sum(row["se"] ** 2 for row in rows.values())) / n,
            count=sum(row["count"] for row in rows.values()),
        )
    return rows


def change(index: ItemIndex, before: ItemScores, after: ItemScores) -> dict[str, Change]:
    """What became of the same items from one evaluation to another.

    Args:
        index: The items.
        before: Their earlier scores.
        after: Their later scores.

    Returns:
        A row for each ability that has items scored both times.
    """
    difference = after.sds(index).astype(np.float64) - before.sds(index)
    was, now = before.correct(index), after.correct(index)
    clusters = np.asarray(index.clusters)
    rows: dict[str, Change] = {}
    for ability in dict.fromkeys(index.abilities):
        at = index.of_ability(ability)
        mean, se, count = clustered_mean(difference[at], clusters[at])
        if count:
            both = at[np.isfinite(difference[at])]
            learned, forgotten = int((now[both] & ~was[both]).sum()), int((was[both] & ~now[both]).sum())
            rows[ability] = Change(sds=mean, se=se, count=count, learned=learned, forgotten=forgotten)
    return rows


def clustered_errors(
    values: NDArray[np.floating], cells: Sequence[tuple[str, str | None]], clusters: Sequence[int]
) -> dict[str, float]:
    """Standard errors of abilities' means where items share images.

    An ability's mean is that of its categories' means, as in the paper, so an item weighs `1 / (categories * items of its
    category)`. What the items of a cluster add to the mean's error is added up before it is squared; see `clustered_mean`.

    Args:
        values: `[N]` SDS of each item; NaN where it was not scored.
        cells: `[N]` ability and category of each.
        clusters: `[N]` a number for each.

    Returns:
        By ability; NaN for one with fewer than two clusters.

    Example:
        >>> values, cells = np.array([1.0, 1.0, 0.0, 0.0]), [("maths", None)] * 4
        >>> round(clustered_errors(values, cells, [0, 0, 1, 1])["maths"], 3)
        0.5
    """
    found = {}
    ability_of = np.array([ability for ability, _ in cells])
    category_of = np.array([category or "" for _, category in cells])
    shared = np.asarray(clusters)
    there = np.isfinite(values)
    for ability in dict.fromkeys(ability_of[there].tolist()):
        mine = there & (ability_of == ability)
        names = set(category_of[mine].tolist())
        weighted = np.zeros(len(values))
        for name in names:
            at = mine & (category_of == name)
            weighted[at] = (values[at] - values[at].mean(dtype=np.float64)) / (len(names) * at.sum())
        _, members = np.unique(shared[mine], return_inverse=True)
        sums = np.bincount(members, weights=weighted[mine])
        groups = len(sums)
        found[ability] = math.sqrt(float(np.square(sums).sum()) * groups / (groups - 1)) if groups > 1 else math.nan
    return found
