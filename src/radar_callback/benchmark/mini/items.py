"""How an item is made so that its words never give its answer away.

Items come in *rounds*. A round is one question with one set of K candidates, drawn before any picture exists; then K
pictures are drawn for it, one in which each of the candidates is true. Whatever is read off the words alone is therefore right
exactly once in K, in every round: a model that does not see the picture has an SDS of exactly 1/K, whichever words it prefers.

Everything random about an item comes from its own stream, named after seed, ability and number, so that one item can be drawn
again alone and a change to one ability leaves all others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from radar_callback.benchmark.mini.canvas import Canvas, png
from radar_callback.benchmark.sample import Sample

SOURCE = "radar-mini"

Slots = Mapping[str, str]
"""Words that fill the gaps of a question, such as `{"shape": "star"}`."""

Facts = dict[str, Any]
"""What is in a picture, as far as a person who debugs wants to know or a test can check; JSON types."""


@dataclass(frozen=True)
class Task:
    """One kind of question with the drawing that goes with it.

    Args:
        templates: Phrasings, with gaps in braces, each of which any of the candidates continues naturally.
        candidates: Draws the candidates, in no meaningful order.
        draw: Draws a picture in which `answer`, and no other candidate, is true of the question; returns the facts.
        slots: Draws the words for the gaps, knowing the candidates but not which of them will be true.
    """

    templates: Sequence[str]
    candidates: Callable[[Random], Sequence[str]]
    draw: Callable[[Canvas, Random, Problem, str], Facts]
    slots: Callable[[Random, Sequence[str]], Slots] = field(default=lambda rng, candidates: {})


@dataclass(frozen=True)
class Ability:
    """What is measured: its place in the report and its tasks, which take turns."""

    name: str
    group: str
    k: int
    tasks: Sequence[Task]


@dataclass(frozen=True)
class Problem:
    """The words of a round."""

    question: str
    candidates: tuple[str, ...]
    slots: Slots
    task: Task

    def others(self, answer: str) -> list[str]:
        """The candidates that must not be true."""
        return [candidate for candidate in self.candidates if candidate != answer]


def problem(ability: Ability, seed: int, turn: int) -> Problem:
    """Draws the words of round number `turn`."""
    rng = Random(f"{SOURCE}/{seed}/{ability.name}/words/{turn}")
    task = ability.tasks[turn % len(ability.tasks)]
    template = task.templates[turn // len(ability.tasks) % len(task.templates)]
    candidates = tuple(task.candidates(rng))
    if len(set(candidates)) != ability.k:
        raise ValueError(f"Expected {ability.k} different candidates for {ability.name!r}, but got {candidates}.")
    slots = task.slots(rng, candidates)
    return Problem(template.format(**slots), candidates, slots, task)


def item(ability: Ability, seed: int, index: int) -> Sample:
    """Makes item number `index` of an ability."""
    turn, place = divmod(index, ability.k)
    asked = problem(ability, seed, turn)
    order = Random(f"{SOURCE}/{seed}/{ability.name}/order/{turn}").sample(asked.candidates, ability.k)
    answer = order[place]
    rng = Random(f"{SOURCE}/{seed}/{ability.name}/picture/{index}")
    canvas = Canvas(rng)
    facts = asked.task.draw(canvas, rng, asked, answer)
    key = f"{ability.name}-{index:03d}"
    return Sample(
        key=key,
        question=asked.question,
        answer=answer,
        distractors=tuple(asked.others(answer)),
        ability=ability.name,
        images=(png(canvas.image()),),
        image_names=("0.png",),
        source=SOURCE,
        meta={"id": key, "round": f"{ability.name}-{turn}", **facts},
    )


def items(ability: Ability, seed: int, count: int) -> Iterator[Sample]:
    """Makes the first `count` items of an ability, round by round."""
    for index in range(count):
        yield item(ability, seed, index)
