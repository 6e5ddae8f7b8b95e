"""From the bytes of an image file to RGB pixels, as a person sees them.

The only place that opens image files: when a benchmark is built, and when its items are scored or shown.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError, features

from radar_callback.errors import ItemError, Reason
from radar_callback.quoting import shortened

if TYPE_CHECKING:
    import numpy as np

FORMATS = {
    "AVIF": "avif",
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG": "jpg",
    "JPEG2000": "jp2",
    "PNG": "png",
    "PPM": "ppm",
    "TIFF": "tif",
    "WEBP": "webp",
}
"""The formats that are opened, as Pillow calls them -> how a shard names their files. Nothing else is tried, whatever a file is
called: some formats (EPS) start programs to be opened. AVIF and JPEG 2000 only where Pillow was built with them."""

MULTI_PICTURE = "MPO"
"""What Pillow calls a JPEG with more pictures behind the first, as some cameras write them; its JPEG reader opens these."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED = 1

_STARTS = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"BM", "BMP"),
    *((0, start, "PPM") for start in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"PF\n", b"Pf\n")),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"version https://git-lfs", "a pointer of Git LFS"),
    (128, b"DICM", "DICOM"),
)


def sniff(data: bytes) -> str | None:
    """Names a file's format by its first bytes; None if they are none of those known.

    Example:
        >>> sniff(b"%!PS-Adobe-3.0 EPSF-3.0")
        'EPS'
    """
    return next((name for offset, start, name in _STARTS if data[offset : offset + len(start)] == start), None)


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow can read."""
    Image.init()
    codecs = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
    return tuple(
        name for name in FORMATS if name in Image.OPEN and (name not in codecs or features.check(codecs[name]))
    )


def open_image(data: bytes) -> Image.Image:
    """Opens an image file in one of the formats of `FORMATS`, without decoding its pixels.

    Raises:
        UnidentifiedImageError: If it is in none of them; the message names the format where it is known.
    """
    try:
        return Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        # Pillow names the object it was given, which tells a person nothing.
        name = sniff(data)
        if name is None or name in readable_formats():
            raise UnidentifiedImageError("") from None
        raise UnidentifiedImageError(f"it is {name}, expected {', '.join(readable_formats())}") from None


def decode(data: bytes, where: str, max_pixels: int) -> tuple[Image.Image, str]:
    """Decodes an image file as a person sees it.

    Turned upright by its EXIF orientation; transparency laid on white; grey levels of more than 8 bits scaled to 8 (see
    `docs/benchmark.md`).

    Args:
        data: Contents of the image file.
        where: Names the image in the error.
        max_pixels: Larger images are refused before they are decompressed.

    Returns:
        The RGB image, and the suffix of its format, `"jpg"`, `"png"`, ….

    Raises:
        ItemError: With `Reason.BAD_IMAGE` if it is no image of a known format, is damaged or truncated, or is too large.
    """
    try:
        image = open_image(data)
        if image.width * image.height > max_pixels:
            raise ItemError(
                Reason.BAD_IMAGE, f"{where} has {image.width}x{image.height} pixels; expected at most {max_pixels}"
            )
        image.load()
        suffix = FORMATS["JPEG" if image.format == MULTI_PICTURE else str(image.format)]
        shown, turn = _as_rgb(image), _turn_of(image)
        return shown if turn is None else shown.transpose(turn), suffix
    except ItemError:
        raise
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError, struct.error, bombs …
        said = f": {shortened(str(error).splitlines()[0], 200)}" if str(error) else ""
        raise ItemError(Reason.BAD_IMAGE, f"{where} is not an image that can be opened{said}") from error


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    try:
        # `ImageOps.exif_transpose` also writes the rest of the EXIF data anew, which fails where these are damaged.
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # viewers show an image whose EXIF data cannot be read as it is stored
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_levels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """8-bit grey levels of an image with one channel of 16 or 32 bits.

    Returns:
        `[height, width]`. 16-bit values by their full range, whatever an image holds, so that images stay comparable; 32-bit
        integers and floats, which have no range of their own, from the smallest value in the image (black) to the largest.
    """
    import numpy as np

    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") or (image.format in ("PNG", "PPM") and image.mode == "I"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        top = 2**bits - 1
        levels = ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    else:
        if values.dtype == np.int32 and tags.get(_SAMPLE_FORMAT, (0,))[0] == _UNSIGNED:
            values = values.view(np.uint32)
        levels = _by_range(values)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow turns only 8-bit images
        levels = 255 - levels
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        levels = np.where(values == transparent, np.uint8(255), levels)
    return levels


def _by_range(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import numpy as np

    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        levels = np.full(values.shape, 127, np.float64)  # one value alone says nothing about black and white
    else:
        levels = (np.clip(values, low, high).astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.nan_to_num(levels, nan=0.0)).astype(np.uint8)
