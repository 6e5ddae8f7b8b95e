"""An evaluation to every logger of a run: scalars to all, table and pictures to those that can show them.

What a logger can do is asked of the logger, not of its class, so neither wandb nor Lightning is imported here and loggers
of one's own work too.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from radar_callback.reporting.item_changes import COLUMNS as ITEM_COLUMNS
from radar_callback.reporting.item_changes import ITEMS_KEY, ItemChanges
from radar_callback.result import RadarResult, labelled

if TYPE_CHECKING:
    from PIL.Image import Image

Record = Mapping[str, Any]

_log = logging.getLogger(__name__)

TABLE_KEY, CHART_KEY, CURVES_KEY = "radar/table", "radar/chart", "radar/curves"
TABLE_COLUMNS = ("ability", "group", "sds", "se", "chance", "sds_logprob", "accuracy", "count", "change", "step")


def log_result(
    loggers: Iterable[Any],
    result: RadarResult,
    metrics: Mapping[str, float],
    records: Sequence[Record],
    failures: Counter[tuple[str, str]] | None = None,
    label: str = "",
) -> Counter[tuple[str, str]]:
    """Gives an evaluation to each logger. Call it on rank zero only.

    Scalars go through `log_metrics` at the step of the evaluation. A logger with `log_table` and `log_image`
    (`WandbLogger`) also gets the table `radar/table` and the pictures `radar/chart` and `radar/curves`; one whose
    `experiment` has `add_image` (`TensorBoardLogger`) the pictures. A logger that raises keeps neither the others from
    getting theirs nor training from going on.

    Args:
        loggers: The loggers; each needs `log_metrics(metrics, step)` only.
        result: The evaluation.
        metrics: Its scalars, by key.
        records: The history up to and including this evaluation.
        failures: How often which logger failed at what, from earlier calls. It is added to; only the first failure of a
            kind is written to the log.
        label: Stands in the keys of table and pictures, as in those of `metrics`; see
            :func:`radar_callback.result.labelled`.

    Returns:
        `failures`, or a new counter.
    """
    failures = Counter() if failures is None else failures
    rich = _Rich(result, records, label)
    for position, logger in enumerate(loggers):
        name = f"{type(logger).__name__} ({position})"
        jobs: list[tuple[str, Callable[[Any], None]]] = [("scalars", lambda to: to.log_metrics(metrics, result.step))]
        if _can(logger, "log_table", "log_image"):
            jobs += [("table", rich.table_through), ("chart", rich.chart_through), ("curves", rich.curves_through)]
        elif _can(_experiment_of(logger), "add_image"):
            jobs += [("chart", rich.chart_into_experiment), ("curves", rich.curves_into_experiment)]
        for kind, job in jobs:
            try:
                job(logger)
            except Exception as error:
                _count(failures, name, kind, result.step, error)
    return failures


def _count(failures: Counter[tuple[str, str]], name: str, kind: str, step: int, error: Exception) -> None:
    failures[name, kind] += 1
    if failures[name, kind] == 1:
        _log.warning(
            "%s could not log the %s of the evaluation at step %d: %s: %s. Training goes on, further failures "
            "of this kind are only counted.", name, kind, step, type(error).__name__, error,
        )  # fmt: skip


def log_items(
    loggers: Iterable[Any],
    changes: ItemChanges | None,
    step: int,
    failures: Counter[tuple[str, str]],
    label: str = "",
) -> None:
    """Gives the items that changed the most to each logger that takes tables, with their images where it takes these.

    Args:
        loggers: The loggers.
        changes: The items; None if there was no earlier evaluation.
        step: Of the evaluation.
        failures: As in :func:`log_result`.
        label: As in :func:`log_result`.
    """
    for position, logger in enumerate(loggers):
        if changes is None or not _can(logger, "log_table"):
            continue
        try:
            rows = changes.rows(_picture_for(logger))
            logger.log_table(key=labelled(ITEMS_KEY, label), columns=list(ITEM_COLUMNS), data=rows, step=step)
        except Exception as error:
            _count(failures, f"{type(logger).__name__} ({position})", "items", step, error)


def _picture_for(logger: Any) -> Callable[[Image], Any]:
    """How a logger wants a picture within a table: W&B in a class of its own, others not at all."""
    if type(_experiment_of(logger)).__module__.partition(".")[0] == "wandb":
        import wandb

        picture: Callable[[Image], Any] = wandb.Image
        return picture
    return lambda image: None


def table_rows(result: RadarResult, records: Sequence[Record]) -> list[list[Any]]:
    """The rows of `radar/table`, one an ability, under `TABLE_COLUMNS`; None where there is no value."""
    from radar_callback.reporting.curves import curves, of_same_items

    now = {"step": result.step, "benchmark": result.benchmark, "share": result.share}
    lines = curves(of_same_items(records, now))
    rows = []
    for name, row in result.abilities.items():
        line = lines.get(name)
        before = [] if line is None else [sds for sds in line.sds if not math.isnan(sds)]
        change = row["sds"] - before[-1] if before else math.nan
        cells = {**row, "ability": name, "change": change, "step": result.step}
        rows.append([_cell(cells[column]) for column in TABLE_COLUMNS])
    return rows


class _Rich:
    """Table and pictures of one evaluation, drawn once however many loggers want them, and only if one does."""

    def __init__(self, result: RadarResult, records: Sequence[Record], label: str) -> None:
        self._table_key, self._chart_key, self._curves_key = (
            labelled(key, label) for key in (TABLE_KEY, CHART_KEY, CURVES_KEY)
        )
        self._result = result
        self._records = records

    @cached_property
    def _chart(self) -> Image:
        from radar_callback.reporting.radar_chart import first_of, radar_figure
        from radar_callback.reporting.style import render

        record = self._result.to_record()
        return render(radar_figure(record, first_of(self._records, record)), width=800)

    @cached_property
    def _curves(self) -> Image:
        from radar_callback.reporting.figures import curves_figure
        from radar_callback.reporting.style import render

        records = [record for record in self._records if record["step"] <= self._result.step]
        return render(curves_figure(records, benchmark=self._result.benchmark), width=1200)

    def table_through(self, logger: Any) -> None:
        rows = table_rows(self._result, self._records)
        logger.log_table(key=self._table_key, columns=list(TABLE_COLUMNS), data=rows, step=self._result.step)

    def chart_through(self, logger: Any) -> None:
        logger.log_image(key=self._chart_key, images=[self._chart], step=self._result.step)

    def curves_through(self, logger: Any) -> None:
        logger.log_image(key=self._curves_key, images=[self._curves], step=self._result.step)

    def chart_into_experiment(self, logger: Any) -> None:
        _add_image(logger, self._chart_key, self._chart, self._result.step)

    def curves_into_experiment(self, logger: Any) -> None:
        _add_image(logger, self._curves_key, self._curves, self._result.step)


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
