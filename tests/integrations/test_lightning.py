"""When `RadarCallback` evaluates, where its values go, and what survives crash and resume."""

import csv
import json
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch.utils.data import DataLoader

from radar_callback import RadarCallback, history
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError
from tests.helpers import tiny
from tests.helpers.training import Captions, PreTraining
from tests.helpers.wandb_reader import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=6)


def make_trainer(tmp_path, *callbacks, **options) -> Trainer:
    defaults = {
        "max_steps": 6, "logger": False, "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path, "accelerator": "cpu",
        "devices": 1, "log_every_n_steps": 4,
    }  # fmt: skip
    seed_everything(1, verbose=False)
    return Trainer(callbacks=list(callbacks), **{**defaults, **options})


def steps(callback) -> list[int]:
    return [record["step"] for record in callback.records]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "trainer_options", "module_options", "expected"),
    [
        ({"every_n_steps": 2}, {}, {}, [0, 2, 4, 6]),
        ({"every_n_steps": 4}, {}, {}, [0, 4, 6]),
        ({"every_n_steps": 4, "at_start": False, "at_end": False}, {}, {}, [4]),
        ({"every_n_steps": 2}, {"accumulate_grad_batches": 3}, {}, [0, 2, 4, 6]),
        ({"every_n_steps": 3}, {"max_steps": 12}, {"optimizers": 2}, [0, 4, 6, 10, 12]),
        ({}, {"max_steps": 40}, {}, list(range(0, 41, 2))),
        ({"every_n_steps": 100}, {"limit_train_batches": 0}, {}, []),
    ],
)
def test_evaluations_come_when_they_are_due(folder, tmp_path, arguments, trainer_options, module_options, expected):
    callback = RadarCallback(folder, **arguments)
    make_trainer(tmp_path, callback, **trainer_options).fit(PreTraining(**module_options))
    assert steps(callback) == expected
    assert callback.errors == 0
    if expected:
        assert [line["step"] for line in lines(tmp_path / "radar_history.jsonl")] == expected


def test_an_evaluation_can_be_asked_for(folder, tmp_path):
    class Asking(PreTraining):
        def on_train_batch_start(self, batch, index):
            if self.global_step == 3:
                callback.request_evaluation()

    callback = RadarCallback(folder, every_n_steps=100, at_start=False, at_end=False)
    make_trainer(tmp_path, callback).fit(Asking())
    assert steps(callback) == [4]


def test_values_reach_every_logger_at_the_right_step_and_the_monitors(folder, tmp_path):
    loggers = [CSVLogger(tmp_path, "a"), CSVLogger(tmp_path, "b")]
    callback = RadarCallback(folder, every_n_steps=3)
    trainer = make_trainer(tmp_path, callback, logger=loggers)
    trainer.fit(PreTraining())
    for logger in loggers:
        with Path(logger.log_dir, "metrics.csv").open() as file:
            rows = {int(row["step"]): row for row in csv.DictReader(file) if row["radar/sds/colour"]}
        assert list(rows) == [0, 3, 6]
        for record in callback.records:
            row = rows[record["step"]]
            assert float(row["radar/sds/colour"]) == record["abilities"]["colour"]["sds"]
            assert float(row["radar/sds_logprob/maths"]) == record["abilities"]["maths"]["sds_logprob"]
            assert float(row["radar/accuracy/side"]) == record["abilities"]["side"]["accuracy"]
            assert float(row["radar/sds/perception"]) == record["groups"]["perception"]["sds"]
            assert float(row["radar/sds/overall"]) == record["overall"]["sds"]
            assert float(row["radar/coverage"]) == 1
            assert float(row["radar/seconds"]) == record["seconds"] > 0
            assert 0 < float(row["radar/overhead"]) < 1
    last = callback.records[-1]
    assert trainer.callback_metrics["radar/sds/reasoning"].item() == pytest.approx(last["groups"]["reasoning"]["sds"])
    assert (callback.history_path).parent == tmp_path / "a" / "version_0"


def test_a_wandb_run_has_its_history_beside_its_checkpoints(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="vlm", save_dir=tmp_path, offline=True)
    callback = RadarCallback(folder, every_n_steps=3)
    make_trainer(tmp_path, callback, logger=logger).fit(PreTraining())
    run = logger.version
    logger.experiment.finish()
    assert callback.history_path == tmp_path / "vlm" / run / "radar_history.jsonl"
    assert steps(callback) == [0, 3, 6] and callback.errors == 0


def test_checkpoints_and_early_stopping_can_monitor_abilities(folder, tmp_path):
    callback = RadarCallback(folder, every_n_steps=2)
    best = ModelCheckpoint(
        tmp_path / "best", monitor="radar/sds/colour", mode="max", every_n_train_steps=2, save_top_k=-1,
        filename="{step}-{radar/sds/colour:.4f}", auto_insert_metric_name=False,
    )  # fmt: skip
    # A threshold that is always reached stops the run at the first check, which is at the end of an epoch of 8 batches.
    stop = EarlyStopping("radar/sds/overall", mode="max", stopping_threshold=0.0, check_on_train_epoch_end=True)
    trainer = make_trainer(tmp_path, callback, best, stop, max_steps=100)
    trainer.fit(PreTraining())
    assert trainer.global_step == 8
    by_step = {record["step"]: record["abilities"]["colour"]["sds"] for record in callback.records}
    kept = {
        int(name.split("-")[0]): float(name.split("-")[1].removesuffix(".ckpt")) for name in _names(tmp_path / "best")
    }
    assert kept == {step: pytest.approx(by_step[step], abs=1e-4) for step in (2, 4, 6, 8)}


def _names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)).replace("radar/sds/colour", "") for path in folder.rglob("*.ckpt"))


def test_a_resumed_run_neither_loses_nor_doubles_a_point(folder, tmp_path):
    whole = RadarCallback(folder, every_n_steps=2)
    make_trainer(tmp_path / "whole", whole, max_steps=12).fit(PreTraining())

    first = RadarCallback(folder, every_n_steps=2)
    saving = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=6, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError, match="power cut"):
        make_trainer(tmp_path / "cut", first, saving, max_steps=12).fit(PreTraining(fail_at=9))
    assert steps(first) == [0, 2, 4, 6, 8], "the run should get further than its checkpoint"

    second = RadarCallback(folder, every_n_steps=2)
    trainer = make_trainer(tmp_path / "cut", second, max_steps=12)
    trainer.fit(PreTraining(), ckpt_path=tmp_path / "ckpt" / "step=6.ckpt")
    history = tmp_path / "cut" / "radar_history.jsonl"
    assert steps(second) == steps(whole) == [line["step"] for line in lines(history)] == [0, 2, 4, 6, 8, 10, 12]
    # The point at 8 that the lost branch made is not in the curve, and not lost either.
    assert [line["step"] for line in lines(history.with_name("radar_history.discarded.jsonl"))] == [8]


def test_a_run_resumed_in_another_folder_brings_its_history_along(folder, tmp_path):
    first = RadarCallback(folder, every_n_steps=2)
    trainer = make_trainer(tmp_path / "one", first, max_steps=4)
    trainer.fit(PreTraining())
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    second = RadarCallback(folder, every_n_steps=2)
    make_trainer(tmp_path / "two", second, max_steps=8).fit(PreTraining(), ckpt_path=tmp_path / "four.ckpt")
    records = lines(tmp_path / "two" / "radar_history.jsonl")
    assert [record["step"] for record in records] == [0, 2, 4, 6, 8]
    assert records[:3] == lines(tmp_path / "one" / "radar_history.jsonl")


def test_a_new_run_does_not_go_on_with_an_old_history(folder, tmp_path):
    for _ in range(2):
        make_trainer(tmp_path, RadarCallback(folder, every_n_steps=3)).fit(PreTraining())
    assert [line["step"] for line in lines(tmp_path / "radar_history.jsonl")] == [0, 3, 6]
    assert [line["step"] for line in lines(tmp_path / "radar_history.1.jsonl")] == [0, 3, 6]


def test_the_state_is_safe_to_load(folder, tmp_path):
    callback = RadarCallback(folder, every_n_steps=3)
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(PreTraining())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["callbacks"][callback.state_key]
    assert [record["step"] for record in state["history"]] == [0, 3, 6]
    json.dumps(state)


def test_an_error_is_logged_and_counted_and_training_goes_on(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("radar_callback.evaluator.RadarEvaluator.evaluate", _raises)
    callback = RadarCallback(folder, every_n_steps=3)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, callback, logger=logger)
    trainer.fit(PreTraining())
    assert trainer.global_step == 6
    assert callback.errors == 3 and callback.records == []
    assert trainer.callback_metrics["radar/errors"] == 3
    assert "Error while evaluating at step 3 (no luck); training goes on (error 2)." in caplog.text
    with Path(logger.log_dir, "metrics.csv").open() as file:
        assert [row["radar/errors"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_an_error_ends_training_for_those_who_want_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("radar_callback.evaluator.RadarEvaluator.evaluate", _raises)
    callback = RadarCallback(folder, every_n_steps=3, on_error="raise")
    with pytest.raises(RuntimeError, match="no luck"):
        make_trainer(tmp_path, callback).fit(PreTraining())


def _raises(self, step, **_):
    raise RuntimeError("no luck")


def test_a_history_that_cannot_be_written_does_not_end_training(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("radar_callback.history.History.append", _disk_full)
    callback = RadarCallback(folder, every_n_steps=3)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert callback.errors == 3 and steps(callback) == [0, 3, 6]
    assert "Error while writing the history ([Errno 28] No space left" in caplog.text


def _disk_full(self, record):
    raise OSError(28, "No space left on device")


def test_lightnings_smoke_test_scores_one_item_of_each_ability_and_writes_nothing(folder, tmp_path):
    callback = RadarCallback(folder)
    make_trainer(tmp_path, callback, fast_dev_run=True, max_steps=-1).fit(PreTraining())
    assert [record["samples"] for record in callback.records] == [3, 3]
    assert list(tmp_path.rglob("*.jsonl")) == []


class TwoModels(PreTraining):
    def __init__(self):
        super().__init__()
        self.teacher = tiny.llava()


class NoModel(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(Captions(4))


def test_what_can_never_work_is_said_before_the_first_step(folder, tmp_path):
    def fit(module, **arguments):
        callback = RadarCallback(folder, **arguments)
        make_trainer(tmp_path, callback).fit(module)
        return callback

    with pytest.raises(ConfigError, match=r"Found no Hugging Face image-text-to-text model in NoModel: pass .*model="):
        fit(NoModel())
    with pytest.raises(ConfigError, match=r"Found 2 .* \(model, teacher\): pass RadarCallback\(model='model'\)"):
        fit(TwoModels())
    with pytest.raises(ConfigError, match="model='student' to be a module in TwoModels"):
        fit(TwoModels(), model="student")
    assert steps(fit(TwoModels(), model="teacher", every_n_steps=3)) == [0, 3, 6]
    module = PreTraining()
    processor, module.processor = module.processor, None
    with pytest.raises(ConfigError, match=r"Found no processor: pass RadarCallback\(processor=…\), or set `processor`"):
        fit(module)
    assert steps(fit(module, processor=processor, every_n_steps=3)) == [0, 3, 6]
    with pytest.raises(ConfigError, match="Unknown prompt style 'sonnet'"):
        fit(PreTraining(), prompt="sonnet")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every_n_steps": 0}, ConfigError, "every_n_steps to be a whole number of at least 1, but got 0"),
        ({"every_n_steps": 1.5}, ConfigError, "but got 1.5"),
        ({"on_error": "ignore"}, ConfigError, "'log' or 'raise', but got 'ignore'"),
        ({"benchmark": "no-such-thing"}, BenchmarkError, "no-such-thing"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        RadarCallback(**{"benchmark": folder, **arguments})


def test_the_processor_is_found_where_the_model_came_from(folder, tmp_path):
    tiny.llava().save_pretrained(tmp_path / "vlm")
    tiny.llava_processor().save_pretrained(tmp_path / "vlm")
    module = PreTraining()
    module.processor = None
    module.model = type(module.model).from_pretrained(tmp_path / "vlm")
    callback = RadarCallback(folder, every_n_steps=6)
    make_trainer(tmp_path, callback).fit(module)
    assert steps(callback) == [0, 6] and callback.errors == 0


def test_two_benchmarks_in_one_run_keep_out_of_each_others_way(folder, tmp_path):
    other = tmp_path / "other"
    write_shards(tiny.samples(5, seed=9), other, name="second", groups=tiny.GROUPS)
    first, second = RadarCallback(folder, every_n_steps=3), RadarCallback(other, every_n_steps=2)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, first, second, logger=logger)
    trainer.fit(PreTraining())
    assert (steps(first), steps(second)) == ([0, 3, 6], [0, 2, 4, 6])
    assert lines(Path(logger.log_dir, "radar_history.jsonl")) == first.records
    assert lines(Path(logger.log_dir, "radar_history.second.jsonl")) == second.records
    overall = {key: trainer.callback_metrics[key].item() for key in ("radar/sds/overall", "radar/second/sds/overall")}
    assert list(overall.values()) == pytest.approx([c.records[-1]["overall"]["sds"] for c in (first, second)])
    with Path(logger.log_dir, "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["radar/second/sds/overall"]] == ["0", "2", "4", "6"]
    assert first.errors == second.errors == 0


def test_a_file_beside_the_history_asks_for_an_evaluation(folder, tmp_path):
    class Touched(PreTraining):
        def on_train_batch_start(self, batch, index):
            if self.global_step == 3:
                (tmp_path / "radar_evaluate").touch()

    callback = RadarCallback(folder, every_n_steps=100, at_start=False, at_end=False)
    make_trainer(tmp_path, callback, max_steps=40).fit(Touched())
    assert len(steps(callback)) == 1 and 4 <= steps(callback)[0] <= 40
    assert not (tmp_path / "radar_evaluate").exists()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"at_steps": [2, 5]}, [2, 5]),
        ({"at_steps": "log"}, [1, 2, 3, 4, 5, 6]),
        ({"at_steps": [3], "every_n_steps": 4}, [3, 4]),
    ],
)
def test_other_schedules(folder, tmp_path, schedule, expected):
    callback = RadarCallback(folder, **schedule, at_start=False, at_end=False)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert steps(callback) == expected


@pytest.mark.parametrize(("bar", "progress", "shown"), [(True, True, True), (True, False, False), (False, True, False)])
def test_progress_shows_during_an_evaluation_where_the_trainer_shows_any(
    bar, progress, shown, folder, tmp_path, monkeypatch
):
    seen = []

    @contextmanager
    def recording(label):
        yield lambda done, total: seen.append((label, done, total))

    monkeypatch.setattr("radar_callback.integrations.lightning.progress_bar", recording)
    callback = RadarCallback(folder, every_n_steps=100, at_end=False, batch_tokens=100, progress=progress)
    make_trainer(tmp_path, callback, max_steps=1, enable_progress_bar=bar).fit(PreTraining())
    assert bool(seen) == shown and callback.errors == 0
    if shown:
        total = seen[0][2]
        assert total > 1 and seen == [("radar", done, total) for done in range(1, total + 1)]


def test_a_history_that_could_not_be_written_is_written_once_there_is_room(folder, tmp_path, monkeypatch):
    right = history.append_line

    def full(path, line):
        if json.loads(line)["step"] == 2:
            raise OSError(28, "No space left on device")
        right(path, line)

    monkeypatch.setattr(history, "append_line", full)
    callback = RadarCallback(folder, every_n_steps=2)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert callback.errors == 1 and steps(callback) == [0, 2, 4, 6]
    assert [line["step"] for line in lines(callback.history_path)] == [0, 2, 4, 6]


def test_evaluations_that_fail_take_their_time_from_the_budget_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("radar_callback.budget.GRACE", 0.0)
    callback = RadarCallback(folder, every_n_steps=1, max_overhead=0.01)

    def failing(*args, **settings):
        time.sleep(0.2)
        raise RuntimeError("no")

    monkeypatch.setattr("radar_callback.evaluator.RadarEvaluator.evaluate", failing)
    make_trainer(tmp_path, callback, max_steps=12).fit(PreTraining())
    assert callback.errors <= 2


def test_ranks_on_a_machine_share_its_cores(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("radar_callback.integrations.lightning.spare_cores", lambda ranks: asked.append(ranks) or 1)
    make_trainer(tmp_path, RadarCallback(folder, at_end=False), max_steps=1).fit(PreTraining())
    make_trainer(tmp_path, RadarCallback(folder, at_end=False, workers=0), max_steps=1).fit(PreTraining())
    assert asked == [1], "Lightning says how many there are, and a number of the user's own is taken as it is"


@pytest.mark.parametrize("watched", [False, True])
def test_values_that_users_give_wandb_with_a_step_of_their_own_stay(folder, tmp_path, monkeypatch, watched):
    """W&B drops a value at a step that its counter has passed, and every row of ours moves the counter."""
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)

    class Logging(PreTraining):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log("loss", loss)
            self.logger.experiment.log({"own": self.global_step}, step=self.global_step)
            return loss

    callback = RadarCallback(folder, every_n_steps=5, blind_share=0, workers=0)
    options = {"logger": WandbLogger(save_dir=tmp_path), "max_steps": 16, "log_every_n_steps": 5}
    make_trainer(tmp_path, *([callback] if watched else []), **options).fit(Logging())
    wandb.finish()
    run = read_run(tmp_path)
    assert [row["own"] for row in run.rows if "own" in row] == list(range(16))
    if watched:
        points = run.series("radar/sds/overall")
        assert points == [(r["step"], r["overall"]["sds"]) for r in callback.records]
        assert [step for step, _ in points] == [0, 5, 10, 15, 16]
