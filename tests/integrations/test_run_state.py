"""What monitors see, which weights are scored, and whose files a run writes: nothing stale, nothing of another run."""

import logging
import math
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from radar_callback import RadarCallback
from radar_callback.errors import ConfigError
from radar_callback.evaluator import RadarEvaluator
from radar_callback.history import History, read_history
from radar_callback.integrations.lightning_monitors import LatestEvaluation, StopperGate
from tests.helpers import tiny
from tests.helpers.training import PreTraining
from tests.integrations.test_lightning import lines, make_trainer, steps

KEY = "radar/sds/overall"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=6)


class Noting(PreTraining):
    def on_train_batch_start(self, batch, index):
        self.seen = [*getattr(self, "seen", []), self.trainer.callback_metrics[KEY].item()]


def test_monitors_see_the_latest_values_from_the_first_step_on_also_after_a_resume(folder, tmp_path):
    first = RadarCallback(folder, every_n_steps=4, at_start=False)
    trainer, module = make_trainer(tmp_path, first, max_steps=4), Noting()
    trainer.fit(module)
    assert all(map(math.isnan, module.seen)), "nothing was evaluated before step 4"
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    second, module = RadarCallback(folder, every_n_steps=100, at_start=False, at_end=False), Noting()
    again = make_trainer(tmp_path, second, max_steps=6)
    again.fit(module, ckpt_path=tmp_path / "four.ckpt")
    assert module.seen == [first.records[-1]["overall"]["sds"]] * 2
    assert again.callback_metrics["radar/overhead"].item() == first.records[-1]["overhead"]


def test_a_default_dtype_of_few_bits_does_not_reach_the_monitors(folder, tmp_path):
    callback = RadarCallback(folder, every_n_steps=6, at_start=False)
    trainer, default = make_trainer(tmp_path, callback), torch.get_default_dtype()

    class Low(PreTraining):
        def on_train_start(self):
            torch.set_default_dtype(torch.bfloat16)

    try:
        trainer.fit(Low())
    finally:
        torch.set_default_dtype(default)
    assert trainer.callback_metrics[KEY].item() == callback.records[-1]["overall"]["sds"]


def test_patience_counts_evaluations_and_the_stopper_is_left_as_it_was(folder, tmp_path):
    stop = EarlyStopping(KEY, mode="max", patience=2, min_delta=2.0, check_on_train_epoch_end=True)
    callback = RadarCallback(folder, every_n_steps=24)
    trainer = make_trainer(tmp_path, callback, stop, max_steps=200)
    trainer.fit(PreTraining())  # epochs of 8 steps; the first look sees step 0, the next new ones 24 and 48
    assert trainer.global_step == 48 and stop.wait_count == 2
    assert "_run_early_stopping_check" not in vars(stop)


def test_an_evaluation_that_gave_nan_counts_and_one_that_failed_does_not(tmp_path):
    stop, latest = EarlyStopping(KEY, mode="max"), LatestEvaluation()
    gate = StopperGate(stop, latest)
    trainer = make_trainer(tmp_path)
    trainer.callback_metrics[KEY] = torch.tensor(math.nan)
    gate(trainer)
    assert not trainer.should_stop
    latest.step = 10
    gate(trainer)
    assert trainer.should_stop


def test_a_checkpoint_is_ranked_by_the_score_of_its_own_weights(folder, tmp_path):
    best = ModelCheckpoint(
        tmp_path / "best", monitor=KEY, mode="max", every_n_train_steps=3, save_top_k=-1, filename="{step}"
    )
    callback = RadarCallback(folder, every_n_steps=4)
    make_trainer(tmp_path, callback, best, max_steps=16).fit(PreTraining())
    by_step = {record["step"]: record["overall"]["sds"] for record in callback.records}
    kept = {int(Path(path).stem.split("=")[1]): score.item() for path, score in best.best_k_models.items()}
    assert kept == {step: by_step[step] for step in (4, 8, 12, 16)}


def test_a_replaced_model_is_scored_and_said(folder, tmp_path, caplog):
    class Replaces(PreTraining):
        def on_train_batch_start(self, batch, index):
            if self.global_step == 3:
                self.model = tiny.llava(seed=9)

    module, callback = Replaces(), RadarCallback(folder, every_n_steps=4)
    make_trainer(tmp_path, callback, max_steps=4).fit(module)
    right = RadarEvaluator(module.model, module.processor, folder).evaluate(4)
    assert callback.records[-1]["overall"]["sds"] == right.overall["sds"]
    assert "The model was replaced in training: the new one is scored from step 4 on." in caplog.text


def test_current_and_averaged_weights_side_by_side_whatever_the_order(folder, tmp_path, caplog):
    curves, weights = [], []
    for order in ((0, 1, 2), (2, 1, 0), None):
        current, averaged = (
            RadarCallback(folder, every_n_steps=3),
            RadarCallback(folder, every_n_steps=3, weights="averaged"),
        )
        average = WeightAveraging(avg_fn=get_ema_avg_fn(0.5))
        parts = [current, averaged, average]
        module = PreTraining()
        trainer = make_trainer(tmp_path / str(order), *([parts[i] for i in order] if order else [average]), max_steps=6)
        trainer.fit(module)
        weights.append([p.detach().clone() for p in module.parameters()])
        curves.append([[r["overall"]["sds"] for r in one.records] for one in (current, averaged)])
    assert curves[0][0] == curves[1][0] and len(curves[0][0]) == 3
    assert curves[0][0][-1] != curves[0][1][-1], "an average is another model"
    right = RadarEvaluator(module.model, module.processor, folder).evaluate(6)
    assert curves[0][1][-1] == curves[1][1][-1] == right.overall["sds"], "Lightning leaves the average in the model"
    assert all(torch.equal(a, b) for other in weights[:2] for a, b in zip(other, weights[2], strict=True))
    assert "WeightAveraging averages weights: scored are those that training steps on" in caplog.text


def test_averaged_weights_are_refused_where_nothing_averages(folder, tmp_path):
    with pytest.raises(ConfigError, match="something that averages weights for weights='averaged'"):
        make_trainer(tmp_path, RadarCallback(folder, weights="averaged")).fit(PreTraining())


def test_weights_of_ones_own_are_put_in_and_taken_out_after_an_error_too(folder, tmp_path, monkeypatch):
    told = []

    @contextmanager
    def own(trainer, module):
        told.append("in")
        try:
            yield
        finally:
            told.append("out")

    def fails(*args, **settings):
        raise RuntimeError("no luck")

    monkeypatch.setattr(RadarEvaluator, "evaluate", fails)
    callback = RadarCallback(folder, every_n_steps=6, at_start=False, weights=own)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert told == ["in", "out"] * 2 and callback.errors == 1


class Pair(PreTraining):
    def __init__(self):
        super().__init__()
        self.teacher = tiny.llava(seed=4).requires_grad_(False)


def test_one_benchmark_watched_twice_keeps_its_files_apart_whatever_the_order_on_resume(folder, tmp_path):
    def pair():
        return [RadarCallback(folder, every_n_steps=2, model=name) for name in ("model", "teacher")]

    student, teacher = pair()
    trainer = make_trainer(tmp_path, student, teacher, max_steps=2)
    trainer.fit(Pair())
    assert [one.name for one in (student, teacher)] == ["tiny-model", "tiny-teacher"]
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    before = lines(tmp_path / "radar_history.jsonl"), lines(tmp_path / "radar_history.tiny-teacher.jsonl")
    student, teacher = pair()
    make_trainer(tmp_path, teacher, student, max_steps=4).fit(Pair(), ckpt_path=tmp_path / "two.ckpt")
    after = lines(tmp_path / "radar_history.jsonl"), lines(tmp_path / "radar_history.tiny-teacher.jsonl")
    assert [x[:2] for x in after] == list(before) and [len(x) for x in after] == [3, 3]
    assert len({r["overall"]["sds"] for r in after[1]}) == 1, "a frozen teacher does not move"


def test_a_callback_begins_anew_with_a_run_and_goes_on_in_the_same_trainer(folder, tmp_path):
    callback = RadarCallback(folder, every_n_steps=3)
    trainer = make_trainer(tmp_path / "one", callback)
    module = PreTraining()
    trainer.fit(module)
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(module)
    assert steps(callback) == [0, 3, 6, 9]
    first = {record["run"] for record in callback.records}
    callback.errors = 3
    make_trainer(tmp_path / "two", callback, max_steps=3).fit(PreTraining())
    assert steps(callback) == [0, 3] and callback.errors == 0
    assert len(first) == 1 and first.isdisjoint(record["run"] for record in callback.records)


def test_a_resumed_run_leaves_another_runs_files_alone(folder, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "one", RadarCallback(folder, every_n_steps=2), max_steps=2)
    trainer.fit(PreTraining())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    make_trainer(tmp_path / "other", RadarCallback(folder, every_n_steps=2), max_steps=6).fit(PreTraining())
    files = {path: path.read_bytes() for path in (tmp_path / "other").glob("*.jsonl")}
    resumed = RadarCallback(folder, every_n_steps=2)
    make_trainer(tmp_path / "other", resumed, max_steps=4).fit(PreTraining(), ckpt_path=tmp_path / "two.ckpt")
    assert all(path.read_bytes() == content for path, content in files.items())
    assert [record["step"] for record in read_history(resumed.history_path)] == [0, 2, 4]
    assert "is another run's: this run writes to radar_history." in caplog.text


def test_a_run_whose_file_is_taken_over_goes_on_in_its_own(tmp_path):
    def point(step, run):
        return {"step": step, "benchmark": "mini", "abilities": {}, "groups": {}, "overall": {}, "run": run}

    path = tmp_path / "radar_history.jsonl"
    one = History.start_fresh(path, "aaaa")
    one.append(point(0, "aaaa"))
    two = History.start_fresh(path, "bbbb")
    two.append(point(0, "bbbb"))
    one.append(point(2, "aaaa"))
    two.append(point(4, "bbbb"))
    assert [(r["step"], r["run"]) for r in read_history(path)] == [(0, "bbbb"), (4, "bbbb")]
    assert one.path.name == "radar_history.aaaa.jsonl"
    assert [(r["step"], r["run"]) for r in read_history(one.path)] == [(0, "aaaa"), (2, "aaaa")]


def test_the_history_of_a_remote_folder_is_kept_in_a_local_one_that_is_said(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    callback = RadarCallback(folder, every_n_steps=6)
    with caplog.at_level(logging.WARNING):
        make_trainer("memory://user:secret@bucket/run", callback).fit(PreTraining())
    assert callback.history_path == tmp_path / "radar_runs" / "memory" / "bucket" / "run" / "radar_history.jsonl"
    assert str(callback.history_path.parent) in caplog.text and "secret" not in caplog.text
    assert len(read_history(callback.history_path)) == 2


class MeanKeeping(torch.optim.SGD):
    """Has a mean of its weights, to which `eval` switches by arithmetic that does not come back to the same bits."""

    away = False

    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("mean", p.detach().clone()).lerp_(p.detach(), 0.1)

    def eval(self):
        self._shift(0.7, not self.away)

    def train(self):
        self._shift(-0.7 / 0.3, self.away)

    @torch.no_grad()
    def _shift(self, weight, switch):
        if switch:
            self.away = not self.away
            for p in self.param_groups[0]["params"]:
                if "mean" in self.state[p]:
                    p.lerp_(self.state[p]["mean"], weight)


def test_a_schedule_free_optimizers_weights_are_scored_and_training_goes_on_from_the_same_bits(folder, tmp_path):
    class Module(PreTraining):
        def configure_optimizers(self):
            return MeanKeeping([p for p in self.parameters() if p.requires_grad], lr=0.5)

    modules = Module(), Module()
    callback = RadarCallback(folder, every_n_steps=3, weights="averaged")
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(modules[0])
    make_trainer(tmp_path).fit(modules[1])
    assert modules[0].losses == modules[1].losses and not trainer.optimizers[0].away
    trainer.optimizers[0].eval()
    right = RadarEvaluator(modules[0].model, modules[0].processor, folder).evaluate(6)
    assert callback.records[-1]["overall"]["sds"] == right.overall["sds"]
