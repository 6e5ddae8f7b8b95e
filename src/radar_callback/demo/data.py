"""An endless stream of captioned pictures, drawn while the model trains: no picture is seen twice, none is kept."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radar_callback.demo.captions import caption
from radar_callback.demo.model import END, IMAGE, SIDE
from radar_callback.demo.scenes import draw_scene


def captions_only(seed: int, count: int = 2000) -> list[str]:
    """Captions to train a tokenizer on, from a stream of their own."""
    texts = []
    for i in range(count):
        rng = Random(f"demo/{seed}/words/{i}")
        texts.append(caption(draw_scene(rng, SIDE), rng))
    return texts


class CaptionedScenes(Dataset[tuple[Image.Image, str]]):
    """Scene number i of a seed, whoever asks for it: a worker, another rank, a resumed run.

    Args:
        count: How many there are.
        seed: Another seed is another world of scenes.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self._count = count
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        rng = Random(f"demo/{self._seed}/scene/{index}")
        scene = draw_scene(rng, SIDE)
        return scene.image, caption(scene, rng)


class Collate:
    """Turns captioned pictures into a batch for next-token training: only the caption's tokens count in the loss.

    Args:
        processor: The model's own, so that training and evaluation prepare pictures in the same way.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        tokenizer = processor.tokenizer
        self._silent = (tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(IMAGE))

    def __call__(self, pairs: Sequence[tuple[Image.Image, str]]) -> dict[str, Tensor]:
        """Images and captions in, `input_ids`, `attention_mask`, `pixel_values` and `labels` out."""
        images, texts = zip(*pairs, strict=True)
        batch = dict(
            self._processor(
                images=list(images), text=[f"{IMAGE}{text}{END}" for text in texts], padding=True, return_tensors="pt"
            )
        )
        labels = batch["input_ids"].clone()
        for token in self._silent:
            labels[labels == token] = -100
        return {**batch, "labels": labels}


class ScenesDataModule(LightningDataModule):
    """Feeds a training run of a known number of steps.

    Args:
        processor: The model's processor.
        steps: Batches to draw.
        batch_size: Pictures a batch.
        seed: Of the scenes.
        workers: Processes that draw while the model trains.
    """

    def __init__(self, processor: Any, steps: int, batch_size: int, seed: int = 0, workers: int = 1) -> None:
        super().__init__()
        self._processor = processor
        self._scenes = CaptionedScenes(steps * batch_size, seed)
        self._batch_size = batch_size
        self._workers = workers

    def train_dataloader(self) -> DataLoader[tuple[Image.Image, str]]:
        """Scenes in the order of their numbers: each is random already."""
        return DataLoader(
            self._scenes, self._batch_size, num_workers=self._workers, collate_fn=Collate(self._processor)
        )
