"""What scoring an item takes, found out on a few batches before the first evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from radar_callback.evaluation_size import Few
from radar_callback.evaluator import RadarEvaluator

T = TypeVar("T")

AT_FIRST = Few(batches=2, items=4)
"""What is timed at first; the first batch warms up."""

IF_QUICK = Few(batches=8)
"""Where that was quick, whole batches tell better what an item takes among others."""

QUICK = 0.25
"""Seconds a batch."""


def time_items(
    evaluator: RadarEvaluator,
    broadcast: Callable[[T], T] = lambda value: value,
    cancelled: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.perf_counter,
) -> float | None:
    """Times a few batches of a benchmark, reading and encoding included, on all ranks together.

    Args:
        evaluator: Scores the benchmark. Way of scoring and batch sizes are settled here if they were not yet, which is not
            counted.
        broadcast: Gives every rank what the first one has: they must agree on whether to time more.
        cancelled: As for :meth:`RadarEvaluator.evaluate`.
        now: A clock, in seconds.

    Returns:
        Seconds of wall clock an item, with all ranks at work; None if there is only one batch, which tells nothing.
    """
    seconds = None
    for few in (AT_FIRST, IF_QUICK):
        marks: list[float] = []

        def mark(done: int, total: int, marks: list[float] = marks) -> None:
            marks.append(now())

        result = evaluator.evaluate(few=few, progress=mark, cancelled=cancelled)
        found: Any = None
        if len(marks) > 1 and result.samples:
            found = (marks[-1] - marks[0]) / (len(marks) - 1) * len(marks) / result.samples, len(marks)
        found = broadcast(found)
        if found is None:
            break
        seconds, turns = found
        if seconds * result.samples / turns > QUICK:
            break
    return seconds
