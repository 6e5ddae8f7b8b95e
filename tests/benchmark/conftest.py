from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radar_callback.benchmark.sample import Sample
from radar_callback.benchmark.writer import write_shards


def encoded(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (7, 5), format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format)
    return buffer.getvalue()


def a_sample(key: str = "one", **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "key": key,
        "question": "What colour is it?",
        "answer": "red",
        "distractors": ("blue", "green"),
        "ability": "colour",
        "images": (encoded(),),
        "image_names": ("0.png",),
        "source": "test",
        "meta": {"id": key},
    }
    return Sample(**(values | changes))


def twelve_samples() -> list[Sample]:
    """Two abilities, one with categories; two images here and there."""
    samples = []
    for i in range(12):
        maths = i % 3 == 0
        images = (encoded((i, 0, 0)), encoded((0, i, 0), (9, 4), "JPEG"))[: 1 + i % 2]
        samples.append(
            a_sample(
                f"item-{i:02d}",
                question=f"Question {i}?",
                ability="maths" if maths else "colour",
                category=("area", "angle")[i // 3 % 2] if maths else None,
                images=images,
                image_names=("0.png", "1.jpg")[: 1 + i % 2],
            )
        )
    return samples


GROUPS = {"colour": "perception", "maths": "reasoning"}


@pytest.fixture
def image() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return a_sample


@pytest.fixture
def samples() -> list[Sample]:
    return twelve_samples()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of 12 items in 3 shards."""
    out = tmp_path / "bench"
    write_shards(twelve_samples(), out, name="bench", groups=GROUPS, max_samples=4)
    return out


@pytest.fixture
def groups() -> dict[str, str]:
    return GROUPS
