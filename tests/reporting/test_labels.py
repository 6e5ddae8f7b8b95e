import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radar_callback.reporting.labels import declutter

positions = st.lists(st.floats(0, 1), max_size=25)
TINY = 1e-9


@given(positions, st.floats(0.001, 0.2))
def test_labels_keep_their_order_their_distance_and_the_frame(wanted, gap):
    placed = declutter(wanted, gap, 0.0, 1.0)
    room = min(gap, 1 / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for lower, upper in itertools.pairwise(order):
        assert placed[upper] - placed[lower] >= room - TINY
    assert all(-TINY <= y <= 1 + TINY for y in placed)


@given(positions, st.floats(0.001, 0.03))
def test_labels_that_do_not_collide_stay_where_they_are(wanted, gap):
    apart = sorted({round(y / (gap * 1.01)) for y in wanted})
    wanted = [n * gap * 1.01 for n in apart]
    assert declutter(wanted, gap, 0.0, 2.0) == pytest.approx(wanted)


@given(st.lists(st.floats(0.4, 0.6), min_size=2, max_size=6), st.floats(0.01, 0.06), st.randoms())
def test_no_other_arrangement_in_this_order_moves_labels_less(wanted, gap, random):
    placed = declutter(wanted, gap, 0.0, 1.0)

    def moved(ys):
        return sum((y - w) ** 2 for y, w in zip(ys, wanted, strict=True))

    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for _ in range(20):
        other, last = [0.0] * len(wanted), -1.0
        for i in order:
            last = other[i] = max(last + gap, placed[i] + random.uniform(-0.05, 0.05))
        assert moved(placed) <= moved(other) + TINY


def test_too_many_labels_are_spread_evenly():
    assert declutter([0.5] * 5, gap=1.0, low=0.0, high=1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert declutter([], 0.1, 0, 1) == []
    assert declutter([7.0], 0.1, 0, 1) == [1.0]
