"""Questions of one's own, and what is said about lines that cannot be used."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_from_bytes

import pytest

from radar_callback.benchmark.images import load_image
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Skipped
from radar_callback.benchmark.sources import jsonl
from radar_callback.benchmark.sources.base import slug
from radar_callback.benchmark.sources.jsonl import read_jsonl
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, Reason

GOOD = {"id": 7, "question": "What?", "options": ["red", "blue", 3], "answer": "red", "image": "a.png"}


@pytest.fixture
def file(tmp_path, image):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(image())
    (tmp_path / "mine" / "b.png").write_bytes(image(format="WEBP"))
    (tmp_path / "mine" / "cut.jpg").write_bytes(image(size=(50, 50), format="JPEG")[:-100])
    return tmp_path / "mine" / "questions.jsonl"


def write(file, *lines) -> None:
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")


def test_what_a_line_may_say(file):
    write(
        file,
        GOOD,
        "",
        {
            "question": "Compare <image> and <image>",
            "answer": 3,
            "distractors": [2.5, "4"],
            "images": ["a.png", "b.png"],
            "ability": "maths",
            "group": "reasoning",
            "category": "area",
            "level": 5,
            "tags": ["x"],
        },
        {"id": "v1.5/x", "question": "No image", "answer": "a", "distractors": ["b"]},
    )
    found = read_jsonl(file.parent)
    first, second, third = found.samples
    assert found.name == "mine"
    assert found.groups == {"mine": "all", "maths": "reasoning"}
    assert (first.key, first.candidates, first.ability, first.category) == ("7", ("red", "blue", "3"), "mine", None)
    assert first.meta == {"id": 7}
    assert (second.key, second.candidates, second.ability) == ("line#3", ("3", "2.5", "4"), "maths")
    assert second.meta == {"id": 3, "level": 5, "tags": ["x"]}
    assert second.image_names == ("0.png", "1.webp")
    assert third.images == ()
    assert third.key == slug("v1.5/x")
    assert third.meta == {"id": "v1.5/x"}


def test_defaults_and_places(file):
    write(file, GOOD)
    found = read_jsonl(file, name="n", ability="colour", group="perception")
    assert (found.name, found.groups) == ("n", {"colour": "perception"})
    other = file.rename(file.with_name("other.jsonl"))
    assert read_jsonl(other).name == "other"
    assert read_jsonl(other.parent).name == "other"  # the only .jsonl there
    other.with_name("third.jsonl").write_text("")
    with pytest.raises(
        BenchmarkError, match=r"Expected questions\.jsonl or one \.jsonl file in .*mine, but got 2 of them"
    ):
        read_jsonl(other.parent)


BAD = [
    ("{", "Expected JSON, but line 1, column 2"),
    ("[1]", "Expected an object, but got list"),
    ('{"x": NaN}', "Expected JSON, but NaN is not JSON"),
    ('{"question": "\\ud800"}', "Expected Unicode text"),
    ({**GOOD, "answer": "green"}, r"Expected the answer among the options \['red', 'blue', '3'\], but got 'green'"),
    ({**GOOD, "options": ["red", "red"]}, "the answer 'red' comes twice"),
    ({**GOOD, "options": ["red", "a", "a"]}, "repeats one"),
    ({**GOOD, "options": ["red"]}, "at least one distractor"),
    ({**GOOD, "options": "red"}, "Expected field 'options' to be a list, but got 'red'"),
    ({**GOOD, "options": ["red", None]}, "Expected every entry of 'options' to be text or a number, but got None"),
    ({**GOOD, "distractors": ["x"]}, "either field 'options' or 'distractors', but got both"),
    ({"question": "Q", "answer": "a"}, "either field 'options' or 'distractors', but got none"),
    ({"question": "Q", "answer": "a", "distractors": ["a"]}, "has its answer 'a' among them"),
    ({"answer": "a", "distractors": ["b"]}, "Expected field 'question', but it is missing"),
    ({**GOOD, "question": ["x"]}, "Expected field 'question' to be text or a number"),
    ({**GOOD, "answer": True}, "Expected field 'answer' to be text or a number, but got True"),
    ({**GOOD, "image": "absent.png"}, r"Expected an image at .*absent\.png, but there is none"),
    ({**GOOD, "image": "cut.jpg"}, r"Expected an image, but .*cut\.jpg is not an image that can be opened"),
    ({**GOOD, "image": "questions.jsonl"}, r"Expected an image, but .*questions\.jsonl is not an image"),
    ({**GOOD, "image": 7}, "Expected images to be paths, but got 7"),
    ({**GOOD, "image": "."}, "Expected an image at"),
    ({**GOOD, "images": ["a.png"]}, "either field 'images' or 'image', but got both"),
    ({**GOOD, "question": "<image> and <image>"}, "2 marks for 1 images"),
    ({**GOOD, "ability": ["x"]}, "Expected field 'ability' to be text"),
    ({**GOOD, "category": ["x"]}, "Expected field 'category' to be text"),
    ({**GOOD, "group": ["x"]}, "Expected field 'group' to be text"),
    ({**GOOD, "image": ""}, "Expected images to be paths, but got ''; base64 and data URIs are taken too"),
    ({**GOOD, "image": {"bytes": None}}, r"Expected images to be paths, but got {'bytes': None}"),
    (
        {**GOOD, "image": "https://u:secret@host/a.png?sig=secret"},
        r"an address on the web \('https'\): fetch what lies",
    ),
    ({**GOOD, "image": "data:image/png"}, "Expected an image in base64, but a data uri has a comma before its data"),
    ({**GOOD, "image": "data:image/png;base64,x"}, "Expected an image in base64, but "),
    ({**GOOD, "image": "data:image/svg+xml,<svg/>"}, "it is SVG, expected"),
    (
        {**GOOD, "ability": "OCR/Text"},
        "Expected the name of an ability to be text without a slash and not 'overall', but got",
    ),
    ({**GOOD, "ability": "overall"}, "Expected the name of an ability to be text"),
    ({**GOOD, "group": " "}, "Expected the name of a group to be text"),
    (
        '{"question": "Q", "answer": 1e999, "distractors": ["b"]}',
        "Expected field 'answer' to be text or a number, but got inf",
    ),
    ('{"question": "Q", "answer": "a", "distractors": ["b"], "level": 1e999}', "cannot be written as JSON"),
    ({**GOOD, "id": "first"}, r"Expected an id of its own, but .*questions\.jsonl:1 has the same"),
]


@pytest.mark.parametrize(("line", "expected"), BAD)
def test_a_bad_line_stops_the_build_with_its_place(line, expected, file):
    write(file, {**GOOD, "id": "first"}, line, {**GOOD, "id": "last"})
    with pytest.raises(BenchmarkError, match=expected) as caught:
        list(read_jsonl(file).samples)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert "\n" not in str(caught.value)


def test_or_is_left_out_with_the_reason(file, tmp_path):
    bad = [line for line, _ in BAD]
    write(file, {**GOOD, "id": "first"}, *bad)
    found = read_jsonl(file, keep_going=True)
    manifest = write_shards(found.samples, tmp_path / "out", name="n", groups=found.groups)
    assert [one.key for one in manifest.skipped] == [f"line#{i}" for i in range(2, 2 + len(bad))]
    assert {one.reason for one in manifest.skipped} == {Reason.INVALID, Reason.BAD_IMAGE}
    assert all(f":{i}: " in one.detail for i, one in enumerate(manifest.skipped, start=2))
    assert Benchmark(tmp_path / "out").skipped == manifest.skipped


def test_no_file_no_item_no_text(file, tmp_path):
    with pytest.raises(BenchmarkError, match=r"Expected questions\.jsonl or one \.jsonl file in .*, but got none"):
        read_jsonl(tmp_path)
    with pytest.raises(BenchmarkError, match=r"Expected a file at .*absent\.jsonl, but there is none"):
        read_jsonl(tmp_path / "absent.jsonl")
    write(file, "", " ")
    with pytest.raises(BenchmarkError, match="Expected at least one item in"):
        read_jsonl(file)
    file.write_bytes(b"\xff\xfe{")
    with pytest.raises(BenchmarkError, match="Expected UTF-8 text, but byte 0"):
        read_jsonl(file)


def test_an_ability_in_two_groups(file):
    write(file, {**GOOD, "group": "a"}, {**GOOD, "id": 8, "group": "b"})
    with pytest.raises(BenchmarkError, match=r":2: Expected ability 'mine' in one group, but it comes in 'a' and 'b'"):
        read_jsonl(file)


def test_windows_files(file):
    file.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n" + json.dumps({**GOOD, "id": 8}).encode() + b"\r\n"
    )
    assert [one.key for one in read_jsonl(file).samples] == ["7", "8"]


@pytest.mark.parametrize(("name", "count", "abilities", "k"), [("mathv_sample", 96, 15, 5), ("nlvr_sample", 120, 1, 2)])
def test_real_questions(name, count, abilities, k, shared, tmp_path):
    source = shared / "data" / name
    found = read_jsonl(source)
    write_shards(found.samples, tmp_path / "out", name=found.name, groups=found.groups)
    benchmark = Benchmark(tmp_path / "out")
    rows = [json.loads(line) for line in (source / "questions.jsonl").read_text().splitlines()]
    assert (len(benchmark), len(benchmark.taxonomy.abilities), benchmark.skipped) == (count, abilities, ())
    for i, row in enumerate(rows):
        one = benchmark.read(i)
        assert (one.question, one.answer, one.ability) == (row["question"], row["answer"], row["ability"])
        assert sorted(one.candidates) == sorted(row["options"])
        assert len(one.candidates) == k
        assert list(one.images) == [(source / path).read_bytes() for path in row["images"]]
        assert one.meta == {"id": row["id"], **({"level": row["level"]} if "level" in row else {})}


def test_a_skipped_item_of_unknown_ability(file, tmp_path):
    write(file, "{", GOOD)
    bad, good = read_jsonl(file, keep_going=True).samples
    assert isinstance(bad, Skipped)
    assert bad.ability is None
    write_shards([bad, good], tmp_path / "out", name="n", groups={"mine": "all"})
    assert Benchmark(tmp_path / "out").skipped[0].ability is None


def test_an_ability_whose_only_line_has_no_usable_group(file, tmp_path):
    write(file, GOOD, {**GOOD, "id": 8, "ability": "smell", "group": ["x"]})
    found = read_jsonl(file, keep_going=True)
    manifest = write_shards(found.samples, tmp_path / "out", name="n", groups=found.groups)
    assert manifest.tree == {"all": {"mine": [], "smell": []}}


@pytest.fixture
def opened(monkeypatch):
    """Paths of the images that have been opened."""
    paths = []
    monkeypatch.setattr(jsonl, "load_image", lambda path, *more: (paths.append(path), load_image(path, *more))[1])
    return paths


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ability": "OCR/Text"}, "Expected the name of an ability to be text without a slash"),
        ({"ability": "overall"}, "Expected the name of an ability"),
        ({"group": "a/b"}, "Expected the name of a group"),
        ({"category": None}, "all items of ability 'text' to have a category or none of them"),
        ({"ability": "other", "group": "text"}, "but 'text' is used for a group and an ability"),
        ({"ability": "g"}, "but 'g' is used for a group and an ability"),
        ({"ability": "new", "group": "new"}, "but 'new' is used for a group and an ability"),
        ({"group": "h"}, "Expected ability 'text' in one group, but it comes in 'g' and 'h'"),
        ({"answer": "green"}, "Expected the answer among the options"),
        ({"id": "0"}, "Expected an id of its own"),
        ({"question": "<image> <image>"}, "2 marks for 1 images"),
    ],
)
def test_all_lines_are_checked_before_the_first_image_is_opened(change, expected, file, opened):
    rows = [{**GOOD, "id": str(i), "ability": "text", "group": "g", "category": "k"} for i in range(9)]
    rows[7] |= change
    write(file, *rows)
    with pytest.raises(BenchmarkError) as caught:
        list(read_jsonl(file).samples)
    assert str(caught.value).startswith(f"{file}:8: ")
    assert expected in str(caught.value)
    assert opened == []


def test_a_name_of_one_line_is_left_out_and_a_contradiction_between_lines_is_not(file, opened, tmp_path):
    named = {**GOOD, "ability": "text"}
    write(file, named, {**named, "id": 8, "ability": "OCR/Text"}, {**named, "id": 9, "answer": "green"})
    found = read_jsonl(file, keep_going=True)
    manifest = write_shards(found.samples, tmp_path / "out", name="n", groups=found.groups)
    assert [(one.key, one.ability) for one in manifest.skipped] == [("line#2", None), ("line#3", "text")]
    write(file, named, {**named, "id": 8, "category": "k"})
    with pytest.raises(BenchmarkError, match=r":2: Expected all items of ability 'text' to have a category"):
        read_jsonl(file, keep_going=True)
    assert len(opened) == 1


def test_what_a_line_without_a_name_gets_it_from(file):
    write(file, GOOD)
    with pytest.raises(
        BenchmarkError, match=r":1: .*'me/mine'.* This line names no ability, and --ability gives another"
    ):
        read_jsonl(file, name="me/mine")


def test_a_line_whose_group_alone_is_unusable_contradicts_no_other(file, tmp_path):
    write(file, {**GOOD, "group": "nose", "ability": "smell"}, {**GOOD, "id": 8, "ability": "smell", "group": ["x"]})
    found = read_jsonl(file, keep_going=True)
    manifest = write_shards(found.samples, tmp_path / "out", name="n", groups=found.groups)
    assert manifest.tree == {"nose": {"smell": []}}
    assert [one.ability for one in manifest.skipped] == ["smell"]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_in_base64(format, file, image):
    data = image(size=(12, 9), format=format)
    text = base64.b64encode(data).decode()
    kind = f"data:image/{format.lower()}"
    written = [
        text,
        text.rstrip("="),
        "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        base64.urlsafe_b64encode(data).decode(),
        f"{kind};base64,{text}",
        f"{kind};charset=utf-8;BASE64,{quote(text)}",
        f"DATA:,{quote_from_bytes(data)}",
    ]
    both = {"question": "Q", "answer": "a", "distractors": ["b"], "images": [text, "a.png"]}
    write(file, *({**GOOD, "id": i, "image": one} for i, one in enumerate(written)), both)
    *alone, both = read_jsonl(file).samples
    suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(format, format.lower())
    assert [(one.images, one.image_names) for one in alone] == [((data,), (f"0.{suffix}",))] * len(written)
    assert both.image_names == (f"0.{suffix}", "1.png")
    assert all("image" not in one.meta for one in alone)


def test_a_path_that_looks_like_base64_is_a_path(file, image):
    name = "a" * 50 + "/" + "b" * 50
    (file.parent / name).parent.mkdir()
    (file.parent / name).write_bytes(image())
    write(file, {**GOOD, "image": name})
    assert next(iter(read_jsonl(file).samples)).images == (image(),)


HUGE = "x" * 300_000


@pytest.mark.parametrize(
    "line",
    [
        {**GOOD, "image": HUGE},
        {**GOOD, "image": "y" * 3_000},
        {**GOOD, "image": base64.b64encode(b"%PDF" + b"x" * 300_000).decode()},
        {**GOOD, "image": base64.b64encode(b"\xff\xd8\xff" + b"x" * 300_000).decode()},
        {**GOOD, "image": "data:image/png;base64," + HUGE},
        {**GOOD, "image": "data:" + HUGE},
        {**GOOD, "image": {"bytes": HUGE}},
        {**GOOD, "image": [[HUGE]]},
        {**GOOD, "image": "https://" + HUGE},
        {**GOOD, "answer": HUGE},
        {**GOOD, "options": HUGE},
        {**GOOD, "options": ["red", {"a": HUGE}]},
        {**GOOD, "options": ["red", "red", HUGE]},
        {**GOOD, "options": ["red", HUGE, HUGE]},
        {**GOOD, "options": ["red", HUGE, HUGE + " "]},
        {**GOOD, "options": ["red", "<image 1>" + HUGE]},
        {"question": "Q", "answer": HUGE, "distractors": [HUGE]},
        {**GOOD, "question": [HUGE]},
        {**GOOD, "category": [HUGE]},
        {**GOOD, "ability": "/" + HUGE},
        {**GOOD, "group": "/" + HUGE},
        {**GOOD, "id": [HUGE]},
        {**GOOD, "id": HUGE, "answer": "green"},
        '{"question": "' + HUGE,
        '{"question": "' + "\\ud800" * 9_000 + '"}',
    ],
)
def test_a_message_is_never_of_the_size_of_an_image(line, file, tmp_path):
    write(file, {**GOOD, "id": "first"}, line)
    with pytest.raises(BenchmarkError) as caught:
        list(read_jsonl(file).samples)
    room = 450 + len(str(file.parent)) * 2
    assert len(str(caught.value)) < room
    assert "\n" not in str(caught.value)
    found = read_jsonl(file, keep_going=True)
    write_shards(found.samples, tmp_path / "out", name="n", groups=found.groups)
    assert (tmp_path / "out" / "manifest.json").stat().st_size < room + 800
