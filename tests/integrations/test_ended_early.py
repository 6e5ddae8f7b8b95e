"""Runs that somebody ends in the middle of an evaluation: nothing half-written, no point lost or doubled, training as it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from radar_callback import RadarCallback
from radar_callback.scoring.reference import ReferenceScorer
from tests.helpers import tiny
from tests.helpers.training import PreTraining

RUN = """
import sys, time
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from radar_callback import RadarCallback
from radar_callback.scoring.reference import ReferenceScorer
from tests.helpers.training import PreTraining

root, folder, stop_at, resume, naps = sys.argv[1:6]
torch.set_num_threads(1)
callback = RadarCallback(folder, every_n_steps=2, scorer="reference", batch_tokens=60)
right, module = ReferenceScorer.predict, None

def predict(self, samples):
    if module.global_step == int(stop_at):
        print("evaluating", flush=True)
        time.sleep(float(naps))
    return right(self, samples)

ReferenceScorer.predict = predict
seed_everything(1, verbose=False)
module = PreTraining()
saving = ModelCheckpoint(dirpath=root, every_n_train_steps=3, save_top_k=-1)
trainer = Trainer(
    max_steps=8, callbacks=[callback, saving], logger=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=root, accelerator="cpu", devices=1,
)
trainer.fit(module, ckpt_path=resume or None)
print("done", module.global_step, flush=True)
"""


def start(tmp_path, stop_at=-1, resume="", naps=60):
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        RUN,
        tmp_path / "run",
        tmp_path / "bench",
        str(stop_at),
        resume,
        naps,
    ]
    top = Path(__file__).parents[2]
    path = os.pathsep.join([str(top), str(top / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(process, word):
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(process.stderr.read()[-2000:])


def history(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "radar_history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_kill_9_in_an_evaluation_and_a_resume(tmp_path):
    tiny.benchmark(tmp_path / "bench", n=6)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "bench").symlink_to(tmp_path / "bench")
    undisturbed = start(whole)
    killed = start(tmp_path, stop_at=6)
    wait_for(killed, "evaluating")
    killed.kill()
    killed.wait(10)
    wait_for(undisturbed, "done 8")
    undisturbed.wait(30)
    assert [record["step"] for record in history(tmp_path)] == [0, 2, 4]
    (checkpoint,) = (tmp_path / "run").glob("*step=3.ckpt")
    resumed = start(tmp_path, resume=str(checkpoint))
    wait_for(resumed, "done 8")
    resumed.wait(30)
    expected = {record["step"]: record for record in history(whole)}
    assert list(expected) == [0, 2, 4, 6, 8]
    found = history(tmp_path)
    # A run that goes on is looked at where it goes on, too.
    assert [record["step"] for record in found] == [0, 2, 3, 4, 6, 8]
    for record in found:
        if record["step"] < 3:  # behind the checkpoint, batches come in another order
            assert record["abilities"] == expected[record["step"]]["abilities"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
def test_sigterm_in_an_evaluation_ends_the_run_and_leaves_whole_lines(tmp_path):
    """The batch at hand is finished, the other ones are not begun: a scheduler that asks to end kills before long."""
    tiny.benchmark(tmp_path / "bench", n=40)
    process = start(tmp_path, stop_at=4, naps=1)
    wait_for(process, "evaluating")
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.wait(30)
    assert time.monotonic() - begun < 20, "forty batches of a second each would have taken longer"
    rest = process.stdout.read()
    assert "done" not in rest and rest.count("evaluating") <= 3
    assert "the run is being ended" in process.stderr.read()
    assert [record["step"] for record in history(tmp_path)] == [0, 2]


def test_ctrl_c_in_an_evaluation_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    folder = tiny.benchmark(tmp_path / "bench", n=6)
    right = ReferenceScorer.predict

    def interrupted(self, samples):
        if module.global_step == 2:
            raise KeyboardInterrupt
        return right(self, samples)

    monkeypatch.setattr(ReferenceScorer, "predict", interrupted)
    callback = RadarCallback(folder, every_n_steps=2, scorer="reference")
    seed_everything(1, verbose=False)
    module = PreTraining()
    trainer = Trainer(
        max_steps=6, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accelerator="cpu", devices=1,
    )  # fmt: skip
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(module)
    assert [record["step"] for record in callback.records] == [0]
    assert len((tmp_path / "radar_history.jsonl").read_text().splitlines()) == 1
    assert module.model.training and not module.model.model.vision_tower.training
    assert torch.is_grad_enabled() and module.global_step == 2
