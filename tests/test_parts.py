"""How far the parts of a model moved."""

import copy

import pytest
import torch

from radar_callback.parts import Parts, part_of
from radar_callback.ranks import Ranks
from radar_callback.scoring.scorer import a_parameter
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.test_module_state import Opaque

ALONE = Ranks(torch.device("cpu"))


def step(model, but=(), size=0.01, decay=0.0):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 - decay)
            if part_of(name) not in but:
                scale = size * parameter.norm() / parameter.numel() ** 0.5
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def test_a_part_that_is_frozen_has_not_moved_and_the_others_have_by_as_much_as_they_did():
    model, parts = tiny.llava(), Parts()
    assert parts.moved(model, ALONE) == {}
    step(model, but={"multi_modal_projector"})
    moved = parts.moved(model, ALONE)
    assert set(moved) == {"vision_tower", "multi_modal_projector", "language_model", "lm_head"}
    assert moved.pop("multi_modal_projector") == 0.0
    assert all(value == pytest.approx(0.01, rel=0.1) for value in moved.values()), moved
    assert parts.moved(model, ALONE) == dict.fromkeys([*moved, "multi_modal_projector"], 0.0), "since the last look"


def test_weight_decay_alone_is_no_movement():
    model, parts = tiny.llava(), Parts()
    parts.moved(model, ALONE)
    step(model, but={"vision_tower"}, decay=0.05)
    moved = parts.moved(model, ALONE)
    assert moved["vision_tower"] < 1e-4 < 5e-3 < moved["language_model"]


def test_a_sample_is_enough():
    model = torch.nn.Sequential(torch.nn.Linear(400, 400))
    other, parts = copy.deepcopy(model), Parts()
    step(other, size=0.03)
    parts.moved(model, ALONE)
    model.load_state_dict(other.state_dict())
    assert parts.moved(model, ALONE)["0"] == pytest.approx(0.03, rel=0.05)


def test_another_model_begins_anew():
    parts = Parts()
    parts.moved(tiny.llava(), ALONE)
    assert parts.moved(torch.nn.Linear(2, 2), ALONE) == {}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_connector_apart_from_tower_and_language_model(name):
    model, _ = FAMILIES[name]()
    found = {part_of(parameter) for parameter, _ in model.named_parameters()}
    assert len(found) >= 3, found
    assert any("lang" in part or part in ("text_model", "model", "layers") for part in found), found


def test_weights_that_show_no_numbers_are_left_out_and_said_once(caplog):
    model, parts = odd_model(), Parts()
    with caplog.at_level("INFO", "radar_callback"):
        parts.moved(model, ALONE)
        model.whole.weight.data[0] += 1
        model.mixed.weight.data *= torch.tensor([[1.0, 2.0]])
        moved = parts.moved(model, ALONE)
    assert moved.keys() == {"whole", "mixed", "inference", "complex"}
    assert moved["whole"] > 0 and moved["mixed"] == pytest.approx(0.5)
    assert moved["inference"] == moved["complex"] == 0
    (said,) = [one.getMessage() for one in caplog.records]
    assert "4 weights (such as opaque) are of a kind whose movement is not measured" in said


def odd_model():
    model = torch.nn.Module()
    model.whole = torch.nn.Linear(2, 2)
    model.mixed = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(model.mixed.weight)
    model.mixed.codes = torch.nn.Parameter(torch.full((9,), 100, dtype=torch.uint8), requires_grad=False)
    with torch.inference_mode():
        model.inference = torch.nn.Parameter(torch.ones(2))
    model.opaque = torch.nn.Parameter(Opaque((2, 2)), requires_grad=False)
    model.complex = torch.nn.Parameter(torch.ones(2) * 1j)
    model.nowhere = torch.nn.Parameter(torch.empty(2, device="meta"))
    model.codes = torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    model.empty = torch.nn.Parameter(torch.empty(0))
    return model


@pytest.mark.parametrize("kind", ["none", "codes", "meta first"])
def test_a_model_says_where_it_lies_whatever_its_weights_are(kind):
    model = torch.nn.Module()
    if kind != "none":
        model.first = torch.nn.Parameter(torch.empty(2, device="meta"), requires_grad=False)
        model.codes = torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    if kind == "meta first":
        model.last = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    found = a_parameter(model)
    assert found.device.type == "cpu" and found.dtype == (torch.bfloat16 if kind == "meta first" else torch.float32)
