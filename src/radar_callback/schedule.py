"""When an evaluation is due: decisions over plain step numbers, testable without a trainer."""

from __future__ import annotations

MOST_STEPS_APART = 1000
POINTS_A_RUN = 20


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
