"""A run that evaluates within its budget, on a clock of the test's own; and ranks that always decide alike."""

import math
import random
from itertools import pairwise

import pytest

from radar_callback.budget import GRACE, Budget
from radar_callback.errors import ConfigError
from radar_callback.evaluation_size import LEAST_ITEMS, subsets_of
from radar_callback.schedule import Schedule, next_poll
from radar_callback.watch import Watch

ABILITIES, ITEMS = 18, 128
"""As radar-mini has them."""


class Run:
    """A run of steps that take a second or so, and evaluations that take a certain time for all items."""

    def __init__(
        self,
        budget=0.05,
        every=10,
        cost=3.0,
        seed=0,
        step_seconds=1.0,
        cold=1.0,
        timed=True,
        total=math.inf,
        **settings,
    ):
        self.time, self.rng = 1000.0, random.Random(seed)
        self.cost, self.step_seconds, self.cold, self.timed = cost, step_seconds, cold, timed
        self.said: list[str] = []
        self.watch = Watch(
            Schedule(every=every), Budget(budget), now=lambda: self.time, total=total, say=self.said.append,
            subsets=subsets_of([ITEMS] * ABILITIES), **settings,
        )  # fmt: skip
        self.points: list[tuple[int, int]] = []
        """Step and items an ability."""
        self.overheads: list[tuple[float, float]] = []

    def size(self):
        """The first items are dear: they are read and encoded."""
        took = 0.02 * self.cost
        self.time += took
        self.watch.size(self.cold * self.cost / (ABILITIES * ITEMS) if self.timed else None, took)

    def evaluate(self, step, last=False):
        share = self.watch.share(step, last)
        if share:
            seconds = self.cost * share * self.rng.uniform(0.9, 1.1) * (1.0 if self.points else self.cold)
            self.time += seconds
            self.watch.took(seconds)
            self.points.append((step, self.watch.subset.items_per_ability))
        self.overheads.append((self.time - 1000, self.watch.overhead()))

    def go(self, steps):
        self.size()
        self.evaluate(0)
        for step in range(1, steps + 1):
            self.time += self.step_seconds * self.rng.uniform(0.5, 1.5)
            if self.watch.due(step):
                self.evaluate(step)
        if not self.points or self.points[-1][0] < steps:
            self.evaluate(steps, last=True)
        return self

    @property
    def sizes(self):
        return [items for _, items in self.points]


def test_a_first_run_of_minutes_has_its_curve():
    """Everything left to the callback: 400 steps of 0.4 s, and 70 s for all items the first time they are read."""
    for cost, cold in [(70.0, 1.0), (25.0, 2.8), (70.0, 2.8)]:
        run = Run(every=20, cost=cost, cold=cold, step_seconds=0.4, total=400).go(400)
        steps = [step for step, _ in run.points]
        assert set(run.sizes) == {LEAST_ITEMS} and not run.said
        assert steps[0] == 0 and steps[-1] == 400 and len(steps) >= 8, (cost, cold, steps)
        gaps = [after - before for before, after in pairwise(steps)]
        assert max(gaps) <= 100, "spread over the run, not all at its beginning"
        assert run.watch.overhead() * (run.time - 1000) <= 1.1 * GRACE


@pytest.mark.parametrize("total", [math.inf, 5000])
@pytest.mark.parametrize("most", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("every", [1, 10, 100])
@pytest.mark.parametrize("cost", [0.3, 3.0, 30.0, 300.0])
def test_the_share_of_wall_clock_stays_within_the_budget(most, every, cost, total):
    run = Run(most, every, cost, total=total).go(5000)
    warm = max(GRACE, 2.2 * cost) / most
    late = [overhead for elapsed, overhead in run.overheads if elapsed > warm]
    assert not late or max(late) <= 1.1 * most
    affordable = max(1, 0.8 * most * 5000) / (cost * LEAST_ITEMS / ITEMS)
    assert len(run.points) >= min(8, 5000 / every, affordable)
    assert run.points[-1][0] == 5000, "the last point of a run has its time put aside"
    assert sum(a != b for a, b in pairwise(run.sizes)) <= 1, "curves hardly ever break"
    assert min(run.sizes) >= LEAST_ITEMS


def test_what_fits_is_scored_whole():
    assert set(Run(0.05, every=100, cost=3, total=3000).go(3000).sizes) == {ITEMS}


def test_a_long_run_scores_more_once_it_is_known_to_be_long_and_says_so():
    run = Run(0.05, every=1000, cost=40, total=100_000)
    run.go(100_000)
    assert run.sizes[:2] == [16, 16] and set(run.sizes[2:]) == {ITEMS} and len(run.points) == 101
    (line,) = run.said
    assert line == (
        "radar: from step 2000 on 2,304 of 2,304 items are scored (128 an ability), as the run has turned out to be longer: "
        "curves have a gap here."
    )


def test_twice_as_many_items_are_no_reason_for_a_gap():
    run = Run(0.05, every=1000, cost=40, total=100_000, step_seconds=0.2).go(100_000)  # a quarter of all would fit
    assert set(run.sizes) == {16} and not run.said


def test_items_that_took_longer_than_a_few_had_are_made_fewer_once():
    run = Run(every=20, cost=9.0, step_seconds=0.4, total=400)
    run.size()
    assert run.watch.subset.items_per_ability == ITEMS
    run.cost = 90.0
    run.evaluate(0)
    for step in range(1, 401):
        run.time += 0.4
        if run.watch.due(step):
            run.evaluate(step)
    assert run.sizes[0] == ITEMS and set(run.sizes[1:]) == {LEAST_ITEMS} and run.points[-1][0] == 400
    assert len(run.said) == 1 and "too short for more" in run.said[0]


def test_without_a_bound_all_are_scored():
    run = Run(None, every=20, cost=30, total=400).go(400)
    assert set(run.sizes) == {ITEMS} and len(run.points) == 21


def test_what_could_not_be_timed_is_scored_by_the_smallest_part():
    assert Run(every=20, cost=70, timed=False, total=400, step_seconds=0.4).go(400).sizes[0] == LEAST_ITEMS


def test_a_run_that_goes_on_scores_what_it_did_before():
    run = Run(every=1000, cost=40, total=100_000)
    assert run.watch.keep(0.25)
    run.evaluate(0)
    for step in range(1, 5001):
        run.time += 1
        if run.watch.due(step):
            run.evaluate(step)
    assert set(run.sizes) == {32}
    assert not run.watch.keep(0.3)


def test_the_first_and_the_last_are_made_whatever_they_take():
    run = Run(every=20, cost=4000.0, step_seconds=0.4, total=400).go(400)
    assert run.points == [(0, 16), (400, 16)]
    assert run.watch.summary() == "evaluated 2 of 21 times; 19 left out to keep within max_overhead=0.05"


def test_a_run_whose_end_comes_early_or_is_not_known_has_its_last_point():
    for total in (math.inf, 400):
        run = Run(every=20, cost=70, step_seconds=0.4, total=total).go(130)
        assert run.points[-1][0] == 130 and len(run.points) >= 3


def test_a_run_that_ends_by_the_clock_is_no_longer_than_that():
    """What `max_time` leaves bounds a run that could go on for a million steps otherwise."""
    for total in (math.inf, 10**6):
        run = Run(every=20, cost=70, step_seconds=0.4, total=total, seconds=260).go(380)
        assert set(run.sizes) == {LEAST_ITEMS} and run.points[-1][0] == 380 and len(run.points) >= 8
        assert max(after - before for (before, _), (after, _) in pairwise(run.points)) <= 100
        assert run.watch.overhead() * (run.time - 1000) <= 1.1 * GRACE


def test_no_evaluation_at_the_end_is_kept_for_where_none_is_wanted():
    run = Run(every=20, cost=70, step_seconds=0.4, total=400, at_end=False)
    run.size()
    run.evaluate(0)
    for step in range(1, 401):
        run.time += 0.4
        if run.watch.due(step):
            run.evaluate(step)
    assert len(run.points) >= 8


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"cost": 70.0}, "scoring 288 of 2,304 items (16 an ability), about 9 s, at least 13 times of 21"),
        ({"cost": 35.0}, "scoring 576 of 2,304 items (32 an ability), about 9 s, at least 13 times of 21"),
        ({"cost": 3.0}, "scoring 2,304 of 2,304 items, about 3 s, about 21 times"),
        ({"cost": 3.0, "total": math.inf}, "scoring 2,304 of 2,304 items, about 3 s"),
        ({"cost": 3.0, "timed": False}, "scoring 288 of 2,304 items (16 an ability), about 21 times"),
    ],
)
def test_what_is_about_to_happen_is_said_before(settings, line):
    run = Run(**{"every": 20, "total": 400, **settings})
    run.size()
    assert run.watch.announcement() == line


def test_failures_are_told_apart_from_what_was_left_out():
    run = Run(every=20, cost=1.0, total=400)
    run.watch.took(1.0)
    run.watch.took(0.1, whole=False)
    assert run.watch.summary() == "evaluated 1 of 2 times; 1 failed, as the log says"


def test_parts_of_a_benchmark_hold_sixteen_items_an_ability_or_all_it_has():
    for counts in ([128] * 18, [3000, 500, 40, 16, 5, 1], [17], [15], [16 * 1024]):
        parts = subsets_of(counts, blind_share=0.125)
        assert parts[0].items == sum(counts) and parts[0].share == 1
        assert [one.items for one in parts] == sorted({one.items for one in parts}, reverse=True)
        assert parts[-1].items == sum(min(n, 16) for n in counts)
        assert all(one.items < one.forwards <= 1.125 * one.items + len(counts) for one in parts)


def test_what_is_let_pass_is_said_once(caplog):
    run = Run(0.01, every=1, cost=600)
    run.go(300)
    assert caplog.text.count("Let the evaluation at step") == 1
    assert "max_overhead=0.01" in caplog.text and len(run.points) < 5


def test_time_is_a_schedule_too():
    run = Run(None, every=None, cost=1, every_seconds=60).go(1000)
    gaps = [b - a for (a, _), (b, _) in pairwise(run.points[:-1])]
    assert len(gaps) >= 13 and all(55 <= gap <= 80 for gap in gaps[1:])


def test_a_request_is_seen_within_some_seconds():
    wanted = []
    run = Run(None, every=None, requested=lambda: bool(wanted and wanted.pop()))
    seen = []
    for step in range(1, 200):
        run.time += 0.5
        if step == 100:
            wanted.append(True)
        if run.watch.due(step):
            seen.append(step)
    assert len(seen) == 1 and 100 <= seen[0] <= 125


@pytest.mark.parametrize("seed", range(5))
def test_ranks_whose_clocks_differ_decide_alike(seed):
    """What the first rank decides is handed to the others in order: they ask for it at the same moments, or this falls apart."""
    told: list[object] = []

    def first(value):
        told.append(value)
        return value

    heard = iter(told)
    rng = random.Random(seed)
    settings = {"every": 7, "cost": 5.0, "every_seconds": 40.0}
    one = Run(0.05, **settings, broadcast=first, requested=lambda: rng.random() < 0.1)
    other = Run(0.05, **{**settings, "seed": 99}, broadcast=lambda value: next(heard), step_seconds=1.7)
    one.go(500)
    other.go(500)
    assert other.points == one.points
    assert next(heard, "all heard") == "all heard"


def test_polls_are_never_so_far_apart_that_a_slow_start_is_believed():
    assert next_poll(1, steps_since=1, seconds_since=0.001) == 3
    assert next_poll(0, steps_since=0, seconds_since=5.0) == 1


@pytest.mark.parametrize("most", [0, 1, -0.1, 5])
def test_a_share_that_is_none_is_refused(most):
    with pytest.raises(ConfigError, match="Expected max_overhead to be a share between 0 and 1, or None"):
        Budget(most)


@pytest.mark.parametrize(
    ("every", "at", "message"),
    [
        (0, None, "every_n_steps"),
        (True, None, "every_n_steps"),
        (None, "often", 'at_steps to be whole numbers of at least 0, or "log"'),
        (None, [1.5], "at_steps"),
        (None, [-1], "at_steps"),
    ],
)
def test_schedules_that_are_none_are_refused(every, at, message):
    with pytest.raises(ConfigError, match=message):
        Schedule.of(every, at)


def test_an_interval_of_no_time_is_refused():
    with pytest.raises(ConfigError, match="Expected every_seconds to be above 0, but got 0"):
        Watch(Schedule(), Budget(None), every_seconds=0)


def test_logarithmic_steps_are_dense_where_most_happens():
    schedule = Schedule.of(None, "log")
    steps = [now for now in range(1, 10_001) if schedule.reached(now - 1, now)]
    assert steps[:8] == [1, 2, 3, 4, 5, 6, 8, 10] and steps[-1] == 10_000
    assert len(steps) == 8 * 4
    ratios = [b / a for a, b in pairwise(steps[8:])]
    assert max(ratios) < 1.45 and min(ratios) > 1.25


@pytest.mark.parametrize(
    ("schedule", "after", "until"),
    [
        (Schedule(every=7), 0, 100),
        (Schedule(every=7, at=(3, 14, 50)), 3, 99),
        (Schedule(logarithmic=True), 0, 1000),
        (Schedule(logarithmic=True, every=100), 17, 999),
    ],
)
def test_what_is_to_come_is_what_will_be_due(schedule, after, until):
    steps = [now for now in range(after + 1, until + 1) if schedule.reached(now - 1, now)]
    assert schedule.count(after, until) == len(steps)


def test_one_that_failed_at_once_does_not_make_the_next_look_cheap():
    run = Run(every=10, cost=30.0)
    run.watch.took(30.0)
    run.watch.took(0.1, whole=False)
    assert run.watch._cost() == pytest.approx(30.0)
    run.watch.took(0.1)
    assert run.watch._cost() == pytest.approx(0.1)
