"""Writes the manifest of shards that others have written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from radar_callback.benchmark.locate import index
from radar_callback.benchmark.manifest import MANIFEST, Manifest, is_manifest
from radar_callback.benchmark.remote import default_cache
from radar_callback.errors import BenchmarkError, ConfigError
from radar_callback.files import write_atomically


def write_manifest(
    folder: Path,
    *,
    groups: Mapping[str, str],
    name: str | None = None,
    licence: str = "",
    source: str = "",
    overwrite: bool = False,
    cache_dir: Path | None = None,
) -> Manifest:
    """Writes `manifest.json` beside shards, which stay as they are.

    Args:
        folder: Where the `*.tar` shards lie.
        groups: `{ability: group}`; other abilities keep the group that their items name, or form one group, `all`.
        name: Name of the benchmark; the folder's if not given.
        licence: Under which the items may be used.
        source: Where they come from.
        overwrite: Replace a manifest that is there.
        cache_dir: Where compressed shards are unpacked.

    Returns:
        The manifest that was written.

    Raises:
        BenchmarkError: If there are no shards, one is damaged, two items share a key, or there is a manifest already.
        ConfigError: If a group is given to an ability that no item has.
    """
    if not folder.is_dir():
        raise BenchmarkError(f"Expected a folder of shards on this machine, but there is no {folder}.")
    target = folder / MANIFEST
    if target.exists() and not (overwrite and is_manifest(target.read_bytes())):
        advice = "add --overwrite to replace it" if is_manifest(target.read_bytes()) else "move it away first"
        raise BenchmarkError(f"Expected no {MANIFEST} in {folder}, but there is one; {advice}.")
    shards = {path.name: str(path) for path in sorted(folder.glob("[!.]*.tar"))}
    if not shards:
        raise BenchmarkError(f"Expected *.tar shards in folder {folder}, but found none.")
    found = index(shards, default_cache() if cache_dir is None else cache_dir, groups)
    abilities = {item.ability for shard in found.shards for item in shard.items}
    unknown = [ability for ability in groups if ability not in abilities]
    if unknown:
        raise ConfigError(
            f"Expected abilities of the shards ({', '.join(sorted(abilities))}) in --groups, but got {unknown[0]!r}."
        )
    manifest = found.model_copy(
        update={
            "name": name or folder.resolve().name,
            "licence": licence,
            "source": source,
        }
    )
    write_atomically(target, manifest.to_json())
    return manifest
