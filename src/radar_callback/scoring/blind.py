"""The image-blind control: items as before, with pictures that show nothing.

What a model still gets right without seeing anything it gets from the wording. Its score with the image less its score without
is what it owes to looking.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from PIL import Image

from radar_callback.benchmark.sample import Sample, decode_image
from radar_callback.scoring.encode import EncodedSample

GREY = (127, 127, 127)


class BlindEncoder:
    """Encodes items with every image replaced by a grey one of the same size, so that it takes as many tokens.

    Args:
        encode: The encoder for items as they are.
    """

    def __init__(self, encode: Callable[[Sample], EncodedSample]) -> None:
        self._encode = encode

    def __call__(self, sample: Sample) -> EncodedSample:
        """Encodes one item.

        Raises:
            ItemError: As for the item with its images.
        """
        names = zip(sample.images, sample.image_names, strict=True)
        sizes = [decode_image(data, f"item {sample.key!r}, image {name}").size for data, name in names]
        return self._encode(
            replace(
                sample,
                images=tuple(_grey(*size) for size in sizes),
                image_names=tuple(f"{i}.png" for i in range(len(sizes))),
            )
        )


@lru_cache(maxsize=64)
def _grey(width: int, height: int) -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (width, height), GREY).save(file, "PNG")
        return file.getvalue()
