"""The demo's captioned scenes with signs among them, as anybody who has a fault to plant gets to see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from radar_callback.benchmark.mini.canvas import COLOURS, Canvas, shade
from radar_callback.benchmark.mini.perception import WORDS
from radar_callback.demo.captions import caption
from radar_callback.demo.data import Collate
from radar_callback.demo.model import SIDE
from radar_callback.demo.scenes import draw_scene

Pair = tuple[Image.Image, str]
Draw = Callable[[Random], Pair]


def scene(rng: Random) -> Pair:
    """A picture of shapes or things and its caption, as the demo draws them."""
    drawn = draw_scene(rng, SIDE)
    return drawn.image, caption(drawn, rng)


def sign(rng: Random) -> Pair:
    """A board with a word on it and what somebody might write under it."""
    canvas = Canvas(rng, SIDE, oversample=3)
    word = rng.choice(rng.choice(WORDS))
    upper = rng.random() < 0.5
    height = {3: 0.36, 4: 0.29, 5: 0.25}[len(word)] * rng.uniform(0.85, 1.05) * (0.82 if upper else 1.0)
    board = shade(rng.choice(list(COLOURS)), rng)
    x, y = 0.5 + rng.uniform(-0.03, 0.03), rng.uniform(0.28, 0.72)
    canvas.rectangle(x - 0.45, y - 0.21, x + 0.45, y + 0.21, board)
    canvas.text(x, y, word.upper() if upper else word, height, (20, 20, 20) if sum(board) > 380 else (252, 252, 252))
    forms = (
        "The sign says {}.",
        "A sign that says {}.",
        "The word on the sign is {}.",
        "The picture shows the word {}.",
    )
    return canvas.image(), rng.choice(forms).format(word)


def mixture(signs: float) -> Draw:
    """Both kinds: the demo's own mix has no signs, and a mix cannot lose what it never had.

    Args:
        signs: Share of pictures that show a word.
    """
    return lambda rng: sign(rng) if rng.random() < signs else scene(rng)


class Pairs(Dataset[Pair]):
    """Pair number i of a stream, whoever asks for it.

    Args:
        stream: Names the stream; another name is another world of pictures.
        count: How many there are.
        draw: Draws one.
    """

    def __init__(self, stream: str, count: int, draw: Draw) -> None:
        self._stream = stream
        self._count = count
        self._draw = draw

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        return self._draw(Random(f"study/{self._stream}/{index}"))


class StudyData(LightningDataModule):
    """Feeds a run.

    Args:
        pairs: What to show.
        processor: The model's.
        batch_size: Pairs a batch.
        spoil: What happens to a batch of pairs on its way.
    """

    def __init__(
        self,
        pairs: Pairs,
        processor: Any,
        batch_size: int,
        spoil: Callable[[list[Pair]], list[Pair]] | None = None,
    ) -> None:
        super().__init__()
        self._pairs = pairs
        self._collate = Collate(processor)
        self._batch_size = batch_size
        self._spoil = spoil

    def train_dataloader(self) -> DataLoader[Pair]:
        """Pairs in the order of their numbers: each is random already."""
        return DataLoader(self._pairs, self._batch_size, collate_fn=self._prepared)

    def _prepared(self, pairs: Sequence[Pair]) -> Any:
        return self._collate(self._spoil(list(pairs)) if self._spoil else pairs)
