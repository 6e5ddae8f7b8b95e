"""What somebody sees who adds `RadarCallback()` and says nothing else: how many items, how often, and what is said about it."""

import csv
import math
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from radar_callback import RadarCallback, RadarEvaluator, budget
from radar_callback.evaluation_size import Few
from radar_callback.evaluation_timing import time_items
from radar_callback.integrations import lightning
from radar_callback.integrations.run_length import RunLength
from radar_callback.reporting.curves import breaks, curves
from radar_callback.rounds import Rounds
from radar_callback.watch import Watch
from tests.helpers import tiny
from tests.helpers.training import PreTraining, as_rank
from tests.integrations.test_lightning import make_trainer, steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=6)


class SlowMachine:
    """A clock on which an item takes 0.15 s, and a step of training what the module says."""

    def __init__(self, monkeypatch):
        self.seconds = 0.0
        take = Rounds.take

        def slow(rounds, batch, *args):
            self.seconds += 0.15 * len(batch)
            take(rounds, batch, *args)

        monkeypatch.setattr(Rounds, "take", slow)
        monkeypatch.setattr(lightning, "time", SimpleNamespace(monotonic=self))
        monkeypatch.setattr(lightning, "time_items", partial(time_items, now=self))
        monkeypatch.setattr(lightning, "Watch", partial(Watch, now=self))

    def __call__(self) -> float:
        return self.seconds


class SlowTraining(PreTraining):
    def __init__(self, machine, seconds=0.8):
        super().__init__()
        self.machine, self.seconds = machine, seconds

    def training_step(self, batch, index):
        self.machine.seconds += self.seconds
        return super().training_step(batch, index)


def forwards(record) -> int:
    return record["samples"] + record["image_gain"]["overall"]["count"]


def test_a_first_run_has_a_curve_of_one_set_of_items_up_to_its_last_step(tmp_path, monkeypatch, caplog):
    large = tiny.benchmark(tmp_path / "large", n=120)
    machine = SlowMachine(monkeypatch)
    callback = RadarCallback(large, workers=0)
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, callback, max_steps=200).fit(SlowTraining(machine))
    records = callback.records
    assert steps(callback)[0] == 0 and steps(callback)[-1] == 200 and callback.errors == 0
    items = {record["samples"] for record in records}
    assert len(items) == len({record["subset"] for record in records}) == 1 and max(items) < 120
    assert len(records) >= 8 and 90 < 0.15 * sum(map(forwards, records)) < 120, "what is granted is used"
    for record in records:
        assert record["share"] < 1 and record["coverage"] == 1
        assert record["items_per_ability"] == 16 == max(row["count"] for row in record["abilities"].values())
    said = [line for line in caplog.messages if line.startswith("radar")]
    assert said[0].startswith(f"radar: scoring {records[0]['samples']} of 120 items (16 an ability), about ")
    left_out = f"{21 - len(records)} left out to keep within max_overhead=0.05"
    assert said[-1] == f"radar: evaluated {len(records)} of 21 times; {left_out}"


def test_a_long_run_goes_on_with_more_items_once_and_every_line_shows_it(tmp_path, monkeypatch, caplog):
    large = tiny.benchmark(tmp_path / "large", n=300)
    machine = SlowMachine(monkeypatch)
    callback = RadarCallback(large, workers=0)
    loggers = [CSVLogger(tmp_path / "csv")]
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, callback, max_steps=120, logger=loggers).fit(SlowTraining(machine, seconds=200.0))
    records = callback.records
    assert steps(callback) == [*range(0, 121, 6)] and callback.errors == 0
    (changed,) = breaks(records)
    assert {record["samples"] for record in records[changed:]} == {300} and records[0]["items_per_ability"] == 16
    at = records[changed]["step"]
    assert 0 < at <= 18 and any(
        f"radar: from step {at} on 300 of 300 items are scored" in said for said in caplog.messages
    )

    rows = list(csv.DictReader((Path(loggers[0].log_dir) / "metrics.csv").open()))
    line = [(int(row["step"]), float(row["radar/sds/overall"])) for row in rows if row["radar/sds/overall"]]
    assert [step for step, _ in line] == sorted([*range(0, 121, 6), at])
    assert line[changed][1] != line[changed + 1][1] == pytest.approx(records[changed]["overall"]["sds"], abs=1e-6)
    moved = [row["sds"] for row in records[changed]["change"]["abilities"].values()]
    assert line[changed][1] - line[changed - 1][1] == pytest.approx(sum(moved) / len(moved), abs=1e-6)
    assert math.isnan(curves(records)["colour"].sds[changed])


def test_a_run_that_is_resumed_goes_on_with_the_items_it_had(tmp_path, monkeypatch):
    large = tiny.benchmark(tmp_path / "large", n=120)
    timed = []

    def time_items(*args, **settings):
        timed.append(1)
        return 1e3

    monkeypatch.setattr("radar_callback.integrations.lightning.time_items", time_items)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    make_trainer(tmp_path, RadarCallback(large), checkpoint, max_steps=3).fit(PreTraining())
    again = RadarCallback(large)
    make_trainer(tmp_path, again, max_steps=6).fit(PreTraining(), ckpt_path=checkpoint.last_model_path)
    assert timed == [1] and [record["items_per_ability"] for record in again.records] == [16] * len(again.records)
    assert steps(again)[0] == 0 and steps(again)[-1] == 6


def test_timing_that_fails_is_no_error_of_its_own(tmp_path, monkeypatch):
    large = tiny.benchmark(tmp_path / "large", n=120)
    monkeypatch.setattr("radar_callback.evaluator.RadarEvaluator.evaluate", lambda *args, **settings: 1 / 0)
    callback = RadarCallback(large, every_n_steps=100)
    make_trainer(tmp_path, callback, max_steps=2).fit(PreTraining())
    assert callback.errors == 2, "the baseline and the last one"


@pytest.mark.parametrize("optimizers", [1, 2, 3])
@pytest.mark.parametrize("length", [{"max_epochs": 10, "max_steps": -1}, {"max_steps": 120}])
def test_about_twenty_points_whatever_counts_as_a_step(folder, tmp_path, optimizers, length):
    callback = RadarCallback(folder, items_per_ability=1, blind_share=0)
    trainer = make_trainer(tmp_path, callback, **length)
    trainer.fit(PreTraining(optimizers=optimizers))
    assert 19 <= len(callback.records) <= 24
    assert steps(callback)[-1] == trainer.global_step


def test_a_run_knows_how_long_it_may_last(tmp_path, monkeypatch):
    class Looks(Callback):
        def on_train_start(self, trainer, module):
            self.length = RunLength.of(trainer, module, own_schedule=False)

    looks = Looks()
    make_trainer(tmp_path, looks, max_steps=2, max_time={"minutes": 5}).fit(PreTraining())
    assert looks.length.total == 2 and 290 < looks.length.seconds <= 300
    monkeypatch.setattr(Trainer, "estimated_stepping_batches", property(lambda trainer: 1 / 0))
    make_trainer(tmp_path, looks, max_steps=2).fit(PreTraining())
    assert looks.length.total == 2 and looks.length.seconds == math.inf, "where Lightning refuses to guess"


def test_about_twenty_points_where_batches_are_accumulated(folder, tmp_path):
    callback = RadarCallback(folder, items_per_ability=1, blind_share=0)
    trainer = make_trainer(tmp_path, callback, max_epochs=20, max_steps=-1, accumulate_grad_batches=4)
    trainer.fit(PreTraining())
    assert 19 <= len(callback.records) <= 24 and steps(callback)[-1] == trainer.global_step


def test_timing_leaves_evaluations_as_they_are(tmp_path):
    """Same scores, same weights to look back to, and about the time that an item takes."""
    large = tiny.benchmark(tmp_path / "large", n=60)
    plain, timed = (RadarEvaluator(tiny.llava(), tiny.llava_processor(), large, workers=0) for _ in range(2))
    for evaluator in (plain, timed):
        evaluator.look_at_weights()
    slow, quick = iter(range(100)), iter(range(100))
    assert time_items(timed, now=lambda: float(next(slow))) == 0.25, "four items a second"
    seconds = time_items(timed, now=lambda: next(quick) / 10)
    found, expected = timed.evaluate(), plain.evaluate()
    assert found.abilities == expected.abilities and found.moved == expected.moved and found.subset == expected.subset
    batches = timed._setup._batches[1.0, 1]
    assert seconds == pytest.approx(0.1 * min(8, len(batches)) / sum(map(len, Few(8).of(batches, 1)))), "whole batches"


def test_a_part_holds_so_many_items_of_each_ability_or_all_it_has(tmp_path):
    large = tiny.benchmark(tmp_path / "large", n=60)
    evaluator = RadarEvaluator(tiny.llava(), tiny.llava_processor(), large, workers=0, blind_share=0.5)
    whole, part, again = (evaluator.evaluate(share=share, at_least=12) for share in (1.0, 0.125, 0.125))
    counts = {name: row["count"] for name, row in whole.abilities.items()}
    assert {name: row["count"] for name, row in part.abilities.items()} == {
        name: min(n, 12) for name, n in counts.items()
    }
    assert part.subset == again.subset != whole.subset and part.items_per_ability == 12
    assert part.image_gain["overall"]["count"] < part.samples / 2, "the control follows the share"


def _rank(rank, port, folder, root):
    as_rank(rank, 2, port)
    budget.GRACE = 0.5
    # The second rank's clock runs four times as fast: what it thinks of the time must not matter.
    lightning.Watch = partial(Watch, now=lambda: (1 + 3 * rank) * time.monotonic())
    callback = RadarCallback(folder, workers=0)
    trainer = Trainer(
        max_steps=40, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=40)),
    )  # fmt: skip
    trainer.fit(PreTraining())
    torch.save((callback.records, callback.errors, trainer.global_step), f"{root}/{rank}.pt")


def test_ranks_size_and_space_their_evaluations_alike(tmp_path, free_port):
    folder = tiny.benchmark(tmp_path / "large", n=120)
    mp.start_processes(_rank, args=(free_port, str(folder), str(tmp_path)), nprocs=2, start_method="fork")
    (one, errors, done), (other, *_) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert errors == 0 and done == 40
    points = [[(record["step"], record["subset"], record["samples"]) for record in records] for records in (one, other)]
    assert points[0] == points[1] and points[0][0][0] == 0 and points[0][-1][0] == 40
    assert {record["items_per_ability"] for record in one} == {16} and len(one) < 21
