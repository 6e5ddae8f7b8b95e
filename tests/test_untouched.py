"""Everything an evaluation could change is put back, after an exception too."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from radar_callback.untouched import untouched


class Moving(nn.Module):
    """Moves a buffer and leaves an attribute behind in every forward, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.rope_deltas = None

    def forward(self, x):
        self.seen += 1
        self.rope_deltas = x
        return x


def draw():
    return random.random(), np.random.rand(), torch.rand(2).tolist()


def make_model():
    return nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), Moving(), nn.Sequential(nn.Dropout()).eval())


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails):
    model = make_model()
    flags = [m.training for m in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    try:
        with untouched(model):
            assert not any(m.training for m in model.modules())
            assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            draw()
            model(torch.ones(4, 3))
            if fails:
                raise RuntimeError("half way")
    except RuntimeError:
        assert fails
    assert draw() == expected
    assert [m.training for m in model.modules()] == flags
    assert flags.count(False) == 2, "the frozen part should be in the test"
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert model[2].rope_deltas is None
    assert torch.is_grad_enabled()


def test_grad_mode_is_put_back_where_it_was_off():
    with torch.no_grad(), untouched(make_model()):
        pass
    with torch.no_grad():
        with untouched(make_model()):
            pass
        assert not torch.is_grad_enabled()


def test_a_module_with_side_effects_in_eval_is_not_called():
    class Loud(nn.Module):
        def train(self, mode=True):
            raise AssertionError("flags should be set, train() not called")

    model = Loud()
    with untouched(model):
        assert not model.training
    assert model.training


def test_training_goes_on_after_tensors_were_cached_inside():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.kept = nn.Linear(2, 2), None

        def forward(self, x):
            if self.kept is None:
                self.kept = torch.ones(2)
            return self.linear(x * self.kept)

    model = Caching()
    with untouched(model):
        model(torch.ones(1, 2))
    model(torch.ones(1, 2)).sum().backward()
    assert model.linear.weight.grad is not None
