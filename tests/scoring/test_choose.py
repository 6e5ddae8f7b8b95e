"""The fast way is trusted where it agrees with the reference, and only there: mistakes that somebody could make are caught."""

import logging
from dataclasses import replace

import pytest
import torch

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.errors import ConfigError
from radar_callback.scoring import packed
from radar_callback.scoring.choose import compare, various
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.packed import PackedScorer
from radar_callback.scoring.reference import ReferenceScorer
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.scoring.test_families import encoder, taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=30)


def verdict(name="llava"):
    model, processor = FAMILIES[name]()
    pad = processor.tokenizer.pad_token_id
    samples = [encoder(name)(sample) for sample in taken(name)]
    groups = [[s for s in samples if s.prompt_images == n] for n in {s.prompt_images for s in samples}]
    with torch.no_grad():
        return compare(PackedScorer(model, pad), ReferenceScorer(model, pad), groups)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_packed_way_proves_itself_on_every_family(name):
    assert verdict(name).agrees, verdict(name).why


def off_by_one(monkeypatch):
    right = packed.positions
    behind = lambda inner, inputs, tree: right(inner, inputs, tree) + (tree.branch > 0)  # noqa: E731
    monkeypatch.setattr(packed, "positions", behind)


def candidates_see_each_other(monkeypatch):
    right = packed.pack

    def together(samples, pad_token_id):
        inputs, tree, reading = right(samples, pad_token_id)
        return inputs, replace(tree, branch=tree.branch.clamp(max=0)), reading

    monkeypatch.setattr(packed, "pack", together)


def images_in_the_wrong_order(monkeypatch):
    right = packed.vision_inputs
    monkeypatch.setattr(packed, "vision_inputs", lambda samples: {k: v.flip(0) for k, v in right(samples).items()})


def last_token_dropped(monkeypatch):
    right = packed.pack
    shorter = lambda s: replace(s, tails=tuple(replace(t, scored=max(1, t.scored - 1)) for t in s.tails))  # noqa: E731
    monkeypatch.setattr(packed, "pack", lambda samples, pad: right([shorter(s) for s in samples], pad))


@pytest.mark.parametrize(
    "mistake", [off_by_one, candidates_see_each_other, images_in_the_wrong_order, last_token_dropped]
)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "paligemma", "gemma3", "idefics3"])
def test_a_mistake_in_the_packed_way_is_caught(mistake, name, monkeypatch):
    mistake(monkeypatch)
    assert not verdict(name).agrees


def test_a_model_that_does_not_honour_it_is_scored_the_slow_way_and_the_log_says_so(folder, caplog):
    class Stubborn(type(tiny.llava())):
        """Makes its own positions, as remote code may."""

        def forward(self, position_ids=None, **inputs):
            return super().forward(**inputs)

    model = tiny.llava().eval()
    expected = RadarEvaluator(model, tiny.llava_processor(), folder, scorer="reference").evaluate()
    model.__class__ = Stubborn
    with caplog.at_level(logging.INFO):
        result = RadarEvaluator(model, tiny.llava_processor(), folder).evaluate()
    assert (
        "Scoring with the reference way, which is slower: the packed one does not agree with it (largest" in caplog.text
    )
    assert result.abilities == expected.abilities


def test_a_model_that_refuses_it_is_scored_the_slow_way(folder, caplog):
    class Refusing(type(tiny.llava())):
        def forward(self, input_ids, attention_mask, pixel_values=None, logits_to_keep=0):
            return super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                pixel_values=pixel_values,
                logits_to_keep=logits_to_keep,
            )

    model = tiny.llava().eval()
    model.__class__ = Refusing
    result = RadarEvaluator(model, tiny.llava_processor(), folder).evaluate()
    assert "Refusing.forward takes no position_ids" in caplog.text
    assert result.coverage == 1


def test_the_choice_is_made_once_and_left_no_trace(folder, caplog):
    model = tiny.llava().eval()
    before = model.config.get_text_config()._attn_implementation
    evaluator = RadarEvaluator(model, tiny.llava_processor(), folder)
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
        evaluator.evaluate()
    assert caplog.text.count("Scoring with the packed way, which agrees with the reference: largest difference") == 1
    assert model.config.get_text_config()._attn_implementation == before == "sdpa"


def test_half_precision_is_scored_the_reference_way_for_now(folder, caplog):
    model = tiny.llava().to(torch.bfloat16).eval()
    with caplog.at_level(logging.INFO):
        RadarEvaluator(model, tiny.llava_processor(), folder).evaluate()
    assert "reference way: the model is in torch.bfloat16" in caplog.text


def test_eager_attention_gives_the_same(folder):
    results = {}
    for attention in ("sdpa", "eager"):
        model = tiny.llava().eval()
        model.set_attn_implementation(attention)
        results[attention] = RadarEvaluator(model, tiny.llava_processor(), folder, scorer="packed").evaluate(
            per_sample=True
        )
    for a, b in zip(results["sdpa"].items, results["eager"].items, strict=True):
        assert a.mean_logits == pytest.approx(b.mean_logits, abs=1e-5)


def test_an_unknown_way_is_refused(folder):
    with pytest.raises(ConfigError, match="Unknown scorer 'magic': expected 'auto', 'packed', 'reference'"):
        RadarEvaluator(tiny.llava(), tiny.llava_processor(), folder, scorer="magic")


def test_the_handful_holds_what_differs_most(folder):
    items = Benchmark(folder).items
    groups = various(items)
    chosen = [i for group in groups for i in group]
    assert 3 <= len(chosen) <= 8
    for group in groups:
        assert len({items[i].n_images for i in group}) == 1
    assert {len(items[i].candidate_chars) for i in chosen} >= {2, 5}
    assert len({items[i].n_images for i in chosen}) == len({item.n_images for item in items})


def test_a_long_and_a_short_item_in_one_batch():
    encode = SampleEncoder(tiny.llava_processor(), tiny.llava().config)
    base = tiny.samples(1)[0]
    pair = [
        replace(base, question=q, images=(), image_names=(), answer=a, distractors=d)
        for q, a, d in [("circle " * 30, "red", ("blue " * 9, "x")), ("it", "left " * 12, ("right",))]
    ]
    model = tiny.llava().eval()
    with torch.no_grad():
        got, wanted = (way(model, 0)([encode(s) for s in pair]) for way in (PackedScorer, ReferenceScorer))
    torch.testing.assert_close(got.mean_logits, wanted.mean_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.mean_logprobs, wanted.mean_logprobs, atol=1e-5, rtol=0)
