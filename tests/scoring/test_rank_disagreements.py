"""Ranks that would score other things, fall out of step or hold one model together: found, said on all of them, nobody waits."""

import contextlib
import logging
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn

from radar_callback import Benchmark, RadarCallback, RadarEvaluator, ranks
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError, EvaluationError, ItemError, RanksApartError, Reason
from radar_callback.ranks import Ranks, Replica, exchange_device
from radar_callback.scoring import check
from tests.helpers import tiny
from tests.helpers.processes import on_ranks, trained_on
from tests.scoring.test_sharded import sharded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=13))


def evaluator(folder, model=None, **settings):
    return RadarEvaluator(
        model or tiny.llava(scale=1.0),
        tiny.llava_processor(),
        folder,
        **{"batch_tokens": 200, "workers": 0, **settings},
    )


def outcome(evaluate, rank, world=2):
    """What an evaluation gave or raised, and whether training goes on after it."""
    try:
        result = evaluate()
        found = (result.coverage, result.overall["sds"])
    except Exception as error:
        found = (type(error), str(error))
    return found, trained_on(rank, world)


@pytest.fixture(scope="module")
def alone(folder):
    result = evaluator(folder).evaluate(per_sample=True)
    return result.overall["sds"], {item.key: item.mean_logits for item in result.items}


# What ranks are about to score.


def _differing(rank, folders, settings):
    one = evaluator(folders[rank], **(settings if rank == 1 else {}))
    return [outcome(one.evaluate, rank) for _ in range(2)]


@pytest.mark.parametrize("how", ["content", "fewer", "none of its images", "settings", "prompt"])
def test_differing_benchmarks_or_arguments_are_said_on_all_ranks(how, folder, tmp_path, free_port):
    changed = {
        "content": lambda samples: tiny.samples(13, seed=9),
        "fewer": lambda samples: samples[:5],
        "none of its images": lambda samples: [s for s in samples if not s.images],
    }.get(how)
    if changed is not None:
        write_shards(changed(tiny.samples(13)), tmp_path / "other", name="tiny", groups=tiny.GROUPS, max_samples=9)
    folders = [folder, folder if changed is None else str(tmp_path / "other")]
    settings = {"settings": {"scorer": "cached", "batch_tokens": 100}, "prompt": {"prompt": "Q: {question}"}}.get(
        how, {}
    )
    error = BenchmarkError if changed is not None or how == "prompt" else ConfigError
    for found in on_ranks(_differing, free_port, folders, settings):
        for (kind, text), goes_on in found:
            assert kind is error and "Expected all 2 ranks to score the same" in text and goes_on
            assert how != "settings" or ("scorer (rank 1, here '" in text and "batch_tokens (rank 1, here " in text)
            assert how != "prompt" or ("tokens of the same items" in text and "prompt (rank 1" in text)


def _other_processor(rank, folder, what):
    processor = tiny.llava_processor()
    if rank == 1 and what == "mean":
        processor.image_processor.image_mean = [0.1, 0.1, 0.1]
    one = RadarEvaluator(tiny.llava(scale=1.0), processor, folder, batch_tokens=200, workers=0)
    if rank == 1 and what == "tokens":
        right = one._source.encoded

        def other(index):
            found = right(index)
            found.tails[0].ids[0] += 1
            return found

        one._source.encoded = other
    return outcome(one.evaluate, rank)


@pytest.mark.parametrize(
    ("what", "named"), [("mean", "pixels of the same items"), ("tokens", "tokens of the same items")]
)
def test_another_processor_on_one_rank_is_said_on_all(what, named, folder, free_port):
    for (kind, text), goes_on in on_ranks(_other_processor, free_port, folder, what):
        assert kind is BenchmarkError and named in text and goes_on


def _asked_otherwise(rank, folder):
    one = evaluator(folder)
    first = outcome(lambda: one.evaluate(share=1.0 if rank == 0 else 0.5), rank)
    second = outcome(lambda: one.evaluate(per_sample=rank == 0), rank)
    return first, second, outcome(one.evaluate, rank)


def test_ranks_that_are_asked_for_other_things_are_told_and_the_next_evaluation_is_whole(folder, alone, free_port):
    for first, second, third in on_ranks(_asked_otherwise, free_port, folder):
        assert first[0][0] is ConfigError and "share (rank 1" in first[0][1] and first[1]
        assert second[0][0] is ConfigError and "per_sample (rank 1" in second[0][1] and second[1]
        assert third == ((1.0, alone[0]), True)


# Forwards that all ranks take part in.


def _breaks(rank, folder, kind, which, call):
    ranks.ALIKE_WITHIN = 3.0
    model, processor = sharded("llava")
    calls = []

    def full(module, inputs):
        calls.append(1)
        if rank in which and len(calls) >= call:
            raise kind("no more")

    model.get_decoder().layers[1].register_forward_pre_hook(full)
    one = RadarEvaluator(model, processor, folder, batch_tokens=200, workers=0)
    begun = time.monotonic()
    callback = RadarCallback(folder)
    try:
        with callback._guarded("evaluating"):
            one.evaluate()
    except Exception as error:
        return type(error), str(error), time.monotonic() - begun
    return callback.errors, trained_on(rank), time.monotonic() - begun


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, AssertionError, ValueError])
@pytest.mark.parametrize("call", [1, 4])
def test_a_forward_that_breaks_on_one_rank_while_ways_are_compared_ends_the_run(kind, call, folder, free_port):
    found = on_ranks(_breaks, free_port, folder, kind, {1}, call)
    for rank, (error, text, seconds) in enumerate(found):
        assert error is RanksApartError and f"failed on rank {rank}" in text
        assert seconds < 15, "well before the others' patience ends"
    assert "no more" in found[1][1]


def _fails_alike(rank, folder, error):
    """The packed way, and it alone, fails in its middle, on every rank."""
    model, processor = sharded("llava")

    def refuses(module, args, kwargs):
        if model.config.get_text_config()._attn_implementation.startswith("radar_packed"):
            raise error("no such mask")

    model.get_decoder().layers[1].register_forward_pre_hook(refuses, with_kwargs=True)
    result = RadarEvaluator(model, processor, folder, batch_tokens=200, workers=0).evaluate()
    return result.scorer, result.coverage, trained_on(rank)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, torch.OutOfMemoryError])
def test_a_way_that_fails_on_all_ranks_alike_gives_way_to_the_next(error, folder, free_port):
    assert on_ranks(_fails_alike, free_port, folder, error) == [("cached", 1.0, True)] * 2


def _rounds_otherwise(rank, folder):
    """One rank finds the reference steady enough to stop early, the other does not."""
    right = check._rms
    check._rms = lambda a, b: right(a, b) + (0.5 if rank == 1 else 0.0)
    model, processor = sharded("llava")
    result = RadarEvaluator(model, processor, folder, batch_tokens=200, workers=0).evaluate()
    return result.scorer, result.coverage, trained_on(rank)


def test_ranks_that_round_otherwise_compare_equally_often(folder, free_port):
    first, second = on_ranks(_rounds_otherwise, free_port, folder)
    assert first == second and first[1:] == (1.0, True)


def _context_breaks(rank, folder, made):
    broken = []

    def context():
        if broken:
            raise OSError("the factory is shut")
        return contextlib.nullcontext()

    def after_the_first_batch(done, total):
        if rank == 1:
            broken.append(1)

    one = evaluator(folder, made(), scorer="packed", forward_context=context)
    first = outcome(lambda: one.evaluate(progress=after_the_first_batch), rank)
    broken.clear()
    return first, outcome(one.evaluate, rank)


def _plain():
    return tiny.llava(scale=1.0)


def _sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny.llava(scale=1.0)
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


@pytest.mark.parametrize("made", [_plain, _sharded])
def test_a_context_that_cannot_be_made_on_one_rank_ends_the_evaluation_on_all(made, folder, free_port):
    """Before anything was asked of the model, so that this rank can still make the forwards that others wait for."""
    for rank, (((kind, text), goes_on), then) in enumerate(on_ranks(_context_breaks, free_port, folder, made)):
        assert kind is EvaluationError, text
        assert "failed on 1 of 2 ranks" in text and goes_on
        assert ("the factory is shut" in text) == (rank == 1)
        assert then[0][0] == 1.0 and then[1]


# Ranks that hold one model together.


def _split_by_transformers(rank, folder, saved, unreadable):
    from transformers import LlavaForConditionalGeneration
    from transformers.distributed.configuration_utils import DistributedConfig

    model = LlavaForConditionalGeneration.from_pretrained(
        saved, distributed_config=DistributedConfig(tp_size=2), dtype=torch.float32
    )
    one = evaluator(folder, model, blind_share=0)
    right = one._source.encoded
    if rank == 1:
        one._source.encoded = lambda i: ItemError(Reason.UNREADABLE, "gone") if i in unreadable else right(i)
    result = one.evaluate(per_sample=True)
    return result.failures, {item.key: item.mean_logits for item in result.items}, trained_on(rank)


@pytest.mark.parametrize("unreadable", [(), (0, 6)])
def test_what_transformers_splits_is_scored_as_a_whole(unreadable, folder, alone, free_port, tmp_path):
    """Also where one of the two ranks cannot read what the other can: both leave it out."""
    tiny.llava(scale=1.0).save_pretrained(tmp_path)
    keys = {Benchmark(folder).items[i].key for i in unreadable}
    for failures, got, goes_on in on_ranks(_split_by_transformers, free_port, folder, str(tmp_path), unreadable):
        assert failures == ({"unreadable": len(unreadable)} if unreadable else {})
        assert got.keys() == alone[1].keys() - keys and goes_on
        for key, values in got.items():
            assert values == pytest.approx(alone[1][key], abs=1e-4)


class HalfOfAnMlp(nn.Module):
    """Half of the hidden units on each of two ranks, as Megatron does it: plain weights, one sum in the forward."""

    def __init__(self, mlp, rank):
        super().__init__()
        for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            half = getattr(mlp, name).weight.detach().chunk(2, dim)[rank].clone()
            setattr(self, name, nn.Parameter(half))

    def forward(self, hidden):
        gate, up = (hidden @ weight.T for weight in (self.gate_proj, self.up_proj))
        part = (nn.functional.silu(gate) * up) @ self.down_proj.T
        dist.all_reduce(part)
        return part


def _split_by_hand(rank, folder, replica):
    model = tiny.llava(scale=1.0)
    for layer in model.get_decoder().layers:
        layer.mlp = HalfOfAnMlp(layer.mlp, rank)
    one = evaluator(folder, model, replica=replica and Replica(0, 1, speaks=rank == 0))
    return outcome(one.evaluate, rank)


def test_tensor_parallelism_by_hand_is_refused_unless_it_is_told(folder, alone, free_port):
    for (kind, text), goes_on in on_ranks(_split_by_hand, free_port, folder, False):
        assert kind is ConfigError and "Pass replica=Replica(index, count, speaks)" in text and goes_on
    for (coverage, sds), goes_on in on_ranks(_split_by_hand, free_port, folder, True):
        assert coverage == 1 and sds == pytest.approx(alone[0], abs=1e-5) and goes_on


class Meeting(nn.Module):
    """An MLP at which ranks exchange something, as experts do that live on several: plain weights, one's own result."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden):
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([hidden.numel() // hidden.shape[-1]]))
        return self.mlp(hidden)


def _meets(rank, folder, settings, where):
    model = tiny.llava(scale=1.0)
    layers = model.get_decoder().layers if where == "text" else model.get_encoder(modality="image").encoder.layers
    for layer in layers:
        layer.mlp = Meeting(layer.mlp)
    if where == "tower":
        model.get_encoder(modality="image").requires_grad_(False)
    one = evaluator(folder, model, **settings)
    return [outcome(one.evaluate, rank) for _ in range(3)]


@pytest.mark.parametrize("where", ["text", "tower"])
@pytest.mark.parametrize("settings", [{}, {"scorer": "packed"}, {"collective_forward": True}])
@pytest.mark.parametrize("items", [13, 12])
def test_forwards_that_exchange_something_are_made_by_all(where, settings, items, tmp_path, free_port):
    """Each of some numbers of items leaves another rank without a batch at the end; a frozen tower is not remembered."""
    folder = str(tiny.benchmark(tmp_path / "bench", n=items))
    wanted = (1.0, evaluator(folder).evaluate().overall["sds"])
    for found in on_ranks(_meets, free_port, folder, settings, where):
        assert found == [(wanted, True)] * 3


def _declared_on_one(rank, folder):
    return outcome(evaluator(folder, collective_forward=rank == 0).evaluate, rank)


def test_ranks_agree_on_whether_forwards_are_collective(folder, free_port):
    for (kind, text), goes_on in on_ranks(_declared_on_one, free_port, folder):
        assert kind is ConfigError and "collective_forward" in text and goes_on


# Some of the ranks, and where they exchange.


def _in_a_group(rank, folder):
    group = dist.new_group([1, 2])
    one = evaluator(folder, process_group=group)
    if rank == 0:
        with pytest.raises(ConfigError, match="rank 0 is not"):
            one.evaluate()
        found = None
    else:
        found = one.evaluate(per_sample=True)
        found = found.coverage, {item.key: item.mean_logits for item in found.items}
    return found, trained_on(rank, world=3)


def test_a_group_of_ranks_evaluates_without_the_others(folder, alone, free_port):
    outside, *inside = on_ranks(_in_a_group, free_port, folder, world=3)
    assert outside == (None, True)
    for (coverage, got), goes_on in inside:
        assert coverage == 1 and got == alone[1] and goes_on


def test_tensors_are_exchanged_where_the_group_can(monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda group=None: "cuda:nccl")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert exchange_device(cpu) == torch.device("cuda", 3) and exchange_device(gpu) == gpu
    monkeypatch.setattr(dist, "get_backend_config", lambda group=None: "cpu:gloo,cuda:nccl")
    assert exchange_device(cpu) == cpu and exchange_device(gpu) == gpu
    monkeypatch.setattr(dist, "get_backend_config", lambda group=None: "cpu:gloo")
    assert exchange_device(gpu) == cpu


def test_objects_are_exchanged_on_that_device_too(monkeypatch):
    one = Ranks(torch.device("cpu"))
    one.size, one.exchange_device = 2, torch.device("cuda", 3)
    seen = []

    @contextlib.contextmanager
    def device(chosen):
        seen.append(chosen)
        yield

    def gathered(lists, values, group):
        assert seen == [one.exchange_device]
        lists[:] = [values, ["b"]]

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(dist, "all_gather_object", gathered)
    assert one.gather(["a"]) == ["a", "b"]


# Functions of the user's, and what a rank without items says.


def _asked_too_much(rank, folder, name):
    said = []
    for module in ("evaluator", "rounds"):
        logging.getLogger(f"radar_callback.{module}").addFilter(lambda record: said.append(record.getMessage()) or True)

    def raises(*args):
        if rank == 0:
            raise BrokenPipeError("the terminal is gone")
        return False

    begun = time.monotonic()
    found = outcome(lambda: evaluator(folder).evaluate(**{name: raises}), rank)
    return found, [text for text in said if "terminal is gone" in text], time.monotonic() - begun


@pytest.mark.parametrize("name", ["progress", "cancelled"])
def test_a_function_of_the_users_that_raises_is_dropped(name, folder, alone, free_port):
    found = on_ranks(_asked_too_much, free_port, folder, name)
    for rank, (result, said, seconds) in enumerate(found):
        assert result == ((1.0, alone[0]), True) and seconds < 20
        assert len(said) == (rank == 0)


def _few(rank, folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluator(folder, scorer="packed").evaluate()
    return result.coverage, [str(one.message) for one in caught if "update" in str(one.message)]


def test_a_rank_that_counts_nothing_warns_of_nothing(tmp_path, free_port):
    folder = str(tiny.benchmark(tmp_path / "one", n=1))
    assert on_ranks(_few, free_port, folder) == [(1.0, [])] * 2


def test_the_metric_alone_warns_of_nothing_either():
    from radar_callback import SoftDiscriminationScore

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = SoftDiscriminationScore(["colour"]).compute()
    assert report["overall"]["count"] == 0


def _unknown_memory(rank, folder):
    from radar_callback import evaluator as evaluators
    from radar_callback.scoring import setup

    def probed(scorer, group, device):
        if rank == 1:
            raise RuntimeError("no memory to be seen")
        return 1.0

    setup._bytes_a_token = probed
    evaluators.peak_bytes = lambda device: 0
    one = evaluator(folder, batch_tokens=None)
    right = one._ranks
    one._setup._tokens_that_fit = lambda ranks: 1024

    def on_accelerator():
        found = right()
        found.device = SimpleNamespace(type="cuda")
        return found

    one._ranks = on_accelerator
    return outcome(one.evaluate, rank)


def test_memory_that_cannot_be_measured_on_one_rank_ends_the_evaluation_on_all(folder, free_port):
    for rank, ((kind, text), goes_on) in enumerate(on_ranks(_unknown_memory, free_port, folder)):
        assert kind is EvaluationError and "could not be set up" in text and goes_on
        assert ("no memory to be seen" in text) == (rank == 1)
