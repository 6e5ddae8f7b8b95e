"""A frozen vision tower is asked once a batch and run, and not a moment longer than it gives the same answer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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


class Extra(nn.Module):
    """Stands for a layer, and does more than it to what it returns."""

    def __init__(self, layer, change, **own):
        super().__init__()
        self.layer = layer
        self.change = change
        for name, value in own.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.change(self, self.layer(x))


def mlp(tower):
    """The first block's MLP, and the module it is a part of."""
    name = next(name for name, _ in tower.named_modules() if name.endswith("mlp"))
    parent = tower.get_submodule(name.rpartition(".")[0])
    return parent, parent.mlp


def extra(tower, change, **own):
    parent, layer = mlp(tower)
    parent.mlp = Extra(layer, change, **own)
    return parent.mlp


def linear():
    torch.manual_seed(3)
    return nn.Linear(32, 32).requires_grad_(False)


def trained(module):
    """A step of training a parameter that is in no module of the tower."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3)


def prompt_before_the_model(model, tower):
    prompt = nn.ParameterList([torch.zeros(1, 3, 32, 32)])

    def prompted(module, args, kwargs):
        pixels = kwargs.get("pixel_values")
        return args, kwargs if pixels is None else kwargs | {"pixel_values": pixels + prompt[0].detach()}

    model.register_forward_pre_hook(prompted, with_kwargs=True)
    return lambda: trained(prompt)


def prompt_before_the_tower(model, tower):
    prompt = nn.ParameterList([torch.zeros(1, 3, 32, 32)])

    def prompted(module, args, kwargs):
        if args:
            return (args[0] + prompt[0].detach(), *args[1:]), kwargs
        return args, kwargs | {"pixel_values": kwargs["pixel_values"] + prompt[0].detach()}

    tower.register_forward_pre_hook(prompted, with_kwargs=True)
    return lambda: trained(prompt)


def adapter_behind_the_tower(model, tower):
    adapter = nn.Linear(32, 32)

    def adapted(module, args, output):
        output.last_hidden_state = output.last_hidden_state + adapter(output.last_hidden_state).detach()
        if output.hidden_states is not None:
            output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
        return output

    tower.register_forward_hook(adapted)
    return lambda: trained(adapter)


def adapter_in_a_hook(model, tower):
    adapter = nn.Linear(32, 32)
    mlp(tower)[1].register_forward_hook(lambda module, args, output: output + adapter(output).detach())
    return lambda: trained(adapter)


def adapter_in_a_pre_hook(model, tower):
    adapter = nn.Linear(32, 32)
    mlp(tower)[1].register_forward_pre_hook(lambda module, args: (args[0] + adapter(args[0]).detach(),))
    return lambda: trained(adapter)


def adapter_in_a_closure(model, tower):
    adapter = nn.Linear(32, 32)
    extra(tower, lambda self, x: x + adapter(x).detach())
    return lambda: trained(adapter)


def plain_attribute(model, tower):
    layer = extra(tower, lambda self, x: x * self.scale, scale=1.0)
    return lambda: setattr(layer, "scale", 0.5)


def attribute_of_an_object(model, tower):
    settings = SimpleNamespace(scale=1.0)
    extra(tower, lambda self, x: x * self.settings.scale, settings=settings)
    return lambda: setattr(settings, "scale", 0.5)


def module_in_a_list(model, tower):
    layer = extra(tower, lambda self, x: x + self.more[0](x), more=[linear()])
    return lambda: trained(layer.more[0])


def tensor_in_a_dict(model, tower):
    layer = extra(tower, lambda self, x: x * self.more["scale"], more={"scale": torch.ones(32)})
    return lambda: layer.more["scale"].fill_(0.5)


def function_replaced(model, tower):
    layer = extra(tower, lambda self, x: x)
    return lambda: setattr(layer, "change", lambda self, x: x * 0.5)


def tensor_shared_by_two_modules(model, tower):
    one, other = linear(), linear()
    layer = extra(tower, lambda self, x: self.one(x) - 0.5 * self.other(x), one=one, other=other)

    def swapped():
        with torch.no_grad():
            one.weight.mul_(2.0)
        layer.one, layer.other = other, one

    return swapped


class Coded(torch.Tensor):
    """Weights of a kind of their own, as quantised ones are."""


def weights_of_a_kind_of_their_own(model, tower):
    layer = linear()
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Coded), requires_grad=False)
    extra(tower, lambda self, x: x + self.more(x).as_subclass(torch.Tensor), more=layer)
    return lambda: layer.weight.data.mul_(2.0)


KEEPING = [
    prompt_before_the_model, prompt_before_the_tower, adapter_behind_the_tower, plain_attribute, attribute_of_an_object,
    module_in_a_list, tensor_in_a_dict, function_replaced, tensor_shared_by_two_modules,
]  # fmt: skip
"""What is known, so that answers are remembered until it changes."""
UNKNOWN = {
    adapter_in_a_hook: "a hook works on its",
    adapter_in_a_pre_hook: "a hook works on its",
    adapter_in_a_closure: "a tensor in it is trained",
    weights_of_a_kind_of_their_own: "the bits of a Coded cannot be looked at",
}
"""What cannot be known, and what is said of it."""


@pytest.mark.parametrize("kind", [*KEEPING, *UNKNOWN])
def test_what_a_tower_depends_on_counts_wherever_it_is_held(kind, folder, counted, caplog):
    caplog.set_level("INFO")
    model, processor, tower = frozen("llava")
    change = kind(model, tower)
    evaluator = RadarEvaluator(model, processor, folder, scorer="reference")
    first = scores(evaluator)
    calls = counted(tower)
    assert scores(evaluator) == first
    again = len(calls)
    assert (again == 1) == (kind in KEEPING), "one is asked again where answers are remembered, else all"
    change()
    changed = scores(evaluator)
    assert changed == scores(RadarEvaluator(model, processor, folder, scorer="reference", feature_bytes=0))
    assert changed != first
    assert caplog.text.count("is not remembered between evaluations") == (kind in UNKNOWN)
    assert UNKNOWN.get(kind, "") in caplog.text


def test_the_same_images_in_another_order_are_another_question(folder):
    model, processor, _ = frozen("llava")
    turned = []

    def turn(module, args, kwargs):
        pixels = kwargs.get("pixel_values")
        return args, kwargs | {"pixel_values": pixels.flip(0)} if turned and pixels is not None else kwargs

    model.register_forward_pre_hook(turn, with_kwargs=True)
    evaluator = RadarEvaluator(model, processor, folder, scorer="reference")
    first = scores(evaluator)
    turned.append(True)
    changed = scores(evaluator)
    assert changed == scores(RadarEvaluator(model, processor, folder, scorer="reference", feature_bytes=0)) != first
    turned.clear()
    assert scores(evaluator) == first


def test_one_frozen_adapter_after_another_counts(folder, counted):
    peft = pytest.importorskip("peft")
    model, processor, tower = frozen("llava")
    config = peft.LoraConfig(r=4, target_modules=r".*vision_tower.*(q_proj|v_proj|fc1)", init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    adapted.add_adapter("second", config)
    evaluator = RadarEvaluator(adapted, processor, folder, scorer="packed")
    found = {}
    for name in ("default", "second", "default"):
        adapted.set_adapter(name)
        adapted.requires_grad_(False)
        got = scores(evaluator)
        assert got == scores(RadarEvaluator(adapted, processor, folder, scorer="packed", feature_bytes=0))
        assert found.setdefault(name, got) == got
    assert found["default"] != found["second"]
    calls = counted(tower)
    assert scores(evaluator) == found["default"]
    assert len(calls) == 1
    with adapted.disable_adapter():
        got = scores(evaluator)
        assert got == scores(RadarEvaluator(adapted, processor, folder, scorer="packed", feature_bytes=0))
    assert got not in found.values()


HIDDEN = {"scale": 1.0}
"""Where no fingerprint looks."""


def test_a_change_that_cannot_be_seen_is_found_by_asking_and_ends_it(folder, counted, caplog, monkeypatch):
    model, processor, tower = frozen("llava")
    extra(tower, lambda self, x: x * HIDDEN["scale"])
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed")
    first = scores(evaluator)
    assert scores(evaluator) == first
    monkeypatch.setitem(HIDDEN, "scale", 0.5)
    calls = counted(tower)
    changed = scores(evaluator)
    whole = len(calls)
    assert changed == scores(RadarEvaluator(model, processor, folder, scorer="packed", feature_bytes=0)) != first
    del calls[:]
    assert scores(evaluator) == changed
    assert len(calls) == whole > 1, "it is asked everything from then on"
    monkeypatch.setitem(HIDDEN, "scale", 1.0)
    assert scores(evaluator) == first
    assert caplog.text.count("it says something else about the same images now") == 1


def test_remembering_ends_where_nothing_is_ever_asked_again(folder, caplog):
    """A prompt before the tower that is trained: other pixels at every evaluation."""
    model, processor, _ = frozen("llava")
    prompt = torch.zeros(1, 3, 1, 1)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            (args, kwargs | {"pixel_values": kwargs["pixel_values"] + prompt})
            if kwargs.get("pixel_values") is not None
            else None
        ),
        with_kwargs=True,
    )
    evaluator = RadarEvaluator(model, processor, folder, scorer="packed")
    with caplog.at_level("INFO"):
        for _ in range(7):
            scores(evaluator)
            prompt += 0.1
    assert caplog.text.count("nothing could be used again in five evaluations") == 1
    assert evaluator._features._room == 0
