"""radar-mini, the built-in benchmark: eighteen abilities, drawn by this package, the same on every machine.

Example:
    >>> from radar_callback.benchmark.mini import generate
    >>> first = next(generate())
    >>> first.key, first.ability, len(first.candidates)
    ('colour-000', 'colour', 4)
"""

from __future__ import annotations

from collections.abc import Iterator

from radar_callback.benchmark.mini.items import Ability, items
from radar_callback.benchmark.mini.perception import PERCEPTION
from radar_callback.benchmark.mini.reasoning import REASONING
from radar_callback.benchmark.sample import Sample

ABILITIES: tuple[Ability, ...] = (*PERCEPTION, *REASONING)

TREE: dict[str, dict[str, list[str]]] = {
    group: {ability.name: [] for ability in ABILITIES if ability.group == group}
    for group in ("perception", "reasoning")
}
"""Groups and abilities, as the manifest wants them; no ability has categories."""


def generate(seed: int = 0, items_per_ability: int = 128) -> Iterator[Sample]:
    """Draws the benchmark, ability after ability.

    Args:
        seed: Another seed is another benchmark of the same kind.
        items_per_ability: A multiple of four keeps every round whole, and with it the balance of the answers.
    """
    for ability in ABILITIES:
        yield from items(ability, seed, items_per_ability)


__all__ = ["ABILITIES", "TREE", "Ability", "generate"]
