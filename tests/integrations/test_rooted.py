"""Models that are sharded together with what holds them: FSDP's root is the LightningModule, and is called in their stead."""

import functools

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn

from radar_callback import RadarEvaluator
from radar_callback.integrations.rooted import Rooted, through_root
from radar_callback.scoring.scorer import needs_every_rank, unwrapped
from tests.helpers import tiny

WORLD = 2


class Module(nn.Module):
    """What a LightningModule is to FSDP: it holds the model, and more."""

    def __init__(self):
        super().__init__()
        self.model = tiny.llava(scale=1.0)
        self.head = nn.Linear(3, 3)

    def forward(self, ids):
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss


def fsdp1(module, policy):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(
        module, device_id=torch.device("cpu"), use_orig_params=True, auto_wrap_policy=policy
    )


def whole(module):
    return fsdp1(module, None)


def layers(module):
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    return fsdp1(module, ModuleWrapPolicy({LlamaDecoderLayer, nn.Embedding}))


def by_size(module):
    from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

    return fsdp1(module, functools.partial(size_based_auto_wrap_policy, min_num_params=2000))


def fsdp2(module):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    for part in [module.model.get_input_embeddings(), *module.model.get_decoder().layers, module]:
        fully_shard(part, mesh=mesh)
    return module


def _rank(rank, port, shard, folder, out, watched):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    root = shard(Module())
    model = next(m for m in root.modules() if type(m).__name__.endswith("LlavaForConditionalGeneration"))
    called = through_root(model, root)
    assert isinstance(called, Rooted) and unwrapped(called) is model and needs_every_rank(called)
    optimizer = torch.optim.AdamW([p for p in root.parameters() if p.requires_grad], lr=1e-2)
    evaluator = RadarEvaluator(called, tiny.llava_processor(), folder, batch_tokens=200)
    losses, found = [], []
    for ids in torch.randint(5, 300, (3, 2, 12), generator=torch.Generator().manual_seed(rank)):
        if watched:
            one = evaluator.evaluate(len(losses), per_sample=True)
            found.append((one.scorer, one.coverage, {item.key: item.mean_logits for item in one.items}))
        root.train()
        loss = root(ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert not any("forward" in vars(m) for m in root.modules()), "nothing of ours is left behind"
    torch.save((losses, found), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("shard", [whole, layers, by_size, fsdp2])
def test_scored_through_the_root_and_trained_as_if_unseen(shard, tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "bench", n=13)
    bare = RadarEvaluator(tiny.llava(scale=1.0), tiny.llava_processor(), folder, scorer="reference")
    wanted = {item.key: item.mean_logits for item in bare.evaluate(per_sample=True).items}
    runs = []
    for watched in (False, True):
        arguments = (free_port, shard, str(folder), str(tmp_path), watched)
        mp.start_processes(_rank, args=arguments, nprocs=WORLD, start_method="fork")
        runs.append([torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(WORLD)])
    for (losses, _), (seen, found) in zip(*runs, strict=True):
        assert losses == seen and len(losses) == 3
        way, coverage, got = found[0]
        assert (way, coverage) == ("packed", 1.0) and got.keys() == wanted.keys()
        for key, values in got.items():
            assert values == pytest.approx(wanted[key], abs=1e-5)
        assert found[-1][2] != got, "as it is now"


def test_what_is_its_own_root_is_called_itself():
    module = Module()
    assert through_root(module.model, module) is module.model
