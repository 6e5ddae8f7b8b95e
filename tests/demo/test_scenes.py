"""The demo's pictures and captions: true, endless, the same from the same seed, and no copy of the benchmark."""

from collections import Counter
from random import Random

import pytest

from radar_callback.benchmark.mini import ABILITIES
from radar_callback.benchmark.mini.canvas import COLOURS
from radar_callback.benchmark.mini.items import item
from radar_callback.benchmark.mini.objects import THINGS
from radar_callback.benchmark.mini.shapes import SHAPES
from radar_callback.benchmark.sample import decode_image
from radar_callback.demo.captions import caption
from radar_callback.demo.scenes import Figure, Scene, draw_scene


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(Random(f"test/{i}"), 48) for i in range(400)]


def test_the_same_stream_gives_the_same_scene():
    one, other = (draw_scene(Random("a"), 48) for _ in range(2))
    assert one.figures == other.figures
    assert one.image.tobytes() == other.image.tobytes()


def test_no_two_scenes_are_the_same(scenes):
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_no_scene_is_a_benchmark_item(scenes):
    drawn = {scene.image.tobytes() for scene in scenes}
    for ability in ABILITIES:
        for index in range(4):
            picture = decode_image(item(ability, 0, index).images[0], "item")
            assert picture.resize((48, 48)).tobytes() not in drawn


def test_every_perceptual_property_turns_up(scenes):
    figures = [figure for scene in scenes for figure in scene.figures]
    assert {figure.name for figure in figures} == set(SHAPES)
    assert {figure.colour for figure in figures} == set(COLOURS)
    assert len({figure.size for figure in figures}) == 7  # six words, and none for what is neither small nor large
    assert len({scene.quality for scene in scenes}) == 6
    assert {len(scene.figures) for scene in scenes} >= {1, 2, 3, 4, 5, 6}
    assert {scene.thing for scene in scenes} == {None, *THINGS}
    assert all(bool(scene.figures) != bool(scene.thing) for scene in scenes)


def all_sentences(scene: Scene) -> set[str]:
    return {part for i in range(300) for part in caption(scene, Random(i)).split(". ")}


RED_STAR = Figure("star", "red", "large", 0.25, 0.25, 0.32)


def scene_of(*figures: Figure, quality: str = "clear") -> Scene:
    return Scene(draw_scene(Random(0), 48).image, figures, quality)


def test_what_is_said_of_one_figure():
    said = {sentence.removesuffix(".") for sentence in all_sentences(scene_of(RED_STAR))}
    assert {
        "The star is red",
        "A large red star",
        "The shape is a star",
        "The size of the star is large",
        "The star is at the top left",
    } <= said
    words = Counter(word for sentence in said for word in sentence.lower().split())
    assert not set(words) & {"blue", "small", "dotted", "right", "bottom", "circle", "blurry"}


def test_what_is_said_of_a_thing():
    said = all_sentences(Scene(draw_scene(Random(0), 48).image, (), "clear", thing="house"))
    assert {"A house.", "The picture shows a house.", "There is a house."} <= said
    assert all("house" in sentence or sentence.endswith("clear.") for sentence in said)


def test_what_is_said_of_a_group():
    moons = [Figure("moon", "blue", None, 0.2 + 0.3 * i, 0.5, 0.1) for i in range(3)]
    said = {sentence.removesuffix(".") for sentence in all_sentences(scene_of(*moons))}
    assert {"There are three moons", "The number of moons is three"} <= said
    assert not any("moon is" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("dx", "dy", "side"),
    [(-0.4, 0.1, "to the left of"), (0.4, 0.1, "to the right of"), (0.1, -0.4, "above"), (0.1, 0.4, "below")],
)
def test_what_is_said_of_a_pair(dx, dy, side):
    one = Figure("star", "red", None, 0.5 + dx / 2, 0.5 + dy / 2, 0.1)
    other = Figure("moon", "orange", None, 0.5 - dx / 2, 0.5 - dy / 2, 0.1)
    said = all_sentences(scene_of(one, other))
    assert any(f"The star is {side} the moon" in sentence for sentence in said)
    assert any(f"A red star {side} an orange moon" in sentence for sentence in said)


def test_the_quality_is_said():
    assert any("The picture is blurry" in sentence for sentence in all_sentences(scene_of(RED_STAR, quality="blurry")))


def test_captions_never_ask_for_reasoning(scenes):
    text = " ".join(caption(scene, Random(i)).lower() for i, scene in enumerate(scenes)).replace(".", " ")
    told = set(text.split())
    assert not told & {
        "next",
        "odd",
        "symmetric",
        "mirrored",
        "sum",
        "dice",
        "chart",
        "bar",
        "clock",
        "tower",
        "more",
        "bigger",
    }
