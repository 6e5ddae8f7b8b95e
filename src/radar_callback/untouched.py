"""Leaving training as it was: everything an evaluation could change, put back whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

TRANSIENT = ("rope_deltas",)
"""Plain attributes that models write during a forward. Qwen-VL models keep the last batch's position offset in
`rope_deltas`; transformers' VLMs were searched for others and have none."""


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Puts models into evaluation mode without gradients; afterwards training goes on as if nothing had been.

    Restored, after an exception too: the random streams of Python, numpy, torch and the current accelerator; the train flag
    of every single module (a frozen tower kept in eval mode stays there); buffers that a module moved although it was in
    evaluation mode; the attributes in :data:`TRANSIENT`; grad mode. `no_grad` rather than `inference_mode`: tensors that
    a module caches in inference mode cannot be saved for a later backward.

    Flags are set directly rather than through `eval()`, which modules override with side effects.

    Args:
        models: What the evaluation calls, and whatever contains it.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with untouched(model):
        ...     [m.training for m in model]
        [False, False]
        >>> [m.training for m in model]
        [True, False]
    """
    modules = {id(m): m for model in models for m in model.modules()}.values()
    flags = [(m, m.training) for m in modules]
    buffers = {id(b): b for model in models for b in model.buffers()}.values()
    saved_buffers = [(b, b._version, b.detach().clone()) for b in buffers]
    transient = [(m, name, vars(m)[name]) for m in modules for name in TRANSIENT if name in vars(m)]
    with ExitStack() as stack:
        stack.enter_context(_random_streams())
        stack.enter_context(torch.no_grad())
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            for module, name, value in transient:
                setattr(module, name, value)
            for buffer, version, value in saved_buffers:
                if buffer._version != version:
                    with torch.no_grad():
                        buffer.copy_(value)


@contextmanager
def _random_streams() -> Iterator[None]:
    """Restores Python's, numpy's, torch's and the current accelerator's random state."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = accelerator.type if accelerator else "cuda"
    # Of the current device only: asking for every device would make a context on each GPU of the node.
    devices = [torch.accelerator.current_device_index()] if accelerator else []
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)
