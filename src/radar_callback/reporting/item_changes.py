"""The items behind a change: those forgotten and those learned since the evaluation before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import decode_image
from radar_callback.errors import ItemError
from radar_callback.item_scores import ItemIndex, ItemScores

ITEMS_KEY = "radar/items"
COLUMNS = ("ability", "key", "before", "after", "question", "answer", "candidates", "image", "since", "step")


@dataclass(frozen=True)
class ItemChange:
    """One item whose score changed.

    Attributes:
        position: Of the item in its benchmark.
        key: Of the item.
        ability: What it measures.
        before: Its SDS at the earlier evaluation.
        after: Its SDS at the later one.
        probabilities: Of its candidates at the later one, the correct one first.
    """

    position: int
    key: str
    ability: str
    before: float
    after: float
    probabilities: tuple[float, ...]


def largest_changes(
    index: ItemIndex, before: ItemScores, after: ItemScores, count: int = 8
) -> tuple[list[ItemChange], list[ItemChange]]:
    """The items that fell and those that rose the most.

    Args:
        index: The items.
        before: Their earlier scores.
        after: Their later scores.
        count: At most so many of each.

    Returns:
        Fallen ones, the worst first, and risen ones, the best first. Items that did not move are in neither.
    """
    earlier, later = before.sds(index), after.sds(index)
    difference = later - earlier
    order = [int(i) for i in np.argsort(difference, kind="stable") if np.isfinite(difference[i])]

    def told(i: int) -> ItemChange:
        at = slice(int(index.starts[i]), int(index.starts[i + 1]))
        return ItemChange(
            position=i,
            key=index.keys[i],
            ability=index.abilities[i],
            before=float(earlier[i]),
            after=float(later[i]),
            probabilities=tuple(float(p) for p in after.probabilities[at]),
        )

    fallen = [told(i) for i in order[:count] if difference[i] < 0]
    risen = [told(i) for i in order[::-1][:count] if difference[i] > 0]
    return fallen, risen


class ItemChanges:
    """The items that changed the most between the last two evaluations, with what a person needs to judge them.

    Args:
        benchmark: Where the items come from.
        index: The items.
        since: Step of the earlier evaluation.
        before: Its scores.
        step: Step of the later evaluation.
        after: Its scores.
    """

    def __init__(
        self, benchmark: Benchmark, index: ItemIndex, since: int, before: ItemScores, step: int, after: ItemScores
    ) -> None:
        self._benchmark = benchmark
        self._steps = since, step
        self._fallen, self._risen = largest_changes(index, before, after)

    def rows(self, picture: Callable[[Image.Image], Any]) -> list[list[Any]]:
        """Rows of a table under `COLUMNS`, the worst first.

        Args:
            picture: Makes a cell from an image.
        """
        found = []
        for one in [*self._fallen, *self._risen[::-1]]:
            try:
                sample = self._benchmark.read(one.position)
                image = picture(thumbnail(sample.images)) if sample.images else None
            except ItemError:  # it was readable when it was scored
                continue
            told = zip(sample.candidates, one.probabilities, strict=True)
            candidates = " | ".join(f"{text} {p:.2f}" for text, p in told)
            cells = [one.ability, one.key, one.before, one.after, sample.question, sample.answer, candidates, image]
            found.append([*cells, *self._steps])
        return found


def thumbnail(images: Sequence[bytes], side: int = 160) -> Image.Image:
    """An item's images beside each other, small.

    Args:
        images: Files' contents.
        side: Largest height of each, in pixels.

    Raises:
        ItemError: If one cannot be opened.
    """
    small = []
    for data in images:
        image = decode_image(data, "an image")
        image.thumbnail((2 * side, side))
        small.append(image)
    sheet = Image.new(
        "RGB", (sum(one.width for one in small) + 4 * (len(small) - 1), max(i.height for i in small)), "white"
    )
    left = 0
    for one in small:
        sheet.paste(one, (left, 0))
        left += one.width + 4
    return sheet
