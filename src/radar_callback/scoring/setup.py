"""What is settled before the first batch of an evaluation: the way of scoring this model gets, and the batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from radar_callback.benchmark.manifest import Item
from radar_callback.errors import BenchmarkError
from radar_callback.ranks import Ranks
from radar_callback.scoring.choose import ScorerName, choose, various
from radar_callback.scoring.cost import (
    CPU_TOKENS,
    bytes_a_token,
    characters_a_token,
    free_memory,
    image_tokens,
    token_budget,
)
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.plan import form_batches, row_lengths
from radar_callback.scoring.scorer import Scorer, appearance, needs_every_rank
from radar_callback.scoring.source import EncodedBenchmark

log = logging.getLogger(__name__)

Make = Callable[[type[Scorer]], Scorer]

FEW_TOKENS = 4096
"""Tokens of a forward before it is known how many fit: some items of any length."""


CHOICES = 16
"""How often items to compare on are chosen, where some of them cannot be encoded."""


@dataclass(frozen=True)
class Ready:
    """What an evaluation starts with.

    Attributes:
        scorer: For the model as it is now.
        batches: Positions of items, the same on every rank.
        control: Those of the items that are also scored blind.
        spares: Items that an idle rank can score with weight zero, since sharded models need every rank in every forward: by
            whether the other ranks' batches have images.
    """

    scorer: Scorer
    batches: list[tuple[int, ...]]
    control: list[tuple[int, ...]]
    spares: Mapping[bool, EncodedSample]


class Setup:
    """Settles things at the first evaluation, and anew when the model is wrapped or cast otherwise.

    Args:
        source: The items.
        processor: The model's, which may know what an image costs.
        scorer: A way of scoring, or `"auto"`.
        batch_tokens: Bound on the tokens of a batch, padding counted; None finds one that needs no more memory than is free.
    """

    def __init__(
        self, source: EncodedBenchmark, processor: Any, scorer: ScorerName = "auto", batch_tokens: int | None = None
    ) -> None:
        self._source = source
        self._processor = processor
        self._asked = scorer
        self._batch_tokens = batch_tokens
        self._face: tuple[Any, ...] | None = None
        self._way: type[Scorer] | None = None
        self._bytes = 0.0
        self._budget = 0
        self._ceiling = math.inf
        self._batches: dict[tuple[float, int], list[tuple[int, ...]]] = {}
        self._lengths: list[float] = []

    def ready(
        self,
        model: nn.Module,
        make: Make,
        ranks: Ranks,
        share: float = 1.0,
        control_share: float = 0.0,
        at_least: int = 1,
    ) -> Ready:
        """Everything for the next evaluation.

        Args:
            model: The model.
            make: Makes a scorer for it.
            ranks: Who takes part; all must call this together.
            share: Of each ability's items; see :meth:`Benchmark.portion`.
            control_share: Of each ability's items, those that are also scored blind.
            at_least: Items of each ability in any case, as far as it has them; those scored blind are not meant.

        Raises:
            BenchmarkError: If not a single item can be read and encoded.
        """
        spares = self._spares(ranks, needs_every_rank(model))
        face = appearance(model)
        changed = self._way is None or face != self._face
        seen = self._seen(ranks) if changed else []
        if changed:
            # How much memory a token takes is not known yet, so what is compared at once is little.
            few = self._batch_tokens or FEW_TOKENS
            groups = _groups([one for _, one in seen], few) or [[spares[True]]]
            way, final = choose(make, groups, ranks.all_agree, few, self._asked)
            if self._batch_tokens is None and ranks.device.type == "cuda":
                self._bytes = max(_bytes_a_token(make(way), group, ranks.device) for group in groups)
            self._batches, self._lengths = {}, []
            self._face, self._way = face if final else None, way
        assert self._way is not None
        scorer = make(self._way)
        budget = int(ranks.least(min(self._tokens_that_fit(ranks), self._ceiling)))
        if self._batches and budget < self._budget:
            log.warning("Less memory is free than before: batches now hold %d tokens, not %d.", budget, self._budget)
            self._batches = {}
        if not self._batches:
            self._budget = budget
        shares = [(share, at_least), (control_share, 1)]
        if missing := [one for one in shares if one not in self._batches]:
            # What one rank could read decides the estimates, so it decides for all.
            formed = ranks.from_first([self._form(seen, scorer.together, *one) for one in missing])
            self._batches.update(zip(missing, formed, strict=True))
        batches, control = (self._batches[one] for one in shares)
        return Ready(scorer, batches, control, spares)

    def shrink(self) -> None:
        """Halves the batches of later evaluations: memory ran out."""
        self._ceiling = max(1, self._budget // 2)

    def _form(
        self, seen: Sequence[tuple[Item, EncodedSample]], together: bool, share: float, at_least: int
    ) -> list[tuple[int, ...]]:
        if share == 0:
            return []
        items = self._source.benchmark.items
        if not self._lengths:
            tokens = image_tokens(self._processor, seen)
            self._lengths = row_lengths(items, tokens, characters_a_token(seen), together)
        chosen = self._source.benchmark.portion(share, at_least)
        batches = form_batches(
            [self._lengths[i] for i in chosen],
            rows=[1 if together else len(items[i].candidate_chars) for i in chosen],
            images=[items[i].n_images for i in chosen],
            max_tokens=self._budget,
        )
        return [tuple(chosen[place] for place in batch) for batch in batches]

    def _tokens_that_fit(self, ranks: Ranks) -> int:
        if self._batch_tokens is not None:
            return self._batch_tokens
        if ranks.device.type != "cuda":
            return CPU_TOKENS
        return token_budget(free_memory(ranks.device), self._bytes)

    def _spares(self, ranks: Ranks, together: bool) -> dict[bool, EncodedSample]:
        """One with images and one without; where there is none of a kind, the other in its place.

        Args:
            ranks: Who takes part.
            together: Whether a forward needs them all. A rank that has none of a kind where others do would make other forwards
                than they do; where ranks work apart, the items it cannot read are counted when it is their turn.
        """
        items = self._source.benchmark.items
        found: dict[bool, EncodedSample] = {}
        first = None
        for seen in (True, False):
            for index in (i for i, item in enumerate(items) if (item.n_images > 0) == seen):
                try:
                    found[seen] = self._source[index]
                    break
                except Exception as error:  # on this rank alone, perhaps: the others wait for what it says below
                    first = first or error
        having = ranks.sum(torch.tensor([bool(found), True in found, False in found]).long()).tolist()
        if having[0] < ranks.size or (together and not {*having} <= {0, ranks.size}):
            lacking = "" if having[0] < ranks.size else " with images, or none without,"
            raise BenchmarkError(
                f"Expected items to score in benchmark {self._source.benchmark.name!r}, but none of its {len(items)}{lacking} "
                "can be used" + (f"; the first says: {first}." if first is not None else " on another rank.")
            )
        return {seen: found[seen] if seen in found else found[not seen] for seen in (True, False)}

    def _seen(self, ranks: Ranks) -> list[tuple[Item, EncodedSample]]:
        """A handful of items as different as the benchmark has them, of which every rank can read all."""
        items = self._source.benchmark.items
        readable = list(range(len(items)))
        for _ in range(CHOICES):
            chosen = [readable[place] for place in various([items[i] for i in readable])]
            found = {}
            for index in chosen:
                with suppress(Exception):  # it is counted when it is its turn
                    found[index] = self._source[index]
            here = ranks.sum(torch.tensor([index in found for index in chosen]).long()) == ranks.size
            everywhere = [i for i, fine in zip(chosen, here.tolist(), strict=True) if fine]
            if len(everywhere) == len(chosen):
                break
            # What cannot be encoded is often an extreme, as those that are chosen are: others take its place.
            lost = set(chosen) - set(everywhere)
            readable = [i for i in readable if i not in lost]
        return [(items[i], found[i]) for i in everywhere]


def _groups(samples: Sequence[EncodedSample], most_tokens: int) -> list[list[EncodedSample]]:
    """Items that can share a batch, with at most so many tokens where that leaves two together."""
    found: list[list[EncodedSample]] = []
    for n in dict.fromkeys(sample.prompt_images for sample in samples):
        alike = [sample for sample in samples if sample.prompt_images == n]
        longest = max(sample.prefix_length + sum(len(tail.ids) for tail in sample.tails) for sample in alike)
        size = max(2, most_tokens // longest)
        found += [alike[start : start + size] for start in range(0, len(alike), size)]
    return found


def _bytes_a_token(scorer: Scorer, group: Sequence[EncodedSample], device: torch.device) -> float:
    """What a token takes in a group of items; twice what is free for them, if they do not fit."""
    before = scorer.fed
    try:
        return bytes_a_token(lambda: _tokens(scorer, group), device)
    except torch.OutOfMemoryError:
        if needs_every_rank(scorer.model):  # the other ranks are in the middle of that forward
            raise
        torch.cuda.empty_cache()
        return 2 * free_memory(device) / max(1, scorer.fed - before)


def _tokens(scorer: Scorer, group: Sequence[EncodedSample]) -> int:
    before = scorer.fed
    scorer(group)
    return scorer.fed - before
