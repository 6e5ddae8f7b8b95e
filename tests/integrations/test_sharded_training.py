"""A run that Lightning shards (FSDP2, two processes): training is bit for bit what it is without the callback, and is scored."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from radar_callback import RadarCallback
from tests.helpers import tiny
from tests.helpers.training import Captions

WORLD = 2


class Sharded(LightningModule):
    """As people write it: the model is made whole, then each layer and the root are sharded."""

    def __init__(self):
        super().__init__()
        self.model = tiny.llava(dropout=0.1, scale=1.0)
        self.processor = tiny.llava_processor()
        self.losses: list[float] = []

    def configure_model(self):
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(self.model, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for layer in self.model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def training_step(self, batch, index):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = self.model(**batch, labels=labels).loss
        self.losses.append(loss.item())
        return loss

    def train_dataloader(self):
        return DataLoader(Captions(), batch_size=4, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def _rank(rank, port, folder, root, watched):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD), GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    seed_everything(2, verbose=False)
    callback = RadarCallback(folder, every_n_steps=2) if watched else None
    module = Sharded()
    Trainer(
        max_steps=4, callbacks=[callback] if callback else [], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=WORLD,
        strategy=ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1, process_group_backend="gloo"),
    ).fit(module)  # fmt: skip
    weights = {name: value.to_local().clone() for name, value in module.model.state_dict().items()}
    records = callback.records if callback else []
    torch.save((module.losses, weights, records, callback.errors if callback else 0), f"{root}/{rank}.pt")


@pytest.mark.parametrize("scorer", ["auto"])
def test_a_sharded_run_is_scored_and_left_alone(scorer, tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "bench", n=9)
    found = {}
    for watched in (False, True):
        root = tmp_path / str(watched)
        root.mkdir()
        arguments = (free_port, str(folder), str(root), watched)
        mp.start_processes(_rank, args=arguments, nprocs=WORLD, start_method="fork")
        found[watched] = [torch.load(root / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]
    for alone, seen in zip(found[False], found[True], strict=True):
        assert alone[0] == seen[0] and len(alone[0]) == 4
        assert all(torch.equal(value, seen[1][name]) for name, value in alone[1].items())
        assert seen[3] == 0
        assert [record["step"] for record in seen[2]] == [0, 2, 4]
        assert all(record["coverage"] == 1 and record["scorer"] == "packed" for record in seen[2])
    assert found[True][0][2][0]["abilities"] == found[True][1][2][0]["abilities"]
