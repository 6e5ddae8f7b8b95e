"""From item scores to sums and from sums to a report: the arithmetic of the metric, as pure functions.

All sums are int64 fixed point with 32 fractional bits. Integers add up to the same total in any order, so a curve is
bit-identical however items were dealt to ranks; floats are not (measured: already 2 ranks change the last bits). Rounding
an item to 2**-33 changes a mean by less than 2e-10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import TypedDict

import torch
from torch import Tensor

from radar_callback.functional import discrimination_success, soft_discrimination_score
from radar_callback.result import AbilityScore, Score
from radar_callback.taxonomy import Taxonomy

ONE = 2**32
"""Fixed-point unit: 1.0. Room for 2**31 items in a sum."""


class Column(IntEnum):
    """Columns of the packed state."""

    COUNT = 0
    FAILED = 1
    CORRECT = 2
    SDS = 3
    SDS_SQUARED = 4
    LOGPROB = 5
    LOGPROB_COUNT = 6
    CHANCE = 7


class Report(TypedDict):
    """What the metric's `compute` gives."""

    abilities: dict[str, AbilityScore]
    groups: dict[str, Score]
    overall: Score


def item_columns(scores: Tensor, mask: Tensor | None, target: Tensor | None, logprobs: Tensor | None) -> Tensor:
    """What each item adds to its cell.

    Args:
        scores: `[N, K]` mean raw logits.
        mask: `[N, K]` boolean, true where a candidate exists.
        target: `[N]` index of the correct candidate.
        logprobs: `[N, K]` mean log-probabilities, or None if not known.

    Returns:
        `[N, len(Column)]` int64. An item with a NaN or infinite value adds 1 to `FAILED` and nothing else.

    Raises:
        ValueError: As :func:`radar_callback.functional.soft_discrimination_score`.
    """
    sds = soft_discrimination_score(scores.double(), mask, target)
    failed = sds.isnan()
    columns = torch.zeros(len(sds), len(Column), dtype=torch.int64, device=sds.device)
    if logprobs is not None:
        if logprobs.shape != scores.shape:
            raise ValueError(
                f"Expected `logprobs` of shape {list(scores.shape)} like `scores`, but got {list(logprobs.shape)}."
            )
        sds_logprob = soft_discrimination_score(logprobs.double(), mask, target)
        failed |= sds_logprob.isnan()
        columns[:, Column.LOGPROB] = _fixed(sds_logprob)
        columns[:, Column.LOGPROB_COUNT] = 1
    k = torch.full_like(sds, scores.shape[1]) if mask is None else mask.sum(1).double()
    columns[:, Column.COUNT] = 1
    columns[:, Column.CORRECT] = discrimination_success(scores, mask, target).long()
    columns[:, Column.SDS] = _fixed(sds)
    columns[:, Column.SDS_SQUARED] = _fixed(sds.square())
    columns[:, Column.CHANCE] = _fixed(1 / k)
    columns[failed] = 0
    columns[failed, Column.FAILED] = 1
    return columns


def _fixed(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0).mul(ONE).round().long()


def report(sums: Tensor, taxonomy: Taxonomy) -> Report:
    """Means, standard errors and counts from the packed sums.

    An ability is the mean over its categories that have scored items, or over its items where it has no categories; a group
    is the mean over its abilities, overall the mean over all abilities. Standard errors are those of these means, items
    taken as independent.

    Args:
        sums: `[cells, len(Column)]` int64, one row for each of `taxonomy.cells`.
        taxonomy: The tree of groups, abilities and categories.
    """
    cells: dict[str, list[Score]] = {ability: [] for ability in taxonomy.abilities}
    for (ability, _), row in zip(taxonomy.cells, sums.tolist(), strict=True):
        cells[ability].append(_cell(row))
    means = {ability: _mean(rows) for ability, rows in cells.items()}
    return Report(
        abilities={ability: AbilityScore(group=taxonomy.group_of(ability), **mean) for ability, mean in means.items()},
        groups={group: _mean(means[a] for a in taxonomy.tree[group]) for group in taxonomy.groups},
        overall=_mean(means.values()),
    )


def _cell(row: list[int]) -> Score:
    n, n_logprob = row[Column.COUNT], row[Column.LOGPROB_COUNT]
    if n == 0:
        return _mean([])
    mean = row[Column.SDS] / n / ONE
    # Sum of squared deviations. Rounding may leave a tiny negative number when all items score alike.
    spread = max(row[Column.SDS_SQUARED] / ONE - n * mean**2, 0.0)
    return Score(
        sds=mean,
        sds_logprob=row[Column.LOGPROB] / n_logprob / ONE if n_logprob else math.nan,
        accuracy=row[Column.CORRECT] / n,
        count=n,
        se=math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan,
        chance=row[Column.CHANCE] / n / ONE,
    )


def _mean(rows: Iterable[Score]) -> Score:
    """Unweighted mean of rows that have items; the error of a mean of independent means."""
    rows = [row for row in rows if row["count"]]
    n = len(rows)
    if n == 0:
        return Score(sds=math.nan, sds_logprob=math.nan, accuracy=math.nan, count=0, se=math.nan, chance=math.nan)
    return Score(
        sds=sum(row["sds"] for row in rows) / n,
        sds_logprob=sum(row["sds_logprob"] for row in rows) / n,
        accuracy=sum(row["accuracy"] for row in rows) / n,
        count=sum(row["count"] for row in rows),
        se=math.sqrt(sum(row["se"] ** 2 for row in rows)) / n,
        chance=sum(row["chance"] for row in rows) / n,
    )
