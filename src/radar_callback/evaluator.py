"""The engine: one benchmark, one model, one call of `evaluate`. It knows `torch.distributed` and no training loop."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Sample
from radar_callback.errors import BenchmarkError, ConfigError, ItemError, Reason
from radar_callback.functional import discrimination_success, soft_discrimination_score
from radar_callback.metrics import SoftDiscriminationScore
from radar_callback.ranks import Ranks
from radar_callback.result import ItemScore, RadarResult
from radar_callback.scoring.choose import WAYS, ScorerName, choose, various
from radar_callback.scoring.encode import EncodedSample, SampleEncoder
from radar_callback.scoring.plan import Turn, deal, form_batches, row_lengths
from radar_callback.scoring.prompt import PromptStyle
from radar_callback.scoring.reading import CandidateScores
from radar_callback.scoring.scorer import Scorer
from radar_callback.scoring.source import EncodedBenchmark
from radar_callback.untouched import untouched

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (batches done, batches to do) of this rank."""


class RadarEvaluator:
    """Scores a benchmark with a model as it is now; usable from any training loop.

    The benchmark's items are put into batches once, the same on every rank, and whole batches are dealt to ranks: each item is
    scored exactly once, every rank makes the same number of forwards, and the result is the same bits at any world size.
    All ranks must call :meth:`evaluate` together.

    Args:
        model: A Hugging Face image-text-to-text model, wrapped or not; its top-level forward is called. Other models with a
            `config` and the same forward work too.
        processor: The processor of that model, for images and text.
        benchmark: Folder, URL, brace pattern, name of a built-in benchmark, or an opened one.
        prompt: `"plain"`, `"chat"`, a template with `{question}`, or a function; see
            :func:`radar_callback.scoring.prompt.prompt_builder`.
        scorer: `"auto"`: the fastest way of scoring that agrees with the reference on a handful of the benchmark's items, found
            at the first evaluation. `"packed"`: each image and prompt once an item. `"reference"`: once a candidate.
        items_per_ability: Score only so many items of each ability: always the same ones, and those of a smaller number are
            among those of a larger one. All if left out.
        batch_tokens: Bound on the tokens of a batch, padding counted.
        cache_bytes: Bound on the memory that tokenised prompts and preprocessed images take between evaluations, a rank.
        forward_context: Makes the context for each forward, such as autocast.

    Raises:
        ConfigError: If `model` has no configuration, the prompt style or the scorer is unknown, or the processor has no image
            token.
        BenchmarkError: If the benchmark cannot be opened.

    Example:
        ```python
        evaluator = RadarEvaluator(model, processor, "radar-mini")
        result = evaluator.evaluate(step=1000)
        print(result.abilities["colour"]["sds"])
        ```
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        benchmark: str | Path | Benchmark = "radar-mini",
        *,
        prompt: PromptStyle = "plain",
        scorer: ScorerName = "auto",
        items_per_ability: int | None = None,
        batch_tokens: int = 8192,
        cache_bytes: int = 2**30,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if scorer != "auto" and scorer not in WAYS:
            raise ConfigError(f"Unknown scorer {scorer!r}: expected 'auto', {', '.join(map(repr, WAYS))}.")
        self.model = model
        self.processor = processor
        opened = Benchmark(benchmark)
        self.benchmark = opened if items_per_ability is None else opened.limit(items_per_ability)
        config = model_config(model)
        self._encoder = SampleEncoder(processor, config, prompt)
        self._source = EncodedBenchmark(self.benchmark, self._encoder, cache_bytes)
        self._batch_tokens = batch_tokens
        self._forward_context = forward_context
        self._batches: list[tuple[int, ...]] | None = None
        self._way: type[Scorer] | None = WAYS.get(scorer)

    def evaluate(self, step: int = 0, *, per_sample: bool = False, progress: Progress | None = None) -> RadarResult:
        """Scores the benchmark. The model, its train flags, its buffers and all random streams are left as found.

        Args:
            step: The training step to note in the result.
            per_sample: Also return every item's scores (gathered from all ranks).
            progress: Called after every batch.

        Returns:
            The same result on every rank.

        Raises:
            BenchmarkError: If not a single item can be read and encoded; the message quotes the first reason.
        """
        started = time.perf_counter()
        with untouched(self.model):
            result = _Evaluation(self, per_sample).run(progress)
        seconds = time.perf_counter() - started
        return RadarResult(step=step, time=time.time(), seconds=seconds, benchmark=self.benchmark.name, **result)

    def _global_batches(self, ranks: Ranks, spare: EncodedSample, together: bool) -> list[tuple[int, ...]]:
        """The global batches, formed at the first evaluation from the manifest and what an image costs in tokens."""
        if self._batches is None:
            items = self.benchmark.items
            tokens_an_image = ranks.from_first(spare.vision_tokens / max(1, spare.prompt_images))
            self._batches = form_batches(
                row_lengths(items, tokens_an_image, together),
                rows=[1 if together else len(item.candidate_chars) for item in items],
                images=[item.n_images for item in items],
                max_tokens=self._batch_tokens,
            )
        return self._batches


class _Evaluation:
    """One pass over the benchmark: what has been counted so far."""

    def __init__(self, evaluator: RadarEvaluator, per_sample: bool) -> None:
        self._e = evaluator
        self._per_sample = per_sample
        device = next(evaluator.model.parameters()).device
        self._ranks = Ranks(device)
        self._metric = SoftDiscriminationScore(evaluator.benchmark.taxonomy).to(device)
        self._failures: Counter[Reason] = Counter()
        self._items: list[ItemScore] = []
        self._unscored: list[dict[str, Any]] = []
        tokenizer = evaluator.processor.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._make: Callable[[type[Scorer]], Scorer] = lambda way: way(evaluator.model, pad, evaluator._forward_context)

    def run(self, progress: Progress | None) -> dict[str, Any]:
        spare = self._spare()
        self._score = self._make(self._way(spare))
        batches = self._e._global_batches(self._ranks, spare, self._score.together)
        turns = list(deal(batches, self._ranks.rank, self._ranks.size))
        for done, turn in enumerate(turns, start=1):
            self._take(turn, spare)
            if progress is not None:
                progress(done, len(turns))
        return self._result()

    def _spare(self) -> EncodedSample:
        """An item that an idle rank can score with weight zero, since sharded models need every rank in every forward."""
        first: ItemError | None = None
        for index in range(len(self._e.benchmark)):
            try:
                return self._e._source[index]
            except ItemError as error:
                first = first or error
        raise BenchmarkError(
            f"Expected items to score in benchmark {self._e.benchmark.name!r}, but none of its {len(self._e.benchmark)} can "
            f"be used; the first says: {first}."
        )

    def _way(self, spare: EncodedSample) -> type[Scorer]:
        """The way of scoring this model, found once."""
        if self._e._way is None:
            groups = [self._readable(group) or [spare] for group in various(self._e.benchmark.items)]
            dtype = next(p.dtype for p in self._e.model.parameters() if p.is_floating_point())
            self._e._way = choose(self._make, dtype, groups, self._ranks.all_agree)
        return self._e._way

    def _readable(self, indices: Sequence[int]) -> list[EncodedSample]:
        found = []
        for index in indices:
            with suppress(ItemError):  # it is counted when it is its turn
                found.append(self._e._source[index])
        return found

    def _take(self, turn: Turn, spare: EncodedSample) -> None:
        indices, encoded = [], []
        for index in turn.batch:
            try:
                encoded.append(self._e._source[index])
                indices.append(index)
            except ItemError as error:
                self._fail(index, error.reason, error.detail)
        if encoded:
            self._count(indices, encoded, self._score(encoded))
        elif self._ranks.size > 1:
            self._score([spare])

    def _count(self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores) -> None:
        entries = [self._e.benchmark.items[i] for i in indices]
        self._metric.update(
            scores.mean_logits,
            scores.mask,
            None,
            [entry.ability for entry in entries],
            logprobs=scores.mean_logprobs,
            category=[entry.category for entry in entries],
        )
        finite = (scores.mean_logits.isfinite() & scores.mean_logprobs.isfinite()).all(1).tolist()
        for index, fine in zip(indices, finite, strict=True):
            if not fine:
                self._fail(index, Reason.NOT_FINITE, "a logit of one of its candidates is NaN or infinite")
        if self._per_sample:
            self._keep_items(indices, encoded, scores, finite)

    def _keep_items(
        self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores, finite: Sequence[bool]
    ) -> None:
        sds = soft_discrimination_score(scores.mean_logits, scores.mask).tolist()
        sds_logprob = soft_discrimination_score(scores.mean_logprobs, scores.mask).tolist()
        correct = discrimination_success(scores.mean_logits, scores.mask).tolist()
        logits, logprobs = scores.mean_logits.tolist(), scores.mean_logprobs.tolist()
        for row, (index, one) in enumerate(zip(indices, encoded, strict=True)):
            if not finite[row]:
                continue
            sample: Sample = self._e.benchmark.read(index)
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

    def _fail(self, index: int, reason: Reason, detail: str) -> None:
        self._failures[reason] += 1
        if self._failures[reason] == 1:
            log.warning("Not scored (%s; further ones of this kind are only counted): %s", reason, detail)
        if self._per_sample:
            item = self._e.benchmark.items[index]
            self._unscored.append({"key": item.key, "ability": item.ability, "reason": str(reason), "detail": detail})

    def _result(self) -> dict[str, Any]:
        counts = self._ranks.sum(torch.tensor([self._failures[reason] for reason in Reason]))
        failures = Counter(dict(zip(Reason, counts.tolist(), strict=True)))
        skipped = self._e.benchmark.skipped
        failures.update(Reason(entry.reason) for entry in skipped)
        items, unscored = self._items, self._unscored
        if self._per_sample:
            order = {item.key: i for i, item in enumerate(self._e.benchmark.items)}
            items = sorted(self._ranks.gather(items), key=lambda item: order[item.key])
            unscored = self._ranks.gather(unscored)
            unscored += [
                {"key": s.key, "meta": s.meta, "ability": s.ability, "reason": s.reason, "detail": s.detail}
                for s in skipped
            ]
        return {
            **self._metric.compute(),
            "samples": len(self._e.benchmark) + len(skipped),
            "failed": failures.total(),
            "failures": {str(reason): n for reason, n in failures.items() if n},
            "items": tuple(items),
            "unscored": tuple(unscored),
        }


def model_config(model: nn.Module) -> Any:
    """The Hugging Face configuration of a model, looked for inside wrappers such as DDP and torch.compile.

    Raises:
        ConfigError: If there is none.
    """
    inner: Any = model
    while inner is not None:
        config = getattr(inner, "config", None)
        if config is not None:
            return config
        inner = getattr(inner, "module", None) or getattr(inner, "_orig_mod", None)
    raise ConfigError(
        f"Expected a Hugging Face image-text-to-text model with a `config`, but got a {type(model).__name__}: pass model=…"
    )
