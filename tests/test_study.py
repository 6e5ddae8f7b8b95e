"""The study of the diagnosis: what is committed is what the code finds in the committed runs; faults do what they say."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from benchmarks.diagnosis.__main__ import HELD_OUT, TUNED_ON, loss_alarms, of_fault, read
from benchmarks.diagnosis.faults import FAULTS
from benchmarks.diagnosis.runs import RUNS, Plan, StudyModule, run
from benchmarks.diagnosis.scenes import Pairs, mixture, scene, sign
from benchmarks.diagnosis.simulate import emerging, healthy_runs, measured
from PIL import Image, ImageChops

from radar_callback.demo.data import Collate
from radar_callback.demo.model import build_model, build_processor, train_tokenizer
from radar_callback.diagnosis import alarms_of
from radar_callback.diagnosis.emergence import ABOVE

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def result():
    return json.loads((RESULTS / "diagnosis.json").read_text())


def test_the_committed_result_is_what_the_committed_runs_give(result):
    for rows, bases in ((result["faults"], (HELD_OUT,)), (result["faults_tuned_on"], TUNED_ON)):
        assert [(row["name"], row["base"]) for row in rows] == [(name, base) for base in bases for name in BY_NAME]
    for row in [*result["faults"], *result["faults_tuned_on"]]:
        assert of_fault(RUNS, BY_NAME[row["name"]], row["base"]) == row
    healthy = sorted(RUNS.glob("healthy-*"))
    assert len(healthy) >= 20 and result["healthy_runs"] >= len(healthy)
    alarmed = [path.name for path in healthy if alarms_of(read(path / "history.jsonl.gz"))]
    assert len(alarmed) == result["false_alarms"]
    assert 0 <= result["onset_within_one"] <= 1


def test_without_a_fault_there_is_no_alarm():
    for base in (HELD_OUT, *TUNED_ON):
        assert alarms_of(read(RUNS / f"base-{base}" / "history.jsonl.gz")) == []


def test_validity_is_as_committed():
    found = json.loads((RESULTS / "validity.json").read_text())
    assert found["points"] == len(found["rows"]) >= 100 and len(found["settings"]) >= 4
    x, y = (np.array([row[name] for row in found["rows"]]) for name in ("sds", "accuracy"))
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(found["pearson_sds"])
    low, high = found["interval"]
    assert low < found["pearson_sds"] < high


@pytest.fixture(scope="module")
def pairs():
    stream = Pairs("test", 60, scene)
    return [stream[i] for i in range(60)]


def test_faults_spoil_images_as_they_say(pairs):
    image, text = pairs[0]
    red, _, blue = image.split()
    spoil = {name: fault.spoil(list(pairs)) for name, fault in BY_NAME.items() if fault.spoil}
    assert spoil["BGR for RGB"][0][0].split()[0].tobytes() == blue.tobytes() and spoil["BGR for RGB"][0][1] == text
    grey = spoil["grayscale"][0][0].split()
    assert grey[0].tobytes() == grey[1].tobytes() == grey[2].tobytes() != red.tobytes()
    assert {one.getextrema() for one, _ in spoil["blank images"]} == {((255, 255),) * 3}
    mirrored = [
        ImageChops.difference(a, b).getbbox() is not None
        for (a, _), (b, _) in zip(pairs, spoil["random horizontal flips"], strict=True)
    ]
    assert 15 < sum(mirrored) < 45


def test_faults_spoil_captions_as_they_say(pairs):
    texts = [text for _, text in pairs]
    shuffled = [text for _, text in BY_NAME["captions shuffled against images"].spoil(list(pairs))]
    assert sorted(shuffled) == sorted(texts) and sum(a == b for a, b in zip(texts, shuffled, strict=True)) < 10
    ignoring = [text for _, text in BY_NAME["captions that ignore the picture"].spoil(list(pairs))]
    assert not set(ignoring) & set(texts) and len(set(ignoring)) > 3


def test_the_mix_has_signs_until_they_are_dropped():
    assert isinstance(sign(Random(0))[0], Image.Image)
    healthy = [text for _, text in (Pairs("x", 80, mixture(0.5))[i] for i in range(80))]
    dropped = [
        text for _, text in (Pairs("x", 80, BY_NAME["text images dropped from the mix"].draw)[i] for i in range(80))
    ]
    says = [sum("sign" in text or "word" in text for text in texts) for texts in (healthy, dropped)]
    assert 20 < says[0] < 60 and says[1] == 0


@pytest.fixture(scope="module")
def module(pairs):
    processor = build_processor(train_tokenizer(text for _, text in pairs))
    return StudyModule(build_model(processor.tokenizer), processor, 10), Collate(processor)([*pairs[:4]])


def test_truncation_hides_the_last_two_thirds_of_a_picture(module):
    study, batch = module
    cut = BY_NAME["image tokens truncated"].on_batch(study, batch, 0)
    pictures = batch["input_ids"] == study.model.config.image_token_id
    assert cut["attention_mask"][pictures].view(4, -1).tolist() == [[1] * 3 + [0] * 6] * 4
    assert torch.equal(cut["attention_mask"][~pictures], batch["attention_mask"][~pictures])


def test_a_run_and_its_branch_leave_histories(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.diagnosis.runs.PLANTED", 4)
    monkeypatch.setattr("benchmarks.diagnosis.runs.AFTER", 4)
    plan = Plan(steps=8, batch_size=4, every=2, items=4, signs=0.5)
    run(tmp_path / "base", plan, seed=0, save_at=[4])
    checkpoint = tmp_path / "base" / "step=4.ckpt"
    for name in ("projector frozen", "learning-rate spike"):
        run(tmp_path / name, plan, seed=0, fault=BY_NAME[name], checkpoint=checkpoint)
    whole, frozen, spike = (
        read(tmp_path / n / "history.jsonl.gz") for n in ("base", "projector frozen", "learning-rate spike")
    )
    assert [r["step"] for r in whole] == [r["step"] for r in frozen] == [0, 2, 4, 6, 8]
    assert whole[:3] == frozen[:3] and frozen[3]["moved"]["multi_modal_projector"] == 0
    assert spike[3]["moved"]["language_model"] > 5 * frozen[3]["moved"]["language_model"] > 0
    assert [alarm.subject for alarm in alarms_of(frozen)] == ["multi_modal_projector"]
    assert [line["step"] for line in read(tmp_path / "base" / "held_out.jsonl.gz")] == [0, 2, 4, 6, 8]


def test_simulated_runs_are_like_those_they_are_made_from():
    parts = [measured(read(path / "history.jsonl.gz")) for path in sorted(RUNS.glob("healthy-*"))[:4]]
    runs = list(healthy_runs(parts, 3, 21, seed=0))
    again = list(healthy_runs(parts, 3, 21, seed=0))
    assert [len(one) for one in runs] == [21] * 3 and repr(runs) == repr(again)
    simulated = np.array([[row["sds"] for row in record["abilities"].values()] for record in runs[0]])
    real = parts[0].smooth + parts[0].noise
    down = [np.minimum(np.diff(values, axis=-1), 0).std() for values in (simulated.T, real)]
    assert 0.3 < down[0] / down[1] < 3
    truths = [truth for _, truth in emerging(parts, 200, 0, ABOVE)]
    assert 20 < sum(truth is None for truth in truths) < 120


def test_the_losses_baseline_can_flag_and_stay_silent():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, 64)
    calm = [{"step": t, "losses": (base - 0.02 * t + 0.01 * rng.standard_normal(64)).tolist()} for t in range(12)]
    assert loss_alarms(calm) == []
    worse = [*calm, {"step": 12, "losses": (base + 0.5).tolist()}]
    assert loss_alarms(worse) == [12]
