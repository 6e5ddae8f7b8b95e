"""Which tokens are scored: found from ids, whatever the tokeniser does where prompt and candidate meet."""

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radar_callback.errors import ConfigError, ItemError
from radar_callback.scoring.encode import SampleEncoder
from tests.helpers import tiny
from tests.helpers.families import FAMILIES

BASE = tiny.samples(1)[0]
MODEL = tiny.llava()


@pytest.fixture(scope="module")
def encode():
    return SampleEncoder(tiny.llava_processor(), MODEL.config)


def whole(text: str) -> list[int]:
    return tiny.tokenizer()(text)["input_ids"]


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(question=text, candidates=st.lists(text, min_size=2, max_size=4, unique=True))
def test_prefix_and_tail_are_the_whole_text_and_the_candidate_is_scored(question, candidates):
    if "<image>" in question:
        return
    encode = SampleEncoder(tiny.llava_processor(), MODEL.config)
    sample = replace(
        BASE, question=question, images=(), image_names=(), answer=candidates[0], distractors=tuple(candidates[1:])
    )
    encoded = encode(sample)
    prefix = encoded.prefix["input_ids"][0].tolist()
    for candidate, tail in zip(candidates, encoded.tails, strict=True):
        ids = prefix + tail.ids.tolist()
        assert ids == whole(f"{question} {candidate}")
        scored = tiny.tokenizer().decode(ids[len(ids) - tail.scored :])
        assert scored.endswith(candidate) or "�" in scored
        # Nothing is scored that holds only text of the prompt.
        unscored = tiny.tokenizer().decode(ids[: len(ids) - tail.scored])
        assert question.startswith(unscored) or "�" in unscored or unscored == question + " "


def test_a_token_across_the_border_is_scored(encode):
    """A line break after a space is one token in many vocabularies; here "ircle" spans what the prompt's end would cut."""
    tokenizer = tiny.tokenizer()
    sample = replace(BASE, question="The c", images=(), image_names=(), answer="ircle", distractors=("at",))
    encoder = SampleEncoder(tiny.llava_processor(), MODEL.config, prompt="{question}{answer}")
    encoded = encoder(sample)
    ids = encoded.prefix["input_ids"][0].tolist() + encoded.tails[0].ids.tolist()
    assert ids == whole("The circle")
    merged = tokenizer.convert_ids_to_tokens(ids)[-1]
    assert merged == "Ġcircle", "the tokeniser should join the two, or this tests nothing"
    assert encoded.tails[0].scored == 1
    # The other candidate keeps the prompt's own tokens: they come after the shared prefix and are not scored.
    other = encoded.tails[1]
    assert tokenizer.decode(other.ids[-other.scored :]) == "at"
    assert len(other.ids) > other.scored


def test_images_are_seen_once_and_expanded(encode):
    sample = replace(BASE, question="Look <image> <image> now:", images=tuple(tiny.samples(9)[k].images[0] for k in (0, 0)),
                     image_names=("0.png", "1.png"))  # fmt: skip
    encoded = encode(sample)
    assert encoded.vision["pixel_values"].shape == (2, 3, tiny.SIZE, tiny.SIZE)
    assert (encoded.prompt_images, encoded.vision_tokens) == (2, 2 * (tiny.SIZE // tiny.PATCH) ** 2)


def test_context_is_not_exceeded(encode):
    short = replace(BASE, question="circle " * 20, images=(), image_names=())
    assert encode(short).prefix_length > 20
    with pytest.raises(ItemError, match="the model's context holds 256"):
        encode(replace(short, question="circle " * 400))


def test_a_processor_without_image_token_is_refused():
    class Bare:
        tokenizer = type("Tokenizer", (), {})()

    with pytest.raises(ConfigError, match="Found no image token in Bare"):
        SampleEncoder(Bare(), MODEL.config)


def test_what_a_prompt_function_raises_for_one_item_is_that_items():
    def style(sample, image):
        return image * len(sample.images) + {"plain": "The circle is"}[sample.key]

    encode = SampleEncoder(tiny.llava_processor(), MODEL.config, style)
    assert encode(replace(BASE, key="plain")).prompt.endswith("The circle is")
    with pytest.raises(ItemError, match=r"not_encodable: item 'other': KeyError: 'other'"):
        encode(replace(BASE, key="other"))


class Marks:
    """A processor whose mark for an image is no token: it puts 16 ids of its own for each image, before the text or in it."""

    chat_template = image_processor = None
    image_token = "<picture>"

    def __init__(self, kind):
        self.tokenizer, self.kind = tiny.tokenizer(), kind

    def __call__(self, text, images=None, return_tensors="pt"):
        shown = len(images[0]) if images else 0
        pieces = text[0].split(self.image_token) if self.kind != "keeps" else ["", text[0]]
        if self.kind == "strict" and len(pieces) != shown + 1:
            raise ValueError("marks and images differ in number")
        joined = [16 * [-200] if self.kind == "strict" else []] * len(pieces)
        joined[0] = [] if self.kind == "strict" else 16 * shown * [-200]
        texts = self.tokenizer(pieces)["input_ids"]
        ids = torch.tensor([[i for mark, ids in zip(joined, texts, strict=True) for i in [*mark, *ids]]])
        pixels = {"pixel_values": torch.zeros(shown, 3, 4, 4)} if shown else {}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}


@pytest.mark.parametrize("kind", ["strips", "keeps", "strict"])
@pytest.mark.parametrize("images", [0, 1])
def test_a_mark_that_is_no_token_of_the_vocabulary(kind, images):
    sample = replace(BASE, question="The circle is", images=tiny.samples(9)[0].images[:1] * images,
                     image_names=("0.png",) * images, answer="red", distractors=("blue",))  # fmt: skip
    encoded = SampleEncoder(Marks(kind), MODEL.config)(sample)
    assert encoded.prefix["input_ids"][0].tolist() == [-200] * 16 * images + whole("The circle is")
    assert [tail.content.tolist() for tail in encoded.tails] == [whole(" red"), whole(" blue")]
    assert (encoded.prompt_images, encoded.vision_tokens) == (images, 16 * images)
    with pytest.raises(ItemError, match="'<picture>' in its candidate"):
        SampleEncoder(Marks(kind), MODEL.config)(replace(sample, answer="<picture>"))


def test_a_processor_that_cannot_be_asked_is_refused_in_a_line():
    class Other(Marks):
        def __init__(self):
            super().__init__("strips")
            self.tokenizer = lambda text: None

    with pytest.raises(ConfigError) as caught:
        SampleEncoder(Other(), MODEL.config)
    said = str(caught.value)
    assert "called as processor(text=[…], images=[[…]], return_tensors='pt')" in said and "Other raised " in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("style", ["plain", "chat", "Q: {question} A:", "{images}{question}{answer}"])
def test_an_encoder_reaches_worker_processes_that_start_afresh(style):
    """As they do on macOS and Windows, and on Linux where the start method is set so: the encoder is pickled."""
    model, processor = FAMILIES["qwen2_vl"]()
    encode = SampleEncoder(processor, model.config, style)
    sample = replace(BASE, question="The circle is", images=tiny.samples(9)[0].images[:1], image_names=("0.png",))
    here, there = encode(sample), pickle.loads(pickle.dumps(encode))(sample)
    assert here.prompt == there.prompt
    assert torch.equal(here.prefix["input_ids"], there.prefix["input_ids"])
    assert [tail.ids.tolist() for tail in here.tails] == [tail.ids.tolist() for tail in there.tails]
