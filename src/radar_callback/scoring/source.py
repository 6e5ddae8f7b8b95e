"""Encoded items of a benchmark: remembered while there is room, the others prepared by worker processes ahead of the model."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Sample
from radar_callback.errors import ItemError, Reason
from radar_callback.scoring.encode import EncodedSample, one_line
from radar_callback.scoring.shelf import Shelf

WORTH_A_WORKER = 64
"""Items from which on worker processes are started: they take a moment to start."""

Encoded = EncodedSample | ItemError
"""An item, or why there is none."""


class EncodedBenchmark:
    """A benchmark seen through an encoder.

    Args:
        benchmark: Where items come from.
        encode: Turns one into model inputs.
        cache_bytes: Bound on the memory that remembered items take on this rank.
        workers: Processes that read and encode what is not remembered; 0: this process does. If None, as many as there are
            cores to spare on this rank, 8 at most.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        encode: Callable[[Sample], EncodedSample],
        cache_bytes: int,
        workers: int | None = None,
    ) -> None:
        self.benchmark = benchmark
        self._encode = encode
        self._workers = spare_cores() if workers is None else workers
        self._shelf: Shelf[EncodedSample] = Shelf(cache_bytes)
        self._dtype = torch.float32

    def cast(self, dtype: torch.dtype) -> None:
        """From now on gives pixels in the precision of the model, which they would be turned into anyway."""
        if dtype != self._dtype:
            self._dtype = dtype
            self._shelf.clear()

    def __getitem__(self, index: int) -> EncodedSample:
        """The encoded item at a position of the benchmark.

        Raises:
            ItemError: If it cannot be read or encoded. Never remembered: a file system may recover.
        """
        encoded = self._get(index)
        if isinstance(encoded, ItemError):
            raise encoded
        return encoded

    def stream(self, batches: Sequence[Sequence[int]]) -> Iterator[list[Encoded]]:
        """Batch after batch of an evaluation, each in the order of its positions."""
        self._shelf.begin()
        missing = [[i for i in batch if i not in self._shelf] for batch in batches]
        if self._workers == 0 or sum(map(len, missing)) < WORTH_A_WORKER:
            for batch in batches:
                yield [self._get(i) for i in batch]
            return
        with _quiet_tokenizers():
            # A generator of its own: an iterator would otherwise draw its seed from the stream that training draws from.
            prepared = iter(
                DataLoader(
                    _Batches(missing, self),
                    batch_size=None,
                    num_workers=min(self._workers, len(batches)),
                    generator=torch.Generator(),
                )
            )
        for batch, absent, packets in zip(batches, missing, prepared, strict=True):
            fresh = {i: self._keep(i, _unpacked(packet)) for i, packet in zip(absent, packets, strict=True)}
            yield [fresh[i] if i in fresh else self._get(i) for i in batch]

    def encoded(self, index: int) -> Encoded:
        """Reads and encodes an item, whatever is remembered."""
        try:
            sample = self.benchmark.read(index)
        except ItemError as error:
            return error
        try:
            encoded = self._encode(sample)
            vision = {name: x.to(self._dtype) if x.is_floating_point() else x for name, x in encoded.vision.items()}
            return replace(encoded, vision=vision)
        except ItemError as error:
            return error
        except Exception as error:  # whatever one item makes fail is that item's
            return ItemError(Reason.NOT_ENCODABLE, f"item {sample.key!r}: {one_line(error)}")

    def __getstate__(self) -> dict[str, Any]:
        """For workers, where processes start afresh: they need nothing that is remembered."""
        return {**self.__dict__, "_shelf": Shelf(0)}

    def _get(self, index: int) -> Encoded:
        kept = self._shelf.get(index)
        return self._keep(index, self.encoded(index)) if kept is None else kept

    def _keep(self, index: int, encoded: Encoded) -> Encoded:
        if isinstance(encoded, ItemError) or not self._shelf.has_room(encoded.nbytes):
            return encoded
        # Copied out of the memory shared with a worker, of which there is less, and which takes an open file each.
        own = replace(encoded, vision={name: x.clone() if x.is_shared() else x for name, x in encoded.vision.items()})
        self._shelf.put(index, own, own.nbytes)
        return own


def spare_cores(ranks: int | None = None) -> int:
    """Cores that a rank can put to preparing items: its share of those this process may use, but for one; from 1 to 8.

    Args:
        ranks: On this machine; if left out, as many as torchrun says, or one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = ranks or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, cores // max(1, ranks) - 1))


Packet = tuple[bytes, dict[str, Tensor]] | tuple[str, str]
"""What a worker sends: pixels through shared memory, all else (many small tensors) as bytes; or a reason and its detail."""


class _Batches(Dataset[list[Packet]]):
    """What is to be prepared, a batch at a time."""

    def __init__(self, missing: Sequence[Sequence[int]], source: EncodedBenchmark) -> None:
        self._missing = missing
        self._source = source

    def __len__(self) -> int:
        return len(self._missing)

    def __getitem__(self, turn: int) -> list[Packet]:
        return [_packed(self._source.encoded(i)) for i in self._missing[turn]]


def _packed(encoded: Encoded) -> Packet:
    if isinstance(encoded, ItemError):
        return str(encoded.reason), encoded.detail
    return pickle.dumps(replace(encoded, vision={})), dict(encoded.vision)


def _unpacked(packet: Any) -> Encoded:
    first, second = packet
    if isinstance(first, str):
        return ItemError(Reason(first), second)
    sample: EncodedSample = pickle.loads(first)
    return replace(sample, vision=second)


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """The tokenizers library warns in every forked process unless it was told beforehand."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
