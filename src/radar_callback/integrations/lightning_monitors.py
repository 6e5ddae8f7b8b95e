"""Makes Lightning's EarlyStopping, ModelCheckpoint and ReduceLROnPlateau count evaluations of a benchmark.

They look at `trainer.callback_metrics` at the end of validation or of an epoch. A benchmark is scored at steps of its own, so at
most looks they would find the score of an older step: patience would run out while nothing was measured, and a checkpoint would
be called the best for what other weights scored. Only those that monitor a key of ours are adapted, the objects themselves, for
the time of a fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor


@dataclass
class LatestEvaluation:
    """Tells at which step the values in `callback_metrics` were measured; None before the first evaluation."""

    step: int | None = None


class StopperGate:
    """Lets an EarlyStopping look only when there was an evaluation since its last look.

    Args:
        stopper: The callback.
        latest: Kept up to date by who evaluates.
    """

    def __init__(self, stopper: EarlyStopping, latest: LatestEvaluation) -> None:
        self.key = stopper.state_key
        self.mark: int | None = None
        self._stopper = stopper
        self._latest = latest

    def install(self) -> None:
        """Puts itself before the check."""
        vars(self._stopper)["_run_early_stopping_check"] = self

    def remove(self) -> None:
        """Leaves the callback as it was."""
        vars(self._stopper).pop("_run_early_stopping_check", None)

    def __call__(self, trainer: Trainer) -> None:
        """Checks, if there is something new."""
        if self._latest.step is None or self._latest.step == self.mark:
            return
        self.mark = self._latest.step
        type(self._stopper)._run_early_stopping_check(self._stopper, trainer)


class CheckpointGate:
    """Lets a ModelCheckpoint rank weights by their own score only.

    Where a save falls due at a step that was not evaluated, the weights of the next evaluated step are saved in their place. If
    none comes before the next save is due, it is made all the same, with NaN for a score, which Lightning ranks last.

    Args:
        checkpoint: The callback.
        latest: Kept up to date by who evaluates.
    """

    def __init__(self, checkpoint: ModelCheckpoint, latest: LatestEvaluation) -> None:
        self.key = checkpoint.state_key
        self.mark: int | None = None
        self._checkpoint = checkpoint
        self._latest = latest

    def install(self) -> None:
        """Puts itself before the methods that save."""
        vars(self._checkpoint).update(
            _monitor_candidates=self.candidates,
            _save_topk_checkpoint=self.save_topk,
            on_train_batch_end=self.on_train_batch_end,
            on_train_end=self.on_train_end,
        )

    def remove(self) -> None:
        """Leaves the callback as it was."""
        for name in ("_monitor_candidates", "_save_topk_checkpoint", "on_train_batch_end", "on_train_end"):
            vars(self._checkpoint).pop(name, None)

    def candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """The metrics, with NaN for a score that is not that of the present weights."""
        values = type(self._checkpoint)._monitor_candidates(self._checkpoint, trainer)
        monitor = self._checkpoint.monitor
        if monitor in values and self._latest.step != trainer.global_step:
            values[monitor] = torch.full_like(values[monitor], torch.nan)
        return values

    def save_topk(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        """Saves if this step was evaluated, or if it was put off before."""
        step = trainer.global_step
        fresh = self._latest.step == step
        put_off = self.mark is not None and self.mark != step
        self.mark = None if fresh else step
        if fresh or put_off:
            type(self._checkpoint)._save_topk_checkpoint(self._checkpoint, trainer, candidates)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Does what the callback does, and then what was put off."""
        type(self._checkpoint).on_train_batch_end(self._checkpoint, trainer, pl_module, *args)
        self._catch_up(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after the last evaluation."""
        type(self._checkpoint).on_train_end(self._checkpoint, trainer, pl_module)
        self._catch_up(trainer)

    def _catch_up(self, trainer: Trainer) -> None:
        checkpoint, step = self._checkpoint, trainer.global_step
        if self.mark is None or self._latest.step != step or checkpoint._should_skip_saving_checkpoint(trainer):
            return
        values = checkpoint._monitor_candidates(trainer)
        checkpoint._save_topk_checkpoint(trainer, values)
        if checkpoint._last_global_step_saved == step:
            checkpoint._save_last_checkpoint(trainer, values)


class PlateauGate:
    """Lets a ReduceLROnPlateau step only when there was an evaluation since its last step.

    Its class is exchanged, since what is put into the object itself would go into checkpoints.

    Args:
        scheduler: The scheduler.
        key: Tells it from others of the run.
        latest: Kept up to date by who evaluates.
    """

    def __init__(self, scheduler: Any, key: str, latest: LatestEvaluation) -> None:
        self.key = key
        self.mark: int | None = None
        self._scheduler = scheduler
        self._own_class = type(scheduler)
        self._latest = latest

    def install(self) -> None:
        """Puts itself before `step`."""
        gate, own_class = self, self._own_class

        def step(scheduler: Any, *args: Any, **kwargs: Any) -> None:
            if gate._latest.step is not None and gate._latest.step != gate.mark:
                gate.mark = gate._latest.step
                own_class.step(scheduler, *args, **kwargs)

        self._scheduler.__class__ = type(own_class.__name__, (own_class,), {"step": step})

    def remove(self) -> None:
        """Leaves the scheduler as it was."""
        self._scheduler.__class__ = self._own_class


Gate = StopperGate | CheckpointGate | PlateauGate


def count_evaluations(
    trainer: Trainer, keys: Collection[str], latest: LatestEvaluation, marks: Mapping[str, int | None]
) -> list[Gate]:
    """Adapts all that monitor one of these keys.

    Args:
        trainer: Of the run.
        keys: Log keys of one callback.
        latest: Kept up to date by that callback.
        marks: Of a checkpoint: up to which evaluation each had looked.

    Returns:
        What was put before them, to be removed when the fit is over.
    """
    gates: list[Gate] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.monitor in keys:
            gates.append(StopperGate(callback, latest))
        if isinstance(callback, ModelCheckpoint) and callback.monitor in keys:
            gates.append(CheckpointGate(callback, latest))
    for place, config in enumerate(trainer.lr_scheduler_configs):
        if config.reduce_on_plateau and config.monitor in keys:
            gates.append(PlateauGate(config.scheduler, f"lr_scheduler {place}", latest))
    for gate in gates:
        gate.mark = marks.get(gate.key)
        gate.install()
    return gates
