"""A frozen vision tower is asked once a batch and run, and not a moment longer than it gives the same answer."""

import pytest
import torch

from radar_callback import RadarEvaluator
from radar_callback.scoring.features import FeatureMemory
from tests.helpers.families import FAMILIES
from tests.helpers.tiny import benchmark


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=24)


def frozen(name):
    model, processor = FAMILIES[name].__wrapped__()
    tower = model.get_encoder(modality="image")
    tower.requires_grad_(False)
    return model, processor, tower


@pytest.fixture
def counted(monkeypatch):
    """How often a tower's own forward runs; counted in its class, since what hooks do to a tower is not known."""

    def count(tower):
        calls = []
        inner = tower.embeddings if hasattr(tower, "embeddings") else next(tower.children())
        forward = type(inner).forward

        def counting(self, *args, **kwargs):
            if self is inner:
                calls.append(1)
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(inner), "forward", counting)
        return calls

    return count


def scores(evaluator):
    return [(item.key, item.mean_logits, item.mean_logprobs) for item in evaluator.evaluate(per_sample=True).items]


@pytest.mark.parametrize("scorer", ["packed", "reference"])
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "internvl", "gemma3", "idefics3"])
def test_what_is_remembered_is_what_the_tower_would_say_again(name, scorer, folder, counted):
    model, processor, tower = frozen(name)
    evaluator = RadarEvaluator(model, processor, folder, scorer=scorer)
    calls = counted(tower)
    first = scores(evaluator)
    asked = len(calls)
    assert scores(evaluator) == first
    assert len(calls) == asked + 1 > 1, "one is asked again, to see whether it still says the same"
    # What is trained goes on to count: the projector, say.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    again = scores(evaluator)
    assert len(calls) == asked + 2
    assert again == scores(RadarEvaluator(model, processor, folder, scorer=scorer, feature_bytes=0)) != first


@pytest.mark.parametrize("how", ["in place", "behind autograd's back", "a buffer"])
def test_a_weight_that_changes_ends_it(how, folder, counted):
    model, processor, tower = frozen("llava")
    tower.register_buffer("extra", torch.zeros(3))
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed")
    first = scores(evaluator)
    weight = next(tower.parameters())
    with torch.no_grad():
        if how == "in place":
            weight.mul_(1.5)
        elif how == "behind autograd's back":
            weight.data.mul_(1.5)
        else:
            tower.extra.add_(1)
    calls = counted(tower)
    changed = scores(evaluator)
    assert calls
    assert changed == scores(RadarEvaluator(model, processor, folder, scorer="packed", feature_bytes=0))
    assert (changed == first) == (how == "a buffer")


def test_a_tower_that_is_trained_is_asked_every_time(folder, counted):
    model, processor, tower = frozen("llava")
    next(tower.parameters()).requires_grad_(True)
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed")
    scores(evaluator)  # the way of scoring is checked in the first
    calls = counted(tower)
    scores(evaluator)
    asked = len(calls)
    scores(evaluator)
    assert len(calls) == 2 * asked > 0


def test_only_what_the_model_looks_at_is_kept_and_no_more_than_there_is_room_for(folder, counted):
    model, processor, tower = frozen("llava")
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed", batch_tokens=200, blind_share=0)
    scores(evaluator)
    whole = 2**30 - evaluator._features._shelf.left
    images = sum(item.n_images for item in evaluator.benchmark.items)
    config = tower.config
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    # Of two layers' hidden states one, besides the last and the pooled ones, which every tower returns.
    assert whole == images * config.hidden_size * 4 * (2 * tokens + 1)
    small = RadarEvaluator(
        model, processor, folder, scorer="packed", batch_tokens=200, blind_share=0, feature_bytes=whole // 2
    )
    calls = counted(tower)
    first = scores(small)
    asked = len(calls)
    assert scores(small) == first
    assert 0 < len(calls) - asked < asked
    assert 0 <= small._features._shelf.left <= whole // 2


def test_batches_that_have_become_others_make_room_for_what_is_asked_now(folder, counted):
    model, processor, tower = frozen("llava")
    measured = RadarEvaluator(model, processor, folder, scorer="packed", batch_tokens=400, blind_share=0)
    scores(measured)
    need = 2**30 - measured._features._shelf.left
    evaluator = RadarEvaluator(
        model, processor, folder, scorer="packed", batch_tokens=400, blind_share=0, feature_bytes=need
    )
    calls, asked = counted(tower), []
    for i in range(6):
        if i == 2:
            evaluator._setup.shrink()
        before = len(calls)
        scores(evaluator)
        asked.append(len(calls) - before)
    assert asked[0] > 1 and asked[1] == 1 and asked[2] > 1 and asked[-1] == 1


def test_the_tower_is_left_as_it_was_found_after_an_error_too():
    model, _, tower = frozen("llava")
    memory = FeatureMemory(2**20)
    with pytest.raises(RuntimeError, match="boom"), memory.over(model):
        assert "forward" in vars(tower)
        raise RuntimeError("boom")
    assert "forward" not in vars(tower)
