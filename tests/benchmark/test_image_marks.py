"""Where images go, whoever wrote the mark: when a benchmark is built, and when shards of others are read."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pytest

from radar_callback.benchmark.image_marks import Placement, place_images
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.record import to_fields
from radar_callback.benchmark.sources.jsonl import read_jsonl
from radar_callback.benchmark.verify import verify
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ItemError, Reason
from radar_callback.scoring.prompt import prompt_builder
from tests.scoring.test_prompt import Chat

UNDERSTOOD = [
    "<image>",
    "<image 1>",
    "<image_1>",
    "<image1>",
    "<image-1>",
    "<image #1>",
    "<Image 1>",
    "<IMAGE_1>",
    "<img_1>",
    "<|image_1|>",
    "<IMAGE>",
    "<image/>",
    "<image />",
    "<|image|>",
    "<ImageHere>",
    "<image_here>",
    "<image-placeholder>",
    "<Img><ImageHere></Img>",
    "<image>./</image>",
    "<img>photos/1.png</img>",
    "[IMAGE_1]",
    "[IMG1]",
    "[IMAGE]",
    "{image}",
    "{image_1}",
    "{{image1}}",
]
TEXT = [
    "<img>",
    "< image 1>",
    "<picture>",
    "<images>",
    "<image_url>",
    '<img src="a.png">',
    "[Image 1]",
    "[image]",
    r"\text{image}",
    r"x_{image}",
    "{images}",
    "image 1",
    "(Image 1)",
]


@pytest.mark.parametrize("mark", UNDERSTOOD)
def test_a_mark_places_the_image(mark):
    assert place_images(f"In {mark} it is", 1) == Placement("In <image> it is", (0,))


@pytest.mark.parametrize("text", TEXT)
def test_what_people_write_is_text(text):
    question = f"In {text} it is"
    assert place_images(question, 1, [text, "b"]) == Placement(question, (0,))


@pytest.mark.parametrize(
    ("question", "images", "placed", "order"),
    [
        ("<image 2> or <image 1>?", 2, "<image> or <image>?", (1, 0)),
        ("<image 1>, <image 2>, <image 1>", 2, "<image>, <image>, <image>", (0, 1, 0)),
        ("<ImageHere><ImageHere>Q", 2, "<image><image>Q", (0, 1)),
        ("<image><IMAGE>", 2, "<image><image>", (0, 1)),
        ("no mark", 3, "no mark", (0, 1, 2)),
    ],
)
def test_several_images(question, images, placed, order):
    assert place_images(question, images) == Placement(placed, order)


@pytest.mark.parametrize(
    ("question", "images", "expected"),
    [
        ("In <image 1>", 2, "'<image 1>' and its numbers are 1 where its 2 images are numbered from 1"),
        ("In <image_0>, <image_1>", 2, "its numbers are 0, 1 where its 2 images are numbered from 1"),
        ("In <image 1>", 0, "its numbers are 1 where its 0 images are numbered from 1"),
        ("<image> In <image 1>", 1, "some of its marks have a number and some have none"),
        ("In <ImageHere>", 2, "its 1 marks have to place 2 images"),
        ("In <ImageHere>", 0, "its 1 marks have to place 0 images"),
    ],
)
def test_marks_that_do_not_place_every_image_are_said(question, images, expected):
    with pytest.raises(BenchmarkError) as caught:
        place_images(question, images)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_as_an_option_is_said():
    with pytest.raises(BenchmarkError, match=r"options of text, but 'the <image 2>' holds '<image 2>'"):
        place_images("Which is it?", 2, ["a", "the <image 2>"])
    with pytest.raises(BenchmarkError, match="holds '<ImageHere>', the mark of an image"):
        place_images("Which is it?", 1, ["a", "<ImageHere>"])
    assert (
        place_images("The tag is", 1, ["<image>", "<img>"]).question == "The tag is"
    )  # our own mark is text in an option


@pytest.mark.parametrize(
    ("question", "options", "left"),
    [
        ("squares <image2> and triangles <image3>", ["a", "b"], "<image2>"),
        ("Which plot?", ["<image1>", "<image2>"], "<image2>"),
        ("<image> squares <image 2>", ["a", "b"], "<image 2>"),
    ],
)
def test_a_number_beyond_the_images_names_a_part_of_one_and_is_text(question, options, left):
    assert place_images(question, 1, options) == Placement(question, (0,), left)


def test_a_benchmark_is_built_with_images_in_their_places(tmp_path, image):
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_bytes(image((i, 0, 0)))
    line = {"question": "<image 2>, <image 1>, <image 2>", "answer": "a", "distractors": ["b"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps({**line, "images": ["1.png", "2.png"]}))
    (one,) = read_jsonl(tmp_path).samples
    assert one.question == "<image>, <image>, <image>"
    assert one.images == (image((2, 0, 0)), image((1, 0, 0)), image((2, 0, 0)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": "In <image 1>", "images": ["1.png", "1.png"]}, "its numbers are 1 where its 2 images"),
        ({"distractors": ["<image 1>"]}, "Expected options of text, but '<image 1>' holds '<image 1>'"),
        (
            {"question": "<|vision_start|><|image_pad|><|vision_end|>It is"},
            "holds '<|vision_start|>', a token of some models",
        ),
        ({"question": "In [IMG] it is"}, "holds '[IMG]', a token of some models"),
    ],
)
def test_or_the_line_is_named(change, expected, tmp_path, image):
    (tmp_path / "1.png").write_bytes(image())
    line = {
        "question": "Q",
        "answer": "a",
        "distractors": ["b"],
        **({} if "images" in change else {"image": "1.png"}),
        **change,
    }
    (tmp_path / "questions.jsonl").write_text(json.dumps(line))
    with pytest.raises(BenchmarkError) as caught:
        read_jsonl(tmp_path)
    assert expected in str(caught.value)
    assert "questions.jsonl:1: " in str(caught.value)


def foreign(path, sample, **record) -> None:
    """A shard as another tool, or an older release, has written it."""
    fields = to_fields(sample)
    fields["json"] = json.dumps(json.loads(fields["json"]) | record).encode()
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "a", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in fields.items():
            info = tarfile.TarInfo(f"{sample.key}.{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def two(sample, image):
    return sample("two", images=(image((1, 0, 0)), image((2, 0, 0), (4, 3))), image_names=("0.png", "1.png"))


def test_shards_of_others_are_read_with_images_in_their_places(tmp_path, two, image):
    foreign(tmp_path / "b" / "x.tar", two, question="Is <|image_2|> like <|image_1|> and <|image_2|>?")
    benchmark = Benchmark(tmp_path / "b")
    one = benchmark.read(0)
    assert one.question == "Is <image> like <image> and <image>?"
    assert one.images == (two.images[1], two.images[0], two.images[1])
    assert benchmark.items[0].image_sizes == ((4, 3), (7, 5), (4, 3))
    assert verify(tmp_path / "b") == []
    prompts = [prompt_builder(style, Chat(), "[I]")(one).text for style in ("plain", "chat", "{question}")]
    assert prompts == [
        "Is [I] like [I] and [I]?",
        "USER: Is [I] like [I] and [I]? ASSISTANT:",
        "Is [I] like [I] and [I]?",
    ]
    # And are written again as they are, each image once.
    written = to_fields(one)
    assert json.loads(written["json"])["images"] == ["1.png", "0.png", "1.png"]
    assert set(written) == {"json", "0.png", "1.png"}


def test_an_item_without_a_clear_place_is_lost_alone(tmp_path, two, sample):
    foreign(tmp_path / "b" / "x.tar", two, question="Is <image 1> it?")
    foreign(tmp_path / "b" / "x.tar", sample("good"))
    benchmark = Benchmark(tmp_path / "b")
    with pytest.raises(ItemError, match="its numbers are 1 where its 2 images") as caught:
        benchmark.read(0)
    assert caught.value.reason is Reason.UNREADABLE
    assert benchmark.read(1) == sample("good")
    assert [(damage.key, "its 2 images" in damage.what) for damage in verify(tmp_path / "b")] == [("two", True)]


def test_what_is_written_has_our_mark(tmp_path, two, groups):
    write_shards([replace(two, question="<image 2> <image 1>")], tmp_path / "b", name="b", groups=groups)
    with tarfile.open(tmp_path / "b" / "shard-000.tar") as tar:
        record = json.load(tar.extractfile("two.json"))
    assert (record["question"], record["images"]) == ("<image> <image>", ["1.png", "0.png"])
    with pytest.raises(BenchmarkError, match="Item 'two': Expected a question whose marks place each image"):
        write_shards([replace(two, question="<image 1>")], tmp_path / "c", name="c", groups=groups)


def test_tags_that_are_text_stay_text(tmp_path, two, groups, sample):
    text = replace(two, question="What is in <image 1>?", distractors=("<image 2>",), tags_are_text=True)
    write_shards([text, sample("one")], tmp_path / "b", name="b", groups=groups)
    assert Benchmark(tmp_path / "b").read(0) == text
    assert b"tags_are_text" not in to_fields(sample("one"))["json"]
    assert set(json.loads(to_fields(sample("one"))["json"])) == {
        *("question", "answer", "distractors", "ability", "category", "images", "source", "meta")
    }


def test_what_stays_text_is_said_once(tmp_path, image, caplog, two):
    (tmp_path / "1.png").write_bytes(image())
    line = {"question": "squares <image2> as shown <image3>", "answer": "a", "distractors": ["b"], "image": "1.png"}
    (tmp_path / "questions.jsonl").write_text("\n".join(json.dumps({**line, "id": i}) for i in range(3)))
    found = read_jsonl(tmp_path)
    write_shards(found.samples, tmp_path / "b", name="b", groups=found.groups)
    (said,) = caplog.messages
    assert "questions.jsonl:1: The mark '<image2>' names none of the line's images, so it is text" in said
    assert said.endswith("; so in 3 lines.")
    caplog.clear()
    assert Benchmark(tmp_path / "b").read(0).question == line["question"]
    assert caplog.messages == []
    for key in ("two", "three"):
        foreign(tmp_path / "c" / "x.tar", replace(two, key=key), question="Is <image 7777> it?")
    benchmark = Benchmark(tmp_path / "c")
    assert [benchmark.read(i).question for i in (0, 1)] == ["Is <image 7777> it?"] * 2
    assert [
        message for message in caplog.messages if "'<image 7777>' names none of the images" in message
    ] == caplog.messages
    assert len(caplog.messages) == 1
