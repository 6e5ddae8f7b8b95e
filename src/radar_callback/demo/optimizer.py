"""Muon for the weight matrices, AdamW for the rest, as the one optimizer that Lightning counts steps by.

Muon makes every direction of a matrix's update equally strong (K. Jordan et al., 2024), which suits a run of minutes from random
weights. PyTorch has it since 2.9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from radar_callback.errors import ConfigError


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps Muon and AdamW together; their parameter groups are shared, so that one schedule drives both.

    Args:
        model: Matrices inside its layers go to Muon; embeddings, filters, biases and gains to AdamW.
        lr: Learning rate, on the same scale for both.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                f"Expected torch 2.9 or newer for the demo's optimizer, but got {torch.__version__}: upgrade it."
            )
        matrices = [
            p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        inside = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in inside]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, ns_steps=4, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        super().__init__([{"params": matrices}, {"params": others}], {"lr": lr})
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Runs the closure once, then both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, for checkpoints."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
