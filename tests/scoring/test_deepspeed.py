"""Models that DeepSpeed shards (ZeRO-1, 2 and 3), in two real processes: scored like any other, and trained as if unseen."""

import os

import pytest
import torch
import torch.multiprocessing as mp

from radar_callback import RadarEvaluator
from radar_callback.scoring.scorer import needs_every_rank
from tests.helpers import tiny
from tests.helpers.families import FAMILIES

pytest.importorskip("deepspeed")

WORLD = 2


def _rank(rank, port, stage, name, folder, out):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
    )  # fmt: skip
    import deepspeed

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    torch.save([_train(deepspeed, rank, stage, name, folder, watched) for watched in (False, True)], f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _train(deepspeed, rank, stage, name, folder, watched):
    torch.manual_seed(0)
    model, processor = FAMILIES[name].__wrapped__()
    settings = {
        "train_micro_batch_size_per_gpu": 2,
        # Not even the smallest weight stays whole.
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), config=settings
    )
    evaluator = RadarEvaluator(engine, processor, folder, batch_tokens=200)
    found, losses = [], []
    for batch in torch.randint(5, 300, (3, 2, 12), generator=torch.Generator().manual_seed(rank)):
        if watched:
            one = evaluator.evaluate(len(losses), per_sample=True)
            found.append((one.scorer, one.failed, {item.key: item.mean_logits for item in one.items}, one.moved))
        engine.train()
        loss = engine(input_ids=batch, attention_mask=torch.ones_like(batch), labels=batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses, needs_every_rank(engine), found


@pytest.mark.parametrize(("stage", "name"), [(1, "llava"), (2, "llava"), (3, "llava"), (3, "qwen2_vl")])
def test_zero(stage, name, tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "bench", n=13)
    model, processor = FAMILIES[name].__wrapped__()
    bare = RadarEvaluator(model, processor, folder, batch_tokens=200, scorer="reference").evaluate(per_sample=True)
    wanted = {item.key: item.mean_logits for item in bare.items}
    arguments = (free_port, stage, name, str(folder), str(tmp_path))
    mp.start_processes(_rank, args=arguments, nprocs=WORLD, start_method="spawn")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]
    for (losses, _, _), (seen, every_rank, found) in ranks:
        assert losses == seen and len(losses) == 3
        assert every_rank == (stage == 3)
        way, failed, got, _ = found[0]
        assert (way, failed) == ("packed", 0) and got.keys() == wanted.keys()
        for key, values in got.items():
            assert values == pytest.approx(wanted[key], abs=1e-5)
        assert found[-1][2] != got, "the model learns, and is scored as it is now"
        assert found[-1][3]["language_model"] > 0
    (_, (_, _, first)), (_, (_, _, second)) = ranks
    assert repr(first) == repr(second), "the same on both ranks"
