"""Does SDS before fine-tuning say what fine-tuning will bring? The question of the paper's section on validity, at a small scale.

Small models are pre-trained on captions under several configurations (more or less data, a smaller model, a frozen vision tower),
and scored with radar-mini on the way. Each checkpoint is then briefly fine-tuned on questions and answers, which are none of the
benchmark's, and writes its answers to the benchmark's questions. For each checkpoint and ability there is then a point: SDS
before, accuracy of what was written after.

    python examples/score_validity.py --out validity

takes about half an hour on one core and leaves `validity.json`, every point in it, and a picture.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader

from radar_callback import Benchmark, RadarCallback
from radar_callback.benchmark.mini import generate
from radar_callback.demo.data import CaptionedScenes, Collate, captions_only
from radar_callback.demo.model import END, IMAGE, build_model, build_processor, train_tokenizer
from radar_callback.demo.optimizer import MuonWithAdamW
from radar_callback.demo.training import CaptionModule
from radar_callback.history import read_history


@dataclass(frozen=True)
class Setting:
    """One configuration of pre-training: the paper's three factors, data volume, model size and what is trained."""

    name: str
    scenes: int = 64_000
    width: int = 128
    frozen: tuple[str, ...] = ()


SETTINGS = (
    Setting("all data"),
    Setting("a hundredth of the data", scenes=640),
    Setting("half as wide", width=64),
    Setting("vision tower frozen", frozen=("vision_tower",)),
    Setting("language model frozen", frozen=("language_model",)),
)
STEPS, BATCH = 1000, 64
CHECKPOINTS = (200, 500, 1000)
ITEMS = 64
"""Of each ability, scored and answered."""

SFT_ITEMS, SFT_STEPS, SFT_BATCH = 128, 150, 64


class Repeated(CaptionedScenes):
    """So many scenes, over and over."""

    def __init__(self, count: int, scenes: int) -> None:
        super().__init__(count)
        self._scenes = scenes

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        return super().__getitem__(index % self._scenes)


def pretrain(setting: Setting, processor: Any, out: Path) -> Any:
    """Pre-trains under one setting; leaves checkpoints and a history in `out` and gives the model back."""
    model = build_model(processor.tokenizer, width=setting.width)
    for part in setting.frozen:
        getattr(model.model, part).requires_grad_(False)
    radar = RadarCallback(
        at_steps=CHECKPOINTS, at_start=False, at_end=False, items_per_ability=ITEMS, max_overhead=None
    )
    trainer = Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[
            radar,
            ModelCheckpoint(out, "{step}", every_n_train_steps=100, save_top_k=-1, save_weights_only=True),
        ],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=out,
    )
    scenes = Repeated(STEPS * BATCH, setting.scenes)
    trainer.fit(CaptionModule(model, processor, STEPS), DataLoader(scenes, BATCH, collate_fn=Collate(processor)))
    return model


def questions(processor: Any) -> list[dict[str, Any]]:
    """Questions of the benchmark's kind with their answers, from another seed, so that none is the benchmark's."""
    return [
        {
            "image": Image.open(io.BytesIO(sample.images[0])).convert("RGB"),
            "question": sample.question,
            "answer": sample.answer,
        }
        for sample in generate(seed=1, items_per_ability=SFT_ITEMS)
    ]


def fine_tune(model: Any, processor: Any, pairs: list[dict[str, Any]]) -> None:
    """Trains all of a model briefly on questions and answers."""
    model.requires_grad_(True).train()
    optimizer = MuonWithAdamW(model, 1.5e-3)
    rng = Random(0)
    for step in range(SFT_STEPS):
        batch = rng.sample(pairs, SFT_BATCH)
        texts = [f"{IMAGE}{one['question']} {one['answer']}{END}" for one in batch]
        inputs = processor(images=[one["image"] for one in batch], text=texts, padding=True, return_tensors="pt")
        asked = [len(processor.tokenizer(f"{one['question']}")["input_ids"]) for one in batch]
        labels = inputs["input_ids"].clone()
        labels[inputs["attention_mask"] == 0] = -100
        pictures = int((labels[0] == model.config.image_token_id).sum())
        for row, length in enumerate(asked):
            labels[row, : pictures + length] = -100
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 10) * (1 - step / SFT_STEPS)
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def accuracy(model: Any, processor: Any, benchmark: Benchmark) -> dict[str, float]:
    """Share of items of each ability whose answer the model writes, word for word."""
    model.eval()
    right: dict[str, list[bool]] = {}
    for start in range(0, len(benchmark), 64):
        samples = [benchmark.read(i) for i in range(start, min(start + 64, len(benchmark)))]
        images = [Image.open(io.BytesIO(sample.images[0])).convert("RGB") for sample in samples]
        texts = [f"{IMAGE}{sample.question}" for sample in samples]
        inputs = processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for sample, ids in zip(samples, written, strict=True):
            text = processor.tokenizer.decode(ids).partition(END)[0].strip()
            right.setdefault(sample.ability, []).append(text == sample.answer.lower())
    return {ability: float(np.mean(values)) for ability, values in right.items()}


def correlation(points: list[dict[str, Any]], score: str) -> tuple[float, list[float]]:
    """Pearson's r of a score before and accuracy after, with a 95% interval.

    The interval is a bootstrap of whole abilities and whole checkpoints at once, since the points of each hang together.
    """
    x, y = (np.array([point[name] for point in points]) for name in (score, "accuracy"))
    abilities, runs = (
        np.unique([point[name] for point in points], return_inverse=True)[1] for name in ("ability", "run")
    )
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        weights = np.ones(len(points))
        for groups in (abilities, runs):
            n = groups.max() + 1
            weights *= np.bincount(rng.integers(n, size=n), minlength=n)[groups]
        drawn.append(_pearson(x, y, weights))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return _pearson(x, y, np.ones(len(points))), [float(low), float(high)]


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    x, y = x - weights @ x / total, y - weights @ y / total
    return float((weights * x) @ y / np.sqrt((weights * x) @ x * ((weights * y) @ y)))


def picture(points: list[dict[str, Any]], result: dict[str, Any]) -> Figure:
    """SDS before against accuracy after, a colour for each setting."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, score in zip(figure.subplots(1, 2, sharey=True), ("sds", "sds_logprob"), strict=True):
        for setting in SETTINGS:
            mine = [point for point in points if point["setting"] == setting.name]
            axes.scatter([p[score] for p in mine], [p["accuracy"] for p in mine], s=14, alpha=0.7, label=setting.name)
        low, high = result["intervals"][score]
        axes.set_title(f"r = {result[f'pearson_{score}']:.2f} ({low:.2f} to {high:.2f})", fontsize=10, loc="left")
        axes.set_xlabel(f"{score} before fine-tuning")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy of written answers after")
    figure.axes[0].set_ylim(-0.04, 1.2)
    figure.axes[0].legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("validity"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    processor = build_processor(train_tokenizer(captions_only(0)))
    benchmark = Benchmark("radar-mini").limit(ITEMS)
    pairs = questions(processor)
    points: list[dict[str, Any]] = []
    for setting in SETTINGS:
        folder = options.out / setting.name.replace(" ", "_")
        if not (folder / "radar_history.jsonl").exists() or len(read_history(folder / "radar_history.jsonl")) < len(
            CHECKPOINTS
        ):
            pretrain(setting, processor, folder)
        for record in read_history(folder / "radar_history.jsonl"):
            kept = folder / f"accuracy-{record['step']}.json"
            if not kept.exists():
                model = build_model(processor.tokenizer, width=setting.width)
                state = torch.load(folder / f"step={record['step']}.ckpt", weights_only=True)["state_dict"]
                weights = {name.removeprefix("model."): value for name, value in state.items()}
                missing, _ = model.load_state_dict(weights, strict=False)
                assert set(missing) <= {"lm_head.weight"}, "it is the embedding"
                fine_tune(model, processor, pairs)
                kept.write_text(json.dumps(accuracy(model, processor, benchmark)))
            for ability, share in json.loads(kept.read_text()).items():
                row = record["abilities"][ability]
                point = {"setting": setting.name, "step": record["step"], "run": f"{setting.name}/{record['step']}"}
                point |= {"ability": ability, "sds": row["sds"], "sds_logprob": row["sds_logprob"], "accuracy": share}
                points.append(point)
            print(
                setting.name,
                record["step"],
                "accuracy after",
                round(np.mean([p["accuracy"] for p in points[-18:]]), 3),
                flush=True,
            )
    found = {score: correlation(points, score) for score in ("sds", "sds_logprob")}
    result = {
        "points": len(points),
        "pearson_sds": found["sds"][0],
        "pearson_sds_logprob": found["sds_logprob"][0],
        "interval": found["sds"][1],
        "intervals": {score: interval for score, (_, interval) in found.items()},
        "settings": [asdict(setting) for setting in SETTINGS],
        "rows": points,
    }
    (options.out / "validity.json").write_text(json.dumps(result, indent=1) + "\n")
    picture(points, result).savefig(options.out / "validity.png", dpi=160)
    print({name: value for name, value in result.items() if name not in ("rows", "settings")})


if __name__ == "__main__":
    main()
