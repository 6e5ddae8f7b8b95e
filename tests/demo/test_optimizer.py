import copy

import pytest
import torch

from radar_callback.demo.optimizer import MuonWithAdamW


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))


def step(model, optimizer):
    inputs = torch.linspace(-1, 1, 32).reshape(8, 4)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    return optimizer.step(closure).item()


def test_every_parameter_is_trained_once(model):
    optimizer = MuonWithAdamW(model, lr=0.01)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    before = [p.clone() for p in model.parameters()]
    step(model, optimizer)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_loss_falls(model):
    optimizer = MuonWithAdamW(model, lr=0.02)
    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < losses[0] / 5


def test_a_schedule_drives_both_parts(model):
    optimizer = MuonWithAdamW(model, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.0 if i else 1.0)
    step(model, optimizer)
    schedule.step()
    before = [p.clone() for p in model.parameters()]
    step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_its_state_can_be_saved_and_loaded(model):
    optimizer = MuonWithAdamW(model, lr=0.01)
    step(model, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    expected = [step(model, optimizer) for _ in range(3)]
    model.load_state_dict(weights)
    again = MuonWithAdamW(model, lr=0.01)
    again.load_state_dict(saved)
    assert [step(model, again) for _ in range(3)] == expected
