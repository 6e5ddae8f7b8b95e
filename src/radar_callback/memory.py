"""How much memory an evaluation needed beyond what the run had needed before, found without touching anybody's statistics."""

from __future__ import annotations

import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """The most memory that was ever in use: on the accelerator if there is one, else the process's RAM; 0 if not known.

    It is only read. Resetting it at each evaluation, as is usual to measure one part of a program, would spoil the user's own
    measurements; so what an evaluation needed is known only where that was more than anything before. (Once on an accelerator,
    when a model's way of scoring is settled, it has to be reset: see :func:`radar_callback.scoring.cost.bytes_a_token`.)

    Args:
        device: Where the model is.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
