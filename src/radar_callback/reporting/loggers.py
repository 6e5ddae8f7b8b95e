"""An evaluation to every logger of a run: scalars to all, table and pictures to those that can show them.

What a logger can do is asked of the logger, not of its class, so neither wandb nor Lightning is imported here and loggers
of one's own work too. W&B gets all of an evaluation in one call: each call advances its step counter, and values that users log
themselves at a step it has passed are dropped.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from radar_callback.reporting.item_break import closing_metrics
from radar_callback.reporting.item_changes import COLUMNS as ITEM_COLUMNS
from radar_callback.reporting.item_changes import ITEMS_KEY, ItemChanges
from radar_callback.result import RadarResult, labelled

if TYPE_CHECKING:
    from PIL.Image import Image

Record = Mapping[str, Any]

_log = logging.getLogger(__name__)

TABLE_KEY, CHART_KEY, CURVES_KEY = "radar/table", "radar/chart", "radar/curves"
TABLE_COLUMNS = ("ability", "group", "sds", "se", "chance", "sds_logprob", "accuracy", "count", "change", "step")


class Takes(StrEnum):
    """What a logger can be given."""

    ROW = "row"
    """Scalars, tables and pictures in one call: W&B."""
    PARTS = "parts"
    """Scalars; tables and pictures through `log_table` and `log_image`."""
    IMAGES = "images"
    """Scalars; pictures through its experiment's `add_image`: TensorBoard."""
    SCALARS = "scalars"
    """Nothing but scalars."""


def what_it_takes(logger: Any) -> Takes:
    """Asks a logger what it can be given; opens its experiment, which may take time."""
    experiment = _experiment_of(logger)
    if type(experiment).__module__.partition(".")[0] == "wandb":
        return Takes.ROW
    if _can(logger, "log_table", "log_image"):
        return Takes.PARTS
    return Takes.IMAGES if _can(experiment, "add_image") else Takes.SCALARS


class EvaluationContent:
    """Tables and pictures of one evaluation, each made once however many loggers want it, and only if one does.

    Args:
        result: The evaluation.
        records: The history up to and including it.
        items: The items that changed the most since the evaluation before, if there was one.
        label: Stands in the keys, as in those of the scalars; see :func:`radar_callback.result.labelled`.
    """

    def __init__(
        self, result: RadarResult, records: Sequence[Record], items: ItemChanges | None = None, label: str = ""
    ) -> None:
        self.table_key, self.chart_key, self.curves_key, self.items_key = (
            labelled(key, label) for key in (TABLE_KEY, CHART_KEY, CURVES_KEY, ITEMS_KEY)
        )
        self.has_items = items is not None
        self._result = result
        self._records = [record for record in records if record["step"] <= result.step]
        self._items = items

    @cached_property
    def table(self) -> list[list[Any]]:
        """Rows under `TABLE_COLUMNS`."""
        return table_rows(self._result, self._records)

    @cached_property
    def items(self) -> list[list[Any]]:
        """Rows under :data:`radar_callback.reporting.item_changes.COLUMNS`, with pictures where an item has images."""
        return self._items.rows(lambda image: image) if self._items is not None else []

    @cached_property
    def chart(self) -> Image:
        """Radar chart of this evaluation against the first."""
        from radar_callback.reporting.radar_chart import first_of, radar_figure
        from radar_callback.reporting.style import render

        record = self._result.to_record()
        return render(radar_figure(record, first_of(self._records, record)), width=800)

    @cached_property
    def curves(self) -> Image:
        """All curves so far."""
        from radar_callback.reporting.figures import curves_figure
        from radar_callback.reporting.style import render

        return render(curves_figure(self._records, benchmark=self._result.benchmark), width=1200)

    def draw(self) -> None:
        """Makes the pictures now; one that fails fails again, and is counted, when a logger wants it."""
        for name in ("chart", "curves"):
            with suppress(Exception):
                getattr(self, name)


def log_evaluation(
    logger: Any,
    name: str,
    takes: Takes,
    step: int,
    failures: Counter[tuple[str, str]],
    metrics: Mapping[str, float],
    content: EvaluationContent | None = None,
) -> None:
    """Gives a logger an evaluation, or what of it can be made: a broken picture takes nothing else with it.

    Args:
        logger: The logger.
        name: What it is called in `failures` and in the log.
        takes: What it can be given; see :func:`what_it_takes`.
        step: Of the evaluation.
        failures: Added to; only the first failure of a kind is written to the log.
        metrics: Scalars by key; none where they were given to the logger before.
        content: Tables and pictures, for loggers that take them.
    """
    jobs: list[tuple[str, Callable[[], None]]] = []
    if takes is Takes.ROW:
        row = dict(metrics) | (_wandb_media(content, name, step, failures) if content is not None else {})
        jobs.append(("scalars", lambda: logger.log_metrics(row, step)))
    elif metrics:
        jobs.append(("scalars", lambda: logger.log_metrics(metrics, step)))
    if content is not None and takes is Takes.PARTS:
        jobs += [
            ("table", lambda: _log_table(logger, content.table_key, TABLE_COLUMNS, content.table, step)),
            ("chart", lambda: logger.log_image(key=content.chart_key, images=[content.chart], step=step)),
            ("curves", lambda: logger.log_image(key=content.curves_key, images=[content.curves], step=step)),
        ]
        if content.has_items:
            jobs.append(
                ("items", lambda: _log_table(logger, content.items_key, ITEM_COLUMNS, _no_images(content.items), step))
            )
    elif content is not None and takes is Takes.IMAGES:
        jobs += [
            ("chart", lambda: _add_image(logger, content.chart_key, content.chart, step)),
            ("curves", lambda: _add_image(logger, content.curves_key, content.curves, step)),
        ]
    for kind, job in jobs:
        try:
            job()
        except Exception as error:
            count_failure(failures, name, kind, step, error)


def log_result(
    loggers: Iterable[Any],
    result: RadarResult,
    metrics: Mapping[str, float],
    records: Sequence[Record],
    failures: Counter[tuple[str, str]] | None = None,
    label: str = "",
    items: ItemChanges | None = None,
) -> Counter[tuple[str, str]]:
    """Gives an evaluation to each logger and returns when all have it. Call it on rank zero only.

    Scalars go through `log_metrics` at the step of the evaluation. W&B gets scalars, tables and pictures in one call, a logger
    with `log_table` and `log_image` in one each, and one whose `experiment` has `add_image` (`TensorBoardLogger`) the
    pictures. A logger that raises keeps neither the others from getting theirs nor training from going on.

    Args:
        loggers: The loggers; each needs `log_metrics(metrics, step)` only.
        result: The evaluation.
        metrics: Its scalars, by key.
        records: The history up to and including this evaluation.
        failures: How often which logger failed at what, from earlier calls. It is added to; only the first failure of a
            kind is written to the log.
        label: Stands in the keys of table and pictures, as in those of `metrics`; see
            :func:`radar_callback.result.labelled`.
        items: The items that changed the most since the evaluation before, if there was one.

    Returns:
        `failures`, or a new counter.
    """
    failures = Counter() if failures is None else failures
    content = EvaluationContent(result, records, items, label)
    closing = closing_metrics(records, label)
    for name, logger in named(loggers):
        takes = what_it_takes(logger)
        if closing:
            log_evaluation(logger, name, takes, result.step, failures, closing)
        log_evaluation(logger, name, takes, result.step, failures, metrics, content)
    return failures


def named(loggers: Iterable[Any]) -> list[tuple[str, Any]]:
    """Loggers and what they are called in messages: their class, and their place in the Trainer's list."""
    return [(f"{type(logger).__name__} ({position})", logger) for position, logger in enumerate(loggers)]


def count_failure(failures: Counter[tuple[str, str]], name: str, kind: str, step: int, error: BaseException) -> None:
    """Counts what a logger could not be given; only the first of a kind is written to the log."""
    failures[name, kind] += 1
    if failures[name, kind] == 1:
        _log.warning(
            "%s could not log the %s of the evaluation at step %d: %s: %s. Training goes on, further failures "
            "of this kind are only counted.", name, kind, step, type(error).__name__, error,
        )  # fmt: skip


def _wandb_media(
    content: EvaluationContent, name: str, step: int, failures: Counter[tuple[str, str]]
) -> dict[str, Any]:
    """Tables and pictures in W&B's own classes, by key."""
    import wandb

    def picture(cell: Any) -> Any:
        return wandb.Image(cell) if hasattr(cell, "convert") else cell

    makers: dict[str, tuple[str, Callable[[], Any]]] = {
        "table": (content.table_key, lambda: wandb.Table(columns=list(TABLE_COLUMNS), data=content.table)),
        "chart": (content.chart_key, lambda: [wandb.Image(content.chart)]),
        "curves": (content.curves_key, lambda: [wandb.Image(content.curves)]),
    }
    if content.has_items:
        makers["items"] = (
            content.items_key,
            lambda: wandb.Table(
                columns=list(ITEM_COLUMNS), data=[[picture(cell) for cell in row] for row in content.items]
            ),
        )
    media = {}
    for kind, (key, make) in makers.items():
        try:
            media[key] = make()
        except Exception as error:
            count_failure(failures, name, kind, step, error)
    return media


def _log_table(logger: Any, key: str, columns: Sequence[str], rows: list[list[Any]], step: int) -> None:
    logger.log_table(key=key, columns=list(columns), data=rows, step=step)


def _no_images(rows: list[list[Any]]) -> list[list[Any]]:
    """For loggers of which it is not known how they want a picture within a table."""
    return [[None if hasattr(cell, "convert") else cell for cell in row] for row in rows]


def table_rows(result: RadarResult, records: Sequence[Record]) -> list[list[Any]]:
    """The rows of `radar/table`, one an ability, under `TABLE_COLUMNS`; None where there is no value."""
    from radar_callback.reporting.curves import curves, of_same_items

    now = {"step": result.step, "benchmark": result.benchmark, "share": result.share, "subset": result.subset}
    lines = curves(of_same_items(records, now))
    rows = []
    for name, row in result.abilities.items():
        line = lines.get(name)
        before = [] if line is None else [sds for sds in line.sds if not math.isnan(sds)]
        change = row["sds"] - before[-1] if before else math.nan
        cells = {**row, "ability": name, "change": change, "step": result.step}
        rows.append([_cell(cells[column]) for column in TABLE_COLUMNS])
    return rows


def _add_image(logger: Any, key: str, image: Image, step: int) -> None:
    # Not add_figure: it goes through pyplot, whose state belongs to the user.
    import numpy as np

    logger.experiment.add_image(key, np.asarray(image.convert("RGB")), global_step=step, dataformats="HWC")


def _can(target: Any, *names: str) -> bool:
    try:
        return all(callable(getattr(target, name, None)) for name in names)
    except Exception:  # a property of somebody else's
        return False


def _experiment_of(logger: Any) -> Any:
    """A logger's own object; None where opening it fails, which its scalars will then report."""
    try:
        return getattr(logger, "experiment", None)
    except Exception:
        return None


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
