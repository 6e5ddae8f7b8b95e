"""The ranks that take part in an evaluation. With one process everything here is a no-op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


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
        device: Where tensors to exchange must lie (NCCL wants the GPU).
        replica: Whose part this rank is; if left out, each rank holds or gathers a whole model.
    """

    def __init__(self, device: torch.device, replica: Replica | None = None) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.size = dist.get_world_size() if together else 1
        self.rank = dist.get_rank() if together else 0
        self.device = device
        self.replica = replica or Replica(self.rank, self.size, speaks=True)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def least(self, value: float) -> float:
        """The smallest value that any rank has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MIN)
        return shared.item()

    def from_first(self, value: T) -> T:
        """What rank 0 has: what was measured or read on one rank must not differ between them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def all_agree(self, statement: bool) -> bool:
        """Whether a statement holds on every rank."""
        return int(self.sum(torch.tensor(int(statement)))) == self.size

    def same(self, values: Sequence[int]) -> list[bool]:
        """Of each number: whether all ranks have the same."""
        if self.size == 1:
            return [True] * len(values)
        kept = torch.tensor([value & (2**62 - 1) for value in values], dtype=torch.int64)
        least = torch.cat([kept, -kept]).to(self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        low, high = least.cpu().chunk(2)
        return (low == -high).tolist()

    def overwrite_with_first(self, values: Tensor) -> None:
        """Writes rank 0's values into a tensor on `device`, of the same shape on all ranks."""
        if self.size > 1:
            dist.broadcast(values, src=0)

    def gather(self, values: list[Any]) -> list[Any]:
        """All ranks' lists, joined in order of rank, on every rank."""
        if self.size == 1:
            return values
        lists: list[list[Any]] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, values)
        return [value for part in lists for value in part]
