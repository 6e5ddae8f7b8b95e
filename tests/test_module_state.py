"""Modules that leave something behind in every way a forward can: after an evaluation nothing of it is there."""

import dataclasses
import logging
import random
import threading
import types
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from radar_callback.module_state import ModuleState
from radar_callback.untouched import untouched


@dataclasses.dataclass
class Cache:
    length: int = 0
    values: list = dataclasses.field(default_factory=list)
    table: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(2))


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    entries: dict = dataclasses.field(default_factory=dict)


class Plain:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 1


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("b", torch.arange(4.0))
        self.register_buffer("passing", torch.arange(3.0), persistent=False)
        self.count, self.kept, self.text = 0, None, "a"
        self.items, self.table, self.names = [1], {"x": [1]}, {1, 2}
        self.queue, self.tally = deque([1, 2], maxlen=2), Counter("aab")
        self.ordered, self.default = OrderedDict(a=1, b=2), defaultdict(list, a=[1])
        self.cache, self.slotted, self.space = Cache(), Slotted(), types.SimpleNamespace(n=1)
        self.own, self.pair = Plain(), ([1], 2)
        self.plain, self.array = torch.zeros(3), np.zeros(3)
        self.generator = torch.Generator().manual_seed(3)
        self.python, self.rng, self.old_rng = random.Random(3), np.random.default_rng(3), np.random.RandomState(3)
        self.hidden = [nn.BatchNorm1d(2)]

    def forward(self, x):
        return x


def count(m):
    m.count += 1


def new_attribute(m):
    m.seen = 1


def deleted_attribute(m):
    del m.text


def tensor_kept(m):
    m.kept = torch.ones(2)


def appended(m):
    m.items.append(2)


def emptied(m):
    m.items.clear()
    m.names.clear()


def nested(m):
    m.table["x"].append(2)
    m.table["y"] = []
    m.pair[0].append(3)


def pushed(m):
    m.queue.append(3)


def counted(m):
    m.tally.update("abc")
    m.default["b"].append(1)
    m.default["a"].append(2)


def order_changed(m):
    m.ordered.move_to_end("a")


def objects(m):
    m.cache.length = 9
    m.cache.values.append(1)
    m.cache.table += 1
    m.cache.extra = 1
    m.slotted.entries[1] = 2
    m.space.n = 2
    m.own.n = 2


def object_replaced(m):
    m.cache = Cache(length=5)


def buffer_written(m):
    m.b += 1


def buffer_written_without_a_trace(m):
    m.b.data.add_(1)


def buffer_assigned(m):
    m.b = m.b + 1


def buffer_registered_anew(m):
    m.register_buffer("b", torch.ones(7))


def buffer_made_persistent(m):
    m.register_buffer("passing", torch.ones(3), persistent=True)


def buffer_added(m):
    m.register_buffer("new", torch.ones(2), persistent=False)


def buffer_removed(m):
    del m.b


def buffer_unset(m):
    m.b = None


def buffer_resized(m):
    m.b.resize_(9).fill_(5)


def buffer_data_swapped(m):
    m.b.data = torch.ones(2, dtype=torch.float64)


def tensor_written(m):
    m.plain += 1


def tensor_data_swapped(m):
    m.plain.data = torch.ones(9)


def array_written(m):
    m.array += 1


def generators_drawn_from(m):
    torch.rand(2, generator=m.generator)
    m.python.random()
    m.rng.random()
    m.old_rng.rand()


def parameter_replaced(m):
    m.linear.weight = nn.Parameter(torch.ones(2, 2))


def parameter_data_swapped(m):
    m.linear.weight.data = nn.functional.normalize(m.linear.weight.data) * 3


def small_parameter_clamped(m):
    m.scale.data.clamp_(max=1)


def frozen(m):
    m.linear.weight.requires_grad_(False)
    m.scale.requires_grad = False


def gradient_dropped(m):
    m.linear.weight.grad = None


def module_added(m):
    m.extra = nn.Linear(2, 2)


def module_replaced(m):
    m.linear = nn.Linear(3, 3)


def hooked(m):
    m.register_forward_hook(lambda *args: None)
    m.linear.register_forward_pre_hook(lambda *args, **kwargs: None, with_kwargs=True)
    m.linear.register_forward_hook(lambda *args: None, always_call=True)
    m.register_full_backward_hook(lambda *args: None)
    m.linear.weight.register_hook(lambda g: g * 0)


def forward_replaced(m):
    m.linear.forward = lambda x: x


def flag_set(m):
    m.linear.train()


def hidden_module(m):
    m.hidden[0].running_mean += 1
    m.hidden[0].calls = 1
    m.hidden.append(nn.Linear(2, 2))


WAYS = [
    count, new_attribute, deleted_attribute, tensor_kept, appended, emptied, nested, pushed, counted, order_changed, objects,
    object_replaced, buffer_written, buffer_written_without_a_trace, buffer_assigned, buffer_registered_anew,
    buffer_made_persistent, buffer_added, buffer_removed, buffer_unset, buffer_resized, buffer_data_swapped, tensor_written,
    tensor_data_swapped, array_written, generators_drawn_from, parameter_replaced, parameter_data_swapped,
    small_parameter_clamped, frozen, gradient_dropped, module_added, module_replaced, hooked, forward_replaced, flag_set,
    hidden_module,
]  # fmt: skip


def described(value, seen=()):
    """Everything that hangs on a value: identities and values."""
    if any(value is one for one in seen):
        return "again"
    seen = (*seen, value)
    inside = lambda one: described(one, seen)  # noqa: E731
    if isinstance(value, torch.Tensor):
        hooks = list(value._backward_hooks or ()) if value.is_leaf else []
        return (id(value), tuple(value.shape), value.dtype, value.tolist(), value.requires_grad,
                id(value.grad), hooks)  # fmt: skip
    if isinstance(value, np.ndarray):
        return id(value), value.tolist()
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().tolist()
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    if isinstance(value, np.random.Generator):
        return id(value), repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return id(value), repr(value.get_state())
    if isinstance(value, dict):
        return id(value), [(name, inside(one)) for name, one in value.items()]
    if isinstance(value, list | tuple | deque | set):
        return id(value), [inside(one) for one in value]
    if dataclasses.is_dataclass(value) and hasattr(value, "__slots__"):
        return id(value), [inside(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, Plain):
        return id(value), value.n
    if (hasattr(value, "__dict__") and not callable(value)) or isinstance(value, nn.Module):
        return id(value), inside(vars(value))
    return id(value) if callable(value) else repr(value)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_a_forward_leaves_behind_is_put_back(way, fails):
    model = nn.Sequential(Module(), nn.Dropout())
    model[0].linear.weight.grad = torch.ones(2, 2)
    model.forward = lambda x, own=way: own(model[0])
    before, state = described(model), {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with untouched(model):
            model(torch.ones(1, 2))
            changed = described(model)
            if fails:
                raise RuntimeError("half way")
    except RuntimeError:
        assert fails
    assert changed != before, "the way should change something"
    assert described(model) == before
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_autograd_has_saved_of_a_buffer_is_still_good():
    """A loop that evaluates between a forward and its backward."""
    model = Module()
    x = torch.ones(4, requires_grad=True)
    loss = (x * model.b).sum()
    with untouched(model):
        model.b += 1
    loss.backward()
    assert x.grad.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_large_tensor_written_in_place_is_said_once(caplog):
    model = nn.Linear(2, 2)
    model.memory = torch.zeros(300_000)
    with caplog.at_level(logging.WARNING, "radar_callback"):
        for _ in range(2):
            with untouched(model):
                model.memory += 1
    assert len([one for one in caplog.records if "Linear.memory" in one.getMessage()]) == 1
    assert model.memory[0] == 2, "it is what it is"


def test_objects_of_a_machinery_are_left_alone():
    class Loader:
        def __init__(self):
            self.lock, self.at = threading.Lock(), 0

    model = nn.Linear(2, 2)
    model.loader = Loader()
    with untouched(model):
        model.loader.at = 5
    assert model.loader.at == 5, "another thread may have done it"


def test_a_lazy_module_that_was_made_whole_stays_whole():
    model = nn.Sequential(nn.LazyLinear(3))
    with untouched(model):
        model(torch.ones(1, 2))
    assert type(model[0]) is nn.Linear and model(torch.ones(1, 2)).shape == (1, 3)


class Opaque(torch.Tensor):
    """As a quantised weight: it knows nothing but what its own layer needs."""

    @staticmethod
    def __new__(cls, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

    def __repr__(self):
        return "Opaque"

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        if op is torch.ops.aten.detach.default:
            return cls(args[0].shape)
        raise NotImplementedError(f"Opaque does not know {op}")


def odd_tensors():
    with torch.inference_mode():
        inside = torch.arange(3.0)
    return {
        "inference": inside, "opaque": Opaque((2, 2)), "meta": torch.empty(2, device="meta"), "complex": torch.ones(2) * 1j,
        "int8": torch.ones(2, dtype=torch.int8), "empty": torch.empty(0, 3), "expanded": torch.ones(1).expand(4),
        "sparse": torch.eye(2).to_sparse(), "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", odd_tensors())
@pytest.mark.parametrize("place", ["buffer", "parameter", "attribute"])
def test_no_kind_of_tensor_is_in_the_way(kind, place, caplog):
    model, tensor = nn.Linear(2, 2), odd_tensors()[kind]
    if place == "buffer":
        model.register_buffer("x", tensor)
    elif place == "parameter":
        model.x = nn.Parameter(tensor, requires_grad=False)
    else:
        model.x = tensor
    kept = model.x
    with caplog.at_level(logging.WARNING, "radar_callback"), untouched(model):
        model.y = 1
    assert model.x is kept and not hasattr(model, "y")
    assert caplog.records == []


def test_an_inference_tensor_is_put_back_too():
    model = nn.Linear(2, 2)
    with torch.inference_mode():
        model.register_buffer("x", torch.arange(3.0))
    with untouched(model), torch.inference_mode():
        model.x += 1
    assert model.x.tolist() == [0.0, 1.0, 2.0]


def test_positions_that_grow_with_the_text_are_as_before():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaModel

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    model = LlamaModel(LlamaConfig(**sizes, max_position_embeddings=8, rope_parameters=rope))
    long, short = torch.zeros(1, 20, dtype=torch.long), torch.zeros(1, 12, dtype=torch.long)
    model(short)  # beyond 8 already
    before = {name: value.tolist() for name, value in model.named_buffers()}
    kept, configuration = model.rotary_emb.max_seq_len_cached, model.config.to_dict()
    for ids in (long, short[:, :4]):  # grows; falls back to the original
        with untouched(model):
            model(ids)
            assert model.rotary_emb.max_seq_len_cached != kept
        assert model.rotary_emb.max_seq_len_cached == kept == 12
        assert {name: value.tolist() for name, value in model.named_buffers()} == before
        assert model.config.to_dict() == configuration


def test_a_wrapper_keeps_what_it_writes_into_itself():
    class DistributedDataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.forwards = Module(), 0

    model = DistributedDataParallel()
    with untouched(model):
        model.forwards = 1
        model.module.count = 1
    assert (model.forwards, model.module.count) == (1, 0)


def test_a_state_can_be_restored_twice():
    model = Module()
    state = ModuleState([model])
    for _ in range(2):
        model.items.append(1)
        model.b += 1
        assert state.restore() == []
        assert model.items == [1] and model.b.tolist() == [0.0, 1.0, 2.0, 3.0]
