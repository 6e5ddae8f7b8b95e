"""The fast way is trusted where it agrees with the reference, and only there: mistakes that somebody could make are caught."""

import copy
import logging
import re
from dataclasses import replace

import pytest
import torch

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.errors import ConfigError
from radar_callback.scoring import cached, packed
from radar_callback.scoring.check import check
from radar_callback.scoring.choose import WAYS, various
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.packed import PackedScorer
from radar_callback.scoring.reference import ReferenceScorer
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.scoring.test_families import REFUSED, encoder, taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=30)


def verdict(name="llava", way="packed", dtype=torch.float32):
    model, processor = FAMILIES[name]()
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    pad = processor.tokenizer.pad_token_id
    samples = [encoder(name)(sample) for sample in taken(name)]
    groups = [[s for s in samples if s.prompt_images == n] for n in {s.prompt_images for s in samples}]
    with torch.no_grad():
        return check(WAYS[way](model, pad), ReferenceScorer(model, pad), groups)


def roundings(found):
    """How many times its rounding a way was found to be away."""
    return [float(ratio) for ratio in re.findall(r"([\d.]+) times its rounding", found.why)]


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_the_packed_way_unless_it_cannot(name, dtype, caplog):
    for way in ("packed", "cached"):
        found = verdict(name, way, dtype)
        assert found.agrees == ((name, way) not in REFUSED), f"{way}: {found.why}"
        assert not found.agrees or max(roundings(found), default=0) <= 1.5, "far from where mistakes begin"


def off_by_one(monkeypatch):
    right = packed.positions

    def behind(inner, inputs, tree):
        ids, following = right(inner, inputs, tree)
        return ids + (tree.branch > 0), following

    monkeypatch.setattr(packed, "positions", behind)


def candidates_see_each_other(monkeypatch):
    right = packed.pack

    def together(samples, pad_token_id):
        inputs, tree, *rest = right(samples, pad_token_id)
        return inputs, replace(tree, branch=tree.branch.clamp(max=0)), *rest

    monkeypatch.setattr(packed, "pack", together)


def images_in_the_wrong_order(monkeypatch):
    """The pixels only: were their sizes turned round too, some models would say themselves that something does not fit."""
    right = packed.vision_inputs

    def turned(samples):
        return {name: value.flip(0) if name == "pixel_values" else value for name, value in right(samples).items()}

    monkeypatch.setattr(packed, "vision_inputs", turned)


def reading(monkeypatch, change):
    """Another reading of the right predictions: `change(index, token, last)`, where `last` marks each candidate's last token."""

    class Wrong(packed.Reading):
        @classmethod
        def of(cls, *args):
            found = super().of(*args)
            last = torch.cat([found.candidate[1:] != found.candidate[:-1], torch.tensor([True])])
            return change(found, last)

    monkeypatch.setattr(packed, "Reading", Wrong)


def last_token_dropped(monkeypatch):
    def drop(found, last):
        alone = last & (found.place == 0)
        kept = ~last | alone
        fields = {name: getattr(found, name)[kept] for name in ("index", "token", "candidate", "place")}
        return replace(found, **fields)

    reading(monkeypatch, drop)


def next_token_read(monkeypatch):
    reading(monkeypatch, lambda found, last: replace(found, token=found.token + 1))


def predicted_one_later(monkeypatch):
    """Each token's logit is taken where the next is predicted."""
    reading(monkeypatch, lambda found, last: replace(found, index=torch.where(last, found.index, found.index.roll(-1))))


SEEN = [off_by_one, candidates_see_each_other, images_in_the_wrong_order]
READ = [last_token_dropped, next_token_read, predicted_one_later]


def assert_caught(name, dtype):
    found = verdict(name, dtype=dtype)
    assert not found.agrees
    compared = any(said in found.why for said in ("largest difference", "times its rounding", "reads other tokens"))
    assert compared, f"expected the comparison itself to find it, not: {found.why}"
    assert not roundings(found) or max(roundings(found)) >= 3 or "by 0.0e+00" not in found.why, "far from what is right"


@pytest.mark.parametrize("mistake", SEEN)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in FAMILIES if (name, "packed") not in REFUSED])
def test_a_mistake_in_what_the_model_sees_is_caught(mistake, name, dtype, monkeypatch):
    mistake(monkeypatch)
    assert_caught(name, dtype)


@pytest.mark.parametrize("mistake", READ)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_mistake_in_what_is_read_is_caught(mistake, name, dtype, monkeypatch):
    """Which has nothing to do with families."""
    mistake(monkeypatch)
    assert_caught(name, dtype)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cached_way_that_mixes_up_prompts_or_tokens_is_caught(name, dtype, monkeypatch):
    right = cached._repeated
    monkeypatch.setattr(cached, "_repeated", lambda output, owner: right(output, owner.flip(0)))
    found = verdict(name, "cached", dtype)
    assert not found.agrees and "Error" not in found.why
    monkeypatch.setattr(cached, "_repeated", right)
    following = cached.following_inputs
    # Each candidate is followed by the tokens of the next.
    monkeypatch.setattr(cached, "following_inputs", lambda s, ids, *rest: following(s, [*ids[1:], ids[0]], *rest))
    found = verdict(name, "cached", dtype)
    assert not found.agrees and "Error" not in found.why


@pytest.mark.parametrize("name", ["gemma3", "paligemma", "llava", "qwen2_vl"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_items_of_one_length_are_no_reason_to_refuse_a_right_way(name, dtype):
    """Without padding the reference rounds the same rows alike, which is no rounding at all."""
    model, processor = FAMILIES[name]()
    model, pad = copy.deepcopy(model).to(dtype), processor.tokenizer.pad_token_id
    one = encoder(name)(next(sample for sample in taken(name) if len(sample.images) == 1))
    tails = tuple(replace(one.tails[0], ids=one.tails[0].ids.flip(0) + k) for k in range(3))
    group = [replace(one, tails=tails), replace(one, tails=tails[::-1])]
    with torch.no_grad():
        found = check(PackedScorer(model, pad), ReferenceScorer(model, pad), [group])
    assert found.agrees, found.why


def test_candidates_of_one_token_each_by_every_way_and_where_only_a_number_of_columns_can_be_asked_for(monkeypatch):
    encode = SampleEncoder(tiny.llava_processor(), tiny.llava().config)
    base = [encode(sample) for sample in tiny.samples(12) if len(sample.images) == 1][:3]
    tails = tuple(replace(base[0].tails[0], ids=torch.tensor([k]), scored=1) for k in (5, 9, 40))
    pair = [replace(one, tails=tails) for one in base]
    model = tiny.llava().eval()
    with torch.no_grad():
        wanted = ReferenceScorer(model, 0)(pair)
        for places in (True, False):
            for way in ("packed", "cached"):
                scorer = WAYS[way](model, 0)
                scorer._takes_places = places
                torch.testing.assert_close(scorer(pair).mean_logits, wanted.mean_logits, atol=1e-5, rtol=0)


def test_memory_that_runs_out_in_the_comparison_is_no_reason_to_end_the_evaluation(folder, monkeypatch, caplog):
    right = ReferenceScorer.predict
    limit = [120]

    def short(self, samples):
        before = self.fed
        found = right(self, samples)
        if self.fed - before > limit[0] and len(samples) > 1:
            raise torch.OutOfMemoryError("no more")
        return found

    monkeypatch.setattr(ReferenceScorer, "predict", short)
    evaluator = RadarEvaluator(tiny.llava().eval(), tiny.llava_processor(), folder, batch_tokens=400)
    result = evaluator.evaluate()
    assert (result.scorer, result.coverage) == ("reference", 1.0) and "memory ran out in the comparison" in caplog.text
    limit[0] = 10**9
    assert evaluator.evaluate().scorer == "packed", "it is tried again"


def test_what_is_compared_at_once_keeps_to_the_bound_on_tokens(folder, monkeypatch):
    fed = []
    right = ReferenceScorer.predict

    def counting(self, samples):
        before = self.fed
        found = right(self, samples)
        fed.append((self.fed - before, len(samples)))
        return found

    monkeypatch.setattr(ReferenceScorer, "predict", counting)
    RadarEvaluator(tiny.llava().eval(), tiny.llava_processor(), folder, batch_tokens=300).evaluate()
    assert fed and all(tokens <= 300 or items == 1 for tokens, items in fed)


def test_a_model_whose_positions_are_columns_is_told_of(folder, caplog):
    class Columns(type(tiny.llava())):
        """Ignores what it is told of positions and padding."""

        def forward(self, position_ids=None, attention_mask=None, **inputs):
            return super().forward(**inputs)

    model = tiny.llava().eval()
    model.__class__ = Columns
    RadarEvaluator(model, tiny.llava_processor(), folder).evaluate()
    assert caplog.text.count("Padding and neighbours move this model's log-probabilities") == 1


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
    assert "The packed way does not agree (largest" in caplog.text
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


def test_half_precision_gets_the_packed_way_too(folder, caplog):
    model = tiny.llava().to(torch.bfloat16).eval()
    with caplog.at_level(logging.INFO):
        result = RadarEvaluator(model, tiny.llava_processor(), folder).evaluate()
    assert "Scoring with the packed way, which agrees with the reference" in caplog.text
    assert "times its rounding" in caplog.text and result.coverage == 1


def test_a_model_that_is_wrapped_or_cast_otherwise_is_checked_again(folder, caplog):
    model = tiny.llava().eval()
    evaluator = RadarEvaluator(model, tiny.llava_processor(), folder)
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
        evaluator.evaluate()
        assert caplog.text.count("agrees with the reference") == 1
        evaluator.model = model.to(torch.bfloat16)
        evaluator.evaluate()
    assert caplog.text.count("agrees with the reference") == 2


def test_a_model_whose_logits_are_not_finite_is_checked_again_later(folder, caplog):
    model = tiny.llava().eval()
    weight = model.lm_head.weight
    whole = weight.detach().clone()
    evaluator = RadarEvaluator(model, tiny.llava_processor(), folder)
    with torch.no_grad():
        weight.fill_(float("nan"))
        assert evaluator.evaluate().coverage == 0
        assert "the model's logits are not finite" in caplog.text
        weight.copy_(whole)
    with caplog.at_level(logging.INFO):
        assert evaluator.evaluate().coverage == 1
    assert "Scoring with the packed way" in caplog.text


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
    with pytest.raises(ConfigError, match="Unknown scorer 'magic': expected 'auto', 'packed', 'cached', 'reference'"):
        RadarEvaluator(tiny.llava(), tiny.llava_processor(), folder, scorer="magic")


def test_the_handful_holds_what_differs_most(folder):
    items = Benchmark(folder).items
    chosen = various(items)
    assert 3 <= len(chosen) <= 8
    assert {len(items[i].candidate_chars) for i in chosen} >= {2, 5}
    assert len({items[i].n_images for i in chosen}) == len({item.n_images for item in items})
    alike = [replace(items[0], key=str(i)) for i in range(12)]
    assert len(various(alike)) >= 2, "what is swapped between items shows only where there are two"


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


def hands_on_nothing(model):
    """The same model behind a forward whose `**kwargs` are dropped, as remote code may have it."""

    class Loose(type(model)):
        def forward(self, input_ids=None, attention_mask=None, pixel_values=None, **kwargs):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)

    model.__class__ = Loose
    return model


@pytest.mark.parametrize("named", ["packed", "cached", "shared"])
def test_a_way_named_by_hand_that_does_not_fit_is_replaced_and_that_is_said(named, folder, caplog):
    model = hands_on_nothing(tiny.llava().eval())
    wanted = RadarEvaluator(model, tiny.llava_processor(), folder, scorer="reference", workers=0).evaluate()
    caplog.clear()
    result = RadarEvaluator(model, tiny.llava_processor(), folder, scorer=named, workers=0).evaluate()
    assert (result.scorer, result.abilities) == ("reference", wanted.abilities)
    assert caplog.text.count("Scoring with the reference way, which is slower.") == 1
    assert ("There is no scorer 'shared' any more" in caplog.text) == (named == "shared")


@pytest.mark.parametrize("named", ["auto", "packed", "reference"])
def test_padding_that_counts_is_told_of_whichever_way_is_asked_for(named, folder, caplog):
    """Every fast way raises before it is compared: the forward names no positions."""

    class Unmasked(type(tiny.llava())):
        def forward(self, input_ids, attention_mask, pixel_values=None):
            return super().forward(input_ids=input_ids, pixel_values=pixel_values)

    model = tiny.llava().eval()
    model.__class__ = Unmasked
    RadarEvaluator(model, tiny.llava_processor(), folder, scorer=named, workers=0).evaluate()
    assert caplog.text.count("Padding and neighbours move this model's log-probabilities") == 1


def test_hidden_states_called_logits_end_the_evaluation(folder):
    class Hidden(type(tiny.llava())):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits[..., :48]
            return output

    model = tiny.llava().eval()
    model.__class__ = Hidden
    with pytest.raises(ConfigError, match=r"Hidden.forward, but got 48 logits a place, fewer than the tokenizer's"):
        RadarEvaluator(model, tiny.llava_processor(), folder, workers=0).evaluate()
