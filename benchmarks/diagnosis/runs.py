"""Real pre-training runs for the study: healthy ones, and ones that go on from the middle of one with a fault.

`python -m benchmarks.diagnosis.runs` makes all that is missing under `benchmarks/results/runs`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from benchmarks.diagnosis.faults import FAULTS, Fault
from benchmarks.diagnosis.scenes import Pairs, StudyData, mixture
from radar_callback import RadarCallback
from radar_callback.demo.data import Collate
from radar_callback.demo.model import build_model, build_processor, train_tokenizer
from radar_callback.demo.training import CaptionModule
from radar_callback.untouched import untouched

RUNS = Path(__file__).parents[1] / "results" / "runs"


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Attributes:
        steps: That the learning rate is planned for.
        batch_size: Pairs a step.
        every: Steps between evaluations.
        items: Items of each ability.
        signs: Share of pictures that show a word.
    """

    steps: int
    batch_size: int
    every: int
    items: int
    signs: float


BASE = Plan(steps=2000, batch_size=64, every=100, items=128, signs=0.5)
"""The demo's run, a little longer since it has words to learn too, evaluated twenty times as the callback's default is."""

SMALL = Plan(steps=1000, batch_size=32, every=50, items=64, signs=0.25)
"""Half the steps, half the batch, half the items: noisier than the runs with faults."""

PLANTED = 12 * BASE.every
AFTER = 4 * BASE.every


class StudyModule(CaptionModule):
    """The demo's module, with a fault from a step on."""

    def __init__(self, *args: Any, fault: Fault | None = None, planted: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fault = fault
        self._planted = planted

    def on_train_start(self) -> None:
        if self._fault and self._fault.start:
            self._fault.start(self)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self._fault and self._fault.on_batch:
            batch = self._fault.on_batch(self, batch, self.global_step - self._planted)
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        factor = (
            self._fault.lr_factor(self.global_step - self._planted) if self._fault and self._fault.lr_factor else 1.0
        )
        for group in optimizer.param_groups:
            group["lr"] *= factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] /= factor


class HeldOut(Callback):
    """The loss on pairs that are never trained on, as most runs have it: what the diagnosis is compared with."""

    def __init__(self, processor: Any, plan: Plan, out: Path, count: int = 256) -> None:
        pairs = Pairs("held out", count, mixture(plan.signs))
        collate = Collate(processor)
        self._batches = [collate([pairs[i] for i in range(at, at + 64)]) for at in range(0, count, 64)]
        self._every = plan.every
        self._out = out

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step % self._every == 0:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: Any) -> None:
        with untouched(pl_module.model):
            losses = [loss for batch in self._batches for loss in _losses(pl_module.model, batch).tolist()]
        with (self._out / "held_out.jsonl").open("a") as file:
            file.write(json.dumps({"step": trainer.global_step, "losses": [round(x, 4) for x in losses]}) + "\n")


def _losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean loss of each pair's tokens, `[N]`."""
    labels = batch["labels"][:, 1:]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    counted = labels != -100
    return (each * counted).sum(1) / counted.sum(1)


def words() -> Any:
    """One tokenizer for all runs, trained on captions of both kinds."""
    pairs = Pairs("words", 3000, mixture(0.25))
    return train_tokenizer(text for _, text in (pairs[i] for i in range(3000)))


def run(
    out: Path,
    plan: Plan,
    seed: int,
    *,
    fault: Fault | None = None,
    checkpoint: Path | None = None,
    save_at: Sequence[int] = (),
) -> None:
    """One run, or the part of one behind a checkpoint.

    Args:
        out: Gets `history.jsonl.gz` and `held_out.jsonl.gz`.
        plan: How it goes.
        seed: Of weights and scenes.
        fault: Planted at the checkpoint.
        checkpoint: Where to go on from.
        save_at: Steps at which to leave a checkpoint, in `out`.
    """
    processor = build_processor(words())
    module = StudyModule(
        build_model(processor.tokenizer, seed), processor, plan.steps, fault=fault, planted=PLANTED if checkpoint else 0
    )
    stream = f"{seed}/after" if checkpoint else str(seed)
    draw = fault.draw if fault and fault.draw else mixture(plan.signs)
    pairs = Pairs(stream, plan.steps * plan.batch_size, draw)
    data = StudyData(pairs, processor, plan.batch_size, fault.spoil if fault else None)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if checkpoint:
            shutil.copy(checkpoint.with_name("radar_items.jsonl"), folder)
        radar = RadarCallback(
            every_n_steps=plan.every, items_per_ability=plan.items, max_overhead=None, workers=0, on_error="raise",
            at_end=False,
        )  # fmt: skip
        keep = [
            ModelCheckpoint(out, "{step}", every_n_train_steps=at, save_top_k=-1, save_last=False) for at in save_at
        ]
        trainer = Trainer(
            max_steps=PLANTED + AFTER if checkpoint else plan.steps,
            accelerator="cpu",
            devices=1,
            gradient_clip_val=1.0,
            callbacks=[radar, HeldOut(processor, plan, folder), *keep],
            logger=False,
            enable_checkpointing=bool(keep),
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        )
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
        out.mkdir(parents=True, exist_ok=True)
        assert radar.history_path is not None
        if save_at:
            shutil.copy(folder / "radar_items.jsonl", out)
        for source, name in [(radar.history_path, "history"), (folder / "held_out.jsonl", "held_out")]:
            with source.open("rb") as file, gzip.GzipFile(out / f"{name}.jsonl.gz", "wb", mtime=0) as packed:
                shutil.copyfileobj(file, packed)


def slug(name: str) -> str:
    """A folder's name for a fault."""
    return name.lower().replace(" ", "_").replace("-", "_")


def main() -> None:
    """Makes the runs that the command line asks for, unless they are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", nargs="*", type=int, default=[1, 2], help="seeds of runs to plant faults in")
    parser.add_argument("--healthy", nargs="*", type=int, default=list(range(24)), help="seeds of small healthy runs")
    parser.add_argument("--faults", nargs="*", default=[fault.name for fault in FAULTS])
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("radar-study"), help="where to keep what is not committed"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for seed in options.base:
        base = options.runs / f"base-{seed}"
        kept = options.checkpoints / f"base-{seed}"
        checkpoint = kept / f"step={PLANTED}.ckpt"
        if not checkpoint.exists():
            run(kept, BASE, seed, save_at=[PLANTED])
            base.mkdir(parents=True, exist_ok=True)
            for file in kept.glob("*.jsonl.gz"):
                shutil.copy(file, base)
            print(base, flush=True)
        for fault in (fault for fault in FAULTS if fault.name in options.faults):
            out = options.runs / f"base-{seed}-{slug(fault.name)}"
            if not (out / "history.jsonl.gz").exists():
                run(out, BASE, seed, fault=fault, checkpoint=checkpoint)
                print(out, flush=True)
    for seed in options.healthy:
        out = options.runs / f"healthy-{seed}"
        if not (out / "history.jsonl.gz").exists():
            run(out, SMALL, 100 + seed, save_at=[])
            print(out, flush=True)


if __name__ == "__main__":
    main()
