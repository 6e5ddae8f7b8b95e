"""Batches hold every item once, whatever the ranks; ranks take the same number of turns."""

from hypothesis import given
from hypothesis import strategies as st

from radar_callback.scoring.plan import deal, form_batches

item = st.tuples(st.floats(1, 500), st.integers(2, 6), st.integers(0, 3))


@given(st.lists(item, max_size=60), st.integers(1, 3000), st.integers(1, 9))
def test_every_item_is_scored_exactly_once_at_any_world_size(items, max_tokens, world):
    lengths, rows, images = zip(*items, strict=True) if items else ((), (), ())
    batches = form_batches(lengths, rows, images, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(items)))
    turns = [list(deal(batches, rank, world)) for rank in range(world)]
    assert len({len(mine) for mine in turns}) == 1, "every rank makes the same number of forwards"
    dealt = [turn.batch for mine in turns for turn in mine if turn.batch is not None]
    assert sorted(i for batch in dealt for i in batch) == list(range(len(items)))
    assert sorted(dealt) == sorted(batches), "batches are dealt whole"


@given(st.lists(item, max_size=60), st.integers(1, 3000), st.integers(1, 9))
def test_a_round_is_of_one_kind_on_all_ranks(items, max_tokens, world):
    lengths, rows, images = zip(*items, strict=True) if items else ((), (), ())
    batches = form_batches(lengths, rows, images, max_tokens)
    turns = [list(deal(batches, rank, world, lambda batch: images[batch[0]] > 0)) for rank in range(world)]
    assert sorted(i for mine in turns for turn in mine for i in turn.batch or ()) == list(range(len(items)))
    for together in zip(*turns, strict=True):
        assert len({turn.kind for turn in together}) == 1
        assert {images[i] > 0 for turn in together for i in turn.batch or ()} == {together[0].kind}


@given(st.lists(item, min_size=1, max_size=60), st.integers(1, 3000))
def test_a_batch_keeps_to_its_bound_and_its_number_of_images_and_the_largest_come_first(items, max_tokens):
    lengths, rows, images = zip(*items, strict=True)
    batches = form_batches(lengths, rows, images, max_tokens)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * sum(rows[i] for i in batch) <= max_tokens
        assert len({images[i] for i in batch}) == 1
        assert [lengths[i] for i in batch] == sorted((lengths[i] for i in batch), reverse=True)
    costs = [max(lengths[i] for i in batch) * sum(rows[i] for i in batch) for batch in batches]
    assert costs == sorted(costs, reverse=True)


@given(st.lists(st.floats(1, 500), min_size=1, max_size=200), st.integers(2, 9))
def test_no_rank_has_more_than_a_batch_beyond_its_share(lengths, world):
    batches = form_batches(lengths, [1] * len(lengths), [1] * len(lengths), 600)
    costs = {batch: lengths[batch[0]] * len(batch) for batch in batches}
    work = [sum(costs[turn.batch] for turn in deal(batches, rank, world) if turn.batch) for rank in range(world)]
    assert max(work) <= sum(costs.values()) / world + max(costs.values())
