"""One evaluation's item scores, gathered from the ranks that made them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import ItemError
from radar_callback.functional import candidate_probabilities, discrimination_success
from radar_callback.item_scores import ItemIndex, ItemScores, clusters_of
from radar_callback.ranks import Ranks
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import CandidateScores


class ItemTable:
    """Every item's scores from all ranks, each item from the one that scored it.

    Args:
        index: The benchmark's items.
    """

    def __init__(self, index: ItemIndex) -> None:
        self._index = index
        # Bits of a float32 each, 0 where this rank scored nothing: added up over ranks they stay the bits they are.
        self._bits = torch.zeros(2, int(index.starts[-1]), dtype=torch.int32)
        self._success = torch.zeros(len(index.keys), dtype=torch.int32)

    def put(self, indices: Sequence[int], scores: CandidateScores) -> None:
        """Enters a batch of scored items.

        Args:
            indices: Their positions in the benchmark.
            scores: `[N, K]`.
        """
        fine = (scores.mean_logits.isfinite() & scores.mean_logprobs.isfinite()).all(1)
        spread = candidate_probabilities(scores.mean_logits, scores.mask).float().cpu()
        success = discrimination_success(scores.mean_logits, scores.mask).int().cpu()
        logprobs = scores.mean_logprobs.float().cpu()
        for row, (index, usable) in enumerate(zip(indices, fine.tolist(), strict=True)):
            if usable:
                at = slice(int(self._index.starts[index]), int(self._index.starts[index + 1]))
                k = at.stop - at.start
                # 0.0 has the bits of "not scored"; the smallest number above it does not.
                least = torch.finfo(torch.float32).tiny
                self._bits[0, at] = spread[row, :k].clamp(min=least).view(torch.int32)
                self._bits[1, at] = logprobs[row, :k].clamp(max=-least).view(torch.int32)
                self._success[index] = success[row]

    def scores(self, ranks: Ranks) -> ItemScores:
        """All ranks' entries together; NaN where no rank made one."""
        n = self._bits.shape[1]
        summed: Tensor = ranks.sum(torch.cat([self._bits.flatten(), self._success]))
        bits = summed[: 2 * n].view(2, n)
        values = bits.view(torch.float32).masked_fill(bits == 0, torch.nan).numpy()
        return ItemScores(
            np.ascontiguousarray(values[0]), np.ascontiguousarray(values[1]), summed[2 * n :].bool().numpy()
        )


def item_index(benchmark: Benchmark) -> ItemIndex:
    """Which items a benchmark has."""
    return ItemIndex(
        benchmark=benchmark.name,
        keys=tuple(item.key for item in benchmark.items),
        abilities=tuple(item.ability for item in benchmark.items),
        clusters=clusters_of(item.image_crc32 for item in benchmark.items),
        candidates=tuple(len(item.candidate_chars) for item in benchmark.items),
    )


class Control:
    """Counts the items of a control, whose failures are counted where the items themselves are.

    Args:
        index: The benchmark's items.
    """

    def __init__(self, index: ItemIndex) -> None:
        self._table = ItemTable(index)

    def count(self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores) -> None:
        """Enters a batch of scored items."""
        self._table.put(indices, scores)

    def fail(self, index: int, error: ItemError) -> None:
        """Leaves an item out."""

    def scores(self, ranks: Ranks) -> ItemScores:
        """All ranks' entries together."""
        return self._table.scores(ranks)
