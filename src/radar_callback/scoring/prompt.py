"""From an item to the text that stands before each candidate.

Four ways to say how: `"plain"`, `"chat"`, a template string, or a function. A model under pre-training has seen captions, so
`plain` is the default: the images, the question, one space, the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from PIL import Image

from radar_callback.benchmark.sample import IMAGE_MARK, Sample
from radar_callback.errors import ConfigError, ItemError, Reason

PromptStyle = str | Callable[[Sample, str], str]
"""`"plain"`, `"chat"`, a template with `{question}`, or `function(sample, image_placeholder) -> text`."""


@dataclass(frozen=True)
class Prompt:
    """Text before a candidate.

    Attributes:
        text: With one image placeholder for each image.
        joiner: What stands between it and a candidate; belongs to the candidate when tokens are scored, as in the paper's
            scripts.
    """

    text: str
    joiner: str


class PromptBuilder(Protocol):
    """A prompt style bound to a processor."""

    def __call__(self, sample: Sample) -> Prompt:
        """The prompt of one item."""
        ...


def prompt_builder(style: PromptStyle, processor: Any, placeholder: str) -> PromptBuilder:
    r"""Binds a prompt style to a processor.

    Args:
        style: `"plain"`: images (where the question does not place them itself), question; joined by one space, which is
            what the paper's Qwen2-VL script does. `"chat"`: the processor's chat template, one user turn, up to where the
            assistant's answer begins. A template such as `"{images}\nQ: {question}\nA:"`: joined by one space unless it
            ends in white space, or exactly as it says with `{answer}` at its end; without `{images}` they come first. A
            function `(sample, image_placeholder) -> text`, joined like a template.
        processor: Used for its chat template only.
        placeholder: Text that stands for one image in this processor's input.

    Raises:
        ConfigError: If the style is unknown, or `"chat"` is asked for and the processor has no chat template.
    """
    if callable(style):
        return partial(_written, style, placeholder)
    if style == "plain":
        return partial(_plain, placeholder)
    if style == "chat":
        if not getattr(processor, "chat_template", None):
            raise ConfigError(
                "Expected a processor with a chat template for prompt='chat', but this one has none: use prompt='plain' or "
                "a template with {question}."
            )
        return partial(_chat, processor)
    if isinstance(style, str) and "{question}" in style:
        return _template(style, placeholder)
    raise ConfigError(
        f"Unknown prompt style {style!r}: expected 'plain', 'chat', a template with {{question}} in it, or a function "
        "(sample, image_placeholder) -> text."
    )


def image_placeholder(processor: Any, config: Any) -> str:
    """Text that stands for one image in a processor's input, found by asking processor and model.

    Args:
        processor: A Hugging Face processor.
        config: The model's configuration; families that wrap an image in start and end tokens name these there.

    Returns:
        Empty for a processor that puts image tokens before every text by itself (BLIP-2), where a placeholder would be one
        image token too many.

    Raises:
        ConfigError: If the processor names no image token.
    """
    token = image_token(processor)
    if token is None:
        raise ConfigError(
            f"Found no image token in {type(processor).__name__}: pass prompt=<function (sample, image_placeholder) -> text> "
            "that writes the placeholder itself."
        )
    ends = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    placeholder = token
    if None not in ends:
        before, after = processor.tokenizer.convert_ids_to_tokens(ends)
        placeholder = f"{before}{token}{after}"
    unasked = image_tokens(processor, token, "a", images=1)
    if unasked and image_tokens(processor, token, placeholder + "a", images=1) > unasked:
        return ""
    return placeholder


def image_token(processor: Any) -> str | None:
    """The token that stands for an image, or for a part of one, in a processor's input; none if it names none."""
    token = getattr(processor, "image_token", None) or getattr(processor.tokenizer, "image_token", None)
    return None if token is None else str(token)


def image_tokens(processor: Any, token: str, text: str, images: int) -> int:
    """How many image tokens a processor makes of a text with a number of blank images; 0 if it refuses them."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # some warn of a text without placeholder, which is what is asked here
    try:
        ids = processor(text=[text], images=[[blank_image()] * images], return_tensors="pt")["input_ids"]
    except Exception:  # a processor's checks raise whatever its authors chose
        return 0
    finally:
        transformers_logging.set_verbosity(verbosity)
    id = token_id(processor.tokenizer, token)
    if id is None:
        # Whatever stands for an image then, it is not in the text that goes with it.
        return max(0, len(ids[0]) - len(processor.tokenizer(text.replace(token, "") if token else text)["input_ids"]))
    return int((ids == id).sum())


def token_id(tokenizer: Any, token: str) -> int | None:
    """The id of a token of the vocabulary; None for any other text."""
    id = tokenizer.convert_tokens_to_ids(token) if token else None
    unknown = getattr(tokenizer, "unk_token_id", None)
    if id is None or (id == unknown and token != getattr(tokenizer, "unk_token", None)):
        return None
    return int(id)


def blank_image() -> Image.Image:
    """A small black image to ask processors with."""
    return Image.new("RGB", (64, 64))


def _fill(sample: Sample, placeholder: str) -> str:
    return sample.question.replace(IMAGE_MARK, placeholder)


def _lead(sample: Sample, placeholder: str) -> str:
    """The images that the question does not place itself."""
    return "" if IMAGE_MARK in sample.question else placeholder * len(sample.images)


def _joined(text: str) -> Prompt:
    return Prompt(text, joiner="" if text[-1:].isspace() else " ")


def _template(style: str, placeholder: str) -> PromptBuilder:
    before, answer, behind = style.partition("{answer}")
    if behind.strip():
        raise ConfigError(
            f"Expected {{answer}} at the end of the prompt template, but {behind!r} follows it: candidates are scored by "
            "what stands before them; leave it out."
        )
    lead = "" if "{images}" in before else "{images}"
    return partial(_filled, lead + before, bool(answer), placeholder)


# Functions of the module rather than closures, since worker processes that start afresh get the encoder pickled.


def _plain(placeholder: str, sample: Sample) -> Prompt:
    return Prompt(_lead(sample, placeholder) + _fill(sample, placeholder), joiner=" ")


def _written(style: Callable[[Sample, str], str], placeholder: str, sample: Sample) -> Prompt:
    return _joined(style(sample, placeholder))


def _filled(template: str, answer: bool, placeholder: str, sample: Sample) -> Prompt:
    # Plain replacement: questions hold braces (LaTeX), which str.format would take for fields.
    text = template.replace("{images}", _lead(sample, placeholder)).replace("{question}", _fill(sample, placeholder))
    return Prompt(text, joiner="") if answer else _joined(text)


def _chat(processor: Any, sample: Sample) -> Prompt:
    pieces = sample.question.split(IMAGE_MARK)
    content: list[dict[str, str]] = []
    if len(pieces) == 1:
        content += [{"type": "image"}] * len(sample.images)
    for i, piece in enumerate(pieces):
        if i:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    if not all(piece.strip() in text for piece in pieces):
        # The *base* checkpoints of Qwen2-VL ship a template that drops the question without a word.
        raise ItemError(
            Reason.NOT_ENCODABLE,
            f"item {sample.key!r}: the chat template left out the question; use prompt='plain' or an instruct checkpoint's "
            "template",
        )
    return Prompt(str(text), joiner="")
