"""Which ranks hold one copy of a model together, read from the device meshes that its parameters are spread over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from radar_callback.errors import ConfigError
from radar_callback.ranks import Replica
from radar_callback.scoring.scorer import unwrapped

_TENSOR_PARALLEL = "tp"
"""What transformers calls the dimension of its mesh along which matrices are split."""


def holders(model: nn.Module) -> frozenset[int]:
    """Ranks of the world that hold one copy of the model together with this one, as far as its parameters tell.

    Parameters are spread over ranks for two reasons. FSDP gathers them before it computes, so its ranks can be given different
    items. Along any other dimension of a mesh ranks compute parts of one result, and must be given the same items.

    Args:
        model: The model, wrapped or not.

    Returns:
        Empty if this rank computes alone.
    """
    gathered = _gathered(model)
    found: set[int] = set()
    seen: set[tuple[int, tuple[Any, ...]]] = set()
    for parameter in model.parameters():
        mesh, placements = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", ())
        if mesh is None or (id(mesh), placements) in seen:
            continue
        seen.add((id(mesh), placements))
        split = [
            dim
            for dim, placement in enumerate(placements)
            if mesh.size(dim) > 1
            and (placement.is_shard() or type(placement).__name__ == "_StridedShard")
            and not any(set(_along(mesh, [dim])) <= ranks for ranks in gathered)
        ]
        if split:
            found.update(_along(mesh, split))
    return frozenset(found | _split_by_transformers(model))


def replica_from(held: Sequence[tuple[int, int, int]], rank: int, world_rank: int) -> Replica | None:
    """The replica of this rank, from what all ranks say about theirs.

    Args:
        held: For each rank that evaluates, of its copy of the model: the smallest rank of the world, how many ranks, and a
            number that only the same ranks give; a size of 0 for one that computes alone.
        rank: Of this process among those that evaluate.
        world_rank: Of this process in the world.

    Returns:
        None if every rank computes alone.

    Raises:
        ConfigError: If ranks do not agree about which of them hold a copy together, or some of these do not evaluate.

    Example:
        >>> replica_from([(0, 2, 7), (0, 2, 7), (2, 2, 9), (2, 2, 9)], rank=3, world_rank=3)
        Replica(index=1, count=2, speaks=False)
    """
    if all(size == 0 for _, size, _ in held):
        return None
    copies = sorted(set(held))
    if len({first for first, _, _ in copies}) < len(copies) or any(held.count(copy) != copy[1] for copy in copies):
        raise ConfigError(
            "Expected to find which ranks hold one copy of the model together, but the meshes of its parameters do not say, "
            "or some of these ranks do not evaluate: pass replica=Replica(index, count, speaks), on all ranks of a copy."
        )
    return Replica(copies.index(held[rank]), len(copies), speaks=held[rank][0] == world_rank)


def _along(mesh: Any, dims: list[int]) -> list[int]:
    """Ranks of the world that differ from this one only in some dimensions of a mesh."""
    here = mesh.get_coordinate()
    if here is None:
        return []
    ranks: torch.Tensor = mesh.mesh
    index = tuple(slice(None) if dim in dims else here[dim] for dim in range(ranks.ndim))
    return [int(rank) for rank in ranks[index].flatten()]


def _gathered(model: nn.Module) -> list[set[int]]:
    """Ranks over which FSDP2 has spread parameters that it gathers before it computes."""
    found = []
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", None)
        if state is None:
            continue
        groups = getattr(state(), "_fsdp_param_groups", None) or [getattr(state(), "_fsdp_param_group", None)]
        meshes = [group.mesh_info.mesh for group in groups if group is not None]
        found += [{int(rank) for rank in mesh.mesh.flatten()} for mesh in meshes]
    return found


def _split_by_transformers(model: nn.Module) -> set[int]:
    """What transformers notes about a model that it has split: its quantised layers are no DTensors."""
    mesh = getattr(unwrapped(model), "_device_mesh", None)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    if mesh is None or _TENSOR_PARALLEL not in names or mesh.size(names.index(_TENSOR_PARALLEL)) == 1:
        return set()
    return set(_along(mesh, [names.index(_TENSOR_PARALLEL)]))
