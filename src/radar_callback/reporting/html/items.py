"""The items behind a change: those that fell and rose the most, with their images where the benchmark is at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from radar_callback.benchmark.reader import Benchmark
from radar_callback.diagnosis import Kind
from radar_callback.errors import ItemError
from radar_callback.item_scores import ItemIndex, ItemScores
from radar_callback.reporting.html.markup import Markup, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.item_changes import ItemChange, largest_changes, thumbnail
from radar_callback.reporting.style import readable

SHOWN = 6
"""Items in each list: two rows on a wide screen."""

FALLS = 3
"""Falls whose items are shown: the latest."""


def item_cards(run: Run, benchmark: Benchmark | None) -> list[tuple[str, Markup]]:
    """Titled lists of items that fell and rose: behind each fall that raised an alarm, and up to the last evaluation.

    Args:
        run: The run.
        benchmark: For images, questions and candidates; without it, keys and probabilities only.
    """
    if run.index is None or len(run.items) < 2:
        return []
    # A run may have scored a part of the benchmark: positions in it are found by key.
    places = {item.key: item.index for item in benchmark.items} if benchmark is not None else {}
    found: list[tuple[str, Markup]] = []
    for (since, step), why in _spans(run, run.index).items():
        lists = zip(("Fell", "Rose"), largest_changes(run.index, run.items[since], run.items[step], SHOWN), strict=True)
        for verb, items in lists:
            cards = "".join(_card(one, benchmark, places) for one in items)
            if cards:
                found.append((f"{verb} most from step {since:,} to {step:,}{why}", Markup(cards)))
    return found


def _spans(run: Run, index: ItemIndex) -> dict[tuple[int, int], str]:
    """Pairs of steps between which items are worth a look, and why: the latest falls, then the latest evaluation."""
    falls = [one for one in run.alarms if one.kind in {Kind.REGRESSION, Kind.COLLAPSE}]
    told = {
        (one.since, one.step): f": {readable(one.subject)} fell"
        for one in falls[-FALLS:]
        if one.since in run.items and one.step in run.items
    }
    *before, last = run.items
    best = max(before, key=lambda step: _mean(run.items[step], index))
    told.setdefault((before[-1], last), "")
    told.setdefault((best, last), ", since the best evaluation")
    return told


def _mean(scores: ItemScores, index: ItemIndex) -> float:
    known = scores.sds(index)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else -1.0


def _card(one: ItemChange, benchmark: Benchmark | None, places: Mapping[str, int]) -> str:
    picture, question = "", ""
    candidates = ["the correct one", *(f"distractor {k}" for k in range(1, len(one.probabilities)))]
    if benchmark is not None and one.key in places:
        try:
            sample = benchmark.read(places[one.key])
            candidates = list(sample.candidates)
            question = f"<p>{text(sample.question.replace('<image>', '▢'))}</p>"
            if sample.images:
                picture = f'<img alt="What is asked about" src="{_data(thumbnail(sample.images))}">'
        except ItemError:  # it was readable when it was scored: what its scores tell is shown without it
            pass
    bars = "".join(
        f'<li{" class=right" if k == 0 else ""}><span style="width:{100 * p:.0f}%"></span>{text(name)} <em>{p:.2f}</em></li>'
        for k, (name, p) in enumerate(zip(candidates, one.probabilities, strict=False))
    )
    return (
        f'<article class="item">{picture}<div><p class="top">{text(readable(one.ability))} '
        f"<b>{one.before:.2f} → {one.after:.2f}</b></p>{question}<ul>{bars}</ul>"
        f'<p class="key">{text(one.key)}</p></div></article>'
    )


def _data(image: Image.Image) -> str:
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
