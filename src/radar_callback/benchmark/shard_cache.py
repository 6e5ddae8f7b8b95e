"""What is in shards that no manifest describes, found once on a machine and kept."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache as remembered
from pathlib import Path

import PIL
from pydantic import ValidationError

from radar_callback.benchmark import images, index, manifest, record, sample
from radar_callback.benchmark.index import IndexedShard, index_shard, sha256_of
from radar_callback.benchmark.manifest import ShardEntry
from radar_callback.benchmark.places import file_name, shown
from radar_callback.benchmark.remote import fetch, is_compressed, unpacked
from radar_callback.errors import BenchmarkError
from radar_callback.files import write_atomically


def indexed(place: str, cache: Path) -> IndexedShard:
    """What is in a shard that no manifest describes.

    Its images are decoded only once on a machine: what was found is kept under the file's checksum.

    Args:
        place: Path or URL.
        cache: Where fetched and unpacked shards, and what was found in them, are kept.

    Raises:
        BenchmarkError: If there is none, or it is damaged.
    """
    path = fetch(place, cache)
    if not path.is_file():
        raise BenchmarkError(f"Expected a shard at {shown(place)}, but there is none.")
    sha256 = sha256_of(path)
    note = cache / f"{sha256}.{_code()}.items.json"
    known = _noted(note)
    if known is not None:
        return known
    packed = is_compressed(path)
    plain = unpacked(path, sha256, cache) if packed else path
    found = index_shard(plain, file_name(place))
    if packed:
        size = path.stat().st_size
        entry = found.entry.model_copy(update={"bytes": size, "sha256": sha256, "compressed": True})
        found = IndexedShard(entry, found.groups)
    with suppress(OSError):  # a folder that cannot be written costs time only
        cache.mkdir(parents=True, exist_ok=True)
        document = {"entry": found.entry.model_dump(mode="json"), "groups": found.groups}
        write_atomically(note, json.dumps(document) + "\n")
    return found


def _noted(note: Path) -> IndexedShard | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        entry = ShardEntry.model_validate_json(json.dumps(found["entry"]))
        return IndexedShard(entry, tuple((str(ability), str(group)) for ability, group in found["groups"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


@remembered
def _code() -> str:
    """Names what decides what is found in a shard: another name after any change to it."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for module in (images, index, manifest, record, sample):
        digest.update(Path(module.__file__ or "").read_bytes())
    return digest.hexdigest()[:12]
