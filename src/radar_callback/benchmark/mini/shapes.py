"""Plane shapes and the patterns that may fill them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from radar_callback.benchmark.mini.canvas import Canvas, Point, Rgb, darker


def _regular(corners: int, turn: float = -90.0) -> list[Point]:
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> list[Point]:
    angles = [math.radians(-90 + 36 * i) for i in range(10)]
    return [(math.cos(a) * r, math.sin(a) * r) for a, r in zip(angles, [1.1, 0.46] * 5, strict=True)]


def _heart() -> list[Point]:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    return [
        (
            0.061 * 16 * math.sin(t) ** 3,
            -0.061 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 0.12,
        )
        for t in turns
    ]


def _moon() -> list[Point]:
    outer = [math.radians(45 + 270 * i / 40) for i in range(41)]
    inner = [math.radians(285 - 210 * i / 40) for i in range(41)]
    tip_x = math.cos(math.radians(45))
    radius = math.sin(math.radians(45)) / math.sin(math.radians(75))
    shift = tip_x - radius * math.cos(math.radians(75))
    rim = [(math.cos(a), math.sin(a)) for a in outer]
    hollow = [(shift + radius * math.cos(a), radius * math.sin(a)) for a in inner]
    return [(x + 0.2, y) for x, y in rim + hollow[1:-1]]


def _cross(arm: float = 0.34) -> list[Point]:
    a, b = arm, 0.98
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


OUTLINES: dict[str, list[Point]] = {
    "circle": _regular(64),
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0.0, -0.98), (1.0, 0.78), (-1.0, 0.78)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.1), (0.72, 0.0), (0.0, 1.1), (-0.72, 0.0)],
    "cross": _cross(),
    "moon": _moon(),
}
"""Corners of each shape, drawn about the origin with a radius near one."""

SHAPES = tuple(OUTLINES)


def plural(shape: str) -> str:
    """`star` -> `stars`, `cross` -> `crosses`."""
    return shape + ("es" if shape.endswith("s") else "s")


def outline(shape: str, x: float, y: float, r: float, turn: float = 0.0) -> list[Point]:
    """Corners of a shape of radius `r` around (x, y), turned by `turn` degrees clockwise."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(x + r * (px * cos - py * sin), y + r * (px * sin + py * cos)) for px, py in OUTLINES[shape]]


def draw_shape(canvas: Canvas, shape: str, x: float, y: float, r: float, colour: Rgb, turn: float = 0.0) -> None:
    """Draws a filled shape with a darker outline."""
    canvas.polygon(outline(shape, x, y, r, turn), colour, darker(colour), max(0.006, r * 0.07))


def _striped(canvas: Canvas, x: float, y: float, r: float, colour: Rgb, rng: Random) -> None:
    dx, dy = rng.choice([(0.0, 1.0), (1.0, 0.0), (0.7, 0.7), (-0.7, 0.7)])
    for step in range(-3, 4):
        cx, cy = x + dx * step * r * 0.5, y + dy * step * r * 0.5
        canvas.line([(cx - dy * 1.6 * r, cy + dx * 1.6 * r), (cx + dy * 1.6 * r, cy - dx * 1.6 * r)], colour, r * 0.23)


def _dotted(canvas: Canvas, x: float, y: float, r: float, colour: Rgb, rng: Random) -> None:
    shift = rng.uniform(-0.1, 0.1)
    for row in range(-3, 4):
        for column in range(-3, 4):
            cx = x + (column + 0.5 * (row % 2) + shift) * r * 0.46
            canvas.ellipse(cx, y + row * r * 0.42, r * 0.13, r * 0.13, colour)


def _checked(canvas: Canvas, x: float, y: float, r: float, colour: Rgb, rng: Random) -> None:
    cell, odd = r * 0.37, rng.randrange(2)
    for row in range(-4, 4):
        for column in range(-4, 4):
            if (row + column) % 2 == odd:
                left, top = x + column * cell, y + row * cell
                canvas.rectangle(left, top, left + cell, top + cell, colour)


def _wavy(canvas: Canvas, x: float, y: float, r: float, colour: Rgb, rng: Random) -> None:
    phase = rng.uniform(0, 2 * math.pi)
    for step in range(-3, 4):
        wave = [
            (x + r * (i / 12 - 1.4), y + r * (step * 0.52 + 0.15 * math.sin(2 * math.pi * i / 9 + phase)))
            for i in range(34)
        ]
        canvas.line(wave, colour, r * 0.15)


PATTERNS: dict[str, Callable[[Canvas, float, float, float, Rgb, Random], None] | None] = {
    "plain": None,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "wavy": _wavy,
}
"""What may cover a shape; the marks scale with it."""


def draw_patterned(
    canvas: Canvas,
    shape: str,
    x: float,
    y: float,
    r: float,
    colour: Rgb,
    pattern: str,
    marks: Rgb,
    rng: Random,
    turn: float = 0.0,
) -> None:
    """Draws a shape in one colour covered with a pattern in another."""
    draw_shape(canvas, shape, x, y, r, colour, turn)
    paint = PATTERNS[pattern]
    if paint is not None:
        corners = outline(shape, x, y, r, turn)
        canvas.masked(corners, lambda: paint(canvas, x, y, r, marks, rng))
        canvas.polygon(corners, None, darker(colour), r * 0.07)


def places(rng: Random, radii: Sequence[float], margin: float = 0.03, gap: float = 0.03) -> list[Point]:
    """Puts discs of the given radii on the canvas so that none touches another or the edge.

    Raises:
        ValueError: If they do not fit after many tries; radii are chosen by the caller, so that is a mistake in a drawing.
    """
    for _ in range(200):
        found: list[Point] = []
        for r in radii:
            for _ in range(40):
                x = rng.uniform(margin + r, 1 - margin - r)
                y = rng.uniform(margin + r, 1 - margin - r)
                if all(math.hypot(x - px, y - py) > r + pr + gap for (px, py), pr in zip(found, radii, strict=False)):
                    found.append((x, y))
                    break
            else:
                break
        if len(found) == len(radii):
            return found
    raise ValueError(f"Expected discs that fit on the canvas, but {list(radii)} do not: draw them smaller.")
