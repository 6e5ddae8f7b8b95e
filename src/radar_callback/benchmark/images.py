"""Images on their way into a shard: opened once when it is built, so that a damaged one is found then and not in training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from radar_callback.benchmark.decode import decode
from radar_callback.benchmark.sample import MAX_PIXELS
from radar_callback.errors import BenchmarkError, ItemError


class ImageFileError(BenchmarkError):
    """An image file that is missing or cannot be opened."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What is known about an image after it has been opened.

    Attributes:
        size: `(width, height)` in pixels, turned upright by its EXIF orientation.
        suffix: Of its file name in a shard: `"jpg"`, `"png"`, …
    """

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
    image, suffix = decode(data, "it", MAX_PIXELS)
    return Probe(image.size, suffix)


@lru_cache(maxsize=16)
def _read(path: Path) -> bytes:
    return path.read_bytes()


def load_image(path: Path, where: str, shown: str | None = None) -> tuple[bytes, str]:
    """Reads an image file for a shard.

    Args:
        path: The file.
        where: Names the item in the error.
        shown: The path as errors show it; in full if not given.

    Returns:
        Its contents and the suffix of its format, `"jpg"`, `"png"`, …, whatever its name says.

    Raises:
        ImageFileError: If there is no such file, or it is not an image that can be opened.
    """
    shown = shown or str(path)
    try:
        data = _read(path)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = "there is none" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise ImageFileError(f"{where}: Expected an image at {shown}, but {reason}.") from None
    return checked_image(data, where, shown)


def checked_image(data: bytes, where: str, shown: str) -> tuple[bytes, str]:
    """An image file's contents and the suffix of its format, once it has been opened.

    Args:
        data: The contents.
        where: Names the item in the error.
        shown: Names the image in the error.

    Raises:
        ImageFileError: If it is not an image that can be opened.
    """
    try:
        return data, probe(data, shown).suffix
    except ItemError as error:
        raise ImageFileError(f"{where}: Expected an image, but {error.detail}.") from None
