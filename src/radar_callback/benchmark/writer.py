"""Writes a benchmark: webdataset shards and the manifest beside them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from radar_callback.benchmark.image_marks import placed
from radar_callback.benchmark.index import scan_shard
from radar_callback.benchmark.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    Manifest,
    ShardEntry,
    contradictions,
    is_manifest,
)
from radar_callback.benchmark.options import look_alike_problem
from radar_callback.benchmark.record import to_fields
from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.errors import BenchmarkError
from radar_callback.quoting import quoted
from radar_callback.taxonomy import TaxonomyRows

MAX_SHARD_BYTES = 256 * 1024 * 1024
MAX_SHARD_SAMPLES = 10_000


def write_shards(
    samples: Iterable[Sample | Skipped],
    out: str | Path,
    *,
    name: str,
    groups: Mapping[str, str],
    licence: str = "",
    source: str = "",
    max_bytes: int = MAX_SHARD_BYTES,
    max_samples: int = MAX_SHARD_SAMPLES,
    overwrite: bool = False,
) -> Manifest:
    """Writes `out/shard-000.tar`, … and `out/manifest.json`.

    The same samples always give the same bytes. Everything is written beside `out` first and moved there at the end, so
    that an error, whatever it is, leaves `out` as it was.

    Args:
        samples: The items in order; `Skipped` ones are only listed in the manifest.
        out: The folder to make.
        name: Name of the benchmark, as it will stand in histories and reports.
        groups: `{ability: group}` of every ability that comes.
        licence: Under which the items may be used.
        source: Where they come from.
        max_bytes: A shard is closed when it holds this many bytes.
        max_samples: A shard is closed when it holds this many items.
        overwrite: Replace `out` if it is a benchmark.

    Returns:
        The manifest that was written.

    Raises:
        BenchmarkError: If `out` is in use, if there is no sample, if two share a key, if an image cannot be opened, if
            an ability has no group or one that contradicts an item before, if options look the same to a person, or if
            marks in a question do not place its images.
    """
    out = Path(out)
    _check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".tmp", dir=out.parent))
    try:
        pile = _Pile(samples, groups)
        shards = tuple(_write_files(iter(pile), work, max_bytes, max_samples))
        if not shards:
            left_out = (
                f"; all {len(pile.skipped)} were left out, the first: {pile.skipped[0].detail}" if pile.skipped else ""
            )
            raise BenchmarkError(f"Expected at least one item for benchmark {name!r}, but got none{left_out}.")
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            name=name,
            licence=licence,
            source=source,
            tree=pile.rows.tree,
            shards=shards,
            skipped=tuple(pile.skipped),
        )
        for shard, key, problem in contradictions(manifest):
            raise BenchmarkError(
                f"Cannot write benchmark {name!r}: {shard or MANIFEST}, {key or 'all items'}: {problem}."
            )
        (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        _move(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


class _Pile:
    """Passes samples on, checking what concerns all of them together, and keeps what the manifest needs to know."""

    def __init__(self, samples: Iterable[Sample | Skipped], groups: Mapping[str, str]) -> None:
        self._samples = samples
        self._groups = groups
        self._keys: set[str] = set()
        self.skipped: list[Skipped] = []
        self.rows = TaxonomyRows()

    def __iter__(self) -> Iterator[Sample]:
        for item in self._samples:
            if item.key in self._keys:
                raise BenchmarkError(f"Expected every item to have a key of its own, but {item.key!r} comes twice.")
            self._keys.add(item.key)
            if item.ability is not None:
                if item.ability not in self._groups:
                    raise BenchmarkError(
                        f"Expected a group for ability {quoted(item.ability)} of item {quoted(item.key)}, but got none."
                    )
                self._add(item, item.ability)
            if isinstance(item, Skipped):
                self.skipped.append(item)
            else:
                yield _sensible(item)

    def _add(self, item: Sample | Skipped, ability: str) -> None:
        try:
            self.rows.add(self._groups[ability], ability, item.category)
        except BenchmarkError as error:
            raise BenchmarkError(f"Item {item.key!r}: {error}") from None


def _sensible(sample: Sample) -> Sample:
    """The item with `<image>` marks only, if a person could answer it."""
    problem = look_alike_problem(sample.candidates)
    if problem is not None:
        raise BenchmarkError(f"Expected options that a person can tell apart, but in item {sample.key!r} {problem}.")
    return placed(sample)


def _write_files(samples: Iterator[Sample], folder: Path, max_bytes: int, max_samples: int) -> Iterator[ShardEntry]:
    # Not at the top of the module: webdataset imports torch, which reading a benchmark does not need.
    from webdataset import TarWriter

    sample = next(samples, None)
    number = 0
    while sample is not None:
        path = folder / f"shard-{number:03d}.tar"
        count = 0
        # Owner and time are fixed: the same input gives the same bytes on every machine.
        with (
            path.open("wb") as file,
            TarWriter(file, encoder=False, mtime=0, mode=0o644, user="radar", group="radar") as tar,
        ):
            while sample is not None and count < max_samples and (count == 0 or tar.tarstream.offset < max_bytes):
                tar.write({"__key__": sample.key, **to_fields(sample)})
                count += 1
                sample = next(samples, None)
        # Reading back what was written finds the place of every item, opens every image and proves the shard readable.
        yield scan_shard(path)
        number += 1


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise BenchmarkError(f"Expected {out} to be free or a folder, but it is something else; choose another place.")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return
    others = [name for name in names if name != MANIFEST and not name.endswith(".tar")]
    if not (out / MANIFEST).is_file() or not is_manifest((out / MANIFEST).read_bytes()):
        raise BenchmarkError(
            f"Expected {out} to be empty or a benchmark, but it holds other files ({', '.join(names[:3])}); choose another "
            "place."
        )
    if not overwrite:
        raise BenchmarkError(f"Expected {out} to be empty, but it holds a benchmark; add --overwrite to replace it.")
    if others:
        raise BenchmarkError(
            f"Expected nothing but shards and {MANIFEST} in {out} to overwrite, but got {', '.join(others[:3])}; move that "
            "away first."
        )


def _move(work: Path, out: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    work.chmod(0o777 & ~umask)  # mkdtemp makes it private
    if not out.exists():
        work.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".old.tmp", dir=out.parent))
    try:
        out.rename(old / "old")
        try:
            work.rename(out)
        except OSError:
            (old / "old").rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
