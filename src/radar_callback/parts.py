"""How far each part of a model (vision tower, projector, language model) has moved since somebody last looked.

A part whose gradient is lost does not show in the loss for long: the others make up for it. So its weights are looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from radar_callback.ranks import Ranks
from radar_callback.resharding import sharded_parameters
from radar_callback.scoring.scorer import unwrapped

log = logging.getLogger(__name__)

SAMPLE = 4096
"""Weights of each tensor that are looked at, evenly spaced: enough to tell how far all of them have turned."""

_CONNECTOR = re.compile(r"merger|projector|connector|projection|aligner|resampler|qformer|abstractor", re.IGNORECASE)
"""What families call the part between vision tower and language model, which some of them keep inside the tower."""


class Parts:
    """Remembers a sample of the weights of each part."""

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._unseen_said = False

    def moved(self, model: nn.Module, ranks: Ranks) -> dict[str, float]:
        """How far each part has turned since the last call: the tangent of the angle, about `|change| / |weights|`.

        Weight decay alone shrinks weights without turning them, so a part that has lost its gradient gets 0 even then.

        Args:
            model: The model, wrapped, sharded or not. All ranks must call this together.
            ranks: Each adds up its own shards.

        Returns:
            By name of the part; empty at the first call, and after the parameters have become others. Without parts of which
            no weight can be looked at, such as quantised ones.
        """
        shards = sharded_parameters(model)
        sampled = {
            name: _sample(shards.get(id(parameter), parameter))
            for name, parameter in unwrapped(model).named_parameters()
        }
        now = {name: sample for name, sample in sampled.items() if sample is not None}
        self._say_unseen([name for name, sample in sampled.items() if sample is None])
        before, self._before = self._before, now
        if now.keys() != before.keys() or any(now[name].shape != before[name].shape for name in now):
            before = {}
        # The same question on all ranks, or they would wait for each other.
        if not ranks.all_agree(bool(before)):
            return {}
        # Of all names: which weights can be looked at might differ between ranks, the length of what they add up must not.
        names = sorted({part_of(name) for name in sampled})
        row = {name: i for i, name in enumerate(names)}
        # Exact zero for what is exactly the same: the change is summed itself, not found as a difference of large sums.
        sums = torch.zeros(len(names), 5, dtype=torch.float64)
        for name, new in now.items():
            old = before[name].double()
            change = new.double() - old
            looked_at = torch.tensor(len(new), dtype=torch.float64)
            sums[row[part_of(name)]] += torch.stack(
                [old @ old, old @ change, change @ change, change.abs().sum(), looked_at]
            )
        found = ranks.sum(sums).tolist()
        return {name: _turn(*found[i][:4]) for name, i in row.items() if found[i][4]}

    def _say_unseen(self, names: Sequence[str]) -> None:
        if names and not self._unseen_said:
            self._unseen_said = True
            log.info("%d weights (such as %s) are of a kind whose movement is not measured.", len(names), names[0])


def part_of(name: str) -> str:
    """Which part a parameter belongs to.

    Example:
        >>> part_of("model.multi_modal_projector.linear_1.weight"), part_of("model.language_model.layers.0.mlp.up_proj.weight")
        ('multi_modal_projector', 'language_model')
        >>> part_of("model.visual.merger.mlp.0.weight"), part_of("model.visual.blocks.0.attn.qkv.weight")
        ('merger', 'visual')
    """
    path = name.replace("_fsdp_wrapped_module.", "").split(".")
    for place in path[:-1]:
        if _CONNECTOR.search(place):
            return place
    return path[1] if path[0] == "model" and len(path) > 2 else path[0]


def _sample(parameter: Tensor) -> Tensor | None:
    """Some of a tensor's values, or None of one that holds no plain numbers: quantised, on no device, of a class of its own."""
    local: Any = parameter
    try:
        for name in ("to_local", "ds_tensor"):  # FSDP2's shard, DeepSpeed's
            if hasattr(local, name):
                local = getattr(local, name)() if name == "to_local" else local.ds_tensor
        if local.is_complex():
            local = torch.view_as_real(local.detach())
        if local.is_meta or not local.is_floating_point():  # the codes of a quantised weight are not its values
            return None
        flat = local.detach().reshape(-1)
        # A copy: on a CPU the rest of this line alone would give a view of the weight itself.
        sample = flat[:: max(1, -(-flat.numel() // SAMPLE))].to("cpu", torch.float32, copy=True)
    except Exception:  # whatever a class does not know
        return None
    return sample if type(sample) is Tensor else None


def _turn(size: float, along: float, change: float, any_change: float) -> float:
    """From `w.w`, `w.d`, `d.d` of weights w and their change d."""
    if any_change == 0 or size == 0:
        return 0.0
    # |d|^2 less the part of d along w, over |w|^2: the square of the tangent of the angle.
    return max(0.0, (change - along * along / size) / size) ** 0.5
