"""When a run evaluates and how much of the benchmark it then scores, decided so that all ranks always decide alike.

What follows from step numbers every rank works out for itself. What depends on a clock or a file is looked at by the first rank
only, at steps that all ranks know beforehand, and broadcast: a decision made by each rank's own clock would sooner or later
differ, and the ranks would wait for each other for ever.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from radar_callback.budget import Budget, Clock
from radar_callback.errors import ConfigError
from radar_callback.schedule import Schedule, next_poll

log = logging.getLogger(__name__)


class Watch:
    """Keeps a schedule within a budget; one for each run.

    Args:
        schedule: Steps at which evaluations are due.
        budget: The share of wall clock they may take.
        every_seconds: Also due when so many seconds have passed since the last one.
        requested: Asked by the first rank every ten seconds or so: whether somebody wants an evaluation now.
        broadcast: Gives every rank what the first one has.
        now: A clock, in seconds.

    Raises:
        ConfigError: If `every_seconds` is not above 0.
    """

    def __init__(
        self,
        schedule: Schedule,
        budget: Budget,
        *,
        every_seconds: float | None = None,
        requested: Callable[[], bool] = lambda: False,
        broadcast: Callable[[Any], Any] = lambda value: value,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_seconds is not None and not 0 < every_seconds < math.inf:
            raise ConfigError(f"Expected every_seconds to be above 0, but got {every_seconds!r}.")
        self._schedule = schedule
        self._budget = budget
        self._every_seconds = every_seconds
        self._requested = requested
        self._broadcast = broadcast
        self._now = now
        self._began = self._polled = self._evaluated = now()
        self._spent = self._spent_at_poll = 0.0
        self._cost: float | None = None
        self._passed = 0
        self.asked = False
        """Whether somebody has asked for the evaluation that is due: it is then made whatever it costs."""
        self.start(0)

    def start(self, step: int) -> None:
        """Begins at a step: 0, or where a resumed run goes on."""
        self._first = self._last = self._polled_at = step
        self._poll = step + 1

    def overhead(self, also: float = 0.0) -> float:
        """Share of the wall clock since the start that evaluations took.

        Args:
            also: Seconds of one that is not over.
        """
        return (self._spent + also) / max(self._now() - self._began, 1e-9)

    def due(self, step: int) -> bool:
        """Whether an evaluation is due now; to be asked on every rank after every batch.

        Args:
            step: Optimizer steps done.
        """
        reached = self._schedule.reached(self._last, step)
        self._last, self.asked = step, False
        if step >= self._poll:
            self.asked, late, self._poll = self._broadcast(self._look(step))
            return reached or late or self.asked
        return reached

    def share(self, step: int, last: bool = False) -> float:
        """Which share of the items the evaluation that is due may score; 0 to let it pass. To be asked on every rank.

        Args:
            step: Optimizer steps done.
            last: Whether the run ends here.
        """
        clock = Clock(self._now() - self._began, self._spent, self._cost, self._apart(step))
        share: float = self._broadcast(self._budget.share(clock, last))
        if share == 0:
            self._passed += 1
            # A user who sees no point should read why, but not every time.
            report = log.warning if self._passed == 1 else log.debug
            report(
                "Let the evaluation at step %d pass: evaluations have taken %.1f%% of the run, of %.1f%% that they may "
                "(max_overhead=%s; None for no bound), and one takes %.1f s.",
                step, 100 * self.overhead(), 100 * (self._budget.most or 1), self._budget.most, self._cost or 0.0,
            )  # fmt: skip
        return share

    def took(self, seconds: float, share: float, whole: bool = True) -> None:
        """Notes how long training stood still for an evaluation, whatever came of it.

        Args:
            seconds: Of wall clock.
            share: Of the items that were to be scored.
            whole: False if it failed: it may have cost less than one that does not.
        """
        self._spent += seconds
        self._cost = seconds / share if whole else max(seconds / share, self._cost or 0.0)
        self._evaluated = self._now()

    def _look(self, step: int) -> tuple[bool, bool, int]:
        now = self._now()
        training = (now - self._polled) - (self._spent - self._spent_at_poll)
        following = next_poll(step, step - self._polled_at, training)
        self._polled, self._polled_at, self._spent_at_poll = now, step, self._spent
        late = self._every_seconds is not None and now - self._evaluated >= self._every_seconds
        return self._requested(), late, following

    def _apart(self, step: int) -> float | None:
        """Seconds from one due evaluation to the next, as far as that is known."""
        steps = step - self._first
        if self._schedule.every is None or steps < 1:
            return self._every_seconds
        of_steps = self._schedule.every * (self._now() - self._began - self._spent) / steps
        return of_steps if self._every_seconds is None else min(of_steps, self._every_seconds)
