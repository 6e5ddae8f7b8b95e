"""What is settled before the first batch of an evaluation: the way of scoring this model gets, and the batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from radar_callback.benchmark.manifest import Item
from radar_callback.errors import BenchmarkError, EvaluationError, RanksApartError
from radar_callback.ranks import Ranks, Replica
from radar_callback.scoring.agreement import (
    COMPARED_ITEMS,
    Stand,
    Stands,
    benchmark_values,
    disagreement,
    item_values,
    stand,
)
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
from radar_callback.scoring.in_step import Make, check_independent, exchanges_in_forward, in_step
from radar_callback.scoring.plan import form_batches, row_lengths
from radar_callback.scoring.replicas import holders, replica_from
from radar_callback.scoring.scorer import Scorer, appearance, needs_every_rank
from radar_callback.scoring.source import EncodedBenchmark

log = logging.getLogger(__name__)

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
        collective: Whether a forward needs every rank.
        replica: Of the model, which this rank is a part of.
    """

    scorer: Scorer
    batches: list[tuple[int, ...]]
    control: list[tuple[int, ...]]
    spares: Mapping[bool, EncodedSample]
    collective: bool
    replica: Replica


class Setup:
    """Settles things at the first evaluation, and anew when the model is wrapped or cast otherwise.

    Args:
        source: The items.
        processor: The model's, which may know what an image costs.
        scorer: A way of scoring, or `"auto"`.
        batch_tokens: Bound on the tokens of a batch, padding counted; None finds one that needs no more memory than is free.
        options: What else must be the same on all ranks, by name.
        collective: Whether a forward needs every rank even if the model does not look like it.
    """

    def __init__(
        self,
        source: EncodedBenchmark,
        processor: Any,
        scorer: ScorerName = "auto",
        batch_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
        collective: bool = False,
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
        self._options = {
            "scorer": scorer,
            "batch_tokens": batch_tokens,
            "collective_forward": collective,
            **(options or {}),
        }
        self._declared = collective
        self._exchanging = False
        self._benchmark_values: tuple[int, ...] | None = None
        self._common: dict[bool, EncodedSample] = {}
        self._item_values: tuple[tuple[int, int, int], ...] = ()

    def ready(
        self,
        model: nn.Module,
        make: Make,
        ranks: Ranks,
        share: float = 1.0,
        control_share: float = 0.0,
        at_least: int = 1,
        asked: Mapping[str, Any] | None = None,
        replica: Replica | None = None,
    ) -> Ready:
        """Everything for the next evaluation.

        Args:
            model: The model.
            make: Makes a scorer for it.
            ranks: Who takes part; all must call this together.
            share: Of each ability's items; see :meth:`Benchmark.portion`.
            control_share: Of each ability's items, those that are also scored blind.
            at_least: Items of each ability in any case, as far as it has them; those scored blind are not meant.
            asked: What else an evaluation was asked for, by name: all ranks must have been asked for the same.
            replica: Which replica this rank is a part of, where the user has said so.

        Raises:
            BenchmarkError: If not a single item can be read and encoded, or ranks do not have the same ones.
            ConfigError: If ranks were not given the same arguments, or hold a model together in a way that is not known.
            EvaluationError: If it is not known on some rank how much memory a forward takes; on all of them.
            RanksApartError: If a forward that needs every rank failed on this one only.
        """
        spares, unusable = self._spares()
        face = appearance(model)
        changed = self._way is None or face != self._face
        compared = self._compared() if changed else {}
        stands = self._agreed(
            model,
            ranks,
            changed,
            (bool(spares), True in spares, False in spares),
            asked or {},
        )
        if any(stands.changed) and not changed:  # another rank's model looks otherwise than before: all settle anew
            self._way = None
            return self.ready(model, make, ranks, share, control_share, at_least, asked, replica)
        replica = replica or replica_from(stands.held, ranks.rank, _world_rank())
        seen = self._seen(compared, stands.readable(len(compared)), ranks) if changed else []
        if changed and ranks.size > 1:
            self._exchanging = self._exchanges(model, make, seen, ranks, known=replica is not None)
        collective = self.collective(model)
        self._check_usable(stands, ranks, collective, unusable)
        if changed:
            # Ranks that hold a copy together must be given the same: items that every rank can read.
            self._common = {item.n_images > 0: one for item, one in seen} if replica is not None else {}
        spares |= self._common
        spares = {kind: spares[kind] if kind in spares else spares[not kind] for kind in (True, False)}
        problem: Exception | None = None
        if changed:
            # How much memory a token takes is not known yet, so what is compared at once is little.
            few = self._batch_tokens or FEW_TOKENS
            careful = in_step(make, ranks, collective)
            groups = _groups([one for _, one in seen], few) or [[spares[True]]]
            agree = ranks.all_agree if collective else bool
            way, final = choose(careful, groups, ranks.all_agree, few, self._asked, agree)
            if self._batch_tokens is None and ranks.device.type == "cuda":
                try:
                    self._bytes = max(_bytes_a_token(careful(way), group, ranks.device) for group in groups)
                except Exception as error:
                    if ranks.size == 1 or isinstance(error, RanksApartError):
                        raise
                    problem = error
            self._batches, self._lengths = {}, []
            self._face, self._way = face if final else None, way
        assert self._way is not None
        scorer = make(self._way)
        budget = int(ranks.least(-1 if problem else min(self._tokens_that_fit(ranks), self._ceiling)))
        if budget < 0:
            self._way = None
            raise EvaluationError(
                "An evaluation could not be set up on some rank"
                + (f"; here: {type(problem).__name__}: {problem}" if problem else "; not on this one")
            ) from problem
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
        return Ready(scorer, batches, control, spares, collective, replica or ranks.replica)

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

    def _spares(self) -> tuple[dict[bool, EncodedSample], Exception | None]:
        """An item with images and one without, as far as this rank can use any; and why it could not use another."""
        items = self._source.benchmark.items
        found: dict[bool, EncodedSample] = {}
        first = None
        for seen in (True, False):
            for index in (i for i, item in enumerate(items) if (item.n_images > 0) == seen):
                try:
                    found[seen] = self._source[index]
                    break
                except Exception as error:  # on this rank alone, perhaps: the others wait for what it says next
                    first = first or error
        return found, first

    def _compared(self) -> dict[int, EncodedSample | None]:
        """A handful of items as different as the benchmark has them, by position; None for what this rank cannot read."""
        found = {index: self._readable(index) for index in various(self._source.benchmark.items, COMPARED_ITEMS)}
        self._item_values = tuple(map(item_values, found.values()))
        return found

    def _readable(self, index: int) -> EncodedSample | None:
        try:
            return self._source[index]
        except Exception:  # it is counted when it is its turn
            return None

    def _seen(
        self, compared: Mapping[int, EncodedSample | None], everywhere: Sequence[bool], ranks: Ranks
    ) -> list[tuple[Item, EncodedSample]]:
        """A handful of items as different as the benchmark has them, of which every rank can read all.

        Args:
            compared: Those that were chosen first, by position.
            everywhere: Of each of them, whether all ranks can read it.
            ranks: Who takes part.
        """
        items = self._source.benchmark.items
        remaining = list(range(len(items)))
        for _ in range(CHOICES - 1):
            # What cannot be encoded is often an extreme, as those that are chosen are: others take its place.
            lost = {index for index, fine in zip(compared, everywhere, strict=True) if not fine}
            if not lost or len(lost) == len(remaining):
                break
            remaining = [i for i in remaining if i not in lost]
            chosen = [remaining[place] for place in various([items[i] for i in remaining], COMPARED_ITEMS)]
            compared = {index: self._readable(index) for index in chosen}
            having = torch.tensor([one is not None for one in compared.values()]).long()
            everywhere = (ranks.sum(having) == ranks.size).tolist()
        return [
            (items[index], one)
            for (index, one), fine in zip(compared.items(), everywhere, strict=True)
            if fine and one is not None
        ]

    def _agreed(
        self,
        model: nn.Module,
        ranks: Ranks,
        changed: bool,
        kinds: tuple[bool, bool, bool],
        asked: Mapping[str, Any],
    ) -> Stands:
        """What all ranks are about to do, if that is the same.

        Raises:
            BenchmarkError: If they do not have the same items, or not the same versions of what reads them.
            ConfigError: If they were not given the same arguments.
        """
        if ranks.size == 1:
            return Stands(Stand(changed=changed, kinds=kinds, items=self._item_values).row()[None])
        if self._benchmark_values is None:
            self._benchmark_values = benchmark_values(self._source.benchmark)
        own = stand(
            self._benchmark_values,
            {**self._options, **asked},
            self._item_values,
            changed=changed,
            kinds=kinds,
            held=holders(model),
        )
        stands = Stands(ranks.rows(own.row()))
        if (error := disagreement(stands, own, self._source.benchmark.name)) is not None:
            raise error
        return stands

    def _exchanges(
        self, model: nn.Module, make: Make, seen: Sequence[tuple[Item, EncodedSample]], ranks: Ranks, known: bool
    ) -> bool:
        """Whether a forward that does not look like it needs every rank, as trying shows.

        Args:
            model: The model.
            make: Makes a scorer for it.
            seen: Items that every rank has.
            ranks: Who takes part.
            known: Whether it is known which ranks hold a copy of the model together.
        """
        kinds = {item.n_images > 0: one for item, one in sorted(seen, key=lambda pair: -pair[1].prefix_length)}
        if needs_every_rank(model) or not kinds:
            return False
        exchanging = self._declared or exchanges_in_forward(make, list(kinds.values()), ranks)
        if exchanging and not known:
            check_independent(make, kinds[min(kinds)], ranks)
        if exchanging and not self._declared:
            log.warning(
                "A forward of this model exchanges something between ranks though its weights are not sharded: every rank "
                "takes part in every forward. Say so with collective_forward=True to be sure of it."
            )
        return exchanging

    def collective(self, model: nn.Module) -> bool:
        """Whether a forward of the model needs every rank, as far as is known so far."""
        return self._declared or self._exchanging or needs_every_rank(model)

    def _check_usable(self, stands: Stands, ranks: Ranks, collective: bool, first: Exception | None) -> None:
        """Makes sure that every rank can use some item, and can make the forwards that others make.

        A rank that has none of a kind where others do would make other forwards than they do; where ranks work apart, the items
        it cannot read are counted when it is their turn.
        """
        having = stands.kinds
        if having[0] < ranks.size or (collective and not {*having} <= {0, ranks.size}):
            lacking = "" if having[0] < ranks.size else " with images, or none without,"
            raise BenchmarkError(
                f"Expected items to score in benchmark {self._source.benchmark.name!r}, but none of its "
                f"{len(self._source.benchmark.items)}{lacking} can be used"
                + (f"; the first says: {first}." if first is not None else " on another rank.")
            )


def _world_rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


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
    except torch.OutOfMemoryError:  # on all ranks, if a forward needs them
        torch.cuda.empty_cache()
        return 2 * free_memory(device) / max(1, scorer.fed - before)


def _tokens(scorer: Scorer, group: Sequence[EncodedSample]) -> int:
    before = scorer.fed
    scorer(group)
    return scorer.fed - before
