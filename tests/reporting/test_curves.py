import math

from radar_callback.reporting.curves import curves, group_curves, members, of_benchmark, overall_curve
from tests.helpers.evaluations import evaluation, grown, history


def test_each_value_stands_at_its_step_whatever_the_order_of_the_records():
    records = history([400, 0, 200])
    line = curves(records)["colour"]
    assert line.steps == (0, 200, 400)
    assert line.sds == tuple(grown("colour", step) for step in line.steps)
    assert line.chance == (0.5, 0.5, 0.5)
    assert group_curves(records)["reasoning"].sds[0] == records[1]["groups"]["reasoning"]["sds"]
    assert overall_curve(records).se[2] == records[0]["overall"]["se"]


def test_benchmarks_are_never_mixed():
    records = [*history([0, 10]), evaluation(5, {"g": ["x"]}, benchmark="other", sds=lambda *_: 0.1).to_record()]
    assert curves(records)["colour"].steps == (0, 10) and "x" not in curves(records)
    assert curves(records, "other")["x"].steps == (5,)
    assert curves([]) == {} and of_benchmark([]) == []


def test_an_ability_without_a_score_or_without_a_row_is_a_gap():
    records = history([0, 10, 20], sds=lambda name, step: math.nan if (name, step) == ("shape", 10) else 0.6)
    del records[2]["abilities"]["size"]
    lines = curves(records)
    assert lines["shape"].sds[0] == 0.6 and math.isnan(lines["shape"].sds[1])
    assert math.isnan(lines["size"].sds[2]) and math.isnan(lines["size"].chance[2])
    assert members(records)["perception"][:3] == ["colour", "shape", "size"]
