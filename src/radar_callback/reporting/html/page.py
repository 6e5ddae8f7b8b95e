"""The whole page: self-contained, so that it opens anywhere and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from radar_callback.benchmark.reader import Benchmark
from radar_callback.reporting.html import charts, tables
from radar_callback.reporting.html.items import item_cards
from radar_callback.reporting.html.markup import Markup, section, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable


def report_page(runs: Sequence[Run], title: str | None = None, benchmark: Benchmark | None = None) -> str:
    """The report as an HTML document.

    Args:
        runs: One, or several to compare.
        title: Of the page; by default says what was scored.
        benchmark: The shards, for the images and words of single items.

    Raises:
        ValueError: If there is no run.
    """
    if not runs:
        raise ValueError("Expected at least one run to report on, but got none.")
    title = title or f"Abilities during pre-training: {runs[-1].records[-1]['benchmark']}"
    body = _one(runs[0], benchmark) if len(runs) == 1 else _several(runs)
    style = files("radar_callback.reporting.html").joinpath("page.css").read_text(encoding="utf-8")
    names = ", ".join(run.name for run in runs)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # No favicon: a browser would ask the server of the page for one.
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(names)}</p>{body}'
        "<footer>SDS: Soft Discrimination Score (arXiv 2602.12892), the probability of the correct one among an item's "
        "candidates. Bands are one standard error over items; dashed lines are what guessing gives; intervals are of 95%. Made "
        "by radar-callback.</footer>"
        "</body></html>\n"
    )


def _one(run: Run, benchmark: Benchmark | None) -> str:
    last = run.records[-1]
    curves = charts.ability_curves(run)
    panels = [f"<div><h3>{text(readable(group))}</h3>{_chart(figure)}</div>" for group, figure in curves.items()]
    floors = [_number(last["abilities"][name], "chance") for name in run.abilities]
    parts = [
        tables.summary(run),
        tables.findings(run),
        section(
            "Ability curves",
            f'<div class="two">{"".join(panels)}</div>',
            f"<h3>Means</h3>{_chart(charts.means(run))}",
            note="Dotted red lines are alarms. A click on a name hides a curve, a double click all others.",
        ),
        section(
            "Radar",
            _chart(charts.radar(_moments(run), run.abilities, floors)),
            note="Click on a step to show or hide it.",
        ),
        section(
            "Emergence",
            tables.emergence(run),
            note="Onset: the first evaluation from which an ability is 0.05 above chance for good. Order: its place among all "
            "onsets.",
        ),
        section("Perception and reasoning", _chart(charts.asymmetry([run]))),
        section(
            "What images are worth",
            _chart(charts.image_gain([run])),
            note="Mean difference of items scored with their images and with grey ones.",
        ),
        section("How far the parts of the model moved between evaluations", _chart(charts.moved(run))),
        section(
            "Learned and forgotten",
            tables.changes(run),
            note="Mean change of the items' scores; in small type, how many became right and how many wrong. Bold: beyond three "
            "standard errors.",
        ),
        section(
            "Items behind the changes",
            *(f'<h3>{text(name)}</h3><div class="items">{cards}</div>' for name, cards in item_cards(run, benchmark)),
            note="Bars: the probability of each candidate at the later evaluation, the correct one in green.",
        ),
        section("Run", tables.configuration([run])),
    ]
    return "".join(parts)


def _several(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(ability for run in runs for ability in run.abilities))
    finals = [(run.name, _scores(run.records[-1]), True) for run in runs]
    rows = [next(run.records[-1]["abilities"][name] for run in runs if name in run.abilities) for name in names]
    overall, *small = charts.side_by_side(runs).values()
    panels = [f"<div>{_chart(figure, buttons=False)}</div>" for figure in small]
    parts = [
        *(f"<h3>{text(run.name)}</h3>{tables.summary(run)}" for run in runs),
        section(
            "Side by side",
            _chart(overall),
            f'<div class="small">{"".join(panels)}</div>',
        ),
        section("Emergence and final scores", tables.comparison(runs)),
        section(
            "Radar at the last evaluation",
            _chart(charts.radar(finals, names, [_number(row, "chance") for row in rows])),
        ),
        section("Perception and reasoning", _chart(charts.asymmetry(runs))),
        section("What images are worth", _chart(charts.image_gain(runs))),
        *(Markup(f"<h2>{text(run.name)}</h2>{tables.findings(run)}") for run in runs),
        section("Runs", tables.configuration(runs)),
    ]
    return "".join(parts)


def _moments(run: Run) -> list[tuple[str, dict[str, float], bool]]:
    """First, middle and last evaluation, and those at which something broke."""
    n = len(run.records)
    alarms = {finding.step for finding in run.diagnosis.findings if finding.is_alarm}
    chosen = sorted({0, n // 2, n - 1} | {i for i, record in enumerate(run.records) if record["step"] in alarms})
    return [(f"step {run.records[i]['step']:,}", _scores(run.records[i]), i in (0, n - 1)) for i in chosen]


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: row["sds"] for name, row in record["abilities"].items() if row.get("sds") is not None}


def _number(row: Mapping[str, Any], field: str) -> float:
    value = row.get(field)
    return 0.0 if value is None else float(value)


def _chart(figure: go.Figure | None, buttons: bool = True) -> str:
    if figure is None:
        return ""
    removed = ["select2d", "lasso2d", "sendDataToCloud"]
    config = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": removed}
    if not buttons:
        config["displayModeBar"] = False  # they would lie on the title of a small chart
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return html
