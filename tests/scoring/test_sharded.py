"""Models that need every rank in each forward: wrapped by DDP, or sharded by FSDP2, in two real processes."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from radar_callback import Benchmark, RadarCallback, RadarEvaluator
from radar_callback.errors import BenchmarkError, EvaluationError, ItemError, RanksApartError, Reason
from radar_callback.scoring.scorer import needs_every_rank
from tests.helpers import tiny
from tests.helpers.families import FAMILIES

WORLD = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=13))


def in_processes(work, port, *args):
    """Runs `work(rank, *args)` on every rank; its result on each."""
    context = mp.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, port, queue, work, args)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for outcome in found.values():
        if isinstance(outcome, BaseException):
            raise outcome
    return [found[rank] for rank in range(WORLD)]


def _rank(rank, port, queue, work, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        queue.put((rank, work(rank, *args)))
    except BaseException as error:
        queue.put((rank, error))
    dist.destroy_process_group()


def sharded(name, **settings):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, processor = FAMILIES[name].__wrapped__()
    mesh = init_device_mesh("cpu", (WORLD,))
    # The tower's blocks too: ranks whose batches have no images would not gather them, and wait for ever for those that do.
    blocks = [part for part in model.get_encoder(modality="image").modules() if isinstance(part, torch.nn.ModuleList)]
    for layer in [*model.get_decoder().layers, *(layer for part in blocks for layer in part)]:
        fully_shard(layer, mesh=mesh, **settings)
    fully_shard(model, mesh=mesh, **settings)
    return model, processor


def found(model, processor, folder, **settings):
    result = RadarEvaluator(model, processor, folder, batch_tokens=200, **settings).evaluate(per_sample=True)
    return result.scorer, result.failed, {item.key: item.mean_logits for item in result.items}


def alone(name, folder):
    model, processor = FAMILIES[name].__wrapped__()
    return found(model, processor, folder, scorer="reference")[2]


def _ddp(rank, name, folder):
    model, processor = FAMILIES[name].__wrapped__()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    assert needs_every_rank(wrapped)
    return found(wrapped, processor, folder)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_ddp(name, folder, free_port):
    bare = found(*FAMILIES[name].__wrapped__(), folder)
    for outcome in in_processes(_ddp, free_port, name, folder):
        assert repr(outcome) == repr(bare)
        assert outcome[0] == "packed"


def _fsdp(rank, name, folder, scorer):
    model, processor = sharded(name)
    outcome = found(model, processor, folder, scorer=scorer)
    # An evaluation before the first step must leave nothing that a backward would stumble over.
    model.train()
    text = torch.randint(5, 300, (2, 12))
    loss = model(input_ids=text, attention_mask=torch.ones_like(text), labels=text).loss
    loss.backward()
    assert all(p.grad is None or p.grad.to_local().isfinite().all() for p in model.parameters())
    return outcome


@pytest.mark.parametrize("scorer", ["auto", "cached", "reference"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_fsdp2(name, scorer, folder, free_port):
    wanted = alone(name, folder)
    for way, failed, got in in_processes(_fsdp, free_port, name, folder, scorer):
        assert way == ("packed" if scorer == "auto" else scorer)
        assert failed == 0 and got.keys() == wanted.keys()
        for key, values in got.items():
            assert values == pytest.approx(wanted[key], abs=1e-5)


def _fsdp_in_half(rank, folder):
    from torch.distributed.fsdp import MixedPrecisionPolicy

    model, processor = sharded("llava", mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    return found(model, processor, folder)


def test_fsdp2_in_mixed_precision(folder, free_port):
    wanted = alone("llava", folder)
    for way, failed, got in in_processes(_fsdp_in_half, free_port, folder):
        assert (way, failed) == ("packed", 0)
        worst = max(abs(a - b) for key in got for a, b in zip(got[key], wanted[key], strict=True))
        assert 1e-4 < worst < 0.2


def _one_rank_fails(rank, folder, inside, world_model):
    """A forward that raises on one rank only: all ranks say so, none waits."""
    model, processor = world_model()
    evaluator = RadarEvaluator(model, processor, folder, batch_tokens=200, scorer="packed")
    if rank == 1:
        from radar_callback.scoring.packed import PackedScorer

        right, calls = PackedScorer.predict, []

        def wrong(self, samples):
            calls.append(1)
            if len(calls) == 2:
                raise ValueError("this batch is cursed")
            return right(self, samples)

        PackedScorer.predict = wrong
    with pytest.raises(EvaluationError, match="failed on 1 of 2 ranks") as caught:
        evaluator.evaluate()
    assert ("cursed" in str(caught.value)) == (rank == 1)
    # The next one goes as if nothing had been.
    return evaluator.evaluate().coverage


def _bare():
    return FAMILIES["llava"].__wrapped__()


def _sharded():
    return sharded("llava")


@pytest.mark.parametrize("made", [_bare, _sharded])
def test_an_error_before_one_ranks_forward_ends_an_evaluation_on_all(made, folder, free_port):
    assert in_processes(_one_rank_fails, free_port, folder, False, made) == [1.0, 1.0]


def _breaks_inside(rank, folder):
    """A forward that all ranks are in fails on one of them: what that rank and the others then meet."""
    model, processor = sharded("llava")
    evaluator = RadarEvaluator(model, processor, folder, batch_tokens=200, scorer="packed")

    def full(module, inputs):
        raise torch.OutOfMemoryError("no more")

    if rank == 1:
        model.get_decoder().layers[1].register_forward_pre_hook(full)
    try:
        evaluator.evaluate()
    except Exception as error:
        return type(error), str(error)


def test_an_error_inside_a_forward_of_all_ranks_is_one_that_nobody_may_swallow(folder, free_port):
    first, second = in_processes(_breaks_inside, free_port, folder)
    assert second[0] is RanksApartError and "failed on rank 1" in second[1] and "no more" in second[1]
    # The other one learns of it in its own forward: the connection is closed, since that rank has gone.
    assert first[0] is RanksApartError and "failed on rank 0" in first[1]
    callback = RadarCallback(folder)
    with pytest.raises(RanksApartError), callback._guarded("evaluating"):
        raise RanksApartError("apart")


def _cannot_read(rank, folder, made):
    """Rank 0 reads no item without images, as when a shard is missing on one machine."""
    model, processor = made()
    evaluator = RadarEvaluator(model, processor, folder, batch_tokens=200, workers=0)
    if rank == 0:
        right = evaluator._source.encoded

        def encoded(index):
            if evaluator.benchmark.items[index].n_images == 0:
                return ItemError(Reason.UNREADABLE, "not here")
            return right(index)

        evaluator._source.encoded = encoded
    try:
        result = evaluator.evaluate()
    except BenchmarkError as error:
        return str(error)
    return result.samples, sum(row["count"] for row in result.abilities.values()), result.failures


def test_a_kind_of_items_that_one_rank_cannot_read(folder, free_port):
    """Where ranks work apart they count as unreadable; where a forward needs all, there is none that this rank could make."""
    without = sum(item.n_images == 0 for item in Benchmark(folder).items)
    assert without >= 1
    (samples, counted, failures), other = in_processes(_cannot_read, free_port, folder, _bare)
    assert (samples, counted, failures) == other
    assert failures.keys() == {"unreadable"} and counted + failures["unreadable"] == samples == 13
    for said in in_processes(_cannot_read, free_port, folder, _sharded):
        assert "with images, or none without, can be used" in said


def _memory_runs_out(rank, folder):
    """On one rank: its batches are halved, nothing is counted twice, and the next evaluation's batches are smaller on both."""
    from radar_callback.scoring.packed import PackedScorer

    model, processor = FAMILIES["llava"].__wrapped__()
    evaluator = RadarEvaluator(model, processor, folder, batch_tokens=400, scorer="packed")
    right = PackedScorer.predict

    def short(self, samples):
        if rank == 1 and len(samples) > 1:
            raise torch.OutOfMemoryError("no more")
        return right(self, samples)

    PackedScorer.predict = short
    first = evaluator.evaluate(per_sample=True)
    before = evaluator._setup._budget
    PackedScorer.predict = right
    second = evaluator.evaluate(per_sample=True)
    return first, second, before, evaluator._setup._budget


def test_memory_that_runs_out_on_one_rank_loses_nothing(folder, free_port):
    wanted = alone("llava", folder)
    for first, second, before, after in in_processes(_memory_runs_out, free_port, folder):
        assert (before, after) == (400, 200)
        for result in (first, second):
            assert result.failed == 0 and len(result.items) == len(wanted) == 13
            assert sum(row["count"] for row in result.abilities.values()) == 13
            for item in result.items:
                assert item.mean_logits == pytest.approx(wanted[item.key], abs=1e-5)


def _collectives(rank, folder):
    """How often ranks exchange something in a first and in a second evaluation."""
    counts = []
    for name in ("all_reduce", "broadcast_object_list", "all_gather_object", "broadcast", "all_gather", "barrier"):
        right = getattr(dist, name)

        def counting(*args, right=right, **kwargs):
            counts[-1] += 1
            return right(*args, **kwargs)

        setattr(dist, name, counting)
    evaluator = RadarEvaluator(*FAMILIES["llava"].__wrapped__(), folder, batch_tokens=200)
    for _ in range(2):
        counts.append(0)
        evaluator.evaluate()
    return counts


def test_ranks_exchange_something_a_few_times_however_many_items_there_are(folder, free_port, tmp_path):
    small = str(tiny.benchmark(tmp_path / "small", n=4))
    found = [in_processes(_collectives, free_port, bench) for bench in (folder, small)]
    assert found[0] == found[1] == [[14, 12]] * WORLD
