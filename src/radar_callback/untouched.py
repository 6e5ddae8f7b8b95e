"""Leaving training as it was: everything an evaluation could change, put back whatever happens."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from radar_callback.module_state import ModuleState

log = logging.getLogger(__name__)

_said: set[str] = set()


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Puts models into evaluation mode without gradients; afterwards training goes on as if nothing had been.

    Restored, after an exception too: the random streams of Python, numpy, torch and the current accelerator; the train flag
    of every single module (a frozen tower kept in eval mode stays there); buffers, attributes, hooks and all else that modules
    write in a forward although they are in evaluation mode (see :class:`radar_callback.module_state.ModuleState`); grad mode.
    `no_grad` rather than `inference_mode`: tensors that a module caches in inference mode cannot be saved for a later backward.

    What has changed and could not be put back is said once in the log: a large tensor that is no buffer, written in place.

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
    state = ModuleState(models)
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
            _say(state.restore())


def _say(changed: Sequence[str]) -> None:
    for name in changed:
        if name not in _said:
            _said.add(name)
            log.warning("An evaluation has changed %s: training may differ from a run without it.", name)


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
