"""Files that may lie on another machine: read through fsspec, shards fetched once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from radar_callback.benchmark.index import sha256_of
from radar_callback.benchmark.manifest import ShardEntry
from radar_callback.errors import BenchmarkError

log = logging.getLogger(__name__)

SILENCE = 20.0
"""Seconds after which a server that says nothing is given up."""

PAUSES = (0.5, 2.0)
"""Seconds to wait before trying again."""

PATIENCE = 600.0
"""Seconds that one shard may take, over HTTP, and that another process that fetches it is waited for."""


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

    options: dict[str, Any] = {}
    if place.startswith(("http://", "https://")):
        # Left to itself a connection that has gone silent is waited for for five minutes.
        import aiohttp

        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(total=PATIENCE, sock_connect=SILENCE, sock_read=SILENCE)
        }
    return url_to_fs(place, **options)


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def fetch(place: str, cache: Path, expected: ShardEntry | None = None) -> Path:
    """A shard on this machine; a remote one is fetched once by whichever rank is first, and kept for all.

    Args:
        place: Path or URL.
        cache: Folder for fetched shards, shared by the ranks of a machine; see :func:`cache_bytes` for how large it gets.
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
        cache.mkdir(parents=True, exist_ok=True)
        # One process downloads, the others wait for it; should it hang, they wait no longer than a download may take.
        with FileLock(cache / f"{label}.lock", timeout=PATIENCE):
            if not (target.is_file() and (expected is None or target.stat().st_size == expected.bytes)):
                _download(fs, path, place, target, expected)
            os.utime(target)  # the least recently used are the first to go
    except BenchmarkError:
        raise
    except Timeout:
        raise BenchmarkError(
            f"Cannot fetch {place}: another process has been at it for {PATIENCE:.0f} s; if there is none, delete "
            f"{cache / label}.lock."
        ) from None
    except Exception as error:  # every remote file system has its own errors
        raise BenchmarkError(f"Cannot fetch {place}: {_line(error)}") from error
    return target


def _download(fs: Any, path: str, place: str, target: Path, expected: ShardEntry | None) -> None:
    handle, name = tempfile.mkstemp(suffix=".tmp", dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        for left in reversed(range(len(PAUSES) + 1)):
            try:
                fs.get_file(path, name)
                break
            except Exception as error:  # a server that is busy, a connection that broke: worth another try
                if left == 0 or _is_final(error):
                    raise
                log.info("Fetching %s failed (%s); trying again.", place, _line(error))
                time.sleep(PAUSES[-left])
        if expected is not None and sha256_of(part) != expected.sha256:
            raise BenchmarkError(f"{place} is not the shard that the manifest describes: its sha256 differs.")
        _make_room(target.parent, part.stat().st_size)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _is_final(error: Exception) -> bool:
    """Whether asking again would get the same answer: HTTP says so with a status of 400 and more, but for "busy"."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(error, FileNotFoundError | PermissionError)


def _make_room(cache: Path, needed: int) -> None:
    """Deletes what was not used for the longest time. What a process has open stays readable for it."""
    bound = cache_bytes()
    kept = []
    for file in cache.glob("*.tar"):
        with suppress(FileNotFoundError):  # another process makes room too
            seen = file.stat()
            kept.append((seen.st_mtime, seen.st_size, file))
    size = sum(bytes_ for _, bytes_, _ in kept)
    for _, bytes_, oldest in sorted(kept):
        if size + needed <= bound:
            break
        size -= bytes_
        oldest.unlink(missing_ok=True)
        oldest.with_suffix(".lock").unlink(missing_ok=True)


def cache_bytes() -> int:
    """How many bytes of fetched shards a machine keeps: `$RADAR_CALLBACK_CACHE_GB` gigabytes, 50 if not set.

    Raises:
        BenchmarkError: If that is no number above 0.
    """
    text = os.environ.get("RADAR_CALLBACK_CACHE_GB", "50")
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise BenchmarkError(f"Expected RADAR_CALLBACK_CACHE_GB to be a number above 0, but got {text!r}.")
    return int(size * 1e9)


def default_cache() -> Path:
    """Where fetched shards are kept: `$RADAR_CALLBACK_CACHE`, or `radar-callback` in the user's cache folder."""
    chosen = os.environ.get("RADAR_CALLBACK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radar-callback"
