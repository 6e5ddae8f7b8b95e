"""`python -m benchmarks.evaluations`: whole evaluations, from shards to scores.

The first against the later ones, and what they wait for data; one rank against two; a vision tower that is frozen against one
that is trained; and what half precision does to the score of a model that has learned something.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from tests.helpers.families import FAMILIES
from torch import distributed as dist

from benchmarks.scoring import RESULTS, size
from radar_callback import RadarEvaluator
from radar_callback.scoring.processor import load_processor

ITEMS_PER_ABILITY = 16


def model() -> tuple[Any, Any]:
    """A LLaVA as large as in the benchmark of the ways of scoring: 256 visual tokens."""
    made: tuple[Any, Any] = FAMILIES["llava"].__wrapped__(size(32_000))
    return made


def first_and_later() -> dict[str, Any]:
    """Seconds, share of waiting and padding of three evaluations in a row."""
    evaluator = RadarEvaluator(*model(), "radar-mini", items_per_ability=ITEMS_PER_ABILITY)
    results = [evaluator.evaluate() for _ in range(3)]
    return {
        "items": results[0].samples,
        "seconds": [result.seconds for result in results],
        "waited_share": [result.waited / result.seconds for result in results],
        "padding_share": results[-1].padding,
    }


def frozen_tower() -> dict[str, Any]:
    """Seconds of a later evaluation with the tower trained and frozen, in turns; the model is the same."""
    taken: dict[str, list[float]] = {"trained": [], "frozen": []}
    evaluators = {}
    for kind in taken:
        made, processor = model()
        made.get_encoder(modality="image").requires_grad_(kind == "trained")
        evaluators[kind] = RadarEvaluator(made, processor, "radar-mini", items_per_ability=ITEMS_PER_ABILITY)
        evaluators[kind].evaluate()
    scores: dict[str, Any] = {}
    for _ in range(3):
        for kind, evaluator in evaluators.items():
            result = evaluator.evaluate()
            taken[kind].append(result.seconds)
            scores[kind] = result.abilities
    ratio = statistics.median(a / b for a, b in zip(taken["trained"], taken["frozen"], strict=True))
    return {"speed_up": ratio, "same_bits": repr(scores["trained"]) == repr(scores["frozen"])}


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    evaluator = RadarEvaluator(*model(), "radar-mini", items_per_ability=ITEMS_PER_ABILITY, workers=0)
    evaluator.evaluate()
    results = [evaluator.evaluate() for _ in range(3)]
    if rank == 0:
        found = {"items_a_second": results[0].samples / statistics.median(r.seconds for r in results)}
        Path(folder, f"{world}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def ranks() -> dict[str, Any]:
    """Items a second with one process and with two, a core each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2):
            mp.start_processes(_rank, args=(world, folder), nprocs=world, start_method="spawn")
            found[str(world)] = json.loads(Path(folder, f"{world}.json").read_text())["items_a_second"]
    return {"items_a_second": found, "speed_up": found["2"] / found["1"]}


def precision(steps: int = 500) -> dict[str, Any]:
    """What bfloat16 and float16 do to the SDS of the demo's model after some steps, by the packed and by the reference way."""
    from transformers import AutoModelForImageTextToText

    from radar_callback import demo

    os.environ.setdefault("WANDB_MODE", "disabled")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = demo.run(Path(folder), steps=steps, evaluations=1, progress=False)
        results = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for scorer in ("auto", "reference"):
                loaded = AutoModelForImageTextToText.from_pretrained(paths.checkpoint).to(dtype).eval()
                evaluator = RadarEvaluator(
                    loaded, load_processor(paths.checkpoint), "radar-mini", items_per_ability=64, scorer=scorer
                )
                results[dtype, scorer] = evaluator.evaluate(per_sample=True)
        exact = results[torch.float32, "reference"]
        for (dtype, scorer), result in results.items():
            items = [abs(a.sds - b.sds) for a, b in zip(result.items, exact.items, strict=True)]
            abilities = [abs(row["sds"] - exact.abilities[name]["sds"]) for name, row in result.abilities.items()]
            found[f"{str(dtype).removeprefix('torch.')} {result.scorer}{' (auto)' if scorer == 'auto' else ''}"] = {
                "mean_item": statistics.mean(items),
                "worst_item": max(items),
                "worst_ability": max(abilities),
                "overall": abs(result.overall["sds"] - exact.overall["sds"]),
            }
    return found


def main() -> None:
    """Measures everything and writes `results/evaluations.json`."""
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "first_and_later": first_and_later,
        "frozen_tower": frozen_tower,
        "ranks": ranks,
        "precision": precision,
    }
    found = {}
    for name, part in parts.items():
        begun = time.perf_counter()
        found[name] = part()
        print(f"{name} ({time.perf_counter() - begun:.0f} s)", json.dumps(found[name], indent=1), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "evaluations.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
