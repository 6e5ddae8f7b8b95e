"""What a run is told while it goes on: findings reach the log, the history, the user's function and W&B, and may end training."""

import json
import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from radar_callback import RadarCallback
from radar_callback.diagnosis import Finding, Kind
from radar_callback.errors import ConfigError
from radar_callback.item_history import read_item_scores
from tests.helpers import tiny
from tests.helpers.training import PreTraining
from tests.integrations.test_lightning import make_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=60)


class Stopping(PreTraining):
    """The projector loses its gradient from step 6 on."""

    def on_train_batch_start(self, batch, index):
        if self.global_step == 6:
            self.model.model.multi_modal_projector.requires_grad_(False)


class Alerts:
    def __init__(self):
        self.told = []

    def alert(self, title, text):
        self.told.append((title, text))


class Alerting(CSVLogger):
    """A logger whose run can be alerted, as W&B's."""

    def __init__(self, folder, fails=False):
        super().__init__(folder)
        self.alerts, self._fails = Alerts(), fails

    @property
    def experiment(self):
        experiment = super().experiment
        experiment.alert = self._raise if self._fails else self.alerts.alert
        return experiment

    def _raise(self, title, text):
        raise ConnectionError("no network")


def test_a_part_that_stops_is_told_to_all_who_asked(folder, tmp_path, caplog):
    told: list[Finding] = []
    logger = Alerting(tmp_path)
    callback = RadarCallback(folder, every_n_steps=2, on_finding=told.append, max_overhead=None)
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path, callback, logger=logger, max_steps=12).fit(Stopping())
    alarms = [finding for finding in told if finding.is_alarm]
    assert [(one.kind, one.subject, one.step) for one in alarms] == [(Kind.PART_STOPPED, "multi_modal_projector", 8)]
    assert [title for title, _ in logger.alerts.told] == ["radar: part stopped of multi_modal_projector"]
    assert [r.levelname for r in caplog.records if "multi_modal_projector has stopped" in r.message] == ["WARNING"]
    lines = [json.loads(line) for line in Path(logger.log_dir, "radar_history.jsonl").read_text().splitlines()]
    assert [[one["kind"] for one in line["findings"] if one["alarm"]] for line in lines if line["step"] == 8] == [
        ["part_stopped"]
    ]
    assert lines == callback.records


def test_nobody_who_fails_to_listen_ends_training(folder, tmp_path):
    def refuses(finding):
        raise ValueError("not now")

    callback = RadarCallback(folder, every_n_steps=2, on_finding=refuses, on_error="raise", max_overhead=None)
    trainer = make_trainer(tmp_path, callback, logger=Alerting(tmp_path, fails=True), max_steps=12)
    trainer.fit(Stopping())
    assert trainer.global_step == 12 and callback.errors == 0


def test_training_ends_only_if_the_user_said_so(folder, tmp_path):
    callback = RadarCallback(folder, every_n_steps=2, stop_on=["part_stopped"], max_overhead=None)
    trainer = make_trainer(tmp_path, callback, max_steps=12)
    trainer.fit(Stopping())
    assert trainer.global_step == 8


@pytest.mark.parametrize("wrong", ["collapse", ["stall"], ["fire"]])
def test_only_alarms_can_end_training(wrong):
    with pytest.raises(ConfigError, match="stop_on to hold alarms"):
        RadarCallback(stop_on=wrong)


def test_items_are_compared_from_one_evaluation_to_the_next_also_behind_a_checkpoint(folder, tmp_path):
    whole = RadarCallback(folder, every_n_steps=2, max_overhead=None)
    make_trainer(tmp_path / "whole", whole, max_steps=8).fit(PreTraining())
    index, scores = read_item_scores(tmp_path / "whole" / "radar_items.jsonl")
    assert list(scores) == [0, 2, 4, 6, 8] and len(index.keys) == 60
    assert "change" not in whole.records[0]
    for before, after in zip(whole.records, whole.records[1:], strict=False):
        assert after["change"]["since"] == before["step"]
        for ability, row in after["change"]["abilities"].items():
            if ability != "maths":  # whose mean is that of its categories
                moved = after["abilities"][ability]["sds"] - before["abilities"][ability]["sds"]
                assert row["sds"] == pytest.approx(moved, abs=2e-5)
                assert row["count"] == after["abilities"][ability]["count"]
    for record in whole.records[1:]:
        assert record["moved"]["vision_tower"] == 0 < record["moved"]["language_model"]
        at = index.of_ability("colour")
        assert scores[record["step"]].sds(index)[at].mean() == pytest.approx(
            record["abilities"]["colour"]["sds"], abs=2e-5
        )

    module, trainer = (
        PreTraining(),
        make_trainer(tmp_path / "part", RadarCallback(folder, every_n_steps=2), max_steps=4),
    )
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "part" / "at4.ckpt")
    going = make_trainer(tmp_path / "part", RadarCallback(folder, every_n_steps=2, max_overhead=None), max_steps=8)
    going.fit(PreTraining(), ckpt_path=tmp_path / "part" / "at4.ckpt")
    _, resumed = read_item_scores(tmp_path / "part" / "radar_items.jsonl")
    assert list(resumed) == [0, 2, 4, 6, 8]


def test_a_frozen_step_changes_no_item(folder, tmp_path):
    class Still(PreTraining):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    callback = RadarCallback(folder, every_n_steps=3, max_overhead=None)
    make_trainer(tmp_path, callback, max_steps=6).fit(Still())
    for record in callback.records[1:]:
        assert set(record["moved"].values()) == {0.0}
        assert all(
            row["sds"] == row["learned"] == row["forgotten"] == 0 for row in record["change"]["abilities"].values()
        )
