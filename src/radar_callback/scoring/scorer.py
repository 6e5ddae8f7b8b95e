"""What the ways of scoring a batch have in common: one call of the model's top-level forward, and means of its logits."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import CandidateScores, Reading, to_model


class Scorer(ABC):
    """A way to score batches of items. Only the model's top-level forward is called, so wrappers around it keep working.

    Args:
        model: Any Hugging Face image-text-to-text model, wrapped or not. It is neither put into evaluation mode nor shielded
            from gradients here: see :func:`radar_callback.untouched.untouched`.
        pad_token_id: Filler for shorter rows; masked, so any id that is no image token will do.
        forward_context: Makes the context each forward runs in (autocast of a precision plugin). Means are taken outside it,
            in float32 or better.
    """

    name: ClassVar[str]
    together: ClassVar[bool]
    """Whether all candidates of an item stand in one row."""

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self._forward_context = forward_context
        parameter = next(p for p in model.parameters() if p.is_floating_point())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._parameters = inspect.signature(unwrapped(model).forward).parameters

    @abstractmethod
    def __call__(self, samples: Sequence[EncodedSample]) -> CandidateScores:
        """Scores a batch of items.

        Args:
            samples: At least one item; numbers of candidates may differ, numbers of images may not.

        Returns:
            `[N, K]` with K the largest number of candidates. NaN or infinite logits stay what they are.
        """

    def _accepts(self, name: str) -> bool:
        variable = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values())
        return name in self._parameters or variable

    def _read(self, inputs: dict[str, Tensor], reading: Reading) -> CandidateScores:
        """One forward, without a cache, and the means of what it predicts."""
        options: dict[str, Any] = {"use_cache": False} if self._accepts("use_cache") else {}
        if "logits_to_keep" in self._parameters:
            options["logits_to_keep"] = reading.keep
        with self._forward_context():
            logits = self.model(**to_model(inputs, self._device, self._dtype), **options).logits
        with torch.autocast(device_type=self._device.type, enabled=False):
            return reading.to(self._device).means(logits)


def unwrapped(model: nn.Module) -> Any:
    """The Hugging Face model inside wrappers such as DDP and torch.compile: to look at, never to be called."""
    inner: Any = model
    while not hasattr(inner, "config") or hasattr(inner, "_orig_mod"):
        following = getattr(inner, "module", None) or getattr(inner, "_orig_mod", None)
        if following is None:
            return inner
        inner = following
    return inner
