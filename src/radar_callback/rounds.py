"""One rank's way through the batches: every round a forward, whatever goes wrong, since sharded models need every rank in each.

What one item lacks is counted with that item. What goes wrong with a whole batch (memory runs out, a forward raises) concerns all
ranks: they learn of it when all rounds are over, together, so that nobody waits for a rank that has given up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch

from radar_callback.errors import EvaluationError, ItemError, RanksApartError, Reason
from radar_callback.ranks import Ranks, Replica, apart
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.features import FeatureMemory
from radar_callback.scoring.reading import CandidateScores
from radar_callback.scoring.scorer import Scorer, needs_every_rank
from radar_callback.scoring.source import Encoded

log = logging.getLogger(__name__)


class Counts(Protocol):
    """What becomes of items."""

    def count(self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores) -> None:
        """Takes a batch of scored items."""

    def fail(self, index: int, error: ItemError) -> None:
        """Takes an item that could not be scored."""


class Nowhere:
    """For a rank that computes with others what one of them counts."""

    def count(self, indices: Sequence[int], encoded: Sequence[EncodedSample], scores: CandidateScores) -> None:
        """Nothing."""

    def fail(self, index: int, error: ItemError) -> None:
        """Nothing."""


class Rounds:
    """Scores batches and counts what comes of them.

    Args:
        score: The way of scoring.
        spares: Items for rounds in which there is nothing else to forward, by whether the other ranks' batches have images.
        features: Remembers a frozen vision tower's answers.
        ranks: Who takes part.
        cancelled: Whether what is left need not be scored any more. Where a forward needs every rank, it is scored all the same.
        collective: Whether a forward needs every rank; if left out, whether the model looks like it.
        replica: Which copy of the model this rank is a part of, where several ranks hold one together.
        most_items: Items of the largest batch of all ranks.
    """

    def __init__(
        self,
        score: Scorer,
        spares: Mapping[bool, EncodedSample],
        features: FeatureMemory,
        ranks: Ranks,
        cancelled: Callable[[], bool] = lambda: False,
        collective: bool | None = None,
        replica: Replica | None = None,
        most_items: int = 0,
    ) -> None:
        self._score = score
        self._spares = spares
        self._features = features
        self._ranks = ranks
        self._together = needs_every_rank(score.model) if collective is None else collective
        self._cancelled = cancelled
        self._copy = replica if replica is not None and replica.count < ranks.size else None
        self._most_items = most_items
        self._error: Exception | None = None
        self._parts = 1
        self.waited = 0.0

    def take(
        self,
        batch: Sequence[int],
        stream: Iterator[list[Encoded]],
        into: Counts,
        with_images: bool,
    ) -> None:
        """One round.

        Args:
            batch: Positions of its items.
            stream: Gives the encoded items of one batch after another.
            into: Takes the items' scores, or why there are none.
            with_images: Whether all ranks' items have images in this round.
        """
        asked = time.perf_counter()
        found = self._next(stream)
        self.waited += time.perf_counter() - asked
        usable: list[tuple[int, EncodedSample]] = []
        for index, one in zip(batch, found, strict=False):
            if isinstance(one, ItemError):
                into.fail(index, one)
            else:
                usable.append((index, one))
        usable = self._usable_in_copy(batch, usable, into)
        calls = self._score.calls
        try:
            self._score_in_parts(usable, into)
        except RanksApartError:
            raise
        except Exception as error:
            if self._ranks.size == 1:  # nobody is waiting
                raise
            self._error = self._error or error
        if self._score.calls == calls:
            self._keep_step(with_images)

    def idle(self, with_images: bool) -> None:
        """A round in which other ranks have a batch and this one has not; where no forward needs the others, it is nothing.

        Args:
            with_images: Whether the others' items have images.
        """
        self._usable_in_copy([], [], Nowhere())
        self._keep_step(with_images)

    def _keep_step(self, with_images: bool) -> None:
        if not self._together or self._ranks.size == 1:
            return
        spare = [self._spares[with_images]]
        try:
            self._forward(spare)
        except RanksApartError:
            raise
        except Exception as error:
            # Nothing has been asked of the model yet, and the others wait for that: what may be in the way is left out.
            self._error = self._error or error
            self._score.without_context()
            try:
                self._forward(spare)
            except RanksApartError:
                raise
            except Exception as again:
                raise apart(self._ranks, again) from again

    def finish(self) -> bool:
        """Ends the evaluation on all ranks alike.

        Returns:
            Whether memory ran out on any rank, so that batches should be smaller from now on.

        Raises:
            EvaluationError: If a round failed on any rank; from the error, on the rank that had it.
        """
        failed, split = self._ranks.sum(torch.tensor([int(self._error is not None), int(self._parts > 1)])).tolist()
        if failed:
            raise EvaluationError(
                f"An evaluation failed on {failed} of {self._ranks.size} ranks"
                + (f"; here: {type(self._error).__name__}: {self._error}" if self._error else "; not on this one")
            ) from self._error
        return bool(split)

    def _usable_in_copy(
        self, batch: Sequence[int], usable: list[tuple[int, EncodedSample]], into: Counts
    ) -> list[tuple[int, EncodedSample]]:
        """Those of a batch's items that every rank has which holds the same copy of the model: all must be given the same."""
        if self._copy is None:
            return usable
        own = {index for index, _ in usable}
        row = torch.zeros(1 + self._most_items, dtype=torch.int64)
        row[0] = self._copy.index
        row[1 : 1 + len(batch)] = torch.tensor([index in own for index in batch])
        rows = self._ranks.rows(row)
        everywhere = rows[rows[:, 0] == self._copy.index, 1 : 1 + len(batch)].bool().all(0).tolist()
        having = {index for index, fine in zip(batch, everywhere, strict=True) if fine}
        for index in own - having:
            into.fail(
                index, ItemError(Reason.UNREADABLE, "a rank that holds the model together with this one lacks it")
            )
        return [pair for pair in usable if pair[0] in having]

    def _next(self, stream: Iterator[list[Encoded]]) -> list[Encoded]:
        if self._error is None and not self._together and self._is_cancelled():
            self._error = EvaluationError("the run is being ended")
            if self._ranks.size == 1:
                raise self._error
        if self._error is not None:
            return []
        try:
            return next(stream)
        except Exception as error:  # a worker process that was killed, for one
            if self._ranks.size == 1:
                raise
            self._error = error
            return []

    def _is_cancelled(self) -> bool:
        try:
            return self._cancelled()
        except Exception as error:  # a question of the user's, which has no answer any more
            log.warning(
                "Asking whether to go on with an evaluation failed (%s: %s); going on.", type(error).__name__, error
            )
            self._cancelled = lambda: False
            return False

    def _score_in_parts(self, usable: Sequence[tuple[int, EncodedSample]], into: Counts) -> None:
        """Scores a batch, in as many parts as memory has turned out to need, which is one unless it ran out."""
        waiting = [part for part in _split(usable, self._parts) if part]
        while waiting:
            part = waiting.pop(0)
            indices, encoded = zip(*part, strict=True)
            try:
                with self._features.batch():
                    scores = self._forward(encoded)
            except torch.OutOfMemoryError as error:
                if self._together:
                    raise
                if len(part) == 1:
                    into.fail(indices[0], ItemError(Reason.OUT_OF_MEMORY, f"not even alone: {error}"))
                else:
                    self._halve(len(part))
                    waiting[:0] = _split(part, 2)
                    continue
            else:
                into.count(indices, encoded, scores)

    def _forward(self, encoded: Sequence[EncodedSample]) -> CandidateScores:
        calls = self._score.calls
        try:
            return self._score(encoded)
        except Exception as error:
            if self._together and self._ranks.size > 1 and self._score.calls > calls:
                raise apart(self._ranks, error) from error
            raise

    def _halve(self, items: int) -> None:
        if self._parts == 1:
            log.warning("Out of memory in a batch of %d items: batches are halved from here on.", items)
        self._parts *= 2
        if self._ranks.device.type == "cuda":
            torch.cuda.empty_cache()


def _split(items: Sequence[tuple[int, EncodedSample]], parts: int) -> list[Sequence[tuple[int, EncodedSample]]]:
    size = max(1, -(-len(items) // parts))
    return [items[start : start + size] for start in range(0, len(items), size)]
