"""What one evaluation has counted so far: scores, failures by reason, and single items where they are asked for."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Sample
from radar_callback.errors import ItemError, Reason
from radar_callback.functional import discrimination_success, soft_discrimination_score
from radar_callback.item_scores import ItemIndex
from radar_callback.item_table import ItemTable
from radar_callback.metrics import SoftDiscriminationScore
from radar_callback.metrics.sums import report as sums_report
from radar_callback.paired import clustered_errors
from radar_callback.ranks import Ranks
from radar_callback.result import ItemScore
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import CandidateScores

log = logging.getLogger(__name__)


class Tally:
    """Counts every item of one evaluation exactly once, scored or not.

    Args:
        benchmark: Where the items come from.
        index: Its items.
        ranks: Who takes part.
        per_sample: Also keep every item's scores.
        whole: Whether the benchmark is asked for and not a share of it; only then are items that were left out when its shards
            were built a part of what is counted.
    """

    def __init__(
        self, benchmark: Benchmark, index: ItemIndex, ranks: Ranks, per_sample: bool, whole: bool = True
    ) -> None:
        self._benchmark = benchmark
        self._skipped = benchmark.skipped if whole else ()
        self._ranks = ranks
        self._per_sample = per_sample
        self._metric = SoftDiscriminationScore(benchmark.taxonomy).to(ranks.device)
        self._index = index
        self._table = ItemTable(index)
        self._failures: Counter[Reason] = Counter()
        self._items: list[ItemScore] = []
        self._unscored: list[dict[str, Any]] = []

    def count(self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores) -> None:
        """Counts a batch of scored items.

        Args:
            indices: Their positions in the benchmark.
            encoded: The items.
            scores: `[N, K]`.
        """
        entries = [self._benchmark.items[i] for i in indices]
        self._metric.update(
            scores.mean_logits,
            scores.mask,
            None,
            [entry.ability for entry in entries],
            logprobs=scores.mean_logprobs,
            category=[entry.category for entry in entries],
        )
        self._table.put(indices, scores)
        finite = (scores.mean_logits.isfinite() & scores.mean_logprobs.isfinite()).all(1).tolist()
        for index, fine in zip(indices, finite, strict=True):
            if not fine:
                self.fail(index, ItemError(Reason.NOT_FINITE, "a logit of one of its candidates is NaN or infinite"))
        if self._per_sample:
            self._keep(indices, encoded, scores, finite)

    def fail(self, index: int, error: ItemError) -> None:
        """Counts an item that was not scored; only the first of each kind is logged."""
        self._failures[error.reason] += 1
        if self._failures[error.reason] == 1:
            log.warning("Not scored (%s; further ones of this kind are only counted): %s", error.reason, error.detail)
        if self._per_sample:
            item = self._benchmark.items[index]
            row = {"key": item.key, "ability": item.ability, "reason": str(error.reason), "detail": error.detail}
            self._unscored.append(row)

    def result(self, asked_for: int) -> dict[str, Any]:
        """Everything counted, over all ranks: fields of a `RadarResult`.

        Args:
            asked_for: Items that were to be scored.
        """
        counts = self._ranks.sum(torch.tensor([self._failures[reason] for reason in Reason]))
        failures = Counter(dict(zip(Reason, counts.tolist(), strict=True)))
        skipped = self._skipped
        failures.update(Reason(entry.reason) for entry in skipped)
        items, unscored = self._items, self._unscored
        if self._per_sample:
            order = {item.key: i for i, item in enumerate(self._benchmark.items)}
            items = sorted(self._ranks.gather(items), key=lambda item: order[item.key])
            unscored = self._ranks.gather(unscored)
            unscored += [
                {"key": s.key, "meta": s.meta, "ability": s.ability, "reason": s.reason, "detail": s.detail}
                for s in skipped
            ]
        # Added up here, not by the metric, which knows neither the ranks' group nor where their tensors must lie.
        report, scores = (
            sums_report(self._ranks.sum(self._metric.sums), self._benchmark.taxonomy),
            self._table.scores(self._ranks),
        )
        if self._index.shares_images:
            cells = [(item.ability, item.category) for item in self._benchmark.items]
            for ability, se in clustered_errors(scores.sds(self._index), cells, self._index.clusters).items():
                report["abilities"][ability]["se"] = se
            rows = report["abilities"].values()
            for group, row in report["groups"].items():
                row["se"] = _of_mean([one["se"] for one in rows if one["group"] == group and one["count"]])
            report["overall"]["se"] = _of_mean([one["se"] for one in rows if one["count"]])
        return {
            **report,
            "samples": asked_for + len(skipped),
            "failed": failures.total(),
            "failures": {str(reason): n for reason, n in failures.items() if n},
            "item_scores": scores,
            "items": tuple(items),
            "unscored": tuple(unscored),
        }

    def _keep(
        self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores, finite: Sequence[bool]
    ) -> None:
        sds = soft_discrimination_score(scores.mean_logits, scores.mask).tolist()
        sds_logprob = soft_discrimination_score(scores.mean_logprobs, scores.mask).tolist()
        correct = discrimination_success(scores.mean_logits, scores.mask).tolist()
        logits, logprobs = scores.mean_logits.tolist(), scores.mean_logprobs.tolist()
        for row, (index, one) in enumerate(zip(indices, encoded, strict=True)):
            if not finite[row]:
                continue
            sample: Sample = self._benchmark.read(index)
            k = len(sample.candidates)
            self._items.append(
                ItemScore(
                    key=sample.key,
                    meta=sample.meta,
                    ability=sample.ability,
                    category=sample.category,
                    prompt=one.prompt,
                    candidates=sample.candidates,
                    mean_logits=tuple(logits[row][:k]),
                    mean_logprobs=tuple(logprobs[row][:k]),
                    sds=sds[row],
                    sds_logprob=sds_logprob[row],
                    correct=correct[row],
                )
            )


def _of_mean(errors: Sequence[float]) -> float:
    """Standard error of the mean of abilities, these taken as independent of each other."""
    return math.sqrt(sum(error**2 for error in errors)) / len(errors) if errors else math.nan
