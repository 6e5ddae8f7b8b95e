"""Items come encoded in the order of the plan, whoever prepares them and whatever is remembered."""

import os
import random

import numpy as np
import pytest
import torch

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.errors import ItemError, Reason
from radar_callback.scoring import source as module
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.source import EncodedBenchmark, spare_cores
from tests.helpers import tiny

N = 80
BATCHES = [(3, 1, 2), (), tuple(range(10, N)), (0,)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=N)


@pytest.fixture(scope="module")
def encoder():
    return SampleEncoder(tiny.llava_processor(), tiny.llava().config)


def source(folder, encoder, **settings):
    return EncodedBenchmark(Benchmark(folder), encoder, **{"cache_bytes": 2**30, **settings})


def same(a, b):
    if isinstance(a, ItemError):
        return (a.reason, a.detail) == (b.reason, b.detail)
    tails = all(torch.equal(x.ids, y.ids) and x.scored == y.scored for x, y in zip(a.tails, b.tails, strict=True))
    tensors = [(a.prefix, b.prefix), (a.vision, b.vision)]
    return a.prompt == b.prompt and tails and all(torch.equal(x[name], y[name]) for x, y in tensors for name in x)


class Failing:
    """Refuses an item, as a damaged image would."""

    def __init__(self, encode):
        self.encode = encode

    def __call__(self, sample):
        if sample.key.endswith("12"):
            raise ItemError(Reason.BAD_IMAGE, f"item {sample.key!r} is no image")
        return self.encode(sample)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_give_what_this_process_would_and_errors_too(folder, encoder, workers):
    wanted = list(source(folder, Failing(encoder), workers=0).stream(BATCHES))
    made = source(folder, Failing(encoder), workers=workers)
    got = list(made.stream(BATCHES))
    assert [len(batch) for batch in got] == [3, 0, N - 10, 1]
    pairs = [pair for a, b in zip(wanted, got, strict=True) for pair in zip(a, b, strict=True)]
    assert all(same(a, b) for a, b in pairs)
    assert sum(isinstance(b, ItemError) for _, b in pairs) == 1
    # What stays here takes no shared memory, of which a container may have little.
    assert not any(x.is_shared() for kept in shelved(made).values() for x in kept.vision.values())


def shelved(source):
    """What is remembered, by position."""
    return {index: value for index, (value, _) in source._shelf._kept.items()}


def test_workers_are_only_started_for_what_is_not_remembered(folder, encoder, monkeypatch):
    made = source(folder, encoder, workers=1)
    first = list(made.stream(BATCHES))
    monkeypatch.setattr(module, "DataLoader", None)
    again = list(made.stream(BATCHES))
    assert all(x is y for a, b in zip(first, again, strict=True) for x, y in zip(a, b, strict=True))
    monkeypatch.undo()
    assert len(shelved(made)) == len({i for batch in BATCHES for i in batch})


def test_the_cache_keeps_what_came_first_within_its_bound(folder, encoder):
    one = source(folder, encoder, workers=0)
    size = one[0].nbytes + one[1].nbytes
    bounded = source(folder, encoder, workers=0, cache_bytes=size)
    list(bounded.stream([(0, 1, 2, 3)]))
    assert list(shelved(bounded)) == [0, 1] and bounded._shelf.left == 0
    assert bounded[3].prompt == one[3].prompt


@pytest.mark.parametrize("workers", [0, 2])
def test_no_random_stream_moves(folder, encoder, workers):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(source(folder, encoder, workers=workers).stream(BATCHES))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_nothing_is_left_in_the_environment_and_nothing_is_warned(folder, encoder, monkeypatch, capfd):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    list(source(folder, encoder, workers=1).stream(BATCHES))
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert "parallelism" not in capfd.readouterr().err


def test_pixels_come_in_the_models_precision(folder, encoder):
    made = source(folder, encoder, workers=0)
    before = made[0]
    made.cast(torch.bfloat16)
    after = made[0]
    assert after.vision["pixel_values"].dtype == torch.bfloat16
    assert torch.equal(after.vision["pixel_values"], before.vision["pixel_values"].to(torch.bfloat16))
    assert after.prefix["input_ids"].dtype == torch.int64


def test_an_evaluation_with_workers_is_the_one_without(folder):
    results = [
        RadarEvaluator(tiny.llava().eval(), tiny.llava_processor(), folder, workers=n).evaluate(per_sample=True)
        for n in (0, 2)
    ]
    assert results[0].items == results[1].items
    assert 0 <= results[1].waited <= results[1].seconds


def test_a_rank_takes_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert spare_cores() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert spare_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert spare_cores() == 1
