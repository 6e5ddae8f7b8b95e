"""Where tokens stand in the item's own order, in which every candidate follows the prefix, and the position ids that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREFIX, PADDING = 0, -1


@dataclass(frozen=True)
class Tree:
    """Where each token of a batch of rows belongs; all tensors `[B, L]` but the last.

    Attributes:
        branch: `PADDING`, `PREFIX`, or the candidate's number from 1.
        order: The token's place in the item's own order.
        start: `[B]` column in which the row begins behind its padding.
    """

    branch: Tensor
    order: Tensor
    start: Tensor

    @classmethod
    def of_prefixes(cls, attention_mask: Tensor) -> Tree:
        """Rows that are nothing but prefixes, padded on the left."""
        seen = attention_mask.bool()
        order = (seen.long().cumsum(1) - 1).clamp(min=0)
        return cls(torch.where(seen, PREFIX, PADDING), order, (~seen).sum(1))

    def to(self, device: torch.device) -> Tree:
        """The same on another device."""
        return Tree(self.branch.to(device), self.order.to(device), self.start.to(device))


def positions(inner: Any, inputs: Mapping[str, Tensor], tree: Tree) -> tuple[Tensor, Tensor]:
    """Position ids of rows, and the one that follows each row's prefix.

    Args:
        inner: The Hugging Face model; one whose positions have three axes has `get_rope_index`, which knows how images are
            laid out.
        inputs: The rows' token-wise inputs.
        tree: Where each token belongs.

    Returns:
        `[B, L]`, or `[3, B, L]` with three axes; and `[B]`: behind the prefix all axes count on together, from one more than
        the largest number in it.
    """
    prefix = tree.branch == PREFIX
    length = prefix.sum(1)
    rope = next((m.get_rope_index for m in inner.modules() if hasattr(m, "get_rope_index")), None)
    if rope is None:
        return tree.order, length
    layout = {name: inputs[name] for name in ("image_grid_thw", "mm_token_type_ids") if name in inputs}
    axes, _ = rope(inputs["input_ids"], attention_mask=prefix.long(), **layout)
    following = axes.masked_fill(~prefix, -1).amax((0, 2)) + 1
    behind = following[:, None] + tree.order - length[:, None]
    return torch.where(tree.branch > PREFIX, behind, axes), following
