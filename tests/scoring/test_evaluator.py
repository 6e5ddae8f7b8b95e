"""The engine against one-candidate-a-forward scoring, and what it promises about failures and the model it is given."""

import math
from dataclasses import replace

import pytest
import torch

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError
from tests.helpers import tiny
from tests.scoring import naive


@pytest.fixture(scope="module")
def model():
    return tiny.llava().eval()


@pytest.fixture(scope="module")
def processor():
    return tiny.llava_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=40)


def test_agrees_with_the_authors_way(model, processor, folder):
    benchmark = Benchmark(folder)
    result = RadarEvaluator(model, processor, benchmark).evaluate(per_sample=True)
    assert len(result.items) == len(benchmark) == 40
    assert {len(item.candidates) for item in result.items} == {2, 3, 4, 5}
    spread = []
    for index, item in enumerate(result.items):
        raw, logprobs = naive.score(model, processor, benchmark.read(index), item.prompt)
        assert item.mean_logits == pytest.approx(raw, abs=1e-5)
        assert item.mean_logprobs == pytest.approx(logprobs, abs=1e-5)
        assert item.sds == pytest.approx(1 / sum(math.exp(r - raw[0]) for r in raw), abs=1e-5)
        spread += [abs(a - b) for a in raw for b in raw]
    assert max(spread) > 0.5, "scores should differ enough to react to a mistake"


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_size_of_batches_changes_nothing_that_matters(model, processor, folder, batch_tokens):
    reference = RadarEvaluator(model, processor, folder).evaluate(per_sample=True)
    other = RadarEvaluator(model, processor, folder, batch_tokens=batch_tokens).evaluate(per_sample=True)
    for a, b in zip(reference.items, other.items, strict=True):
        assert a.mean_logits == pytest.approx(b.mean_logits, abs=1e-5)


def test_the_report_is_the_mean_of_the_items(model, processor, folder):
    result = RadarEvaluator(model, processor, folder).evaluate(step=7, per_sample=True)
    colour = [item.sds for item in result.items if item.ability == "colour"]
    assert result.abilities["colour"]["sds"] == pytest.approx(sum(colour) / len(colour), abs=1e-8)
    maths = [[i.sds for i in result.items if i.category == c] for c in ("algebra", "area")]
    assert result.abilities["maths"]["sds"] == pytest.approx(sum(sum(m) / len(m) for m in maths) / 2, abs=1e-8)
    assert (result.step, result.samples, result.failed, result.coverage) == (7, 40, 0, 1.0)
    assert result.asymmetry == pytest.approx(result.groups["perception"]["sds"] - result.groups["reasoning"]["sds"])


def test_a_second_evaluation_gives_the_same_bits_from_the_cache(model, processor, folder):
    evaluator = RadarEvaluator(model, processor, folder)
    first, second = evaluator.evaluate(per_sample=True), evaluator.evaluate(per_sample=True)
    assert first.items == second.items
    assert first.abilities == second.abilities
    uncached = RadarEvaluator(model, processor, folder, cache_bytes=0).evaluate(per_sample=True)
    assert uncached.items == first.items


def test_fewer_items_are_among_more(model, processor, folder):
    keys = {
        n: {
            i.key for i in RadarEvaluator(model, processor, folder, items_per_ability=n).evaluate(per_sample=True).items
        }
        for n in (2, 5)
    }
    assert len(keys[2]) == 6 and keys[2] < keys[5]


def test_flags_streams_and_gradients_are_left_as_found(processor, folder):
    model = tiny.llava(dropout=0.1).train()
    model.model.vision_tower.eval()
    flags = [m.training for m in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    RadarEvaluator(model, processor, folder).evaluate()
    assert torch.equal(torch.rand(4), expected)
    assert [m.training for m in model.modules()] == flags
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_fail_their_items(processor, folder, value):
    model = tiny.llava().eval()
    with torch.no_grad():
        model.lm_head.weight[tiny.tokenizer().convert_tokens_to_ids("1")] = value  # the first token of "12" and "1.5"
    result = RadarEvaluator(model, processor, folder).evaluate(per_sample=True)
    assert result.failed == 40 == result.failures["not_finite"]  # the normaliser of every log-probability is spoilt
    assert result.coverage == 0 and result.items == ()
    assert math.isnan(result.overall["sds"])
    assert "radar/sds/overall" not in result.metrics()


def test_items_that_cannot_be_scored_are_counted_by_reason(model, processor, tmp_path):
    good = tiny.samples(6)
    broken = [
        replace(good[0], key="bomb", images=(b"no image at all",), image_names=("0.png",), question="what"),
        replace(good[0], key="long", question="the circle " * 300, images=(), image_names=()),
    ]
    write_shards(good, tmp_path / "good", name="x", groups=tiny.GROUPS)
    benchmark = Benchmark(tmp_path / "good")
    whole = RadarEvaluator(model, processor, benchmark).evaluate(per_sample=True)
    read = benchmark.read
    benchmark.read = lambda index: broken[index] if index < 2 else read(index)  # type: ignore[method-assign]
    result = RadarEvaluator(model, processor, benchmark).evaluate(per_sample=True)
    assert result.failures == {"bad_image": 1, "too_long": 1}
    assert (result.samples, result.failed, result.coverage) == (6, 2, 4 / 6)
    for item in result.items:
        (same,) = [other for other in whole.items if other.key == item.key]
        assert item.mean_logits == pytest.approx(same.mean_logits, abs=1e-5)
    assert {row["reason"] for row in result.unscored} == {"bad_image", "too_long"}


def test_nothing_to_score_is_an_error(model, processor, tmp_path):
    tiny.benchmark(tmp_path / "b", n=3)
    benchmark = Benchmark(tmp_path / "b")
    (tmp_path / "b" / "shard-000.tar").write_bytes(b"")
    with pytest.raises(BenchmarkError, match="none of its 3 can be used; the first says: unreadable"):
        RadarEvaluator(model, processor, benchmark).evaluate()


def test_a_model_without_configuration_is_refused(processor, folder):
    with pytest.raises(ConfigError, match="image-text-to-text model with a `config`, but got a Linear"):
        RadarEvaluator(torch.nn.Linear(2, 2), processor, folder)


def test_wrappers_are_called_not_opened(model, processor, folder):
    class DataParallel(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            calls.append(1)
            return self.module(**inputs)

    calls = []  # outside of the module, whose own attributes are put back
    wrapper = DataParallel(model)
    result = RadarEvaluator(wrapper, processor, folder).evaluate()
    assert calls
    plain = RadarEvaluator(model, processor, folder).evaluate()
    assert result.abilities["colour"]["sds"] == pytest.approx(plain.abilities["colour"]["sds"], abs=1e-5)
