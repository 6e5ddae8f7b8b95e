"""Peak of the memory that tensors take while something runs, on any device: what was there before is not counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watching(TorchDispatchMode):
    """Follows every storage that an operation makes until it is freed."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self._known = known
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def peak_mib(model: torch.nn.Module, run: Callable[[], Any]) -> float:
    """Peak of what `run` allocates, in MiB, weights excluded."""
    tensors = [*model.parameters(), *model.buffers()]
    with _Watching({x.untyped_storage()._cdata for x in tensors}) as watching:
        run()
    return watching.peak / 2**20
