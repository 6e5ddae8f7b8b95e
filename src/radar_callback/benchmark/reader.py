"""An opened benchmark: what is in it, and each item when asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from radar_callback.benchmark.locate import Source, checked, index, locate, safe_name, shown_source
from radar_callback.benchmark.manifest import Item, Manifest, ShardEntry, items_of
from radar_callback.benchmark.places import is_remote, redacted
from radar_callback.benchmark.record import split_members, to_sample
from radar_callback.benchmark.remote import default_cache, fetch, unpacked
from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.errors import BenchmarkError, ConfigError, ItemError, Reason
from radar_callback.taxonomy import Taxonomy

log = logging.getLogger(__name__)


class Benchmark:
    """A benchmark's items, read one by one and only when asked for.

    Args:
        source: A folder with `manifest.json` and its shards, or that manifest; a URL of either (whatever fsspec can open);
            a brace pattern or a list of shards, `bench/shard-{000..003}.tar`, to use only these; the name of a built-in
            benchmark, `radar-mini`; or an opened `Benchmark`. Shards without a manifest beside them are indexed first.
        cache_dir: Where remote shards are kept; `$RADAR_CALLBACK_CACHE` or `~/.cache/radar-callback` if not given.

    Attributes:
        name: As it stands in histories and reports.
        licence: Under which the items may be used.
        source: Where the items come from.
        taxonomy: The tree of groups, abilities and categories.
        items: All items, in order.
        skipped: What was left out when the shards were built; an evaluation counts these as failed.

    Raises:
        BenchmarkError: If there is no benchmark at `source`, its manifest is damaged, or a shard is missing.
    """

    name: str
    licence: str
    source: str
    taxonomy: Taxonomy
    items: Sequence[Item]
    skipped: Sequence[Skipped]

    def __init__(self, source: Source | Benchmark, *, cache_dir: str | Path | None = None) -> None:
        if isinstance(source, Benchmark):
            self.__dict__.update(source.__dict__)
            return
        cache = Path(cache_dir) if cache_dir is not None else default_cache()
        located = locate(source)
        manifest = located.manifest if located.manifest is not None else index(located.places, cache)
        checked(manifest, shown_source(source))
        self.name = safe_name(manifest.name)
        self.licence = manifest.licence
        self.source = redacted(manifest.source)
        self.items = items_of(manifest)
        self.skipped = manifest.skipped
        self.taxonomy = Taxonomy(manifest.tree) if located.whole else _prune(manifest)
        self._shards = _Shards(manifest, dict(located.places), cache)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"Benchmark({self.name!r}: {len(self)} items, {len(self.taxonomy.abilities)} abilities)"

    @property
    def fingerprint(self) -> str:
        """Names the content: another one if an item is added, dropped, moved or altered, the same wherever it lies."""
        rows = [[item.key, item.size, item.crc32, item.ability, item.category] for item in self.items]
        rows += [[left_out.key, left_out.ability, left_out.reason] for left_out in self.skipped]
        return hashlib.sha256(json.dumps([self.name, self.taxonomy.tree, rows]).encode()).hexdigest()[:16]

    def read(self, index: int) -> Sample:
        """Reads one item.

        Args:
            index: Its position in `items`.

        Raises:
            ItemError: If its bytes cannot be read or are damaged; `reason` and one line say what is wrong.
        """
        item = self.items[index]
        where = f"{item.shard}: item {item.key!r}"
        data = self._shards.read(item, where)
        return to_sample(split_members(data, item.key, where), item.key, where)

    def select(self, abilities: Collection[str]) -> Benchmark:
        """The benchmark restricted to some abilities.

        Raises:
            ConfigError: If one of them is unknown, or none is given.
        """
        if isinstance(abilities, str):
            raise ConfigError(f"Expected a list of abilities, but got the text {abilities!r}.")
        if not abilities:
            raise ConfigError("Expected at least one ability, but got none.")
        wanted = set(abilities)
        for ability in abilities:
            self.taxonomy.group_of(ability)
        tree = {
            group: {ability: categories for ability, categories in homes.items() if ability in wanted}
            for group, homes in self.taxonomy.tree.items()
        }
        return self._restricted(
            [item for item in self.items if item.ability in wanted],
            [left_out for left_out in self.skipped if left_out.ability in wanted],
            Taxonomy({group: homes for group, homes in tree.items() if homes}),
        )

    def without(self, abilities: Collection[str]) -> Benchmark:
        """The benchmark without some abilities.

        Raises:
            ConfigError: If one of them is unknown, or nothing is left.
        """
        if isinstance(abilities, str):
            raise ConfigError(f"Expected a list of abilities, but got the text {abilities!r}.")
        for ability in abilities:
            self.taxonomy.group_of(ability)
        return self.select([ability for ability in self.taxonomy.abilities if ability not in set(abilities)])

    def limit(self, items_per_ability: int) -> Benchmark:
        """A part of the benchmark that is always the same: at most so many items of each ability.

        A larger limit only adds items, and categories take turns, so that none is missing while another has two. Items
        that were left out when the shards were built are no part of it.

        Raises:
            ConfigError: If the number is not positive.
        """
        if items_per_ability < 1:
            raise ConfigError(f"Expected a limit of at least 1 item an ability, but got {items_per_ability}.")
        chosen = [item for queue in self._queues() for item in queue[:items_per_ability]]
        return self._restricted(sorted(chosen, key=lambda item: item.index), (), self.taxonomy)

    def portion(self, share: float, at_least: int = 1) -> list[int]:
        """Positions of a part of each ability's items that is always the same, in order.

        A larger share only adds items; see :meth:`limit`.

        Args:
            share: Above 0 and at most 1, of each ability's items, rounded up.
            at_least: Items of each ability in any case, as far as it has them.
        """
        return sorted(
            item.index for queue in self._queues() for item in queue[: max(math.ceil(share * len(queue)), at_least)]
        )

    def _queues(self) -> list[list[Item]]:
        """Each ability's items in the order in which they are taken when not all are."""
        cells: dict[tuple[str, str | None], list[Item]] = defaultdict(list)
        # Rounds are drawn whole: their answers are balanced only together.
        for item in sorted(self.items, key=lambda item: (_lot(item.round or item.key), item.key)):
            cells[item.ability, item.category].append(item)
        queues: dict[str, list[tuple[int, bytes, Item]]] = defaultdict(list)
        for (ability, category), members in cells.items():
            queues[ability] += [(turn, _lot(category or ""), item) for turn, item in enumerate(members)]
        return [[item for _, _, item in sorted(queue, key=lambda entry: entry[:2])] for queue in queues.values()]

    def _restricted(self, items: Sequence[Item], skipped: Sequence[Skipped], taxonomy: Taxonomy) -> Benchmark:
        part = Benchmark(self)
        part.items = tuple(replace(item, index=i) for i, item in enumerate(items))
        part.skipped = tuple(skipped)
        part.taxonomy = taxonomy
        return part


def _lot(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _prune(manifest: Manifest) -> Taxonomy:
    """The tree without what none of the manifest's items is about."""
    cells = {(item.ability, item.category) for shard in manifest.shards for item in shard.items}
    tree: dict[str, dict[str, list[str]]] = {}
    for group, abilities in manifest.tree.items():
        for ability, categories in abilities.items():
            present = [category for category in categories if (ability, category) in cells]
            if present or (ability, None) in cells:
                tree.setdefault(group, {})[ability] = present
    return Taxonomy(tree)


RETRY_AFTER = 60.0
"""Seconds for which a shard that could not be fetched is not asked for again: each of its items would wait for it anew."""

OPEN_FETCHED = 16
"""Fetched shards that a process keeps open."""

RETRY_SHARE = 20
"""Times what asking took, if that is longer: of a server that falls silent every shard takes its time to say nothing."""


class _Shards:
    """The shard files, opened when first needed; each process opens its own."""

    def __init__(self, manifest: Manifest, places: dict[str, str], cache: Path) -> None:
        self._expected = {shard.file: shard.model_copy(update={"samples": 0, "items": ()}) for shard in manifest.shards}
        self._places = places
        self._cache = cache
        self._open: dict[tuple[int, str], int] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        self._renewed: set[str] = set()
        for file, expected in self._expected.items():
            if not is_remote(places[file]):
                self._check(Path(places[file]), expected)

    @staticmethod
    def _check(path: Path, expected: ShardEntry) -> None:
        if not path.is_file():
            raise BenchmarkError(f"Expected shard {expected.file} of the manifest at {path}, but there is none.")
        size = path.stat().st_size
        if size != expected.bytes:
            # What can be read still counts; every item that cannot is counted as failed when it is its turn.
            log.warning(
                "Shard %s has %d bytes where its manifest says %d: `radar-callback shards verify` lists the damage.",
                path,
                size,
                expected.bytes,
            )

    def read(self, item: Item, where: str) -> bytes:
        data, problem = self._look(item)
        if problem is not None and self._renew(item.shard):
            data, problem = self._look(item)
        if problem is not None:
            raise ItemError(Reason.UNREADABLE, f"{where}: {problem}")
        return data

    def _look(self, item: Item) -> tuple[bytes, str | None]:
        """An item's bytes, and what is wrong with them."""
        try:
            data = os.pread(self._descriptor(item.shard), item.size, item.offset)
        except OSError as error:
            return b"", str(error)
        if len(data) < item.size:
            return data, f"the shard ends after {len(data)} of its {item.size} bytes at {item.offset}"
        if zlib.crc32(data) != item.crc32:
            return data, "its bytes are not those that were written (crc32 differs)"
        return data, None

    def _renew(self, file: str) -> bool:
        """Fetches or unpacks a kept shard anew if it was damaged on this machine; once, a damage of its own stays."""
        expected, place = self._expected[file], self._places[file]
        if file in self._renewed or not (is_remote(place) or expected.compressed):
            return False
        self._renewed.add(file)
        try:
            path = fetch(place, self._cache, expected, check=True)
            if expected.compressed:
                unpacked(path, expected.sha256, self._cache, anew=True)
        except BenchmarkError as error:
            log.warning("Shard %s cannot be had again. %s", file, error)
            return False
        descriptor = self._open.pop((os.getpid(), file), None)
        if descriptor is not None:
            os.close(descriptor)
        return True

    def _descriptor(self, file: str) -> int:
        name = os.getpid(), file
        if name not in self._open:
            until, problem = self._refused.get(file, (0.0, ""))
            begun = time.monotonic()
            if begun < until:
                raise ItemError(Reason.UNREADABLE, problem)
            try:
                path = fetch(self._places[file], self._cache, self._expected[file])
                if self._expected[file].compressed:
                    path = unpacked(path, self._expected[file].sha256, self._cache)
            except BenchmarkError as error:
                now = time.monotonic()
                self._refused[file] = now + max(RETRY_AFTER, RETRY_SHARE * (now - begun)), str(error)
                raise ItemError(Reason.UNREADABLE, str(error)) from error
            self._close_oldest()
            self._open[name] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return self._open[name]

    def _close_oldest(self) -> None:
        """Of fetched shards few stay open: one that the cache has dropped takes its room on the disk until it is closed."""
        fetched = [name for name in self._open if name[0] == os.getpid() and is_remote(self._places[name[1]])]
        for name in fetched[: max(0, len(fetched) - OPEN_FETCHED + 1)]:
            os.close(self._open.pop(name))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for (pid, _), descriptor in self.__dict__.get("_open", {}).items():
            if pid == os.getpid():
                os.close(descriptor)
