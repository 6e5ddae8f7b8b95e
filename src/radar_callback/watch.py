"""When a run evaluates and how much of the benchmark it then scores, decided so that all ranks always decide alike.

What follows from step numbers every rank works out for itself. What depends on a clock or a file is looked at by the first rank
only, at steps that all ranks know beforehand, and broadcast: a decision made by each rank's own clock would sooner or later
differ, and the ranks would wait for each other for ever.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from radar_callback.budget import KEPT, Budget
from radar_callback.errors import ConfigError
from radar_callback.evaluation_size import WHOLE, Subset, first_subset, in_turn, resized
from radar_callback.schedule import Schedule, next_poll

log = logging.getLogger(__name__)

STEPS_TO_KNOW = 5
"""Steps after the first, which may wait for data or a compiler, that tell how fast a run trains."""


WORTH_TIMING = 64
"""Items from which on a user is told beforehand how long they take, also where all are scored in any case."""


class Decision(NamedTuple):
    """What the first rank says of an evaluation that is due.

    Attributes:
        subset: Position of the items to score, among the subsets.
        made: Whether it is made.
        settled: Whether the items are settled for the rest of the run.
    """

    subset: int
    made: bool
    settled: bool


class Watch:
    """Keeps a schedule within a budget; one for each run.

    Args:
        schedule: Steps at which evaluations are due.
        budget: The share of wall clock they may take.
        every_seconds: Also due when so many seconds have passed since the last one.
        subsets: What can be scored of the benchmark, the largest first.
        total: Step at which the run ends, as far as is known; infinite if it is not.
        seconds: What the run may last at most, from now on; infinite if nothing bounds it.
        at_end: Whether there is one more evaluation at the end of the run.
        requested: Asked by the first rank every ten seconds or so: whether somebody wants an evaluation now.
        broadcast: Gives every rank what the first one has.
        say: Is given a line for the user where the items change.
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
        subsets: Sequence[Subset] = (WHOLE,),
        total: float = math.inf,
        seconds: float = math.inf,
        at_end: bool = True,
        requested: Callable[[], bool] = lambda: False,
        broadcast: Callable[[Any], Any] = lambda value: value,
        say: Callable[[str], Any] = log.info,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if every_seconds is not None and not 0 < every_seconds < math.inf:
            raise ConfigError(f"Expected every_seconds to be above 0, but got {every_seconds!r}.")
        self._schedule = schedule
        self._budget = budget
        self._every_seconds = every_seconds
        self._subsets = tuple(subsets)
        self._total = total if total >= 0 else math.inf
        self._seconds = seconds
        self._at_end = at_end
        self._requested = requested
        self._broadcast = broadcast
        self._say = say
        self._now = now
        self._began = self._polled = self._evaluated = now()
        self._spent = self._spent_at_poll = 0.0
        self._per_forward: float | None = None
        self._subset = 0
        self._settled = budget.most is None or len(self._subsets) == 1
        self._passed_since = 0
        self._made = self._failed = self._passed = 0
        self._trained: tuple[int, float] | None = None
        self.asked = False
        """Whether somebody has asked for the evaluation that is due: it is then made whatever it costs."""
        self.start(0)

    def start(self, step: int) -> None:
        """Begins at a step: 0, or where a resumed run goes on."""
        self._first = self._last = self._polled_at = step
        self._poll = step + 1

    @property
    def subset(self) -> Subset:
        """What an evaluation scores at present."""
        return self._subsets[self._subset]

    @property
    def to_be_sized(self) -> bool:
        """Whether it is worth finding out what an item takes before the first evaluation."""
        return not self._settled or (self._budget.most is not None and self.subset.items >= WORTH_TIMING)

    def keep(self, share: float) -> bool:
        """Goes on with the items of an earlier part of the run, so that its curves go on.

        Args:
            share: Of what was scored there.

        Returns:
            Whether there is such a part.
        """
        known = [i for i, subset in enumerate(self._subsets) if subset.share == share]
        if known and self._budget.most is not None:
            self._subset, self._settled = known[0], True
        return bool(known)

    def size(self, seconds_per_item: float | None, took: float = 0.0) -> None:
        """Settles what the first evaluations score: as much as what is granted to any run has room for.

        Args:
            seconds_per_item: What one takes, as far as is known.
            took: Seconds for finding that out.
        """
        self._spent += took
        self._per_forward = seconds_per_item
        left = self._budget.seconds(0) - self._spent
        chosen = first_subset(self._subsets, seconds_per_item, self._planned(), left)
        self._subset = self._broadcast(self._subsets.index(chosen))

    def announcement(self) -> str:
        """What is about to happen, in a line for the user: how many items, about how long, about how often."""
        subset, whole, cost = self.subset, self._subsets[0], self._cost()
        text = f"scoring {subset.items:,} of {whole.items:,} items"
        if subset.items < whole.items:
            text += f" ({subset.items_per_ability} an ability)"
        if cost is not None:
            text += f", about {_seconds(cost)}"
        times = self._planned()
        if cost is not None and self._budget.most is not None and times * cost > self._budget.seconds(0):
            granted = max(1 + self._at_end, int((self._budget.seconds(0) - self._spent) / cost))
            if math.isinf(times):
                return text
            return f"{text}, at least {granted} times of {times:.0f}"
        return text if math.isinf(times) else f"{text}, about {times:.0f} time{'s' if times > 1 else ''}"

    def summary(self) -> str:
        """How many of the evaluations were made, in a line for the user, and why the others were not."""
        due = self._made + self._failed + self._passed
        text = f"evaluated {self._made} of {due} times"
        if self._passed:
            text += f"; {self._passed} left out to keep within max_overhead={self._budget.most}"
        return text + (f"; {self._failed} failed, as the log says" if self._failed else "")

    def overhead(self, also: float = 0.0) -> float:
        """Share of the wall clock since the start that evaluations took.

        Args:
            also: Seconds of one that is not over.
        """
        return (self._spent + also) / max(self._now() - self._began, 1e-9)

    def due(self, step: int) -> bool:
        """Whether an evaluation is due now; to be asked on every rank after every batch.

        Args:
            step: Steps done.
        """
        reached = self._schedule.reached(self._last, step)
        self._last, self.asked = step, False
        if self._trained is None and step > self._first:
            self._trained = step, self._training()
        if step >= self._poll:
            self.asked, late, self._poll = self._broadcast(self._look(step))
            return reached or late or self.asked
        return reached

    def share(self, step: int, last: bool = False) -> float:
        """Which share of the items the evaluation that is due may score; 0 to let it pass. To be asked on every rank.

        The first and the last one of a run are always made.

        Args:
            step: Steps done.
            last: Whether the run ends here.
        """
        last = last or (self._at_end and step >= self._total)
        before = self.subset
        decision = Decision(*self._broadcast(tuple(self._decide(step, last))))
        self._subset, self._settled = decision.subset, decision.settled
        if self.subset is not before:
            self._say(
                f"radar: from step {step} on {self.subset.items:,} of {self._subsets[0].items:,} items are scored "
                f"({self.subset.items_per_ability} an ability), as the run has turned out to be "
                f"{'longer' if self.subset.items > before.items else 'too short for more'}: curves have a gap here."
            )
        if decision.made:
            self._passed_since = 0
            return self.subset.share
        self._passed += 1
        self._passed_since += 1
        # A user who sees no point should read why, but not every time.
        report = log.warning if self._passed == 1 else log.debug
        report(
            "Let the evaluation at step %d pass, and spread those that are made over the run: evaluations have taken %.1f%% of "
            "it, of %.1f%% that they may beyond the first minutes (max_overhead=%s; None for no bound), and one takes %.1f s.",
            step, 100 * self.overhead(), 100 * (self._budget.most or 1), self._budget.most, self._cost() or 0.0,
        )  # fmt: skip
        return 0.0

    def took(self, seconds: float, whole: bool = True) -> None:
        """Notes how long training stood still for an evaluation of the present subset, whatever came of it.

        Args:
            seconds: Of wall clock.
            whole: False if it failed: it may have cost less than one that does not.
        """
        self._spent += seconds
        found = seconds / self.subset.forwards
        self._per_forward = found if whole else max(found, self._per_forward or 0.0)
        self._made += whole
        self._failed += not whole
        self._evaluated = self._now()

    def _decide(self, step: int, last: bool) -> Decision:
        if self._budget.most is None:
            return Decision(self._subset, True, True)
        subset, settled = self.subset, self._settled
        pace = self._pace(step)
        end = self._end(step, pace)
        remaining = self._remaining(step, pace, end)
        to_come = 0.0 if pace is None or math.isinf(end) else (end - step) * pace
        left = self._budget.seconds(self._elapsed() + to_come) - self._spent
        cost = self._cost()
        # The first one reads and encodes what later ones remember: what these take, only the second can tell.
        warm = self._made > 1 or (cost is not None and not self._fits(cost))
        if not settled and not last and pace is not None and self._per_forward is not None and warm:
            lasting = self._budget.lasting(self._apart(step, pace, end, remaining))
            chosen = resized(subset, self._subsets, self._per_forward, remaining + self._at_end, left, lasting)
            # More items than fit as yet wait for the next time, rather than leave out this one.
            if chosen.forwards <= subset.forwards or self._fits(chosen.forwards * self._per_forward):
                subset, settled = chosen, True
        made = last or self._per_forward is None or not (self._made or self._failed)
        if not made:
            assert self._per_forward is not None
            cost = subset.forwards * self._per_forward
            affordable = math.floor(left / max(cost, 1e-9) - KEPT * self._at_end)
            wanted = self._made < 2 or math.isinf(remaining) or in_turn(self._passed_since, remaining, affordable)
            made = wanted and self._fits(cost)
        return Decision(self._subsets.index(subset), made, settled)

    def _look(self, step: int) -> tuple[bool, bool, int]:
        now = self._now()
        training = (now - self._polled) - (self._spent - self._spent_at_poll)
        following = next_poll(step, step - self._polled_at, training)
        self._polled, self._polled_at, self._spent_at_poll = now, step, self._spent
        late = self._every_seconds is not None and now - self._evaluated >= self._every_seconds
        return self._requested(), late, following

    def _fits(self, cost: float) -> bool:
        return self._budget.fits(self._elapsed(), self._spent, cost, KEPT * self._at_end)

    def _cost(self) -> float | None:
        return None if self._per_forward is None else self.subset.forwards * self._per_forward

    def _elapsed(self) -> float:
        return self._now() - self._began

    def _training(self) -> float:
        return self._elapsed() - self._spent

    def _pace(self, step: int) -> float | None:
        """Seconds of training a step, as far as that is known."""
        if self._trained is None or step - self._trained[0] < STEPS_TO_KNOW:
            return None
        return (self._training() - self._trained[1]) / (step - self._trained[0])

    def _end(self, step: int, pace: float | None) -> float:
        """Step at which the run will end, if it goes on as it does."""
        if pace is None or math.isinf(self._seconds):
            return max(self._total, step)
        return max(min(self._total, step + (self._seconds - self._elapsed()) / max(pace, 1e-9)), step)

    def _planned(self) -> float:
        """Evaluations of the whole run, this first one included; infinite if that is not known."""
        if self._every_seconds is not None:
            return math.inf
        return 1 + self._schedule.count(self._last, self._total - self._at_end) + self._at_end

    def _remaining(self, step: int, pace: float | None, end: float) -> float:
        """Those from this one on, without the one at the end."""
        following = self._schedule.count(step, max(end - self._at_end, step))
        if self._every_seconds is not None:
            following += math.inf if pace is None else (end - step) * pace / self._every_seconds
        return 1 + following

    def _apart(self, step: int, pace: float, end: float, remaining: float) -> float:
        """Seconds of training from one due evaluation to the next."""
        if not math.isinf(end):
            return (end - step) * pace / max(1.0, remaining - 1 + self._at_end)
        known = [] if self._schedule.every is None else [self._schedule.every * pace]
        return min([*known, *([] if self._every_seconds is None else [self._every_seconds])], default=0.0)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 1.5 else f"{value:.1f} s"
