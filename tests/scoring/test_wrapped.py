"""Wrappers around a model stay in charge of it: the engine only calls what is outermost, and gets the fast way through all."""

import copy
import logging

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from radar_callback import RadarCallback, RadarEvaluator
from radar_callback.errors import ConfigError
from radar_callback.scoring.scorer import needs_every_rank, unwrapped
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.helpers.training import PreTraining


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=16)


def fresh(name):
    model, processor = FAMILIES[name]()
    return copy.deepcopy(model), processor


def scores(model, processor, folder, **settings):
    result = RadarEvaluator(model, processor, folder, **settings).evaluate(per_sample=True)
    assert result.coverage == 1
    return result.scorer, {item.key: item.mean_logits for item in result.items}


def assert_same(got, wanted, tolerance=1e-5):
    assert got.keys() == wanted.keys()
    for key, values in got.items():
        assert values == pytest.approx(wanted[key], abs=tolerance)


class Counting:
    """A compiler that compiles nothing and counts what it was asked for."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_compiled_model_is_scored_without_being_compiled_for_it(name, in_place, folder):
    model, processor = fresh(name)
    _, wanted = scores(model, processor, folder)
    torch._dynamo.reset()
    counting = Counting()
    if in_place:
        compiled = model
        model.compile(backend=counting)
    else:
        compiled = torch.compile(model, backend=counting)
    text = torch.randint(5, 300, (2, 12))
    compiled(input_ids=text, attention_mask=torch.ones_like(text))
    trained = counting.graphs
    assert trained > 0
    way, got = scores(compiled, processor, folder)
    assert way == "packed"
    assert_same(got, wanted)
    assert counting.graphs == trained, "an evaluation compiled something"
    compiled(input_ids=text, attention_mask=torch.ones_like(text))
    assert counting.graphs == trained, "training was compiled again after an evaluation"
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_adapters_count_and_hide_nothing(name, folder):
    peft = pytest.importorskip("peft")
    model, processor = fresh(name)
    _, bare = scores(model, processor, folder)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config).eval()
    assert type(unwrapped(wrapped)).__name__.endswith("ForConditionalGeneration")
    way, got = scores(wrapped, processor, folder)
    assert way == "packed"
    _, slow = scores(wrapped, processor, folder, scorer="reference")
    assert_same(got, slow)
    assert max(abs(a - b) for key in got for a, b in zip(got[key], bare[key], strict=True)) > 1e-2
    # Merged into the weights they say the same: the wrapper had them in every forward.
    merged = wrapped.merge_and_unload().eval()
    assert_same(scores(merged, processor, folder)[1], got, 1e-4)


class DataParallel(nn.Module):
    """Called what PyTorch's wrapper is called, as those of other libraries are."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        CALLS.append(1)  # not on itself: that would be put back
        return self.module(*args, **kwargs)


CALLS: list[int] = []


class Inherits(DataParallel):
    """A wrapper by what it inherits."""


@pytest.mark.parametrize("kind", [DataParallel, Inherits])
def test_a_wrapper_is_looked_into_and_called(kind, folder):
    CALLS.clear()
    model, processor = fresh("llava")
    wrapper = kind(model)
    way, got = scores(wrapper, processor, folder)
    assert way == "packed" and CALLS
    assert_same(got, scores(model, processor, folder)[1], 0)
    assert not needs_every_rank(wrapper)


HELD = ["vlm", "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


def adapter(inner, name, config=None):
    """A module of somebody's own, that calls what it holds as wrappers do, and takes images under another name."""

    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            setattr(self, name, inner)

        def forward(self, input_ids, attention_mask, pixel_values=None):
            return getattr(self, name)(input_ids, attention_mask, pictures=pixel_values)

    return Adapter()


@pytest.mark.parametrize("name", HELD)
def test_a_module_of_ones_own_is_what_is_asked_whatever_it_calls_what_it_holds(name, folder):
    model, processor = fresh("llava")
    _, wanted = scores(model, processor, folder, scorer="reference")

    class Inner(nn.Module):
        """Has neither a configuration nor the names of the engine's inputs; `position_ids` would not be what they say."""

        def __init__(self):
            super().__init__()
            self.inside = model

        def forward(self, ids, mask, pictures=None, position_ids=None):
            assert position_ids is None
            return self.inside(input_ids=ids, attention_mask=mask, pixel_values=pictures)

    outer = adapter(Inner(), name, model.config)
    assert unwrapped(outer) is outer
    way, got = scores(outer, processor, folder)
    assert way == "reference"
    assert_same(got, wanted)


def test_a_module_of_ones_own_that_has_a_base_model_is_not_taken_for_adapters():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Linear(2, 2)

        def get_base_model(self):
            return self.part

    own = Own()
    assert unwrapped(own) is own
    assert unwrapped(DataParallel(own)) is own
    assert unwrapped(torch.optim.swa_utils.AveragedModel(own)).part.weight.shape == (2, 2)


def test_a_wrapper_nobody_knows_and_that_has_no_configuration_is_refused_by_name(folder):
    model, processor = fresh("llava")
    with pytest.raises(ConfigError, match="but got a Adapter: pass model=…; for a model of your own pass an adapter"):
        RadarEvaluator(adapter(model, "module"), processor, folder)


def fitted(root, folder, precision):
    class Known(PreTraining):
        """Of the same weights in every precision, and with nothing but the model."""

        def training_step(self, batch, index):
            return self.model(**batch, labels=batch["input_ids"]).loss

    torch.manual_seed(0)
    module = Known()
    module.model = tiny.llava().train()
    callback = RadarCallback(folder, every_n_steps=10, at_end=False)
    Trainer(
        max_steps=1, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=1, precision=precision,
    ).fit(module)  # fmt: skip
    assert callback.errors == 0
    return callback.records[0]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true"])
def test_lightnings_precisions(precision, folder, tmp_path, caplog):
    exact = fitted(tmp_path / "exact", folder, "32-true")
    with caplog.at_level(logging.INFO):
        rounded = fitted(tmp_path / "rounded", folder, precision)
    assert rounded["scorer"] == exact["scorer"] == "packed"
    assert "times its rounding" in caplog.text, "the check did not see half precision"
    differences = [
        abs(rounded["abilities"][name]["sds"] - exact["abilities"][name]["sds"]) for name in exact["abilities"]
    ]
    assert 0 < max(differences) < 0.05


@pytest.mark.parametrize("cached", [True, False])
def test_settings_of_a_model_are_left_as_found(cached, folder):
    model, processor = fresh("qwen2_vl")
    model.config.use_cache = model.config.get_text_config().use_cache = cached
    model.gradient_checkpointing_enable()
    model.train()
    inner = model.model
    inner.rope_deltas = marker = torch.tensor([[3]])
    before = {m: dict(vars(m)) for m in model.modules()}
    attention = model.config.get_text_config()._attn_implementation
    way, _ = scores(model, processor, folder)
    assert way == "packed" and model.config.get_text_config()._attn_implementation == attention
    assert model.config.use_cache is cached and model.is_gradient_checkpointing and model.training
    assert inner.rope_deltas is marker
    for module, attributes in before.items():
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
