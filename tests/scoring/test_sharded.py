"""Models that need every rank in each forward: wrapped by DDP, or sharded by FSDP2, in two real processes."""

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from radar_callback import Benchmark, RadarCallback, RadarEvaluator
from radar_callback.errors import BenchmarkError, EvaluationError, ItemError, RanksApartError, Reason
from radar_callback.ranks import Ranks
from radar_callback.scoring.scorer import needs_every_rank
from radar_callback.shared_buffers import use_first_ranks_buffers
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

        right, calls = PackedScorer.__call__, []  # in the evaluation itself, not in the check

        def wrong(self, samples):
            calls.append(1)
            if len(calls) == 2:
                raise ValueError("this batch is cursed")
            return right(self, samples)

        PackedScorer.__call__ = wrong
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


class Drifting(torch.nn.BatchNorm1d):
    """Also counts in a buffer past its version counter, in every forward."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen.data.add_(1)
        return super().forward(x.reshape(-1, self.num_features)).reshape(x.shape)


def with_norm(seed):
    """A model whose statistics were gathered on data of its own."""
    model, processor = FAMILIES["llava"].__wrapped__()
    projector = model.model.multi_modal_projector
    width = projector.linear_2.out_features
    norm = projector.norm = Drifting(width).eval()
    norm.running_mean += torch.randn(width, generator=torch.Generator().manual_seed(seed))
    norm.running_var += seed
    projector.register_forward_hook(lambda module, given, output: norm(output))
    return model, processor, norm


def _own_statistics(rank, folder, wrap):
    model, processor, norm = with_norm(seed=rank)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    called = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=wrap == "buffers") if wrap else model
    if wrap:  # which has sent the first rank's around
        norm.running_var.copy_(before["model.multi_modal_projector.norm.running_var"])
        norm.running_mean.copy_(before["model.multi_modal_projector.norm.running_mean"])
    outcome = found(called, processor, folder)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()), "its own again"
    return outcome


@pytest.mark.parametrize("wrap", ["", "buffers", "weights"])
def test_all_ranks_score_with_the_first_ones_statistics(wrap, folder, free_port):
    first, second = ((found(*with_norm(seed)[:2], folder)) for seed in range(WORLD))
    assert repr(first) != repr(second)
    for outcome in in_processes(_own_statistics, free_port, folder, wrap):
        assert repr(outcome) == repr(first)


def _buffers_of_its_own(rank, kind):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.nn.init.ones_(model[0].weight)
    torch.nn.init.zeros_(model[0].bias)
    model[1].running_mean += rank
    if kind == "experts":
        model[0].weight.data.fill_(rank)
    if kind == "stages" and rank == 1:
        model.append(torch.nn.BatchNorm1d(3))
    if kind == "none here" and rank == 1:
        model = torch.nn.Linear(2, 2)
    if kind == "odd":
        model.register_buffer("codes", torch.full((2,), rank, dtype=torch.int8))
        model.register_buffer("short", torch.full((3,), rank, dtype=torch.bfloat16))
        model.register_buffer("wide", torch.full((), rank, dtype=torch.float64))
        model.register_buffer("empty", torch.zeros(0))
        model.register_buffer("spread", torch.full((1,), float(rank)).expand(3))
    use_first_ranks_buffers(model, Ranks(torch.device("cpu")))
    return {name: buffer.tolist() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("kind", ["experts", "stages", "none here"])
def test_ranks_that_hold_different_models_keep_their_buffers(kind, free_port):
    _, second = in_processes(_buffers_of_its_own, free_port, kind)
    assert second.get("1.running_mean", [1.0, 1.0]) == [1.0, 1.0]


def test_buffers_of_all_floating_types_are_the_first_ranks(free_port):
    first, second = in_processes(_buffers_of_its_own, free_port, "odd")
    assert second.pop("codes") == [1, 1] and first.pop("codes") == [0, 0], "codes are no statistics"
    assert second.pop("spread") == [1.0] * 3 and first.pop("spread") == [0.0] * 3, "cannot be written"
    assert repr(first) == repr(second) and first["short"] == [0.0] * 3


def _memory_runs_out(rank, folder):
    """On one rank: its batches are halved, nothing is counted twice, and the next evaluation's batches are smaller on both."""
    from radar_callback.scoring.packed import PackedScorer

    model, processor = FAMILIES["llava"].__wrapped__()
    evaluator = RadarEvaluator(model, processor, folder, batch_tokens=400, scorer="packed")
    right = PackedScorer.__call__

    def short(self, samples):
        if rank == 1 and len(samples) > 1:
            raise torch.OutOfMemoryError("no more")
        return right(self, samples)

    PackedScorer.__call__ = short  # not in the check, behind which another way is taken
    first = evaluator.evaluate(per_sample=True)
    before = evaluator._setup._budget
    PackedScorer.__call__ = right
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
    assert found[0] == found[1] == [[14, 11]] * WORLD
