"""What the ways of scoring a batch have in common: calls of the model's top-level forward, and means of its logits."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from radar_callback.errors import RadarError
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import CandidateScores, Reading, to_model


class NotSupportedError(RadarError):
    """A way of scoring cannot be used with this model; another one can."""


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
        parameter = a_parameter(model)
        self._device, self._dtype = parameter.device, parameter.dtype
        inner = unwrapped(model)
        self._parameters = inspect.signature(inner.forward).parameters
        self._takes_places = _takes_places(inner)
        self.fed = self.padded = 0
        """Tokens given to the model so far, and how many of them were padding."""
        self.calls = 0
        """Forwards begun so far."""

    def __call__(self, samples: Sequence[EncodedSample]) -> CandidateScores:
        """Scores a batch of items.

        Args:
            samples: At least one item; numbers of candidates may differ, numbers of images may not.

        Returns:
            `[N, K]` with K the largest number of candidates. NaN or infinite logits stay what they are.
        """
        logits, reading = self.predict(samples)
        with torch.autocast(device_type=self._device.type, enabled=False):
            return reading.means(logits)

    @abstractmethod
    def predict(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Reading]:
        """Logits `[N, vocabulary]` at the places where a scored token is predicted, and which is read for which token."""

    def without_context(self) -> None:
        """Makes further forwards in no context, where that could not be made: other ranks wait for them."""
        self._forward_context = nullcontext

    def _accepts(self, name: str) -> bool:
        variable = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values())
        return name in self._parameters or variable

    def _forward(
        self, inputs: dict[str, Tensor], keep: Tensor, *, use_cache: bool = False, **options: Any
    ) -> tuple[Tensor, Any]:
        """One forward.

        Args:
            inputs: By name.
            keep: `[rows, length]` boolean: where logits are needed.
            use_cache: Whether keys and values are wanted.
            options: What else the model is given.

        Returns:
            Logits `[N, vocabulary]` where `keep` is true, row by row, and all that the model returned.
        """
        if self._accepts("use_cache"):
            options["use_cache"] = use_cache
        ids = inputs["input_ids"]
        self.fed += ids.numel()
        self.padded += ids.numel() - int(inputs["attention_mask"][:, -ids.shape[1] :].sum())
        keep = keep.to(self._device)
        if self._takes_places:
            options["logits_to_keep"] = keep
        elif "logits_to_keep" in self._parameters:
            wanted = keep.any(0).nonzero()
            # Where nothing is wanted (all candidates are one token long) one column is as few as can be asked for.
            options["logits_to_keep"] = keep.shape[1] - int(wanted[0]) if len(wanted) else 1
        # Rows have other lengths than those of training: a compiled model would be compiled again for each.
        with self._forward_context(), torch.compiler.set_stance("force_eager"):
            self.calls += 1
            output = self.model(**to_model(inputs, self._device, self._dtype), **options)
        logits: Tensor = output.logits
        if logits.ndim == 3:  # all columns, or the last ones
            columns = keep[:, keep.shape[1] - logits.shape[1] :]
            logits = logits[columns]
        return logits, output


def unwrapped(model: nn.Module) -> Any:
    """The Hugging Face model inside wrappers such as DDP, torch.compile and PEFT: to look at, never to be called."""
    inner: Any = model
    while True:
        children = vars(inner).get("_modules", {})
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif "_orig_mod" in children:
            inner = children["_orig_mod"]
        # DDP's, DeepSpeed's and FSDP's. The latter two have a `config` too: one of its own, and that of what it wraps.
        elif (wrapped := children.get("module", children.get("_fsdp_wrapped_module"))) is not None:
            inner = wrapped
        else:
            return inner


def a_parameter(model: nn.Module) -> Tensor:
    """A weight that says where a model lies and what it computes in: the first one that has a place and is no integer code."""
    placed = [p for p in model.parameters() if not p.is_meta]
    floating = (p for p in placed if p.is_floating_point())
    return next(floating, torch.empty(0, device=placed[0].device if placed else None))


def needs_every_rank(model: nn.Module) -> bool:
    """Whether a forward exchanges something between ranks: sharded weights, or the buffers that DDP sends around."""
    kinds = {type(p).__name__ for p in model.parameters()}
    return (
        bool(kinds & {"DTensor", "FlatParameter"})
        or any(hasattr(p, "ds_id") for p in model.parameters())
        or any(type(m).__name__ in {"DistributedDataParallel", "FullyShardedDataParallel"} for m in model.modules())
    )


def appearance(model: nn.Module) -> tuple[Any, ...]:
    """What a way of scoring was checked with: the classes around and in the model, their attention, precision and device."""
    parts = {
        (type(m).__qualname__, getattr(getattr(m, "config", None), "_attn_implementation", None))
        for m in model.modules()
    }
    parameters = {(p.dtype, p.device.type, type(p).__name__) for p in model.parameters()}
    return type(model).__qualname__, frozenset(parts), frozenset(parameters)


def _takes_places(inner: Any) -> bool:
    """Whether `logits_to_keep` may be a boolean `[rows, length]`: so since transformers has one function for all models."""
    from transformers import modeling_utils

    if not type(inner).forward.__module__.startswith("transformers.") or not hasattr(
        modeling_utils, "slice_logits_to_keep"
    ):
        return False
    # BLIP-2 hands on what it does not know itself.
    forwards = [inner.forward, getattr(getattr(inner, "language_model", None), "forward", inner.forward)]
    return any("logits_to_keep" in inspect.signature(forward).parameters for forward in forwards)
