"""The perception group: what a picture shows, with nothing to be worked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from PIL import Image, ImageFilter

from radar_callback.benchmark.mini.canvas import COLOURS, INK, Canvas, darker, shade
from radar_callback.benchmark.mini.items import Ability, Facts, Problem, Slots, Task
from radar_callback.benchmark.mini.objects import THINGS, draw_thing
from radar_callback.benchmark.mini.shapes import PATTERNS, SHAPES, draw_patterned, draw_shape, places, plural

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

SIZES = (("small", "large"), ("tiny", "huge"), ("little", "big"))

CORNERS = {
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
EDGES = {"top": (0.5, 0.2), "bottom": (0.5, 0.8), "left": (0.2, 0.5), "right": (0.8, 0.5)}
PLACES = {**CORNERS, **EDGES}

WORDS = (
    ("bus", "cat", "cup", "dog", "fox", "hat", "jam", "map", "pen", "sun"),
    ("bird", "boat", "book", "fish", "gold", "milk", "moon", "rain", "ship", "tree"),
    ("bread", "chair", "cloud", "green", "house", "light", "music", "river", "stone", "water"),
)
"""Words for signs, in rows of one length, so that the length of a candidate tells nothing."""

Filter = Callable[[Image.Image], Image.Image]


def some(pool: Sequence[str], k: int) -> Callable[[Random], Sequence[str]]:
    """Draws K candidates from a pool."""
    return lambda rng: rng.sample(pool, k)


def one_of(*sets: Sequence[str]) -> Callable[[Random], Sequence[str]]:
    """Draws one of several candidate sets."""
    return lambda rng: rng.choice(sets)


def neighbours(low: int, high: int, k: int) -> Callable[[Random], Sequence[str]]:
    """Draws K number words in a row, so that every distractor is a near miss."""

    def draw(rng: Random) -> Sequence[str]:
        first = rng.randint(low, high - k + 1)
        return NUMBERS[first : first + k]

    return draw


def shape_slot(rng: Random, candidates: Sequence[str]) -> Slots:
    """Names a shape in the question, singular and plural."""
    shape = rng.choice(SHAPES)
    return {"shape": shape, "shapes": plural(shape)}


def colour_slot(rng: Random, candidates: Sequence[str]) -> Slots:
    """Names a colour in the question, alone and with its article."""
    colour = rng.choice(list(COLOURS))
    return {"colour": colour, "a_colour": f"an {colour}" if colour[0] in "aeiou" else f"a {colour}"}


def other_than(rng: Random, pool: Sequence[str], *taken: str) -> str:
    """Picks from a pool what is not taken."""
    return rng.choice([name for name in pool if name not in taken])


def _colour(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    shape = asked.slots["shape"]
    radii = [rng.uniform(0.2, 0.33)] + [rng.uniform(0.1, 0.14)] * rng.choice([0, 0, 1])
    where = places(rng, radii)
    draw_shape(canvas, shape, *where[0], radii[0], shade(answer, rng), rng.uniform(-15, 15))
    facts: Facts = {"at": rounded(*where[0]), "r": round(radii[0], 3)}
    if len(where) > 1:
        decoy, colour = other_than(rng, SHAPES, shape), rng.choice(asked.others(answer))
        draw_shape(canvas, decoy, *where[1], radii[1], shade(colour, rng))
        facts["beside"] = f"{colour} {decoy}"
    return facts


def _shape(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    colour = asked.slots["colour"]
    r = rng.uniform(0.2, 0.34)
    ((x, y),) = places(rng, [r], margin=0.05)
    draw_shape(canvas, answer, x, y, r, shade(colour, rng), rng.uniform(-12, 12))
    return {"at": rounded(x, y), "r": round(r, 3)}


def _size(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    big = answer in {pair[1] for pair in SIZES}
    r = rng.uniform(0.34, 0.42) if big else rng.uniform(0.07, 0.105)
    ((x, y),) = places(rng, [r], margin=0.06)
    draw_shape(canvas, asked.slots["shape"], x, y, r, shade(asked.slots["colour"], rng), rng.uniform(-12, 12))
    return {"at": rounded(x, y), "r": round(r, 3)}


def _size_slots(rng: Random, candidates: Sequence[str]) -> Slots:
    return {**shape_slot(rng, candidates), **colour_slot(rng, candidates)}


def _count(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    shape, number = asked.slots["shape"], NUMBERS.index(answer)
    decoys = rng.choice([0, 0, 1, 2])
    radii = [rng.uniform(0.095, 0.125) for _ in range(number + decoys)]
    where = places(rng, radii, margin=0.04)
    colours = rng.sample(list(COLOURS), 2) if rng.random() < 0.5 else [rng.choice(list(COLOURS))] * 2
    decoy = other_than(rng, SHAPES, shape)
    for i, ((x, y), r) in enumerate(zip(where, radii, strict=True)):
        name, colour = (shape, rng.choice(colours)) if i < number else (decoy, rng.choice(list(COLOURS)))
        draw_shape(canvas, name, x, y, r, shade(colour, rng), rng.uniform(-12, 12))
    return {shape: number, decoy: decoys, "at": [rounded(*at) for at in where[:number]]}


def _position(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    shape, (x, y) = asked.slots["shape"], PLACES[answer]
    x, y, r = x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05), rng.uniform(0.11, 0.15)
    facts: Facts = {"at": rounded(x, y)}
    if rng.random() < 0.4:
        decoy, other = other_than(rng, SHAPES, shape), rng.choice(asked.others(answer))
        draw_shape(canvas, decoy, *PLACES[other], rng.uniform(0.1, 0.14), shade(rng.choice(list(COLOURS)), rng))
        facts[decoy] = other
    draw_shape(canvas, shape, x, y, r, shade(rng.choice(list(COLOURS)), rng), rng.uniform(-12, 12))
    return facts


def _texture(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    r = rng.uniform(0.3, 0.38)
    ((x, y),) = places(rng, [r], margin=0.05)
    light = rng.random() < 0.5
    bright, dim = rng.choice(["yellow", "pink"]), rng.choice(["blue", "green", "purple", "brown", "black", "red"])
    fill, marks = (shade(bright, rng), shade(dim, rng)) if light else (shade(dim, rng), (252, 250, 244))
    draw_patterned(canvas, asked.slots["shape"], x, y, r, fill, answer, marks, rng, rng.uniform(-12, 12))
    return {"at": rounded(x, y), "r": round(r, 3)}


def _text(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    upper = rng.random() < 0.5
    height = {3: 0.36, 4: 0.29, 5: 0.25}[len(answer)] * rng.uniform(0.9, 1.05) * (0.82 if upper else 1.0)
    x, y = 0.5 + rng.uniform(-0.02, 0.02), rng.uniform(0.3, 0.7)
    board = shade(rng.choice(["blue", "green", "red", "purple", "brown", "black", "yellow"]), rng)
    pale = sum(board) > 380
    canvas.rectangle(x - 0.06, y, x + 0.06, 1.0, (150, 112, 80), (100, 72, 50))
    canvas.rectangle(x - 0.45, y - 0.21, x + 0.45, y + 0.21, board, darker(board), 0.016)
    canvas.text(x, y, answer.upper() if upper else answer, height, INK if pale else (252, 252, 252))
    return {"upper_case": upper}


def _grainy(image: Image.Image, seed: int) -> Image.Image:
    # Grain of four pixels: it survives scaling down, and costs a tenth of what single-pixel noise does in a PNG.
    rng, cells = Random(seed), min(56, image.width)
    grain = Image.frombytes(
        "L", (cells, cells), bytes(rng.choice((0, 64, 128, 128, 192, 255)) for _ in range(cells * cells))
    )
    layer = grain.resize(image.size, Image.Resampling.NEAREST).convert("RGB")
    return Image.blend(image, layer, 0.45)


def _blocky(image: Image.Image) -> Image.Image:
    return image.reduce(image.width // 14).resize(image.size, Image.Resampling.NEAREST)


def _darkened(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value * 0.22)


def _faded(image: Image.Image) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, (226, 226, 226)), 0.78)


def quality_filters(rng: Random) -> dict[str, Filter]:
    """What each word for the quality of a picture does to it."""
    return {
        "clear": lambda image: image,
        "blurry": lambda image: image.filter(ImageFilter.GaussianBlur(image.width * 0.055)),
        "grainy": partial(_grainy, seed=rng.randrange(2**32)),
        "pixelated": _blocky,
        "dark": _darkened,
        "faded": _faded,
    }


QUALITIES = ("clear", "blurry", "grainy", "pixelated", "dark", "faded")


def _quality(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    shown = draw_any(canvas, rng)
    canvas.finish(quality_filters(rng)[answer])
    return {"shows": shown}


def draw_any(canvas: Canvas, rng: Random) -> list[str]:
    """Fills a picture with two or three things or shapes of no importance, some of them black-edged and strong in colour."""
    radii = [rng.uniform(0.17, 0.23) for _ in range(rng.choice([2, 2, 3]))]
    shown = []
    for (x, y), r in zip(places(rng, radii), radii, strict=True):
        if rng.random() < 0.5:
            name = rng.choice(list(THINGS))
            draw_thing(canvas, name, x, y, r, rng)
        else:
            name = rng.choice(SHAPES)
            draw_shape(canvas, name, x, y, r, shade(rng.choice(list(COLOURS)), rng), rng.uniform(-12, 12))
        shown.append(name)
    return shown


def _object(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    r = rng.uniform(0.28, 0.4)
    ((x, y),) = places(rng, [r], margin=0.04)
    draw_thing(canvas, answer, x, y, r, rng)
    return {"at": rounded(x, y), "r": round(r, 3)}


def rounded(x: float, y: float) -> list[float]:
    """A place, short enough for the facts of an item."""
    return [round(x, 3), round(y, 3)]


PERCEPTION: tuple[Ability, ...] = (
    Ability(
        "colour",
        "perception",
        4,
        [
            Task(
                ("The {shape} is", "The colour of the {shape} is", "The {shape} in the picture is"),
                some(tuple(COLOURS), 4),
                _colour,
                shape_slot,
            )
        ],
    ),
    Ability(
        "shape",
        "perception",
        4,
        [
            Task(
                (
                    "The shape is a",
                    "The picture shows {a_colour}",
                    "The shape in the picture is a",
                    "The {colour} shape is a",
                ),
                some(SHAPES, 4),
                _shape,
                colour_slot,
            )
        ],
    ),
    Ability(
        "size",
        "perception",
        2,
        [
            Task(
                (
                    "The {colour} {shape} is",
                    "The {shape} is",
                    "The {shape} in the picture is",
                    "The size of the {shape} is",
                ),
                one_of(*SIZES),
                _size,
                _size_slots,
            )
        ],
    ),
    Ability(
        "count",
        "perception",
        4,
        [
            Task(
                (
                    "The number of {shapes} is",
                    "The number of {shapes} in the picture is",
                    "In the picture, the {shapes} number",
                ),
                neighbours(2, 6, 4),
                _count,
                shape_slot,
            )
        ],
    ),
    Ability(
        "position",
        "perception",
        4,
        [
            Task(
                ("The {shape} is at the", "In the picture, the {shape} is at the"),
                one_of(tuple(CORNERS), tuple(EDGES)),
                _position,
                shape_slot,
            )
        ],
    ),
    Ability(
        "texture",
        "perception",
        4,
        [
            Task(
                ("The {shape} is", "The pattern of the {shape} is", "The {shape} in the picture is"),
                some(tuple(PATTERNS), 4),
                _texture,
                shape_slot,
            )
        ],
    ),
    Ability(
        "text",
        "perception",
        4,
        [
            Task(
                ("The sign says", "The word on the sign is", "The text in the picture reads"),
                lambda rng: rng.sample(rng.choice(WORDS), 4),
                _text,
            )
        ],
    ),
    Ability(
        "image_quality",
        "perception",
        4,
        [Task(("The picture is", "The image is", "The image looks"), some(QUALITIES, 4), _quality)],
    ),
    Ability(
        "object",
        "perception",
        4,
        [
            Task(
                ("The picture shows a", "This is a picture of a", "There is a", "In the picture there is a"),
                some(tuple(THINGS), 4),
                _object,
            )
        ],
    ),
)
