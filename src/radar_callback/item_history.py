"""Every evaluation's item scores of a run, in one file beside the history: what was learned, and what was forgotten.

A line an evaluation, compact: two bytes for each candidate's probability and two for its log-probability, and a bit an item for
whether it was correct. For a benchmark of 15,894 items with one distractor that is 172 kB an evaluation.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from radar_callback.errors import RadarError
from radar_callback.item_scores import Floats, ItemIndex, ItemScores
from radar_callback.journal import (
    StrangeLineError,
    append_line,
    fingerprint,
    own_path,
    read_lines,
    set_aside,
    write_lines,
)

log = logging.getLogger(__name__)

HEAD = -1
"""The step that the first line has, which holds the items' names."""

_MISSING = 2**16 - 1
_STEPS = 2**16 - 2
"""A probability is kept in so many steps: to within 1e-5."""


class ItemHistoryError(RadarError):
    """A file holds no item scores, or those of another benchmark."""


class ItemHistory:
    """Item scores of one run, in memory and in a file.

    Args:
        path: The file, usually `radar_items.jsonl` beside `radar_history.jsonl`; created by the first `append`.
        index: The items. A file about other ones is kept as `<name>.<n>.jsonl`, and a new one is begun.
        run: Identity of the run, written into the first line. Another run's file is left alone, as by
            :class:`radar_callback.history.History`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> index = ItemIndex("mini", ("a", "b"), ("colour", "count"), (0, 1), (2, 2))
        >>> with TemporaryDirectory() as folder:
        ...     kept = ItemHistory(Path(folder) / "radar_items.jsonl", index)
        ...     kept.append(100, ItemScores(np.float32([0.9, 0.1, 0.4, 0.6]), np.float32([-1, -3, -2, -2])))
        ...     index, scores = read_item_scores(kept.path)
        ...     index.keys, list(scores), scores[100].sds(index).round(3).tolist()
        (('a', 'b'), [100], [0.8999999761581421, 0.4000000059604645])
    """

    def __init__(self, path: str | os.PathLike[str], index: ItemIndex, run: str | None = None) -> None:
        self.path = Path(path)
        self.index = index
        self._run = run
        self._scores: dict[int, ItemScores] = {}
        if run is not None and _run_of(self.path) not in (None, run):
            self.path = own_path(self.path, run)
        self._left = fingerprint(self.path)
        if self._left is None:
            return
        try:
            found, self._scores = read_item_scores(self.path)
        except ItemHistoryError as error:
            found = None
            log.warning("%s", error)
        if found != index:
            self._scores = {}
            if aside := set_aside(self.path):
                log.warning("%s is about other items: kept as %s.", self.path, aside.name)
            self._left = fingerprint(self.path)
        elif b"".join(read_lines(self.path)) != self.path.read_bytes():
            self._rewrite()

    @classmethod
    def start_fresh(cls, path: str | os.PathLike[str], index: ItemIndex, run: str | None = None) -> ItemHistory:
        """Begins a new file; that of an earlier run at the same place is kept as `<name>.<n>.jsonl`."""
        set_aside(Path(path))
        return cls(path, index, run)

    @property
    def scores(self) -> dict[int, ItemScores]:
        """By step, in order."""
        return dict(self._scores)

    def before(self, step: int) -> tuple[int, ItemScores] | None:
        """The latest evaluation before a step, if there is one."""
        earlier = [at for at in self._scores if at < step]
        return (max(earlier), self._scores[max(earlier)]) if earlier else None

    def as_kept(self, scores: ItemScores) -> ItemScores:
        """The scores as a reader of the file will get them: what is compared with earlier ones, which are such."""
        return _decoded(json.loads(_line(0, scores)), self.index)

    def append(self, step: int, scores: ItemScores) -> None:
        """Adds an evaluation; one at a step that is there takes its place.

        The line survives the end of this process at any moment. Other ranks wait while it is written, so the disk is not waited
        for: of an evaluation the history alone is, and a power cut may take the newest line from here.
        """
        self._leave_if_taken()
        last = max(self._scores, default=HEAD)
        # Not the scores as they are, so that a run that goes on and one that is resumed find the same.
        self._scores[step] = self.as_kept(scores)
        if self.path.exists() and step > last:
            append_line(self.path, _line(step, scores), sync=False)
            self._left = fingerprint(self.path)
        else:
            self._scores = dict(sorted(self._scores.items()))
            self._rewrite()

    def rewind(self, step: int) -> None:
        """Goes back to a checkpoint at a step: drops what came later."""
        left = {at: scores for at, scores in self._scores.items() if at <= step}
        if len(left) < len(self._scores):
            self._leave_if_taken()
            self._scores = left
            self._rewrite()

    def _leave_if_taken(self) -> None:
        """Goes on in a file of its own where another run has begun to write to this one."""
        now = fingerprint(self.path)
        if self._run is None or now is None or now == self._left:
            return
        self._left = now
        try:
            steps = list(read_item_scores(self.path)[1])
        except ItemHistoryError:
            steps = None
        if _run_of(self.path) in (None, self._run) and steps == list(self._scores):
            return
        taken, self.path = self.path, own_path(self.path, self._run, free=True)
        log.warning("Another run writes to %s now: this run goes on in %s.", taken, self.path.name)
        self._rewrite()

    def _rewrite(self) -> None:
        head = _head(self.index, self._run)
        write_lines(self.path, [head, *(_line(step, scores) for step, scores in self._scores.items())])
        self._left = fingerprint(self.path)


def read_item_scores(path: str | os.PathLike[str]) -> tuple[ItemIndex, dict[int, ItemScores]]:
    """Reads a file of item scores without touching it; a torn last line is left out.

    Raises:
        ItemHistoryError: If it is something else.
    """
    path = Path(path)
    try:
        head, *lines = map(json.loads, read_lines(path))
        index = ItemIndex(
            head["benchmark"],
            tuple(head["keys"]),
            tuple(head["abilities"]),
            tuple(head["clusters"]),
            tuple(head["candidates"]),
        )
        return index, {line["step"]: _decoded(line, index) for line in lines}
    except (StrangeLineError, OSError, ValueError, KeyError, TypeError) as error:
        raise ItemHistoryError(f"Expected {path} to hold item scores, but it does not: {error}") from None


def _run_of(path: Path) -> str | None:
    """Whose file this is; None if there is none, or if it does not say."""
    try:
        with path.open("rb") as file:
            run = json.loads(file.readline()).get("run")
    except (OSError, ValueError, AttributeError):
        return None
    return run if isinstance(run, str) else None


def _head(index: ItemIndex, run: str | None = None) -> bytes:
    names = {"benchmark": index.benchmark, "keys": index.keys, "abilities": index.abilities}
    whose = {} if run is None else {"run": run}
    return _json({"step": HEAD, **whose, **names, "clusters": index.clusters, "candidates": index.candidates})


def _line(step: int, scores: ItemScores) -> bytes:
    steps = np.where(np.isnan(scores.probabilities), _MISSING, np.nan_to_num(scores.probabilities) * _STEPS)
    columns = {"probabilities": steps.round().astype("<u2"), "logprobs": scores.logprobs.astype("<f2")}
    if scores.success is not None:
        columns["correct"] = np.packbits(scores.success)
    return _json(
        {"step": step} | {name: base64.b64encode(column.tobytes()).decode() for name, column in columns.items()}
    )


def _decoded(line: Mapping[str, Any], index: ItemIndex) -> ItemScores:
    steps, logprobs = (
        np.frombuffer(base64.b64decode(line[name]), kind)
        for name, kind in (("probabilities", "<u2"), ("logprobs", "<f2"))
    )
    if not len(steps) == len(logprobs) == index.starts[-1]:
        raise ValueError(f"expected {index.starts[-1]} candidates at step {line['step']}, but got {len(steps)}")
    probabilities: Floats = np.where(steps == _MISSING, np.nan, steps / _STEPS).astype(np.float32)
    success = None
    if "correct" in line:  # not in files of the first releases
        packed = np.frombuffer(base64.b64decode(line["correct"]), np.uint8)
        success = np.unpackbits(packed, count=len(index.keys)).astype(bool)
    return ItemScores(probabilities, logprobs.astype(np.float32), success)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
