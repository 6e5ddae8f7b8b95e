"""Drawn scenes for a small model to learn from: single shapes, groups, pairs and things, in good and bad pictures.

They come from the same paint box as radar-mini, as photographs for training and for testing come from the same world, but none
is one of its items: scenes have their own random stream, are composed in their own way, and know no question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image

from radar_callback.benchmark.mini.canvas import COLOURS, Canvas, shade
from radar_callback.benchmark.mini.objects import THINGS, draw_thing
from radar_callback.benchmark.mini.perception import PLACES, QUALITIES, SIZES, quality_filters
from radar_callback.benchmark.mini.shapes import SHAPES, draw_shape, places

SMALL, LARGE = 0.12, 0.31
"""Radius up to which a figure is called small, and from which it is called large; in between nobody would say."""


@dataclass(frozen=True)
class Figure:
    """One shape in a scene.

    Attributes:
        name: Its shape.
        colour: Its colour.
        size: A word for its size, where one would be used.
        x: Centre.
        y: Centre.
        r: Radius.
    """

    name: str
    colour: str
    size: str | None
    x: float
    y: float
    r: float

    @property
    def place(self) -> str | None:
        """The corner or edge it is at, or None in the middle and in between."""
        name, (x, y) = min(PLACES.items(), key=lambda entry: math.dist(entry[1], (self.x, self.y)))
        return name if math.dist((x, y), (self.x, self.y)) < 0.11 else None


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: The picture, RGB.
        figures: All shapes in it.
        quality: A word for the quality of the picture.
        thing: What it shows if it shows no shapes: a house, a cat.
    """

    image: Image.Image
    figures: tuple[Figure, ...]
    quality: str
    thing: str | None = None


def draw_scene(rng: Random, side: int) -> Scene:
    """Draws one scene.

    Args:
        rng: Decides everything.
        side: Pixels of the picture.
    """
    canvas = Canvas(rng, side, oversample=3)
    kind = rng.choices([_solo, _group, _pair, None], weights=[12, 2, 3, 6])[0]
    figures = kind(rng) if kind else ()
    for figure in figures:
        _draw(canvas, rng, figure)
    thing = None if kind else _thing(canvas, rng)
    quality = rng.choice(QUALITIES) if rng.random() < 0.2 else "clear"
    canvas.finish(quality_filters(rng)[quality])
    return Scene(canvas.image(), figures, quality, thing)


def _thing(canvas: Canvas, rng: Random) -> str:
    name, r = rng.choice(list(THINGS)), rng.uniform(0.24, 0.42)
    ((x, y),) = places(rng, [r])
    draw_thing(canvas, name, x, y, r, rng)
    return name


def _draw(canvas: Canvas, rng: Random, figure: Figure) -> None:
    fill = shade(figure.colour, rng)
    draw_shape(canvas, figure.name, figure.x, figure.y, figure.r, fill, rng.uniform(-15, 15))


def _figure(rng: Random, name: str, x: float, y: float, r: float) -> Figure:
    size = None
    if r <= SMALL or r >= LARGE:
        size = rng.choice(SIZES)[r >= LARGE]
    return Figure(name, rng.choice(list(COLOURS)), size, x, y, r)


def _solo(rng: Random) -> tuple[Figure, ...]:
    low, high = rng.choices([(0.2, 0.33), (LARGE, 0.42), (0.07, SMALL), (0.11, 0.16)], weights=[9, 3, 3, 6])[0]
    r = rng.uniform(low, high)
    ((x, y),) = places(rng, [r])
    if r < 0.2 and rng.random() < 0.85:
        x, y = (at + rng.uniform(-0.06, 0.06) for at in rng.choice(list(PLACES.values())))
    return (_figure(rng, rng.choice(SHAPES), x, y, r),)


def _group(rng: Random) -> tuple[Figure, ...]:
    number, decoys = rng.randint(2, 6), rng.choice([0, 0, 0, 1, 2])
    shape, decoy = rng.sample(SHAPES, 2)
    # Eight of the largest would not fit on the canvas.
    radii = [rng.uniform(0.085, 0.13 if number + decoys < 7 else 0.11) for _ in range(number + decoys)]
    names = [shape] * number + [decoy] * decoys
    colours = rng.sample(list(COLOURS), rng.choice([1, 1, 1, 2]))
    figures = (
        Figure(name, rng.choice(colours), None, x, y, r)
        for name, (x, y), r in zip(names, places(rng, radii), radii, strict=True)
    )
    return tuple(figures)


def _pair(rng: Random) -> tuple[Figure, ...]:
    """Two shapes: as large as each other, each at a place that has a name, or one that catches the eye and one beside it."""
    if rng.random() < 0.6:
        radii = [rng.uniform(0.11, 0.16) for _ in range(2)]
        where = rng.sample(list(PLACES.values()), 2)
    else:
        radii = [rng.uniform(0.2, 0.33), rng.uniform(0.1, 0.14)]
        where = places(rng, radii)
    return tuple(
        _figure(rng, name, x, y, r) for name, (x, y), r in zip(rng.sample(SHAPES, 2), where, radii, strict=True)
    )
