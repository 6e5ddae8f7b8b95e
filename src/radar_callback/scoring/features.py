"""What a frozen vision tower said about a batch, remembered from one evaluation to the next.

Where only the projector (or the language model) is trained, the tower gives the same bits for the same pixels at every step, so
it need not be asked again. An answer is found again by the bits of everything the tower is given, and only while all that the
tower itself depends on is what it was; and each evaluation one answer is asked for again, all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radar_callback.scoring.fingerprint import UnknownError, bits, digest, fingerprint
from radar_callback.scoring.scorer import needs_every_rank, unwrapped
from radar_callback.scoring.shelf import Shelf

log = logging.getLogger(__name__)

FRUITLESS = 5
"""After so many evaluations in a row in which nothing was found again, nothing is kept any more: what comes before the tower,
or the tower itself, is another one every time."""


class _Parked(NamedTuple):
    """A copy of a tensor in main memory, and where it came from."""

    copy: Tensor
    device: torch.device


@dataclass(frozen=True)
class _Kept:
    """One output: its class, its fields, and which entries of its tuple of hidden states were looked at."""

    kind: type[Any]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class _Fresh:
    """An output that is still being used.

    Attributes:
        output: Its class and fields.
        versions: Of its tensors, in order: how often each had been written to.
    """

    output: _Kept
    versions: list[int]


class FeatureMemory:
    """Answers for the vision tower of a model, where it is certain to say the same again.

    Nothing is remembered unless all that the tower depends on is frozen and known (see
    :mod:`radar_callback.scoring.fingerprint`), and nothing in a model whose forwards need every rank.

    Args:
        room: Bytes of main memory that may be taken; 0 for none.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._state: Hashable = None
        self._shelf: Shelf[_Kept] = Shelf(room)
        self._fresh: dict[Hashable, _Fresh] = {}
        self._new: set[Hashable] = set()
        self._within = False
        self._asked = self._found = 0
        self._fruitless = 0
        self._told: str | None = None

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Stands in for the tower during an evaluation.

        Args:
            model: A model, wrapped or not.
        """
        inner = unwrapped(model)
        tower = None if not self._room or needs_every_rank(model) else _frozen_tower(inner)
        state = None if tower is None else self._known(tower, inner)
        if tower is None or state is None:
            self._shelf.clear()
            self._state = None
            yield
            return
        if state != self._state:
            self._shelf.clear()
            self._state = state
        self._shelf.begin()
        self._asked = self._found = 0
        self._new.clear()
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
            self._fruitless = 0 if self._found else self._fruitless + bool(self._asked)
            if self._fruitless == FRUITLESS:
                self._stop("nothing could be used again in five evaluations", logging.INFO)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """A batch is being scored: what the tower says in it is kept when it is over, as far as it was looked at."""
        self._within = True
        try:
            yield
            for key, fresh in self._fresh.items():
                self._keep(key, fresh)
        finally:
            self._within = False
            self._fresh.clear()

    def _known(self, tower: nn.Module, inner: Any) -> Hashable:
        """All that the tower depends on; None where that cannot be known, or remembering has been given up."""
        if not self._room:
            return None
        try:
            # The configuration says which of the hidden states are looked at.
            return fingerprint(tower, getattr(inner, "config", None), _arithmetic())
        except UnknownError as error:
            self._tell(f"{error}", logging.INFO)
        except Exception as error:  # weights of a kind of their own: no reason to lose an evaluation
            self._tell(f"{type(error).__name__}: {error}", logging.INFO)
        return None

    def _answer(self, forward: Any, args: Any, kwargs: Any) -> Any:
        if not self._within or not self._room:
            return forward(*args, **kwargs)
        try:
            key = digest(args, kwargs, _autocast())
        except UnknownError:
            return forward(*args, **kwargs)
        self._asked += 1
        kept = self._shelf.get(key)
        fresh = key in self._new  # said in this very evaluation: nothing that the next one could count on
        if kept is not None and (fresh or self._found):
            self._found += not fresh
            return kept.kind(**{field: _restored(value) for field, value in kept.fields.items()})
        output: Any = forward(*args, **kwargs)
        if kept is not None:
            # The first of an evaluation: before a single one is used, the tower is asked whether it would say the same.
            self._found += 1
            if not _same(kept, output):
                self._stop(
                    "it says something else about the same images now, though nothing that is known of it has changed",
                    logging.WARNING,
                )
        elif isinstance(output, dict):  # a bare tuple or tensor, rebuilt from fields, would be something else
            self._note(key, output)
        return output

    def _note(self, key: Hashable, output: dict[str, Any]) -> None:
        if isinstance(output.get("hidden_states"), tuple):
            output["hidden_states"] = _Watched(output["hidden_states"])
            if key in self._fresh:  # asked twice in a batch: what is looked at in either answer counts
                before = self._fresh[key].output.fields["hidden_states"]
                before.seen |= output["hidden_states"].seen
                output["hidden_states"].seen = before.seen
        # Its fields now: some models go on to write what they make of the features into the same object.
        kept = _Kept(type(output), dict(output))
        tensors = _tensors(kept.fields)
        if not any(x.is_inference() for x in tensors):
            self._fresh[key] = _Fresh(kept, [x._version for x in tensors])

    def _keep(self, key: Hashable, fresh: _Fresh) -> None:
        """Keeps an output if there is room; of all layers' hidden states only what the model went on to look at."""
        if fresh.versions != [x._version for x in _tensors(fresh.output.fields)]:
            return  # the model has written over it
        fields = {field: _looked_at(value) for field, value in fresh.output.fields.items()}
        size = _size(fields)
        if size is not None and self._shelf.has_room(size):
            self._shelf.put(key, _Kept(fresh.output.kind, _parked(fields)), size)
            self._new.add(key)

    def _stop(self, why: str, level: int) -> None:
        self._tell(why, level)
        self._room = 0
        self._shelf.clear()
        self._fresh.clear()

    def _tell(self, why: str, level: int) -> None:
        if why != self._told:
            self._told = why
            log.log(level, "What the frozen vision tower says is not remembered between evaluations: %s.", why)


def _arithmetic() -> tuple[Hashable, ...]:
    """Settings of PyTorch's that decide how a forward rounds."""
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )


def _autocast() -> tuple[Hashable, ...]:
    kinds = ["cpu", *([now.type] if (now := torch.accelerator.current_accelerator()) is not None else [])]
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)


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


def _same(kept: _Kept, output: Any) -> bool:
    """Whether an output is bit by bit what was kept of another one."""
    if type(output) is not kept.kind or output.keys() != kept.fields.keys():
        return False
    return all(_alike(value, output[field]) for field, value in kept.fields.items())


def _alike(kept: Any, value: Any) -> bool:
    if isinstance(kept, _Parked):
        same = isinstance(value, Tensor) and (kept.copy.shape, kept.copy.dtype) == (value.shape, value.dtype)
        return same and len(set(bits([kept.copy, value.detach().to(kept.copy.device)]))) == 1
    if isinstance(kept, Mapping):
        return isinstance(value, Mapping) and all(_alike(one, value.get(name)) for name, one in kept.items())
    if isinstance(kept, tuple | list):
        together = isinstance(value, tuple | list) and len(kept) == len(value)
        # An entry that is None was never looked at.
        return together and all(one is None or _alike(one, other) for one, other in zip(kept, value, strict=True))
    return bool(kept == value)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a value, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for entry in value.values() for x in _tensors(entry)]
    if isinstance(value, tuple | list):
        # Past the one that notes what is looked at.
        entries = tuple.__iter__(value) if isinstance(value, tuple) else iter(value)
        return [x for entry in entries for x in _tensors(entry)]
    return []


def _parked(value: Any) -> Any:
    """Copies in main memory: neither what the model goes on to do with a tensor nor a later evaluation's use reaches them."""
    if isinstance(value, Tensor):
        return _Parked(value.detach().to("cpu", copy=True), value.device)
    if isinstance(value, Mapping):
        return {name: _parked(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_parked(entry) for entry in value)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, _Parked):
        return value.copy.to(value.device, copy=True)
    if isinstance(value, Mapping):
        return {name: _restored(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_restored(entry) for entry in value)
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
