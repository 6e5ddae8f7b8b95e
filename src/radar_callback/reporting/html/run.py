"""What a report knows of one run."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from radar_callback.diagnosis import Diagnosis, Finding, diagnose
from radar_callback.errors import ConfigError
from radar_callback.history import HistoryError, read_history
from radar_callback.item_history import ItemHistoryError, read_item_scores
from radar_callback.item_scores import ItemIndex, ItemScores
from radar_callback.reporting.curves import of_benchmark
from radar_callback.reporting.html.tidy import tidied

Record = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: For legends and tables.
        records: Its evaluations of one benchmark, sorted by step; at least one.
        diagnosis: What they tell.
        index: The benchmark's items, where their scores were kept.
        items: Item scores by step.
    """

    name: str
    records: Sequence[Record]
    diagnosis: Diagnosis
    index: ItemIndex | None
    items: dict[int, ItemScores]

    @property
    def abilities(self) -> list[str]:
        """All abilities, in the order of the latest evaluation."""
        return list(self.records[-1]["abilities"])

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return str(self.records[-1]["benchmark"])

    @property
    def alarms(self) -> list[Finding]:
        """The findings that say that something broke."""
        return [finding for finding in self.diagnosis.findings if finding.is_alarm]


def load_run(path: Path, name: str, benchmark: str | None = None) -> Run:
    """Reads a history, and the item scores beside it.

    Args:
        path: `radar_history.jsonl`, or that packed as `.jsonl.gz`.
        name: For legends and tables.
        benchmark: Whose evaluations; by default that of the latest.

    Raises:
        HistoryError: If it is no history.
        ConfigError: If it holds no evaluation, or none of that benchmark.
    """
    records = _packed(path) if path.suffix == ".gz" else read_history(path)
    chosen = [tidied(record) for record in of_benchmark(records, benchmark)]
    if not chosen:
        known = sorted({record["benchmark"] for record in records})
        raise ConfigError(
            f"Expected evaluations of {benchmark!r} in {path}, but it has those of {', '.join(known)}."
            if known
            else f"Expected at least one evaluation in {path}, but it has none."
        )
    index, items = _items(path, chosen[-1]["benchmark"])
    return Run(name, chosen, diagnose(chosen), index, items)


def names_for(paths: Sequence[Path], given: Sequence[str]) -> list[str]:
    """A name for each history: those given, else the part of the path that tells it from the others.

    Example:
        >>> names_for([Path("runs/small/radar_history.jsonl"), Path("runs/large/radar_history.jsonl")], [])
        ['small', 'large']
        >>> names_for([Path("radar_history.jsonl")], [])
        ['radar_history']
    """
    if given:
        if len(given) != len(paths) or len(set(given)) < len(given):
            raise ConfigError(
                f"Expected a different --name for each of the {len(paths)} histories, but got {list(given)}."
            )
        return list(given)
    parts = [[part for part in path.parts[:-1] if part != path.anchor] for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) or path.stem for part, path in zip(parts, paths, strict=True)]
        if len(set(names)) == len(names):
            return names
    stems = [path.name.removesuffix(".gz").removesuffix(".jsonl") for path in paths]
    return stems if len(set(stems)) == len(stems) else [f"{stem} {i}" for i, stem in enumerate(stems, start=1)]


def _packed(path: Path) -> list[Record]:
    """Unpacks a history where nobody looks and reads it like any other, so that it is judged by the same rules."""
    with TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, zlib.error) as error:
            raise HistoryError(f"Expected {path} to be a packed history, but it is none: {error}") from None
        try:
            return read_history(plain)
        except HistoryError as error:
            raise HistoryError(str(error).replace(str(plain), str(path))) from None


def _items(path: Path, benchmark: str) -> tuple[ItemIndex | None, dict[int, ItemScores]]:
    """The item scores beside a history, under the same label; none if they are of other items or cannot be read."""
    beside = path.with_name(path.name.removesuffix(".gz").replace("radar_history", "radar_items", 1))
    if "radar_history" not in path.name or not beside.exists():
        return None, {}
    try:
        index, items = read_item_scores(beside)
    except ItemHistoryError as error:
        log.warning("Single items are left out of the report. %s", error)
        return None, {}
    return (index, items) if index.benchmark == benchmark else (None, {})
