"""The ranks that take part in an evaluation. With one process everything here is a no-op."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from radar_callback.errors import ConfigError, RanksApartError

T = TypeVar("T")

ALIKE_WITHIN = 10.0
"""Seconds within which all ranks must have failed alike. They fail within moments of each other, or not at all."""

_failures: Counter[str] = Counter()
"""How many failures this process has compared with other ranks', by process group: names the next comparison."""


@dataclass(frozen=True)
class Replica:
    """Which of the model's replicas a rank is a part of, where several ranks hold one together (tensor parallelism).

    Attributes:
        index: Of the replica.
        count: How many there are.
        speaks: True for one rank of each replica: it says what all of it have found.
    """

    index: int
    count: int
    speaks: bool


class Ranks:
    """This process among the processes of `torch.distributed`, if that is initialised.

    Args:
        device: Where the model is. Tensors are exchanged there, or where the process group can exchange some.
        replica: Whose part this rank is; if left out, each rank holds or gathers a whole model.
        group: The processes that take part; all if left out.

    Raises:
        ConfigError: If this process is not in the group.
    """

    def __init__(
        self, device: torch.device, replica: Replica | None = None, group: dist.ProcessGroup | None = None
    ) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.group = group
        self.size = dist.get_world_size(group) if together else 1
        self.rank = dist.get_rank(group) if together else 0
        if self.rank < 0:
            raise ConfigError(
                f"Expected every rank that evaluates to be in process_group, but rank {dist.get_rank()} is not: evaluate on "
                "the group's ranks only."
            )
        self.device = device
        self.exchange_device = exchange_device(device, group) if self.size > 1 else device
        self.replica = replica or Replica(self.rank, self.size, speaks=True)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.size == 1:
            return values
        total = values.to(self.exchange_device, copy=True)
        dist.all_reduce(total, group=self.group)
        return total.to(values.device)

    def least(self, value: float) -> float:
        """The smallest value that any rank has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.exchange_device)
        dist.all_reduce(shared, op=dist.ReduceOp.MIN, group=self.group)
        return shared.item()

    def from_first(self, value: T) -> T:
        """What rank 0 has: what was measured or read on one rank must not differ between them."""
        if self.size == 1:
            return value
        box = [value]
        with self._current_device():
            dist.broadcast_object_list(box, src=self._first(), group=self.group, device=self.exchange_device)
        return box[0]

    def all_agree(self, statement: bool) -> bool:
        """Whether a statement holds on every rank."""
        return int(self.sum(torch.tensor(int(statement)))) == self.size

    def same(self, values: Sequence[int]) -> list[bool]:
        """Of each number: whether all ranks have the same."""
        if self.size == 1:
            return [True] * len(values)
        kept = torch.tensor([value & (2**62 - 1) for value in values], dtype=torch.int64)
        least = torch.cat([kept, -kept]).to(self.exchange_device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN, group=self.group)
        low, high = least.cpu().chunk(2)
        return (low == -high).tolist()

    def overwrite_with_first(self, values: Tensor) -> None:
        """Writes rank 0's values into a tensor on `device`, of the same shape on all ranks."""
        if self.size == 1:
            return
        sent = values.to(self.exchange_device)
        dist.broadcast(sent, src=self._first(), group=self.group)
        if sent is not values:
            values.copy_(sent)

    def gather(self, values: list[Any]) -> list[Any]:
        """All ranks' lists, joined in order of rank, on every rank."""
        if self.size == 1:
            return values
        lists: list[list[Any]] = [[] for _ in range(self.size)]
        with self._current_device():
            dist.all_gather_object(lists, values, group=self.group)
        return [value for part in lists for value in part]

    def rows(self, values: Tensor) -> Tensor:
        """`[ranks, n]`: every rank's `[n]` numbers, which must be as many on each."""
        if self.size == 1:
            return values[None]
        own = values.to(self.exchange_device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self.group)
        return torch.stack(found).to(values.device)

    def _first(self) -> int:
        """The first of these ranks, as the world counts them."""
        return 0 if self.group is None else dist.get_global_rank(self.group, 0)

    def _current_device(self) -> AbstractContextManager[Any]:
        """Objects are exchanged on the current device, which need not be the one that the model is on."""
        if self.size == 1 or self.exchange_device.type != "cuda":
            return nullcontext()
        return torch.cuda.device(self.exchange_device)

    def failed_alike(self, failure: str) -> bool:
        """Whether every rank reports the same failure, so that none waits for another; without a collective.

        A rank that failed alone cannot ask the others in a collective: they are in one already, which it has left. So failures
        are compared through the store that the ranks met at. All ranks get the same answer.

        Args:
            failure: What happened and after how many exchanges: two ranks that say the same are at the same place.
        """
        if self.size == 1:
            return True
        try:
            from torch.distributed.distributed_c10d import _get_default_store

            store = _get_default_store()
            name = "default" if self.group is None else str(getattr(self.group, "group_name", "group"))
            _failures[name] += 1
            place = f"radar_callback/{name}/{_failures[name]}"
            same = store.add(f"{place}/{failure}", 1)
            store.add(f"{place}/any", 1)
            deadline = time.monotonic() + ALIKE_WITHIN
            while same < self.size:
                if store.check([f"{place}/verdict"]):
                    break
                others = store.add(f"{place}/any", 0)
                same = store.add(f"{place}/{failure}", 0)
                if others > same or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            # Whoever is first decides for all, or two ranks could differ about a rank that came at the last moment.
            verdict: bytes = store.compare_set(f"{place}/verdict", "", "alike" if same >= self.size else "apart")
        except Exception:  # the process that kept the store has gone
            return False
        return verdict == b"alike"


def exchange_device(device: torch.device, group: dist.ProcessGroup | None = None) -> torch.device:
    """Where tensors must lie that a process group exchanges.

    Args:
        device: Where they would best lie.
        group: The group; the default one if left out.

    Returns:
        `device` where the group serves its kind, else the current device of a kind that it serves.
    """
    kinds = _served(group)
    if not kinds or device.type in kinds:
        return device
    if "cuda" in kinds and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def _served(group: dist.ProcessGroup | None) -> list[str]:
    """Kinds of devices that a group has a backend for: `cpu:gloo,cuda:nccl` serves two."""
    config = dist.get_backend_config(group)
    return [entry.partition(":")[0] for entry in config.split(",") if ":" in entry]


def exchanges() -> int:
    """How many exchanges this process has begun in all its process groups; 0 if torch does not say."""
    try:
        from torch.distributed.distributed_c10d import _world

        groups: Any = _world.pg_map
        return sum(group._get_sequence_number_for_group() for group in groups)
    except (ImportError, AttributeError, RuntimeError):
        return 0


def apart(ranks: Ranks, error: BaseException) -> RanksApartError:
    """The error for a rank that has left a forward in which the others are."""
    return RanksApartError(
        f"A forward that all {ranks.size} ranks take part in failed on rank {ranks.rank}, and the others "
        f"wait for it: {type(error).__name__}: {error}. The run has to end; from a checkpoint, go on with a smaller "
        "batch_tokens if memory ran out."
    )
