"""Everyday things, drawn as a picture book would: a few flat pieces each.

Every function draws inside the square [-1, 1] x [-1, 1] of a `Pen`, y pointing down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from radar_callback.benchmark.mini.canvas import COLOURS, Canvas, Point, Rgb, darker, mix, shade

WHITE: Rgb = (252, 252, 252)
BROWN = COLOURS["brown"]
GREEN = COLOURS["green"]
DARK: Rgb = (58, 58, 64)
GLASS: Rgb = (186, 222, 244)


class Pen:
    """Draws in the coordinates of one thing, somewhere on a canvas.

    Args:
        canvas: Where to draw.
        x: Centre of the thing.
        y: Centre of the thing.
        r: Half its width and height.
        colour: Its main colour.
    """

    def __init__(self, canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
        self.canvas, self.x, self.y, self.r, self.colour = canvas, x, y, r, colour
        self.width = r * 0.05

    def _at(self, points: Sequence[Point]) -> list[Point]:
        return [(self.x + self.r * px, self.y + self.r * py) for px, py in points]

    def poly(self, points: Sequence[Point], fill: Rgb | None = None) -> None:
        """A filled polygon with an outline."""
        fill = fill or self.colour
        self.canvas.polygon(self._at(points), fill, darker(fill), self.width)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Rgb | None = None) -> None:
        """A filled rectangle with an outline."""
        self.poly([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Rgb | None = None) -> None:
        """A filled ellipse with an outline."""
        fill = fill or self.colour
        ((cx, cy),) = self._at([(x, y)])
        self.canvas.ellipse(cx, cy, rx * self.r, ry * self.r, fill, darker(fill), self.width)

    def line(self, points: Sequence[Point], colour: Rgb = DARK, width: float = 0.06) -> None:
        """A line."""
        self.canvas.line(self._at(points), colour, width * self.r)


def _house(pen: Pen) -> None:
    pen.box(-0.7, -0.1, 0.7, 0.95, mix(pen.colour, WHITE, 0.6))
    pen.poly([(-0.95, -0.1), (0.0, -0.95), (0.95, -0.1)])
    pen.box(-0.15, 0.35, 0.2, 0.95, BROWN)
    pen.box(-0.55, 0.15, -0.27, 0.45, GLASS)
    pen.box(0.33, 0.15, 0.58, 0.45, GLASS)


def _tree(pen: Pen) -> None:
    pen.box(-0.14, 0.2, 0.14, 0.98, BROWN)
    for x, y in [(-0.4, 0.05), (0.4, 0.05), (0.0, -0.4)]:
        pen.oval(x, y, 0.5, 0.5, GREEN)
    pen.canvas.ellipse(pen.x, pen.y - 0.1 * pen.r, 0.42 * pen.r, 0.38 * pen.r, GREEN)


def _car(pen: Pen) -> None:
    pen.poly([(-0.5, -0.05), (-0.3, -0.5), (0.3, -0.5), (0.55, -0.05)], GLASS)
    pen.line([(0.0, -0.48), (0.0, -0.05)], darker(GLASS))
    pen.poly([(-0.98, -0.02), (0.9, -0.08), (0.98, 0.4), (-0.98, 0.4)])
    for x in (-0.52, 0.52):
        pen.oval(x, 0.42, 0.25, 0.25, DARK)
        pen.oval(x, 0.42, 0.1, 0.1, WHITE)


def _fish(pen: Pen) -> None:
    pen.poly([(0.4, 0.0), (0.98, -0.5), (0.98, 0.5)])
    pen.poly([(-0.2, -0.3), (0.15, -0.72), (0.3, -0.2)])
    pen.oval(-0.18, 0.0, 0.75, 0.46)
    pen.oval(-0.55, -0.1, 0.1, 0.1, WHITE)
    pen.oval(-0.57, -0.1, 0.04, 0.04, DARK)


def _flower(pen: Pen) -> None:
    pen.line([(0.0, 0.0), (0.0, 0.95)], darker(GREEN, 0.15), 0.1)
    pen.poly([(0.0, 0.75), (0.5, 0.35), (0.45, 0.7)], GREEN)
    for i in range(6):
        angle = math.pi * i / 3
        pen.oval(0.42 * math.cos(angle), -0.3 + 0.42 * math.sin(angle), 0.26, 0.26)
    pen.oval(0.0, -0.3, 0.26, 0.26, COLOURS["yellow"] if pen.colour[2] > 60 else WHITE)


def _cup(pen: Pen) -> None:
    pen.oval(0.6, 0.08, 0.34, 0.36)
    pen.oval(0.58, 0.08, 0.18, 0.2, WHITE)
    pen.poly([(-0.72, -0.45), (0.55, -0.45), (0.42, 0.72), (-0.58, 0.72)])
    pen.oval(-0.085, -0.45, 0.635, 0.13, mix(BROWN, WHITE, 0.15))


def _boat(pen: Pen) -> None:
    pen.line([(0.0, 0.4), (0.0, -0.95)], BROWN, 0.08)
    pen.poly([(0.08, -0.88), (0.78, 0.25), (0.08, 0.25)], WHITE)
    pen.poly([(-0.08, -0.7), (-0.08, 0.25), (-0.6, 0.25)], mix(pen.colour, WHITE, 0.45))
    pen.poly([(-0.95, 0.4), (0.95, 0.4), (0.6, 0.9), (-0.6, 0.9)])


def _snowman(pen: Pen) -> None:
    pen.oval(0.0, 0.52, 0.46, 0.44, WHITE)
    pen.oval(0.0, -0.18, 0.33, 0.32, WHITE)
    pen.line([(-0.3, -0.2), (-0.8, -0.5)], BROWN)
    pen.line([(0.3, -0.2), (0.8, -0.5)], BROWN)
    pen.box(-0.25, -0.98, 0.25, -0.6, DARK)
    pen.box(-0.4, -0.62, 0.4, -0.54, DARK)
    pen.box(-0.3, 0.02, 0.3, 0.14)
    for x in (-0.12, 0.12):
        pen.oval(x, -0.28, 0.035, 0.035, DARK)
    pen.poly([(0.0, -0.2), (0.34, -0.13), (0.0, -0.1)], COLOURS["orange"])


def _mushroom(pen: Pen) -> None:
    pen.poly([(-0.26, 0.0), (0.26, 0.0), (0.36, 0.9), (-0.36, 0.9)], (244, 232, 210))
    cap = [(0.92 * math.cos(a), 0.1 + 0.95 * math.sin(a)) for a in (math.pi * (1 + i / 30) for i in range(31))]
    pen.poly(cap)
    for x, y, r in [(-0.45, -0.22, 0.15), (0.1, -0.55, 0.17), (0.5, -0.15, 0.14)]:
        pen.oval(x, y, r, r, WHITE)


def _rocket(pen: Pen) -> None:
    pen.poly([(-0.2, 0.6), (0.0, 1.0), (0.2, 0.6)], COLOURS["orange"])
    for side in (-1, 1):
        pen.poly([(side * 0.3, 0.1), (side * 0.66, 0.66), (side * 0.28, 0.6)])
    pen.poly([(-0.32, 0.62), (-0.34, -0.3), (0.0, -0.62), (0.34, -0.3), (0.32, 0.62)], (232, 234, 240))
    pen.poly([(-0.34, -0.3), (0.0, -1.0), (0.34, -0.3)])
    pen.oval(0.0, -0.02, 0.17, 0.17, GLASS)


def _key(pen: Pen) -> None:
    pen.box(-0.2, -0.1, 0.95, 0.1)
    pen.box(0.5, 0.1, 0.64, 0.42)
    pen.box(0.76, 0.1, 0.9, 0.34)
    pen.oval(-0.52, 0.0, 0.43, 0.43)
    pen.oval(-0.58, 0.0, 0.17, 0.17, WHITE)


def _cat(pen: Pen) -> None:
    for side in (-1, 1):
        pen.poly([(side * 0.72, -0.1), (side * 0.68, -0.92), (side * 0.12, -0.5)])
    pen.oval(0.0, 0.08, 0.78, 0.68)
    for side in (-1, 1):
        pen.oval(side * 0.3, -0.08, 0.15, 0.17, WHITE)
        pen.oval(side * 0.3, -0.08, 0.06, 0.12, DARK)
        for tilt in (-0.06, 0.1):
            pen.line([(side * 0.3, 0.32 + tilt / 2), (side * 0.98, 0.28 + tilt * 1.6)], DARK, 0.035)
    pen.poly([(-0.1, 0.2), (0.1, 0.2), (0.0, 0.32)], COLOURS["pink"])
    pen.line([(-0.18, 0.46), (0.0, 0.36), (0.18, 0.46)], DARK, 0.05)


def _lamp(pen: Pen) -> None:
    pen.line([(0.0, 0.0), (0.0, 0.82)], DARK, 0.09)
    pen.oval(0.0, 0.86, 0.44, 0.11, DARK)
    pen.poly([(-0.34, -0.85), (0.34, -0.85), (0.72, 0.08), (-0.72, 0.08)])


def _chair(pen: Pen) -> None:
    for x in (-0.52, 0.42):
        pen.box(x, 0.1, x + 0.12, 0.95)
    pen.box(-0.56, -0.95, -0.4, 0.1)
    pen.box(-0.56, -0.02, 0.6, 0.18)
    for y in (-0.85, -0.45):
        pen.box(-0.5, y, -0.24, y + 0.24)


def _book(pen: Pen) -> None:
    for side in (-1, 1):
        pen.poly([(0.0, -0.45), (side * 0.95, -0.62), (side * 0.95, 0.5), (0.0, 0.7)])
        pen.poly([(0.0, -0.45), (side * 0.84, -0.6), (side * 0.84, 0.4), (0.0, 0.58)], WHITE)
        for y in (-0.3, -0.08, 0.14):
            pen.line([(side * 0.16, y + 0.05), (side * 0.68, y - 0.05)], (150, 150, 156), 0.05)


def _balloon(pen: Pen) -> None:
    pen.line([(0.0, 0.4), (0.1, 0.6), (-0.06, 0.8), (0.04, 0.98)], DARK, 0.045)
    pen.poly([(0.0, 0.3), (0.13, 0.48), (-0.13, 0.48)])
    pen.oval(0.0, -0.32, 0.56, 0.66)
    pen.canvas.ellipse(
        pen.x - 0.2 * pen.r, pen.y - 0.58 * pen.r, 0.09 * pen.r, 0.16 * pen.r, mix(pen.colour, WHITE, 0.6)
    )


def _crown(pen: Pen) -> None:
    pen.poly([(-0.8, 0.65), (-0.95, -0.45), (-0.45, 0.05), (0.0, -0.7), (0.45, 0.05), (0.95, -0.45), (0.8, 0.65)])
    for x, y in [(-0.93, -0.5), (0.0, -0.75), (0.93, -0.5)]:
        pen.oval(x, y, 0.11, 0.11)
    pen.box(-0.8, 0.4, 0.8, 0.66, mix(pen.colour, WHITE, 0.35))


def _ladder(pen: Pen) -> None:
    for y in (-0.68, -0.34, 0.0, 0.34, 0.68):
        pen.box(-0.4, y - 0.05, 0.4, y + 0.05)
    for x in (-0.5, 0.36):
        pen.box(x, -0.98, x + 0.14, 0.98)


THINGS: dict[str, Callable[[Pen], None]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "fish": _fish,
    "flower": _flower,
    "cup": _cup,
    "boat": _boat,
    "snowman": _snowman,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "key": _key,
    "cat": _cat,
    "lamp": _lamp,
    "chair": _chair,
    "book": _book,
    "balloon": _balloon,
    "crown": _crown,
    "ladder": _ladder,
}
"""Each thing and how it is drawn; none is named with a vowel in front, so that "a" always fits."""


def draw_thing(canvas: Canvas, thing: str, x: float, y: float, r: float, rng: Random) -> None:
    """Draws a thing in a colour of its own choice that stands out from the paper."""
    THINGS[thing](Pen(canvas, x, y, r, shade(rng.choice(["red", "orange", "green", "blue", "purple", "brown"]), rng)))
