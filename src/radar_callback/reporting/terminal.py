"""An evaluation as a line for the log and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from radar_callback.reporting.curves import (
    Curve,
    curves,
    group_curves,
    members,
    number,
    of_benchmark,
    of_same_items,
    overall_curve,
    segments,
)
from radar_callback.result import RadarResult

Record = Mapping[str, Any]

_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_SPARK_WIDTH = 12
_NUMBERS_WIDTH = 37
"""Of the columns of numbers, with the space before each; items up to 999,999."""
_HISTORY_WIDTH = _SPARK_WIDTH + 10
"""Of the small curve and the change."""


def summary_line(result: RadarResult) -> str:
    """One line for the log.

    Example:
        >>> row = {"sds": 0.7, "sds_logprob": 0.7, "accuracy": 0.8, "count": 9, "se": 0.1, "chance": 0.5}
        >>> summary_line(
        ...     RadarResult(
        ...         step=600, time=0.0, seconds=4.21, benchmark="mini", samples=10, failed=1, overall=row,
        ...         abilities={"colour": {**row, "group": "perception"}}, groups={"perception": row},
        ...         failures={"bad_image": 1},
        ...     )
        ... )
        'radar @ step 600: overall 0.70 (chance 0.50) · perception 0.70 · 9 items in 4.2 s · 1 not scored (1 bad_image)'
    """
    scored = {name: row["sds"] for name, row in result.abilities.items() if not math.isnan(row["sds"])}
    parts = []
    if scored:
        parts.append(f"overall {_score(result.overall['sds'])} (chance {_score(result.overall['chance'])})")
        parts += [f"{name} {_score(row['sds'])}" for name, row in result.groups.items() if name != "all"]
        if len(scored) > 1:
            best = max(scored, key=lambda name: scored[name])
            parts.append(f"best {best} {_score(scored[best])}")
    parts.append(f"{result.samples - result.failed:,} items in {result.seconds:.1f} s")
    if result.failed:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.failures.items())
        parts.append(f"{result.failed:,} not scored" + (f" ({reasons})" if reasons else ""))
    return f"radar @ step {result.step}: " + " · ".join(parts)


def print_result(
    result: RadarResult | Record, records: Sequence[Record] = (), console: Console | None = None, title: str = ""
) -> None:
    """Prints an evaluation as a table, with what came before it as a small curve.

    Args:
        result: The evaluation, or its record from a history.
        records: The history it belongs to, if there is one.
        console: Where to; standard output by default, also where that is a file or a pipe.
        title: Above the table; the benchmark and the step if left out.
    """
    console = console or Console()
    console.print(
        result_table(result, records, ascii_only=console.options.ascii_only, title=title, width=console.width)
    )


def result_table(
    result: RadarResult | Record,
    records: Sequence[Record] = (),
    ascii_only: bool = False,
    title: str = "",
    width: int = 80,
) -> Table:
    """The table of `print_result`: a section a group, its mean first; it fits into 80 columns.

    Args:
        result: The evaluation, or its record from a history.
        records: The history it belongs to, if there is one; later points are left out.
        ascii_only: For terminals that know nothing else.
        title: Above the table; the benchmark and the step if left out.
        width: Columns of the terminal.
    """
    last = result.to_record() if isinstance(result, RadarResult) else result
    before = [record for record in of_benchmark(records, last["benchmark"]) if record["step"] < last["step"]]
    chosen = [*before, last]
    table = Table(
        title=title or f"{last['benchmark']} at step {last['step']:,}",
        caption=_caption(last),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    # Only names may be cut where there is little room: numbers keep their width.
    rest = _NUMBERS_WIDTH + (_HISTORY_WIDTH if before else 0)
    table.add_column("ability", no_wrap=True, overflow="ellipsis", min_width=12, max_width=max(12, width - rest))
    table.add_column("SDS", justify="right", no_wrap=True, min_width=4)
    table.add_column("+-se" if ascii_only else "±se", justify="right", no_wrap=True, min_width=4)
    if before:
        table.add_column("since start", no_wrap=True, min_width=_SPARK_WIDTH)
    for name in (*(["change"] if before else []), "chance", "acc.", "items"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))

    # A change is one of the same items; the small curve shows every point.
    same = of_same_items(records, last)
    tree = members(chosen)
    lines, earlier = ({**curves(of), **group_curves(of), "": overall_curve(of)} for of in (chosen, same))

    def add(name: str, row: Mapping[str, Any], line: str, style: str | None = None) -> None:
        sparks = [Text(_small_curve(lines[line], ascii_only), style=_colour(row))] if before else []
        change = [_change(row, earlier.get(line))] if before else []
        sds = Text(_score(number(row["sds"])), style=_colour(row))
        cells: list[Text | str] = [sds, _score(number(row["se"])), *sparks, *change]
        tail = [_score(number(row["chance"])), _score(number(row["accuracy"])), f"{row['count']:,}"]
        table.add_row(Text(name), *cells, *tail, style=style)  # not markup: a name may hold square brackets

    for group, names in tree.items():
        if group in last["groups"] and len(tree) > 1:
            add(group, last["groups"][group], group, style="bold")
        for name in names:
            if name in last["abilities"]:
                add(f"  {name}" if len(tree) > 1 else name, last["abilities"][name], name)
    add("overall", last["overall"], "", style="bold")
    return table


def sparkline(values: Sequence[float], width: int = _SPARK_WIDTH, ascii_only: bool = False) -> str:
    """Scores in [0, 1] as a row of blocks, at most `width` of them: every n-th value, the last one always.

    Example:
        >>> sparkline([0.0, 0.5, float("nan"), 1.0])
        '▁▅ █'
    """
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / max(1, width - 1))] for i in range(width - 1)] + [values[-1]]
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    top = len(blocks) - 1
    return "".join(
        " " if math.isnan(value) else blocks[min(max(math.floor(value * top + 0.5), 0), top)] for value in values
    )


def _small_curve(line: Curve, ascii_only: bool) -> str:
    """A row of blocks, with a bar where it goes on with other items."""
    parts = segments(line.sds, line)[-(_SPARK_WIDTH // 2) :]
    room, length = _SPARK_WIDTH - (len(parts) - 1), sum(map(len, parts))
    widths = [max(1, room * len(part) // length) if length > room else len(part) for part in parts]
    widths[-1] -= max(0, sum(widths) - room)
    drawn = [sparkline(part, max(1, width), ascii_only) for part, width in zip(parts, widths, strict=True)]
    return ("|" if ascii_only else "┊").join(drawn)


def _colour(row: Mapping[str, Any]) -> str:
    """Beyond two standard errors of guessing, either way."""
    sds, chance = number(row["sds"]), number(row["chance"])
    if not abs(sds - chance) > 2 * number(row["se"]):
        return "default"
    return "green" if sds > chance else "red"


def _change(row: Mapping[str, Any], line: Curve | None) -> str:
    earlier = [value for value in line.sds if not math.isnan(value)] if line else []
    change = number(row["sds"]) - earlier[-1] if earlier else math.nan
    return "" if math.isnan(change) else f"{round(change, 2) + 0.0:+.2f}"


def _caption(record: Record) -> str:
    failed = record.get("failed", 0)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in record.get("failures", {}).items())
    text = f"{record.get('samples', 0) - failed:,} items in {record.get('seconds', 0.0):.1f} s"
    if record.get("share", 1.0) < 1:
        text += f", a {record['share']:.3g} share of all"
    return text + (f"; not scored: {reasons or failed}" if failed else "")


def _score(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
