"""An evaluation of a model sharded by FSDP 1 or FSDP2 leaves what is gathered, and what is not, as it was."""

import functools

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from radar_callback import RadarEvaluator
from radar_callback.errors import EvaluationError
from radar_callback.parts import Parts
from radar_callback.ranks import Ranks
from radar_callback.resharding import sharding_kept
from tests.helpers import tiny

WORLD = 2
HALF = torch.bfloat16


def fsdp1(model, strategy, views, half):
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    return FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=views, sharding_strategy=ShardingStrategy[strategy],
        auto_wrap_policy=ModuleWrapPolicy({LlamaDecoderLayer}),
        mixed_precision=MixedPrecision(param_dtype=HALF, buffer_dtype=HALF) if half else None,
    )  # fmt: skip


def fsdp2(model, again, half):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    policy = MixedPrecisionPolicy(param_dtype=HALF) if half else MixedPrecisionPolicy()
    for part in [*model.get_decoder().layers, model]:
        fully_shard(part, mesh=mesh, reshard_after_forward=again, mp_policy=policy)
    return model


KINDS = {
    "fsdp1": functools.partial(fsdp1, strategy="FULL_SHARD", views=True, half=False),
    "fsdp1, flat": functools.partial(fsdp1, strategy="SHARD_GRAD_OP", views=False, half=False),
    "fsdp1, half": functools.partial(fsdp1, strategy="SHARD_GRAD_OP", views=True, half=True),
    "fsdp1, nothing": functools.partial(fsdp1, strategy="NO_SHARD", views=True, half=False),
    "fsdp2": functools.partial(fsdp2, again=None, half=False),
    "fsdp2, half": functools.partial(fsdp2, again=False, half=True),
}


def start(rank, port):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)


def on_ranks(work, tmp_path, port, *arguments):
    mp.start_processes(work, args=(port, *arguments), nprocs=WORLD, start_method="fork")
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def local(x):
    return (x.to_local() if hasattr(x, "to_local") else x).detach().clone()


def weights(model):
    return {name: local(p) for name, p in model.named_parameters()}


def _train(rank, port, kind, folder, out, watched):
    start(rank, port)
    model = KINDS[kind](tiny.llava(scale=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    evaluator = RadarEvaluator(model, tiny.llava_processor(), folder, batch_tokens=200)
    losses, moved = [], []

    def evaluate():
        if watched:
            before = weights(model)
            moved.append(evaluator.evaluate(len(losses)).moved)
            after = weights(model)
            assert before.keys() == after.keys()
            assert all(
                torch.equal(value, after[name]) and value.dtype == torch.float32 for name, value in before.items()
            )

    for ids in torch.randint(5, 300, (3, 2, 12), generator=torch.Generator().manual_seed(rank)):
        evaluate()
        model.train()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        evaluate()
        optimizer.step()
        optimizer.zero_grad()
        evaluate()
        with torch.no_grad():  # as a module does that clips or shrinks its weights, behind the callbacks
            for parameter in model.parameters():
                parameter.mul_(0.9)
        losses.append(loss.item())
    torch.save((losses, weights(model), moved), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_training_with_evaluations_is_training_without(kind, tmp_path, free_port):
    """Before a forward, between a backward and its step, and before weights are changed by others."""
    folder = str(tiny.benchmark(tmp_path / "bench", n=5))
    alone, watched = (on_ranks(_train, tmp_path, free_port, kind, folder, str(tmp_path), one) for one in (False, True))
    for (losses, left, _), (seen, found, moved) in zip(alone, watched, strict=True):
        assert losses == seen and len(losses) == 3
        assert all(torch.equal(value, found[name]) for name, value in left.items())
        assert len(moved) == 9 and moved[0] == {}
        assert set(moved[1].values()) == {0.0}, "nothing but a backward has been in between"
        # A step has, by as much whatever the weights are gathered in. (Flat parameters have no names of their own.)
        assert kind == "fsdp1, flat" or moved[2]["language_model"] == pytest.approx(0.04, rel=0.1)


def _gathered_before(rank, port, kind, out):
    """What a validation loop without gradients has gathered stays gathered, and movement is measured on what is stepped on."""
    start(rank, port)
    model = KINDS[kind](tiny.llava(scale=1.0))
    ids = torch.randint(5, 300, (1, 12), generator=torch.Generator().manual_seed(3))
    parts, ranks = Parts(), Ranks(torch.device("cpu"))
    forward = lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # noqa: E731
    with torch.no_grad():
        forward()
        for layer in model.get_decoder().layers if kind.startswith("fsdp2") else ():
            layer.unshard()
    state = [(id(p), type(p), p.dtype) for p in model.parameters()]
    parts.moved(model, ranks)
    fails = False
    try:
        with torch.no_grad(), sharding_kept(model):
            forward()
        assert [(id(p), type(p), p.dtype) for p in model.parameters()] == state
        gathered = [parts.moved(model, ranks)]
        for module in model.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        gathered.append(parts.moved(model, ranks))
        assert all(set(one.values()) == {0.0} for one in gathered), gathered
        before = weights(model)
        with torch.no_grad(), sharding_kept(model):
            forward()
            fails = True
            raise ValueError("half way")
    except ValueError:
        assert fails
    after = weights(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["fsdp1, half", "fsdp2", "fsdp2, half"])
def test_what_was_gathered_before_stays_so(kind, tmp_path, free_port):
    mp.start_processes(_gathered_before, args=(free_port, kind, str(tmp_path)), nprocs=WORLD, start_method="fork")


def _cannot_release(rank, port, folder):
    from torch.distributed.fsdp import _runtime_utils

    start(rank, port)
    model = KINDS["fsdp1"](tiny.llava(scale=1.0))
    evaluator = RadarEvaluator(model, tiny.llava_processor(), folder)
    del _runtime_utils._reshard
    with pytest.raises(EvaluationError, match="Expected a torch in which FSDP 1 can let go"):
        evaluator.evaluate()
    dist.destroy_process_group()


def test_a_torch_that_cannot_let_go_of_weights_is_refused(tmp_path, free_port):
    folder = str(tiny.benchmark(tmp_path / "bench", n=5))
    mp.start_processes(_cannot_release, args=(free_port, folder), nprocs=WORLD, start_method="fork")
