"""Ten faults as they happen in data pipelines and training code, each to be switched on in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from PIL import Image, ImageOps

from benchmarks.diagnosis.scenes import Draw, Pair, scene
from radar_callback.demo.training import CaptionModule

Spoil = Callable[[list[Pair]], list[Pair]]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: For the table.
        right: What a right diagnosis names: abilities, parts of the model, or causes of a collapse.
        spoil: What it does to a batch of pairs.
        draw: What the mix becomes.
        start: What it does to the module when it sets in.
        on_batch: What it does to a batch of tensors; gets the steps since it set in.
    """

    name: str
    right: frozenset[str]
    spoil: Spoil | None = None
    draw: Draw | None = None
    start: Callable[[Any], None] | None = None
    on_batch: Callable[[Any, dict[str, torch.Tensor], int], dict[str, torch.Tensor]] | None = None
    lr_factor: Callable[[int], float] | None = field(default=None)


def _images(change: Callable[[Image.Image], Image.Image]) -> Spoil:
    return lambda pairs: [(change(image), text) for image, text in pairs]


def _shuffled(pairs: list[Pair]) -> list[Pair]:
    texts = [text for _, text in pairs]
    return [(image, text) for (image, _), text in zip(pairs, texts[1:] + texts[:1], strict=True)]


def _bgr(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])


_coin = Random("study/flips")


def _flipped(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image) if _coin.random() < 0.5 else image


_BOILERPLATE = (
    "A nice picture.",
    "This is the picture of the day.",
    "In the picture there is a picture.",
    "The image looks nice.",
    "Here is one of the images.",
    "This picture is one of seven images.",
    "The number of the picture is in the text.",
    "There is a picture in the image.",
)


def _ignoring(pairs: list[Pair]) -> list[Pair]:
    return [(image, _BOILERPLATE[_coin.randrange(len(_BOILERPLATE))]) for image, _ in pairs]


def _freeze_projector(module: CaptionModule) -> None:
    module.model.model.multi_modal_projector.requires_grad_(False)


def _truncate(module: CaptionModule, batch: dict[str, torch.Tensor], since: int) -> dict[str, torch.Tensor]:
    """Only the first third of the picture's tokens is seen, as when a sequence is cut to a length that is too short."""
    pictures = batch["input_ids"] == module.model.config.image_token_id
    late = pictures & (pictures.cumsum(1) > pictures.sum(1, keepdim=True) // 3)
    return {**batch, "attention_mask": batch["attention_mask"].masked_fill(late, 0)}


FAULTS = (
    Fault("captions shuffled against images", frozenset({"image_not_used"}), spoil=_shuffled),
    Fault("projector frozen", frozenset({"multi_modal_projector"}), start=_freeze_projector),
    Fault("BGR for RGB", frozenset({"colour"}), spoil=_images(_bgr)),
    Fault("grayscale", frozenset({"colour"}), spoil=_images(lambda image: image.convert("L").convert("RGB"))),
    Fault(
        "blank images",
        frozenset({"image_not_used"}),
        spoil=_images(lambda image: Image.new("RGB", image.size, "white")),
    ),
    Fault("random horizontal flips", frozenset({"position"}), spoil=_images(_flipped)),
    Fault("text images dropped from the mix", frozenset({"text"}), draw=scene),
    Fault("learning-rate spike", frozenset({"optimization"}), lr_factor=lambda since: 25.0 if since < 25 else 1.0),
    Fault("image tokens truncated", frozenset({"image_not_used", "position"}), on_batch=_truncate),
    Fault("captions that ignore the picture", frozenset({"image_not_used"}), spoil=_ignoring),
)
"""What is right was written down before the first of these runs."""
