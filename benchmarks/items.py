"""Items of the length that benchmarks have, encoded for a family."""

from __future__ import annotations

import io
import random
from typing import Any

from PIL import Image

from radar_callback.benchmark.sample import Sample
from radar_callback.scoring.encode import EncodedSample, SampleEncoder

WORDS = tuple(
    "The circle is red green or blue and it is on the left side of the square not on the right side".split()  # noqa: SIM905
)


def items(
    model: Any, processor: Any, n: int, k: int, side: int, words: tuple[int, int] = (20, 40)
) -> list[EncodedSample]:
    """Encodes `n` items with an image each and `k` candidates of one to eight words.

    Args:
        model: Of a family.
        processor: Its processor.
        n: How many items.
        k: Candidates of each.
        side: Pixels of their images.
        words: Length of a question, from and to.
    """
    encode = SampleEncoder(processor, model.config)
    return [encode(_item(i, k, side, words)) for i in range(n)]


def _item(number: int, k: int, side: int, words: tuple[int, int]) -> Sample:
    rng = random.Random(number)
    question = " ".join(rng.choices(WORDS, k=rng.randint(*words)))
    candidates = [" ".join([*rng.choices(WORDS, k=rng.randint(0, 7)), f"{i}"]) for i in range(k)]
    buffer = io.BytesIO()
    Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize((side, side), Image.Resampling.BICUBIC).save(
        buffer, "PNG"
    )
    return Sample(
        key=str(number), question=question, answer=candidates[0], distractors=tuple(candidates[1:]), ability="any",
        images=(buffer.getvalue(),), image_names=("0.png",),
    )  # fmt: skip
