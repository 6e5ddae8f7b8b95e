"""From an item to token ids and pixels: what the model sees, and which of its tokens are scored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radar_callback.benchmark.sample import Sample, decode_image
from radar_callback.errors import ConfigError, ItemError, RadarError, Reason
from radar_callback.scoring.item_text import ItemTextCheck
from radar_callback.scoring.processor_state import private_processor
from radar_callback.scoring.prompt import (
    PromptStyle,
    blank_image,
    image_placeholder,
    image_token,
    image_tokens,
    prompt_builder,
)

TARGETS = frozenset({"labels"})
"""What processors return for training only (PaliGemma always does): the model would compute a loss from it."""


@dataclass(frozen=True)
class Tail:
    """A candidate's tokens behind the prefix that all candidates of its item share.

    Attributes:
        ids: `[T]` int64, all tokens behind the prefix.
        scored: How many of them, counted from the end, hold text of the candidate. Fewer than T only if the tokeniser
            wrote the prompt's last characters differently before this candidate.
    """

    ids: Tensor
    scored: int

    @property
    def content(self) -> Tensor:
        """The scored ids, those at the end."""
        return self.ids[len(self.ids) - self.scored :]


@dataclass(frozen=True)
class EncodedSample:
    """One item, ready for a model.

    Attributes:
        prompt: The text before the candidates, image placeholders not expanded.
        prefix: Token-wise inputs of the shared prefix by name, each `[1, P, …]`: `input_ids`, `attention_mask` and whatever
            else the processor gives a value per token (`mm_token_type_ids`, …).
        tails: One for each candidate, the correct one first.
        vision: Inputs that belong to the images (`pixel_values`, `image_grid_thw`, …), as the processor made them.
        prompt_images: Images in it.
        vision_tokens: Tokens of the prefix that stand for images.
        tail_values: What the other token-wise inputs that say a token's kind hold for a candidate's tokens, where that is
            not 0: `token_type_ids` is 1 in PaliGemma, whose prefix is seen in both directions and whose answer is not.
    """

    prompt: str
    prefix: Mapping[str, Tensor]
    tails: tuple[Tail, ...]
    vision: Mapping[str, Tensor]
    prompt_images: int
    vision_tokens: int
    tail_values: Mapping[str, int] = field(default_factory=dict)

    @property
    def prefix_length(self) -> int:
        """Tokens in the shared prefix, images expanded."""
        return self.prefix["input_ids"].shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that the tensors take, in bytes."""
        tensors = [*self.prefix.values(), *self.vision.values(), *(tail.ids for tail in self.tails)]
        return sum(t.numel() * t.element_size() for t in tensors)


class SampleEncoder:
    """Turns items into model inputs with a Hugging Face processor.

    The processor sees an item once, with its images and the prompt alone. Where each candidate's tokens begin is then found
    by comparing token ids of the prompt with those of prompt and candidate together, because a tokeniser may join the end of
    the one with the start of the other: positions taken from the prompt's own length would be off. What else families do
    differently is asked of the processor once, with a blank image.

    Args:
        processor: A processor for images and text.
        config: The model's configuration (context length, image start and end tokens).
        prompt: See :func:`radar_callback.scoring.prompt.prompt_builder`.

    Raises:
        ConfigError: If the prompt style is unknown, the processor has no image token and `prompt` is not a function, or the
            processor cannot be asked at all.
    """

    def __init__(self, processor: Any, config: Any, prompt: PromptStyle = "plain") -> None:
        self._processor, self._guard = private_processor(processor)
        self._tokenizer = self._processor.tokenizer
        try:
            with self._guard():
                self._ask_processor(config, prompt)
        except RadarError:
            raise
        except Exception as error:  # a processor's own code raises whatever its authors chose
            raise ConfigError(
                "Expected a processor that is called as processor(text=[…], images=[[…]], return_tensors='pt') and has a Hugging "
                f"Face tokenizer, but {type(processor).__name__} raised {one_line(error)}: pass the one of this model."
            ) from error

    @property
    def processor(self) -> Any:
        """What encodes: a copy of the user's processor where that can be copied."""
        return self._processor

    def _ask_processor(self, config: Any, prompt: PromptStyle) -> None:
        """Learns what families do differently, from the processor itself."""
        processor = self._processor
        # A function may write a placeholder of its own for a processor that names none.
        unknown = callable(prompt) and image_token(processor) is None
        self._placeholder = "" if unknown else image_placeholder(processor, config)
        self._build_prompt = prompt_builder(prompt, processor, self._placeholder)
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._context = getattr(text_config, "max_position_embeddings", None)
        self._required = _required_inputs(config)
        self._unbreakable = set(getattr(self._tokenizer, "added_tokens_decoder", ()))
        self._closing = self._closing_tokens()
        self._ends_prompts = self._asks_answers_apart()
        self._tail_values = self._values_behind_prompts()
        self._single = not self._placeholder and not unknown and not self._places_several()
        self._mark_tokens = self._tokens_of_mark()
        self._text_check = ItemTextCheck(processor, self._added_tokens)

    def __call__(self, sample: Sample) -> EncodedSample:
        """Encodes one item.

        Raises:
            ItemError: If an image cannot be opened, the item's text holds a control token, the prompt style or the processor
                refuses the item, the model needs an image and there is none, or prompt and longest candidate exceed the
                model's context.
        """
        try:
            with self._guard():
                return self._encoded(sample)
        except ItemError:
            raise
        except Exception as error:  # processors, prompt functions and templates raise whatever their authors chose
            raise ItemError(Reason.NOT_ENCODABLE, f"item {sample.key!r}: {one_line(error)}") from error

    def _encoded(self, sample: Sample) -> EncodedSample:
        control = self._text_check.control_token(sample)
        if control is not None:
            raise self._not_text(sample, control)
        names = zip(sample.images, sample.image_names, strict=True)
        images = [decode_image(data, f"item {sample.key!r}, image {name}") for data, name in names]
        prompt = self._build_prompt(sample)
        if self._single and len(images) > 1:
            reason = f"item {sample.key!r} has {len(images)} images; this processor places one, before the text"
            raise ItemError(Reason.NOT_ENCODABLE, reason)
        inputs = self._process(prompt.text, images)
        seen = inputs["input_ids"][0]
        cut, tails = self._tails(seen.tolist(), prompt.text, prompt.joiner, sample.candidates, images)
        for tail in tails:
            # Each text is clean by itself; a question's end and a candidate's start may still spell a token together.
            control = self._text_check.among(tail.content.tolist())
            if control is not None:
                raise self._not_text(sample, f"{control!r} where question and candidate meet")
        if cut == 0 and any(tail.scored == len(tail.ids) for tail in tails):
            raise ItemError(
                Reason.NOT_ENCODABLE, f"item {sample.key!r}: no token of the prompt stands before a candidate"
            )
        if missing := self._required - set(inputs):
            reason = f"item {sample.key!r} has no image, and this model's forward needs {', '.join(sorted(missing))}"
            raise ItemError(Reason.NOT_ENCODABLE, reason)
        length = cut + max(len(tail.ids) for tail in tails)
        if self._context is not None and length > self._context:
            raise ItemError(
                Reason.TOO_LONG,
                f"item {sample.key!r} needs {length} tokens; the model's context holds {self._context}",
            )
        marks = len(images) * self._mark_tokens
        of_images = getattr(getattr(self._processor, "image_processor", None), "model_input_names", ())
        per_token = {
            name: value
            for name, value in inputs.items()
            if _is_per_token(value, len(seen)) and name not in of_images and name not in TARGETS
        }
        return EncodedSample(
            prompt=prompt.text,
            prefix={name: value[:, :cut] for name, value in per_token.items()},
            tails=tails,
            vision={
                name: value
                for name, value in inputs.items()
                if name not in per_token and name not in TARGETS and isinstance(value, Tensor)
            },
            prompt_images=len(images),
            vision_tokens=max(0, len(seen) - len(self._tokenizer(prompt.text)["input_ids"]) + marks),
            tail_values={name: value for name, value in self._tail_values.items() if name in per_token},
        )

    def _not_text(self, sample: Sample, control: str) -> ItemError:
        return ItemError(
            Reason.NOT_ENCODABLE,
            f"item {sample.key!r} has {control}, which {type(self._processor).__name__} reads as a control token and not as text",
        )

    def _process(self, text: str, images: Sequence[Image.Image], **more: Any) -> Mapping[str, Any]:
        # One list of images for each text: some families (LLaVA-OneVision) take a flat list for images of several texts, and
        # treat an image that is alone in its text differently.
        inputs: Mapping[str, Any] = self._processor(
            text=[text], images=[list(images)] if images else None, return_tensors="pt", **more
        )
        return inputs

    def _tails(
        self, seen: list[int], prompt: str, joiner: str, candidates: Sequence[str], images: Sequence[Image.Image]
    ) -> tuple[int, tuple[Tail, ...]]:
        """Where the shared prefix ends in the ids the processor made, and what each candidate puts behind it."""
        if self._ends_prompts:
            bare = [self._tokenizer(candidate, add_special_tokens=False)["input_ids"] for candidate in candidates]
            return len(self._open(seen)), tuple(Tail(torch.tensor(ids), scored=len(ids)) for ids in bare)
        texts = [prompt + joiner + candidate for candidate in candidates]
        # Without padding or images: expanding an image changes ids before the text that follows it, never after.
        alone, *together = (self._open(ids) for ids in self._tokenizer([prompt, *texts])["input_ids"])
        seen = self._open(seen)
        begin = [
            _content_start(self._tokenizer, prompt, text, ids, alone) for text, ids in zip(texts, together, strict=True)
        ]
        scored = [len(ids) - start for ids, start in zip(together, begin, strict=True)]
        shared = min(_common(alone, ids) for ids in together)
        after = [ids[shared:] for ids in together]
        cut = len(seen) - (len(alone) - shared)
        if not self._follows_text(seen, alone, cut):
            # The prompt ends in an image that the processor expands to more than unbreakable tokens (Gemma 3: line breaks),
            # and the tokeniser may join these with the candidate. Rare, so the whole text of each candidate is processed.
            wholes = [self._open(self._process(text, images)["input_ids"][0].tolist()) for text in texts]
            cut = min(_common(seen, ids) for ids in wholes)
            after = [ids[cut:] for ids in wholes]
        return cut, tuple(
            Tail(torch.tensor(ids), scored=min(n, len(ids))) for ids, n in zip(after, scored, strict=True)
        )

    def _follows_text(self, seen: list[int], alone: list[int], cut: int) -> bool:
        """Whether what comes before the cut is text of the prompt, or a token that is never joined with what follows."""
        if seen == alone:
            return True
        same = _common(alone[::-1], seen[::-1])
        behind = len(seen) - cut
        return behind < same or (behind == same and seen[cut - 1] in self._unbreakable)

    def _open(self, ids: list[int]) -> list[int]:
        """Ids without the tokens that the tokeniser puts behind every text."""
        return ids[: len(ids) - self._closing]

    def _closing_tokens(self) -> int:
        """How many tokens the tokeniser puts behind every text (an end-of-text token in a few families)."""
        ids = self._tokenizer("a")["input_ids"]
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        before = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
        return len(ids) - before - len(bare)

    def _asks_answers_apart(self) -> bool:
        """Whether the processor puts something of its own behind a prompt (PaliGemma: a line break).

        That is then what answers follow in this family, with no joiner and in tokens of their own.
        """
        text = f"{self._placeholder}a"
        try:
            seen = self._process(text, [blank_image()])["input_ids"][0].tolist()
        except Exception:  # a processor that refuses this will say why when it refuses the first item
            return False
        return self._open(seen)[-1] != self._open(self._tokenizer(text)["input_ids"])[-1]

    def _values_behind_prompts(self) -> dict[str, int]:
        """What the processor itself gives an answer's tokens, beside ids and attention mask; see `EncodedSample`."""
        takes_answers = "suffix" in inspect.signature(type(self._processor).__call__).parameters
        try:
            inputs = self._process(
                f"{self._placeholder}a", [blank_image()], **({"suffix": ["a"]} if takes_answers else {})
            )
        except Exception:
            return {}
        length = inputs["input_ids"].shape[1]
        return {
            name: int(value[0, -1])
            for name, value in inputs.items()
            if name not in {"input_ids", "attention_mask"} | TARGETS
            and _is_per_token(value, length)
            and value.ndim == 2
            and value[0, -1] != 0
        }

    def _tokens_of_mark(self) -> int:
        """Tokens that stand for an image before the processor expands it: one, or more if its mark is no token."""
        token = image_token(self._processor)
        if not self._placeholder or token is None:
            return 0
        return max(1, len(self._tokenizer(token, add_special_tokens=False)["input_ids"]))

    def _added_tokens(self, text: str) -> int | None:
        """How many ids the processor adds to a text that comes with one image; None if it refuses it."""
        whole = f"{self._placeholder}a{text}a"
        try:
            seen = self._process(whole, [blank_image()])["input_ids"][0]
        except Exception:
            return None
        return len(seen) - len(self._tokenizer(whole)["input_ids"])

    def _places_several(self) -> bool:
        """Whether a processor that places images by itself does so for each of several."""
        token = image_token(self._processor) or ""
        one, two = (image_tokens(self._processor, token, "a", images=n) for n in (1, 2))
        return two == 2 * one


def _required_inputs(config: Any) -> frozenset[str]:
    """Inputs that the forward of the model with this configuration cannot do without (BLIP-2: `pixel_values`)."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        forward = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].forward
    except KeyError:  # a model of the user's own
        return frozenset()
    # Names behind the first, which is the model itself.
    _, *parameters = inspect.signature(forward).parameters.values()
    return frozenset(p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common start of two lists."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _content_start(tokenizer: Any, prompt: str, text: str, ids: list[int], alone: list[int]) -> int:
    """Index of the first token that holds text of the candidate."""
    shared = _common(alone, ids)
    if shared == len(alone) or not getattr(tokenizer, "is_fast", False):
        return shared
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return next((i for i, (_, end) in enumerate(spans) if i >= shared and end > len(prompt)), shared)


def _is_per_token(value: object, length: int) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == 1 and value.shape[1] == length
