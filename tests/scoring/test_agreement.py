"""What ranks say about what they are about to score, and what is made of it when they differ."""

import dataclasses
from functools import partial

import pytest
import torch

from radar_callback import Benchmark
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError
from radar_callback.ranks import Replica
from radar_callback.scoring import agreement
from radar_callback.scoring.agreement import Stands, benchmark_values, disagreement, item_values, stand
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.replicas import replica_from
from tests.helpers import tiny


@pytest.fixture(scope="module")
def encoded():
    encode = SampleEncoder(tiny.llava_processor(), tiny.llava().config)
    return [encode(sample) for sample in tiny.samples(8)]


def opened(samples, folder):
    write_shards(samples, folder, name="tiny", groups=tiny.GROUPS, max_samples=9)
    return Benchmark(folder)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    return benchmark_values(opened(tiny.samples(12), tmp_path_factory.mktemp("bench") / "a"))


def said(*ranks):
    """The error of rank 0, where each rank stands for `(benchmark values, options, items)`."""
    stands = [stand(*rank, changed=True, kinds=(True, True, True), held=frozenset()) for rank in ranks]
    return disagreement(Stands(torch.stack([one.row() for one in stands])), stands[0], "tiny")


def test_ranks_that_stand_for_the_same_agree(values, encoded):
    items = [item_values(one) for one in encoded]
    assert said((values, {"scorer": "auto"}, items), (values, {"scorer": "auto"}, items)) is None


@pytest.mark.parametrize(
    ("change", "named", "not_named"),
    [
        (lambda s: s[:9], "number of items (rank 1, here 12)", "keys"),
        (lambda s: s[::-1], "order of the items (rank 1)", "keys"),
        (lambda s: [dataclasses.replace(s[0], key="other"), *s[1:]], "items' keys (rank 1)", "order"),
        (
            lambda s: [dataclasses.replace(s[0], question="The square is"), *s[1:]],
            "items' text or files (rank 1)",
            "keys",
        ),
        # The file is the only thing that differs: as many pixels, as many characters.
        (
            lambda s: [dataclasses.replace(s[0], answer=s[0].answer[::-1]), *s[1:]],
            "items' text or files (rank 1)",
            "images",
        ),
    ],
)
def test_what_differs_between_two_copies_is_named(change, named, not_named, values, tmp_path):
    other = benchmark_values(opened(change(tiny.samples(12)), tmp_path / "b"))
    error = said((values, {}, []), (other, {}, []))
    assert isinstance(error, BenchmarkError) and named in str(error) and not_named not in str(error)
    assert str(error).startswith("Expected all 2 ranks to score the same benchmark 'tiny' in the same way")


def test_the_same_copy_in_another_folder_or_by_another_name_is_the_same(values, tmp_path):
    write_shards(tiny.samples(12), tmp_path / "elsewhere", name="staged-on-node-7", groups=tiny.GROUPS, max_samples=9)
    assert benchmark_values(Benchmark(tmp_path / "elsewhere")) == values


def test_the_ranks_that_are_unlike_most_are_named(values):
    ranks = [(values, {}, [])] * 5
    ranks[3] = ((11, *values[1:]), {}, [])
    assert "(rank 3, here 12)" in str(said(*ranks))


@pytest.mark.parametrize("library", agreement.LIBRARIES)
def test_another_version_on_one_rank_is_said(library, values, monkeypatch):
    healthy = stand(values, {}, [], changed=True, kinds=(True,) * 3, held=frozenset())
    module = __import__(library)
    monkeypatch.setattr(module, "__version__", "0.0.7")
    old = stand(values, {}, [], changed=True, kinds=(True,) * 3, held=frozenset())
    error = disagreement(Stands(torch.stack([healthy.row(), old.row()])), old, "tiny")
    name = "pillow" if library == "PIL" else library
    assert isinstance(error, BenchmarkError) and f"version of {name} (rank 1, here 0.0.7)" in str(error)


def test_arguments_that_differ_are_a_matter_of_configuration(values):
    error = said((values, {"share": 1.0, "prompt": "chat"}, []), (values, {"share": 0.5, "prompt": "plain"}, []))
    assert isinstance(error, ConfigError) and "share (rank 1, here 1.0)" in str(error) and "prompt" in str(error)


def style(sample, kind):
    return kind


def test_a_prompt_function_is_the_same_in_every_process(values):
    """Its address is not: a partial's text holds one."""
    first, second = partial(style, kind="a"), partial(style, kind="a")
    assert said((values, {"prompt": first}, []), (values, {"prompt": second}, [])) is None
    assert said((values, {"prompt": style}, []), (values, {"prompt": lambda sample: ""}, [])) is not None


def test_other_tokens_are_found_and_unreadable_items_are_none(values, encoded):
    first, second, *_ = (item_values(one) for one in encoded)
    assert "tokens of the same items (rank 1)" in str(said((values, {}, [first]), (values, {}, [second])))
    assert said((values, {}, [first]), (values, {}, [item_values(None)])) is None
    three = [(values, {}, [one]) for one in (item_values(None), first, second)]
    assert "tokens of the same items (rank 2)" in str(said(*three))


@pytest.mark.parametrize(("factor", "differs"), [(1 + 1e-4, False), (1.1, True), (-1.0, True)])
def test_pixels_that_are_prepared_otherwise_are_found_and_rounding_is_not(factor, differs, values, encoded):
    one = next(item for item in encoded if item.vision)
    pixels = {name: value * factor if value.is_floating_point() else value for name, value in one.vision.items()}
    other = dataclasses.replace(one, vision=pixels)
    error = said((values, {}, [item_values(one)]), (values, {}, [item_values(other)]))
    assert (error is not None) == differs
    assert not differs or "pixels of the same items (rank 1)" in str(error)


def test_which_ranks_hold_a_copy_together():
    alone = (-1, 0, 0)
    assert replica_from([alone, alone], 1, 1) is None
    pairs = [(0, 2, 5), (0, 2, 5), (2, 2, 6), (2, 2, 6)]
    found = [replica_from(pairs, rank, rank) for rank in range(4)]
    assert found == [Replica(0, 2, True), Replica(0, 2, False), Replica(1, 2, True), Replica(1, 2, False)]
    # Ranks 4 to 7 of a world evaluate; across nodes a copy lies on every second one.
    across = [(4, 2, 5), (5, 2, 6), (4, 2, 5), (5, 2, 6)]
    assert [replica_from(across, rank, rank + 4).index for rank in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize("held", [[(0, 2, 5), (-1, 0, 0)], [(0, 2, 5), (0, 2, 6)], [(0, 4, 5), (0, 4, 5)]])
def test_ranks_that_disagree_about_copies_are_refused(held):
    with pytest.raises(ConfigError, match="pass replica="):
        replica_from(held, 0, 0)
