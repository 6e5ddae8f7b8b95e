"""Where benchmarks are built from: `radar-callback shards build --from NAME`."""

from __future__ import annotations

from collections.abc import Callable

from radar_callback.benchmark.sources.base import SourceResult
from radar_callback.benchmark.sources.jsonl import read_jsonl
from radar_callback.benchmark.sources.m3bench import read_m3bench
from radar_callback.benchmark.sources.mini import read_mini

SOURCES: dict[str, Callable[..., SourceResult]] = {
    "m3bench": read_m3bench,
    "jsonl": read_jsonl,
    "mini": read_mini,
}
"""Each takes what the user names as SOURCE, and keyword arguments of its own."""

__all__ = ["SOURCES", "SourceResult", "read_jsonl", "read_m3bench", "read_mini"]
