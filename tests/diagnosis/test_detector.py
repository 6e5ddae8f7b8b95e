"""Falls are found soon, and seldom where there are none, however often one looks."""

import numpy as np
import pytest

from radar_callback.diagnosis.detector import JITTER, falls, movements, noise, threshold


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
    found = movements(np.array([0.5, np.nan, 0.6]), np.array([np.nan, np.nan, 0.03]))
    assert np.isnan(found[:2]).all() and found[2] == pytest.approx(0.1 / np.hypot(0.03, JITTER))


def test_a_rising_curve_gives_no_evidence_of_a_fall():
    values = np.linspace(0.25, 0.9, 40) + 0.003 * np.tile([1, -1], 20)
    assert falls(movements(values, np.full(40, 0.02))).max() < 1


def test_the_noise_of_a_run_is_learned_from_what_came_before():
    rng = np.random.default_rng(0)
    quiet, loud = (size * rng.standard_normal((18, 30)) for size in (0.5, 2.0))
    assert noise(quiet)[0] == noise(loud)[0] == 1, "nothing is known yet"
    assert noise(quiet)[-1] == pytest.approx(0.5, abs=0.1) and noise(loud)[-1] == pytest.approx(1.8, abs=0.25)
    rising = np.abs(quiet) * 9
    assert noise(rising)[-1] == 1, "learning is no noise"
    fallen = quiet.copy()
    fallen[3, -1] = -40
    assert noise(fallen)[-1] == noise(quiet)[-1], "what is judged has no say"
