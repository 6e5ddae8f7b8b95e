"""A run that evaluates within its budget, on a clock of the test's own; and ranks that always decide alike."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from radar_callback.budget import GRACE, SHARES, Budget, Clock
from radar_callback.errors import ConfigError
from radar_callback.schedule import Schedule, next_poll
from radar_callback.watch import Watch


class Run:
    """A run of steps that take a second or so, and evaluations that take a certain time for all items."""

    def __init__(self, budget=0.05, every=10, cost=3.0, seed=0, step_seconds=1.0, **settings):
        self.time, self.rng = 1000.0, random.Random(seed)
        self.cost, self.step_seconds = cost, step_seconds
        self.watch = Watch(Schedule(every=every), Budget(budget), now=lambda: self.time, **settings)
        self.points: list[tuple[int, float]] = []
        self.overheads: list[tuple[float, float]] = []

    def evaluate(self, step, last=False):
        share = self.watch.share(step, last)
        if share:
            seconds = self.cost * share * self.rng.uniform(0.9, 1.1)
            self.time += seconds
            self.watch.took(seconds, share)
            self.points.append((step, share))
        self.overheads.append((self.time - 1000, self.watch.overhead()))

    def go(self, steps):
        self.evaluate(0)
        for step in range(1, steps + 1):
            self.time += self.step_seconds * self.rng.uniform(0.5, 1.5)
            if self.watch.due(step):
                self.evaluate(step)
        self.evaluate(steps, last=True)
        return self


@pytest.mark.parametrize("most", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("every", [1, 10, 100])
@pytest.mark.parametrize("cost", [0.3, 3.0, 30.0])
def test_the_share_of_wall_clock_stays_within_the_budget(most, every, cost):
    run = Run(most, every, cost).go(5000)
    warm = max(GRACE, 2.2 * cost) / most
    late = [overhead for elapsed, overhead in run.overheads if elapsed > warm]
    assert not late or max(late) <= 1.1 * most
    # The first ones were scored whole.
    affordable = max(1, most * 5000 - max(cost, GRACE)) / (cost * SHARES[-1])
    assert len(run.points) >= 0.7 * min(5000 / every, 0.7 * affordable)
    assert run.points[-1][0] == 5000 or cost > most * 2500, "the last point of a run has its time put aside"


def test_what_fits_is_scored_whole():
    assert {share for _, share in Run(0.05, every=100, cost=3).go(3000).points} == {1.0}


def test_what_does_not_fit_is_thinned_to_a_share_that_can_be_kept_up():
    run = Run(0.05, every=20, cost=3).go(4000)
    shares = [share for _, share in run.points[:-1]]
    granted = shares.index(0.25)
    assert set(shares[:granted]) == {1.0} and granted <= GRACE / 3
    assert set(shares[granted:]) == {0.25} and len(shares) > 150
    # Without a bound all are scored.
    assert {share for _, share in Run(None, every=20, cost=3).go(400).points} == {1.0}


def test_a_short_run_has_all_its_points():
    points = Run(0.05, every=5, cost=1, step_seconds=0.1).go(50).points
    assert points == [(step, 1.0) for step in (*range(0, 50, 5), 50, 50)]


def test_what_is_let_pass_is_said_once(caplog):
    run = Run(0.01, every=1, cost=60)
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


def test_the_budget_alone():
    tight = Clock(elapsed=1000, spent=0, cost=10, apart=10)
    assert Budget(0.05).share(tight) == 0.125  # too much for good, but there is time to spare now
    assert Budget(0.05).share(replace(tight, spent=50)) == 0
    assert Budget(0.05).share(tight, last=True) == 1
    assert Budget(0.05).share(Clock(1, 0)) == 1


def test_one_that_failed_at_once_does_not_make_the_next_look_cheap():
    run = Run(every=10, cost=30.0)
    run.time += 100
    run.watch.took(30.0, 1.0)
    run.watch.took(0.1, 1.0, whole=False)
    assert run.watch.share(20) < 1
    run.watch.took(0.1, 1.0)
    assert run.watch._cost == pytest.approx(0.1)
