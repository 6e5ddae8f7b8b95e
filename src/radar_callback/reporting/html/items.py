"""The items behind a change: those that fell and rose the most, with their images where the benchmark is at hand."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import ItemError
from radar_callback.reporting.html.markup import Markup, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.item_changes import ItemChange, largest_changes, thumbnail
from radar_callback.reporting.style import readable

SHOWN = 8


def item_cards(run: Run, benchmark: Benchmark | None) -> list[tuple[str, Markup]]:
    """Titled lists of items: fallen and risen between the last two evaluations, and fallen from the best one to the last.

    Args:
        run: The run.
        benchmark: For images, questions and candidates; without it, keys and probabilities only.
    """
    index = run.index
    if index is None or len(run.items) < 2:
        return []
    steps = list(run.items)
    last = run.items[steps[-1]]
    best = max(steps[:-1], key=lambda step: float(np.nanmean(_known(run.items[step].sds(index)))))
    found: list[tuple[str, Markup]] = []
    for since in dict.fromkeys([steps[-2], best]):
        fallen, risen = largest_changes(index, run.items[since], last, SHOWN)
        between = f"from step {since:,} to {steps[-1]:,}"
        wanted = [("Fell most", fallen), ("Rose most", risen)] if since == steps[-2] else [("Fell most", fallen)]
        places = _places(benchmark)
        found += [
            (f"{title} {between}", Markup("".join(_card(one, benchmark, places) for one in items)))
            for title, items in wanted
            if items
        ]
    return found


def _known(values: np.ndarray) -> np.ndarray:
    return values if np.isfinite(values).any() else np.zeros(1, dtype=np.float32)


def _places(benchmark: Benchmark | None) -> dict[str, int]:
    """Positions by key: a run may have scored a part of the benchmark."""
    return {item.key: item.index for item in benchmark.items} if benchmark is not None else {}


def _card(one: ItemChange, benchmark: Benchmark | None, places: dict[str, int]) -> str:
    picture, question, candidates = "", text(one.key), [f"candidate {k}" for k in range(len(one.probabilities))]
    if benchmark is not None and one.key in places:
        try:
            sample = benchmark.read(places[one.key])
            candidates, question = list(sample.candidates), text(sample.question.replace("<image>", "▢"))
            if sample.images:
                picture = f'<img alt="" src="{_data(thumbnail(sample.images))}">'
        except ItemError:
            pass
    bars = "".join(
        f'<li{" class=right" if k == 0 else ""}><span style="width:{100 * p:.0f}%"></span>{text(name)} <em>{p:.2f}</em></li>'
        for k, (name, p) in enumerate(zip(candidates, one.probabilities, strict=False))
    )
    return (
        f'<article class="item">{picture}<div><p class="key">{text(readable(one.ability))} · {text(one.key)}</p>'
        f"<p>{question}</p><ul>{bars}</ul><p>{one.before:.2f} → {one.after:.2f}</p></div></article>"
    )


def _data(image: Image.Image) -> str:
    with io.BytesIO() as file:
        image.convert("RGB").save(file, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
