"""The published Qwen2-VL script's own numbers on a fake M3-Bench, from shards to scores.

The values in `tests/data/golden` were produced by running that script; see the README there. Items flagged with a quirk of the
script are left out: for these the right thing is done instead, and other tests say what that is.
"""

import json
import math
from collections import defaultdict
from statistics import mean

import pytest
from transformers import AutoModelForImageTextToText

from radar_callback import RadarEvaluator
from radar_callback.benchmark.sources.m3bench import read_m3bench
from radar_callback.benchmark.writer import write_shards
from radar_callback.scoring.choose import WAYS
from radar_callback.scoring.processor import load_processor


@pytest.fixture(scope="module")
def expected(golden):
    document = json.loads((golden / "expected_qwen2vl.json").read_text())
    return {
        (name, sample["q_id"]): (sample, found["key"])
        for dataset in document["datasets"].values()
        for name, found in dataset["files"].items()
        for sample in found["samples"]
    }, document


def scored(source, model_folder, folder, **settings):
    found = read_m3bench(source, option_order="authors")
    write_shards(found.samples, folder, name=found.name, groups=found.groups)
    model = AutoModelForImageTextToText.from_pretrained(model_folder, attn_implementation="sdpa")
    return RadarEvaluator(model, load_processor(model_folder), folder, **settings).evaluate(per_sample=True)


@pytest.fixture(scope="module", params=WAYS)
def result(request, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("m3") / "bench"
    return scored(golden / "m3bench", golden / "tiny_qwen2vl", folder, scorer=request.param)


def id_of(item) -> tuple[str, str]:
    return item.meta["file"], item.meta["q_id"]


def softmax_first(values) -> float:
    return 1 / sum(math.exp(v - values[0]) for v in values)


def test_every_unflagged_item_agrees(expected, result):
    wanted, _ = expected
    compared = 0
    for item in result.items:
        sample, _ = wanted[id_of(item)]
        if sample["quirks"]:
            continue
        assert list(item.candidates) == sample["answers"], id_of(item)
        assert item.prompt == sample["prompt_text"]
        # Where the script resizes an image before the processor does so again, the values without that step count.
        direct = sample if sample["images_already_fitted"] else sample["variant_direct_images"]
        assert item.mean_logits == pytest.approx(direct["answers_avg_logits"], abs=1e-5), id_of(item)
        assert item.sds == pytest.approx(direct["answer_prob"][0], abs=1e-5), id_of(item)
        if sample["images_already_fitted"]:
            assert item.mean_logprobs == pytest.approx(sample["answers_avg_logprob"], abs=1e-5), id_of(item)
            assert item.sds_logprob == pytest.approx(sample["answer_prob_logprob"][0], abs=1e-5), id_of(item)
            assert item.correct == sample["success"]
        compared += 1
    assert compared == sum(not s["quirks"] and not s["skipped"] for s, _ in wanted.values()) >= 70


def test_the_item_with_too_many_images_is_counted_not_lost(expected, result):
    wanted, _ = expected
    skipped = {key for key, (sample, _) in wanted.items() if sample["skipped"]}
    assert result.failures == {"too_many_images": len(skipped)} and skipped
    assert result.samples == len(wanted) and len(result.items) == len(wanted) - len(skipped)
    assert {(row["meta"]["file"], row["meta"]["q_id"]) for row in result.unscored} == skipped


def test_averages_follow_the_scripts_rule(expected, result):
    """Mean over a file's items, then over files where there are categories: checked on all items that were scored."""
    wanted, _ = expected
    by_file = defaultdict(list)
    for item in result.items:
        by_file[item.meta["file"]].append(item)
    for folder, row in result.abilities.items():
        files = {name: items for name, items in by_file.items() if items[0].ability == folder}
        assert row["sds"] == pytest.approx(mean(mean(i.sds for i in items) for items in files.values()), abs=1e-8)
        assert row["accuracy"] == pytest.approx(mean(mean(i.correct for i in items) for items in files.values()))
        assert row["count"] == sum(map(len, files.values()))
    # And with the script's values where no item of a file is flagged or was resized beforehand.
    compared = 0
    for name, items in by_file.items():
        samples = [wanted[id_of(item)][0] for item in items]
        if any(s["quirks"] for s in samples):
            continue
        direct = [s if s["images_already_fitted"] else s["variant_direct_images"] for s in samples]
        assert mean(i.sds for i in items) == pytest.approx(mean(d["answer_prob"][0] for d in direct), abs=1e-5), name
        compared += 1
    assert compared >= 8


def test_chance_is_one_over_the_number_of_candidates(result):
    for folder, row in result.abilities.items():
        items = [item for item in result.items if item.ability == folder]
        by_category = defaultdict(list)
        for item in items:
            by_category[item.category].append(1 / len(item.candidates))
        assert row["chance"] == pytest.approx(mean(map(mean, by_category.values())), abs=1e-8)


def test_where_the_script_has_a_quirk_the_right_thing_is_done(golden, tmp_path):
    """Padding tokens in a text, a missing image, …: what the set calls clean, one candidate a forward without padding, counts."""
    result = scored(golden / "quirks" / "m3bench", golden / "tiny_qwen2vl", tmp_path / "bench")
    document = json.loads((golden / "quirks" / "expected_qwen2vl.json").read_text())
    files = [entry for dataset in document["datasets"].values() for entry in dataset["files"].items()]
    wanted = {(name, sample["q_id"]): sample for name, found in files for sample in found["samples"]}
    got = {id_of(item): item for item in result.items}
    compared = set()
    for key, item in got.items():
        sample = wanted[key]
        assert (item.prompt, list(item.candidates)) == (sample["prompt_text"], sample["answers"])
        if sample["images_already_fitted"]:
            assert item.mean_logits == pytest.approx(sample["clean_answers_avg_logits"], abs=1e-5), key
            compared |= set(sample["quirks"])
    assert compared >= {"no_image", "pad_token_in_question", "pad_id_inside_text"}
    # An answer that is also a distractor has no score; the other one shows too many images.
    lost = {quirk for key in wanted.keys() - got.keys() for quirk in wanted[key]["quirks"]}
    assert lost == {"duplicate_candidates", "skipped_too_many_images"}
    assert result.failures == {"invalid": 1, "too_many_images": 1}
