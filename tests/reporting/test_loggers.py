"""What W&B, TensorBoard and CSV have on the disk after an evaluation was given to them. Never online."""

import csv
import json
import logging
import os
import subprocess
import sys
from collections import Counter

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from radar_callback.reporting.loggers import TABLE_COLUMNS, log_result, table_rows
from tests.helpers.evaluations import evaluation, history
from tests.helpers.wandb_reader import read_run

wandb = pytest.importorskip("wandb")

TREE = {"perception": ["colour", "count"], "reasoning": ["spatial_relation"]}
PICTURES = ("radar/chart", "radar/curves")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    yield
    wandb.finish()


class Evaluate(Callback):
    """Gives made-up evaluations to the loggers of a real Trainer, every three steps."""

    def __init__(self):
        self.records = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        pl_module.log("loss", float(trainer.global_step))
        if trainer.global_step % 3 == 0:
            result = evaluation(trainer.global_step, TREE)
            self.records.append(result.to_record())
            log_result(trainer.loggers, result, result.metrics(overhead=0.01), self.records)


@pytest.fixture
def fit(tmp_path):
    """A fit of 12 steps whose own values are logged every 4, so that the two cadences differ."""

    def run(*loggers):
        callback = Evaluate()
        trainer = Trainer(
            max_steps=12,
            log_every_n_steps=4,
            logger=list(loggers),
            callbacks=[callback],
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            accelerator="cpu",
        )
        trainer.fit(BoringModel())
        return callback.records

    return run


def test_wandb_offline_has_every_curve_table_and_picture_at_its_step(fit, tmp_path):
    records = fit(WandbLogger(project="radar", save_dir=tmp_path))
    wandb.finish()
    run = read_run(tmp_path)

    assert run.series("radar/sds/colour") == [(r["step"], r["abilities"]["colour"]["sds"]) for r in records]
    assert [step for step, _ in run.series("radar/sds/colour")] == [3, 6, 9, 12]
    for step, key in [(r["step"], key) for r in records for key in evaluation(r["step"], TREE).metrics(overhead=0.01)]:
        assert (step, evaluation(step, TREE).metrics(overhead=0.01)[key]) in run.series(key)
    assert [step for step, _ in run.series("loss")] == [3, 7, 11], "the run's own values are where Lightning puts them"

    tables = run.series("radar/table")
    assert [step for step, _ in tables] == [3, 6, 9, 12]
    table = json.loads(run.media(tables[-1][1]).read_text())
    assert table["columns"] == list(TABLE_COLUMNS)
    assert [row[0] for row in table["data"]] == ["colour", "count", "spatial_relation"]
    assert table["data"][0][2] == records[-1]["abilities"]["colour"]["sds"]
    for key in PICTURES:
        pictures = run.series(key)
        assert [step for step, _ in pictures] == [3, 6, 9, 12]
        for _, entry in pictures:
            (name,) = entry["filenames"]
            with Image.open(run.folder / "files" / name) as picture:
                assert picture.width >= 800 and len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_tensorboard_has_scalars_and_pictures_at_their_steps(fit, tmp_path):
    records = fit(TensorBoardLogger(tmp_path / "tb"))
    (file,) = (tmp_path / "tb").rglob("events*")
    events = EventAccumulator(str(file), size_guidance={"images": 0, "scalars": 0}).Reload()
    for key, value in evaluation(12, TREE).metrics(overhead=0.01).items():
        scalars = events.Scalars(key)
        assert [event.step for event in scalars] == [3, 6, 9, 12]
        assert scalars[-1].value == pytest.approx(value, rel=1e-6)
    for key in PICTURES:
        images = events.Images(key)
        assert [event.step for event in images] == [3, 6, 9, 12] and images[0].width >= 800
    assert len(records) == 4


def test_csv_has_the_scalars(fit, tmp_path):
    records = fit(CSVLogger(tmp_path / "csv"))
    (file,) = (tmp_path / "csv").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row["radar/sds/colour"]]
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert [float(row["radar/sds/colour"]) for row in rows] == [r["abilities"]["colour"]["sds"] for r in records]
    assert "radar/table" not in rows[0]


def test_two_loggers_at_once_and_a_prefix(tmp_path):
    loggers = [CSVLogger(tmp_path / "csv", prefix="pre"), WandbLogger(save_dir=tmp_path, prefix="pre")]
    result = evaluation(7, TREE)
    assert log_result(loggers, result, result.metrics(), [result.to_record()]) == Counter()
    loggers[0].save()
    wandb.finish()
    run = read_run(tmp_path)
    assert run.series("pre-radar/sds/count") == [(7, result.abilities["count"]["sds"])]
    assert all(len(run.series(f"pre-{key}")) == 1 for key in ("radar/table", *PICTURES))
    (row,) = csv.DictReader(next((tmp_path / "csv").rglob("metrics.csv")).open())
    assert float(row["pre-radar/sds/count"]) == result.abilities["count"]["sds"]


def test_points_that_come_late_are_not_dropped_by_wandb(tmp_path):
    logger = WandbLogger(save_dir=tmp_path)
    for step in (9, 4):
        result = evaluation(step, TREE)
        log_result([logger], result, result.metrics(), [result.to_record()])
    wandb.finish()
    assert [step for step, _ in read_run(tmp_path).series("radar/sds/overall")] == [9, 4]


class Plain:
    """The least that a logger can be."""

    def __init__(self):
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))


class Down(Plain):
    """W&B without a network, a full disk, a bug of the user's: everything raises."""

    def log_metrics(self, metrics, step=None):
        raise ConnectionError("api.example is down")

    def log_table(self, **_):
        raise RuntimeError("no table")

    def log_image(self, **_):
        raise RuntimeError("no image")

    @property
    def experiment(self):
        raise OSError("no experiment")


class NoExperiment(Plain):
    @property
    def experiment(self):
        raise OSError("no experiment")


def test_a_logger_that_raises_keeps_no_other_from_getting_its_values(caplog):
    first, last, result = Plain(), NoExperiment(), evaluation(5, TREE)
    failures = Counter()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log_result([first, Down(), last], result, result.metrics(), [result.to_record()], failures)
    assert first.seen == last.seen == [(5, result.metrics())] * 3
    assert failures == {("Down (1)", kind): 3 for kind in ("scalars", "table", "chart", "curves")}
    assert len(caplog.records) == 4, "once a kind"
    assert "ConnectionError: api.example is down" in caplog.text and "step 5" in caplog.text


def test_a_broken_picture_takes_nothing_else_with_it(monkeypatch):
    from radar_callback.reporting import radar_chart

    class Rich(Plain):
        def log_table(self, key, columns, data, step):
            self.seen.append((step, key))

        def log_image(self, key, images, step):
            self.seen.append((step, key))

    monkeypatch.setattr(radar_chart, "radar_figure", lambda *_: 1 / 0)
    logger, result = Rich(), evaluation(5, TREE)
    failures = log_result([logger], result, result.metrics(), [result.to_record()])
    assert failures == {("Rich (0)", "chart"): 1}
    assert logger.seen == [(5, result.metrics()), (5, "radar/table"), (5, "radar/curves")]


def test_ending_the_program_is_not_caught():
    class Interrupted(Plain):
        def log_metrics(self, metrics, step=None):
            raise KeyboardInterrupt

    result = evaluation(5, TREE)
    with pytest.raises(KeyboardInterrupt):
        log_result([Interrupted()], result, result.metrics(), [])


def test_the_table_has_the_change_and_no_nan():
    records = history([0, 3], tree=TREE)
    lost = evaluation(6, TREE, sds=lambda name, step: float("nan") if name == "count" else 0.7)
    rows = {
        row[0]: dict(zip(TABLE_COLUMNS, row, strict=True)) for row in table_rows(lost, [*records, lost.to_record()])
    }
    assert rows["colour"]["change"] == 0.7 - records[1]["abilities"]["colour"]["sds"]
    assert rows["count"]["sds"] is None and rows["count"]["change"] is None and rows["count"]["group"] == "perception"
    assert table_rows(lost, [])[0][TABLE_COLUMNS.index("change")] is None


def test_plain_loggers_cost_no_picture_and_nothing_heavy_is_imported():
    code = (
        "import sys; from tests.helpers.evaluations import evaluation as e;"
        "from radar_callback.reporting.loggers import log_result; import radar_callback.history;"
        "L = type('L', (), {'log_metrics': lambda *a: None}); r = e(1);"
        "assert not log_result([L()], r, r.metrics(), [r.to_record()]);"
        "sys.exit(str([m for m in ('wandb', 'lightning', 'torch', 'matplotlib') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert done.stderr.strip() == "", done.stderr
