"""Files that may lie on another machine: read through fsspec, shards fetched once and kept."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import lzma
import os
import re
import shutil
import tempfile
import time
import zlib
from bz2 import BZ2File
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from radar_callback.benchmark.index import sha256_of
from radar_callback.benchmark.manifest import ShardEntry
from radar_callback.benchmark.places import guard_logs, identity, is_remote, redacted, shown
from radar_callback.errors import BenchmarkError
from radar_callback.files import write_atomically

log = logging.getLogger(__name__)

T = TypeVar("T")

SILENCE = 20.0
"""Seconds after which a server that says nothing is given up."""

PAUSES = (0.5, 2.0)
"""Seconds to wait before trying again."""

PATIENCE = 600.0
"""Seconds that one shard may take, over HTTP, and that another process that fetches it is waited for."""

SETTLED = 2.0
"""Seconds that must lie between a file's last change and its fetching for the time of change, told in whole seconds, to tell
a later change."""

CHUNK = 2**20


class RefusedError(BenchmarkError):
    """A server that says who may read a file, and that this one may not."""


def contents(place: str) -> bytes | None:
    """What a file holds; None if there is no such file.

    Raises:
        BenchmarkError: If it cannot be read; `RefusedError` if the server wants another password or signature.
    """
    try:
        if not is_remote(place):
            return Path(place).read_bytes()
        fs, path = _remote(place)
        data: bytes = fs.cat_file(path)
        return data
    except FileNotFoundError:
        return None
    except Exception as error:  # every remote file system has its own errors
        refused = getattr(error, "status", None) in (401, 403) or isinstance(error, PermissionError)
        kind = RefusedError if refused else BenchmarkError
        problem = kind(f"Cannot read {shown(place)}: {line_of(error, place)}")
    # Not raised where it was caught: the library's error would be its context, and quote the URL in a traceback.
    raise problem


_OWN_CACHES = ("simplecache", "filecache", "blockcache", "cached")


def _remote(place: str) -> tuple[Any, str]:
    # Remote file systems are an import of 0.3 s that local benchmarks can do without.
    from fsspec.core import url_to_fs

    guard_logs()
    # Through fsspec's caches a shard would be kept twice, with its URL in a file beside it.
    while place.partition("::")[0].removesuffix("://") in _OWN_CACHES and "::" in place:
        place = place.partition("::")[2]
    options: dict[str, Any] = {}
    if _is_http(place):
        # Left to itself a connection that has gone silent is waited for for five minutes.
        import aiohttp

        options["client_kwargs"] = {
            "timeout": aiohttp.ClientTimeout(total=PATIENCE, sock_connect=SILENCE, sock_read=SILENCE)
        }
        if "?" in place and re.fullmatch(r"[!-~]+", place):
            # A signature is sent as it was given: %2F and / are two things to some servers.
            options["encoded"] = True
    return url_to_fs(place, **options)


def _is_http(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def line_of(error: BaseException, place: str) -> str:
    """An error of another library as one line that holds no secret of the place it is about."""
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if isinstance(status, int) and isinstance(message, str):
        return redacted(f"HTTP {status} {message}".strip(), place)  # the rest of it is the URL
    if isinstance(error, FileNotFoundError) and error.errno is None:  # fsspec's holds nothing but the place
        return "there is no such file"
    text = str(error).strip() or type(error).__name__
    return redacted(text, place).splitlines()[0]


def fetch(place: str, cache: Path, expected: ShardEntry | None = None, *, check: bool = False) -> Path:
    """A shard on this machine; a remote one is fetched once by whichever rank is first, and kept for all.

    Args:
        place: Path or URL.
        cache: Folder for fetched shards, shared by the ranks of a machine; see :func:`cache_bytes` for how large it gets.
        expected: What the manifest says about it; a fetched file that differs is refused. Without, the server is asked
            whether it still has what was fetched before, and the kept file is read to see whether it is whole.
        check: Read the kept file, and fetch it again if its checksum is not the manifest's.

    Raises:
        BenchmarkError: If it cannot be fetched, or is not what the manifest says.
    """
    if not is_remote(place):
        return Path(place)
    label = identity(place) if expected is None else expected.sha256
    lock = cache / f"{label}.lock"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        begun = time.time()
        # One process downloads, the others wait for it; should it hang, they wait no longer than a download may take.
        with FileLock(lock, timeout=PATIENCE):
            target = _current(place, cache, begun) if expected is None else _described(place, cache, expected, check)
        os.utime(target)  # the least recently used are the first to go
        return target
    except BenchmarkError as error:
        problem = error
    except Timeout:
        problem = BenchmarkError(
            f"Cannot fetch {shown(place)}: another process has been at it for {PATIENCE:.0f} s; if there is none, delete "
            f"{lock}."
        )
    except Exception as error:  # every remote file system has its own errors
        problem = BenchmarkError(f"Cannot fetch {shown(place)}: {line_of(error, place)}")
    # Not raised where it was caught: the library's error would be its context, and quote the URL in a traceback.
    raise problem


def _described(place: str, cache: Path, expected: ShardEntry, check: bool) -> Path:
    """The file that a manifest describes, whatever place it was fetched from before."""
    target = cache / f"{expected.sha256}.tar"
    if target.is_file():
        if target.stat().st_size == expected.bytes and not (check and sha256_of(target) != expected.sha256):
            return target
        _drop_damaged(target, place)
    fs, path = _remote(place)
    with _Part(cache) as part:
        _tried(place, lambda: fs.get_file(path, str(part)))
        if sha256_of(part) != expected.sha256:
            raise BenchmarkError(f"{shown(place)} is not the shard that the manifest describes: its sha256 differs.")
        _keep(part, target)
    return target


def _drop_damaged(target: Path, place: str) -> None:
    log.warning("The kept copy of %s was damaged (%s): fetching it again.", shown(place), target)
    target.unlink(missing_ok=True)


@dataclass(frozen=True)
class Version:
    """What a server says about a file that tells one version of it from another.

    Attributes:
        etag: Its entity tag, or what another file system has in its place; None if it gives none.
        modified: When it was last changed, as the server writes it.
        length: Its size in bytes, as a text.
        settled: Whether `modified` lies so far back that a later change must show in it.
    """

    etag: str | None = None
    modified: str | None = None
    length: str | None = None
    settled: bool = False

    def is_still(self, now: Version) -> bool:
        """Whether the file is certainly still the one it was."""
        if self.length is not None and now.length is not None and self.length != now.length:
            return False
        if self.etag is not None and now.etag is not None:
            return self.etag.removeprefix("W/") == now.etag.removeprefix("W/")
        return self.settled and self.modified is not None and self.modified == now.modified

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> Version:
        """From the headers of an HTTP response."""
        modified = headers.get("Last-Modified")
        settled = False
        with suppress(ValueError, TypeError):
            if modified is not None:
                date = headers.get("Date")
                asked = parsedate_to_datetime(date).timestamp() if date is not None else time.time()
                settled = asked - parsedate_to_datetime(modified).timestamp() >= SETTLED
        return cls(headers.get("ETag"), modified, headers.get("Content-Length"), settled)


def _current(place: str, cache: Path, begun: float) -> Path:
    """A file that no manifest describes, as the server has it now; fetched again only if it may have changed."""
    note = cache / f"{identity(place)}.json"
    version, sha256, checked = _noted(note)
    target = cache / f"{sha256}.tar"
    if version is not None and target.is_file():
        if sha256_of(target) != sha256:
            _drop_damaged(target, place)
            version = None
        # Another rank has just asked, while this one waited for it.
        elif checked >= begun:
            return target
    else:
        version = None
    fs, path = _remote(place)
    with _Part(cache) as part:
        now = _tried(place, lambda: _changed(fs, path, part, version))
        if now is not None:
            version, sha256 = now, sha256_of(part)
            target = cache / f"{sha256}.tar"
            _keep(part, target)
    text = {"version": asdict(version or Version()), "sha256": sha256, "checked": time.time()}
    write_atomically(note, json.dumps(text) + "\n")
    return target


def _noted(note: Path) -> tuple[Version | None, str, float]:
    try:
        found = json.loads(note.read_text())
        return Version(**found["version"]), str(found["sha256"]), float(found["checked"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "", 0.0


def _changed(fs: Any, path: str, part: Path, known: Version | None) -> Version | None:
    """Fetches a file unless it is still the known version; what the server says about what was fetched."""
    if _http_system(fs):
        return _download_http(fs, path, part, known)
    now = _version_of(fs.info(path))
    if known is not None and known.is_still(now):
        return None
    fs.get_file(path, str(part))
    return now


_PLACE_FIELDS = frozenset({"name", "full_name", "url", "key", "Key", "islink", "destination"})


def _version_of(info: Mapping[str, Any]) -> Version:
    """From what fsspec tells about a file; each file system has its own names for the time, the tag and the checksum."""
    told = {key: str(value) for key, value in info.items() if key not in _PLACE_FIELDS and value is not None}
    rest = {key: value for key, value in told.items() if key not in ("size", "type", "StorageClass")}
    tag = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest() if rest else None
    return Version(etag=tag, length=told.get("size"))


def _http_system(fs: Any) -> bool:
    from fsspec.implementations.http import HTTPFileSystem

    return isinstance(fs, HTTPFileSystem)


def _download_http(fs: Any, url: str, part: Path, known: Version | None) -> Version | None:
    """Fetches a file unless it is still the known version.

    fsspec's own methods show neither the headers of what they fetch nor let a fetch depend on them. A server that refuses HEAD
    is asked in the GET itself, which costs no body where nothing has changed.
    """
    import aiohttp
    from fsspec.asyn import sync

    async def get() -> Version | None:
        session = await fs.set_session()
        link = fs.encode_url(url)
        given = dict(fs.kwargs)
        headers = dict(given.pop("headers", {}))
        if known is not None:
            with suppress(aiohttp.ClientError, TimeoutError):  # the GET will tell what is wrong
                async with session.head(link, headers=headers, **{"allow_redirects": True, **given}) as response:
                    if response.status == 200 and known.is_still(Version.of_headers(response.headers)):
                        return None
            if known.etag is not None:
                headers["If-None-Match"] = known.etag
            elif known.settled and known.modified is not None:
                headers["If-Modified-Since"] = known.modified
        async with session.get(link, headers=headers, **given) as response:
            if known is not None and response.status == 304:
                return None
            if response.status == 404:
                raise FileNotFoundError(url)
            response.raise_for_status()
            version = Version.of_headers(response.headers)
            if known is not None and known.is_still(version):
                response.close()
                return None
            with part.open("wb") as file:
                async for chunk in response.content.iter_chunked(CHUNK):
                    file.write(chunk)
            return version

    version: Version | None = sync(fs.loop, get)
    return version


class _Part:
    """A file that is being fetched, beside its place; gone at the end unless it was moved there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(suffix=".tmp", dir=self._folder)
        os.close(handle)
        self._path = Path(name)
        return self._path

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)


def _keep(part: Path, target: Path) -> None:
    _make_room(target.parent, part.stat().st_size)
    part.replace(target)


def _tried(place: str, download: Callable[[], T]) -> T:
    pauses = list(PAUSES)
    while True:
        try:
            return download()
        except Exception as error:  # a server that is busy, a connection that broke: worth another try
            if not pauses or _is_final(error):
                raise
            log.info("Fetching %s failed (%s); trying again.", shown(place), line_of(error, place))
            time.sleep(pauses.pop(0))


def _is_final(error: Exception) -> bool:
    """Whether asking again would get the same answer: HTTP says so with a status of 400 and more, but for "busy"."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(error, FileNotFoundError | PermissionError)


_PACKERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": BZ2File, b"\xfd7zXZ\x00": lzma.open}
"""How a compressed file begins -> what opens it."""


def _packer(path: Path) -> Callable[[Path], Any] | None:
    with path.open("rb") as file:
        head = file.read(8)
    return next((opener for magic, opener in _PACKERS.items() if head.startswith(magic)), None)


def is_compressed(path: Path) -> bool:
    """Whether a file is a tar file that was compressed as a whole, in which no item can be read without all before it."""
    return _packer(path) is not None


def unpacked(path: Path, sha256: str, cache: Path, *, anew: bool = False) -> Path:
    """A compressed shard as a plain one, unpacked once and kept as fetched ones are.

    Args:
        path: The compressed file.
        sha256: Its checksum.
        cache: Where it is kept.
        anew: Unpack it even if it was before.

    Raises:
        BenchmarkError: If it cannot be unpacked.
    """
    target = cache / f"{sha256}.unpacked.tar"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{sha256}.unpacked.lock", timeout=PATIENCE):
            if anew or not target.is_file():
                opener = _packer(path)
                if opener is None:
                    raise BenchmarkError(f"Expected {path.name} to be compressed, as its manifest says, but it is not.")
                with _Part(cache) as part:
                    with opener(path) as packed, part.open("wb") as plain:
                        shutil.copyfileobj(packed, plain, CHUNK)
                    _keep(part, target)
            os.utime(target)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, Timeout) as error:
        raise BenchmarkError(f"Expected {path.name} to be a whole compressed tar file, but {error}.") from None
    return target


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
