"""The sheet of paper that everything is drawn on: one unit wide and high, smooth edges, small files.

Coordinates run from (0, 0) at the top left to (1, 1) at the bottom right whatever the resolution, so the same drawing can be
made large for a benchmark and small for a training set.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable, Sequence
from random import Random
from typing import cast

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Rgb = tuple[int, int, int]

SIDE = 224
"""Pixels of a benchmark picture: what most vision towers read, so that nothing is rescaled twice."""

INK: Rgb = (52, 52, 58)
"""Axes, clock hands, letters."""

COLOURS: dict[str, Rgb] = {
    "red": (216, 44, 44),
    "orange": (248, 134, 18),
    "yellow": (250, 214, 36),
    "green": (52, 164, 72),
    "blue": (38, 98, 214),
    "purple": (126, 58, 176),
    "pink": (252, 146, 194),
    "brown": (126, 76, 44),
    "black": (36, 36, 40),
}
"""Names that a caption would use, far enough apart to be told from one another in any shade that `shade` makes."""

PAPERS: tuple[Rgb, ...] = (
    (255, 255, 255),
    (250, 246, 236),
    (234, 243, 250),
    (238, 247, 236),
    (248, 239, 245),
    (240, 240, 242),
    (242, 236, 224),
)


def shade(name: str, rng: Random) -> Rgb:
    """One of the many reds that are all called red."""
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in COLOURS[name]))
    hue += rng.uniform(-0.012, 0.012)
    light = min(0.9, light * rng.uniform(0.92, 1.06))
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, light, saturation * rng.uniform(0.9, 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """`one` with `share` of `other` stirred in."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def darker(colour: Rgb, share: float = 0.38) -> Rgb:
    """The outline that goes with a fill."""
    return mix(colour, (0, 0, 0), share)


class Canvas:
    """A square picture in the making.

    It is drawn `oversample` times too large and then averaged down, which gives smooth edges without an antialiasing
    drawing library.

    Args:
        rng: Chooses the paper: a light tint, every other time fading towards the bottom.
        side: Pixels of the finished picture.
        oversample: How much larger it is drawn.
    """

    def __init__(self, rng: Random, side: int = SIDE, oversample: int = 3) -> None:
        self.side = side
        self._oversample = oversample
        self._pixels = side * oversample
        top = rng.choice(PAPERS)
        self._image = Image.new("RGB", (self._pixels, self._pixels), top)
        self._draw = ImageDraw.Draw(self._image)
        self._finish: Callable[[Image.Image], Image.Image] | None = None
        if rng.random() < 0.5:
            self._fade(top, mix(top, rng.choice(list(COLOURS.values())), 0.08))

    def _fade(self, top: Rgb, bottom: Rgb, bands: int = 8) -> None:
        # Bands, not a line-by-line gradient: each costs a palette entry, and so close to one another they read as a fade.
        for band in range(bands):
            self.rectangle(0, band / bands, 1, 1, mix(top, bottom, band / (bands - 1)))

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._pixels, y * self._pixels) for x, y in points]

    def _thick(self, width: float) -> int:
        return max(1, round(width * self._pixels))

    def polygon(
        self, points: Sequence[Point], fill: Rgb | None, outline: Rgb | None = None, width: float = 0.012
    ) -> None:
        """Fills and outlines a closed polygon."""
        scaled = self._scaled(points)
        if fill is not None:
            self._draw.polygon(scaled, fill=fill)
        if outline is not None:
            self._draw.line([*scaled, *scaled[:2]], fill=outline, width=self._thick(width), joint="curve")

    def rectangle(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Rgb | None,
        outline: Rgb | None = None,
        width: float = 0.012,
    ) -> None:
        """Fills and outlines an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill, outline, width)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Rgb | None,
        outline: Rgb | None = None,
        width: float = 0.012,
    ) -> None:
        """Fills and outlines an ellipse around (x, y)."""
        box = self._scaled([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((*box[0], *box[1]), fill=fill, outline=outline, width=self._thick(width) if outline else 0)

    def slice(self, x: float, y: float, r: float, start: float, end: float, fill: Rgb) -> None:
        """Fills a slice of a disc from `start` to `end` degrees, clockwise from three o'clock."""
        box = self._scaled([(x - r, y - r), (x + r, y + r)])
        self._draw.pieslice(
            (*box[0], *box[1]), start, end, fill=fill, outline=(255, 255, 255), width=self._thick(0.008)
        )

    def line(self, points: Sequence[Point], colour: Rgb = INK, width: float = 0.012) -> None:
        """Draws a line through the points, with round ends."""
        scaled = self._scaled(points)
        self._draw.line(scaled, fill=colour, width=self._thick(width), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, colour)

    def text(self, x: float, y: float, text: str, height: float, colour: Rgb = INK, bold: bool = True) -> None:
        """Writes `text` centred on (x, y) in Pillow's own font, which is the same on every machine."""
        font = ImageFont.load_default(height * self._pixels)
        stroke = max(1, round(height * self._pixels * 0.03)) if bold else 0
        self._draw.text(
            (x * self._pixels, y * self._pixels),
            text,
            fill=colour,
            font=font,
            anchor="mm",
            stroke_width=stroke,
            stroke_fill=colour,
        )

    def masked(self, points: Sequence[Point], paint: Callable[[], None]) -> None:
        """Lets `paint` draw, but keeps only what falls inside the polygon."""
        before = self._image.copy()
        paint()
        mask = Image.new("1", self._image.size, 1)
        ImageDraw.Draw(mask).polygon(self._scaled(points), fill=0)
        self._image.paste(before, mask=mask)

    def finish(self, change: Callable[[Image.Image], Image.Image]) -> None:
        """Sets what happens to the finished picture as a whole, such as a blur."""
        self._finish = change

    def image(self) -> Image.Image:
        """The finished picture, RGB."""
        small = self._image.reduce(self._oversample)
        return self._finish(small) if self._finish else small


def _counted(image: Image.Image) -> list[tuple[int, Rgb]]:
    # Pillow's type covers pictures of one channel, too.
    return cast(list[tuple[int, Rgb]], image.getcolors(image.width * image.height))


def flat(image: Image.Image, exact: int = 16, mixed: int = 32) -> Image.Image:
    """Gives a drawing a palette: its commonest colours as they are, and a spread of those along its edges.

    Pillow's own choice goes by area and turns a small pink star grey on a large faded paper.
    """
    colours = [rgb for _, rgb in sorted(_counted(image), reverse=True)]
    palette = [channel for rgb in colours[:exact] for channel in rgb]
    if len(colours) > exact:
        rest = Image.new("RGB", (len(colours) - exact, 1))
        rest.putdata(colours[exact:])
        palette += rest.quantize(mixed, method=Image.Quantize.MEDIANCUT).getpalette() or []
    chart = Image.new("P", (1, 1))
    chart.putpalette(palette)
    return image.quantize(palette=chart, dither=Image.Dither.NONE)


def png(image: Image.Image) -> bytes:
    """Encodes a picture as a PNG with a palette: for flat drawings a fifth of the size, and no difference to see."""
    out = io.BytesIO()
    blurred = len(_counted(image)) > 8000
    flat(image, mixed=128 if blurred else 32).save(out, "PNG", optimize=True)
    return out.getvalue()
