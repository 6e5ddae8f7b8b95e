"""What breaks is found, named and dated; what does not break is left alone."""

import pytest

from radar_callback.diagnosis import Cause, Kind, alarms_of
from tests.diagnosis.runs import CURVES, history, rising


def test_healthy_runs_give_no_alarm():
    alarmed = [seed for seed in range(40) if alarms_of(history(30, seed=seed))]
    assert alarmed == []


def test_an_ability_that_falls_is_named_with_its_size_and_step():
    def change(name, t, value):
        return value - 0.2 if name == "colour" and t >= 12 else value

    (alarm,) = alarms_of(history(change=change))
    assert (alarm.kind, alarm.subject, alarm.cause) == (Kind.REGRESSION, "colour", Cause.ABILITY_DATA)
    assert 1200 <= alarm.step <= 1400 and alarm.since == 1100, (
        "found within three evaluations, dated to the last good one"
    )
    assert alarm.low < -0.2 < alarm.high and "colour has fallen" in alarm.message and "colour channels" in alarm.message


def test_a_slow_fall_is_found_too():
    def change(name, t, value):
        return value - 0.03 * max(0, t - 12) if name == "shape" else value

    alarms = alarms_of(history(30, change=change))
    assert {alarm.subject for alarm in alarms} == {"shape"} and 1300 < alarms[0].step <= 2700


def test_what_is_found_once_is_told_once():
    def change(name, t, value):
        return value - 0.3 if name == "colour" and t >= 12 else value

    assert len(alarms_of(history(40, change=change))) == 1


def test_an_ability_at_chance_has_nothing_to_lose():
    def change(name, t, value):
        return value - 0.1 if name == "maths" and t >= 12 else value

    assert alarms_of(history(change=change)) == []


def collapsed(name, t, value):
    return 0.25 if t >= 12 else value


def test_abilities_that_fall_together_are_one_finding():
    alarms = alarms_of(history(change=collapsed, gain=lambda t: 0.2 if t < 12 else 0.0))
    assert [alarm.kind for alarm in alarms] == [Kind.COLLAPSE, Kind.BLIND]
    assert alarms[0].step == 1200 and alarms[0].since == 1100 and set(alarms[0].others) >= {"colour", "shape", "size"}


@pytest.mark.parametrize(("leap", "cause"), [(0.9, Cause.OPTIMIZATION), (0.1, Cause.IMAGE_NOT_USED)])
def test_weights_that_leapt_tell_one_cause_of_a_collapse_from_another(leap, cause):
    records = history(change=collapsed, moved=lambda part, t: leap if t == 12 else 0.1)
    assert alarms_of(records)[0].cause == cause


def test_two_of_many_abilities_are_no_collapse():
    def change(name, t, value):
        return value - 0.3 if name in ("colour", "shape") and t >= 12 else value

    alarms = alarms_of(history(change=change))
    assert {alarm.kind for alarm in alarms} == {Kind.REGRESSION}
    assert {name for alarm in alarms for name in (alarm.subject, *alarm.others)} == {"colour", "shape"}


def test_a_part_that_stops_is_named():
    records = history(moved=lambda part, t: 0.0 if part == "projector" and t >= 9 else 0.1)
    (alarm,) = alarms_of(records)
    assert (alarm.kind, alarm.subject, alarm.step, alarm.cause) == (
        Kind.PART_STOPPED,
        "projector",
        900,
        Cause.NO_GRADIENT,
    )


@pytest.mark.parametrize(
    "moved",
    [
        lambda part, t: 0.0 if part == "vision_tower" else 0.1,  # frozen from the start, as in many recipes
        lambda part, t: 0.1 * 0.7**t,  # the learning rate decays
        lambda part, t: 0.0 if t > 10 else 0.1,  # nothing moves any more: the run is over
    ],
)
def test_parts_that_are_meant_to_be_still_are_no_alarm(moved):
    assert alarms_of(history(moved=moved)) == []


def test_a_model_that_never_looks_is_found_and_one_that_begins_late_is_not_told_twice():
    (alarm,) = alarms_of(history(gain=lambda t: 0.0))
    assert alarm.kind == Kind.BLIND and alarm.step == 1000 and alarm.low < 0 < alarm.high
    assert alarms_of(history(gain=lambda t: 0.3 if t > 8 else 0.0)) == []
    again = alarms_of(history(30, gain=lambda t: 0.0 if t < 14 or t > 22 else 0.3))
    assert [alarm.step for alarm in again] == [1000, 2400]


@pytest.mark.parametrize("evaluations", [11, 30])
def test_a_model_that_has_learned_nothing_yet_is_not_called_blind(evaluations):
    """Every healthy run begins at chance, and looks at nothing there."""
    flat = dict.fromkeys(CURVES, lambda t: 0.25 + 0 * t)
    assert alarms_of(history(evaluations, curves=flat, gain=lambda t: 0.0)) == []
    # Abilities that rise without their images being worth anything, as by the wording of their items, are another matter.
    by_words = {**flat, "colour": rising(0.5, 15), "size": rising(0.5, 15)}
    (alarm,) = alarms_of(history(30, curves=by_words, gain=lambda t: 0.0))
    assert alarm.kind == Kind.BLIND and 1300 <= alarm.step <= 1700


def test_a_model_whose_first_abilities_owe_all_to_images_is_not_called_blind():
    """The demo's first 60 steps: one of many abilities rises, by its images, and the mean of all by next to nothing."""
    curves = {**dict.fromkeys(CURVES, lambda t: 0.25 + 0 * t), "size": lambda t: 0.25 + 0.012 * t}
    assert alarms_of(history(11, curves=curves, gain=lambda t: 0.0015 * t)) == []
    # The same later on: the mean has risen by 0.07, and images are worth as much.
    curves["colour"] = curves["size"]
    assert alarms_of(history(20, curves=curves, gain=lambda t: 0.003 * t)) == []


def other_items_from(records, t, jump, moved):
    """From t on all abilities score `jump` more because of other items, and moved by `moved`."""
    for i, record in enumerate(records):
        record["subset"] = "more" if i >= t else "few"
        for name, row in record["abilities"].items():
            row["sds"] += jump + moved if i >= t else 0.0
            if i == t:
                record["change"]["abilities"][name]["sds"] = moved
    return records


def test_other_items_are_no_fall_and_hide_none():
    calm = history(20)
    fewer = [(one.kind, one.step) for one in alarms_of(other_items_from(history(20), 12, -0.2, 0.0))]
    assert fewer == [(one.kind, one.step) for one in alarms_of(calm)] == []
    (fall,) = alarms_of(other_items_from(history(20), 12, 0.2, -0.2))
    assert fall.kind == Kind.COLLAPSE and fall.step == 1200 and fall.size == pytest.approx(-0.2, abs=0.03)
    unknown = other_items_from(history(20), 12, -0.2, 0.0)
    del unknown[12]["change"]
    assert alarms_of(unknown) == [], "without item scores nothing is said of the step between them"


def test_what_was_found_stays_found_as_the_run_goes_on():
    def change(name, t, value):
        return value - 0.2 if name == "colour" and t >= 12 else value

    records = history(30, change=change)
    for length in range(15, 30):
        assert alarms_of(records[:length]) == [one for one in alarms_of(records) if one.step <= 100 * (length - 1)]


def test_histories_without_item_scores_weights_or_control_do():
    def change(name, t, value):
        return value - 0.3 if name == "colour" and t >= 12 else value

    plain = [{k: v for k, v in r.items() if k not in ("change", "moved", "image_gain")} for r in history(change=change)]
    assert [alarm.subject for alarm in alarms_of(plain)] == ["colour"]
    assert alarms_of([]) == alarms_of(plain[:1]) == []
