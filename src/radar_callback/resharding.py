"""Leaving a sharded model as it was found: what an evaluation has gathered is let go, and what was gathered stays.

After a forward without a backward FSDP keeps the weights of its root gathered (with `SHARD_GRAD_OP` or
`reshard_after_forward=False`: all weights), for the backward that it expects. Whoever reads or writes weights then meets those
copies, and the next forward uses them although the optimizer has changed what they were gathered from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from radar_callback.errors import EvaluationError


@contextmanager
def sharding_kept(model: nn.Module) -> Iterator[None]:
    """Puts every part of a model sharded by FSDP back into the state it was in, gathered or not; others are left alone.

    What was gathered before and still is stays untouched. What was gathered before and no longer is, is gathered again, unless
    there was an error: other ranks might not be there. All ranks must enter together.

    Args:
        model: Sharded by FSDP 1 or FSDP2, or not.

    Raises:
        EvaluationError: If this version of FSDP 1 has no way to let weights go: an evaluation would change training.
    """
    handles = [(m, m._handle, _is_gathered(m._handle)) for m in _fsdp1(model) if m._handle is not None]
    groups = [(m, group, _is_unsharded(group)) for m in _fsdp2(model) for group in _groups(m)]
    release = _fsdp1_reshard() if handles else None
    failed = True
    try:
        yield
        failed = False
    finally:
        for module, handle, was in handles:
            if release is not None and not was and _is_gathered(handle):
                release(module, handle, True)
        for module in {id(m): m for m, group, was in groups if not was and not group.is_sharded}.values():
            module.reshard()
        if not failed:
            for module in {id(m): m for m, group, was in groups if was and not _is_unsharded(group)}.values():
                module.unshard()


def sharded_parameters(model: nn.Module) -> dict[int, Tensor]:
    """By the id of each gathered parameter of an FSDP2 model: the shard it was gathered from, which the optimizer steps on."""
    found = {}
    for module in _fsdp2(model):
        for group in _groups(module):
            for one in group.fsdp_params:
                for gathered in ("_unsharded_param", "_sharded_post_forward_param"):
                    if (parameter := getattr(one, gathered, None)) is not None:
                        found[id(parameter)] = one.sharded_param
    return found


def is_sharded(model: nn.Module) -> bool:
    """Whether something else than the modules decides which tensors their parameters are."""
    return bool(_fsdp1(model) or _fsdp2(model)) or any(hasattr(p, "ds_id") for p in model.parameters())


def managed_by_fsdp1(model: nn.Module) -> dict[int, set[str]]:
    """By id of every module in FSDP 1: the attributes under which FSDP puts views of its flat parameter."""
    found: dict[int, set[str]] = {}
    for wrapper in _fsdp1(model):
        for module in wrapper.modules():
            found.setdefault(id(module), set())
        flat = getattr(wrapper._handle, "flat_param", None)
        for place in (*getattr(flat, "_param_infos", ()), *getattr(flat, "_shared_param_infos", ())):
            found.setdefault(id(place.module), set()).add(place.param_name)
    return found


def _fsdp1(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__ == "FullyShardedDataParallel"]


def _fsdp2(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if any(kind.__name__ == "FSDPModule" for kind in type(m).__mro__)]


def _groups(module: Any) -> list[Any]:
    """What FSDP2 gathers together for a module."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:  # one a module, until torch 2.11
        groups = [] if state._fsdp_param_group is None else [state._fsdp_param_group]
    return list(groups)


def _is_unsharded(group: Any) -> bool:
    return bool(group.is_unsharded)


def _is_gathered(handle: Any) -> bool:
    """Whether a handle of FSDP 1 holds memory for its gathered parameter; always so where nothing is sharded."""
    if not handle.uses_sharded_strategy:
        return True
    padded = [getattr(handle.flat_param, name, None) for name in ("_full_param_padded", "_full_prec_full_param_padded")]
    return any(one is not None and one.untyped_storage().size() > 0 for one in padded)


def _fsdp1_reshard() -> Callable[[Any, Any, bool], None]:
    """FSDP 1's own way to free a gathered parameter: nothing public does."""
    try:
        from torch.distributed.fsdp._runtime_utils import _reshard
    except ImportError as error:
        raise EvaluationError(
            "Expected a torch in which FSDP 1 can let go of the weights that a forward has gathered, but this one has no "
            "`_reshard`: training would go on with outdated weights after an evaluation. Use FSDP2 (`fully_shard`)."
        ) from error
    return _reshard
