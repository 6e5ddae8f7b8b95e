"""How pictures look: colours, markers, and text that a user's own matplotlib settings cannot break."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

INK = "#222222"
MUTED = "#767676"
GRID = "#e4e4e4"

# Chosen to stay apart under the common kinds of colour blindness, and dark enough to be read as text on white.
_COLOURS = ("#332288", "#117733", "#b8860b", "#0a7fb5", "#aa3344", "#3a9d8f", "#882255", "#6b6b1e", "#d55e00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


@dataclass(frozen=True)
class LineStyle:
    """Colour, marker and dashes of one line; no two of the first 36 are equal."""

    colour: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]


def line_style(index: int) -> LineStyle:
    """The style of the line with this number within its panel.

    Example:
        >>> line_style(0).colour == line_style(9).colour, line_style(0) == line_style(9)
        (True, False)
    """
    n = len(_COLOURS)
    return LineStyle(_COLOURS[index % n], _MARKERS[index % n], _DASHES[index // n % len(_DASHES)])


def group_style(index: int) -> LineStyle:
    """The style of the group with this number, the same in every picture."""
    return line_style(index + 1)


def readable(name: str) -> str:
    """A name as people write it: `chart_reading` -> `chart reading`."""
    return name.replace("_", " ")


def short(name: str, length: int = 24) -> str:
    """A readable name that fits beside a chart."""
    name = readable(name)
    return name if len(name) <= length else name[: length - 1] + "…"


def text_width(text: str, size: float) -> float:
    """Inches that a text of this font size takes."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def literal_text(figure: Figure) -> Figure:
    """Shows every text as it stands: a name may hold a dollar sign, and the user may have switched TeX on."""
    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)
    return figure


def render(figure: Figure, width: int = 1600) -> Image.Image:
    """Draws a figure; pyplot is not involved, so this is safe in any thread.

    Args:
        figure: Any figure.
        width: Pixels; the height follows.

    Returns:
        A picture with a palette of 256 colours, which charts do not miss and which makes small files.
    """
    figure.set_dpi(width / figure.get_figwidth())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return pixels.quantize(256, dither=Image.Dither.NONE)


def to_png(figure: Figure, width: int = 1600) -> bytes:
    """`render`, as the bytes of a PNG file."""
    file = io.BytesIO()
    render(figure, width).save(file, format="PNG", optimize=True)
    return file.getvalue()
