"""Places of files: paths and URLs taken apart, joined, and shown without the secrets that URLs carry.

A URL may hold a password before its host, a signature in its query, a token in its fragment. Those are sent to the server and
shown to nobody: whatever is printed, logged, raised, written to a file or used as a name goes through :func:`shown` (a place) or
:func:`redacted` (text of another library that may quote one).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Stands where a secret was."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/+")
_TAIL = re.compile(r"[?#]|;(?=[^/]*=)")
"""Where the path of a URL ends: query, fragment and path parameters are what signatures stand in."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
_URL_IN_TEXT = re.compile(r"""(?:[\w.+\-]+::)*[A-Za-z][A-Za-z0-9+.\-]*:/+[^\s'"<>]*""")
_USER_IN_TEXT = re.compile(r"""[^\s/'"<>()\[\]]*:(?!/)[^\s'"<>()]*@(?=[\w\[])""")
_ASSIGNED = re.compile(
    r"""(?i)([\w.\-]*(?:sig|token|secret|passw|pwd|credential|access.?key|api.?key|auth)[\w.\-]*=)[^&\s'"<>,)]+"""
)
_SECRET_OPTION = re.compile(r"(?i)key|secret|token|passw|pwd|credential|sas|auth|cookie|signature|connection_string")


def is_remote(place: str) -> bool:
    """Whether a place is a URL and not a path on this machine."""
    return "://" in place


def _split(place: str) -> tuple[str, str, str]:
    """A URL as `(front, path, tail)`: what a file's name is changed in is the path, `front + path + tail` the whole.

    Of a chain, `zip://inner::https://host/outer.zip`, it is the path of the first link that has one.
    """
    links = place.split("::")
    at = next((i for i, link in enumerate(links) if "://" in link), 0)
    before, rest = "".join(f"{link}::" for link in links[:at]), "::".join(links[at:])
    scheme, _, address = rest.partition("://")
    # A later link of the chain, or the query, begins where the path ends.
    ends = [found.start() for found in (re.search(r"::", address), re.search(r"[?#]", address)) if found]
    end = min(ends, default=len(address))
    slash = address.find("/", 0, end)
    slash = end if slash < 0 else slash
    return f"{before}{scheme}://{address[:slash]}", address[slash:end], address[end:]


def join(folder: str, name: str) -> str:
    """A file in a folder that may be a URL. What stands behind the URL's path is needed for each of its files.

    Example:
        >>> join("https://host/bench/", "manifest.json")
        'https://host/bench/manifest.json'
        >>> join("https://host/bench?sig=4f", "manifest.json")
        'https://host/bench/manifest.json?sig=4f'
    """
    if not is_remote(folder):
        return str(Path(folder) / name)
    front, path, tail = _split(folder)
    return f"{front}{path.rstrip('/')}/{name}{tail}"


def parent(place: str) -> str:
    """The folder of a file, with the query that the file was asked for with.

    Example:
        >>> parent("https://host/bench/a.tar?sig=4f")
        'https://host/bench?sig=4f'
    """
    if not is_remote(place):
        return str(Path(place).parent)
    front, path, tail = _split(place)
    return f"{front}{path.rpartition('/')[0]}{tail}"


def file_name(place: str) -> str:
    """The last part of a path; of a URL's path, never of what stands before or behind it.

    Example:
        >>> file_name("https://user:word@host/bench/a.tar?sig=4f"), file_name("https://user:word@host")
        ('a.tar', '')
    """
    return _split(place)[1].rstrip("/").rpartition("/")[2] if is_remote(place) else Path(place).name


def expandable(place: str) -> tuple[str, str, str]:
    """A place as `(front, pattern, tail)`; only the pattern's braces mean a range, not those of a password or signature."""
    if not is_remote(place):
        return "", place, ""
    front, path, tail = _split(place)
    scheme, slashes, address = front.rpartition("://")
    user, at, host = address.rpartition("@")
    return f"{scheme}{slashes}{user}{at}", host + path, tail


def shown(place: str | os.PathLike[str]) -> str:
    """A place as people may see it: without the password, query and fragment of a URL.

    Example:
        >>> shown("https://user:word@host:8000/bench/a.tar?sig=4f")
        'https://***@host:8000/bench/a.tar?***'
        >>> shown("path/to/folder"), shown("simplecache::s3://key:word@bucket/bench")
        ('path/to/folder', 'simplecache::s3://***@bucket/bench')
    """
    links: list[str] = []
    open_tail = False
    for link in os.fspath(place).split("::"):
        # The :: may have been one of a query or password, whose rest this is.
        if open_tail and not _SCHEME.search(link):
            continue
        text = _shown_link(link, alone=not links)
        open_tail = text.endswith(HIDDEN)
        links.append(text)
    return "::".join(links)


def _shown_link(link: str, alone: bool) -> str:
    found = _SCHEME.match(link)
    if found is None:
        # No URL, or one that was mistyped; a file's name may hold an @, but hardly a user's name and password.
        at = link.rfind("@") if ":" in link.partition("@")[0] or not alone else -1
        before = HIDDEN if at >= 0 else ""
        rest = link[at:] if at >= 0 else link
        query = re.search(r"\?(?=[^/]*=)", rest)
        return before + (f"{rest[: query.start()]}?{HIDDEN}" if query else rest)
    address = link[found.end() :]
    end = next((tail.start() for tail in [_TAIL.search(address)] if tail), len(address))
    hidden = f"{address[end]}{HIDDEN}" if end < len(address) else ""
    address = address[:end]
    host = address.partition("/")[0]
    if "@" in host:
        # A password that holds a slash or an @ itself ends at the last @.
        address = f"{HIDDEN}@{address.rpartition('@')[2]}"
    elif not _HOST.fullmatch(host):
        # No host has such a name: the beginning of a password with a ?, # or / in it.
        return f"{found[0]}{HIDDEN}"
    elif ":" in host and "@" in address:
        address = f"{HIDDEN}@{address.rpartition('@')[2]}"
    return f"{found[0]}{address}{hidden}"


def identity(place: str) -> str:
    """Names a remote file the same however it is signed, and without any secret: 64 hexadecimal digits."""
    return hashlib.sha256(re.sub(r"\*\*\*@|[?#;]\*\*\*", "", shown(place)).encode()).hexdigest()


def redacted(text: str, *places: str) -> str:
    """Text, perhaps of another library, without the secrets of the places it is about, nor of any URL it quotes.

    Args:
        text: Such as an error's message.
        places: The URLs that it may be about; their secrets are found in any spelling.

    Example:
        >>> redacted("403, url='https://host/a.tar?sig=4f'")
        "403, url='https://host/a.tar?***'"
        >>> redacted("word is wrong", "https://user:word@host/a.tar")
        '*** is wrong'
    """
    for place in places:
        text = text.replace(place, shown(place))
    text = _URL_IN_TEXT.sub(lambda found: shown(found[0]), text)
    text = _USER_IN_TEXT.sub(lambda found: found[0] if HIDDEN in found[0] else f"{HIDDEN}@", text)
    text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    spellings = {spelling for secret in _secrets(places) for spelling in _spellings(secret)}
    for spelling in sorted(spellings, key=len, reverse=True):
        # A short one is hidden only where it stands by itself: no word of the message may be eaten.
        bound = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])" if len(spelling) < 8 else "{}"
        text = re.sub(bound.format(re.escape(spelling)), HIDDEN, text, flags=re.IGNORECASE)
    return text


def _secrets(places: Iterable[str]) -> Iterator[str]:
    """What must not be read in a message about these places."""
    for place in places:
        for link in place.split("::") if is_remote(place) else ():
            before, query = _cut(link.partition("://")[2])
            user = before.partition("/")[0].rpartition("@")[0] or (
                before.rpartition("@")[0] if ":" in before.partition("/")[0] else ""
            )
            if user:
                name, colon, word = user.partition(":")
                yield user
                yield word if colon else name
                yield base64.b64encode(unquote(user).encode()).decode()
            yield query
            for part in re.split(r"[&;#?]", query):
                value = part.partition("=")[2] or part
                if len(value) >= 6:  # `dl=1` is no secret, and hiding each 1 would hide the message
                    yield value
    yield from _options()


def _cut(address: str) -> tuple[str, str]:
    found = _TAIL.search(address)
    return (address[: found.start()], address[found.end() :]) if found else (address, "")


def _options() -> Iterator[str]:
    """Secrets among fsspec's own settings, which it takes from files and from the environment (`FSSPEC_S3_SECRET`)."""

    def walk(value: Any, secret: bool) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, secret or bool(_SECRET_OPTION.search(str(key))))
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from walk(inner, secret)
        elif secret and isinstance(value, str) and len(value) >= 4:
            yield value
            yield from (part for part in value.split() if len(part) >= 8)  # `Bearer …`

    settings = sys.modules.get("fsspec.config")  # not imported, nothing was fetched with it
    if settings is not None:
        yield from walk(settings.conf, False)


def _spellings(secret: str) -> set[str]:
    plain = {secret, unquote(secret), unquote_plus(secret)} - {""}
    return (
        plain
        | {quote(text, safe="") for text in plain}
        | {quote_plus(text) for text in plain}
        | {quote(t) for t in plain}
    )


class SecretsFilter(logging.Filter):
    """Takes secrets out of what other libraries log about the files that they fetch for us."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the message; keeps the record."""
        message = record.getMessage()
        clean = redacted(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if isinstance(record.exc_info, tuple):
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if redacted(trace) != trace:
                record.exc_info, record.exc_text = None, redacted(trace)
        return True


_LOGGERS = (
    "fsspec",
    "fsspec.http",
    "fsspec.cached",
    "aiohttp.client",
    "asyncio",
    "s3fs",
    "gcsfs",
    "adlfs",
    "httpx",
    "urllib3.connectionpool",
)


def guard_logs() -> None:
    """Keeps secrets out of the loggers of the libraries that fetch files; done once, before the first is fetched."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, SecretsFilter) for known in logger.filters):
            logger.addFilter(SecretsFilter())
