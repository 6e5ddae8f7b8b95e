"""Encoded items of a benchmark, read when asked for and remembered while there is room."""

from __future__ import annotations

from radar_callback.benchmark.reader import Benchmark
from radar_callback.scoring.encode import EncodedSample, SampleEncoder


class EncodedBenchmark:
    """A benchmark seen through an encoder.

    Every evaluation goes through all items in the same order, for which "keep what came first until the room is used up" is
    the best a bounded cache can do (evicting the oldest would evict each item just before it is needed again).

    Args:
        benchmark: Where items come from.
        encode: Turns one into model inputs.
        cache_bytes: Bound on the memory that remembered items take on this rank.
    """

    def __init__(self, benchmark: Benchmark, encode: SampleEncoder, cache_bytes: int) -> None:
        self.benchmark = benchmark
        self._encode = encode
        self._room = cache_bytes
        self._kept: dict[int, EncodedSample] = {}

    def __getitem__(self, index: int) -> EncodedSample:
        """The encoded item at a position of the benchmark.

        Raises:
            ItemError: If it cannot be read or encoded. Never remembered: a file system may recover.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        encoded = self._encode(self.benchmark.read(index))
        if encoded.nbytes <= self._room:
            self._room -= encoded.nbytes
            self._kept[index] = encoded
        return encoded
