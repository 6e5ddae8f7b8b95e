"""Text of an item is data: what a tokenizer or a processor would read in it as a control token is found, and the item refused.

A question about prompts may quote `<|im_end|>`, and an option about HTML may be `<image>`. Written into a prompt, such text
would end the turn, take the place of a picture, or make the processor fail. Only the item's own text is looked at: what a
template or a prompt function writes around it is the user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from radar_callback.benchmark.sample import IMAGE_MARK, Sample

MARKUP = re.compile(r"<[^\s<>]{1,40}>|\[[A-Z_]{2,20}\]")
"""What a processor might replace although it is no token: `<|placeholder|>`, `[IMG]`."""

_BRACKETED = re.compile(r"\s*(<.+>|\[.+\]|\{.+\}|\(.+\))\s*", re.DOTALL)


class ItemTextCheck:
    """Finds control tokens in the text of items.

    Args:
        processor: The model's.
        added: How many ids the processor adds to those of a text that is given to it behind one placeholder, or None if it
            refuses it. Asked for a plain text, and for each spelling that looks like markup: where they differ, the processor
            reads something into it.
    """

    def __init__(self, processor: Any, added: Callable[[str], int | None]) -> None:
        self._tokenizer = processor.tokenizer
        self._marks = image_marks(processor)
        self._ids = control_ids(processor.tokenizer)
        unknown = _unknown_token(processor.tokenizer)
        # Its id also stands for characters that the vocabulary lacks, so it is looked for in the text.
        self._spellings = [*self._marks, *([unknown] if unknown else [])]
        self._added = added
        self._usual = added("")
        self._read_as_text: dict[str, bool] = {}

    def control_token(self, sample: Sample) -> str | None:
        """The first control token in an item's question or candidates, and where; None if all of it is text."""
        pieces = [(piece, "question") for piece in sample.question.split(IMAGE_MARK) if piece]
        pieces += [(candidate, "candidate") for candidate in sample.candidates]
        ids = self._tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
        for (text, where), tokens in zip(pieces, ids, strict=True):
            spelling = self._first(text, tokens)
            if spelling is not None:
                return f"{spelling!r} in its {where}"
        return None

    def among(self, ids: Sequence[int]) -> str | None:
        """The first control token among the ids that stand for a candidate."""
        return next((str(self._tokenizer.convert_ids_to_tokens(i)) for i in ids if i in self._ids), None)

    def _first(self, text: str, ids: Sequence[int]) -> str | None:
        spelled = next((spelling for spelling in self._spellings if spelling in text), None)
        return spelled or self.among(ids) or next((m for m in MARKUP.findall(text) if not self._is_text(m)), None)

    def _is_text(self, spelling: str) -> bool:
        if spelling not in self._read_as_text:
            self._read_as_text[spelling] = self._usual is None or self._added(spelling) == self._usual
        return self._read_as_text[spelling]


def image_marks(processor: Any) -> list[str]:
    """Spellings that a processor itself looks for in a text, in its vocabulary or not (its `image_token` and others)."""
    names = [name for name in dir(processor) if name.endswith(("_token", "_tag")) and not name.startswith("_")]
    found = [(name, _attribute(processor, name)) for name in names]
    found.append(("image_token", _attribute(processor.tokenizer, "image_token")))
    spellings = [(name, getattr(value, "content", value)) for name, value in found]
    return sorted({s for name, s in spellings if isinstance(s, str) and s and ("image" in name or _is_bracketed(s))})


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property that needs what is not there
        return None


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer's special tokens, but for those that plain text may become anyway.

    That is the token for unknown text, and a special token that is an ordinary word ("!" for padding). Tokens that were added
    without being special (`<loc0001>`, words of a domain) are text.
    """
    tokens = {
        id: str(getattr(token, "content", token))
        for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if getattr(token, "special", True)
    }
    tokens.update(
        zip(getattr(tokenizer, "all_special_ids", []), getattr(tokenizer, "all_special_tokens", []), strict=False)
    )
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(id for id, token in tokens.items() if id != unknown and not _is_word(tokenizer, token, id))


def _unknown_token(tokenizer: Any) -> str | None:
    """The spelling of the token for unknown text, where that is no text: `<unk>`.

    Vocabularies without one (GPT-2, Qwen) name the end-of-text token instead. There it is what plain text may become, as in the
    published scripts.
    """
    unknown = getattr(tokenizer, "unk_token", None)
    if not isinstance(unknown, str) or unknown == getattr(tokenizer, "eos_token", None):
        return None
    return unknown if _is_bracketed(unknown) else None


def _is_word(tokenizer: Any, spelling: str, id: int) -> bool:
    """Whether a special token is what its spelling becomes without special tokens as well."""
    if _is_bracketed(spelling):
        return False
    try:
        plain = tokenizer(spelling, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    except Exception:  # a tokenizer of somebody's own
        return len(spelling.strip()) <= 1
    return list(plain) == [id]


def _is_bracketed(spelling: str) -> bool:
    """Whether nobody would take a spelling for a word.

    Example:
        >>> [_is_bracketed(spelling) for spelling in ("<|im_end|>", "[IMG]", "!", "the")]
        [True, True, False, False]
    """
    return bool(_BRACKETED.fullmatch(spelling))
