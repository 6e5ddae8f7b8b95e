"""Text of an item is data: what would be read as a control token costs that item, and nothing else."""

from dataclasses import replace

import pytest

from radar_callback import RadarEvaluator
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import ItemError, Reason
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.item_text import control_ids, image_marks
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.scoring.test_families import ITEMS

ONE = ITEMS[0]
STYLES = {
    "plain": "plain",
    "chat": "chat",
    "template": "Q: {question} A:",
    "function": lambda sample, image: f"<eos>{image}{sample.question}",
}
SPELLINGS = {
    "qwen2_vl": ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|video_pad|>", "<|im_end|>", "<|endoftext|>"],
    "llava": ["<image>", "<s>", "<eos>", "<pad>"],
    "internvl": ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"],
    "idefics3": ["<image>", "<row_1_col_1>", "<fake_token_around_image>", "<end_of_utterance>"],
    "gemma3": ["<start_of_image>", "<image_soft_token>", "<end_of_image>"],
    "paligemma": ["<image>", "<bos>"],
    "mllama": ["<|image|>", "<|python_tag|>"],
    "blip2": ["<image>", "</s>"],
}  # fmt: skip


# BLIP-2 has no chat template.
@pytest.mark.parametrize(("name", "style"), [(n, s) for n in SPELLINGS for s in STYLES if (n, s) != ("blip2", "chat")])
def test_a_control_token_in_an_items_text_is_refused_by_name(name, style):
    model, processor = FAMILIES[name]()
    encode = SampleEncoder(processor, model.config, STYLES[style])
    assert encode(ONE).prefix_length > 1, "what prompt styles themselves write is no text of the item"
    for spelling in SPELLINGS[name]:
        odd = [replace(ONE, answer=f"It is {spelling}."), replace(ONE, distractors=("blue", spelling))]
        if spelling != "<image>":  # in a question, our own mark
            odd += [replace(ONE, question=f"The {spelling} means"), replace(ONE, question=f"<image>{spelling}")]
        for sample in odd:
            with pytest.raises(ItemError) as caught:
                encode(sample)
            assert caught.value.reason == Reason.NOT_ENCODABLE
            said = caught.value.detail
            assert "reads as a control token and not as text" in said and "item 'one' has '<" in said
            assert len(said.splitlines()) == 1


@pytest.mark.parametrize("text", ["<image>", "<b>", "</td>", "<|im_end|>", "a < b > c", "[IMG]", "<loc0001>"])
def test_markup_that_a_vocabulary_does_not_have_is_text(text):
    model, processor = FAMILIES["gemma3"]()
    encoded = SampleEncoder(processor, model.config)(replace(ONE, answer=text))
    assert processor.tokenizer.decode(encoded.tails[0].content) == f" {text}"


def test_tokens_that_were_added_as_words_are_text():
    model, processor = FAMILIES["paligemma"]()
    ids = processor.tokenizer.convert_tokens_to_ids(["<loc0001>", "<seg001>"])
    encoded = SampleEncoder(processor, model.config)(replace(ONE, answer="<loc0001><seg001>"))
    assert encoded.tails[0].content.tolist() == ids


def processor_with(**tokens):
    from copy import deepcopy

    processor = tiny.llava_processor()
    processor.tokenizer = deepcopy(processor.tokenizer)
    for name, token in tokens.items():
        setattr(processor.tokenizer, name, token)
    return processor


def test_a_special_token_that_is_an_ordinary_word_is_text():
    processor = processor_with(pad_token="!", eos_token="r")
    encoded = SampleEncoder(processor, tiny.llava().config)(replace(ONE, answer="green!"))
    assert processor.tokenizer.decode(encoded.tails[0].content) == " green!"


def test_what_stands_for_unknown_text_is_text_where_a_vocabulary_has_no_token_of_its_own_for_it():
    """As in GPT-2 and Qwen: the published script keeps the id, and its values are reproduced."""
    config = tiny.llava().config
    end = SampleEncoder(processor_with(eos_token="<pad>", unk_token="<pad>"), config)
    assert 0 in end(replace(ONE, answer="red <pad> one")).tails[0].content.tolist()
    own = SampleEncoder(processor_with(unk_token="<pad>"), config)
    with pytest.raises(ItemError, match="'<pad>' in its candidate"):
        own(replace(ONE, answer="red <pad> one"))


def test_a_token_that_question_and_candidate_spell_together_is_refused():
    encode = SampleEncoder(tiny.llava_processor(), tiny.llava().config, "{question}{answer}")
    with pytest.raises(ItemError, match="'<image>' where question and candidate meet"):
        encode(replace(ONE, question="The tag <im", answer="age>", distractors=("g>",)))


def test_a_spelling_that_only_the_processor_knows_is_found_by_asking_it():
    class Replacing(type(tiny.llava_processor())):
        def __call__(self, images=None, text=None, **more):
            return super().__call__(images=images, text=[t.replace("<|shown_1|>", "<image>") for t in text], **more)

    usual = tiny.llava_processor()
    processor = Replacing(
        usual.image_processor, usual.tokenizer, patch_size=tiny.PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    assert not {"<|shown_1|>"} & set(image_marks(processor))
    encode = SampleEncoder(processor, tiny.llava().config)
    with pytest.raises(ItemError, match=r"'<\|shown_1\|>' in its question"):
        encode(replace(ONE, question="What does <|shown_1|> mean?"))
    assert encode(replace(ONE, question="What does <|shown_2|> mean?")).vision_tokens == 16


def test_control_ids_are_the_special_ones():
    assert control_ids(tiny.tokenizer()) == {0, 1}


@pytest.mark.parametrize("scorer", ["auto", "reference"])
@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_no_other_item_moves(name, scorer, tmp_path):
    model, processor = FAMILIES[name]()
    mark = {"qwen2_vl": "<|image_pad|>", "llava": "<image>"}[name]
    plain = [replace(ONE, key=f"p{i}") for i in range(4)]
    odd = [replace(ONE, key="odd0", answer=mark), replace(ONE, key="odd1", question="The </s><eos> means")]

    def scored(samples, folder):
        write_shards(samples, folder, name="b", groups={"colour": "perception"})
        return RadarEvaluator(model, processor, folder, scorer=scorer, workers=0).evaluate(per_sample=True)

    alone, among = scored(plain, tmp_path / "a"), scored([*odd, *plain], tmp_path / "b")
    assert [item.key for item in alone.items] == [item.key for item in among.items]
    for one, other in zip(alone.items, among.items, strict=True):
        assert one.mean_logits == pytest.approx(other.mean_logits, abs=1e-5)
    assert among.failures == {"not_encodable": 2} and among.coverage == pytest.approx(4 / 6)
    assert sorted(row["key"] for row in among.unscored) == ["odd0", "odd1"]
