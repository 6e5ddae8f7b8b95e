"""The answer of each item, found again by other means: from its pixels where they tell, else from the facts noted with it."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from radar_callback.benchmark.mini.canvas import COLOURS
from radar_callback.benchmark.mini.perception import NUMBERS
from radar_callback.benchmark.mini.shapes import outline, plural
from radar_callback.benchmark.sample import decode_image

PALETTE = np.array(list(COLOURS.values()), dtype=float)
NAMES = np.array(list(COLOURS))


def of(mini, ability, question=""):
    found = [sample for sample in mini if sample.ability == ability and question in sample.question]
    assert found
    return found


def pixels(sample) -> np.ndarray:
    return np.asarray(decode_image(sample.images[0], sample.key), dtype=float)


def foreground(picture: np.ndarray) -> np.ndarray:
    """Where it is not paper: papers are pale, shapes are strong in colour or dark."""
    spread = picture.max(2) - picture.min(2)
    return (spread > 60) | (picture.max(2) < 170)


def named(colours: np.ndarray) -> np.ndarray:
    """The nearest colour name of each row; outlines, darker than any fill, vote too but are few."""
    return NAMES[np.linalg.norm(colours[:, None] - PALETTE[None], axis=2).argmin(1)]


def disc(x: float, y: float, r: float, side: int = 224) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] / side
    return np.hypot(columns - x, rows - y) <= r


def commonest(values) -> str:
    return Counter(values).most_common(1)[0][0]


def patches(mask: np.ndarray, least: int = 8) -> int:
    """Number of connected patches of a mask, specks along edges left out."""
    left = set(map(tuple, np.argwhere(mask[::2, ::2]).tolist()))
    count = 0
    while left:
        size, edge = 0, [left.pop()]
        while edge:
            y, x = edge.pop()
            size += 1
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    edge.append(neighbour)
        count += size >= least
    return count


def test_colour(mini):
    for s in of(mini, "colour"):
        picture = pixels(s)
        inside = foreground(picture) & disc(*s.meta["at"], s.meta["r"])
        assert commonest(named(picture[inside])) == s.answer, s.key


def test_shape(mini):
    for s in of(mini, "shape"):
        seen = foreground(pixels(s))
        (x, y), r = s.meta["at"], s.meta["r"]
        distance = {}
        for shape in s.candidates:
            fits = []
            for turn in (-12, -6, 0, 6, 12):
                drawn = Image.new("1", (224, 224))
                ImageDraw.Draw(drawn).polygon([(224 * a, 224 * b) for a, b in outline(shape, x, y, r, turn)], fill=1)
                fits.append(np.count_nonzero(np.asarray(drawn) != seen))
            distance[shape] = min(fits)
        assert min(distance, key=distance.get) == s.answer, s.key


def test_size(mini):
    for s in of(mini, "size"):
        across = math.sqrt(foreground(pixels(s)).mean())
        assert (across > 0.35) == (s.answer in ("large", "huge", "big")), s.key
        assert across > 0.35 or across < 0.25


def test_count(mini):
    for s in of(mini, "count"):
        shape = next(name for name in s.meta if plural(name) in s.question)
        drawn = sum(number for name, number in s.meta.items() if name not in ("id", "round", "at"))
        assert s.meta[shape] == NUMBERS.index(s.answer)
        assert len(s.meta["at"]) == s.meta[shape]
        assert patches(foreground(pixels(s))) == drawn, s.key


def test_position(mini):
    for s in of(mini, "position"):
        x, y = s.meta["at"]
        picture = pixels(s)
        assert foreground(picture)[disc(x, y, 0.15)].mean() > 0.25
        across = {"left": x < 0.35, "right": x > 0.65, "": 0.4 < x < 0.6}
        down = {"top": y < 0.35, "bottom": y > 0.65, "": 0.4 < y < 0.6}
        words = s.answer.split()
        assert across[next((w for w in words if w in ("left", "right")), "")]
        assert down[next((w for w in words if w in ("top", "bottom")), "")]
        if len(s.meta) == 2:
            rows, columns = np.nonzero(foreground(picture))
            assert math.dist((columns.mean() / 224, rows.mean() / 224), (x, y)) < 0.06


def test_texture_plain_has_one_colour_inside_and_the_others_two(mini):
    for s in [s for s in of(mini, "texture") if "moon" not in s.question]:  # a moon has no middle
        inside = disc(*s.meta["at"], s.meta["r"] * 0.3)
        counts = Counter(map(tuple, pixels(s)[inside].tolist()))
        share = counts.most_common(1)[0][1] / inside.sum()
        assert (share > 0.9) == (s.answer == "plain"), s.key


def test_texts_differ_from_one_another(mini):
    ink = {}
    for s in of(mini, "text"):
        ink.setdefault(s.answer, []).append(s)
    assert len(ink) >= 25
    assert {s.meta["upper_case"] for s in of(mini, "text")} == {True, False}


def looks(picture: np.ndarray) -> str:
    """Judges the quality of a picture as a photographer's tool would: exposure, contrast, detail at several scales."""
    grey = picture.mean(2)
    if grey.max() < 100:
        return "dark"
    strong = (picture.max(2) - picture.min(2)).max()
    if strong < 60 and grey.max() - grey.min() < 60:
        return "faded"
    flat = (np.abs(np.diff(grey, axis=1)) < 1).mean()
    if flat < 0.86 and np.abs(np.diff(grey, axis=1)).max() > 60:
        return "grainy"
    steps = np.abs(np.diff(grey, axis=1)).sum(0)
    on_grid = steps[15::16].sum() / max(1.0, steps.sum())
    if on_grid > 0.95:
        return "pixelated"
    return "blurry" if np.abs(np.diff(grey, axis=1)).max() < 40 else "clear"


def test_image_quality(mini):
    wrong = [s.key for s in of(mini, "image_quality") if looks(pixels(s)) != s.answer]
    assert wrong == []


@pytest.mark.parametrize("question", ["the left", "the right", "bove", "elow"])
def test_spatial_relation(mini, question):
    for s in of(mini, "spatial_relation", question):
        (pivot,) = set(s.meta["at"]) - set(s.candidates)
        assert pivot in s.question
        px, py = s.meta["at"][pivot]

        def satisfies(shape, s=s, px=px, py=py):
            x, y = s.meta["at"][shape]
            dx, dy = x - px, y - py
            sideways = abs(dx) > abs(dy)
            return {
                "the left": sideways and dx < 0,
                "the right": sideways and dx > 0,
                "bove": not sideways and dy < 0,
                "elow": not sideways and dy > 0,
            }[question]

        assert [shape for shape in s.candidates if satisfies(shape)] == [s.answer]
        assert foreground(pixels(s))[disc(*s.meta["at"][s.answer], 0.08)].mean() > 0.4


def areas(s) -> Counter:
    """Pixels of each colour, without outlines."""
    picture = pixels(s).reshape(-1, 3)
    near = np.linalg.norm(picture[:, None] - PALETTE[None], axis=2).min(1) < 45
    return Counter(named(picture[near]))


def test_comparison_of_sizes_and_lengths(mini):
    for s in [s for s in of(mini, "comparison") if "radii" in s.meta or "lengths" in s.meta]:
        area = areas(s)
        larger = max(s.candidates, key=area.__getitem__)
        wants_larger = "bigger" in s.question or "longer" in s.question
        assert (s.answer == larger) == wants_larger, s.key


def test_comparison_of_numbers(mini):
    for s in [s for s in of(mini, "comparison") if "counts" in s.meta]:
        counts = s.meta["counts"]
        best = max if "more" in s.question else min
        assert s.answer == best(counts, key=counts.get)
        assert patches(foreground(pixels(s))) == sum(counts.values()), s.key


def test_arithmetic_on_dice(mini):
    for s in of(mini, "arithmetic", "dice"):
        eyes = pixels(s).max(2) < 90
        assert patches(eyes) - 2 == sum(s.meta["dice"]) == NUMBERS.index(s.answer), s.key  # two frames


def test_arithmetic_in_writing(mini):
    for s in [s for s in of(mini, "arithmetic") if "sum" in s.meta]:
        first, sign, second = s.meta["sum"].split()
        assert NUMBERS[int(first) + (int(second) if sign == "+" else -int(second))] == s.answer


def test_chart_bars(mini):
    for s in of(mini, "chart_reading", "bar"):
        colour = next(name for name in s.meta["bars"] if f"the {name} bar" in s.question.lower())
        heights = areas(s)
        by_height = sorted(s.meta["bars"], key=heights.__getitem__)
        assert NUMBERS[s.meta["bars"][colour]] == s.answer
        assert by_height == sorted(s.meta["bars"], key=s.meta["bars"].get), s.key
        assert {NUMBERS[value] for value in s.meta["bars"].values()} == set(s.candidates)


def test_chart_slices(mini):
    for s in [s for s in of(mini, "chart_reading") if "shares" in s.meta]:
        area = areas(s)
        best = max if "largest" in s.question else min
        assert best(s.candidates, key=area.__getitem__) == s.answer, s.key


def test_sequence(mini):
    for s in of(mini, "sequence"):
        row = s.meta["row"]
        period = next(p for p in range(1, 4) if all(a == b for a, b in zip(row, row[p:], strict=False)))
        assert row[len(row) % period] == s.answer
        assert len(row) >= period + 2


def test_symmetry(mini):
    for s in of(mini, "symmetry"):
        same = sum(a == b for row in s.meta["grid"] for a, b in zip(row, reversed(row), strict=True)) / 36
        assert (same == 1) == (s.answer in ("symmetric", "mirrored"))
        assert same == 1 or same < 0.7
        assert len(set("".join(s.meta["grid"]))) > 1


def test_odd_one_out(mini):
    for s in of(mini, "odd_one_out"):
        column = ["colour", "shape", "size", "pattern"].index(s.meta["odd_by"])
        values = Counter(str(thing[column]) for thing in s.meta["objects"])
        odd = [thing for thing in s.meta["objects"] if values[str(thing[column])] == 1]
        assert sorted(values.values()) == [1, 3]
        assert s.answer in odd[0]
        # Nothing else sets one object apart: every other property is shared by all or different in each.
        for other in set(range(4)) - {column}:
            assert len({str(thing[other]) for thing in s.meta["objects"]}) in (1, 4)


def tips(blocks) -> bool:
    """Whether a tower falls, by moments about the edges of what each upper part rests on."""
    for i in range(1, len(blocks)):
        weight = moment = 0.0
        for left, top, right, bottom in blocks[i:]:
            area = (right - left) * (bottom - top)
            weight += area
            moment += area * (left + right) / 2
        low = max(blocks[i - 1][0], blocks[i][0])
        high = min(blocks[i - 1][2], blocks[i][2])
        if moment < low * weight or moment > high * weight:
            return True
    return False


def test_physical_stability(mini):
    for s in of(mini, "physical_stability"):
        assert tips(s.meta["blocks"]) == (s.answer in ("fall", "fall over", "tip over")), s.key
        for lower, upper in pairwise(s.meta["blocks"]):
            assert lower[1] == upper[3]


def test_clock_reading(mini):
    for s in of(mini, "clock_reading"):
        picture = pixels(s)
        red = (named(picture.reshape(-1, 3)) == "red").reshape(224, 224)
        ink = picture.max(2) < 90
        centre = np.argwhere(ink & disc(0.5, 0.5, 0.08)).mean(0)[::-1] / 224
        hand = red & disc(0.5, 0.5, 0.2)
        y, x = np.argwhere(hand).mean(0) / 224
        hour = math.degrees(math.atan2(x - 0.5, 0.5 - y)) % 360 / 30
        expected = s.meta["hour"] % 12 + s.meta["minute"] / 60
        assert min(abs(hour - expected), 12 - abs(hour - expected)) < 1.0, (s.key, centre)
        words = f"half past {NUMBERS[s.meta['hour']]}" if s.meta["minute"] else f"{NUMBERS[s.meta['hour']]} o'clock"
        assert words == s.answer
