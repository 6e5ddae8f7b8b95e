"""See which abilities a multimodal LLM is growing while it pre-trains.

    from lightning.pytorch import Trainer
    from radar_callback import RadarCallback

    Trainer(callbacks=[RadarCallback()])

Names are imported when they are first used: the command line must not load Lightning to print its help.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.evaluator import RadarEvaluator
    from radar_callback.integrations.lightning import RadarCallback
    from radar_callback.metrics import SoftDiscriminationScore
    from radar_callback.result import RadarResult

__version__ = "0.1.0"

_HOME = {
    "Benchmark": "radar_callback.benchmark.reader",
    "RadarCallback": "radar_callback.integrations.lightning",
    "RadarEvaluator": "radar_callback.evaluator",
    "RadarResult": "radar_callback.result",
    "SoftDiscriminationScore": "radar_callback.metrics",
}

__all__ = ["Benchmark", "RadarCallback", "RadarEvaluator", "RadarResult", "SoftDiscriminationScore", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
