"""What modules keep between two forwards beside their weights, noted before an evaluation and put back after it.

A forward in evaluation mode may still write: a length seen, a buffer registered anew, a cache, a hook, the state of a generator.
Everything is noted by name and identity, and the contents of what can change in place by value, as far as it is small.
"""

from __future__ import annotations

import operator
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radar_callback.resharding import is_sharded, managed_by_fsdp1

COPIED_BYTES = 2**20
"""A plain tensor or array of up to so many bytes is copied; of a larger one only its identity and version are noted."""

COPIED_BYTES_IN_ALL = 2**26

COPIED_VALUES = 256
"""Parameters of up to so many values (a temperature, a scale) are copied."""

MAX_DEPTH = 5
MAX_ENTRIES = 4096
"""Larger containers are compared entry by entry, but what their entries hold is not looked into."""

MAX_OBJECTS = 200_000

_DICTS = (dict, OrderedDict, defaultdict, Counter)
_LISTS = (list, deque)
_CONTAINERS = {*_DICTS, *_LISTS, set}
_ATOMS = {
    int, float, complex, bool, str, bytes, type(None), type, types.FunctionType, types.MethodType, types.ModuleType,
    types.BuiltinFunctionType, torch.dtype, torch.device, torch.Size,
}  # fmt: skip

_OWN_STATE = {
    "accelerate", "apex", "bitsandbytes", "datasets", "deepspeed", "fairscale", "lightning", "lightning_fabric", "megatron",
    "mlflow", "numpy", "PIL", "pytorch_lightning", "tensorboard", "tokenizers", "torch", "torchao", "torchmetrics",
    "transformer_engine", "triton", "wandb",
}  # fmt: skip
"""Packages whose objects hold the state of a machinery (streams, handles, threads), half of which must not be put back."""

_THREADS = {"_thread", "asyncio", "concurrent", "multiprocessing", "queue", "threading"}
"""An object that holds something of these may be changed by others while an evaluation runs."""

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine", "LazyModuleMixin"}

_QUANTISED = {
    "accelerate",
    "apex",
    "bitsandbytes",
    "deepspeed",
    "fairscale",
    "megatron",
    "torchao",
    "transformer_engine",
}
"""Packages whose modules prepare their weights in their first forward, on the parameters too: all of it stays, or it breaks."""


class ModuleState:
    """Notes the state of modules, and of the plain objects that hang on them.

    Buffers are copied, as many of them are written in place without a trace (`.data`, a broadcast of buffers). Parameters are
    not, but for very small ones: noted is which tensor stands under which name, where its values lie, whether it wants
    gradients, and its hooks. Wrappers (DDP, FSDP, DeepSpeed), quantised and lazy layers keep what they write into
    themselves, LightningModules what they append to.

    Args:
        models: Roots; what they hold belongs to them.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.lengths = [3]
        >>> state = ModuleState([layer])
        >>> layer.lengths.append(4)
        >>> layer.seen = 1
        >>> state.restore()
        []
        >>> layer.lengths, hasattr(layer, "seen")
        ([3], False)
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._undo: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = []
        self._failed: list[str] = []
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # or an id could be used again
        self._copied = 0
        # Held by something else than a module's `_modules`, as a list: after all others, which know who shards their weights.
        self._hidden: list[tuple[nn.Module, str]] = [(model, "") for model in models]
        for model, where in self._hidden:
            self._model(model, where)

    def restore(self) -> list[str]:
        """Puts everything back.

        Returns:
            What has changed and could not be put back, by name.
        """
        self._failed = []
        with torch.no_grad():
            for undo, where, arguments in self._undo:
                try:
                    undo(*arguments)
                except Exception as error:
                    self._failed.append(f"{where} ({error})")
        return self._failed

    def _model(self, model: nn.Module, where: str) -> None:
        sharded = is_sharded(model)
        managed = managed_by_fsdp1(model)
        for name, module in model.named_modules(prefix=where):
            if self._new(module):
                self._module(module, name or type(module).__name__, sharded, managed)

    def _module(self, module: nn.Module, where: str, sharded: bool, managed: Mapping[int, set[str]]) -> None:
        for name, buffer in module._buffers.items():
            if buffer is not None and self._new(buffer):
                self._tensor(buffer, f"{where}.{name}", copied=True, may_move=id(module) not in managed)
        for parameter in module._parameters.values():
            if parameter is not None and self._new(parameter) and not sharded:
                self._parameter(parameter, where)
        if _keeps_its_own(type(module)):  # type: ignore[arg-type]
            return
        attributes = vars(module)
        left = {*managed.get(id(module), ()), "_parameters"} if sharded else set()
        self._later(_restore_attributes, where, attributes, dict(attributes), left)
        self._later(_restore_hooks, where, attributes, *_hooks(attributes))
        shallow = _is_lightning(type(module))  # type: ignore[arg-type]
        empty = []
        for name, value in attributes.items():
            kind = type(value)
            if kind in _ATOMS or name in left or name in _HOOKS or (shallow and not name.startswith("_")):
                continue
            if kind in _CONTAINERS and not value:  # most are, and must be afterwards
                empty.append(value)
            elif name in _OF_ALL_MODULES:
                self._container(value, where, depth=MAX_DEPTH)
            else:
                self._value(value, f"{where}.{name}", depth=0)
        if empty:
            self._later(_empty_again, where, empty)

    def _value(self, value: Any, where: str, depth: int) -> None:
        """Notes what can change within a value."""
        kind = type(value)
        if kind in _ATOMS or len(self._alive) > MAX_OBJECTS or not self._new(value):
            return
        if isinstance(value, nn.Module):
            self._seen.discard(id(value))
            self._hidden.append((value, where))
        elif isinstance(value, nn.Parameter):  # of one of the modules
            self._seen.discard(id(value))
        elif isinstance(value, Tensor):
            small = value.numel() * value.element_size() <= COPIED_BYTES and self._copied <= COPIED_BYTES_IN_ALL
            self._tensor(value, where, copied=small, may_move=True)
        elif kind in _DICTS or kind in _LISTS or kind in (set, tuple):
            self._container(value, where, depth)
        elif kind is np.ndarray:
            if value.nbytes <= COPIED_BYTES and value.flags.writeable and not value.dtype.hasobject:
                self._later(np.copyto, where, value, value.copy())
        elif isinstance(value, torch.Generator):
            self._later(value.set_state, where, value.get_state())
        elif isinstance(value, random.Random):
            self._later(value.setstate, where, value.getstate())
        elif isinstance(value, np.random.Generator):
            self._later(setattr, where, value.bit_generator, "state", value.bit_generator.state)
        elif isinstance(value, np.random.RandomState):
            self._later(value.set_state, where, value.get_state())
        elif depth < MAX_DEPTH and _is_plain(kind):
            self._object(value, where, depth)

    def _container(self, value: Any, where: str, depth: int) -> None:
        if type(value) in _DICTS:
            self._later(_restore_dict, where, value, dict(value))
            inner = list(value.values())
        else:
            inner = list(value)
            if type(value) is set:
                self._later(_restore_set, where, value, set(value))
            elif type(value) in _LISTS:
                self._later(_restore_list, where, value, inner)
        if depth < MAX_DEPTH and len(inner) <= MAX_ENTRIES:
            for one in inner:
                self._value(one, where, depth + 1)

    def _object(self, value: Any, where: str, depth: int) -> None:
        slots = _slots(value)
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict and any(_root(type(one).__module__) in _THREADS for one in attributes.values()):
            return
        if slots:
            self._later(_restore_slots, where, value, slots)
        if type(attributes) is dict:
            self._later(_restore_dict, where, attributes, dict(attributes))
            slots = {**attributes, **slots}
        for name, one in slots.items():
            self._value(one, f"{where}.{name}", depth + 1)

    def _parameter(self, parameter: nn.Parameter, where: str) -> None:
        if type(parameter) is not nn.Parameter or parameter.is_inference():
            return
        self._tensor(parameter, where, copied=parameter.numel() <= COPIED_VALUES, may_move=True)
        hooks = parameter._backward_hooks
        noted = (parameter.requires_grad, parameter.grad, None if hooks is None else dict(hooks))
        self._later(_restore_parameter, where, parameter, *noted)

    def _tensor(self, tensor: Tensor, where: str, copied: bool, may_move: bool) -> None:
        try:
            place = tensor.data
            copy = place.clone() if copied else None
            version = None if tensor.is_inference() else tensor._version
            # What other processes write into shared memory is not an evaluation's doing.
            on_cpu = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
            unseen = not (on_cpu and tensor.layout == torch.strided and tensor.is_shared())
        except Exception:  # a subclass that knows neither: its identity is all that can be noted
            return
        if copy is not None:
            self._copied += copy.numel() * copy.element_size()
        self._later(_restore_tensor, where, tensor, place, copy, version, unseen, may_move)

    def _later(self, undo: Callable[..., Any], where: str, *arguments: Any) -> None:
        self._undo.append((undo, where, arguments))

    def _new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        self._alive.append(value)
        return True


_HOOKS = {name for name in vars(nn.Module()) if "_hooks" in name}
_OF_ALL_MODULES = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}


def _hooks(attributes: dict[str, Any]) -> tuple[dict[str, dict[Any, Any]], list[str]]:
    """Copies of a module's hooks by the attribute that holds them, and the attributes that hold none."""
    held = [(name, attributes[name]) for name in _HOOKS if type(attributes.get(name)) in _DICTS]
    return {name: dict(hooks) for name, hooks in held if hooks}, [name for name, hooks in held if not hooks]


def _restore_attributes(attributes: dict[str, Any], saved: dict[str, Any], left: Collection[str]) -> None:
    if left:
        kept = {name: attributes[name] for name in left if name in attributes}
        saved = {**{name: value for name, value in saved.items() if name not in left}, **kept}
    _restore_dict(attributes, saved)


def _restore_hooks(attributes: dict[str, Any], filled: dict[str, dict[Any, Any]], empty: Collection[str]) -> None:
    before = {**filled, **{name: {} for name in empty if attributes.get(name)}}
    added = [
        hook
        for name, hooks in before.items()
        for key, hook in attributes[name].items()
        if key not in hooks and hook is not True
    ]
    # Sharding registers hooks when it is first used, and not again.
    if not any(_package(hook) in _OWN_STATE for hook in added):
        for name, hooks in before.items():
            _restore_dict(attributes[name], hooks)


def _package(hook: Any) -> str:
    inner = getattr(hook, "hook", hook)  # nn.Module wraps some
    inner = getattr(inner, "func", inner)  # a partial
    inner = getattr(inner, "__func__", inner)  # a method
    return _root(getattr(inner, "__module__", None) or type(inner).__module__)


def _restore_parameter(
    parameter: nn.Parameter, requires_grad: bool, gradient: Tensor | None, hooks: dict[int, Any] | None
) -> None:
    if parameter.requires_grad != requires_grad:
        parameter.requires_grad_(requires_grad)
    if parameter.grad is not gradient:
        parameter.grad = gradient
    current = parameter._backward_hooks
    if current is not None:
        _restore_dict(current, hooks or {})


def _restore_tensor(
    tensor: Tensor, place: Tensor, copy: Tensor | None, version: int | None, unseen: bool, may_move: bool
) -> None:
    moved = may_move and not _same_place(tensor, place)
    if moved:
        tensor.data = place
    touched = version is not None and tensor._version != version
    if copy is None:
        if touched and not isinstance(tensor, nn.Parameter):
            raise RuntimeError("changed in place, and too large to be copied")
        return
    if touched or unseen:
        _write(place if may_move else tensor.data, copy)
    if version is not None and touched and not moved:
        # Its values are those of that version again: what autograd has saved of it is still true.
        torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def _empty_again(containers: Iterable[Any]) -> None:
    for one in containers:
        if one:
            one.clear()


def _restore_dict(live: dict[Any, Any], saved: dict[Any, Any]) -> None:
    same = len(live) == len(saved) and list(live) == list(saved)
    if not same or not all(map(operator.is_, live.values(), saved.values())):
        live.clear()
        for key, value in saved.items():  # a Counter's update would add
            live[key] = value


def _restore_list(live: Any, saved: list[Any]) -> None:
    if len(live) != len(saved) or not all(map(operator.is_, live, saved)):
        live.clear()
        live.extend(saved)


def _restore_set(live: set[Any], saved: set[Any]) -> None:
    if live != saved:
        live.clear()
        live.update(saved)


def _restore_slots(value: Any, saved: dict[str, Any]) -> None:
    for name, one in saved.items():
        if getattr(value, name, None) is not one:
            object.__setattr__(value, name, one)  # frozen dataclasses too


def _slots(value: Any) -> dict[str, Any]:
    names = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    return {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _same_place(tensor: Tensor, place: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        return True
    now = tensor.data
    return (now.data_ptr(), now.shape, now.stride(), now.dtype, now.device) == (
        place.data_ptr(), place.shape, place.stride(), place.dtype, place.device,
    )  # fmt: skip


def _write(place: Tensor, copy: Tensor) -> None:
    try:
        if place.is_inference():
            with torch.inference_mode():
                place.copy_(copy)
        else:
            place.copy_(copy)
    except RuntimeError:  # entries that share their memory cannot be written all
        if not torch.equal(place, copy):
            raise


@lru_cache(maxsize=4096)
def _keeps_its_own(kind: type) -> bool:
    kinds = [one for one in kind.__mro__ if one.__name__ != "FSDPModule"]
    # `fully_shard` puts a class of its own before the module's.
    own = kinds[1] if len(kinds) < len(kind.__mro__) else kinds[0]
    return any(one.__name__ in _WRAPPERS for one in kinds) or _root(own.__module__) in _QUANTISED


@lru_cache(maxsize=4096)
def _is_lightning(kind: type) -> bool:
    return any(one.__name__ == "LightningModule" for one in kind.__mro__)


def _is_plain(kind: type) -> bool:
    """Whether an object of this class is data, as a dataclass or a configuration is, and not a part of some machinery."""
    root = _root(kind.__module__)
    return kind is types.SimpleNamespace or (root not in _OWN_STATE and root not in sys.stdlib_module_names)


def _root(module: str) -> str:
    return module.partition(".")[0]
