"""The user's processor: nothing of it changes, and nothing that it is set to for training changes what is scored."""

import copy
from dataclasses import replace

import pytest
import torch

from radar_callback import RadarEvaluator
from radar_callback.errors import ItemError
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.processor_state import preserved, private_processor
from tests.helpers import tiny
from tests.helpers.families import FAMILIES

ITEM = next(sample for sample in tiny.samples(9) if len(sample.images) == 1)


class NoCopy(type(tiny.tokenizer())):
    """As with a lock or an open file inside."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle '_thread.lock' object")


class Plain:
    """A processor of one's own, which does not come from transformers and asks the Rust part."""

    chat_template = None
    image_token = "<image>"

    def __init__(self, processor):
        self.tokenizer, self.image_processor, self.last = processor.tokenizer, processor.image_processor, []

    def __call__(self, text, images=None, return_tensors="pt"):
        self.last.append(text)
        self.calls = len(self.last)
        ids = [self.tokenizer.backend_tokenizer.encode(one.replace("<image>", "<image>" * 16)).ids for one in text]
        found = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(1, len(ids[0]), dtype=torch.long)}
        if images:
            found.update(self.image_processor(images[0], return_tensors="pt"))
        return found


def fresh():
    processor = tiny.llava_processor()
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    return processor


def uncopyable():
    processor = fresh()
    processor.tokenizer.__class__ = NoCopy
    return processor


KINDS = {"copied": fresh, "not to be copied": uncopyable, "of one's own": lambda: Plain(fresh())}


def settle(processor):
    """As collate functions do, once."""
    tokenizer = processor.tokenizer
    rust = tokenizer.backend_tokenizer
    rust.enable_truncation(3, stride=1, strategy="only_first", direction="left")
    rust.enable_padding(length=24, pad_id=0, pad_token="<pad>", direction="left", pad_to_multiple_of=8)
    rust.model.dropout = 0.9
    tokenizer.padding_side, tokenizer.model_max_length, tokenizer.chat_template = "left", 5, "{{ messages }}"
    tokenizer.init_kwargs.update(max_length=4, truncation=True, padding="max_length")
    processor.image_processor.note = ["mine"]
    processor.text_kwargs = {"max_length": 4, "truncation": True}
    return processor


def state(processor):
    tokenizer = processor.tokenizer
    rust = tokenizer.backend_tokenizer
    parts = [{name: id(value) for name, value in vars(part).items()} for part in (processor, tokenizer)]
    images = {name: repr(value) for name, value in vars(processor.image_processor).items()}
    held = dict(tokenizer.init_kwargs), dict(processor.text_kwargs), list(processor.image_processor.note)
    lists = list(getattr(processor, "last", ()))
    return parts, images, held, lists, rust.truncation, rust.padding, rust.encode_special_tokens, rust.model.dropout


def bits(encoded):
    tensors = [*encoded.prefix.values(), *encoded.vision.values(), *(tail.ids for tail in encoded.tails)]
    return encoded.prompt, [tensor.tolist() for tensor in tensors], [tail.scored for tail in encoded.tails]


@pytest.mark.parametrize("kind", KINDS)
def test_a_processor_stays_as_it_is_and_its_settings_change_nothing(kind):
    config = tiny.llava().config
    usual = SampleEncoder(KINDS[kind](), config)(ITEM)
    processor = settle(KINDS[kind]())
    before = state(processor)
    encode = SampleEncoder(processor, config)
    assert state(processor) == before, "at construction"
    assert bits(encode(ITEM)) == bits(usual)
    assert state(processor) == before
    with pytest.raises(ItemError):
        encode(replace(ITEM, images=(b"no image",)))
    with pytest.raises(ItemError):
        encode(replace(ITEM, question="circle " * 400))
    assert state(processor) == before, "after an error"
    assert len(processor.tokenizer.backend_tokenizer.encode("The circle is red on the left").ids) == 24


def test_only_what_cannot_be_copied_is_used_itself():
    for kind, same in (("copied", False), ("not to be copied", True), ("of one's own", True)):
        processor = KINDS[kind]()
        own, _ = private_processor(processor)
        assert (own is processor) == same and (own.tokenizer is processor.tokenizer) == same


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_sees_what_the_original_sees(name):
    _, processor = FAMILIES[name]()
    own, _ = private_processor(processor)
    assert own is not processor and isinstance(own, type(processor)) and own.tokenizer is not processor.tokenizer
    assert type(own.image_processor) is type(processor.image_processor)
    assert own.image_processor is not processor.image_processor
    assert own.chat_template == processor.chat_template
    text = "What colour is the circle? " + processor.tokenizer.all_special_tokens[-1]
    assert own.tokenizer(text).input_ids == processor.tokenizer(text).input_ids


def test_what_a_call_adds_or_takes_away_is_put_back():
    class Careless:
        tokenizer = image_processor = None

        def __init__(self):
            self.kept, self.seen, self.lost = {"a": torch.ones(2)}, {1}, 3

        def __call__(self):
            self.kept["b"], self.new = torch.zeros(2), 1
            self.kept.pop("a")
            self.seen.add(2)
            del self.lost
            raise ValueError("in the middle")

    careless = Careless()
    kept, one = careless.kept, careless.kept["a"]
    with pytest.raises(ValueError, match="in the middle"), preserved(careless):
        careless()
    assert vars(careless) == {"kept": kept, "seen": {1}, "lost": 3}
    assert careless.kept is kept and list(kept) == ["a"] and kept["a"] is one


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_leaves_it_alone(kind, workers, tmp_path):
    folder = tiny.benchmark(tmp_path / "tiny", n=70 if workers else 12)
    processor = settle(KINDS[kind]())
    before = state(processor)
    model = tiny.llava().eval()
    result = RadarEvaluator(model, processor, folder, scorer="packed", workers=workers).evaluate(per_sample=True)
    assert state(processor) == before
    usual = RadarEvaluator(model, KINDS[kind](), folder, scorer="packed", workers=0).evaluate(per_sample=True)
    assert result.items == usual.items and result.coverage == 1
