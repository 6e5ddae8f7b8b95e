"""Where images go in a question: the mark `<image>`, and what other kits write in its place.

Used when a benchmark is built and when an item is read to be scored, so that every prompt style has its images in one place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from radar_callback.benchmark.sample import IMAGE_MARK, Sample
from radar_callback.errors import BenchmarkError
from radar_callback.quoting import quoted

log = logging.getLogger(__name__)

MARKS = re.compile(
    r"""
    # <Img><ImageHere></Img>, <img>1.png</img>, <image>./</image>
      <(?P<pair>image|img)>(?:\./|[^<>\s]+\.\w{2,4}|<image(?:here)?>)?</(?P=pair)>
    # <image 1>, <image_1>, <image1>, <|image_1|>
    | <\|?(?:image|img)[ _:#-]*(?P<number>\d{1,4})[ ]*/?\|?>
    # <image>, <IMAGE>, <image/>, <ImageHere>, <image-placeholder>, <|image|>
    | <\|?image(?:[ _-]?(?:here|placeholder))?[ ]*/?\|?>
    # [IMAGE_1], [IMAGE], but not [Image 1], as people write
    | \[(?-i:IMAGE|IMG)_?(?P<in_brackets>\d{1,4})\] | \[(?-i:IMAGE)\]
    # {image}, {{image_1}}, but not \text{image}
    | (?<![\\\w^}\])$])\{\{?[ ]?(?:image|img)[ _]?(?P<in_braces>\d{0,4})[ ]?\}\}?(?!\})
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""All that stands for an image, the mark itself included."""

MODEL_TOKENS = re.compile(
    r"<\|image_pad\|>|<\|vision_(?:start|end)\|>|<IMG_CONTEXT>|<image_soft_token>|<(?:start|end)_of_image>|<\|media_pad\|>"
    r"|<\|image_token\|>|<fake_token_around_image>|<im_patch>|<image_pad>|\[IMG\]"
)
"""By which some models mark images. In a shard they are text like any other: which model will be scored is not known."""

_AS_TEXT = "if it is meant as text, put a blank behind its first character"


@dataclass(frozen=True)
class Placement:
    """Where an item's images go.

    Attributes:
        question: With `<image>` marks only, or none.
        order: For each image shown, its position among the item's images.
        left: A mark that stays in the texts as text, since it names none of the images; None if there is none.
    """

    question: str
    order: tuple[int, ...]
    left: str | None = None


def place_images(question: str, images: int, options: Sequence[str] = ()) -> Placement:
    """Finds where each image goes.

    Numbers in marks count from 1; an image that is named twice is shown twice. Where numbers go beyond the item's images, as in
    MATH-Vision, whose tags name parts of one picture, its marks are text.

    Args:
        question: With `<image>` marks, marks of other kits, or none.
        images: How many the item has.
        options: All of them.

    Raises:
        BenchmarkError: If the question's marks do not place every image, or an option is one of the images, which cannot be
            scored.

    Example:
        >>> place_images("Is <image 2> like <image 1>?", 2)
        Placement(question='Is <image> like <image>?', order=(1, 0), left=None)
    """
    marks = _marks(question)
    others = [mark for mark in marks if mark.group() != IMAGE_MARK]
    in_options = [(mark, option) for option in options for mark in _marks(option) if mark.group() != IMAGE_MARK]
    beyond = [mark for mark in [*others, *(mark for mark, _ in in_options)] if (_number(mark) or 0) > images]
    as_they_stand = tuple(range(images))
    if beyond and images:
        return Placement(question, as_they_stand, left=beyond[0].group())
    if in_options:
        mark, option = in_options[0]
        raise BenchmarkError(
            f"Expected options of text, but {quoted(option)} holds {quoted(mark.group())}, the mark of an image: show the "
            f"options in the question and use their letters; {_AS_TEXT}."
        )
    if not others:
        return Placement(question, as_they_stand)
    numbers = [number for mark in marks if (number := _number(mark)) is not None]
    first = others[0].group()
    if not numbers and len(marks) != images:
        raise _wrong(first, f"its {len(marks)} marks have to place {images} images")
    if numbers and len(numbers) < len(marks):
        raise _wrong(first, "some of its marks have a number and some have none")
    if numbers and set(numbers) != set(range(1, images + 1)):
        raise _wrong(first, f"its numbers are {_listed(numbers)} where its {images} images are numbered from 1")
    order = tuple(number - 1 for number in numbers) if numbers else as_they_stand
    return Placement(MARKS.sub(IMAGE_MARK, question), order)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))[:5]))


def _marks(text: str) -> list[re.Match[str]]:
    # Most texts hold none of these characters, and looking for them costs nothing.
    return list(MARKS.finditer(text)) if "<" in text or "[" in text or "{" in text else []


def _number(mark: re.Match[str]) -> int | None:
    digits = mark["number"] or mark["in_brackets"] or mark["in_braces"]
    return int(digits) if digits else None


def _wrong(mark: str, problem: str) -> BenchmarkError:
    return BenchmarkError(
        f"Expected a question whose marks place each image, but it holds {quoted(mark)} and {problem}: write {IMAGE_MARK} "
        f"where each image goes; {_AS_TEXT}."
    )


def has_other_marks(texts: Sequence[str]) -> bool:
    """Whether texts hold a mark of another kit."""
    return any(mark.group() != IMAGE_MARK for text in texts for mark in _marks(text))


def refuse_model_tokens(question: str) -> None:
    """Refuses a question in which a model's own token stands for an image.

    Raises:
        BenchmarkError: If there is one.
    """
    token = MODEL_TOKENS.search(question)
    if token is not None:
        raise BenchmarkError(
            f"Expected {IMAGE_MARK} to mark the place of an image, but the question holds {token.group()!r}, a token of some "
            f"models: write {IMAGE_MARK}; {_AS_TEXT}."
        )


def placed(sample: Sample) -> Sample:
    """The item with its images where the marks of whatever kit in its question place them.

    Raises:
        BenchmarkError: See :func:`place_images`; the message names the item.
    """
    if sample.tags_are_text:
        return sample
    try:
        placement = place_images(sample.question, len(sample.images), sample.candidates)
    except BenchmarkError as error:
        raise BenchmarkError(f"Item {sample.key!r}: {error}") from None
    if placement.left is not None:
        _say(placement.left)
    if placement.question == sample.question:
        return sample
    return replace(
        sample,
        question=placement.question,
        images=tuple(sample.images[i] for i in placement.order),
        image_names=tuple(sample.image_names[i] for i in placement.order),
    )


@cache
def _say(mark: str) -> None:
    """Says once for each mark, not for each item, that it is text."""
    log.warning(
        "The mark %r names none of the images of its item: it stays text, and the images stand where %s says, or first.",
        mark,
        IMAGE_MARK,
    )
