"""Publishing without holding up a run: pictures drawn elsewhere, loggers that hang, one call to W&B an evaluation."""

import subprocess
import sys
import threading
import time

import pytest
from lightning.pytorch.loggers import WandbLogger

from radar_callback.reporting import publisher as publishing
from radar_callback.reporting import radar_chart
from radar_callback.reporting.bounded_calls import BackgroundWork, BoundedCaller, StillWaitingError
from radar_callback.reporting.publisher import Publisher
from tests.helpers.evaluations import evaluation
from tests.helpers.wandb_reader import read_run

TREE = {"perception": ["colour", "count"], "reasoning": ["spatial_relation"]}


class Plain:
    """The least that a logger can be."""

    def __init__(self):
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))


class Rich(Plain):
    def log_table(self, key, columns, data, step):
        self.seen.append((step, key))

    def log_image(self, key, images, step):
        self.seen.append((step, key))


class Hanging(Plain):
    """A server that takes the connection and then says nothing, until it is released."""

    def __init__(self, first=0):
        super().__init__()
        self.released, self.calls, self._first = threading.Event(), 0, first

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        if self.calls > self._first:
            self.released.wait(60)
        super().log_metrics(metrics, step)


def publish(publisher, *steps):
    for step in steps:
        result = evaluation(step, TREE)
        publisher.publish(result, result.metrics(), [evaluation(s, TREE).to_record() for s in steps if s <= step])


def test_scalars_come_at_once_and_pictures_when_they_are_drawn(monkeypatch):
    drawing, threads = threading.Event(), []
    draw = radar_chart.radar_figure

    def slowly(*args):
        threads.append(threading.current_thread())
        drawing.wait(10)
        return draw(*args)

    monkeypatch.setattr(radar_chart, "radar_figure", slowly)
    logger = Rich()
    publisher = Publisher([logger])
    publish(publisher, 3, 6)
    publisher.deliver()
    assert logger.seen == [(step, evaluation(step, TREE).metrics()) for step in (3, 6)], "nobody waits for a picture"
    drawing.set()
    publisher.deliver(wait=30)
    assert logger.seen[2:] == [(s, f"radar/{key}") for s in (3, 6) for key in ("table", "chart", "curves")]
    assert threading.main_thread() not in threads and not publisher.failures


def test_a_logger_that_hangs_holds_nobody_and_is_said_once(caplog):
    before, hanging, after = Plain(), Hanging(first=1), Plain()
    publisher = Publisher([before, hanging, after], patience=0.2)
    started = time.monotonic()
    publish(publisher, *range(0, 30, 3))
    publisher.deliver(wait=1)
    assert time.monotonic() - started < 5, "it is waited for once"
    assert [step for step, _ in before.seen] == [step for step, _ in after.seen] == list(range(0, 30, 3))
    assert [step for step, _ in hanging.seen] == [0] and hanging.calls == 2, "nothing is called while it hangs"
    assert [record.getMessage() for record in caplog.records] == [
        "Hanging (1) could not log the values of the evaluation at step 3: StillWaitingError: no answer within 0.2 s. "
        "Training goes on, further failures of this kind are only counted."
    ]
    hanging.released.set()
    time.sleep(0.2)
    publish(publisher, 33)
    assert [step for step, _ in hanging.seen] == [0, 3, 33], "once it answers it is told again"


def test_a_program_whose_logger_hangs_ends():
    code = (
        "import threading; from radar_callback.reporting.publisher import Publisher;"
        "from tests.helpers.evaluations import evaluation as e;"
        "L = type('L', (), {'log_metrics': lambda *a, **k: threading.Event().wait(600)}); r = e(1);"
        "Publisher([L()], patience=0.1).publish(r, r.metrics(), [r.to_record()]); print('over')"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "over" and done.returncode == 0, done.stderr


def test_what_a_logger_raises_is_counted_and_ctrl_c_is_not_caught():
    class Down(Plain):
        def log_metrics(self, metrics, step=None):
            raise self.error

    logger = Down()
    logger.error = ConnectionError("down")
    publisher = Publisher([logger])
    publish(publisher, 5)
    assert publisher.failures == {("Down (0)", "scalars"): 1}
    logger.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        publish(publisher, 10)


def test_a_broken_picture_takes_nothing_else_with_it(monkeypatch):
    monkeypatch.setattr(radar_chart, "radar_figure", lambda *_: 1 / 0)
    logger = Rich()
    publisher = Publisher([logger])
    publish(publisher, 5)
    publisher.deliver(wait=30)
    assert [entry for _, entry in logger.seen[1:]] == ["radar/table", "radar/curves"]
    assert publisher.failures == {("Rich (0)", "chart"): 1}


def test_wandb_gets_one_row_an_evaluation_and_users_keep_their_steps(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = WandbLogger(save_dir=tmp_path)
    run = logger.experiment
    publisher = Publisher([logger])
    for step in range(10):  # a user who counts the run's rows by optimizer steps
        if step % 4 == 0:
            publish(publisher, step)
        run.log({"own": step}, step=step)
        publisher.deliver(wait=30)
    publisher.publish_scalars(10, {"radar/errors": 1})
    publisher.deliver(wait=30)
    wandb.finish()
    rows = read_run(tmp_path).rows
    assert [row["own"] for row in rows if "own" in row] == list(range(10))
    ours = [row for row in rows if any(key.startswith("radar/") for key in row)]
    assert [row["trainer/global_step"] for row in ours] == [0, 4, 8, 10]
    for row in ours[:3]:
        assert {"radar/sds/colour", "radar/table", "radar/chart", "radar/curves"} <= row.keys()


def test_results_are_handed_over_in_order():
    first = threading.Event()
    work = BackgroundWork()
    work.submit(lambda: first.wait(10) and "first")
    work.submit(lambda: "second")
    assert work.finished() == [] and work.pending == 2
    first.set()
    assert work.finished(wait=10) == ["first", "second"] and work.pending == 0


def test_an_error_is_raised_where_somebody_waits():
    caller = BoundedCaller(patience=5)
    with pytest.raises(ZeroDivisionError):
        caller.call(lambda: 1 / 0)
    assert caller.call(lambda: threading.current_thread().daemon)
    release = threading.Event()
    with pytest.raises(StillWaitingError, match=r"no answer within 0\.01 s"):
        BoundedCaller(patience=0.01).call(lambda: release.wait(10))
    release.set()
    assert publishing.PATIENCE <= 30, "ranks wait for it, once"
