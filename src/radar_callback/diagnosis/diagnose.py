"""The whole diagnosis of a run, from its history alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radar_callback.diagnosis.alarms import blind, fallen, stopped
from radar_callback.diagnosis.emergence import Emergence, emergences
from radar_callback.diagnosis.findings import Finding
from radar_callback.diagnosis.notes import Bottleneck, bottleneck, developments
from radar_callback.diagnosis.series import Array, Record, aligned, column, series_of


@dataclass(frozen=True)
class Diagnosis:
    """What a history tells.

    Attributes:
        findings: Alarms and notes, in the order in which they could be known.
        emergence: How each ability developed, the earliest first.
        bottleneck: The ability that holds the run back.
        steps: `[T]` of the evaluations.
        asymmetry: `[T]` perception less reasoning, in SDS; NaN without both groups.
    """

    findings: list[Finding]
    emergence: list[Emergence]
    bottleneck: Bottleneck | None
    steps: list[int]
    asymmetry: Array


def findings_of(records: Sequence[Record]) -> list[Finding]:
    """Alarms and notes, each at the evaluation from which on it could be known; later evaluations change nothing before.

    Args:
        records: Evaluations of one benchmark, sorted by step.
    """
    # As of the first evaluation's items: what comes later changes nothing before.
    series = aligned(series_of(records), records)
    found = [*fallen(series, records), *stopped(records), *blind(records, series), *developments(series)]
    return sorted(found, key=lambda finding: (finding.step, not finding.is_alarm))


def alarms_of(records: Sequence[Record]) -> list[Finding]:
    """The alarms among :func:`findings_of`."""
    return [finding for finding in findings_of(records) if finding.is_alarm]


def diagnose(records: Sequence[Record]) -> Diagnosis:
    """Everything a history tells.

    Args:
        records: Evaluations of one benchmark, sorted by step.

    Example:
        >>> def record(step, sds):
        ...     row = {"group": "perception", "sds": sds, "se": 0.02, "chance": 0.25, "count": 64}
        ...     return {"step": step, "abilities": {"colour": row, "maths": {**row, "sds": 0.25}}}
        >>> found = diagnose([record(100 * i, min(0.9, 0.25 + 0.1 * max(0, i - 2))) for i in range(12)])
        >>> [(one.name, one.onset) for one in found.emergence], found.bottleneck.name
        ([('colour', 300), ('maths', None)], 'maths')
    """
    series = aligned(series_of(records), records, at=-1)
    found = emergences(series)
    order = sorted(found.values(), key=lambda one: (one.onset is None, one.onset or 0, -np.nan_to_num(one.progress)))
    perception, reasoning = (column(records, "groups", group, "sds") for group in ("perception", "reasoning"))
    return Diagnosis(
        findings=findings_of(records),
        emergence=order,
        bottleneck=bottleneck({one.name: one.progress for one in order}, {one.name: one.slope for one in order}),
        steps=[record["step"] for record in records],
        asymmetry=perception - reasoning,
    )
