"""The score against arithmetic written out by hand, and its promises about masks, targets and failures."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radar_callback.functional import candidate_probabilities, discrimination_success, soft_discrimination_score

finite = st.floats(-50, 50)


def by_hand(scores: list[float], target: int) -> float:
    return 1 / sum(math.exp(s - scores[target]) for s in scores)


@given(st.lists(finite, min_size=1, max_size=10), st.data())
def test_agrees_with_the_formula(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    got = soft_discrimination_score(torch.tensor([scores], dtype=torch.float64), target=torch.tensor([target]))
    assert got.item() == pytest.approx(by_hand(scores, target), rel=1e-12)


@given(st.lists(finite, min_size=2, max_size=6), st.floats(-100, 100))
def test_a_constant_added_to_all_candidates_changes_nothing(scores, constant):
    plain = torch.tensor([scores], dtype=torch.float64)
    torch.testing.assert_close(
        soft_discrimination_score(plain + constant), soft_discrimination_score(plain), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("filler", [0.0, 1e30, -1e30, math.nan, math.inf, -math.inf])
def test_what_stands_behind_the_mask_has_no_influence(filler):
    scores = torch.tensor([[1.0, 2.0, filler], [filler, 3.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    got = soft_discrimination_score(scores, mask, torch.tensor([0, 1]))
    assert got.tolist() == pytest.approx([by_hand([1, 2], 0), by_hand([3, 1], 0)])
    assert discrimination_success(scores, mask, torch.tensor([0, 1])).tolist() == [False, True]
    assert candidate_probabilities(scores, mask)[~mask].tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_an_item_that_is_not_finite_has_no_score(bad, column):
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scores[1, column] = bad
    got = soft_discrimination_score(scores)
    assert got[0] == pytest.approx(by_hand([1, 0], 0))
    assert got[1].isnan()
    assert discrimination_success(scores).tolist() == [True, False]


def test_a_tie_counts_as_success_wherever_the_target_stands():
    scores = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert discrimination_success(scores, target=torch.tensor([0, 1, 0])).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_widened(dtype):
    got = soft_discrimination_score(torch.tensor([[3.0, 1.0]], dtype=dtype))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.item() == pytest.approx(by_hand([3, 1], 0), abs=1e-6)


def test_large_logits_do_not_overflow():
    assert soft_discrimination_score(torch.tensor([[1e4, 0.0], [0.0, 1e4]])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": torch.zeros(3)}, r"`scores` of shape \[N, K\]"),
        ({"scores": torch.zeros(3, 0)}, r"K > 0"),
        ({"scores": torch.zeros(3, 2, dtype=torch.long)}, "floating point"),
        ({"scores": torch.zeros(3, 2), "mask": torch.ones(3, 2)}, "`mask` to be boolean"),
        ({"scores": torch.zeros(3, 2), "mask": torch.ones(2, 2, dtype=torch.bool)}, r"shape \[3, 2\]"),
        ({"scores": torch.zeros(3, 2), "target": torch.zeros(3)}, "integer tensor"),
        ({"scores": torch.zeros(3, 2), "target": torch.zeros(2, dtype=torch.long)}, r"integer tensor \[3\]"),
        ({"scores": torch.zeros(3, 2), "target": torch.tensor([0, 2, 0])}, "row 1 has target 2"),
        ({"scores": torch.zeros(1, 2), "mask": torch.tensor([[True, False]]), "target": torch.tensor([1])}, "target 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_discrimination_score(**arguments)
