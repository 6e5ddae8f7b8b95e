"""Whether all ranks are about to score the same thing in the same way: one exchange of fixed size, before any other.

Ranks that read different copies of a benchmark, or tokenise it differently, would score in silence or wait for each other. So
each puts what it is about to do into a row of numbers, as long on every rank whatever it holds, and every rank compares all rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import BenchmarkError, ConfigError, RadarError
from radar_callback.scoring.encode import EncodedSample

COMPARED_ITEMS = 8
"""Items whose tokens and pixels are compared."""

LIBRARIES = ("radar_callback", "torch", "transformers", "tokenizers", "PIL")
"""What decides how an item is read, tokenised and scored."""

OPTIONS = (
    "scorer",
    "prompt",
    "items_per_ability",
    "blind_share",
    "batch_tokens",
    "collective_forward",
    "share",
    "at_least",
    "few",
    "per_sample",
)
"""Arguments that must be the same on all ranks."""

PIXELS_DIFFER = 0.01
"""Pixels that differ by this share were prepared in another way: machines that round otherwise differ by far less."""

_CONTENT = (
    "number of items",
    "order of the items",
    "items' keys",
    "items' text or files",
    "images",
    "abilities or items left out",
)
_NAMES = (*_CONTENT, *(f"version of {'pillow' if name == 'PIL' else name}" for name in LIBRARIES), *OPTIONS)
_FLAGS = 8
_TOKENS = _FLAGS + len(_NAMES)
_PIXELS = _TOKENS + COMPARED_ITEMS
WIDTH = 64
"""Numbers in a row; more than are used, so that another release has rows of the same length to differ in."""
assert _PIXELS + 2 * COMPARED_ITEMS <= WIDTH

_UNIT = 2**20
"""Fixed point of what is compared about pixels."""


@dataclass(frozen=True)
class Stand:
    """What one rank is about to do.

    Attributes:
        changed: Whether it settles the way of scoring anew.
        kinds: Whether it can use any item at all, one with images, and one without.
        held: Of its copy of the model the smallest rank, how many ranks, and a number that only the same ranks give.
        values: What must be the same on all ranks, as numbers, in the order of what they are called in an error.
        shown: The same as text, where an error can show it.
        items: Of each item that is compared: a number for its tokens, and mean and mean square of its pixels; all 0 for one
            that this rank cannot read.
    """

    changed: bool = False
    kinds: tuple[bool, bool, bool] = (False, False, False)
    held: tuple[int, int, int] = (-1, 0, 0)
    values: tuple[int, ...] = (0,) * len(_NAMES)
    shown: Mapping[str, str] = field(default_factory=dict)
    items: tuple[tuple[int, int, int], ...] = ()

    def row(self) -> Tensor:
        """`[WIDTH]` int64."""
        row = torch.zeros(WIDTH, dtype=torch.int64)
        flags = [1, int(self.changed), *map(int, self.kinds), *self.held]
        row[:_FLAGS] = torch.tensor(flags)
        row[_FLAGS:_TOKENS] = torch.tensor(self.values)
        for place, (tokens, mean, square) in enumerate(self.items):
            row[_TOKENS + place] = tokens
            row[_PIXELS + 2 * place : _PIXELS + 2 * place + 2] = torch.tensor([mean, square])
        return row


@dataclass(frozen=True)
class Stands:
    """What all ranks are about to do: `[ranks, WIDTH]`."""

    rows: Tensor

    @property
    def changed(self) -> list[bool]:
        """Of each rank, whether it settles the way of scoring anew."""
        return [bool(row[1]) for row in self.rows]

    @property
    def kinds(self) -> list[int]:
        """How many ranks can use any item at all, one with images, and one without."""
        return [int(n) for n in self.rows[:, 2:5].sum(0)]

    @property
    def held(self) -> list[tuple[int, int, int]]:
        """See :attr:`Stand.held`, of each rank."""
        return [(int(row[5]), int(row[6]), int(row[7])) for row in self.rows]

    def readable(self, count: int) -> list[bool]:
        """Of each item that is compared, whether every rank can read it."""
        return [bool((self.rows[:, _TOKENS + place] != 0).all()) for place in range(count)]


def benchmark_values(benchmark: Benchmark) -> tuple[int, ...]:
    """Numbers for what a benchmark holds, each of which says something else about where two copies differ."""
    items = benchmark.items
    keys = [item.key for item in items]
    by_key = sorted(items, key=lambda item: item.key)
    content = [
        [i.key, i.size, i.crc32, i.ability, i.category, i.question_chars, i.candidate_chars, i.round] for i in by_key
    ]
    images = [[item.key, item.image_sizes, item.image_crc32] for item in by_key]
    # Not its name: that of shards without a manifest is their folder's, which may be a machine's own.
    rest = [benchmark.taxonomy.tree, [[s.key, s.ability, s.reason] for s in benchmark.skipped]]
    return len(items), *map(_number, (keys, sorted(keys), content, images, rest))


def item_values(item: EncodedSample | None) -> tuple[int, int, int]:
    """A number for an item's tokens, and mean and mean square of its pixels; all 0 for one that cannot be read."""
    if item is None:
        return 0, 0, 0
    tokens = [
        {name: value.tolist() for name, value in item.prefix.items() if not value.is_floating_point()},
        [[tail.ids.tolist(), tail.scored] for tail in item.tails],
        {name: list(value.shape) for name, value in item.vision.items()},
    ]
    pixels = [value.double() for value in item.vision.values() if value.is_floating_point() and value.numel()]
    means = [sum((float((x**power).mean()) for x in pixels), 0.0) / max(1, len(pixels)) for power in (1, 2)]
    first, second = (round(max(-1e6, min(1e6, mean if mean == mean else 0.0)) * _UNIT) for mean in means)
    return _number(tokens), first, second


def versions() -> dict[str, str]:
    """Versions of the libraries that decide how an item is scored."""
    import importlib

    return {name: str(getattr(importlib.import_module(name), "__version__", "unknown")) for name in LIBRARIES}


def stand(
    benchmark: tuple[int, ...],
    options: Mapping[str, Any],
    items: Sequence[tuple[int, int, int]],
    *,
    changed: bool,
    kinds: tuple[bool, bool, bool],
    held: frozenset[int],
) -> Stand:
    """What this rank is about to do.

    Args:
        benchmark: From :func:`benchmark_values`.
        options: By their names in :data:`OPTIONS`.
        items: From :func:`item_values`, of each item that is compared.
        changed: See :class:`Stand`.
        kinds: See :class:`Stand`.
        held: Ranks that hold a copy of the model together with this one.
    """
    installed = versions()
    chosen = {name: _plain(options.get(name)) for name in OPTIONS}
    names = {f"version of {'pillow' if name == 'PIL' else name}": value for name, value in installed.items()}
    return Stand(
        changed=changed,
        kinds=kinds,
        held=(min(held), len(held), _number(sorted(held))) if held else (-1, 0, 0),
        values=(*benchmark, *map(_number, installed.values()), *map(_number, chosen.values())),
        shown={_CONTENT[0]: str(benchmark[0]), **names, **chosen},
        items=tuple(items),
    )


def disagreement(stands: Stands, own: Stand, name: str) -> RadarError | None:
    """The error that every rank raises where they do not all stand for the same; None where they do.

    Args:
        stands: All ranks'.
        own: This rank's.
        name: Of the benchmark.
    """
    size = len(stands.rows)
    apart: dict[str, list[int]] = {}
    for at, what in enumerate(_NAMES, start=_FLAGS):
        if unlike := _unlike(stands.rows[:, at].tolist()):
            apart[what] = unlike
    # Copies with other items differ in all the rest too, and have other items to compare.
    of_content = [what for what in _CONTENT if what in apart]
    for what in of_content[1:]:
        if of_content[0] == _CONTENT[0] or (what in _CONTENT[3:5] and _CONTENT[2] in apart):
            del apart[what]
    if _CONTENT[1] in apart and _CONTENT[2] in apart:
        del apart[_CONTENT[1]]
    if not of_content:
        for what, unlike in (
            ("tokens of the same items", _unlike_tokens(stands.rows)),
            ("pixels of the same items", _unlike_pixels(stands.rows)),
        ):
            if unlike:
                apart[what] = unlike
    if not apart:
        return None
    differences = "; ".join(
        f"{what} ({_ranks(unlike, size)}{f', here {own.shown[what]}' if what in own.shown else ''})"
        for what, unlike in apart.items()
    )
    error = ConfigError if set(apart) <= set(OPTIONS) else BenchmarkError
    return error(
        f"Expected all {size} ranks to score the same benchmark {name!r} in the same way, but some differ in: {differences}. "
        "Give every node the same copy of the benchmark, the same processor, arguments and library versions."
    )


def _plain(option: Any) -> str:
    """An option as text that is the same in every process: functions by name, not by address."""
    if not callable(option):
        return repr(option)
    known = option if hasattr(option, "__qualname__") else type(option)
    return f"{known.__module__}.{known.__qualname__}"


def _number(value: Any) -> int:
    """63 bits that only the same value gives; never 0."""
    text = json.dumps(value, default=str).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1 | 1


def _unlike(values: Sequence[int]) -> list[int]:
    """Ranks whose value is not the one that most have; of two that as many have, the first rank's counts."""
    usual = Counter(values).most_common(1)[0][0]
    return [rank for rank, value in enumerate(values) if value != usual]


def _unlike_tokens(rows: Tensor) -> list[int]:
    found: set[int] = set()
    for at in range(_TOKENS, _PIXELS):
        values = {rank: int(value) for rank, value in enumerate(rows[:, at]) if value != 0}
        reading = list(values)
        found |= {reading[place] for place in _unlike(list(values.values()))} if values else set()
    return sorted(found)


def _unlike_pixels(rows: Tensor) -> list[int]:
    found: set[int] = set()
    for place in range(COMPARED_ITEMS):
        reading = (rows[:, _TOKENS + place] != 0).nonzero().flatten()
        if len(reading) < 2:
            continue
        pixels = rows[reading, _PIXELS + 2 * place : _PIXELS + 2 * place + 2].double() / _UNIT
        usual = pixels.median(0).values if len(pixels) > 2 else pixels[0]
        scale = usual[1].clamp(min=1e-6)
        far = (pixels[:, 0] - usual[0]).abs() > PIXELS_DIFFER * scale.sqrt()
        far |= (pixels[:, 1] - usual[1]).abs() > PIXELS_DIFFER * scale
        found |= {int(rank) for rank in reading[far]}
    return sorted(found)


def _ranks(ranks: Sequence[int], size: int, most: int = 8) -> str:
    """Names ranks, the first few of them.

    Example:
        >>> _ranks([1], 2), _ranks([0, 3], 8), _ranks(range(1, 100), 128, most=2)
        ('rank 1', 'ranks 0, 3', '99 of 128 ranks: 1, 2, …')
    """
    if len(ranks) > most:
        return f"{len(ranks)} of {size} ranks: {', '.join(map(str, ranks[:most]))}, …"
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
