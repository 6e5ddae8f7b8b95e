"""What is in a benchmark, as plain values: for a table in the terminal, or for JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from radar_callback.benchmark.manifest import Item
from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import ItemError


@dataclass(frozen=True)
class AbilityRow:
    """What a benchmark has for one ability.

    Attributes:
        group: The group it belongs to.
        ability: Its name.
        items: How many items there are.
        skipped: How many were left out when the shards were built.
        categories: `{category: items}`; empty if it has none.
        candidates: Fewest and most candidates of an item.
        chance: Share of items that guessing gets right, mean of 1/K.
        images: Fewest and most images of an item.
        pixels: Smallest and largest image, as `(width, height)`; None without images.
        bytes: Space of its items in the shards.
    """

    group: str
    ability: str
    items: int
    skipped: int
    categories: dict[str, int]
    candidates: tuple[int, int]
    chance: float
    images: tuple[int, int]
    pixels: tuple[tuple[int, int], tuple[int, int]] | None
    bytes: int


def ability_rows(benchmark: Benchmark) -> list[AbilityRow]:
    """One row an ability, in the order of the tree, from the manifest alone."""
    items: dict[str, list[Item]] = {ability: [] for ability in benchmark.taxonomy.abilities}
    for item in benchmark.items:
        items[item.ability].append(item)
    skipped = Counter(left_out.ability for left_out in benchmark.skipped)
    return [_row(benchmark, ability, found, skipped[ability]) for ability, found in items.items()]


def _row(benchmark: Benchmark, ability: str, found: list[Item], skipped: int) -> AbilityRow:
    group = benchmark.taxonomy.group_of(ability)
    names = benchmark.taxonomy.tree[group][ability]
    counts = Counter(item.category for item in found)
    candidates = [len(item.candidate_chars) for item in found] or [0]
    images = [item.n_images for item in found] or [0]
    sizes = sorted((size for item in found for size in item.image_sizes), key=lambda size: (size[0] * size[1], size))
    return AbilityRow(
        group=group,
        ability=ability,
        items=len(found),
        skipped=skipped,
        categories={name: counts[name] for name in names},
        candidates=(min(candidates), max(candidates)),
        chance=sum(1 / k for k in candidates) / len(found) if found else 0.0,
        images=(min(images), max(images)),
        pixels=(sizes[0], sizes[-1]) if sizes else None,
        bytes=sum(item.size for item in found),
    )


def examples(benchmark: Benchmark, count: int) -> list[dict[str, Any]]:
    """A few items of different abilities, spread evenly over the tree; one that cannot be read is shown with the reason."""
    first = {item.ability: item for item in reversed(benchmark.limit(1).items)}
    chosen = [first[ability] for ability in benchmark.taxonomy.abilities if ability in first]
    step = max(1, len(chosen) // count) if count else 1
    positions = {item.key: item.index for item in benchmark.items}
    return [_example(benchmark, positions[item.key]) for item in chosen[::step][:count]]


def _example(benchmark: Benchmark, index: int) -> dict[str, Any]:
    item = benchmark.items[index]
    shown: dict[str, Any] = {
        "key": item.key,
        "ability": item.ability,
        "images": [list(size) for size in item.image_sizes],
    }
    try:
        sample = benchmark.read(index)
    except ItemError as error:
        return {**shown, "error": error.detail}
    return {**shown, "question": sample.question, "answer": sample.answer, "distractors": list(sample.distractors)}
