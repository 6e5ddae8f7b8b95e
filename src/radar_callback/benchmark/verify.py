"""Finds every damage of a benchmark, not only the first."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radar_callback.benchmark.decode import FORMATS
from radar_callback.benchmark.index import Span, entry_of, sha256_of, spans
from radar_callback.benchmark.locate import Located, Source, locate
from radar_callback.benchmark.manifest import (
    MANIFEST,
    ItemEntry,
    Manifest,
    ManifestError,
    ShardEntry,
    contradictions,
)
from radar_callback.benchmark.options import look_alike_problem
from radar_callback.benchmark.places import is_remote
from radar_callback.benchmark.record import split_members, to_sample
from radar_callback.benchmark.remote import default_cache, fetch, is_compressed, unpacked
from radar_callback.errors import BenchmarkError, ItemError


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong.

    Attributes:
        shard: File name of the shard, or `manifest.json`.
        key: The item, or None if it is not about one.
        what: One line.
    """

    shard: str
    key: str | None
    what: str

    def __str__(self) -> str:
        return ": ".join([self.shard, *([f"item {self.key!r}"] if self.key is not None else []), self.what])


def verify(source: Source, *, cache_dir: str | Path | None = None) -> list[Damage]:
    """Reads every byte of a benchmark and compares it with its manifest.

    Args:
        source: As for `Benchmark`. Shards without a manifest are checked by themselves.
        cache_dir: Where remote shards are kept.

    Returns:
        All damages found, in order; empty if the benchmark is whole.

    Raises:
        BenchmarkError: If there is no benchmark at `source`.
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    try:
        located = locate(source)
    except ManifestError as error:
        # Without the list of shards there is nothing to compare them with.
        return [Damage(MANIFEST, None, str(error))]
    if located.manifest is None:
        return list(_damages_alone(located, cache))
    return list(_damages(located.manifest, located, cache))


def _damages(manifest: Manifest, located: Located, cache: Path) -> Iterator[Damage]:
    for file, key, what in contradictions(manifest):
        yield Damage(file or MANIFEST, key, what)
    if located.whole:
        yield from _strangers(manifest, located)
    homes: dict[str, str] = {}
    for shard in manifest.shards:
        path = _local(located.places[shard.file], cache, shard)
        if isinstance(path, str):
            yield Damage(shard.file, None, path)
        else:
            yield from _shard_damages(path, shard, homes, cache)


def _damages_alone(located: Located, cache: Path) -> Iterator[Damage]:
    """What is wrong with shards that no manifest describes."""
    homes: dict[str, str] = {}
    for file, place in located.places.items():
        path = _local(place, cache)
        if isinstance(path, str):
            yield Damage(file, None, path)
            continue
        plain = _plain(path, cache)
        if isinstance(plain, str):
            yield Damage(file, None, plain)
            continue
        found, problems = spans(plain)
        for problem in problems:
            yield Damage(file, None, problem)
        with plain.open("rb") as opened:
            for span in found:
                if homes.setdefault(span.key, file) != file:
                    yield Damage(file, span.key, f"also lies in {homes[span.key]}")
                _, problems = _look_at(opened.fileno(), span)
                yield from (Damage(file, span.key, what) for what in problems)


def _local(place: str, cache: Path, shard: ShardEntry | None = None) -> Path | str:
    """The shard on this machine, or why there is none."""
    try:
        path = fetch(place, cache, shard, check=True)
    except BenchmarkError as error:
        return str(error)
    return path if path.is_file() else f"expected a file at {path}, but there is none"


def _plain(path: Path, cache: Path) -> Path | str:
    """The shard as a plain tar file, or why there is none."""
    try:
        return unpacked(path, sha256_of(path), cache, anew=True) if is_compressed(path) else path
    except BenchmarkError as error:
        return str(error)


def _strangers(manifest: Manifest, located: Located) -> Iterator[Damage]:
    """Shards that lie beside the others but are in no manifest: left from an older build, or lost from the list."""
    known = {shard.file for shard in manifest.shards}
    folders = {Path(place).parent for place in located.places.values() if not is_remote(place)}
    for folder in sorted(folders):
        for path in sorted(folder.glob("*.tar")):
            if path.name not in known:
                yield Damage(path.name, None, "lies beside the manifest, which does not list it")


def _shard_damages(path: Path, shard: ShardEntry, homes: dict[str, str], cache: Path) -> Iterator[Damage]:
    size = path.stat().st_size
    if size != shard.bytes:
        yield Damage(shard.file, None, f"has {size} bytes where the manifest says {shard.bytes}")
    if sha256_of(path) != shard.sha256:
        yield Damage(shard.file, None, "is not the file the manifest describes: its sha256 differs")
    plain = _plain(path, cache)
    if isinstance(plain, str):
        yield Damage(shard.file, None, plain)
        return
    if (plain != path) != shard.compressed:
        yield Damage(shard.file, None, f"is {'' if plain != path else 'not '}compressed, unlike the manifest says")
        return
    found, problems = spans(plain)
    for problem in problems:
        yield Damage(shard.file, None, problem)
    listed: dict[str, ItemEntry] = {item.key: item for item in shard.items}
    present = {span.key: span for span in found}
    for span in found:
        if homes.setdefault(span.key, shard.file) != shard.file:
            yield Damage(shard.file, span.key, f"also lies in {homes[span.key]}")
        if span.key not in listed:
            yield Damage(shard.file, span.key, "is in the shard, but the manifest does not list it")
    with plain.open("rb") as file:
        for entry in shard.items:
            yield from (Damage(shard.file, entry.key, what) for what in _item_damages(file.fileno(), entry, present))


def _item_damages(descriptor: int, entry: ItemEntry, present: dict[str, Span]) -> Iterator[str]:
    span = present.get(entry.key)
    inside = entry.offset + entry.size <= os.fstat(descriptor).st_size
    whole = inside and zlib.crc32(os.pread(descriptor, entry.size, entry.offset)) == entry.crc32
    if span is None:
        # A header that cannot be read hides all members behind it, which can be read where the manifest says they are.
        if not whole:
            yield "the manifest lists it, but it is not in the shard"
    elif (span.offset, span.size) != (entry.offset, entry.size):
        yield (
            f"lies at byte {span.offset} with {span.size} bytes where the manifest says byte {entry.offset} with "
            f"{entry.size} bytes"
        )
    if inside and not whole:
        yield "its bytes are not those that were written: crc32 differs"
    if not inside:
        yield f"the shard ends before byte {entry.offset + entry.size}, where the manifest says the item ends"
    if span is None:
        return
    # What lies there is looked at as well: a wrong checksum alone does not say what became of the item.
    actual, problems = _look_at(descriptor, span)
    yield from problems
    if actual is None:
        return
    for field, meaning in _MEANING.items():
        said, found = getattr(entry, field), getattr(actual, field)
        if said != found:
            yield f"its {meaning} is {_show(found)} where the manifest says {_show(said)}"


def _look_at(descriptor: int, span: Span) -> tuple[ItemEntry | None, list[str]]:
    """What the manifest should say about an item, if it can be read, and what is wrong with it."""
    data = os.pread(descriptor, span.size, span.offset)
    where = "item"
    problems: list[str] = []
    try:
        fields = split_members(data, span.key, where)
        sample = to_sample(fields, span.key, where)
        # Others keep a text or class beside an item; an image that nothing shows was meant to be shown.
        strangers = sorted(name for name in set(fields) - set(sample.image_names) if _NUMBERED_IMAGE.fullmatch(name))
        problems += [f"member {span.key}.{name} belongs to no image of the item" for name in strangers]
        alike = look_alike_problem(sample.candidates)
        problems += [] if alike is None else [f"its {alike}"]
        return entry_of(sample, span, zlib.crc32(data), where), problems
    except ItemError as error:
        return None, [*problems, error.detail.removeprefix(f"{where}: ")]


_NUMBERED_IMAGE = re.compile(rf"[0-9]+\.({'|'.join([*FORMATS.values(), 'jpeg', 'bin'])})")

_MEANING = {
    "ability": "ability",
    "category": "category",
    "images": "list of image sizes",
    "question": "question's length",
    "candidates": "list of candidate lengths",
    "round": "round",
}


def _show(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
