"""One benchmark item: image(s), question, the correct answer and its distractors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from radar_callback.benchmark.decode import decode
from radar_callback.errors import BenchmarkError, Reason
from radar_callback.quoting import quoted

IMAGE_MARK = "<image>"
"""Where an image goes in a question; with no mark, all images come first."""

KEY_PATTERN = re.compile(r"[^./\\\s\x00-\x1f][^./\\\x00-\x1f]*")
"""webdataset ends a key at the first dot of the file name and takes a slash for a folder."""

MAX_PIXELS = 64_000_000
"""An image with more pixels than this is taken for a decompression bomb."""


@dataclass(frozen=True)
class Sample:
    """One item as it lies in a shard, images still encoded (bytes of a JPEG, PNG, WebP … file).

    Args:
        key: Unique in its benchmark; no dot, slash or control character.
        question: May hold `<image>` marks, then exactly one for each image.
        answer: The correct candidate.
        distractors: The wrong candidates, at least one, none equal to the answer or to one another.
        ability: What the item measures.
        images: File contents in the order they are shown.
        image_names: Member names, `"0.jpg"`, `"1.png"`, …, one for each image.
        category: Sub-division of the ability, averaged over first, or None.
        source: Where the item comes from (a data set's name).
        meta: Free fields that `score --per-sample` repeats; JSON types only.
        group: Group of the ability, kept beside the item for shards that lose their manifest; None if not known.
        tags_are_text: Whether what other kits write for an image (`<image 1>`) is text in this item, as in M3-Bench.

    Raises:
        BenchmarkError: If one of the rules above is broken; the message names the key.
    """

    key: str
    question: str
    answer: str
    distractors: tuple[str, ...]
    ability: str
    images: tuple[bytes, ...]
    image_names: tuple[str, ...]
    category: str | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    tags_are_text: bool = False

    def __post_init__(self) -> None:
        if not KEY_PATTERN.fullmatch(self.key):
            raise BenchmarkError(f"Expected a key without dot, slash or leading blank, but got {quoted(self.key)}.")
        if not self.distractors:
            raise BenchmarkError(f"Expected at least one distractor in item {self.key!r}, but got none.")
        if self.answer in self.distractors:
            raise BenchmarkError(
                f"Expected distractors that are wrong, but item {self.key!r} has its answer {quoted(self.answer)} among "
                "them."
            )
        if len(set(self.distractors)) < len(self.distractors):
            raise BenchmarkError(
                f"Expected distractors that differ, but item {self.key!r} repeats one: {quoted(list(self.distractors))}."
            )
        if any(not c.strip() for c in self.candidates):
            raise BenchmarkError(f"Expected candidates with text in them, but item {self.key!r} has an empty one.")
        if len(self.images) != len(self.image_names):
            raise BenchmarkError(
                f"Expected one name an image in item {self.key!r}, but got {len(self.image_names)} names for "
                f"{len(self.images)} images."
            )
        marks = self.question.count(IMAGE_MARK)
        if marks not in (0, len(self.images)):
            raise BenchmarkError(
                f"Expected no {IMAGE_MARK} mark or one for each image in item {self.key!r}, but got {marks} marks for "
                f"{len(self.images)} images."
            )

    @property
    def candidates(self) -> tuple[str, ...]:
        """All candidates, the correct one first."""
        return (self.answer, *self.distractors)


def decode_image(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an encoded image as RGB, as a person would see it on a page.

    It is turned upright by its EXIF orientation, transparency is laid on white, and more than 8 bits of grey become 8.

    Args:
        data: Contents of the image file, in one of the formats of `radar_callback.benchmark.decode.FORMATS`.
        where: Names the image in the error.
        max_pixels: Larger images are refused before they are decompressed.

    Raises:
        ItemError: With `Reason.BAD_IMAGE` if it is no image, is damaged or truncated, or is too large.
    """
    return decode(data, where, max_pixels)[0]


@dataclass(frozen=True)
class Skipped:
    """An item that was left out when the shards were built; an evaluation counts it as failed.

    Args:
        key: The key it would have had.
        ability: What it would have measured; None if not even that is known.
        reason: The rule that left it out.
        detail: One line: what was expected, what came.
        category: Sub-division of the ability, or None.
        meta: Where it comes from, as in `Sample`.
    """

    key: str
    ability: str | None
    reason: Reason
    detail: str
    category: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
