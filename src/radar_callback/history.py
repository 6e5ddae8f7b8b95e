"""Every evaluation of a run so far, on disk: one JSON line each, safe against a crash at any moment.

The file is written by one process (rank zero). A line is on the disk before `append` returns, so that a run killed
right after an evaluation has not lost it, whatever became of the loggers' buffers.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from radar_callback.errors import RadarError
from radar_callback.journal import (
    StrangeLineError,
    append_line,
    fingerprint,
    own_path,
    read_lines,
    set_aside,
    write_lines,
)

Record = dict[str, Any]
"""One evaluation, as `RadarResult.to_record` gives it, with JSON types only."""

_log = logging.getLogger(__name__)

_ROW_FIELDS = ("sds", "sds_logprob", "accuracy", "se", "chance")


class HistoryError(RadarError):
    """A file is no history, or a record cannot become a line of one."""


class History:
    """The evaluations of one run, in memory and in one file that always agree.

    A point is known by its step and its benchmark. The records are sorted by step and hold no point twice; what is
    replaced or rewound is moved to `<name>.discarded.jsonl` beside the file.

    Args:
        path: The file, usually `radar_history.jsonl` in the run's log folder. It is created by the first `append`. A
            last line that a crash cut off is dropped, with a warning in the log.
        run: Identity of the run, which its records have under `run`. A file that holds another run's records is left alone, at
            the start and when that run takes it over later: `path` is then `<name>.<run>.jsonl`. None to take any file.

    Raises:
        HistoryError: If the file exists and is no history.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> def point(step):
        ...     return {"step": step, "benchmark": "mini", "abilities": {}, "groups": {}, "overall": {}}
        >>> with TemporaryDirectory() as folder:
        ...     history = History(Path(folder) / "radar_history.jsonl")
        ...     for step in (0, 200, 400):
        ...         history.append(point(step))
        ...     moved = history.rewind(200)
        ...     [record["step"] for record in read_history(history.path)], moved
        ([0, 200], 1)
    """

    def __init__(self, path: str | os.PathLike[str], run: str | None = None) -> None:
        self.path = Path(path)
        self._run = run
        if run is not None and _others(_records(self.path, _lines_of(self.path)), run):
            self.path = own_path(self.path, run)
            _log.warning("%s is another run's: this run writes to %s.", path, self.path.name)
        self._records = _sorted(_open(self.path))
        self._left = fingerprint(self.path)

    @classmethod
    def start_fresh(cls, path: str | os.PathLike[str], run: str | None = None) -> History:
        """Begins a new history; the file of an earlier run at the same place is kept as `<name>.<n>.jsonl`."""
        path = Path(path)
        if kept := set_aside(path, _discarded(path)):
            _log.warning("%s holds an earlier run: kept as %s.", path, kept.name)
        return cls(path, run)

    @property
    def records(self) -> list[Record]:
        """All points, sorted by step. The list is the caller's; the records are shared, so leave them as they are."""
        return list(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: tuple[int, str]) -> bool:
        """Whether the point `(step, benchmark)` is there."""
        return any(_key(record) == key for record in self._records)

    @property
    def discarded_path(self) -> Path:
        """Where points go that are no longer part of the run's curve."""
        return _discarded(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a point and returns once it is on the disk.

        A second evaluation of the same benchmark at the same step takes the place of the first.

        Args:
            record: `RadarResult.to_record()`, with any further keys; NaN and infinity become null.

        Raises:
            HistoryError: If it has no step and benchmark, or holds something that is not JSON.
        """
        plain = _plain(record)
        self._leave_if_taken()
        last_step = self._records[-1]["step"] if self._records else 0
        if self.path.exists() and plain["step"] >= last_step and _key(plain) not in self:
            append_line(self.path, _line(plain))
            self._left = fingerprint(self.path)
            self._records.append(plain)
            return
        replaced = [old for old in self._records if _key(old) == _key(plain)]
        self._replace([*(old for old in self._records if _key(old) != _key(plain)), plain], replaced)

    def rewind(self, step: int) -> int:
        """Goes back to a checkpoint: points after its step belong to a branch that the run has left.

        Args:
            step: `global_step` of the checkpoint; points at this very step stay.

        Returns:
            How many points were moved to `discarded_path`.
        """
        left = [record for record in self._records if record["step"] > step]
        if left:
            self._replace([record for record in self._records if record["step"] <= step], left)
            _log.info(
                "History rewound to step %d: %d later point(s) moved to %s.", step, len(left), self.discarded_path
            )
        return len(left)

    def merge(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Takes in the points that a checkpoint carried, each once.

        Where file and checkpoint disagree about a point, the checkpoint is right, since it is the branch that goes on;
        the file's version is moved to `discarded_path`.

        Returns:
            How many points were new or changed.
        """
        carried = {_key(plain): plain for plain in map(_plain, records)}
        mine = {_key(record): record for record in self._records}
        changed = {key: record for key, record in carried.items() if mine.get(key) != record}
        if changed:
            self._replace([*(mine | changed).values()], [mine[key] for key in changed if key in mine])
        return len(changed)

    def state(self) -> list[Record]:
        """The points as builtin types, for a checkpoint that `torch.load(weights_only=True)` reads."""
        return deepcopy(self._records)

    def _replace(self, records: list[Record], discarded: list[Record]) -> None:
        """Rewrites the file. What is discarded is on the disk elsewhere first: a crash in between loses nothing."""
        self._leave_if_taken()
        records = _sorted(records)
        if discarded:
            there = _lines_of(self.discarded_path)
            lines = [_line(record) for record in discarded]
            write_lines(self.discarded_path, [*there, *(line for line in lines if line not in there)])
        write_lines(self.path, [_line(record) for record in records])
        self._left = fingerprint(self.path)
        self._records = records

    def _leave_if_taken(self) -> None:
        """Goes on in a file of its own where another run has begun to write to this one."""
        now = fingerprint(self.path)
        if self._run is None or now is None or now == self._left:
            return
        try:
            mine = _sorted(_records(self.path, _lines_of(self.path))) == self._records
        except HistoryError:
            mine = False
        self._left = now
        if mine:  # copied, or moved to another disk
            return
        taken, self.path = self.path, own_path(self.path, self._run, free=True)
        _log.warning("Another run writes to %s now: this run goes on in %s.", taken, self.path.name)
        write_lines(self.path, [_line(record) for record in self._records])
        self._left = fingerprint(self.path)


def read_history(path: str | os.PathLike[str]) -> list[Record]:
    """Reads a history without touching it, also while its run is still writing: a torn last line is left out.

    Args:
        path: A `radar_history.jsonl`.

    Returns:
        The records, sorted by step.

    Raises:
        HistoryError: If the file is missing or is no history.
    """
    path = Path(path)
    if not path.is_file():
        raise HistoryError(f"Expected a history file, but {path} does not exist or is not a file.")
    return _sorted(_records(path, _lines_of(path)))


def usable_records(values: Any) -> list[Record]:
    """What can be made sense of in a list of records from elsewhere; the rest is counted in a warning.

    Args:
        values: Usually a checkpoint's `history`.
    """
    found, strange = [], 0
    for value in values if isinstance(values, list | tuple) else ([] if values is None else [values]):
        try:
            found.append(_plain(value) if isinstance(value, Mapping) else _checked(value))
        except HistoryError:
            strange += 1
    if strange:
        _log.warning("%d evaluation(s) of a checkpoint's history cannot be read and are left out.", strange)
    return _sorted(found)


def _others(records: Iterable[Record], run: str) -> bool:
    """Whether a record is another run's; those of the first releases do not say whose they are."""
    return any(record.get("run") not in (None, run) for record in records)


def _open(path: Path) -> list[Record]:
    """Reads a file that is about to be written to, and mends its end."""
    if not path.exists():
        return []
    lines = _lines_of(path)
    records = _records(path, lines)
    if b"".join(lines) != path.read_bytes():
        write_lines(path, lines)
        _log.warning("%s ended in a line cut off by a crash: mended, %d point(s) kept.", path, len(lines))
    return records


def _lines_of(path: Path) -> list[bytes]:
    try:
        return read_lines(path)
    except StrangeLineError as error:
        raise HistoryError(f"Expected {path} to be a radar history, but {error}.") from None


def _records(path: Path, lines: Sequence[bytes]) -> list[Record]:
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_checked(json.loads(line)))
        except (ValueError, HistoryError) as error:
            raise HistoryError(f"Expected {path} to be a radar history, but line {number} is none: {error}") from None
    return records


def _checked(record: Any) -> Record:
    """Refuses a record that pictures and reports could not be made from."""
    if not isinstance(record, dict):
        raise HistoryError(f"expected an object, but got {type(record).__name__}")
    step, benchmark = record.get("step"), record.get("benchmark")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise HistoryError(f"expected 'step' to be a whole number of at least 0, but got {step!r}")
    if not isinstance(benchmark, str):
        raise HistoryError(f"expected 'benchmark' to be a name, but got {benchmark!r}")
    rows: dict[str, Any] = {"overall": record.get("overall")}
    for part in ("abilities", "groups"):
        if not isinstance(record.get(part), dict):
            raise HistoryError(f"expected '{part}' to be an object, but got {record.get(part)!r}")
        rows |= record[part]
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise HistoryError(f"expected the row {name!r} to be an object, but got {row!r}")
        for field in _ROW_FIELDS:
            value = row.get(field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise HistoryError(f"expected {field!r} of {name!r} to be a number or null, but got {value!r}")
    return record


def _plain(record: Mapping[str, Any]) -> Record:
    """The record as a reader of the file will see it: JSON types only, the step first."""
    try:
        text = json.dumps(_finite({"step": record.get("step"), **record}), allow_nan=False)
        return _checked(json.loads(text))
    except (TypeError, ValueError, HistoryError) as error:
        raise HistoryError(f"This evaluation cannot be kept in the history: {error}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(record: Record) -> tuple[int, str]:
    return record["step"], record["benchmark"]


def _sorted(records: Iterable[Record]) -> list[Record]:
    """By step, and in their order within a step; of a point that is there twice, the later one."""
    return sorted({_key(record): record for record in records}.values(), key=lambda record: record["step"])


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _discarded(path: Path) -> Path:
    return path.with_suffix(f".discarded{path.suffix}")
