"""The same bits at any number of ranks, in real processes."""

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer, seed_everything
from torch import distributed as dist

from radar_callback import RadarCallback, RadarEvaluator
from radar_callback.history import read_history
from tests.helpers import tiny
from tests.helpers.training import PreTraining

COMPARED = ("abilities", "groups", "overall", "samples", "failed", "failures", "items", "unscored")


def score(folder):
    result = RadarEvaluator(tiny.llava(), tiny.llava_processor(), folder, batch_tokens=400).evaluate(per_sample=True)
    return {name: getattr(result, name) for name in COMPARED}


def _on_rank(rank: int, world: int, port: int, folder: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.save(score(folder), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("world", "items"), [(2, 23), (3, 23), (4, 3)])
def test_ranks_change_no_bit(world, items, tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "bench", n=items, seed=5)
    alone = score(folder)
    assert alone["failed"] == 0 and len(alone["items"]) == items
    mp.start_processes(_on_rank, args=(world, free_port, str(folder), str(tmp_path)), nprocs=world, start_method="fork")
    for rank in range(world):
        # As text, which shows every bit and takes two NaN (the error of a single item) for the same.
        assert repr(torch.load(tmp_path / f"{rank}.pt", weights_only=False)) == repr(alone)


def _fit(root, devices, callbacks) -> Trainer:
    seed_everything(4, verbose=False)
    module = PreTraining()
    trainer = Trainer(
        max_steps=4, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto", use_distributed_sampler=True,
    )  # fmt: skip
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize("world", [2, 3])
def test_the_callback_in_several_processes(world, tmp_path):
    """Training as without it, one history, and the baseline the same bits as with one process."""
    folder = tiny.benchmark(tmp_path / "bench", n=9)
    weights = {}
    for name in ("alone", "watched"):
        callbacks = [RadarCallback(folder, every_n_steps=2)] if name == "watched" else []
        trainer = _fit(tmp_path / name, world, callbacks)
        # Under ddp_fork the trained weights come back from rank 0.
        weights[name] = trainer.lightning_module.state_dict()
    for key, value in weights["alone"].items():
        assert torch.equal(value, weights["watched"][key]), key
    records = read_history(tmp_path / "watched" / "radar_history.jsonl")
    assert [record["step"] for record in records] == [0, 2, 4]
    single = RadarCallback(folder, every_n_steps=2)
    _fit(tmp_path, 1, [single])
    assert records[0]["abilities"] == single.records[0]["abilities"]
