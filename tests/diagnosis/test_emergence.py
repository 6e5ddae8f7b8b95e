"""When abilities emerged, in which order, and which is behind."""

import numpy as np
import pytest

from radar_callback.diagnosis import Kind, diagnose, findings_of
from radar_callback.diagnosis.emergence import ABOVE, emerged
from radar_callback.diagnosis.series import series_of
from tests.diagnosis.runs import CURVES, history, rising


def true_onset(curve, evaluations=30):
    return next((t for t in range(evaluations) if curve(np.float64(t)) - 0.25 >= ABOVE), None)


@pytest.mark.parametrize("seed", range(5))
def test_onsets_are_within_an_evaluation_of_the_truth(seed):
    series = series_of(history(30, seed=seed))
    for name, curve in CURVES.items():
        truth, found = true_onset(curve), emerged(series[name])
        assert (truth is None) == (found is None), name
        assert truth is None or abs(found - truth) <= 1, name


def test_what_has_come_and_gone_has_not_emerged():
    def change(name, t, value):
        return 0.25 if name == "colour" and t > 15 else value

    assert emerged(series_of(history(20, change=change))["colour"]) is None
    assert emerged(series_of(history(16, change=change))["colour"]) is not None


def test_the_interval_of_an_onset_holds_the_truth_and_is_wider_where_the_curve_is_slow():
    curves = {f"fast_{i}": rising(0.6, 6 + i, 0.4) for i in range(8)} | {
        f"slow_{i}": rising(0.6, 8 + i, 4) for i in range(8)
    }
    found = {one.name: one for one in diagnose(history(30, curves=curves, every=1)).emergence}
    inside = [
        found[name].onset_low - 1 <= true_onset(curve) <= found[name].onset_high + 1 for name, curve in curves.items()
    ]
    assert sum(inside) >= 15
    width = {name: one.onset_high - one.onset_low for name, one in found.items()}
    fast, slow = ([width[f"{kind}_{i}"] for i in range(8)] for kind in ("fast", "slow"))
    assert np.mean(slow) > np.mean(fast) + 0.5


def test_few_items_widen_the_interval():
    curves = {"colour": rising(0.6, 12, 3), "shape": rising(0.6, 12, 3)}
    records = history(30, curves=curves, every=1)
    for record in records:
        record["abilities"]["shape"]["se"] = 0.06
    found = {one.name: one for one in diagnose(records).emergence}
    width = {name: one.onset_high - one.onset_low for name, one in found.items()}
    assert width["shape"] >= width["colour"] + 3


def test_the_order_and_how_sure_it_is():
    curves = {
        "first": rising(0.6, 3, 0.5),
        "second": rising(0.6, 9, 0.5),
        "also_second": rising(0.6, 9.2, 1),
        "never": rising(0, 3),
    }
    found = {one.name: one for one in diagnose(history(30, curves=curves)).emergence}
    assert next(iter(found)) == "first" and list(found)[-1] == "never"
    assert (found["first"].rank, found["first"].rank_low, found["first"].rank_high) == (1, 1, 1)
    assert found["never"].rank is found["never"].onset is found["never"].half_rise is None
    assert found["second"].rank_low >= 2 and found["second"].rank_high <= 3


def test_half_rise_level_slope_and_plateau():
    found = {one.name: one for one in diagnose(history(30)).emergence}
    colour, count = found["colour"], found["count"]
    assert colour.half_rise in (300, 400) and colour.level == pytest.approx(0.9, abs=0.02) and colour.plateau
    assert abs(colour.slope) < 3 * colour.slope_se + 0.01
    steep = {one.name: one for one in diagnose(history(8)).emergence}["shape"]
    assert not steep.plateau and steep.slope == pytest.approx(0.6 / 1.5 / 4 * 10, rel=0.4), "SDS a thousand steps"
    assert count.onset is not None and count.progress < 0.2


def test_the_bottleneck_is_the_one_behind_its_peers():
    assert diagnose(history(30)).bottleneck.name == "maths"
    assert diagnose(history(1)).bottleneck is not None and diagnose([]).bottleneck is None


def test_notes_on_how_abilities_develop():
    curves = {**CURVES, "stuck": rising(0.3, 3), "size": rising(0.74, 2, 0.5)}
    curves["shape"] = rising(0.6, 17, 1)
    notes = [one for one in findings_of(history(30, curves=curves)) if not one.is_alarm]
    told = {(one.kind, one.subject) for one in notes}
    assert (Kind.STALL, "stuck") in told and (Kind.SATURATED, "size") in told and (Kind.AT_CHANCE, "maths") in told
    assert not {(Kind.STALL, "maths"), (Kind.SATURATED, "colour"), (Kind.AT_CHANCE, "colour")} & told
    assert len(told) == len(notes), "each once"


def test_asymmetry_over_time():
    found = diagnose(history(30))
    assert found.asymmetry[0] == pytest.approx(0, abs=0.1) and found.asymmetry[-1] > 0.4
    one_group = [{**record, "groups": {"perception": record["groups"]["perception"]}} for record in history(5)]
    assert np.isnan(diagnose(one_group).asymmetry).all()
