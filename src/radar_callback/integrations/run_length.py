"""How long a Lightning run is going to be, and in which unit: with several optimizers their steps are not batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer


@dataclass(frozen=True)
class RunLength:
    """The planned length of a run, in the unit in which its evaluations are scheduled.

    Attributes:
        total: Where the run ends; infinite if that is not known.
        in_batches: Whether the unit is a batch, not a step of an optimizer.
        seconds: What the run may last at most, from when it began; infinite without a bound.
    """

    total: float
    in_batches: bool = False
    seconds: float = math.inf

    @classmethod
    def of(cls, trainer: Trainer, pl_module: LightningModule, own_schedule: bool) -> RunLength:
        """Asks the Trainer.

        `trainer.global_step` and `max_steps` count the steps of every optimizer, `estimated_stepping_batches` counts
        batches. With optimization by hand the two differ, by the number of optimizers as a rule.

        Args:
            trainer: Of the run, which has begun.
            pl_module: Its module.
            own_schedule: Whether the user has named steps, which are those of `global_step`.
        """
        estimate, seconds = _estimate(trainer), _seconds(trainer)
        optimizers = 1 if pl_module.automatic_optimization else max(1, len(trainer.optimizers))
        if pl_module.automatic_optimization or math.isinf(estimate):
            return cls(estimate, seconds=seconds)
        if 0 <= trainer.max_steps <= estimate * optimizers:
            return cls(trainer.max_steps, seconds=seconds)
        if own_schedule:
            return cls(estimate * optimizers, seconds=seconds)
        return cls(estimate, in_batches=True, seconds=seconds)

    def position(self, trainer: Trainer) -> int:
        """Where the run is now, in this unit."""
        return trainer.fit_loop.epoch_loop.total_batch_idx + 1 if self.in_batches else trainer.global_step


def _seconds(trainer: Trainer) -> float:
    """What `max_time` and timers of the user's own leave."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return min((seconds for seconds in left if seconds is not None), default=math.inf)


def _estimate(trainer: Trainer) -> float:
    try:
        estimate = trainer.estimated_stepping_batches
    except Exception:  # Lightning refuses to guess, as where accumulation changes with the epoch
        return float(trainer.max_steps) if trainer.max_steps >= 0 else math.inf
    return math.inf if estimate < 0 else float(estimate)
