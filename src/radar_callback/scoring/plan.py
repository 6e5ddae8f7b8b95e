"""Which items are scored together and by whom: a pure function of the manifest.

Batches are formed once, globally, and dealt whole. What a batch holds never depends on the number of ranks, so neither do
the bits of its logits, and every rank knows before the first forward how many there will be.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from radar_callback.benchmark.manifest import Item

T = TypeVar("T")


def row_lengths(
    items: Sequence[Item], image_tokens: Callable[[int, int], float], characters_a_token: float, together: bool
) -> list[float]:
    """Estimated tokens of each item's longest row. A wrong guess costs speed, never correctness.

    Args:
        items: Entries of the manifest.
        image_tokens: What an image of some width and height becomes in this model.
        characters_a_token: Of texts like the benchmark's, in this model's tokeniser.
        together: Whether all candidates of an item stand in one row, or each in a row of its own.
    """
    candidates = sum if together else max
    return [
        sum(image_tokens(*size) for size in item.image_sizes)
        + (item.question_chars + candidates(item.candidate_chars)) / characters_a_token
        for item in items
    ]


def form_batches(
    lengths: Sequence[float], rows: Sequence[int], images: Sequence[int], max_tokens: float
) -> list[tuple[int, ...]]:
    """Global batches of items with as many images and of similar length, the largest first.

    Items with different numbers of images stay apart because some families cannot mix them (Mllama has an input with a place
    for each image of a row), and because they are of different lengths anyway.

    Args:
        lengths: Tokens of each item's longest row.
        rows: Rows each item takes in a batch.
        images: Images of each item.
        max_tokens: A batch holds at most this many tokens, padding counted; an item larger than that is alone.

    Returns:
        Positions in `lengths`, each exactly once.

    Example:
        >>> form_batches([10, 40, 10, 10], rows=[2, 2, 2, 2], images=[1, 1, 1, 1], max_tokens=60)
        [(1,), (0, 2, 3)]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-images[i], -lengths[i], i))
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    width, height = 0.0, 0
    for i in order:
        full = max(width, lengths[i]) * (height + rows[i]) > max_tokens
        if batch and (full or images[i] != images[batch[0]]):
            batches.append(tuple(batch))
            batch, width, height = [], 0.0, 0
        batch.append(i)
        width, height = max(width, lengths[i]), height + rows[i]
    if batch:
        batches.append(tuple(batch))
    return sorted(batches, key=lambda batch: -max(lengths[i] for i in batch) * sum(rows[i] for i in batch))


@dataclass(frozen=True)
class Turn(Generic[T]):
    """What a rank does in one round.

    Attributes:
        batch: What it scores; None if the round is only there to keep every rank at the same number of forwards.
        kind: What the batches of all ranks have in common in this round.
    """

    batch: T | None
    kind: Hashable = None


def deal(
    batches: Sequence[T], rank: int, world_size: int, kind: Callable[[T], Hashable] = lambda batch: None
) -> Iterator[Turn[T]]:
    """The turns of one rank: as many as every other rank has.

    Batches of one round are alike in size, since no rank is faster than the slowest where a forward needs them all. Every other
    round goes through the ranks from the last to the first, or the first would have the larger batch in each.

    Args:
        batches: From :func:`form_batches`, the same on every rank, in whatever form they are carried.
        rank: Of this process.
        world_size: Number of ranks.
        kind: Batches of different kinds make a model run different modules, as a batch without images leaves out the vision
            tower. Where modules are sharded the ranks would wait for each other, so a round is of one kind.

    Example:
        >>> [turn.batch for turn in deal([(3,), (1,), (0, 2)], rank=0, world_size=2)]
        [(3,), None]
    """
    kinds: dict[Hashable, list[T]] = {}
    for batch in batches:
        kinds.setdefault(kind(batch), []).append(batch)
    for name, alike in kinds.items():
        for number, start in enumerate(range(0, len(alike), world_size)):
            mine = start + (world_size - 1 - rank if number % 2 else rank)
            yield Turn(alike[mine] if mine < len(alike) else None, name)
