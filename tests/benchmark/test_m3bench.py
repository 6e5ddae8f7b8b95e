"""M3-Bench as the authors' Qwen2-VL script shows it, and where its defects are put right."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.benchmark.sources import m3bench
from radar_callback.benchmark.sources.m3bench import FOLDERS, read_m3bench
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError, Reason

PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
QUIRKS = {"duplicate_candidates", "skipped_too_many_images", "image_tag_in_answer_but_not_in_ori_options"}


def plain_prompt(sample: Sample) -> str:
    marked = "<image>" in sample.question
    return PLACEHOLDER * (0 if marked else len(sample.images)) + sample.question.replace("<image>", PLACEHOLDER)


def expected_of(folder: Path) -> dict[tuple[str, str], dict]:
    document = json.loads((folder / "expected_qwen2vl.json").read_text())
    return {
        (name, sample["q_id"]): sample
        for dataset in document["datasets"].values()
        for name, found in dataset["files"].items()
        for sample in found["samples"]
    }


def read(folder: Path, **options) -> dict[tuple[str, str], Sample | Skipped]:
    found = list(read_m3bench(folder / "m3bench", **options).samples)
    assert len({one.key for one in found}) == len(found)
    return {(one.meta["file"], one.meta["q_id"]): one for one in found}


def check(sample: Sample, wanted: dict, root: Path) -> None:
    assert plain_prompt(sample) == wanted["prompt_text"]
    assert list(sample.candidates) == wanted["answers"]
    assert list(sample.images) == [(root / name).read_bytes() for name in wanted["image_files"]]


@pytest.mark.parametrize("name", [".", "quirks"])
def test_the_authors_order_gives_the_authors_prompts(name, golden):
    folder = golden / name
    expected, found = expected_of(folder), read(folder, option_order="authors")
    assert found.keys() == expected.keys()
    assert list(found) != []
    compared = 0
    for place, wanted in expected.items():
        one = found[place]
        if "skipped_too_many_images" in wanted["quirks"]:
            assert isinstance(one, Skipped)
            assert one.reason is Reason.TOO_MANY_IMAGES
        elif "duplicate_candidates" in wanted["quirks"]:
            assert one.reason is Reason.INVALID
            assert one.detail == "its answer 'lion' is among its distractors"
        else:
            check(one, wanted, folder / "m3bench")
            compared += 1
    assert compared == {".": 82, "quirks": 9}[name]


@pytest.mark.parametrize("name", [".", "quirks"])
def test_the_default_differs_only_where_options_are_shown(name, golden):
    folder = golden / name
    expected, found = expected_of(folder), read(folder)
    for place, wanted in expected.items():
        if wanted["random_draw"] is None and not QUIRKS & set(wanted["quirks"]):
            check(found[place], wanted, folder / "m3bench")


def test_shown_options_have_all_letters_and_the_true_answer(golden):
    folder = golden
    items = {}
    for file in (folder / "m3bench" / "multiple_discipline_reasoning").glob("*.json"):
        items |= json.loads(file.read_text())
    lettered = 0
    for (file, q_id), wanted in expected_of(folder).items():
        one = read(folder)[file, q_id] if wanted["random_draw"] is not None else None
        if not isinstance(one, Sample):
            continue
        lettered += 1
        entry = items[q_id]
        options = [entry["answer"], *entry["distraction"]]
        assert sorted(one.candidates) == list("ABCDEFGHIJ"[: len(options)])
        shown = re.fullmatch(r"(.*?) A\. (.*) Please select the correct option: ", one.question, re.DOTALL)
        listed = re.split(r" [B-J]\. ", shown[2])
        place = "ABCDEFGHIJ".index(one.answer)
        text = re.sub(r"<image \d+>", "<image>", entry["answer"])
        assert listed[place] == text
        tags = re.findall(r"<image (\d+)>", entry["question"])
        for i, option in enumerate([*entry["distraction"][:place], entry["answer"], *entry["distraction"][place:]]):
            assert listed[i] == re.sub(r"<image \d+>", "<image>", option)
            tags += re.findall(r"<image (\d+)>", option)
        category = one.category
        images = folder / "m3bench" / "multiple_discipline_reasoning" / "images" / category
        assert list(one.images) == [(images / f"{q_id}_image_{k}.png").read_bytes() for k in tags]
    assert lettered >= 5


@pytest.fixture
def make(tmp_path, image):
    """Writes a task file and all the images one could ask for."""

    def build(items: dict, folder="multiple_discipline_reasoning", file="MMMU_Pro_Art_2_pretrained_mllm_eval.json"):
        home = tmp_path / "m3" / folder
        home.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(json.dumps(items), encoding="utf-8")
        for q_id, item in items.items():
            if not isinstance(item, dict):
                continue
            (home / "images" / "Art").mkdir(parents=True, exist_ok=True)
            for k in range(1, 14):
                (home / "images" / "Art" / f"{q_id}_image_{k}.png").write_bytes(image((k, 0, 0)))
            (home / "images" / f"{q_id.partition('--')[0]}.jpg").write_bytes(image(format="JPEG"))
        return tmp_path / "m3"

    return build


def options_item(distractors=3, question="Which? <image 1>", **more) -> dict:
    options = [f"<image {k}>" for k in range(2, 3 + distractors)]
    return {"question": question, "answer": options[0], "distraction": options[1:], "ori_options": str(options), **more}


def test_the_place_of_an_answer_depends_on_its_own_name_alone(make):
    items = {f"q{i}": options_item() for i in range(200)}
    root = make(items)
    first = {one.key: one.answer for one in read_m3bench(root).samples}
    some = {q_id: items[q_id] for q_id in list(items)[:50:-3]}
    again = {one.key: one.answer for one in read_m3bench(make(some)).samples}
    assert again == {key: first[key] for key in again}
    assert all(30 < count < 70 for count in Counter(first.values()).values())  # 200 items on four letters
    assert set(first.values()) == set("ABCD")


def test_the_authors_draw_goes_on_over_files_and_skipped_items(make):
    """One number for each item that shows its options, before images are counted; B is taken for correct."""
    too_many = options_item(question="<image 1>" * 9)
    files = {
        "MMMU_Pro_Art_3_pretrained_mllm_eval.json": {f"a{i}": options_item() for i in range(4)} | {"a9": too_many},
        "MMMU_Pro_Art_2_pretrained_mllm_eval.json": {f"b{i}": options_item() for i in range(8)},
    }
    for file, items in files.items():
        root = make(items, file=file)
    found = list(read_m3bench(root, option_order="authors").samples)
    draw = random.Random(0).random
    draws = [draw() for _ in range(13)]
    assert [one.meta["q_id"] for one in found] == [*(f"b{i}" for i in range(8)), *(f"a{i}" for i in range(4)), "a9"]
    assert isinstance(found[-1], Skipped)
    assert [one.candidates for one in found[:-1]] == [("A", "B") if value > 0.5 else ("B", "A") for value in draws[:-1]]


def test_twelve_images_are_asked_and_thirteen_are_not_even_opened(make):
    root = make({"q12": options_item(question="<image 1>" * 8), "q13": options_item(question="<image 1>" * 9)})
    for broken in (root / "multiple_discipline_reasoning" / "images" / "Art").glob("q13*"):
        broken.unlink()
    twelve, thirteen = read_m3bench(root).samples
    assert len(twelve.images) == 12
    assert (thirteen.reason, thirteen.detail) == (Reason.TOO_MANY_IMAGES, "13 images; M3-Bench takes at most 12")
    assert (thirteen.ability, thirteen.category) == ("multiple_discipline_reasoning", "Art")


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        ({"question": "Q", "answer": "a", "distraction": ["a"]}, "its answer 'a' is among its distractors"),
        ({"question": "Q", "answer": "a", "distraction": ["b", "b"]}, "a distractor comes twice"),
        ({"question": "Q", "answer": "a", "distraction": [" "]}, "a candidate is empty"),
        ({"question": "In HTML, what is <image>?", "answer": "a", "distraction": ["b"]}, "holds <image> literally"),
        (options_item(question="<image 1> or <image>?"), "holds <image> literally"),
        (options_item(answer="<image 3>"), "is among its distractors"),
    ],
)
def test_an_item_that_makes_no_sense_is_left_out_with_the_reason(item, detail, make):
    good = {"question": "Q", "answer": "a", "distraction": ["b"]}
    bad, kept = read_m3bench(make({"bad": item, "good": good})).samples
    assert bad.reason is Reason.INVALID
    assert detail in bad.detail
    assert kept.key == "MMMU_Pro_Art_2-good"


def test_a_tag_in_a_candidate_alone_shows_the_options_too(make):
    """The script leaves the text "<image 2>" as a candidate, which no model could choose from the picture."""
    item = {
        "question": "Which? <image 1>",
        "answer": "<image 2>",
        "distraction": ["round"],
        "ori_options": "['a', 'b']",
    }
    (one,) = read_m3bench(make({"q": item})).samples
    assert sorted(one.candidates) == ["A", "B"]
    assert len(one.images) == 2
    (script,) = read_m3bench(make({"q": item}), option_order="authors").samples
    assert script.candidates == ("<image 2>", "round")


def test_tags_are_only_tags_in_mmmu_pro(make):
    item = {"question": "What is in <image 1>?", "answer": "lion", "distraction": ["<image 2>"]}
    (one,) = read_m3bench(make({"raw--0": item}, "Wiki_animal_identification", "x.json")).samples
    assert (one.question, one.candidates, len(one.images)) == (item["question"], ("lion", "<image 2>"), 1)
    assert one.category is None


def test_rules_go_by_the_folder_and_not_by_words_in_the_path(make, tmp_path):
    root = make(
        {"lion--0": {"question": "Q", "answer": "a", "distraction": ["b"]}}, "Wiki_animal_identification", "x.json"
    )
    moved = shutil.copytree(root, tmp_path / "MMMU_Pro_and_MMBench_SeePhys")
    (one,) = read_m3bench(moved).samples
    assert len(one.images) == 1


def test_ids_become_keys_that_webdataset_cannot_split(make):
    item = {"question": "Q", "answer": "a", "distraction": ["b"]}
    root = make({"v1.5": item, "v1_5": item, "v1 5": item}, "Wiki_animal_identification", "x.json")
    found = list(read_m3bench(root).samples)
    assert len({one.key for one in found}) == 3
    assert all(re.fullmatch(r"x-[\w-]+", one.key) for one in found)
    assert [one.meta for one in found] == [{"file": "x.json", "q_id": q} for q in ("v1.5", "v1_5", "v1 5")]


def test_all_nine_folders_become_a_benchmark(golden, tmp_path):
    found = read_m3bench(golden / "m3bench")
    write_shards(found.samples, tmp_path / "m3", name=found.name, groups=found.groups, max_samples=30)
    benchmark = Benchmark(tmp_path / "m3")
    assert set(benchmark.taxonomy.abilities) == set(FOLDERS)
    assert benchmark.taxonomy.groups == ("perception", "reasoning")
    assert benchmark.taxonomy.tree["reasoning"]["multiple_discipline_reasoning"] == [
        "Architecture_and_Engineering",
        "Art_Theory",
        "Math",
    ]
    assert (len(benchmark), len(benchmark.skipped)) == (82, 1)
    assert all(benchmark.read(i).key == item.key for i, item in enumerate(benchmark.items))


def test_some_of_the_folders(golden, tmp_path):
    shutil.copytree(golden / "m3bench" / "spatial_reasoning", tmp_path / "spatial_reasoning")
    assert {one.ability for one in read_m3bench(tmp_path).samples} == {"spatial_reasoning"}


GOOD = {"question": "Q", "answer": "a", "distraction": ["b"]}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ({"q": {"question": "Q", "answer": "a"}}, r"item 'q': field distraction: Field required"),
        ({"q": {**GOOD, "answer": 7}}, r"item 'q': field answer: .*string \(got 7\)"),
        ({"q": {**GOOD, "distraction": "b"}}, r"item 'q': field distraction"),
        ({"q": {**GOOD, "distraction": []}}, r"item 'q': field distraction"),
        ({"q": []}, "item 'q': Input should be"),
        ({"q": {**GOOD, "question": "\ud800"}}, "item 'q': Expected Unicode text"),
        ([GOOD], "Expected an object of items by q_id, but got list"),
    ],
)
def test_a_task_file_that_is_not_one(items, expected, make):
    root = make({})
    file = root / "multiple_discipline_reasoning" / "MMMU_Pro_Art_2_pretrained_mllm_eval.json"
    file.write_text(json.dumps(items))
    with pytest.raises(BenchmarkError, match=expected) as caught:
        list(read_m3bench(root).samples)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_other_bad_input(make, tmp_path):
    with pytest.raises(BenchmarkError, match="but got no such folder"):
        read_m3bench(tmp_path / "absent")
    (tmp_path / "empty" / "spatial_reasoning").mkdir(parents=True)
    with pytest.raises(BenchmarkError, match="Expected task files"):
        list(read_m3bench(tmp_path / "empty").samples)
    (tmp_path / "empty" / "spatial_reasoning" / "x_pretrained_mllm_eval.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="Expected items by q_id, but it is empty"):
        list(read_m3bench(tmp_path / "empty").samples)
    with pytest.raises(BenchmarkError, match="but got none of them"):
        read_m3bench(tmp_path)
    with pytest.raises(ConfigError, match="item or authors, but got 'mine'"):
        read_m3bench(tmp_path, option_order="mine")
    root = make({"q": GOOD}, file="other.json")
    with pytest.raises(
        BenchmarkError, match=r"named MMMU_Pro_<category>_<n>_pretrained_mllm_eval\.json, but got .*other\.json"
    ):
        list(read_m3bench(root).samples)


def test_damaged_images_stop_the_build_or_are_left_out(make):
    root = make({"cut": GOOD, "gone": GOOD, "good": GOOD}, "physical_reasoning", "SeePhys_3_pretrained_mllm_eval.json")
    home = root / "physical_reasoning"
    items = {q_id: {**GOOD, "img_num": 1} for q_id in ("cut", "gone", "good")} | {"none": GOOD}
    (home / "SeePhys_3_pretrained_mllm_eval.json").write_text(json.dumps(items))
    shutil.copy(home / "images" / "good.jpg", home / "images" / "good_0.png")
    (home / "images" / "cut_0.png").write_text("<html>")
    with pytest.raises(
        BenchmarkError, match="item 'none': field img_num: Field required"
    ):  # before any image is opened
        list(read_m3bench(root).samples)
    cut, gone, good, none = read_m3bench(root, keep_going=True).samples
    assert (cut.reason, gone.reason, none.reason) == (Reason.BAD_IMAGE, Reason.BAD_IMAGE, Reason.INVALID)
    assert "Expected an image at" in gone.detail
    assert "field img_num: Field required" in none.detail
    assert good.image_names == ("0.jpg",)  # a JPEG whose name says PNG
    (home / "SeePhys_3_pretrained_mllm_eval.json").write_text(
        json.dumps({k: v for k, v in items.items() if k != "none"})
    )
    with pytest.raises(BenchmarkError, match=r"item 'cut': Expected an image, but .*cut_0\.png is not an image"):
        list(read_m3bench(root).samples)


def test_all_task_files_are_checked_before_the_first_image_is_opened(make, monkeypatch):
    root = make({"good": GOOD}, "Wiki_animal_identification", "x.json")
    make({"bad": {**GOOD, "answer": 7}}, "spatial_reasoning", "y.json")
    monkeypatch.setattr(m3bench, "load_image", lambda *arguments: pytest.fail("an image was opened"))
    with pytest.raises(BenchmarkError, match=r"y\.json: item 'bad': field answer"):
        list(read_m3bench(root).samples)


def test_messages_are_short(make):
    huge = "x" * 200_000
    items = {"a": {**GOOD, "answer": huge, "distraction": [huge]}, "b": {**GOOD, "distraction": [huge, huge]}}
    items |= {"c": {**GOOD, "question": [huge]}, "good": GOOD}
    root = make(items, "Wiki_animal_identification", "x.json")
    *left_out, _ = read_m3bench(root, keep_going=True).samples
    assert [one.reason for one in left_out] == [Reason.INVALID] * 3
    assert all(len(one.detail) < 400 for one in left_out)


def test_text_that_looks_like_a_tag_survives_the_shards(make, tmp_path):
    """The scripts show it as it is, so it must not become the place of the image when the item is read again."""
    root = make(
        {"raw--0": {"question": "What is in <image 1>?", "answer": "lion", "distraction": ["<image 2>"]}},
        "Wiki_animal_identification",
        "x.json",
    )
    found = read_m3bench(root)
    write_shards(found.samples, tmp_path / "b", name="b", groups=found.groups)
    one = Benchmark(tmp_path / "b").read(0)
    assert (one.question, one.candidates) == ("What is in <image 1>?", ("lion", "<image 2>"))
    assert plain_prompt(one) == PLACEHOLDER + "What is in <image 1>?"
