"""From what a user types to a manifest and the places of its shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from braceexpand import braceexpand

from radar_callback.benchmark.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    Manifest,
    contradictions,
    parse_manifest,
    tree_of,
)
from radar_callback.benchmark.places import expandable, file_name, identity, is_remote, join, parent, shown
from radar_callback.benchmark.remote import RefusedError, contents
from radar_callback.benchmark.shard_cache import indexed
from radar_callback.errors import BenchmarkError

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A folder, a manifest, a URL, a brace pattern, a list of shards, or the name of a built-in benchmark."""

BUILTIN = "benchmark_shards"


@dataclass(frozen=True)
class Located:
    """A benchmark that has been found.

    Attributes:
        manifest: Its manifest, only of the shards that were asked for; None if shards have none beside them.
        places: Where each shard is, by file name: a local path or a URL.
        whole: False if only some of the shards were asked for.
    """

    manifest: Manifest | None
    places: Mapping[str, str] = field(repr=False)  # may hold passwords
    whole: bool = True


def locate(source: Source) -> Located:
    """Finds the manifest and the shards of a benchmark, without checking that the manifest makes sense.

    Args:
        source: What the user typed.

    Raises:
        BenchmarkError: If there is nothing of that kind.
        ManifestError: If there is a manifest that cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source).removeprefix("file://")
        if isinstance(source, str) and (folder := builtin_folder(text)) is not None:
            return _from_folder(str(folder))
        if file_name(text).endswith(MANIFEST):
            return _from_manifest(text)
        shards = _expand(text)
        if shards == [text] and not file_name(text).endswith(".tar"):
            return _from_folder(text)
        return _from_shards(shards)
    shards = [shard for one in source for shard in _expand(os.fspath(one).removeprefix("file://"))]
    if not shards:
        raise BenchmarkError("Expected at least one shard in the list, but got none.")
    return _from_shards(shards)


def builtin_names() -> list[str]:
    """Names of the benchmarks that come with the package."""
    return sorted({path.name for home in _builtin_homes() if home.is_dir() for path in home.iterdir() if path.is_dir()})


def builtin_folder(name: str) -> Path | None:
    """Folder of a built-in benchmark, or None if there is none of that name."""
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        return None
    return next((home / name for home in _builtin_homes() if (home / name / MANIFEST).is_file()), None)


def _builtin_homes() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parents[1]
    # In an installed package the shards lie inside it, in a source checkout at the top of the repository.
    return package / BUILTIN, package.parents[1] / BUILTIN


def _expand(text: str) -> list[str]:
    if not is_remote(text) and Path(text).exists():
        return [text]
    front, pattern, tail = expandable(text)
    try:
        return [f"{front}{expanded}{tail}" for expanded in braceexpand(pattern)]
    except ValueError:
        raise BenchmarkError(
            f"Expected braces that match, as in shard-{{000..003}}.tar, but got {shown(text)!r}."
        ) from None


def _from_manifest(place: str) -> Located:
    data = contents(place)
    if data is None:
        raise BenchmarkError(f"Expected {MANIFEST} at {shown(place)}, but there is none.")
    manifest = parse_manifest(data, shown(place))
    folder = parent(place)
    return Located(manifest, {shard.file: join(folder, shard.file) for shard in manifest.shards})


def _from_folder(text: str) -> Located:
    if is_remote(text):
        return _from_manifest(join(text, MANIFEST))
    folder = Path(text)
    if (folder / MANIFEST).is_file():
        return _from_manifest(str(folder / MANIFEST))
    if folder.is_dir():
        shards = sorted(str(path) for path in folder.glob("[!.]*.tar"))
        if not shards:
            others = sorted(path.name for ending in ("*.tar.*", "*.tgz") for path in folder.glob(ending))
            but = f"only {others[0]} and the like: unpack them to .tar files" if others else "found neither"
            raise BenchmarkError(f"Expected {MANIFEST} or *.tar shards in folder {text}, but {but}.")
        return _from_shards(shards)
    if folder.exists():
        raise BenchmarkError(f"Expected a folder, {MANIFEST} or a .tar shard, but {text} is another kind of file.")
    known = ", ".join(builtin_names()) or "none here"
    raise BenchmarkError(
        f"Expected a benchmark's folder, {MANIFEST}, shards, URL or built-in name ({known}), but there is no "
        f"{shown(text)!r}."
    )


def _from_shards(shards: Sequence[str]) -> Located:
    places = {file_name(shard): shard for shard in shards}
    for name, shard in places.items():
        if not name.endswith(".tar") or name.startswith("."):
            raise BenchmarkError(
                f"Expected the shard's file name to end in .tar and not to start with a dot, but got {shown(shard)}."
            )
    if len(places) < len(shards):
        raise BenchmarkError("Expected shards with different file names, but two of those given have the same.")
    folders = [parent(shard) for shard in shards]
    # Each shard may be signed by itself.
    if len({identity(folder) if is_remote(folder) else folder for folder in folders}) == 1:
        beside = join(folders[0], MANIFEST)
        data = _beside(beside)
        if data is not None:
            return _restrict(parse_manifest(data, shown(beside)), places, shown(beside))
    return Located(None, places)


def _beside(place: str) -> bytes | None:
    try:
        return contents(place)
    except RefusedError as error:
        if not is_remote(place) or "?" not in place:
            raise
        problem = str(error)
    # A signature may be of one shard alone.
    log.warning(
        "%s. Without it the shards are read to see what is in them, and their abilities form one group.", problem
    )
    return None


def _restrict(manifest: Manifest, places: Mapping[str, str], where: str) -> Located:
    known = {shard.file: shard for shard in manifest.shards}
    unknown = [file for file in places if file not in known]
    if unknown:
        raise BenchmarkError(f"Expected shards that {where} lists, but it does not list {', '.join(unknown[:3])}.")
    if len(places) == len(known):
        return Located(manifest, places)
    chosen = manifest.model_copy(update={"shards": tuple(known[file] for file in places), "skipped": ()})
    return Located(chosen, places, whole=False)


def index(places: Mapping[str, str], cache: Path, chosen: Mapping[str, str] | None = None) -> Manifest:
    """Makes the manifest of shards that have none, by reading all of them.

    Args:
        places: Where each shard is, by file name.
        cache: Where remote shards, and what was found in shards, are kept.
        chosen: `{ability: group}`, whatever the items say.

    Raises:
        BenchmarkError: If one is missing or damaged, or two have an item of the same name.
    """
    homes: dict[str, str] = {}
    groups = dict(chosen or {})
    fixed = frozenset(groups)
    shards = []
    for file, place in places.items():
        found = indexed(place, cache)
        shards.append(found.entry.model_copy(update={"file": file}))  # fetched shards are kept under another name
        for item in found.entry.items:
            if homes.setdefault(item.key, file) != file:
                raise BenchmarkError(
                    f"Expected every item to have a key of its own, but {item.key!r} is in {homes[item.key]} and in "
                    f"{file}: leave one of these shards out, or rename its items."
                )
        for ability, group in found.groups:
            if ability not in fixed and groups.setdefault(ability, group) != group:
                raise BenchmarkError(
                    f"Expected ability {ability!r} in one group, but {file} has it in {group!r} and another shard in "
                    f"{groups[ability]!r}: write a manifest with `radar-callback shards index FOLDER --groups`."
                )
    # Items that others have written do not say which group their ability belongs to.
    rows = [(groups.get(item.ability, "all"), item.ability, item.category) for shard in shards for item in shard.items]
    if not rows:
        raise BenchmarkError(f"Expected at least one item in {', '.join(places)}, but found none.")
    first = next(iter(places.values()))
    # Never named by a URL: the host may have a password before it.
    name = file_name(parent(first)) or file_name(first).removesuffix(".tar")
    return Manifest(
        format=FORMAT, version=VERSION, name=name, licence="", source="", tree=tree_of(rows), shards=tuple(shards)
    )


def shown_source(source: Source) -> str:
    """What the user typed, as people may see it."""
    if isinstance(source, str | os.PathLike):
        return shown(source)
    return ", ".join(map(shown, source))


def safe_name(name: str) -> str:
    """A benchmark's name, which stands in histories and checkpoints; of a URL its last part.

    Example:
        >>> safe_name("mine"), safe_name("https://user:word@host/bench?sig=4f")
        ('mine', 'bench')
    """
    return file_name(name) or "benchmark" if is_remote(name) else name


def checked(manifest: Manifest, where: str) -> None:
    """Refuses a manifest that makes no sense.

    Raises:
        BenchmarkError: At the first contradiction in it.
    """
    for shard, key, problem in contradictions(manifest):
        place = ", ".join(part for part in (shard, key) if part)
        raise BenchmarkError(
            f"Expected a manifest without contradictions in {where}, but{f' {place}:' * bool(place)} {problem}."
        )
