"""When an evaluation is due: decisions over plain step numbers, testable without a trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from radar_callback.errors import ConfigError

MOST_STEPS_APART = 1000
POINTS_A_RUN = 20
POINTS_A_DECADE = 8
"""Of a schedule that is spaced logarithmically: 1, 2, 3, 4, 5, 6, 8, 10, 14, 18, 24, … steps."""

SECONDS_BETWEEN_POLLS = 10.0
"""How often, about, somebody looks at the clock and for a request."""


def is_due(last: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` was reached since the last look.

    A crossing, not `now % every == 0`: the step counter stands still within an accumulation window, where the remainder
    would fire again and again, and jumps by the number of optimizers, where it would miss points.

    Args:
        last: Step counter at the last look.
        now: Step counter now.
        every: Steps between evaluations, at least 1.

    Example:
        >>> [step for last, step in [(0, 2), (2, 4), (4, 4), (4, 6)] if is_due(last, step, every=3)]
        [4, 6]
    """
    return now // every > last // every


def automatic_interval(total_steps: float) -> int:
    """Steps between evaluations where the user names none: about 20 points a run, never more than 1,000 steps apart.

    Args:
        total_steps: Planned optimizer steps; infinite or negative if not known.

    Example:
        >>> automatic_interval(1500), automatic_interval(10**6), automatic_interval(float("inf")), automatic_interval(7)
        (75, 1000, 1000, 1)
    """
    if not 0 <= total_steps < MOST_STEPS_APART * POINTS_A_RUN:
        return MOST_STEPS_APART
    return max(1, int(total_steps) // POINTS_A_RUN)


@dataclass(frozen=True)
class Schedule:
    """At which steps an evaluation is due.

    Attributes:
        every: Steps between evaluations; None for none that repeat.
        at: Steps in rising order.
        logarithmic: Also steps spaced logarithmically: early steps, where most happens, are looked at closely.
    """

    every: int | None = None
    at: tuple[int, ...] = ()
    logarithmic: bool = False

    @classmethod
    def of(cls, every_n_steps: int | None, at_steps: Sequence[int] | str | None) -> Schedule | None:
        """What a user asked for, or None if that was nothing.

        Args:
            every_n_steps: Steps between evaluations.
            at_steps: Steps, or `"log"`.

        Raises:
            ConfigError: If these are no steps.

        Example:
            >>> Schedule.of(None, [100, 10]).at
            (10, 100)
        """
        if every_n_steps is not None and (not _whole(every_n_steps) or every_n_steps < 1):
            raise ConfigError(f"Expected every_n_steps to be a whole number of at least 1, but got {every_n_steps!r}.")
        if at_steps is None:
            return None if every_n_steps is None else cls(every_n_steps)
        if at_steps == "log":
            return cls(every_n_steps, logarithmic=True)
        if isinstance(at_steps, str) or not all(_whole(step) and step >= 0 for step in at_steps):
            raise ConfigError(f'Expected at_steps to be whole numbers of at least 0, or "log", but got {at_steps!r}.')
        return cls(every_n_steps, tuple(sorted(set(at_steps))))

    def reached(self, last: int, now: int) -> bool:
        """Whether a step of the schedule was reached since the last look.

        Example:
            >>> schedule = Schedule(at=(3, 10))
            >>> [now for last, now in [(0, 2), (2, 4), (4, 6), (6, 12)] if schedule.reached(last, now)]
            [4, 12]
        """
        repeats = self.every is not None and is_due(last, now, self.every)
        return repeats or any(last < step <= now for step in self.at) or (self.logarithmic and _decades(last, now))

    def count(self, after: int, until: float) -> float:
        """How many evaluations are due after a step and up to another.

        Args:
            after: Is not counted itself.
            until: Is; infinite if the end is not known.

        Example:
            >>> Schedule(every=20).count(0, 399), Schedule(at=(3, 10, 50)).count(3, 49), Schedule(every=5).count(0, math.inf)
            (19, 1, inf)
        """
        if math.isinf(until):
            endless = self.every is not None or self.logarithmic
            return math.inf if endless else sum(step > after for step in self.at)
        found = 0 if self.every is None else int(until) // self.every - after // self.every
        steps = set(self.at)
        if self.logarithmic and until >= 1:
            decades = POINTS_A_DECADE * math.log10(until)
            steps |= {math.ceil(10 ** (k / POINTS_A_DECADE) - 1e-9) for k in range(int(decades + 1e-9) + 1)}
        return found + sum(after < step <= until and not (self.every and step % self.every == 0) for step in steps)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _decades(last: int, now: int) -> bool:
    def place(step: int) -> int:
        return -1 if step < 1 else math.floor(POINTS_A_DECADE * math.log10(step) + 1e-9)

    return place(now) > place(last)


def next_poll(now: int, steps_since: int, seconds_since: float) -> int:
    """At which step to look at the clock again: what depends on a clock is looked at by one rank at a step all ranks know.

    Args:
        now: Step counter.
        steps_since: Steps since the last poll.
        seconds_since: Seconds of training since then.

    Example:
        >>> next_poll(100, steps_since=5, seconds_since=1.0), next_poll(100, steps_since=1, seconds_since=60.0)
        (110, 101)
    """
    if steps_since < 1 or seconds_since <= 0:
        return now + 1
    # At most twice as far as the last time: a first step that waits for data or a compiler says little about the next.
    a_second = steps_since / seconds_since
    return now + max(1, min(2 * steps_since, int(SECONDS_BETWEEN_POLLS * a_second)))
