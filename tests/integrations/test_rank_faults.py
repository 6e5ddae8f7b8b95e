"""What goes wrong on one rank of a Trainer with two: training finishes, numbers are right, and nobody waits for ever."""

import random
import time
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from radar_callback import RadarCallback, chronicle
from radar_callback.diagnosis import Finding, Kind
from radar_callback.scoring.packed import PackedScorer
from tests.helpers import tiny
from tests.helpers.training import PreTraining, as_rank

WORLD = 2


class Fault:
    """How a run differs from a healthy one; each is a rank's own."""

    settings: ClassVar[dict] = {}
    steps = 6
    module = PreTraining

    def begin(self, rank, root):
        return False


class Forwards(Fault):
    """Every forward of rank 1 is looked at before it is made."""

    def begin(self, rank, root):
        right = PackedScorer.predict

        def predict(scorer, samples):
            if rank == 1:
                self.before(scorer, samples)
            return right(scorer, samples)

        PackedScorer.predict = predict
        return False

    def before(self, scorer, samples):
        raise NotImplementedError


class OneForwardRaises(Forwards):
    """In the second evaluation, and in no other."""

    def before(self, scorer, samples):
        if self.running.global_step == 2:
            raise ValueError("this batch is cursed")


class MemoryRunsOut(Forwards):
    """For every batch of more than one item."""

    def before(self, scorer, samples):
        if len(samples) > 1:
            scorer.calls += 1
            raise torch.OutOfMemoryError("no more")


class NoMemoryAtAll(Forwards):
    """From step 2 on, for single items too."""

    def before(self, scorer, samples):
        if self.running.global_step >= 2:
            scorer.calls += 1
            raise torch.OutOfMemoryError("no more")


class AlertFails(Fault):
    """The first rank's logger loses its server while the others wait for what `stop_on` says."""

    settings: ClassVar[dict] = {"stop_on": ["regression"]}

    def begin(self, rank, root):
        class Log(CSVLogger):
            down = False

            @property
            def alerts(self):
                raise ConnectionError("the server is away")

            @property
            def experiment(self):
                if Log.down:
                    Log.down = False
                    raise ConnectionError("the server is away")
                return super().experiment

        def found(records):
            Log.down = records[-1]["step"] == 4
            fallen = Finding(Kind.REGRESSION, "colour", 4, 2, -0.3, -0.4, -0.2)
            return [fallen] if records[-1]["step"] == 4 else []

        chronicle.findings_of = found
        return Log(root)


class Requests(PreTraining):
    """Somebody asks, and asks again once that has been seen."""

    asked = 0

    def on_train_batch_start(self, batch, index):
        file = Path(self.trainer.default_root_dir, "radar_evaluate")
        if self.trainer.is_global_zero and self.global_step >= 3 and self.asked < 2 and not file.exists():
            self.asked += 1
            file.touch()
        time.sleep(0.005)


class AskedByFile(Fault):
    settings: ClassVar[dict] = {"every_n_steps": 10**6, "at_start": False, "at_end": False, "max_overhead": 0.0001}
    steps = 60
    module = Requests


class Healthy(Fault):
    settings: ClassVar[dict] = {"at_start": False, "at_end": False, "every_n_steps": 10**6}


def _rank(rank, port, fault, folder, root):
    as_rank(rank, WORLD, port)
    fault = fault()
    logger = fault.begin(rank, root)
    callback = RadarCallback(
        folder, **{"every_n_steps": 2, "scorer": "packed", "batch_tokens": 150, "workers": 0, **fault.settings}
    )
    fault.running = module = fault.module()
    trainer = Trainer(
        max_steps=fault.steps, callbacks=[callback], logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=WORLD,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=40)),
    )  # fmt: skip
    trainer.fit(module)
    state = {
        "losses": module.losses,
        "weights": module.state_dict(),
        "flags": [m.training for m in module.modules()],
        "optimizer": trainer.optimizers[0].state_dict(),
        "streams": (random.random(), np.random.rand(), torch.rand(3).tolist()),
    }
    torch.save((state, callback.records, callback.errors, module.global_step), f"{root}/{rank}.pt")


@pytest.fixture
def fit(tmp_path, free_port):
    def run(fault):
        folder = tiny.benchmark(tmp_path / "bench", n=9) if not (tmp_path / "bench").exists() else tmp_path / "bench"
        root = tmp_path / fault.__name__
        root.mkdir()
        arguments = (free_port, fault, str(folder), str(root))
        mp.start_processes(_rank, args=arguments, nprocs=WORLD, start_method="fork")
        return [torch.load(root / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]

    return run


@pytest.mark.parametrize(
    ("fault", "steps", "errors", "coverage"),
    [
        (OneForwardRaises, [0, 4, 6], 1, 1.0),
        (MemoryRunsOut, [0, 2, 4, 6], 0, 1.0),
        (NoMemoryAtAll, [0, 2, 4, 6], 0, None),
    ],
)
def test_training_finishes_as_without_it_and_what_is_scored_is_right(fault, steps, errors, coverage, fit):
    healthy, found = fit(Healthy), fit(fault)
    for (state, _, _, _), (seen, records, failed, done) in zip(healthy, found, strict=True):
        torch.testing.assert_close(seen, state, rtol=0, atol=0)
        assert (done, failed, [record["step"] for record in records]) == (6, errors, steps)
        for record in records:
            counted = sum(row["count"] for row in record["abilities"].values())
            assert counted + record["failed"] == record["samples"] == 9, "each item once, scored or not"
            assert record["failures"].keys() <= {"out_of_memory"}
            assert coverage is None or record["coverage"] == coverage
    if fault is NoMemoryAtAll:
        assert [record["coverage"] < 1 for record in found[0][1]] == [False, True, True, True]
    assert repr(found[0][1][0]["abilities"]) == repr(found[1][1][0]["abilities"])


def test_stop_on_reaches_every_rank_though_the_alert_does_not_go_through(fit):
    for _, records, _, done in fit(AlertFails):
        assert (done, [record["step"] for record in records]) == (4, [0, 2, 4])


def test_a_file_asks_for_an_evaluation_once_whatever_the_budget(fit):
    for _, records, errors, done in fit(AskedByFile):
        assert done == 60 and errors == 0 and len(records) == 2
        assert all(record["share"] == 1 for record in records)
