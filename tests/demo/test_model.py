"""The demo's model and processor: real, small, complete, and fed in training exactly as in an evaluation."""

import pytest
import torch

from radar_callback.benchmark.mini import ABILITIES
from radar_callback.benchmark.mini.items import problem
from radar_callback.demo.data import CaptionedScenes, Collate, captions_only
from radar_callback.demo.model import IMAGE, PATCH, SIDE, build_model, build_processor, train_tokenizer


@pytest.fixture(scope="module")
def processor():
    return build_processor(train_tokenizer(captions_only(seed=0, count=600)))


@pytest.fixture(scope="module")
def model(processor):
    return build_model(processor.tokenizer)


def test_it_is_a_small_llava(model):
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert 5e5 < sum(parameter.numel() for parameter in model.parameters()) < 2e6


def test_every_word_of_the_benchmark_can_be_written(processor):
    for ability in ABILITIES:
        for turn in range(128 // ability.k):
            asked = problem(ability, 0, turn)
            for candidate in asked.candidates:
                text = f"{asked.question} {candidate}"
                ids = processor.tokenizer(text).input_ids
                assert processor.tokenizer.decode(ids).strip() == text.lower()


def test_candidates_never_get_the_same_tokens(processor):
    for ability in ABILITIES:
        for turn in range(128 // ability.k):
            candidates = problem(ability, 0, turn).candidates
            assert len({tuple(processor.tokenizer(f" {c}").input_ids) for c in candidates}) == ability.k


def test_words_of_captions_are_single_tokens(processor):
    for word in ("red", "circle", "large", "three", "blurry"):
        assert len(processor.tokenizer(f" {word}").input_ids) == 1


def test_weights_depend_on_the_seed_and_leave_the_global_stream_alone(processor):
    before = torch.get_rng_state()
    one, same, other = (build_model(processor.tokenizer, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    first = next(iter(one.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.state_dict()[first], other.state_dict()[first])


def test_scenes_do_not_depend_on_who_draws_them():
    image, text = CaptionedScenes(10, seed=3)[7]
    again, same = CaptionedScenes(100, seed=3)[7]
    assert (image.tobytes(), text) == (again.tobytes(), same)
    assert CaptionedScenes(10, seed=4)[7][0].tobytes() != image.tobytes()


def test_only_the_caption_counts_in_the_loss(processor, model):
    scenes = CaptionedScenes(6)
    batch = Collate(processor)([scenes[i] for i in range(6)])
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    assert batch["pixel_values"].shape == (6, 3, SIDE, SIDE)
    assert (batch["input_ids"] == image).sum(1).tolist() == [(SIDE // PATCH) ** 2] * 6
    for i in range(6):
        heard = batch["labels"][i][batch["labels"][i] != -100]
        assert tokenizer.decode(heard, skip_special_tokens=True).strip() == scenes[i][1].lower()
        assert heard[-1] == tokenizer.eos_token_id
    assert model(**batch).loss.isfinite()


def test_the_model_sees_the_picture(processor, model):
    red, blue = (CaptionedScenes(2)[i] for i in range(2))
    batch = Collate(processor)([red, red])
    batch["pixel_values"][1] = Collate(processor)([blue])["pixel_values"][0]
    with torch.no_grad():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-3
