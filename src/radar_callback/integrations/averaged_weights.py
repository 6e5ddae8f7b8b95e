"""Averaged weights beside those that training steps on: which averages there are, and how they are put into a model for a moment.

Known are Lightning's `WeightAveraging` (and `EMAWeightAveraging`), its `StochasticWeightAveraging`, and optimizers with `train()`
and `eval()`, as schedule-free ones have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

from radar_callback.errors import ConfigError
from radar_callback.scoring.scorer import needs_every_rank


def averaging_in(trainer: Trainer) -> list[str]:
    """Names what averages weights in a run, callbacks first."""
    callbacks = [type(c).__name__ for c in _averaging_callbacks(trainer)]
    return callbacks + [type(o).__name__ for o in _averaging_optimizers(trainer)]


def other_averaging_in(trainer: Trainer) -> list[str]:
    """Names callbacks that look as if they averaged weights in a way that is not known here."""
    known = _averaging_callbacks(trainer)
    names = [type(c).__name__ for c in trainer.callbacks if c not in known]  # type: ignore[attr-defined]
    return [name for name in names if "EMA" in name or "Averag" in name]


@contextmanager
def averaged_weights(trainer: Trainer, pl_module: LightningModule, model: nn.Module) -> Iterator[None]:
    """Puts averaged weights into a model; afterwards it holds the bits that it held, after an exception too.

    Where averaging has not begun yet, the weights are left as they are.

    Args:
        trainer: Of the run.
        pl_module: What is being trained.
        model: What is to be scored.

    Raises:
        ConfigError: If the model is spread over ranks, or the average is not of this model.
    """
    if needs_every_rank(model):
        raise ConfigError(
            "Expected weights='averaged' with a model that is whole on every rank, but this one is sharded: pass "
            "RadarCallback(weights=…), a function (trainer, module) -> context manager that swaps them."
        )
    with ExitStack() as stack:
        for callback in _averaging_callbacks(trainer):
            stack.enter_context(_swapped(_average_of(callback), pl_module, model))
        for optimizer in _averaging_optimizers(trainer):
            stack.enter_context(_evaluating(optimizer))
        yield


def _averaging_callbacks(trainer: Trainer) -> list[Any]:
    kinds = (WeightAveraging, StochasticWeightAveraging)
    return [callback for callback in trainer.callbacks if isinstance(callback, kinds)]  # type: ignore[attr-defined]


def _averaging_optimizers(trainer: Trainer) -> list[Any]:
    switches = ("train", "eval")
    return [one for one in trainer.optimizers if all(callable(getattr(one, name, None)) for name in switches)]


def _average_of(callback: Any) -> dict[str, Tensor]:
    """The averages by the names that they have in the LightningModule; none before averaging began."""
    average = callback._average_model
    if isinstance(callback, WeightAveraging):
        if average is None or int(average.n_averaged) == 0:
            return {}
        return {**dict(average.module.named_parameters()), **dict(average.module.named_buffers())}
    if average is None or callback.n_averaged is None or int(callback.n_averaged) == 0:
        return {}
    return dict(average.named_parameters())


@contextmanager
def _swapped(average: dict[str, Tensor], pl_module: LightningModule, model: nn.Module) -> Iterator[None]:
    """Lets the model's tensors stand for other storage, so that nothing is copied and nothing is rounded."""
    if not average:
        yield
        return
    names = {id(x): name for name, x in [*pl_module.named_parameters(), *pl_module.named_buffers()]}
    pairs = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        mean = average.get(names.get(id(tensor), ""))
        if mean is not None and mean.shape == tensor.shape:
            pairs.append((tensor, mean.detach().to(tensor.device, tensor.dtype)))
        elif isinstance(tensor, nn.Parameter):
            raise ConfigError(f"Expected an average of the weights {name!r}, but what averages weights has none.")
    with _kept([tensor for tensor, _ in pairs]):
        for tensor, mean in pairs:
            tensor.data = mean
        yield


@contextmanager
def _kept(tensors: list[Tensor]) -> Iterator[None]:
    kept = [(tensor, tensor.data) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


@contextmanager
def _evaluating(optimizer: Any) -> Iterator[None]:
    """Switches an optimizer to the weights that are to be used, if it is not there yet."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    before = [(p, p.data, p.detach().clone()) for p in weights]
    mode = _mode(optimizer)
    optimizer.eval()
    moved = any(p.data_ptr() != data.data_ptr() or not torch.equal(p, bits) for p, data, bits in before)
    try:
        yield
    finally:
        if moved or _mode(optimizer) != mode:
            optimizer.train()
            with torch.no_grad():
                for p, _, bits in before:
                    # Where the way there and back is arithmetic, it rounds.
                    if not torch.equal(p, bits):
                        p.copy_(bits)


def _mode(optimizer: Any) -> list[dict[str, Any]]:
    """What an optimizer notes about itself in plain attributes, which tells whether it was switched."""
    plain = [vars(optimizer), *optimizer.param_groups]
    return [{name: value for name, value in of.items() if isinstance(value, bool | int)} for of in plain]
