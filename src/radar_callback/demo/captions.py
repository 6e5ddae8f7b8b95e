"""Captions: what somebody who looks at a scene might write under it, a few short sentences in many forms.

A caption states facts one after another, as alt texts do. No sentence asks, compares, adds up, continues or judges anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from radar_callback.benchmark.mini.perception import NUMBERS
from radar_callback.benchmark.mini.shapes import plural
from radar_callback.demo.scenes import Figure, Scene


def caption(scene: Scene, rng: Random, sentences: int = 1) -> str:
    """Writes a caption.

    Args:
        scene: What to write about.
        rng: Chooses facts, their order and their form.
        sentences: At most this many. Every word of a single sentence has to come from the picture; in a second one, what was
            said before could be repeated without a look.
    """
    facts = _facts(scene, rng)
    chosen = rng.sample(facts, min(sentences, len(facts)))
    return " ".join(f"{rng.choice(forms)}." for forms in chosen)


def _facts(scene: Scene, rng: Random) -> list[Sequence[str]]:
    """Every fact as the forms it can be written in."""
    names = Counter(figure.name for figure in scene.figures)
    singles = [figure for figure in scene.figures if names[figure.name] == 1]
    facts: list[Sequence[str]] = [_number(name, number) for name, number in names.items() if number > 1]
    alone = len(scene.figures) == 1
    if scene.thing:
        facts.append([*_there_is(scene.thing), *_shown(scene.thing)])
    largest = max((figure.r for figure in scene.figures), default=0.0)
    for figure in singles:
        # People write about what catches the eye.
        facts += _about(figure, alone) * (1 if figure.r < largest / 1.4 else 3)
    if len(singles) == len(scene.figures) == 2:
        facts.append(_relation(*rng.sample(singles, 2)))
    if scene.quality != "clear" or rng.random() < 0.15:
        facts.append([f"The {what} {scene.quality}" for what in ("picture is", "image is", "image looks")])
    return facts


def _number(name: str, number: int) -> Sequence[str]:
    word, names = NUMBERS[number], plural(name)
    return [
        f"There are {word} {names}",
        f"{word.capitalize()} {names}",
        f"The number of {names} is {word}",
        f"The number of {names} in the picture is {word}",
        f"In the picture, the {names} number {word}",
    ]


def _about(figure: Figure, alone: bool) -> list[Sequence[str]]:
    name, colour = figure.name, figure.colour
    facts: list[Sequence[str]] = [_naming(figure, alone)]
    facts.append(
        [
            f"The {name} is {colour}",
            f"The colour of the {name} is {colour}",
            f"The {name} in the picture is {colour}",
        ]
    )
    if figure.size:
        facts.append(
            [
                f"The {name} is {figure.size}",
                f"The {colour} {name} is {figure.size}",
                f"The size of the {name} is {figure.size}",
                f"The {name} in the picture is {figure.size}",
            ]
        )
    if figure.place:
        facts.append([f"The {name} is at the {figure.place}", f"In the picture, the {name} is at the {figure.place}"])
    return facts


def _naming(figure: Figure, alone: bool) -> Sequence[str]:
    described = " ".join(word for word in (figure.size, figure.colour, figure.name) if word)
    if not alone:
        return _there_is(described)
    return [
        *_there_is(described),
        *_shown(described),
        f"The shape is a {figure.name}",
        f"The shape in the picture is a {figure.name}",
        f"The {figure.colour} shape is a {figure.name}",
    ]


def _there_is(what: str) -> list[str]:
    a = _article(what)
    return [f"{a.capitalize()} {what}", f"There is {a} {what}", f"In the picture there is {a} {what}"]


def _shown(what: str) -> list[str]:
    return [f"The picture shows {_article(what)} {what}", f"This is a picture of {_article(what)} {what}"]


def _relation(one: Figure, other: Figure) -> Sequence[str]:
    dx, dy = one.x - other.x, one.y - other.y
    across, down = ("to the left of", "to the right of")[dx > 0], ("above", "below")[dy > 0]
    side = across if abs(dx) > abs(dy) else down
    first, second = f"{one.colour} {one.name}", f"{other.colour} {other.name}"
    return [
        f"The {one.name} is {side} the {other.name}",
        f"{_article(first).capitalize()} {first} {side} {_article(second)} {second}",
    ]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
