"""What only an accelerator can show: `make gpu`. On as many devices as there are, two at most."""

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.strategies import FSDPStrategy

from radar_callback import RadarCallback, RadarEvaluator
from radar_callback.scoring.cost import free_memory
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.helpers.training import PreTraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=23)


def scores(result):
    return {item.key: item.mean_logits for item in result.items}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "internvl"])
def test_scores_are_those_of_the_reference_on_a_cpu(name, dtype, folder):
    model, processor = FAMILIES[name].__wrapped__()
    wanted = scores(RadarEvaluator(model, processor, folder, scorer="reference").evaluate(per_sample=True))
    result = RadarEvaluator(model.to(DEVICE, dtype), processor, folder).evaluate(per_sample=True)
    assert (result.scorer, result.failed) == ("packed", 0)
    for key, values in scores(result).items():
        assert values == pytest.approx(wanted[key], abs=2e-2 if dtype == torch.float32 else 0.5)


def left_by(tmp_path, callbacks, **settings):
    """Everything that a run leaves behind."""
    seed_everything(5, verbose=False)
    module = PreTraining()
    trainer = Trainer(
        max_steps=6, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, **{"accelerator": "gpu", "devices": 1, **settings},
    )  # fmt: skip
    trainer.fit(module)
    return {
        "losses": module.losses,
        "weights": {name: value.cpu() for name, value in module.state_dict().items()},
        "flags": [m.training for m in module.modules()],
        "streams": (random.random(), np.random.rand(), torch.rand(3).tolist(), torch.rand(3, device=DEVICE).tolist()),
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
def test_training_is_the_run_it_would_have_been(precision, folder, tmp_path):
    torch.use_deterministic_algorithms(True, warn_only=True)
    callback = RadarCallback(folder, every_n_steps=2)
    alone, watched = (left_by(tmp_path, callbacks, precision=precision) for callbacks in ([], [callback]))
    torch.testing.assert_close(watched, alone, rtol=0, atol=0)
    assert callback.errors == 0 and [record["coverage"] for record in callback.records] == [1.0] * 4


class Whole(PreTraining):
    """Nothing frozen: FSDP without `use_orig_params` mixes no frozen weights with others."""

    def __init__(self):
        super().__init__()
        self.model.requires_grad_(True)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"])
def test_lightnings_strategies(strategy, folder, tmp_path):
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    devices = min(2, torch.cuda.device_count())
    chosen = FSDPStrategy(use_orig_params=True) if strategy == "fsdp" else strategy
    callback = RadarCallback(folder, every_n_steps=2)
    Trainer(
        max_steps=4, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accelerator="gpu", devices=devices, strategy=chosen,
        precision="bf16-mixed",
    ).fit(Whole())  # fmt: skip
    assert callback.errors == 0
    assert [(record["step"], record["coverage"]) for record in callback.records] == [(0, 1.0), (2, 1.0), (4, 1.0)]


def test_memory_that_runs_out_halves_batches_and_loses_nothing(folder):
    model, processor = FAMILIES["llava"].__wrapped__()
    model = model.to(DEVICE)
    wanted = scores(RadarEvaluator(model, processor, folder).evaluate(per_sample=True))
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed", batch_tokens=100_000)
    # All but a few MiB belong to somebody else.
    ballast = torch.empty(int(free_memory(DEVICE) - 12 * 2**20), dtype=torch.uint8, device=DEVICE)
    try:
        result = evaluator.evaluate(per_sample=True)
    finally:
        del ballast
        torch.cuda.empty_cache()
    assert result.samples == 23 and set(result.failures) <= {"out_of_memory"}
    for key, values in scores(result).items():
        assert values == pytest.approx(wanted[key], abs=2e-2)


def test_a_batch_never_takes_more_than_training_left_free(folder):
    model, processor = FAMILIES["llava"].__wrapped__()
    evaluator = RadarEvaluator(model.to(DEVICE), processor, folder)
    evaluator.evaluate()
    free, before = free_memory(DEVICE), torch.cuda.memory_allocated(DEVICE)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    evaluator.evaluate()
    assert torch.cuda.max_memory_allocated(DEVICE) - before < free
