"""One model on all ranks: statistics that each rank has gathered for itself (BatchNorm's) are the first rank's in an evaluation.

A checkpoint holds the first rank's, and DDP sends them to all before the next forward. With each rank's own, an item's score
would depend on the rank that it was dealt to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

from radar_callback.ranks import Ranks
from radar_callback.resharding import managed_by_fsdp1

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLE = 64


def use_first_ranks_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Overwrites floating-point buffers with those of rank 0, where ranks hold the same model and their buffers differ.

    Nothing is sent but 16 bytes, once, unless buffers differ. They are left as they are where ranks hold models of other shapes
    or other weights (pipeline or expert parallelism): each needs its own. To be called on all ranks together, and undone by
    whoever keeps a copy (:func:`radar_callback.untouched.untouched`).

    Args:
        model: The same one on all ranks, wrapped or not.
        ranks: Who takes part.
    """
    if ranks.size == 1:
        return
    buffers = {name: buffer for name, buffer in sorted(model.named_buffers()) if _can_differ(buffer)}
    # All ranks ask, also those without such buffers: another rank may have some.
    shapes = zlib.crc32(repr([(name, b.shape, b.dtype) for name, b in buffers.items()]).encode())
    same_shapes, same_values = ranks.same([shapes, _digest(buffers.values())])
    if same_values or not same_shapes:
        return
    # FSDP 1's are shards that do not show it; what it shards was one model when it was wrapped.
    whole = [] if managed_by_fsdp1(model) else [p for p in model.parameters() if _is_whole(p)]
    weights = [p.detach().reshape(-1)[:_SAMPLE] for p in whole]
    if not all(ranks.same([len(weights), _digest(weights)])):
        return
    for _, group in groupby(sorted(buffers.values(), key=lambda b: str(b.dtype)), key=lambda b: b.dtype):
        _send(list(group), ranks)


def _send(buffers: list[Tensor], ranks: Ranks) -> None:
    flat = torch.cat([b.detach().reshape(-1).to(ranks.device) for b in buffers])
    ranks.overwrite_with_first(flat)
    for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        # Past the version counter: what autograd has saved of it will be true again.
        buffer.data.copy_(part.view(buffer.shape))


def _can_differ(buffer: Tensor) -> bool:
    plain = type(buffer) is Tensor and buffer.layout == torch.strided and not buffer.is_meta
    if not plain or buffer.is_inference() or not buffer.is_floating_point():
        return False
    # An expanded one cannot be written.
    return buffer.numel() > 0 and not any(
        n > 1 and step == 0 for n, step in zip(buffer.shape, buffer.stride(), strict=True)
    )


def _is_whole(parameter: nn.Parameter) -> bool:
    """Whether a weight is the same on all ranks unless they hold different models: not a shard."""
    plain = type(parameter) is nn.Parameter and not parameter.is_meta and not hasattr(parameter, "ds_id")
    return plain and parameter.is_floating_point()


def _digest(tensors: Iterable[Tensor]) -> int:
    """The bits of tensors, summed."""
    sums = [t.detach().contiguous().view(_WORDS[t.element_size()]).sum(dtype=torch.int64) for t in tensors]
    # By its place, or two that change places would go unnoticed; on one device, so that it is waited for once.
    by_place = [(i % 1000 + 1) * one.to(sums[0].device) for i, one in enumerate(sums)]
    return int(torch.stack(by_place).sum()) if by_place else 0
