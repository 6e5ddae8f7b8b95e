"""Runs that Lightning spreads over two processes: training is bit for bit what it is without the callback, and is scored."""

import random

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from radar_callback import RadarCallback, RadarEvaluator
from tests.helpers import tiny
from tests.helpers.training import Captions, as_rank

WORLD = 2


class Sharded(LightningModule):
    """As people write it: the model is made whole, then each layer and the root are sharded.

    Args:
        what: `layers`: each, and the model around them. `tensors`: the layers' matrices are split between the ranks.
    """

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.model = tiny.llava(dropout=0.1, scale=1.0)
        self.processor = tiny.llava_processor()
        self.losses: list[float] = []

    def configure_model(self):
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(self.model, FSDPModule):
            return
        if self.what == "tensors":
            self._split(self.device_mesh["tensor_parallel"])
            return
        mesh = self.device_mesh["data_parallel"]
        for layer in self.model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def _split(self, mesh):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        plan = {"gate_proj": ColwiseParallel(), "up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        for layer in self.model.get_decoder().layers:
            parallelize_module(layer.mlp, mesh, plan)

    def training_step(self, batch, index):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = self.model(**batch, labels=labels).loss
        self.losses.append(loss.item())
        return loss

    def train_dataloader(self):
        return DataLoader(Captions(), batch_size=4, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def _rank(rank, port, folder, root, watched, sharded):
    as_rank(rank, WORLD, port)
    callback = RadarCallback(folder, every_n_steps=2) if watched else None
    module = Sharded(sharded)
    apart = (1, WORLD) if sharded == "tensors" else (WORLD, 1)
    trainer = Trainer(
        max_steps=4, callbacks=[callback] if callback else [], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=WORLD,
        strategy=ModelParallelStrategy(*apart, process_group_backend="gloo"),
    )  # fmt: skip
    trainer.fit(module)
    state = {
        "losses": module.losses,
        "weights": {name: _local(value) for name, value in module.model.state_dict().items()},
        "optimizer": [_local(v) for s in trainer.optimizers[0].state.values() for v in s.values()],
        "flags": [m.training for m in module.modules()],
        "streams": (random.random(), np.random.rand(), torch.rand(3).tolist()),
    }
    records = callback.records if callback else []
    torch.save((state, records, callback.errors if callback else 0), f"{root}/{rank}.pt")


def _local(value):
    return (value.to_local() if hasattr(value, "to_local") else value).detach().clone()


@pytest.mark.parametrize("sharded", ["layers", "tensors"])
def test_a_sharded_run_is_scored_and_left_alone(sharded, tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "bench", n=9)
    found = {}
    for watched in (False, True):
        root = tmp_path / str(watched)
        root.mkdir()
        arguments = (free_port, str(folder), str(root), watched, sharded)
        mp.start_processes(_rank, args=arguments, nprocs=WORLD, start_method="fork")
        found[watched] = [torch.load(root / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]
    single = RadarEvaluator(tiny.llava(dropout=0.1, scale=1.0), tiny.llava_processor(), folder).evaluate()
    for (alone, _, _), (seen, records, errors) in zip(found[False], found[True], strict=True):
        assert alone["losses"] == seen["losses"] and len(alone["losses"]) == 4
        torch.testing.assert_close(seen, alone, rtol=0, atol=0)
        assert errors == 0
        assert [record["step"] for record in records] == [0, 2, 4]
        assert all(record["coverage"] == 1 and record["scorer"] == "packed" for record in records)
        for name, row in records[0]["abilities"].items():
            assert row["count"] == single.abilities[name]["count"]
            assert row["sds"] == pytest.approx(single.abilities[name]["sds"], abs=1e-5)
    assert found[True][0][1][0]["abilities"] == found[True][1][1][0]["abilities"]
