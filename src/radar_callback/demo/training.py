"""The demo's training run: a small MLLM from scratch on captions, watched by `RadarCallback`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from radar_callback.demo.data import ScenesDataModule, captions_only
from radar_callback.demo.model import build_model, build_processor, train_tokenizer
from radar_callback.demo.optimizer import MuonWithAdamW

STEPS = 1700
BATCH_SIZE = 64
EVALUATIONS = 10
ITEMS_PER_ABILITY = 64


@dataclass(frozen=True)
class DemoPaths:
    """What a demo run leaves behind.

    Attributes:
        out: The folder that holds it all.
        history: One line of JSON an evaluation.
        checkpoint: The trained model and its processor, as Hugging Face folders are.
        wandb: The offline W&B run, or None if wandb is not installed.
        parameters: Size of the trained model.
    """

    out: Path
    history: Path
    checkpoint: Path
    wandb: Path | None
    parameters: int


class CaptionModule(LightningModule):
    """Next-token prediction on captions: nothing here knows of abilities, items or scores.

    Args:
        model: A transformers image-text-to-text model.
        processor: Its processor; `RadarCallback` looks for it under this name.
        steps: Length of the run, for the learning rate.
        learning_rate: Peak, reached after a few steps and left along a cosine.
    """

    def __init__(self, model: Any, processor: Any, steps: int, learning_rate: float = 4e-3) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self._steps = steps
        self._learning_rate = learning_rate

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch."""
        loss: torch.Tensor = self.model(**batch).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """A short warm-up, then half a cosine down to a twentieth."""
        optimizer = MuonWithAdamW(self.model, self._learning_rate)

        def share(step: int) -> float:
            warm = min(1.0, (step + 1) / (0.03 * self._steps))
            return warm * (0.525 + 0.475 * math.cos(math.pi * min(1.0, step / self._steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run(
    out: Path,
    steps: int | None = None,
    seed: int = 0,
    *,
    items_per_ability: int | None = ITEMS_PER_ABILITY,
    evaluations: int = EVALUATIONS,
    workers: int = 1,
    progress: bool = True,
) -> DemoPaths:
    """Pre-trains the small model with `RadarCallback` in a Lightning Trainer.

    Args:
        out: Folder for everything written.
        steps: Optimizer steps; fewer give a shorter look at the same thing.
        seed: Of weights and scenes.
        items_per_ability: Items of radar-mini scored at each evaluation; None for all.
        evaluations: How many there are after the one before the first step.
        workers: Processes that draw scenes while the model trains.
        progress: Show Lightning's progress bar.
    """
    from radar_callback.integrations.lightning import RadarCallback

    steps = STEPS if steps is None else steps
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(captions_only(seed))
    processor = build_processor(tokenizer)
    model = build_model(tokenizer, seed)
    module = CaptionModule(model, processor, steps)
    data = ScenesDataModule(processor, steps, BATCH_SIZE, seed, workers)
    radar = RadarCallback(
        every_n_steps=max(1, round(steps / evaluations)),
        items_per_ability=items_per_ability,
        # A run of minutes, whose every point is wanted; what they took is said at the end.
        max_overhead=None,
    )
    wandb_logger, wandb_folder = _wandb(out)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[radar],
        logger=[*wandb_logger, CSVLogger(out, name="csv")],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        log_every_n_steps=10,
        default_root_dir=out,
    )
    trainer.fit(module, data)
    checkpoint = out / "checkpoint"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    if radar.history_path is None:
        raise RuntimeError(
            "Expected the callback to have opened its history, but it has not: the Trainer never started."
        )
    return DemoPaths(
        out=out,
        history=radar.history_path,
        checkpoint=checkpoint,
        wandb=wandb_folder,
        parameters=model.num_parameters(),
    )


def _wandb(out: Path) -> tuple[list[Logger], Path | None]:
    """An offline W&B logger, where wandb is installed."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        return [], None
    from lightning.pytorch.loggers import WandbLogger

    return [WandbLogger(project="radar-demo", save_dir=out.resolve(), offline=True)], out / "wandb"
