"""Keeping the user's processor as it is: a private copy of it, or its state saved and restored around each use.

A call of a fast tokenizer through transformers switches off the truncation and padding that its Rust part was given, for good. A
collate function that uses the Rust part directly then makes other batches than before, or none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

MOST_HELD = 1000
"""Entries up to which a container's contents are saved: larger ones are vocabularies and memories."""

CUTTING = (
    "truncation",
    "truncation_strategy",
    "padding",
    "max_length",
    "stride",
    "pad_to_multiple_of",
    "return_overflowing_tokens",
)
"""Settings that processors hand to the tokenizer's call, and that make other tokens of a text."""

Guard = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a processor may be used."""


def private_processor(processor: Any) -> tuple[Any, Guard]:
    """Copies a processor so that using it changes nothing for the user, or says how to use it without a trace.

    Only processors of transformers are copied: others may hold anything, a whole model too. The copy's tokenizer neither
    truncates nor pads, whatever the user's does.

    Args:
        processor: The user's.

    Returns:
        A processor, and the guard to use it under.
    """
    from transformers import ProcessorMixin

    if isinstance(processor, ProcessorMixin):
        try:
            own = _copied(processor)
            _as_scored(own)
        except Exception:  # a tokenizer of somebody's own, with an open file or a lock in it
            pass
        else:
            return own, nullcontext
    return processor, partial(preserved, processor)


@contextmanager
def preserved(processor: Any) -> Iterator[None]:
    """Lets a processor be used without truncation and padding; afterwards all its settings are as before.

    Restored, after an exception too: the plain attributes of processor, tokenizer and image processor, by name and
    identity, what their lists and dictionaries hold, and the truncation, padding and special-token settings of a fast
    tokenizer.

    Args:
        processor: The user's.

    Example:
        >>> class Counting:
        ...     calls = 0
        ...     def __call__(self):
        ...         self.calls += 1
        >>> counting = Counting()
        >>> with preserved(counting):
        ...     counting()
        >>> counting.calls
        0
    """
    saved = [(part, _attributes(part)) for part in _parts(processor)]
    rust = _rust(processor)
    settings = None if rust is None else _rust_settings(rust)
    try:
        _as_scored(processor)
        yield
    finally:
        if settings is not None:
            _set_rust(rust, settings)
        for part, attributes in saved:
            _restore(part, attributes)


def _copied(processor: Any) -> Any:
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

    own = object.__new__(type(processor))
    # One memo: a part that is held under two names is copied once. What else a processor holds is shared.
    memo: dict[int, Any] = {}
    for name, value in vars(processor).items():
        if isinstance(value, (PreTrainedTokenizerBase, BaseImageProcessor)):
            value = copy.deepcopy(value, memo)
        elif isinstance(value, (dict, list)):
            value = copy.copy(value)
        vars(own)[name] = value
    theirs = _rust(processor)
    if own.tokenizer is processor.tokenizer or (theirs is not None and _rust(own) is theirs):
        raise TypeError("the tokenizer copies itself by handing itself out")
    return own


def _as_scored(processor: Any) -> None:
    """Switches off what would change the tokens of a text: truncation, padding, dropout, and splitting of placeholders."""
    tokenizer: Any = getattr(processor, "tokenizer", None)
    for settings in (_own(processor, "text_kwargs"), _own(tokenizer, "init_kwargs")):
        # A tokenizer that was saved while it truncated brings `max_length` along, which processors take for a wish.
        for name in CUTTING if isinstance(settings, dict) else ():
            settings.pop(name, None)
    if getattr(tokenizer, "split_special_tokens", False) is True:
        tokenizer.split_special_tokens = False
    rust = _rust(processor)
    if rust is not None:
        _set_rust(rust, RustSettings())


def _own(owner: Any, name: str) -> Any:
    """An attribute of the object itself: what its class holds is everybody's."""
    return getattr(owner, "__dict__", {}).get(name)


def _parts(processor: Any) -> list[Any]:
    parts = [processor, getattr(processor, "tokenizer", None), getattr(processor, "image_processor", None)]
    return [part for part in parts if hasattr(part, "__dict__")]


def _attributes(part: Any) -> dict[str, tuple[Any, Any]]:
    """Each attribute's value, and what it holds if that can change in place (but for vocabularies and the like)."""
    changeable = (MutableMapping, MutableSequence, MutableSet)
    return {
        name: (value, copy.copy(value) if isinstance(value, changeable) and len(value) <= MOST_HELD else None)
        for name, value in vars(part).items()
    }


def _restore(part: Any, attributes: dict[str, tuple[Any, Any]]) -> None:
    # Written past the classes' own `__setattr__`, which in tokenizers changes other settings as well.
    now = vars(part)
    for name in [name for name in now if name not in attributes]:
        del now[name]
    for name, (value, held) in attributes.items():
        if name not in now or now[name] is not value:
            now[name] = value
        if held is not None and not _same(held, value):
            value.clear()
            value.extend(held) if isinstance(value, MutableSequence) else value.update(held)


def _same(a: Any, b: Any) -> bool:
    """Whether two containers hold the same objects; by identity, as tensors and arrays have no plain equality."""
    if len(a) != len(b):
        return False
    if isinstance(a, MutableMapping):
        return all(name in b and value is b[name] for name, value in a.items())
    if isinstance(a, MutableSequence):
        return all(x is y for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _rust(processor: Any) -> Any:
    """The part of a fast tokenizer that is written in Rust, where there is one."""
    from tokenizers import Tokenizer

    rust = getattr(getattr(processor, "tokenizer", None), "backend_tokenizer", None)
    return rust if isinstance(rust, Tokenizer) else None


@dataclass(frozen=True)
class RustSettings:
    """What changes the tokens of a text in a fast tokenizer; by default nothing does.

    Attributes:
        truncation: Arguments of `enable_truncation`, or None.
        padding: Arguments of `enable_padding`, or None.
        encode_special_tokens: Whether special tokens are split like any text.
        dropout: Share of a BPE vocabulary's merges that are left out at random, or None.
    """

    truncation: dict[str, Any] | None = None
    padding: dict[str, Any] | None = None
    encode_special_tokens: bool = False
    dropout: float | None = None


def _rust_settings(rust: Any) -> RustSettings:
    return RustSettings(rust.truncation, rust.padding, rust.encode_special_tokens, getattr(rust.model, "dropout", None))


def _set_rust(rust: Any, wanted: RustSettings) -> None:
    now = _rust_settings(rust)
    if now.truncation != wanted.truncation:
        rust.no_truncation() if wanted.truncation is None else rust.enable_truncation(**wanted.truncation)
    if now.padding != wanted.padding:
        rust.no_padding() if wanted.padding is None else rust.enable_padding(**wanted.padding)
    if now.encode_special_tokens != wanted.encode_special_tokens:
        rust.encode_special_tokens = wanted.encode_special_tokens
    if now.dropout != wanted.dropout:
        rust.model.dropout = wanted.dropout
