"""What a run's evaluations leave behind: the history, every item's scores, and what these tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radar_callback.diagnosis import Finding, findings_of
from radar_callback.evaluator import RadarEvaluator
from radar_callback.history import History
from radar_callback.item_history import ItemHistory
from radar_callback.paired import change
from radar_callback.reporting.item_changes import ItemChanges
from radar_callback.result import RadarResult, jsonable

Guard = Callable[[str], AbstractContextManager[Any]]
"""Makes a context in which something is done that must not end training if it fails."""


@dataclass(frozen=True)
class Entry:
    """What an evaluation adds.

    Attributes:
        record: The line of the history.
        findings: What could be known from this evaluation on.
        items: The items that changed the most since the evaluation before, if there was one.
    """

    record: dict[str, Any]
    findings: list[Finding]
    items: ItemChanges | None


class Chronicle:
    """Keeps the files of one run and one benchmark; on rank zero only.

    Args:
        folder: The run's log folder.
        label: Tells the files of further benchmarks apart; empty for the first.
        evaluator: Scores the benchmark.
        records: What a checkpoint carried.
        step: Where the run begins or goes on. At 0 and with no records the files of an earlier run are moved aside.
        guard: Called with what is being done.
        run: Identity of the run, written into its files; see :class:`radar_callback.history.History`.
    """

    def __init__(
        self,
        folder: Path,
        label: str,
        evaluator: RadarEvaluator,
        records: list[dict[str, Any]],
        step: int,
        guard: Guard,
        run: str | None = None,
    ) -> None:
        self.records = list(records)
        self._run = run
        self._usual_path = history_path(folder, label)
        self._benchmark, self._index = evaluator.benchmark, evaluator.index
        self._guard = guard
        self._history: History | None = None
        self._items: ItemHistory | None = None
        goes_on = bool(records or step)
        with guard("opening the history"):
            path = history_path(folder, label)
            if goes_on:
                self._history = History(path, run)
                self._history.rewind(step)
                self._history.merge(records)
            else:
                self._history = History.start_fresh(path, run)
            self.records = self._history.state()
        with guard("opening the items' scores"):
            path = items_path(folder, label)
            if goes_on:
                self._items = ItemHistory(path, self._index, run)
                self._items.rewind(step)
            else:
                self._items = ItemHistory.start_fresh(path, self._index, run)

    @property
    def history_path(self) -> Path:
        """Where the history is written to."""
        return self._usual_path if self._history is None else self._history.path

    def add(self, result: RadarResult, overhead: float | None = None) -> Entry:
        """Writes an evaluation down and says what it tells; what is on disk survives whatever happens next.

        Args:
            result: The evaluation.
            overhead: Share of the run's wall clock that evaluations have taken.
        """
        started = time.perf_counter()
        record = result.to_record()
        record |= {"overhead": overhead} if overhead is not None else {}
        record |= {"run": self._run} if self._run is not None else {}
        scores = result.item_scores
        if self._items is not None and scores is not None:
            scores = self._items.as_kept(scores)
        earlier = self._items.before(result.step) if self._items else None
        items: ItemChanges | None = None
        if earlier is not None and scores is not None:
            with self._guard("comparing items"):
                since, before = earlier
                record["change"] = {"since": since, "abilities": jsonable(change(self._index, before, scores))}
                items = ItemChanges(self._benchmark, self._index, since, before, result.step, scores)
        findings: list[Finding] = []
        with self._guard("diagnosing"):
            findings = [one for one in findings_of([*self.records, record]) if one.step == result.step]
            record["findings"] = [jsonable(one.to_record()) for one in findings]
        # Training, and every other rank, stands still for this too.
        record["seconds"] = result.seconds + time.perf_counter() - started
        self.records.append(record)
        if self._history is not None:
            with self._guard("writing the history"):
                # A disk that was full may have room again: what could not be written then is written now.
                self._history.merge(
                    one for one in self.records[:-1] if (one["step"], one["benchmark"]) not in self._history
                )
                self._history.append(record)
        if self._items is not None and scores is not None:
            with self._guard("writing the items' scores"):
                self._items.append(result.step, scores)
        return Entry(record, findings, items)


def history_path(folder: Path, label: str = "") -> Path:
    """Where a run's history lies."""
    return folder / (f"radar_history.{label}.jsonl" if label else "radar_history.jsonl")


def items_path(folder: Path, label: str = "") -> Path:
    """Where a run's item scores lie."""
    return folder / (f"radar_items.{label}.jsonl" if label else "radar_items.jsonl")
