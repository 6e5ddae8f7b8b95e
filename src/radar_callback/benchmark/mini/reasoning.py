"""The reasoning group: every candidate is in the picture or could be; the answer has to be worked out from what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from radar_callback.benchmark.mini.canvas import COLOURS, INK, Canvas, Rgb, darker, mix, shade
from radar_callback.benchmark.mini.items import Ability, Facts, Problem, Slots, Task
from radar_callback.benchmark.mini.perception import NUMBERS, neighbours, one_of, other_than, rounded, shape_slot, some
from radar_callback.benchmark.mini.shapes import SHAPES, draw_patterned, draw_shape, places, plural

WHITE: Rgb = (255, 255, 255)
GRID: Rgb = (205, 205, 210)
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours that nobody mixes up side by side in bars and slices."""

SIDES = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def _relation(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    # All four candidates are around the pivot, so that only the relation tells them apart; the whole may lie off-centre.
    x, y, reach = rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56), rng.uniform(0.29, 0.32)
    wanted = SIDES[asked.slots["side"]]
    free = [side for side in SIDES.values() if side != wanted]
    rng.shuffle(free)
    around = dict(zip([answer, *asked.others(answer)], [wanted, *free], strict=True))
    where = {asked.slots["pivot"]: (x, y)}
    for shape, (dx, dy) in around.items():
        where[shape] = x + dx * reach + rng.uniform(-0.02, 0.02), y + dy * reach + rng.uniform(-0.02, 0.02)
    for shape, at in where.items():
        draw_shape(canvas, shape, *at, rng.uniform(0.095, 0.115), shade(rng.choice(list(COLOURS)), rng))
    return {"at": {shape: rounded(*at) for shape, at in where.items()}}


def _relation_slots(rng: Random, candidates: Sequence[str]) -> Slots:
    side = rng.choice(list(SIDES))
    return {"pivot": other_than(rng, SHAPES, *candidates), "side": side, "Side": side.capitalize()}


def _two_sizes(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    big = rng.uniform(0.19, 0.25)
    small = big * rng.uniform(0.55, 0.72)
    mine, other = (big, small) if asked.slots["which"] == "bigger" else (small, big)
    where = places(rng, [mine, other])
    (wrong,) = asked.others(answer)
    for colour, (x, y), r in zip((answer, wrong), where, (mine, other), strict=True):
        draw_shape(canvas, asked.slots["shape"], x, y, r, shade(colour, rng), rng.uniform(-12, 12))
    return {"radii": {answer: round(mine, 3), wrong: round(other, 3)}}


def _two_bars(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    long = rng.uniform(0.55, 0.8)
    short = long * rng.uniform(0.5, 0.75)
    mine, other = (long, short) if asked.slots["which"] == "longer" else (short, long)
    (wrong,) = asked.others(answer)
    rows = [(answer, mine), (wrong, other)]
    rng.shuffle(rows)
    for top, (colour, length) in zip((0.22, 0.58), rows, strict=True):
        left = rng.uniform(0.06, 0.94 - length)
        fill = shade(colour, rng)
        canvas.rectangle(left, top, left + length, top + 0.18, fill, darker(fill))
    return {"lengths": {colour: round(length, 3) for colour, length in rows}}


def _two_counts(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    many = rng.randint(5, 6)
    few = many - rng.randint(2, 3)
    mine, other = (many, few) if asked.slots["which"] == "more" else (few, many)
    (wrong,) = asked.others(answer)
    radii = [0.085] * (mine + other)
    colours = {plural(shape): shade(rng.choice(list(COLOURS)), rng) for shape in SHAPES}
    for i, (x, y) in enumerate(places(rng, radii)):
        name = answer if i < mine else wrong
        draw_shape(canvas, _singular(name), x, y, radii[i], colours[name], rng.uniform(-12, 12))
    return {"counts": {answer: mine, wrong: other}}


def _singular(name: str) -> str:
    return next(shape for shape in SHAPES if plural(shape) == name)


def _which(*words: str) -> Callable[[Random, Sequence[str]], Slots]:
    """Draws which of two opposites is asked for, and names a shape for those phrasings that want one."""
    return lambda rng, candidates: {"which": rng.choice(words), **shape_slot(rng, candidates)}


def _dice(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    total = NUMBERS.index(answer)
    first = rng.randint(max(1, total - 6), min(6, total - 1))
    faces = (first, total - first)
    for x, eyes in zip((0.26, 0.74), faces, strict=True):
        _die(canvas, x + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.15, 0.15), rng.uniform(0.17, 0.2), eyes)
    return {"dice": list(faces)}


def _die(canvas: Canvas, x: float, y: float, r: float, eyes: int) -> None:
    canvas.rectangle(x - r, y - r, x + r, y + r, WHITE, INK, 0.016)
    middle, corners = [(0, 0)], [(-1, -1), (1, 1), (1, -1), (-1, 1), (-1, 0), (1, 0)]
    for dx, dy in middle * (eyes % 2) + corners[: eyes // 2 * 2]:
        canvas.ellipse(x + dx * r * 0.56, y + dy * r * 0.56, r * 0.17, r * 0.17, INK)


def _written_sum(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    total = NUMBERS.index(answer)
    if rng.random() < 0.5:
        first = rng.randint(1, total - 1)
        sign, second = "+", total - first
    else:
        second = rng.randint(1, 12 - min(total, 11))
        sign, first = "-", total + second
    written = f"{first} {sign} {second}"
    y = rng.uniform(0.35, 0.65)
    canvas.rectangle(0.05, y - 0.24, 0.95, y + 0.24, (56, 88, 74), (134, 94, 62), 0.03)
    canvas.text(0.5, y, f"{written} =", 0.2 if len(written) < 7 else 0.17, WHITE)
    return {"sum": written}


def _bars(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    # The other bars have the other candidates' heights: each number is the height of some bar.
    colours = [asked.slots["colour"], *rng.sample([c for c in BRIGHT if c != asked.slots["colour"]], 3)]
    others = asked.others(answer)
    rng.shuffle(others)
    bars = list(zip(colours, [answer, *others], strict=True))
    rng.shuffle(bars)
    left, right, floor, unit = 0.15, 0.95, 0.9, 0.138
    canvas.rectangle(left, floor - 6.2 * unit, right, floor, WHITE)
    for value in range(7):
        y = floor - value * unit
        canvas.line([(left, y), (right, y)], GRID if value else INK, 0.008)
        canvas.text(0.075, y, str(value), 0.095)
    canvas.line([(left, floor), (left, floor - 6.2 * unit)], INK, 0.01)
    step = (right - left) / 4
    heights = {colour: NUMBERS.index(word) for colour, word in bars}
    for i, (colour, height) in enumerate(heights.items()):
        x, fill = left + step * (i + 0.5), shade(colour, rng)
        canvas.rectangle(x - 0.065, floor - height * unit, x + 0.065, floor, fill, darker(fill), 0.008)
    return {"bars": heights}


def _bar_slots(rng: Random, candidates: Sequence[str]) -> Slots:
    return {"colour": rng.choice(BRIGHT)}


def _pie(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    largest = asked.slots["which"] == "largest"
    share = rng.uniform(0.4, 0.46) if largest else rng.uniform(0.08, 0.11)
    rest = [rng.uniform(0.9, 1.1) for _ in range(3)]
    shares = [share, *((1 - share) * part / sum(rest) for part in rest)]
    slices = list(zip([answer, *asked.others(answer)], shares, strict=True))
    rng.shuffle(slices)
    angle = rng.uniform(0, 360)
    x, y, r = 0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05), rng.uniform(0.36, 0.42)
    for colour, part in slices:
        canvas.slice(x, y, r, angle, angle + 360 * part, shade(colour, rng))
        angle += 360 * part
    return {"shares": {colour: round(part, 3) for colour, part in slices}}


def _sequence(canvas: Canvas, rng: Random, cells: Sequence[tuple[str, str]]) -> None:
    # `cells` are (shape, colour); the last place is the one to be guessed.
    n, y = len(cells) + 1, rng.uniform(0.35, 0.65)
    step = 0.94 / n
    canvas.rectangle(0.015, y - step * 0.8, 0.985, y + step * 0.8, WHITE, GRID, 0.008)
    for i, (shape, colour) in enumerate(cells):
        draw_shape(canvas, shape, 0.03 + step * (i + 0.5), y, step * 0.39, shade(colour, rng))
    x = 0.03 + step * (n - 0.5)
    canvas.rectangle(x - step * 0.44, y - step * 0.62, x + step * 0.44, y + step * 0.62, (232, 232, 236), INK, 0.008)
    canvas.text(x, y, "?", step * 1.0)


def _periodic(rng: Random, answer: str, others: Sequence[str]) -> list[str]:
    """Five or six things in a pattern of period two or three that `answer` continues."""
    b, c = rng.sample(list(others), 2)
    period = rng.choice([[answer, b], [answer, b, c], [answer, b, b], [answer, answer, b], [answer, b, answer]])
    shown = rng.choice([5, 6])
    # Index `shown` has to be the first of the period, so count backwards from there.
    return [period[(i - shown) % len(period)] for i in range(shown)]


def _next_shape(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    row = _periodic(rng, answer, asked.others(answer))
    colour = rng.choice(list(COLOURS))
    _sequence(canvas, rng, [(shape, colour) for shape in row])
    return {"row": row}


def _next_colour(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    row = _periodic(rng, answer, asked.others(answer))
    _sequence(canvas, rng, [(asked.slots["shape"], colour) for colour in row])
    return {"row": row}


SYMMETRY = (("symmetric", "asymmetric"), ("mirrored", "mismatched"))


def _symmetry(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    rows, half = 6, 3
    marks = "ab" if rng.random() < 0.5 else "a"
    left = [[rng.choice("." + marks) for _ in range(half)] for _ in range(rows)]
    right = [row[::-1] for row in left]
    if answer not in {pair[0] for pair in SYMMETRY}:
        for place in rng.sample(range(rows * half), rng.randint(6, 8)):
            row, column = divmod(place, half)
            right[row][column] = rng.choice([mark for mark in "." + marks if mark != right[row][column]])
    grid = ["".join(a + b) for a, b in zip(left, right, strict=True)]
    colours = dict(zip("ab", rng.sample(["red", "blue", "green", "purple", "orange", "black"], 2), strict=True))
    cell = rng.uniform(0.12, 0.145)
    x0, y0 = 0.5 - cell * half, 0.5 - cell * rows / 2 + rng.uniform(-0.04, 0.04)
    canvas.rectangle(x0, y0, x0 + cell * 2 * half, y0 + cell * rows, WHITE, GRID, 0.01)
    for i, row_marks in enumerate(grid):
        for j, mark in enumerate(row_marks):
            if mark != ".":
                x, y = x0 + j * cell, y0 + i * cell
                canvas.rectangle(x, y, x + cell, y + cell, COLOURS[colours[mark]], WHITE, 0.006)
    canvas.line([(0.5, y0 - 0.03), (0.5, y0 + cell * rows + 0.03)], INK, 0.008)
    return {"grid": grid}


def _odd_spots(rng: Random) -> list[tuple[float, float]]:
    spots = [(x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)) for x in (0.27, 0.73) for y in (0.27, 0.73)]
    rng.shuffle(spots)
    return spots


def _odd_colour(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    # Four colours; what makes one of the four odd is its shape or its size.
    usual, unusual = rng.sample(SHAPES, 2)
    by = rng.choice(["shape", "size"])
    sizes = rng.choice([(0.2, 0.1), (0.1, 0.19)]) if by == "size" else (0.16, 0.16)
    shown = []
    for colour, (x, y) in zip([answer, *asked.others(answer)], _odd_spots(rng), strict=True):
        odd = colour == answer
        shape = unusual if odd and by == "shape" else usual
        r = sizes[0] if odd else sizes[1]
        draw_shape(canvas, shape, x, y, r, shade(colour, rng))
        shown.append([colour, shape, r, "plain"])
    return {"odd_by": by, "objects": shown}


def _odd_shape(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    # Four shapes; what makes one of the four odd is its colour or its pattern.
    usual, unusual = rng.sample(["red", "yellow", "green", "blue", "purple", "pink"], 2)
    by = rng.choice(["colour", "pattern"])
    pattern = rng.choice(["striped", "dotted", "checked"])
    shown = []
    for shape, (x, y) in zip([answer, *asked.others(answer)], _odd_spots(rng), strict=True):
        odd = shape == answer
        colour = unusual if odd and by == "colour" else usual
        worn = pattern if odd and by == "pattern" else "plain"
        draw_patterned(canvas, shape, x, y, 0.17, shade(colour, rng), worn, mix(COLOURS["black"], WHITE, 0.1), rng)
        shown.append([colour, shape, 0.17, worn])
    return {"odd_by": by, "objects": shown}


Block = tuple[float, float, float, float]
"""left, top, right, bottom"""

STANDING = (("stand", "fall"), ("stay up", "fall over"), ("stay standing", "tip over"))


def _margin(blocks: Sequence[Block]) -> float:
    """How far inside its support the worst-placed part of a tower rests, in widths of the support; negative if it tips."""
    worst = math.inf
    for i in range(len(blocks) - 1):
        above = blocks[i + 1 :]
        weights = [(right - left) * (bottom - top) for left, top, right, bottom in above]
        centre = sum(w * (b[0] + b[2]) / 2 for w, b in zip(weights, above, strict=True)) / sum(weights)
        low, high = max(blocks[i][0], blocks[i + 1][0]), min(blocks[i][2], blocks[i + 1][2])
        worst = min(
            worst, (centre - low) / (blocks[i][2] - blocks[i][0]), (high - centre) / (blocks[i][2] - blocks[i][0])
        )
    return worst


def _tower(rng: Random) -> list[Block]:
    x, floor, blocks = rng.uniform(0.42, 0.58), 0.88, list[Block]()
    for _ in range(rng.choice([3, 3, 4])):
        half, height = rng.uniform(0.11, 0.17), rng.uniform(0.12, 0.17)
        if blocks:
            x += rng.uniform(-0.17, 0.17)
        blocks.append((x - half, floor - height, x + half, floor))
        floor -= height
    return blocks


def _stability(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    stands = answer in {pair[0] for pair in STANDING}
    while True:
        blocks = _tower(rng)
        margin = _margin(blocks)
        touching = all(min(lower[2], upper[2]) - max(lower[0], upper[0]) > 0.05 for lower, upper in pairwise(blocks))
        staggered = any(abs(a[0] + a[2] - b[0] - b[2]) > 0.08 for a, b in pairwise(blocks))
        inside = all(block[0] > 0.04 and block[2] < 0.96 for block in blocks)
        if touching and inside and staggered and (margin > 0.2 if stands else margin < -0.12):
            break
    canvas.rectangle(0, 0.88, 1, 1, (172, 190, 150))
    for block in blocks:
        fill = shade(rng.choice(BRIGHT), rng)
        canvas.rectangle(*block, fill, darker(fill))
    return {"blocks": [[round(edge, 3) for edge in block] for block in blocks]}


HOURS = NUMBERS[1:]


def _clock(canvas: Canvas, rng: Random, asked: Problem, answer: str) -> Facts:
    half = answer.startswith("half past")
    hour = NUMBERS.index(answer.removeprefix("half past ").removesuffix(" o'clock"))
    x, y, r = 0.5 + rng.uniform(-0.03, 0.03), 0.5 + rng.uniform(-0.03, 0.03), rng.uniform(0.42, 0.45)
    canvas.ellipse(x, y, r, r, WHITE, shade(rng.choice(list(COLOURS)), rng), 0.03)
    for number in range(1, 13):
        angle = math.radians(30 * number - 90)
        canvas.text(x + 0.8 * r * math.cos(angle), y + 0.8 * r * math.sin(angle), str(number), 0.095)
    minute = math.radians(90 if half else -90)
    hand = math.radians(30 * (hour + half / 2) - 90)
    canvas.line([(x, y), (x + 0.64 * r * math.cos(minute), y + 0.64 * r * math.sin(minute))], INK, 0.02)
    canvas.line([(x, y), (x + 0.42 * r * math.cos(hand), y + 0.42 * r * math.sin(hand))], (196, 40, 40), 0.04)
    canvas.ellipse(x, y, 0.03, 0.03, INK)
    return {"hour": hour, "minute": 30 * half}


def _hours(rng: Random) -> Sequence[str]:
    form = rng.choice(["{} o'clock", "half past {}"])
    return [form.format(hour) for hour in rng.sample(HOURS, 4)]


REASONING: tuple[Ability, ...] = (
    Ability(
        "spatial_relation",
        "reasoning",
        4,
        [
            Task(
                ("The shape {side} the {pivot} is a", "{Side} the {pivot} is a", "{Side} the {pivot} there is a"),
                some(SHAPES, 4),
                _relation,
                _relation_slots,
            )
        ],
    ),
    Ability(
        "comparison",
        "reasoning",
        2,
        [
            Task(
                ("The {which} {shape} is", "The colour of the {which} {shape} is"),
                some(BRIGHT, 2),
                _two_sizes,
                _which("bigger", "smaller"),
            ),
            Task(
                ("The {which} bar is", "The colour of the {which} bar is"),
                some(BRIGHT, 2),
                _two_bars,
                _which("longer", "shorter"),
            ),
            Task(
                ("There are {which}", "The picture shows {which}"),
                some([plural(shape) for shape in SHAPES], 2),
                _two_counts,
                _which("more", "fewer"),
            ),
        ],
    ),
    Ability(
        "arithmetic",
        "reasoning",
        4,
        [
            Task(
                ("The sum of the dice is", "The two dice add up to", "Together the dice show"),
                neighbours(2, 12, 4),
                _dice,
            ),
            Task(("The result of the sum is", "On the board, the answer is"), neighbours(2, 12, 4), _written_sum),
        ],
    ),
    Ability(
        "chart_reading",
        "reasoning",
        4,
        [
            Task(
                ("In the chart, the value of the {colour} bar is", "The {colour} bar of the chart reaches"),
                neighbours(1, 6, 4),
                _bars,
                _bar_slots,
            ),
            Task(
                ("The {which} slice of the pie chart is", "In the chart, the {which} part is"),
                some(BRIGHT, 4),
                _pie,
                _which("largest", "smallest"),
            ),
        ],
    ),
    Ability(
        "sequence",
        "reasoning",
        4,
        [
            Task(("The next shape in the row is a", "After the last shape comes a"), some(SHAPES, 4), _next_shape),
            Task(
                ("The next {shape} in the row is", "The colour of the next {shape} is"),
                some(BRIGHT, 4),
                _next_colour,
                shape_slot,
            ),
        ],
    ),
    Ability(
        "symmetry",
        "reasoning",
        2,
        [
            Task(
                ("The pattern is", "The two halves of the pattern are", "Left and right of the line, the pattern is"),
                one_of(*SYMMETRY),
                _symmetry,
            )
        ],
    ),
    Ability(
        "odd_one_out",
        "reasoning",
        4,
        [
            Task(
                ("The odd one out is", "The shape that does not belong is", "The one that differs from the others is"),
                some(BRIGHT, 4),
                _odd_colour,
            ),
            Task(
                ("The odd one out is the", "The shape that does not belong is the", "The one that differs is the"),
                some(SHAPES, 4),
                _odd_shape,
            ),
        ],
    ),
    Ability(
        "physical_stability",
        "reasoning",
        2,
        [
            Task(
                (
                    "The tower will",
                    "The tower of blocks will",
                    "When let go, the tower of blocks will",
                    "The blocks will",
                ),
                one_of(*STANDING),
                _stability,
            )
        ],
    ),
    Ability(
        "clock_reading",
        "reasoning",
        4,
        [Task(("The clock shows", "The time on the clock is", "By the clock it is"), _hours, _clock)],
    ),
)
