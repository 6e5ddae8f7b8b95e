"""Finds every item of a shard and where it lies, by walking the tar file once."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radar_callback.benchmark.images import probe
from radar_callback.benchmark.manifest import BLOCK, ItemEntry, ShardEntry
from radar_callback.benchmark.record import ignored, key_and_field, split_members, to_sample, unsafe
from radar_callback.benchmark.sample import Sample
from radar_callback.errors import BenchmarkError, ItemError

END = 2 * BLOCK
"""A whole tar file ends with at least this many zero bytes."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of one item in a shard."""

    key: str
    offset: int
    size: int


def sha256_of(path: Path) -> str:
    """Checksum of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spans(path: Path) -> tuple[list[Span], list[str]]:
    """Walks a tar file.

    Args:
        path: A shard on this machine.

    Returns:
        The items in order, and every problem with the tar file itself, each as one line. `tarfile` alone takes a file
        that was cut inside a header, or whose header was damaged, for a shorter file and says nothing; here the walk must
        end at zero blocks that reach to the end of the file.
    """
    found: list[Span] = []
    problems: list[str] = []
    keys: set[str] = set()
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if ignored(member):
                    continue
                problem = unsafe(member)
                if problem is not None:
                    problems.append(problem)
                    continue
                key, _ = key_and_field(member.name)
                if found and found[-1].key == key:
                    found[-1] = Span(key, found[-1].offset, end - found[-1].offset)
                    continue
                if key in keys:
                    problems.append(
                        f"the members of item {key!r} do not lie side by side, or it comes twice; pack the files in the "
                        "order of their names (tar --sort=name), each key once"
                    )
                keys.add(key)
                found.append(Span(key, member.offset, end - member.offset))
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        problems.append(f"not a whole tar file: {error}")
        return found, problems
    with path.open("rb") as file:
        file.seek(end)
        tail = file.read()
    if len(tail) < END:
        problems.append(f"cut short: expected at least {END} zero bytes after the last item, but got {len(tail)}")
    elif tail.strip(b"\0"):
        problems.append(f"damaged at byte {end}: expected a tar header or zero bytes up to the end of the file")
    return found, problems


def entry_of(sample: Sample, span: Span, crc32: int, where: str) -> ItemEntry:
    """What the manifest says about one item.

    Raises:
        ItemError: If one of its images cannot be opened.
    """
    return ItemEntry(
        key=sample.key,
        offset=span.offset,
        size=span.size,
        crc32=crc32,
        ability=sample.ability,
        category=sample.category,
        images=tuple(
            probe(data, f"{where}: {name}").size for data, name in zip(sample.images, sample.image_names, strict=True)
        ),
        question=len(sample.question),
        candidates=tuple(len(text) for text in sample.candidates),
        image_crc32=tuple(map(zlib.crc32, sample.images)),
        round=name if isinstance(name := sample.meta.get("round"), str) else None,
    )


def _sample(fields: dict[str, bytes], key: str, where: str) -> Sample:
    try:
        return to_sample(fields, key, where)
    except ItemError:
        # One item whose images have no clear place keeps nobody from the others: it is refused, and counted, when it is read.
        return to_sample(fields, key, where, place=False)


def _entries(path: Path, name: str, found: list[Span]) -> Iterator[tuple[ItemEntry, str | None]]:
    with path.open("rb") as file:
        for span in found:
            where = f"{name}: {span.key}"
            data = os.pread(file.fileno(), span.size, span.offset)
            try:
                sample = _sample(split_members(data, span.key, where), span.key, where)
                yield entry_of(sample, span, zlib.crc32(data), where), sample.group
            except ItemError as error:
                raise BenchmarkError(f"Expected a readable item, but {error.detail}.") from error


@dataclass(frozen=True, slots=True)
class IndexedShard:
    """What a shard says about itself.

    Attributes:
        entry: What the manifest says about it.
        groups: The `(ability, group)` pairs that its items name, each once; items of ours name theirs.
    """

    entry: ShardEntry
    groups: tuple[tuple[str, str], ...]


def scan_shard(path: Path) -> ShardEntry:
    """Everything the manifest says about one shard, from the shard itself.

    Raises:
        BenchmarkError: If the tar file or one item in it is damaged.
    """
    return index_shard(path, path.name).entry


def index_shard(path: Path, name: str) -> IndexedShard:
    """Everything that a manifest can say about one shard and its items' groups, from the shard itself.

    Args:
        path: A plain tar file on this machine.
        name: The shard's own file name; a fetched one is kept under another.

    Raises:
        BenchmarkError: If the tar file or one item in it is damaged.
    """
    found, problems = spans(path)
    if problems:
        raise BenchmarkError(f"Expected {name} to be a whole shard, but it is {_was(problems[0])}.")
    entries = list(_entries(path, name, found))
    return IndexedShard(
        ShardEntry(
            file=name,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
            samples=len(entries),
            items=tuple(entry for entry, _ in entries),
        ),
        tuple(dict.fromkeys((entry.ability, group) for entry, group in entries if group is not None)),
    )


def _was(problem: str) -> str:
    return problem if problem.startswith(("not ", "cut ", "damaged ")) else f"unfit: {problem}"
