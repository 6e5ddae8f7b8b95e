"""What a module's answers depend on, as something that can be compared: bits of tensors, plain values, and where each stands.

Everything reachable from a module is walked through: its parameters and buffers, the plain attributes of every module in it (a
scale, the name of the active adapter, a tensor or a module that is in no list of PyTorch's), configurations, functions and what
they close over. Where something is met of which it cannot be known what it does, that is said instead.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import logging
import types
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST = 200_000
"""Values walked through at most: a module that refers to more refers to something that is no part of it."""

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    enum.Enum,
    np.generic,
)
_TENSORS = {Tensor, nn.Parameter}
_LIBRARIES = ("torch", "transformers", "peft", "builtins")
"""Whose classes are taken to be what they were when they were imported."""

_BOOKKEEPING = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook", "_is_hf_initialized",
    "_output_capturing_hooks_installed",
}  # fmt: skip
"""Attributes of modules that say nothing about what a forward does, or are looked at elsewhere."""


class UnknownError(Exception):
    """Something was met of which it cannot be known what an answer owes to it."""


def fingerprint(module: nn.Module, *more: Any) -> Hashable:
    """Describes all that a module's forward depends on.

    Args:
        module: Hooks on it, unlike those on modules inside it, are not looked at: they run outside its forward.
        more: Other values that count.

    Returns:
        Equal for equal dependencies, and another one as soon as a bit of them is.

    Raises:
        UnknownError: If that cannot be known: something in it is trained, a hook works in it, it holds a random generator.

    Example:
        >>> layer = nn.Linear(2, 2).requires_grad_(False)
        >>> before = fingerprint(layer)
        >>> layer.scale = 0.5
        >>> before == fingerprint(layer)
        False
    """
    # There is no other way to ask for them.
    everywhere = [getattr(nn.modules.module, name) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    if any(everywhere):
        raise UnknownError("hooks are set on all modules")
    walk = _Walk()
    walk.module(module, outermost=True)
    for value in more:
        walk.value(value)
    return walk.result()


def digest(*values: Any) -> Hashable:
    """Describes values that a function is given; see :func:`fingerprint`.

    Example:
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
        >>> digest(a, 3) == digest(a.clone(), 3), digest(a, 3) == digest(b, 3), digest(a, 3) == digest(a, 4)
        (True, False, False)
    """
    walk = _Walk()
    for value in values:
        walk.value(value)
    return walk.result()


class _Walk:
    """Walks through values and writes down what they are, depth first."""

    def __init__(self) -> None:
        self._found: list[Hashable] = []
        self._tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        """Numbers of objects that have been freed would be given to others."""

    def result(self) -> Hashable:
        return tuple(self._found), tuple(bits(self._tensors))

    def module(self, module: nn.Module, outermost: bool = False) -> None:
        if self._met(module):
            return
        own = vars(module)
        if not outermost:
            for hook in [*own["_forward_hooks"].values(), *own["_forward_pre_hooks"].values()]:
                # Those with which transformers collects hidden states change nothing.
                if not _of_library(getattr(hook, "__module__", None), "transformers"):
                    raise UnknownError(f"a hook works on its {type(module).__name__}")
        self._class(type(module))
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, value in own[kind].items():
                self._found.append((kind, name))
                self.value(value)
        for name, value in own.items():
            if name not in _BOOKKEEPING and not name.endswith(("_hooks", "_with_kwargs", "_always_called")):
                self._found.append(name)
                self.value(value)

    def value(self, value: Any) -> None:
        if len(self._found) > MOST:
            raise UnknownError("it refers to too much")
        if isinstance(value, _PLAIN):
            self._found.append((type(value), repr(value)))
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, nn.Module):
            self.module(value)
        elif isinstance(value, type):
            self._class(value)
        elif not self._met(value):
            self._container(value)

    def _met(self, value: Any) -> bool:
        """Whether a value has been walked through; else it counts as met from now on."""
        number = self._numbers.get(id(value))
        if number is not None:
            self._found.append(("as before", number))
            return True
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        return False

    def _tensor(self, value: Tensor) -> None:
        if value.requires_grad:
            raise UnknownError("a tensor in it is trained")
        if type(value) not in _TENSORS or value.layout != torch.strided or value.is_meta:
            raise UnknownError(f"the bits of a {type(value).__name__} cannot be looked at")
        self._found.append((value.dtype, tuple(value.shape), value.device))
        self._tensors.append(value.detach())

    def _container(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, Mapping):
            self._found.append((kind, len(value)))
            for name, entry in value.items():
                self.value(name)
                self.value(entry)
        elif isinstance(value, set | frozenset) and all(isinstance(entry, _PLAIN) for entry in value):
            self._found.append((kind, tuple(sorted(map(repr, value)))))
        elif isinstance(value, Sequence) and not isinstance(value, range):
            self._found.append((kind, len(value)))
            for entry in value:
                self.value(entry)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._found.append((value.dtype.str, value.shape, value.tobytes()))
        elif isinstance(value, range | slice):
            self._found.append(repr(value))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.value(value.__func__)
            self.value(value.__self__)
        elif isinstance(value, functools.partial):
            self.value((value.func, value.args, value.keywords))
        elif isinstance(value, types.BuiltinFunctionType | types.ModuleType | logging.Logger):
            self._found.append((kind, value.__name__ if hasattr(value, "__name__") else value.name))
        elif hasattr(value, "__dict__") and not hasattr(kind, "__slots__"):
            self._class(kind)
            self.value(vars(value))
        else:
            raise UnknownError(f"it holds a {kind.__name__}")

    def _function(self, function: types.FunctionType) -> None:
        self._found.append((function.__module__, function.__qualname__, function.__code__))
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not filled yet
                self._found.append("empty")
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        if not _of_library(function.__module__, *_LIBRARIES):
            for name in function.__code__.co_names:
                if isinstance(value := function.__globals__.get(name), bool | int | float | str | Tensor | nn.Module):
                    self._found.append(name)
                    self.value(value)

    def _class(self, kind: type) -> None:
        """Which class it is; of one of somebody's own also its functions and what stands in it."""
        self._found.append(kind)
        for part in kind.__mro__:
            if _of_library(part.__module__, *_LIBRARIES) or self._met(part):
                continue
            for name, value in vars(part).items():
                found = inspect.unwrap(value) if callable(value) else value
                found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
                if isinstance(found, types.FunctionType | bool | int | float | Tensor | nn.Module):
                    self._found.append(name)
                    self.value(found)


def _of_library(module: str | None, *libraries: str) -> bool:
    return (module or "").partition(".")[0] in libraries


def bits(tensors: Sequence[Tensor]) -> list[Hashable]:
    """Hashes of tensors' bits, in which it counts where each stands; an accelerator is waited for once.

    Args:
        tensors: Strided ones, of any type and device.

    Example:
        >>> a, b = bits([torch.tensor([1, 2]), torch.tensor([2, 1])])
        >>> a == b
        False
    """
    found: list[Hashable] = [None] * len(tensors)
    elsewhere: dict[torch.device, list[int]] = {}
    for at, tensor in enumerate(tensors):
        if tensor.device.type == "cpu":
            found[at] = hashlib.sha256(_flat(tensor).view(torch.uint8).numpy().data).digest()
        else:
            elsewhere.setdefault(tensor.device, []).append(at)
    for places in elsewhere.values():
        mixed = torch.stack([_mixed(_flat(tensors[at])) for at in places]).tolist()
        for at, value in zip(places, mixed, strict=True):
            found[at] = value
    return found


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1)


_STEP = 2**22
_FACTORS = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""Odd numbers with bits all over: those of splitmix64."""


def _mixed(flat: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bits, computed where it lies: each element is mixed with its place, and all are summed."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(flat.element_size(), torch.int64)
    numbers = flat.view(whole)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(numbers), _STEP):  # what is mixed takes eight bytes an element, several times
        part = numbers[start : start + _STEP].long()
        mixed = part * _FACTORS[0] + torch.arange(start + 1, start + 1 + len(part), device=flat.device) * _FACTORS[1]
        mixed = (mixed ^ (mixed >> 30)) * _FACTORS[2]
        total += (mixed ^ (mixed >> 27)).sum()
    return total
