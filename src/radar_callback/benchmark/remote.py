"""Files that may lie on another machine: read through fsspec, shards fetched once and kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from radar_callback.benchmark.index import sha256_of
from radar_callback.benchmark.manifest import ShardEntry
from radar_callback.errors import BenchmarkError


def is_remote(place: str) -> bool:
    """Whether a place is a URL and not a path on this machine."""
    return "://" in place


def join(folder: str, name: str) -> str:
    """A file in a folder that may be a URL.

    Example:
        >>> join("https://host/bench/", "manifest.json")
        'https://host/bench/manifest.json'
    """
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


def contents(place: str) -> bytes | None:
    """What a file holds; None if there is no such file."""
    try:
        if not is_remote(place):
            return Path(place).read_bytes()
        fs, path = _remote(place)
        return fs.cat_file(path)
    except FileNotFoundError:
        return None
    except Exception as error:  # every remote file system has its own errors
        raise BenchmarkError(f"Cannot read {place}: {_line(error)}") from error


def _remote(place: str) -> tuple[Any, str]:
    # Remote file systems are an import of 0.3 s that local benchmarks can do without.
    from fsspec.core import url_to_fs

    return url_to_fs(place)


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def fetch(place: str, cache: Path, expected: ShardEntry | None = None) -> Path:
    """A shard on this machine; a remote one is fetched once and kept.

    Args:
        place: Path or URL.
        cache: Folder for fetched shards.
        expected: What the manifest says about it; a fetched file that differs is refused.

    Raises:
        BenchmarkError: If it cannot be fetched, or is not what the manifest says.
    """
    if not is_remote(place):
        return Path(place)
    try:
        fs, path = _remote(place)
        # With a checksum the same shard at two places is one file; without, the file's properties tell versions apart.
        label = (
            expected.sha256 if expected is not None else hashlib.sha256(f"{place} {fs.ukey(path)}".encode()).hexdigest()
        )
        target = cache / f"{label}.tar"
        if target.is_file() and (expected is None or target.stat().st_size == expected.bytes):
            return target
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".tmp", dir=cache)
        os.close(handle)
        part = Path(name)
        try:
            fs.get_file(path, name)
            if expected is not None and sha256_of(part) != expected.sha256:
                raise BenchmarkError(f"{place} is not the shard that the manifest describes: its sha256 differs.")
            part.replace(target)  # atomic: several ranks may fetch the same shard
        finally:
            part.unlink(missing_ok=True)
    except BenchmarkError:
        raise
    except Exception as error:  # every remote file system has its own errors
        raise BenchmarkError(f"Cannot fetch {place}: {_line(error)}") from error
    return target


def default_cache() -> Path:
    """Where fetched shards are kept: `$RADAR_CALLBACK_CACHE`, or `radar-callback` in the user's cache folder."""
    chosen = os.environ.get("RADAR_CALLBACK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radar-callback"
