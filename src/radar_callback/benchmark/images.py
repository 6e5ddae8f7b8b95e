"""Images on their way into a shard: opened once when it is built, so that a damaged one is found then and not in training."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from radar_callback.benchmark.sample import decode_image
from radar_callback.errors import BenchmarkError, ItemError

SUFFIXES = {
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "PPM": "ppm",
    "TIFF": "tif",
    "WEBP": "webp",
}
"""What Pillow calls a format -> how the shard names it. Others (PDF, EPS …) would start programs to be opened."""


class ImageFileError(BenchmarkError):
    """An image file that is missing or cannot be opened."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known about an image after it has been opened: `(width, height)` in pixels, and its file name suffix."""

    size: tuple[int, int]
    suffix: str


def probe(data: bytes, where: str) -> Probe:
    """Opens an encoded image completely.

    Args:
        data: Contents of the image file.
        where: Names the image in the error.

    Raises:
        ItemError: With `Reason.BAD_IMAGE` if it is no image, is damaged or truncated, or is too large.
    """
    try:
        return _probe(data)
    except ItemError as error:
        raise ItemError(error.reason, f"{where} {error.detail.removeprefix('it ')}") from error


# One image is often shown by several items in a row, and is looked at by the source, the writer and the index.
@lru_cache(maxsize=16)
def _probe(data: bytes) -> Probe:
    size = decode_image(data, "it").size
    with Image.open(io.BytesIO(data)) as image:
        suffix = SUFFIXES.get(image.format or "", "bin")
    return Probe(size, suffix)


@lru_cache(maxsize=16)
def _read(path: Path) -> bytes:
    return path.read_bytes()


def load_image(path: Path, where: str) -> tuple[bytes, str]:
    """Reads an image file for a shard.

    Args:
        path: The file.
        where: Names the item in the error.

    Returns:
        Its contents and the suffix of its format, `"jpg"`, `"png"`, …, whatever its name says.

    Raises:
        ImageFileError: If there is no such file, or it is not an image that can be opened.
    """
    try:
        data = _read(path)
    except OSError as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise ImageFileError(f"{where}: Expected an image at {path}, but {reason}.") from None
    try:
        return data, probe(data, str(path)).suffix
    except ItemError as error:
        raise ImageFileError(f"{where}: Expected an image, but {error.detail}.") from None
