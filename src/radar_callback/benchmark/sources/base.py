"""What every source of items hands to the writer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.errors import BenchmarkError

MAX_KEY = 80


@dataclass(frozen=True)
class SourceResult:
    """A benchmark that has not been written yet.

    Attributes:
        samples: The items in order, read one by one; an item that was left out comes as `Skipped`.
        groups: `{ability: group}`.
        name: Name of the benchmark, unless the user gives another one.
        licence: Under which the items may be used, as far as is known.
        source: Where they come from.
    """

    samples: Iterable[Sample | Skipped]
    groups: Mapping[str, str]
    name: str
    licence: str = ""
    source: str = ""


def slug(text: str) -> str:
    """A key made of any text: letters, digits, `_` and `-` only, and different for different texts.

    What depends on no other item stays the same when items are added or taken away.

    Example:
        >>> slug("test_Math_7"), slug("v1.5/a")
        ('test_Math_7', 'v1_5_a-39249d0d')
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:MAX_KEY]
    if plain == text and plain:
        return plain
    # Two texts that look alike once their special characters are gone must not become one item.
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str, where: str) -> Any:
    """Parses JSON as the standard has it (no NaN).

    Raises:
        BenchmarkError: If it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BenchmarkError(
            f"{where}: Expected JSON, but line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{where}: Expected JSON, but {error}.") from None


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Raises:
        BenchmarkError: If it cannot be read or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BenchmarkError(f"Expected a file at {path}, but there is none.") from None
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: Expected UTF-8 text, but byte {error.start} is not ({error.reason}).") from None
    except OSError as error:
        raise BenchmarkError(f"Cannot read {path}: {error}.") from None


def check_unicode(item: Any, where: str) -> None:
    r"""Refuses text that JSON can spell (`"\ud800"`) but UTF-8, and so every tokenizer, cannot.

    Raises:
        BenchmarkError: If there is such text.
    """
    try:
        json.dumps(item, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BenchmarkError(
            f"{where}: Expected Unicode text, but got a lone surrogate {error.object[error.start]!a}."
        ) from None
