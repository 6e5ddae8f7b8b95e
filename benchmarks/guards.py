"""`python -m benchmarks.guards`: what it costs to leave training alone, beside the forwards of an evaluation. One process.

Ratios within one run: seconds of each guard by the seconds of an evaluation of radar-mini with the demo's model, the smallest for
which the guards can vanish beside the forwards.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from radar_callback import RadarEvaluator
from radar_callback.budget import Budget
from radar_callback.chronicle import Chronicle
from radar_callback.demo.data import captions_only
from radar_callback.demo.model import build_model, build_processor, train_tokenizer
from radar_callback.parts import Parts
from radar_callback.ranks import Ranks
from radar_callback.schedule import Schedule
from radar_callback.untouched import untouched
from radar_callback.watch import Watch

RESULT = Path(__file__).parent / "results" / "guards.json"


def seconds(run: Callable[[], object], times: int = 7) -> float:
    """Median."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def main() -> None:
    """Measures, prints, writes."""
    torch.set_num_threads(1)
    processor = build_processor(train_tokenizer(captions_only(0)))
    model = build_model(processor.tokenizer)
    evaluator = RadarEvaluator(model, processor, "radar-mini", workers=0, blind_share=0.0)
    blind = RadarEvaluator(model, processor, "radar-mini", workers=0)
    evaluator.evaluate()
    blind.evaluate()
    rounds = [(seconds(evaluator.evaluate, 1), seconds(blind.evaluate, 1)) for _ in range(5)]  # taking turns
    plain = statistics.median(one for one, _ in rounds)
    controlled = statistics.median(other / one for one, other in rounds)

    def guard() -> None:
        with untouched(model):
            pass

    parts, alone = Parts(), Ranks(torch.device("cpu"))
    parts.moved(model, alone)
    watch = Watch(Schedule(every=10**9), Budget(0.05))
    step = iter(range(10**9))
    result = evaluator.evaluate(1)

    def write_down() -> None:
        with tempfile.TemporaryDirectory() as folder:
            from contextlib import nullcontext

            kept = Chronicle(Path(folder), "", evaluator, [], 0, lambda doing: nullcontext())
            kept.add(result)

    found = {
        "evaluation_seconds": plain,
        "items": result.samples,
        "leave_training_alone": seconds(guard) / plain,
        "look_at_weights": seconds(lambda: parts.moved(model, alone)) / plain,
        "history_and_item_scores_on_disk": seconds(write_down) / plain,
        "blind_control_of_an_eighth": controlled - 1,
        "microseconds_a_training_step": 1e6 * seconds(lambda: [watch.due(next(step)) for _ in range(1000)]) / 1000,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name:36s} {value:.4g}")


if __name__ == "__main__":
    main()
