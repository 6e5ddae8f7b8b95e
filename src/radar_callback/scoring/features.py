"""What a frozen vision tower said about a batch, remembered from one evaluation to the next.

Where only the projector (or the language model) is trained, the tower gives the same bits at every step, so it need not be asked
again. Batches hold the same items in every evaluation, which is what makes remembering exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from radar_callback.scoring.scorer import needs_every_rank, unwrapped
from radar_callback.scoring.shelf import Shelf


@dataclass(frozen=True)
class _Kept:
    """One output: its class, its fields, and which entries of its tuple of hidden states were looked at."""

    kind: type[Any]
    fields: Mapping[str, Any]


class FeatureMemory:
    """Answers for the vision tower of a model, while its weights stay what they were.

    Nothing is remembered unless all of the tower is frozen, and nothing in a model whose forwards need every rank.

    Args:
        room: Bytes of main memory that may be taken; 0 for none.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._weights: Hashable = None
        self._shelf: Shelf[_Kept] = Shelf(room)
        self._key: Hashable = None
        self._calls = 0
        self._fresh: dict[Hashable, _Kept] = {}

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Stands in for the tower during an evaluation.

        Args:
            model: A model, wrapped or not.
        """
        tower = None if not self._room or needs_every_rank(model) else _frozen_tower(unwrapped(model))
        if tower is None:
            self._shelf.clear()
            self._weights = None
            yield
            return
        try:
            weights = _state(tower)
        except Exception:  # weights of a class that shows no bits, as quantised ones
            self._shelf.clear()
            self._weights = None
            yield
            return
        if weights != self._weights:
            self._shelf.clear()
            self._weights = weights
        self._shelf.begin()
        own = vars(tower).get("forward")
        forward = tower.forward
        tower.forward = lambda *args, **kwargs: self._answer(forward, args, kwargs)
        try:
            yield
        finally:
            if own is None:
                del tower.forward
            else:
                tower.forward = own

    @contextmanager
    def batch(self, *key: Hashable) -> Iterator[None]:
        """Names the batch that is being scored: whatever its pixels depend on."""
        self._key, self._calls = key, 0
        try:
            yield
            for name, fresh in self._fresh.items():
                self._keep(name, fresh)
        finally:
            self._key = None
            self._fresh.clear()

    def _answer(self, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._key is None:
            return forward(*args, **kwargs)
        name, self._calls = (self._key, self._calls), self._calls + 1
        if (kept := self._shelf.get(name)) is not None:
            device = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)).device
            return kept.kind(**{field: _moved(value, device) for field, value in kept.fields.items()})
        output: Any = forward(*args, **kwargs)
        if isinstance(output, dict):  # a bare tuple or tensor, rebuilt from fields, would be something else
            if isinstance(output.get("hidden_states"), tuple):
                output["hidden_states"] = _Watched(output["hidden_states"])
            # Its fields now: some models go on to write what they make of the features into the same object.
            self._fresh[name] = _Kept(type(output), dict(output))
        return output

    def _keep(self, name: Hashable, fresh: _Kept) -> None:
        """Keeps an output if there is room; of all layers' hidden states only what the model went on to look at."""
        fields = {field: _looked_at(value) for field, value in fresh.fields.items()}
        size = _size(fields)
        if size is not None and self._shelf.has_room(size):
            self._shelf.put(name, _Kept(fresh.kind, _moved(fields, torch.device("cpu"))), size)


class _Watched(tuple[Any, ...]):
    """A tuple that notes which of its entries are looked at."""

    def __new__(cls, values: tuple[Any, ...]) -> _Watched:
        made = super().__new__(cls, values)
        made.seen = set()
        return made

    seen: set[int]

    def __getitem__(self, at: Any) -> Any:
        self.seen |= set(range(len(self))[at] if isinstance(at, slice) else [range(len(self))[at]])
        return super().__getitem__(at)

    def __iter__(self) -> Iterator[Any]:
        self.seen |= set(range(len(self)))
        return super().__iter__()


def _looked_at(value: Any) -> Any:
    if not isinstance(value, _Watched):
        return value
    return tuple(tuple.__getitem__(value, i) if i in value.seen else None for i in range(len(value)))


def _frozen_tower(inner: Any) -> Any:
    """The module that turns pixels into features, if all of it is frozen."""
    find = getattr(inner, "get_encoder", None)
    try:
        tower = find(modality="image") if find else None
    except TypeError:  # before transformers 5
        return None
    parameters = list(tower.parameters()) if isinstance(tower, nn.Module) and tower is not inner else []
    if not parameters or any(p.requires_grad for p in parameters):
        return None
    return tower


def _state(tower: nn.Module) -> Hashable:
    """Another one whenever a weight or buffer of the tower is: their bits, summed, since not every change leaves a trace."""
    tensors = [*tower.parameters(), *tower.buffers()]
    return tuple((x.data_ptr(), x._version, x.dtype, _bits(x)) for x in tensors)


def _bits(x: Tensor) -> int:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return int(x.detach().contiguous().view(whole).sum(dtype=torch.int64))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, Mapping):
        return {name: _moved(entry, device) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(entry, device) for entry in value)
    return value


def _size(value: Any) -> int | None:
    """Bytes of everything in a value, or None if it holds something that cannot be kept."""
    if value is None or isinstance(value, bool | int | float | str):
        return 0
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else None
    sizes = [_size(part) for part in parts] if parts is not None else [None]
    return None if None in sizes else sum(size for size in sizes if size is not None)
