"""What the ways of scoring a batch have in common: calls of the model's top-level forward, and means of its logits."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from radar_callback.errors import LogitsError, RadarError
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.outputs import OutputWidths, read_logits
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
        words: Words of the tokenizer, which logits are at least as wide as; 0 where that is not known.
    """

    name: ClassVar[str]
    together: ClassVar[bool]
    """Whether all candidates of an item stand in one row."""

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        words: int = 0,
    ) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self._forward_context = forward_context
        parameter = a_parameter(model)
        self._device, self._dtype = parameter.device, parameter.dtype
        inner = unwrapped(model)
        self._who = type(inner).__name__
        self._widths = OutputWidths.of(inner, words)
        self._parameters = inspect.signature(inner.forward).parameters
        self._handed_on = _handed_on(inner)
        self._takes_places = _takes_places(inner, self._accepts("logits_to_keep"))
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
        """Whether the forward names a parameter: what only `**kwargs` takes may be ignored there without a word."""
        return name in self._parameters or name in self._handed_on

    def _forward(
        self, inputs: dict[str, Tensor], keep: Tensor, *, largest: int, use_cache: bool = False, **options: Any
    ) -> tuple[Tensor, Any]:
        """One forward.

        Args:
            inputs: By name.
            keep: `[rows, length]` boolean, in main memory: where logits are needed.
            largest: Largest token id that is read.
            use_cache: Whether keys and values are wanted.
            options: What else the model is given.

        Returns:
            Logits `[N, vocabulary]` where `keep` is true, row by row, and all that the model returned.

        Raises:
            LogitsError: If what came back are no logits of these rows.
        """
        if self._accepts("use_cache"):
            options["use_cache"] = use_cache
        ids = inputs["input_ids"]
        self.fed += ids.numel()
        self.padded += ids.numel() - int(inputs["attention_mask"][:, -ids.shape[1] :].sum())
        # Counted here, in main memory: asked of the accelerator, they would make it wait.
        wanted = keep.any(0).nonzero()
        places = last = None
        if self._takes_places:
            places = int(keep.sum())
        elif "logits_to_keep" in self._parameters:
            # Where nothing is wanted (all candidates are one token long) one column is as few as can be asked for.
            last = keep.shape[1] - int(wanted[0]) if len(wanted) else 1
        keep = keep.to(self._device)
        if places is not None or last is not None:
            options["logits_to_keep"] = keep if last is None else last
        # Rows have other lengths than those of training: a compiled model would be compiled again for each.
        with self._forward_context(), torch.compiler.set_stance("force_eager"):
            self.calls += 1
            output = self.model(**to_model(inputs, self._device, self._dtype), **options)
        logits = read_logits(output, self._who, keep.shape[0], keep.shape[1], places, last)
        if (complaint := self._widths.complaint(logits.shape[-1], largest)) is not None:
            raise LogitsError(
                f"Expected logits over a vocabulary of {self._who}.forward, but got {complaint}: "
                "does it return hidden states, or is the tokenizer another model's?"
            )
        if logits.ndim == 3:  # all columns, or the last ones
            logits = logits[keep[:, keep.shape[1] - logits.shape[1] :]]
        return logits, output


_WRAPPED: Mapping[str, tuple[str, ...]] = {
    "DataParallel": ("module",),
    "DistributedDataParallel": ("module",),
    "FullyShardedDataParallel": ("_fsdp_wrapped_module", "module"),
    "DeepSpeedEngine": ("module",),
    "AveragedModel": ("module",),
    "CheckpointWrapper": ("_checkpoint_wrapped_module",),
    "OptimizedModule": ("_orig_mod",),
    "Rooted": ("module",),
}
"""Classes of wrappers, and under which name each keeps what it wraps."""

_ADAPTED = {"PeftModel", "PeftMixedModel"}
"""Classes of PEFT's, which put adapters into what they wrap and are asked for it."""


def unwrapped(model: nn.Module) -> Any:
    """The model inside known wrappers such as DDP, torch.compile and PEFT: to look at, never to be called.

    A module of somebody's own is no wrapper, whatever it calls what it holds: its forward may take other arguments and say other
    things than what is inside.

    Args:
        model: Any module.

    Example:
        >>> class Adapter(nn.Module):
        ...     def __init__(self, module):
        ...         super().__init__()
        ...         self.module = module
        >>> inner = nn.Linear(2, 2)
        >>> type(unwrapped(Adapter(inner))).__name__, unwrapped(nn.DataParallel(inner)) is inner
        ('Adapter', True)
    """
    inner: Any = model
    while (wrapped := _inside(inner)) is not None:
        inner = wrapped
    return inner


def _inside(module: Any) -> Any:
    """What a wrapper wraps; None for what is none."""
    kinds = [kind.__name__ for kind in type(module).__mro__]
    if _ADAPTED & {*kinds} and hasattr(module, "get_base_model"):
        return module.get_base_model()
    children = vars(module).get("_modules", {})
    names = [name for kind in kinds for name in _WRAPPED.get(kind, ())]
    return next((children[name] for name in names if children.get(name) is not None), None)


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


def _handed_on(inner: Any) -> frozenset[str]:
    """What a forward takes without naming it: transformers' own hand on to their text model what they do not know.

    No other forward's `**kwargs` are counted on, those of classes that inherit from transformers' included.
    """
    parameters = inspect.signature(inner.forward).parameters.values()
    if not _by_transformers(inner) or not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return frozenset()
    find = getattr(inner, "get_decoder", None)
    text = find() if find else None
    if not isinstance(text, nn.Module) or text is inner:
        return frozenset()
    named = inspect.signature(text.forward).parameters.values()
    return frozenset(p.name for p in named if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY})


def _by_transformers(inner: Any) -> bool:
    return str(type(inner).forward.__module__).startswith("transformers.")


def _takes_places(inner: Any, accepts: bool) -> bool:
    """Whether `logits_to_keep` may be a boolean `[rows, length]`: so since transformers has one function for all models."""
    from transformers import modeling_utils

    return accepts and _by_transformers(inner) and hasattr(modeling_utils, "slice_logits_to_keep")
