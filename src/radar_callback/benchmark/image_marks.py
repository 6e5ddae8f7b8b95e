"""Where images go in a question: the mark `<image>`, and what other kits write in its place.

Used when a benchmark is built and when an item is read to be scored, so that every prompt style has its images in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from radar_callback.benchmark.sample import IMAGE_MARK, Sample
from radar_callback.errors import BenchmarkError
from radar_callback.quoting import quoted

MARKS = re.compile(
    r"""
    # <Img><ImageHere></Img>, <img>1.png</img>, <image>./</image>
      <(?P<pair>image|img)>(?:\./|[^<>\s]+\.\w{2,4}|<image(?:here)?>)?</(?P=pair)>
    # <image 1>, <image_1>, <image1>, <|image_1|>
    | <\|?(?:image|img)[ _:#-]*(?P<number>\d+)[ ]*/?\|?>
    # <image>, <IMAGE>, <image/>, <ImageHere>, <image-placeholder>, <|image|>
    | <\|?image(?:[ _-]?(?:here|placeholder))?[ ]*/?\|?>
    # [IMAGE_1], [IMAGE], but not [Image 1], as people write
    | \[(?-i:IMAGE|IMG)_?(?P<in_brackets>\d+)\] | \[(?-i:IMAGE)\]
    # {image}, {{image_1}}, but not \text{image}
    | (?<![\\\w^}\])$])\{\{?[ ]?(?:image|img)[ _]?(?P<in_braces>\d*)[ ]?\}\}?(?!\})
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


def place_images(question: str, images: int, options: Sequence[str] = ()) -> tuple[str, tuple[int, ...]]:
    """Finds where each image goes.

    Args:
        question: With `<image>` marks, marks of other kits, or none.
        images: How many the item has.
        options: All of them; a mark in one of them would be an image as an answer, which cannot be scored.

    Returns:
        The question with `<image>` marks only, and for each image shown its position among the item's images. Numbers in
        marks count from 1; an image that is named twice is shown twice.

    Raises:
        BenchmarkError: If an option holds a mark of another kit, or the question's marks do not place every image.

    Example:
        >>> place_images("Is <image 2> like <image 1>?", 2)
        ('Is <image> like <image>?', (1, 0))
    """
    for option in options:
        held = next((mark.group() for mark in _marks(option) if mark.group() != IMAGE_MARK), None)
        if held is not None:
            raise BenchmarkError(
                f"Expected options of text, but {quoted(option)} holds {held!r}, the mark of an image: show the options in the "
                f"question and use their letters; {_AS_TEXT}."
            )
    marks = _marks(question)
    other = next((mark.group() for mark in marks if mark.group() != IMAGE_MARK), None)
    if other is None:
        return question, tuple(range(images))
    numbers = [int(number) for mark in marks if (number := _number(mark))]
    if not numbers:
        if len(marks) != images:
            raise _wrong(other, f"its {len(marks)} marks have to place {images} images")
        return MARKS.sub(IMAGE_MARK, question), tuple(range(images))
    if len(numbers) < len(marks):
        raise _wrong(other, "some of its marks have a number and some have none")
    unknown = next((number for number in numbers if not 1 <= number <= images), None)
    if unknown is not None:
        raise _wrong(other, f"image {unknown} is none of its images, which are numbered from 1 to {images}")
    unplaced = next((number for number in range(1, images + 1) if number not in numbers), None)
    if unplaced is not None:
        raise _wrong(other, f"no mark places image {unplaced} of {images}")
    return MARKS.sub(IMAGE_MARK, question), tuple(number - 1 for number in numbers)


def _marks(text: str) -> list[re.Match[str]]:
    # Most texts hold none of these characters, and looking for them costs nothing.
    return list(MARKS.finditer(text)) if "<" in text or "[" in text or "{" in text else []


def _number(mark: re.Match[str]) -> str | None:
    return mark["number"] or mark["in_brackets"] or mark["in_braces"]


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
        question, order = place_images(sample.question, len(sample.images), sample.candidates)
    except BenchmarkError as error:
        raise BenchmarkError(f"Item {sample.key!r}: {error}") from None
    if question == sample.question:
        return sample
    return replace(
        sample,
        question=question,
        images=tuple(sample.images[i] for i in order),
        image_names=tuple(sample.image_names[i] for i in order),
    )
