"""Publishes evaluations to a run's loggers; neither training nor other ranks wait for pictures or for a logger that hangs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radar_callback.reporting.bounded_calls import BackgroundWork, BoundedCaller, StillWaitingError
from radar_callback.reporting.item_break import closing_metrics
from radar_callback.reporting.item_changes import ItemChanges
from radar_callback.reporting.loggers import (
    EvaluationContent,
    Takes,
    count_failure,
    log_evaluation,
    named,
    what_it_takes,
)
from radar_callback.result import RadarResult

PATIENCE = 10.0
"""Seconds that a logger is waited for, once: a logger that has not answered by then is asked again only after it has."""

LAST_PATIENCE = 60.0
"""Seconds that the end of a run waits for pictures that are still being drawn."""


@dataclass
class _Delivery:
    """What a logger is still to be given.

    Attributes:
        step: Of the evaluation.
        metrics: Scalars by key, unless the logger has them already.
        content: Tables and pictures, if there are any.
    """

    step: int
    metrics: Mapping[str, float]
    content: EvaluationContent | None

    def drawn(self) -> _Delivery:
        """Draws the pictures; to be called in a thread of its own."""
        if self.content is not None:
            self.content.draw()
        return self


class Publisher:
    """Gives a run's evaluations to its loggers; on rank zero only.

    Loggers that show nothing but scalars get them at once. Pictures are drawn in a thread, and loggers that show them get
    them from :meth:`deliver`, which training calls after each batch; W&B, for which an evaluation is one call, gets its scalars
    along with them. So what one logger gets stays in the order of the evaluations, and nothing calls a logger while training
    does. Each call is bounded in time.

    Args:
        loggers: The run's loggers.
        patience: Seconds to wait for a call to a logger.
    """

    def __init__(self, loggers: Iterable[Any], patience: float = PATIENCE) -> None:
        self.failures: Counter[tuple[str, str]] = Counter()
        self._loggers = [_BoundedLogger(name, logger, BoundedCaller(patience)) for name, logger in named(loggers)]
        self._drawing = BackgroundWork()

    def publish(
        self,
        result: RadarResult,
        metrics: Mapping[str, float],
        records: Sequence[Mapping[str, Any]],
        items: ItemChanges | None = None,
        label: str = "",
    ) -> None:
        """Publishes an evaluation.

        Args:
            result: The evaluation.
            metrics: Its scalars, by key.
            records: The history up to and including it.
            items: The items that changed the most since the evaluation before, if there was one.
            label: Stands in the keys of tables and pictures; see :func:`radar_callback.result.labelled`.
        """
        if closing := closing_metrics(records, label):
            self.publish_scalars(result.step, closing)
        content = EvaluationContent(result, records, items, label)
        takes = self._take_scalars(result.step, metrics)
        if takes & {Takes.ROW, Takes.PARTS}:
            try:
                _ = content.items  # read here: a benchmark's reader serves one thread
            except Exception as error:
                count_failure(self.failures, "radar", "items", result.step, error)
                content.has_items = False
        if takes & {Takes.ROW, Takes.PARTS, Takes.IMAGES}:
            self._drawing.submit(_Delivery(result.step, metrics, content).drawn)

    def publish_scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        """Publishes values that come with no evaluation, such as the number of failed ones.

        Args:
            step: Where they belong.
            metrics: By key.
        """
        if Takes.ROW in self._take_scalars(step, metrics):
            self._drawing.submit(_Delivery(step, metrics, None).drawn)

    def deliver(self, wait: float = 0.0) -> None:
        """Gives loggers what has been drawn since the last call; costs next to nothing where there is none.

        Args:
            wait: Seconds to wait for what is still being drawn.
        """
        if not self._drawing.pending:
            return
        for delivery in self._drawing.finished(wait):
            for logger in self._loggers:
                if logger.takes is Takes.ROW:
                    self._log(logger, delivery.step, delivery.metrics, delivery.content)
                elif logger.takes in (Takes.PARTS, Takes.IMAGES) and delivery.content is not None:
                    self._log(logger, delivery.step, {}, delivery.content)

    def call(self, function: Callable[[Any], Any], what: str, step: int) -> None:
        """Calls a function with each logger, bounded in time as everything else.

        Args:
            function: Gets a logger.
            what: What it gives the logger, for messages.
            step: Of the evaluation that this is about.
        """
        for logger in self._loggers:
            try:
                logger.caller.call(lambda to=logger.logger: function(to))  # type: ignore[misc]
            except Exception as error:
                count_failure(self.failures, logger.name, what, step, error)

    def _take_scalars(self, step: int, metrics: Mapping[str, float]) -> set[Takes]:
        """Gives scalars to all loggers but those that want them in one row with the rest; what kinds of loggers there are."""
        kinds = set()
        for logger in self._loggers:
            if logger.takes is None:
                try:
                    logger.takes = logger.caller.call(lambda to=logger.logger: what_it_takes(to))  # type: ignore[misc]
                except Exception as error:
                    count_failure(self.failures, logger.name, "scalars", step, error)
                    continue
            assert logger.takes is not None
            kinds.add(logger.takes)
            if logger.takes is not Takes.ROW:
                self._log(logger, step, metrics, None)
        return kinds

    def _log(
        self, logger: _BoundedLogger, step: int, metrics: Mapping[str, float], content: EvaluationContent | None
    ) -> None:
        assert logger.takes is not None
        takes = logger.takes
        try:
            logger.caller.call(
                lambda: log_evaluation(logger.logger, logger.name, takes, step, self.failures, metrics, content)
            )
        except StillWaitingError as error:
            count_failure(self.failures, logger.name, "values", step, error)


@dataclass
class _BoundedLogger:
    """A logger, what it takes (None before it was asked), and who calls it."""

    name: str
    logger: Any
    caller: BoundedCaller
    takes: Takes | None = None
