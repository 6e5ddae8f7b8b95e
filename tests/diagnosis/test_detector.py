"""Falls are found soon, and seldom where there are none, however often one looks."""

import numpy as np
import pytest

from radar_callback.diagnosis.detector import USUAL, falls, movements, restlessness, threshold


def first(logs, limit):
    at = np.flatnonzero(logs >= limit)
    return int(at[0]) if len(at) else None


def test_the_chance_of_a_false_alarm_is_bounded_over_a_whole_run():
    rng = np.random.default_rng(0)
    evaluations, error = 100, 0.1
    limit = threshold(curves=1, evaluations=evaluations, error=error)
    alarms = sum(first(falls(rng.standard_normal(evaluations)), limit) is not None for _ in range(2000))
    assert 0 < alarms <= error * 2000, "bounded, and not by never alarming"


def test_a_test_at_each_look_would_not_be():
    rng = np.random.default_rng(0)
    naive = sum((rng.standard_normal(100) < -1.645).any() for _ in range(500))
    assert naive > 450


@pytest.mark.parametrize(("size", "within"), [(-6.0, 1), (-3.0, 4), (-1.5, 14)])
def test_a_fall_is_found_the_sooner_the_larger_it_is(size, within):
    rng = np.random.default_rng(1)
    limit = threshold(curves=18, evaluations=100, error=0.01)
    delays = []
    for _ in range(200):
        scores = rng.standard_normal(60)
        scores[20:] += size
        delays.append((first(falls(scores), limit) or 99) - 19)
    assert np.median(delays) <= within and min(delays) >= 1


def test_a_gap_is_no_evidence():
    scores = np.array([0.1, -3.0, np.nan, np.nan, -3.0])
    assert falls(scores)[2] == falls(scores)[3] == falls(scores)[1]
    found = movements(np.array([0.5, np.nan, 0.6]), np.array([np.nan, np.nan, 0.08]), np.full(3, 0.03))
    assert np.isnan(found[:2]).all() and found[2] == pytest.approx(0.1 / np.hypot(0.04, 0.03))


def test_a_rising_curve_gives_no_evidence_of_a_fall():
    values = np.linspace(0.25, 0.9, 40) + 0.003 * np.tile([1, -1], 20)
    assert falls(movements(values, np.full(40, 0.02), np.full(40, 0.01))).max() < 1


def test_how_restless_a_run_is_is_learned_from_what_came_before():
    rng = np.random.default_rng(0)
    risen = np.ones((8, 30), dtype=bool)
    quiet, loud = (0.6 + np.cumsum(size * rng.standard_normal((8, 30)), axis=1) for size in (0.005, 2 * USUAL))
    assert restlessness(quiet, risen)[:2].tolist() == [USUAL, USUAL], "nothing is known yet"
    assert restlessness(quiet, risen)[-1] < 0.6 * USUAL and 2 * USUAL > restlessness(loud, risen)[-1] > 1.3 * USUAL
    assert restlessness(np.cumsum(np.abs(quiet), axis=1), risen)[-1] == USUAL, "learning is no unrest"
    assert restlessness(loud, ~risen)[-1] == USUAL, "what has not risen says nothing"
    fallen = quiet.copy()
    fallen[3, -1] = 0
    assert restlessness(fallen, risen)[-1] == restlessness(quiet, risen)[-1], "what is judged has no say"
    fallen[3, -2:] = 0
    assert restlessness(fallen, risen)[-1] < USUAL, "one fall does not make it deaf to the next"


def test_a_run_that_calms_down_is_watched_more_closely():
    rng = np.random.default_rng(1)
    size = np.where(np.arange(40) < 15, 2 * USUAL, 0.004)
    values = 0.5 + np.cumsum(size * rng.standard_normal((8, 40)), axis=1)
    found = restlessness(values, np.ones((8, 40), dtype=bool))
    assert found[14] > 2 * found[-1]
