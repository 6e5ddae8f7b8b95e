"""The whole page: self-contained, so that it opens anywhere and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from radar_callback.benchmark.reader import Benchmark
from radar_callback.reporting.curves import of_same_items
from radar_callback.reporting.html import charts, facts, signals, tables, words
from radar_callback.reporting.html.embed import PICTURE, Embedder
from radar_callback.reporting.html.items import item_cards
from radar_callback.reporting.html.markup import Markup, section, text
from radar_callback.reporting.html.radar import Trace, radar
from radar_callback.reporting.html.run import Run

# The browser itself refuses to fetch anything, whatever got into the page.
_NO_REQUESTS = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_RADAR_HEIGHT = "min(540px, 108vw)"


def report_page(runs: Sequence[Run], title: str | None = None, benchmark: Benchmark | None = None) -> str:
    """The report as an HTML document; the same runs give the same bytes.

    Args:
        runs: One, or several to compare.
        title: Of the page; by default says what was scored.
        benchmark: The shards, for the images and words of single items, which are shown of a single run.

    Raises:
        ValueError: If there is no run.
    """
    if not runs:
        raise ValueError("Expected at least one run to report on, but got none.")
    title = title or f"Abilities during pre-training: {runs[-1].benchmark}"
    names = f"Run{'s' if len(runs) > 1 else ''} {text(', '.join(run.name for run in runs))}"
    body = _one(runs[0], benchmark) if len(runs) == 1 else _several(runs)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_NO_REQUESTS}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # No favicon: a browser would ask the server of the page for one.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_own("page.css")}</style>'
        f"<script>{get_plotlyjs()}</script><script>{_own('page.js')}</script></head><body>"
        f'<h1>{escape(title)}</h1><p class="sub">{names}</p>{body}'
        "<footer>SDS: Soft Discrimination Score (arXiv 2602.12892), the probability of the correct one among an item's "
        "candidates. Bands are one standard error over items; dashed lines are what guessing gives; intervals are of 95%. Made "
        "by radar-callback.</footer>"
        "</body></html>\n"
    )


def _one(run: Run, benchmark: Benchmark | None) -> str:
    chart = Embedder()
    panels = [chart(figure, group, head="h3") for group, figure in charts.ability_curves(run).items()]
    lists = [f'<h3>{text(name)}</h3><div class="items">{cards}</div>' for name, cards in item_cards(run, benchmark)]
    parts = [
        words.summary(run),
        section("Findings", words.findings(run)),
        section(
            "Ability curves",
            f'<div class="two abilities">{"".join(panels)}</div>' if len(panels) > 1 else "".join(panels),
            chart(charts.means(run), "means", head="h3"),
            note="Rings and dotted lines in red are alarms. A click on a name hides a curve, a double click all others.",
        ),
        section(
            "Radar",
            chart(
                radar(_moments(run), run.abilities, _chances([run], run.abilities)),
                "radar",
                buttons=PICTURE,
                height=_RADAR_HEIGHT,
            ),
            note="A click on a step shows or hides it.",
        ),
        section(
            "Emergence",
            tables.emergence(run),
            note="Onset: the first evaluation from which an ability is 0.05 above chance for good. Order: its place among all "
            "onsets. Half-rise: the first evaluation at which half of the way from chance to the level was done.",
        ),
        _signals(chart, [run], signals.moved(run)),
        section(
            "Learned and forgotten",
            chart(signals.learned(run), "learned and forgotten"),
            tables.changes(run),
            note="Items that became right, and wrong, from one evaluation to the next. In the table: mean change of the items' "
            "scores, bold where beyond three standard errors, and in small type how many were learned and forgotten.",
        ),
        section(
            "Items behind the changes",
            *lists,
            note="Bars: the probability of each candidate at the later evaluation, that of the correct one in green.",
        ),
        section("Run", facts.configuration([run])),
    ]
    return "".join(parts)


def _several(runs: Sequence[Run]) -> str:
    chart = Embedder()
    names = list(dict.fromkeys(ability for run in runs for ability in run.abilities))
    finals = [Trace(f"{run.name}, step {run.records[-1]['step']:,}", _scores(run.records[-1])) for run in runs]
    panels = [
        chart(figure, name, head="h4", buttons=()) for name, figure in charts.abilities_side_by_side(runs).items()
    ]
    last = {run.records[-1]["step"] for run in runs}
    apart = "The runs end at different steps: the last scores are not of equal training." if len(last) > 1 else ""
    parts = [
        section("At a glance", tables.at_a_glance(runs), note=apart),
        section(
            "Side by side",
            chart(charts.overall_side_by_side(runs), "overall"),
            f'<div class="small">{"".join(panels)}</div>',
            note="All small charts have the same axes. Rings in red are alarms.",
        ),
        section(
            "Emergence and last scores",
            tables.comparison(runs),
            note="Onset: the first evaluation from which an ability is 0.05 above chance for good. Level: its score at the last "
            "evaluation.",
        ),
        section(
            "Radar at the last evaluation",
            chart(radar(finals, names, _chances(runs, names)), "radar", buttons=PICTURE, height=_RADAR_HEIGHT),
            note="A click on a run shows or hides it.",
        ),
        _signals(chart, runs),
        section("Findings", *(f"<h3>{text(run.name)}</h3>{words.findings(run)}" for run in runs)),
        section("Runs", facts.configuration(runs)),
    ]
    return "".join(parts)


def _signals(chart: Embedder, runs: Sequence[Run], moved: go.Figure | None = None) -> Markup:
    told = [
        chart(signals.asymmetry(runs), "Perception ahead of reasoning", head="h3"),
        chart(signals.image_gain(runs), "What images are worth", head="h3"),
        chart(signals.fluency(runs), "Fluency", head="h3"),
        chart(moved, "How far parts of the model moved", head="h3"),
    ]
    inside = "".join(told)
    return section(
        "Behind the scores",
        f'<div class="two">{inside}</div>' if inside else "",
        note="What images are worth: mean score of items with their images less that of the same items with grey ones. Fluency: "
        "how probable the words of all candidates are, right and wrong. Parts: change of the weights since the evaluation "
        "before, relative to their size.",
    )


def _moments(run: Run) -> list[Trace]:
    """First, middle and last evaluation, and those at which something broke, of those of the last one's items."""
    records = [*of_same_items(run.records, run.records[-1]), run.records[-1]]
    n = len(records)
    alarms = {alarm.step for alarm in run.alarms}
    chosen = sorted({0, n // 2, n - 1} | {i for i, record in enumerate(records) if record["step"] in alarms})
    return [Trace(f"step {records[i]['step']:,}", _scores(records[i]), i in (0, n - 1)) for i in chosen]


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: row["sds"] for name, row in record["abilities"].items() if "sds" in row}


def _chances(runs: Sequence[Run], names: Sequence[str]) -> list[float]:
    rows = [next(run.records[-1]["abilities"][name] for run in runs if name in run.abilities) for name in names]
    return [float(row.get("chance", 0.0)) for row in rows]


def _own(name: str) -> str:
    return files("radar_callback.reporting.html").joinpath(name).read_text(encoding="utf-8")
