"""How a run was evaluated and what that took, from what its history knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from radar_callback.reporting.html.markup import Markup, percent, table
from radar_callback.reporting.html.run import Run

Records = Sequence[dict[str, Any]]


def configuration(runs: Sequence[Run]) -> Markup:
    """A row for each fact that at least one run knows, a column for each run."""
    rows = [[name, *(get(run.records) for run in runs)] for name, get in _FACTS]
    known = [row for row in rows if any(value is not None for value in row[1:])]
    heads = ["", *(run.name for run in runs)] if len(runs) > 1 else []
    return table(heads, known, "facts")


def _last(field: str) -> Callable[[Records], object]:
    return lambda records: records[-1].get(field)


def _span(records: Records) -> str | None:
    if "time" not in records[0] or "time" not in records[-1]:
        return None
    try:
        first, last = (datetime.fromtimestamp(records[i]["time"], UTC) for i in (0, -1))
    except (OverflowError, ValueError, OSError):  # not the time of any day
        return None
    until = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {until} UTC"


def _items(records: Records) -> str | None:
    found = sorted({int(record["samples"]) for record in records if "samples" in record})
    return " to ".join(f"{n:,}" for n in dict.fromkeys([found[0], found[-1]])) if found else None


def _shares(records: Records) -> str | None:
    shares = sorted({record["share"] for record in records if "share" in record})
    return ", ".join(percent(share) for share in shares) or None


def _coverage(records: Records) -> str | None:
    known = [(record["coverage"], record["step"]) for record in records if "coverage" in record]
    if not known:
        return None
    worst, step = min(known)
    # Rounding must not turn a loss into none.
    told = f"{100 * worst:.2f}%".replace("100.00%", "100%" if worst == 1 else "above 99.99%")
    return told if worst == known[-1][0] else f"{percent(known[-1][0])}; lowest {told} at step {step:,}"


def _failures(records: Records) -> str | None:
    known = [record["failures"] for record in records if "failures" in record]
    if not known:
        return None
    most: Counter[str] = Counter()
    for failures in known:
        most |= Counter({reason: int(n) for reason, n in failures.items()})
    return ", ".join(f"{n:,} {reason}" for reason, n in most.items()) or "none"


def _seconds(records: Records) -> str | None:
    return f"{records[0]['seconds']:.1f} s" if "seconds" in records[0] else None


def _mean(field: str) -> Callable[[Records], str | None]:
    def mean(records: Records) -> str | None:
        known = [record[field] for record in records[1:] if field in record]
        return f"{sum(known) / len(known):.2f} s" if known else None

    return mean


def _clock(records: Records) -> str | None:
    if len(records) < 2 or any("time" not in record or "seconds" not in record for record in records):
        return None
    whole = records[-1]["time"] - records[0]["time"]
    spent = sum(record["seconds"] for record in records[1:])
    return f"{100 * spent / whole:.1f}%" if whole > spent else None


def _memory(records: Records) -> str | None:
    known = [record["memory_growth"] for record in records if "memory_growth" in record]
    return f"{max(known) / 2**20:,.0f} MiB" if known else None


def _padding(records: Records) -> str | None:
    return percent(records[-1]["padding"]) + " of tokens" if "padding" in records[-1] else None


_FACTS: list[tuple[str, Callable[[Records], object]]] = [
    ("benchmark", _last("benchmark")),
    ("abilities", lambda records: len(records[-1]["abilities"])),
    ("items asked", _items),
    ("share of the benchmark asked", _shares),
    ("coverage: asked items that were scored", _coverage),
    ("not scored, most at one evaluation", _failures),
    ("evaluations", len),
    ("last step", _last("step")),
    ("evaluated", _span),
    ("way of scoring", _last("scorer")),
    ("first evaluation", _seconds),
    ("later evaluations, mean", _mean("seconds")),
    ("of which the model waited for items", _mean("waited")),
    ("share of the wall clock, from the first evaluation to the last", _clock),
    ("peak memory beyond what training needed", _memory),
    ("padding", _padding),
]
