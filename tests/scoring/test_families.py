"""Every family of models against one-candidate-a-forward scoring, each with its own processor's idea of images and text."""

import copy
import io
import pickle
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from PIL import Image

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.benchmark.sample import Sample
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import ConfigError, ItemError
from radar_callback.scoring.choose import WAYS
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.processor import load_processor
from radar_callback.scoring.prompt import image_placeholder
from radar_callback.scoring.reference import ReferenceScorer, collate
from radar_callback.scoring.scorer import Scorer
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.scoring import naive

TOLERANCE = 2e-5


@dataclass(frozen=True)
class Takes:
    """What a family can be asked, and how its processor wants to be asked."""

    placeholder: str
    images: int = 3
    text_only: bool = True
    apart: bool = False
    """The processor keeps prompt and answer apart: it puts a line break of its own behind the prompt."""
    mixed: bool = True
    """Items with different numbers of images may share a batch (the engine keeps them apart for every family)."""


QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
TAKES = {
    "qwen2_vl": Takes(QWEN),
    "qwen2_5_vl": Takes(QWEN),
    "qwen3_vl": Takes(QWEN),
    # Padding on the left runs through its state.
    "qwen3_5": Takes(QWEN),
    "llava": Takes("<image>"),
    "llava_onevision": Takes("<image>"),
    "internvl": Takes("<IMG_CONTEXT>"),
    "smolvlm": Takes("<image>"),
    "idefics3": Takes("<image>"),
    # The processor insists on an image.
    "paligemma": Takes("<image>", text_only=False, apart=True),
    "paligemma2": Takes("<image>", text_only=False, apart=True),
    "gemma3": Takes("<start_of_image>"),
    # Tokens before the first image attend to every image of the batch's row, padding too.
    "mllama": Takes("<|image|>", mixed=False),
    # The processor puts the tokens of one image before the text, however many there are; the forward needs pixels.
    "blip2": Takes("", images=1, text_only=False),
}

REFUSED = {("qwen3_5", "packed"), ("blip2", "cached")}
"""Ways that a family does not honour: layers with a state see all candidates; a forward that takes no cache."""

SIZES = [(40, 40), (64, 30), (25, 61), (90, 33), (33, 32)]
ENDINGS = (
    "red|the blue circle|left of the square, not right|12|yellow triangles, which are small|green.|two of the three"
)


def image(seed: int, size: tuple[int, int]) -> bytes:
    """Four colours, smoothly blended: no patch is like another."""
    pixels = random.Random(seed).randbytes(12)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (2, 2), pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def item(key: str, question: str, images: int, candidates: int) -> Sample:
    rng = random.Random(key)
    # One to about thirty tokens, a different number for each.
    texts = [" ".join(rng.choices(ENDINGS.split("|"), k=1 + i % 8)) + f" {i}" * (i > 7) for i in range(candidates)]
    answer, *others = [text if text not in texts[:i] else f"{text} {i}" for i, text in enumerate(texts)]
    return Sample(
        key=key,
        question=question,
        answer=answer,
        distractors=tuple(others),
        ability="colour",
        images=tuple(image(rng.randrange(99), rng.choice(SIZES)) for _ in range(images)),
        image_names=tuple(f"{i}.png" for i in range(images)),
    )


ITEMS = [
    item("one", "The circle is", 1, 2),
    item("ten candidates", "What colour is the circle? Answer:", 1, 10),
    item("marks inside", "Here is <image>, and the second <image> shows", 2, 3),
    item("three", "Which of the three shows the square?", 3, 4),
    item("text alone", "Here the first is", 0, 3),
    item("image at the end", "The circle is on the left side in <image>", 1, 3),
    item("mark between", "First of two: <image> shows yellow triangles.\nWhich is it?", 1, 4),
    item(
        "two",
        "Two of the three shapes are orange (the small ones). What is in the second, which is not the first?",
        2,
        2,
    ),
]
SHORT = replace(ITEMS[0], answer="red", distractors=("blue",))


def taken(name: str) -> list[Sample]:
    """The items that a family takes."""
    takes = TAKES[name]
    return [s for s in ITEMS if len(s.images) <= takes.images and (s.images or takes.text_only)]


@cache
def encoder(name: str) -> SampleEncoder:
    model, processor = FAMILIES[name]()
    return SampleEncoder(processor, model.config)


@cache
def expected(name: str, key: str) -> tuple[list[float], list[float]]:
    model, processor = FAMILIES[name]()
    (sample,) = [s for s in ITEMS if s.key == key]
    return naive.score(model, processor, sample, prompt_of(name, sample), apart=TAKES[name].apart)


def prompt_of(name: str, sample: Sample) -> str:
    mark = TAKES[name].placeholder
    lead = "" if "<image>" in sample.question else mark * len(sample.images)
    return lead + sample.question.replace("<image>", mark)


@torch.no_grad()
def scores(
    name: str, samples: list[Sample], way: type[Scorer] = ReferenceScorer
) -> tuple[list[list[float]], list[list[float]]]:
    model, processor = FAMILIES[name]()
    scorer = way(model, processor.tokenizer.pad_token_id)
    result = scorer([encoder(name)(sample) for sample in samples])
    rows = zip(result.mean_logits, result.mean_logprobs, result.mask, strict=True)
    logits, logprobs = zip(*[(a[m].tolist(), b[m].tolist()) for a, b, m in rows], strict=True)
    return list(logits), list(logprobs)


def batches(name: str) -> list[list[Sample]]:
    """All items in one batch, or one for each number of images."""
    if TAKES[name].mixed:
        return [taken(name)]
    groups = defaultdict(list)
    for sample in taken(name):
        groups[len(sample.images)].append(sample)
    return list(groups.values())


def test_every_family_is_here():
    assert set(TAKES) == set(FAMILIES)
    lengths = [len(tail.ids) for sample in ITEMS for tail in encoder("llava")(sample).tails]
    assert min(lengths) <= 2 and max(lengths) >= 30
    assert {len(sample.candidates) for sample in ITEMS} == {2, 3, 4, 10}


@pytest.mark.parametrize("name", FAMILIES)
def test_prefix_and_tail_are_what_the_processor_makes_of_the_whole_text(name):
    _, processor = FAMILIES[name]()
    assert image_placeholder(processor, FAMILIES[name]()[0].config) == TAKES[name].placeholder
    for sample in taken(name):
        encoded = encoder(name)(sample)
        assert encoded.prompt == prompt_of(name, sample)
        rows = naive.whole(processor, sample, encoded.prompt, apart=TAKES[name].apart)
        for tail, (inputs, start, end) in zip(encoded.tails, rows, strict=True):
            assert encoded.prefix["input_ids"][0].tolist() + tail.ids.tolist() == inputs["input_ids"][0, :end].tolist()
            assert tail.scored == end - start
            row, *_ = collate([replace(encoded, tails=(tail,))], pad_token_id=0)
            assert set(row) == set(inputs)
            for key, value in row.items():
                wanted = inputs[key][:, :end] if key in encoded.prefix else inputs[key]
                assert torch.equal(value, wanted), f"{sample.key}: {key}"


@pytest.mark.parametrize("way", WAYS.values())
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_one_candidate_a_forward(name, way):
    if (name, way.name) in REFUSED:
        pytest.skip("shown to be refused in test_choose")
    spread: list[float] = []
    for batch in batches(name):
        for sample, *got in zip(batch, *scores(name, batch, way), strict=True):
            for mine, naively in zip(got, expected(name, sample.key), strict=True):
                assert mine == pytest.approx(naively, abs=TOLERANCE), sample.key
                spread += [abs(x - naively[0]) for x in naively[1:]]
    assert max(spread) > 0.3, "scores should differ enough to react to a mistake"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine_counts_what_a_family_does_not_take(name, tmp_path):
    model, processor = FAMILIES[name]()
    write_shards(ITEMS, tmp_path, name="families", groups=tiny.GROUPS)
    result = RadarEvaluator(model, processor, Benchmark(tmp_path), batch_tokens=4000).evaluate(per_sample=True)
    assert {i.key for i in result.items} == {s.key for s in taken(name)}
    refused = len(ITEMS) - len(taken(name))
    assert result.failures == ({"not_encodable": refused} if refused else {})
    for got in result.items:
        assert got.mean_logits == pytest.approx(expected(name, got.key)[0], abs=TOLERANCE), got.key


@pytest.mark.parametrize("name", FAMILIES)
def test_images_their_order_and_the_columns_matter(name):
    """What the tests above would miss if scores did not react to it."""
    # Not images side by side: to Mllama these are one set.
    sample = ITEMS[2] if TAKES[name].images > 1 else ITEMS[0]
    (before,), _ = scores(name, [sample])
    others = [replace(sample, images=tuple(image(7, (52, 50)) for _ in sample.images))]
    if len(sample.images) > 1:
        others.append(replace(sample, images=sample.images[::-1]))
    for other in others:
        (after,), _ = scores(name, [other])
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 100 * TOLERANCE


def test_items_that_cannot_share_a_batch_are_not_mixed_silently():
    one, none = (encoder("mllama")(next(s for s in ITEMS if len(s.images) == n)) for n in (1, 0))
    with pytest.raises(ValueError, match="same number of images"):
        collate([one, none], pad_token_id=0)


def test_what_a_family_does_not_take_is_said():
    with pytest.raises(ItemError, match="item 'two' has 2 images; this processor places one"):
        encoder("blip2")(ITEMS[-1])
    with pytest.raises(ItemError, match="this model's forward needs pixel_values"):
        encoder("blip2")(ITEMS[4])
    with pytest.raises(ItemError, match="`images` are expected"):
        encoder("paligemma")(ITEMS[4])


def test_a_token_made_of_an_images_text_and_the_candidate():
    """Gemma 3 ends an image with line breaks, which a candidate that begins with one joins."""
    model, processor = FAMILIES["gemma3"]()
    encode = SampleEncoder(processor, model.config, prompt="{question}{answer}")
    sample = replace(ITEMS[5], answer="\nred", distractors=("\n\nblue", "12"))
    encoded = encode(sample)
    prefix = encoded.prefix["input_ids"][0].tolist()
    prompt_alone = next(naive.whole(processor, sample, encoded.prompt, joiner=""))[1]
    assert len(prefix) < prompt_alone, "a token of the prompt should be rewritten, or this tests nothing"
    for tail, (inputs, _, end) in zip(encoded.tails, naive.whole(processor, sample, encoded.prompt, ""), strict=True):
        assert prefix + tail.ids.tolist() == inputs["input_ids"][0, :end].tolist()


def test_a_candidate_that_nothing_stands_before_is_refused():
    model, processor = FAMILIES["qwen2_vl"]()
    encode = SampleEncoder(processor, model.config, prompt="{question}{answer}")
    sample = replace(ITEMS[4], question="Th", answer="e", distractors=("umb",))
    with pytest.raises(ItemError, match="no token of the prompt stands before a candidate"):
        encode(sample)


def test_a_function_may_write_a_placeholder_that_the_processor_does_not_name():
    model, processor = FAMILIES["idefics3"]()

    class Unnamed:
        tokenizer, image_processor = processor.tokenizer, processor.image_processor

        def __call__(self, **inputs):
            return processor(**inputs)

    with pytest.raises(ConfigError, match="Found no image token in Unnamed"):
        SampleEncoder(Unnamed(), model.config)
    encode = SampleEncoder(Unnamed(), model.config, prompt=lambda sample, mark: f"{mark}<image>{sample.question}")
    got, want = encode(SHORT), encoder("idefics3")(SHORT)
    assert torch.equal(got.prefix["input_ids"], want.prefix["input_ids"])


@pytest.mark.parametrize("name", [name for name, takes in TAKES.items() if takes.placeholder])
def test_chat(name):
    model, processor = FAMILIES[name]()
    encoded = SampleEncoder(processor, model.config, prompt="chat")(SHORT)
    rows = naive.whole(processor, SHORT, encoded.prompt, joiner="", apart=TAKES[name].apart)
    assert encoded.prompt.startswith("user: " + TAKES[name].placeholder)
    for tail, (inputs, _, end) in zip(encoded.tails, rows, strict=True):
        ids = encoded.prefix["input_ids"][0].tolist() + tail.ids.tolist()
        assert ids == inputs["input_ids"][0, :end].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_processor_is_found_again(name, tmp_path):
    model, processor = FAMILIES[name]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_processor(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    model.config.save_pretrained(tmp_path / "again")
    sample = taken(name)[-1]
    want = encoder(name)(sample)
    others = [loaded, load_processor(tmp_path / "again"), pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded)]
    for other in others:
        assert getattr(other, "chat_template", None) == getattr(processor, "chat_template", None)
        got = SampleEncoder(other, model.config)(sample)
        assert got.prompt == want.prompt
        for mine, other_side in ((want.prefix, got.prefix), (want.vision, got.vision)):
            assert mine.keys() == other_side.keys()
            assert all(torch.equal(mine[key], other_side[key]) for key in mine)
        assert all(torch.equal(a.ids, b.ids) for a, b in zip(want.tails, got.tails, strict=True))
