"""Calling a model through the module that shards it, where that is not the model itself.

Lightning's FSDP strategy wraps the whole LightningModule, DeepSpeed's engine too, and FSDP2's root is whatever `fully_shard` was
called on last. Weights are gathered in the root's forward; a model called past it would find shards, and FSDP would take
the model for the root from then on, so that training fails.
"""

from __future__ import annotations

from typing import Any

from torch import nn

SHARDING = {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}
"""Classes whose forward gathers weights; DDP's does not, and past it no buffers are sent around."""


def through_root(model: nn.Module, strategy_model: nn.Module) -> nn.Module:
    """The model itself, or one that calls it through the outermost module that shards it.

    Args:
        model: What is to be scored.
        strategy_model: What the strategy has made of the LightningModule.
    """
    root = next((m for m in strategy_model.modules() if _shards(m) and any(x is model for x in m.modules())), None)
    return model if root is None or root is model else Rooted(root, model)


class Rooted(nn.Module):
    """A model as the root's forward lets it be called.

    Args:
        root: Holds the model, directly or not.
        model: Gets the inputs.
    """

    def __init__(self, root: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.module = model
        self.root = root

    def forward(self, **inputs: Any) -> Any:
        """The model's output, called from within the root."""
        inner = _called_by(self.root)
        if inner is self.module:
            return self.root(**inputs)
        own = vars(inner).get("forward")
        inner.forward = lambda **given: self.module(**given)
        try:
            return self.root(**inputs)
        finally:
            if own is None:
                del inner.forward
            else:
                inner.forward = own


def _shards(module: nn.Module) -> bool:
    return any(kind.__name__ in SHARDING for kind in type(module).__mro__)


def _called_by(root: nn.Module) -> Any:
    """The module whose forward the root's runs: what it wraps, or itself where sharding changed its class only."""
    children = vars(root)["_modules"]
    wraps = not any(kind.__name__ == "FSDPModule" for kind in type(root).__mro__)
    return children.get("_fsdp_wrapped_module", children.get("module", root)) if wraps else root
