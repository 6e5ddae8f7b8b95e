"""M3-Bench as the RADAR authors distribute it: nine folders of JSON task files with their images.

Each folder is an ability. What is asked, which images are shown and in which order is as in the authors' scripts, with one
exception: where an MMMU-Pro question shows its options, because they are images, the scripts always score the letters A and
B, and take B for the correct one whenever the answer was listed last, even where that is C or D. Here the answer stands at a
place drawn from the item's own name and every letter is a candidate, unless the authors' order is asked for.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from radar_callback.benchmark.image_marks import has_other_marks
from radar_callback.benchmark.images import ImageFileError, load_image
from radar_callback.benchmark.manifest import first_error
from radar_callback.benchmark.options import look_alike_problem
from radar_callback.benchmark.sample import IMAGE_MARK, Sample, Skipped
from radar_callback.benchmark.sources.base import SourceResult, check_unicode, parse_json, read_text, slug
from radar_callback.errors import BenchmarkError, ConfigError, Reason
from radar_callback.quoting import quoted, shortened

MAX_IMAGES = 12
"""The authors leave out what shows more; repeats and images in options count."""

TAG = re.compile(r"<image (\d+)>")
SUFFIX = "_pretrained_mllm_eval"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class OptionOrder(StrEnum):
    """In which order options are listed that are shown in the prompt because they hold images."""

    ITEM = "item"
    """Drawn from the item's own name; all letters are candidates and the correct one is the answer."""
    AUTHORS = "authors"
    """The draw of the authors' Qwen2-VL script with its seed 0, and its two candidates A and B."""


class _Entry(BaseModel):
    """One item of a task file."""

    model_config = ConfigDict(strict=True, extra="ignore")

    question: str
    answer: str
    distraction: Annotated[list[str], Field(min_length=1)]
    ori_options: str | None = None
    img_num: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True)
class _Asked:
    """An item as it is shown.

    Attributes:
        question: With `<image>` marks, or without any if images come first.
        answer: The correct candidate.
        distractors: The wrong ones.
        images: Paths relative to the folder's `images/`.
        marks: How many of the `<image>` in the question are marks.
        options: Texts that must differ for the item to make sense.
    """

    question: str
    answer: str
    distractors: tuple[str, ...]
    images: tuple[str, ...]
    marks: int
    options: Sequence[str]


@dataclass(frozen=True)
class _Context:
    """What the rules of a folder may depend on besides the item."""

    q_id: str
    file_key: str
    category: str | None
    draw: Callable[[], float] | None
    """The authors' random numbers; None to list options in an order of their own."""


def _plain(entry: _Entry, context: _Context) -> _Asked:
    return _images_first(entry, (f"{_stem(context.q_id)}.jpg",))


def _mmbench(entry: _Entry, context: _Context) -> _Asked:
    return _images_first(entry, (f"{context.category}/{context.q_id}.jpg",))


def _seephys(entry: _Entry, context: _Context) -> _Asked:
    if entry.img_num is None:
        raise BenchmarkError("field img_num: Field required")
    return _images_first(entry, tuple(f"{_stem(context.q_id)}_{i}.png" for i in range(entry.img_num)))


def _mmmu_pro(entry: _Entry, context: _Context) -> _Asked:
    options = [entry.answer, *entry.distraction]
    listed = TAG.search(entry.ori_options or "") is not None
    text, answer, distractors = entry.question, entry.answer, tuple(entry.distraction)
    if listed and context.draw is not None:
        answer_first = context.draw() > 0.5
        shown = options if answer_first else [*entry.distraction, entry.answer]
        answer, distractors = ("A", ("B",)) if answer_first else ("B", ("A",))
        text = _with_options(text, shown)
        options = ["A", "B"]  # the candidates, whatever the options are
    # The scripts look for images in `ori_options` alone, and leave "<image 2>" as text in a candidate it does not mention.
    elif context.draw is None and (listed or any(TAG.search(option) for option in options)):
        place = _place(f"{context.file_key}/{context.q_id}", len(options))
        shown = [*entry.distraction[:place], entry.answer, *entry.distraction[place:]]
        answer, distractors = LETTERS[place], tuple(LETTERS[i] for i in range(len(shown)) if i != place)
        text = _with_options(text, shown)
    images = tuple(f"{context.category}/{context.q_id}_image_{k}.png" for k in TAG.findall(text))
    return _Asked(TAG.sub(IMAGE_MARK, text), answer, distractors, images, len(images), options)


def _images_first(entry: _Entry, images: tuple[str, ...]) -> _Asked:
    options = [entry.answer, *entry.distraction]
    return _Asked(entry.question, entry.answer, tuple(entry.distraction), images, 0, options)


def _stem(q_id: str) -> str:
    """Items such as `lion--0` and `lion--1` share the image of `lion`."""
    return q_id.partition("--")[0]


def _with_options(question: str, shown: Sequence[str]) -> str:
    options = " ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, shown, strict=False))
    return f"{question} {options} Please select the correct option: "


def _place(name: str, options: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % options


@dataclass(frozen=True)
class _Folder:
    """How one of the nine folders is read."""

    group: str
    ask: Callable[[_Entry, _Context], _Asked]
    prefix: int = 0
    """Parts of a task file's name before the category; 0 where there are no categories."""


FOLDERS = {
    "general_visual_question_answering": _Folder("perception", _mmbench, prefix=1),
    "Wiki_animal_identification": _Folder("perception", _plain),
    "Wiki_plant_identification": _Folder("perception", _plain),
    "Wiki_attraction_identification": _Folder("perception", _plain),
    "Wiki_celebrity_identification": _Folder("perception", _plain),
    "multiple_discipline_reasoning": _Folder("reasoning", _mmmu_pro, prefix=2),
    "mathematical_reasoning": _Folder("reasoning", _plain),
    "physical_reasoning": _Folder("reasoning", _seephys),
    "spatial_reasoning": _Folder("reasoning", _plain),
}
"""The folders of M3-Bench. Rules go by the folder's name; the scripts search the whole path for words such as `MMBench`."""


def read_m3bench(
    folder: str | Path,
    *,
    option_order: OptionOrder | str = OptionOrder.ITEM,
    name: str = "m3bench",
    keep_going: bool = False,
) -> SourceResult:
    """Reads M3-Bench; those of the nine folders that are there.

    Left out, and listed as `Skipped` with the reason: items with more than 12 images, as in the authors' scripts, and items
    that make no sense (answer among the distractors, a distractor twice, options that look the same to a person, an empty
    candidate, the text `<image>` itself, which the shards use as a mark).

    Args:
        folder: Where the nine folders lie.
        option_order: How options are listed that are shown in the prompt because they hold images. `item` (the default)
            draws the place of the answer from the item's name and makes every letter a candidate. `authors` repeats the
            Qwen2-VL script: `random.Random(0)`, one number for every such item before its images are counted, files in
            sorted order, the answer first if it is above 0.5 and last otherwise; the candidates are always A and B, and B
            counts as correct when the answer is last, although with several distractors the answer is then C or D.
        name: Name of the benchmark.
        keep_going: Also leave out items that are damaged (a field or an image missing) instead of stopping at the first.

    Raises:
        BenchmarkError: If there is none of the folders; while samples are read, if a file is not what it should be. All task
                files are checked before the first image is opened.
        ConfigError: If there is no such option order.
    """
    if option_order not in list(OptionOrder):
        raise ConfigError(f"Expected option order {' or '.join(OptionOrder)}, but got {option_order!r}.")
    root = Path(folder)
    present = [known for known in FOLDERS if (root / known).is_dir()]
    if not present:
        raise BenchmarkError(
            f"Expected at least one of the M3-Bench folders {', '.join(FOLDERS)} in {root}, but got "
            f"{'none of them' if root.is_dir() else 'no such folder'}."
        )
    return SourceResult(
        samples=_read_all(root, present, OptionOrder(option_order), keep_going),
        groups={known: FOLDERS[known].group for known in present},
        name=name,
        licence="see the licences of MMBench, MMMU-Pro, MathVista, SeePhys and Wikimedia Commons",
        source="M3-Bench (RADAR, arXiv 2602.12892)",
    )


def _read_all(root: Path, present: Sequence[str], order: OptionOrder, keep_going: bool) -> Iterator[Sample | Skipped]:
    # All task files are read and checked before the first image is opened, which takes much longer.
    drafts = list(_drafts(root, present, order, keep_going))
    for draft in drafts:
        yield _with_images(draft, keep_going) if isinstance(draft, _Draft) else draft


def _drafts(root: Path, present: Sequence[str], order: OptionOrder, keep_going: bool) -> Iterator[_Draft | Skipped]:
    for known in present:
        # The scripts run one process a folder and seed it once.
        draw = random.Random(0).random if order is OptionOrder.AUTHORS else None
        files = sorted(path for path in (root / known).glob("*.json") if not path.name.startswith("."))
        if not files:
            raise BenchmarkError(f"Expected task files *.json in {root / known}, but got none.")
        for file in files:
            yield from _read_file(file, known, draw, keep_going)


def _read_file(
    file: Path, ability: str, draw: Callable[[], float] | None, keep_going: bool
) -> Iterator[_Draft | Skipped]:
    rules = FOLDERS[ability]
    category = _category(file, rules.prefix) if rules.prefix else None
    entries = parse_json(read_text(file), str(file))
    if not isinstance(entries, dict):
        raise BenchmarkError(f"{file}: Expected an object of items by q_id, but got {type(entries).__name__}.")
    if not entries:
        raise BenchmarkError(f"{file}: Expected items by q_id, but it is empty.")
    file_key = file.name.removesuffix(".json").partition(SUFFIX)[0]
    for q_id, raw in entries.items():
        context = _Context(q_id, file_key, category, draw)
        left_out = _LeftOut(f"{slug(file_key)}-{slug(q_id)}", ability, category, {"file": file.name, "q_id": q_id})
        where = f"{file}: item {quoted(q_id)}"
        try:
            yield _read_item(raw, rules, context, left_out, file.parent / "images", where)
        except BenchmarkError as error:
            if not keep_going:
                raise
            yield left_out.because(Reason.INVALID, str(error))


@dataclass(frozen=True)
class _Draft:
    """An item but for the contents of its images.

    Attributes:
        sample: The item.
        images: Paths of its images.
        left_out: Names it if they cannot be read.
        where: Names it in errors.
    """

    sample: Sample
    images: tuple[Path, ...]
    left_out: _LeftOut
    where: str


def _with_images(draft: _Draft, keep_going: bool) -> Sample | Skipped:
    try:
        shown = [(path, str(path.with_name(shortened(path.name)))) for path in draft.images]
        contents = [load_image(path, draft.where, name) for path, name in shown]
    except ImageFileError as error:
        if not keep_going:
            raise
        return draft.left_out.because(Reason.BAD_IMAGE, str(error))
    return replace(
        draft.sample,
        images=tuple(data for data, _ in contents),
        image_names=tuple(f"{i}.{suffix}" for i, (_, suffix) in enumerate(contents)),
    )


@dataclass(frozen=True)
class _LeftOut:
    """Names an item, to be completed by the reason why it is left out."""

    key: str
    ability: str
    category: str | None
    meta: dict[str, Any]

    def because(self, reason: Reason, detail: str) -> Skipped:
        return Skipped(self.key, self.ability, reason, detail, category=self.category, meta=self.meta)


def _read_item(
    raw: Any, rules: _Folder, context: _Context, item: _LeftOut, images: Path, where: str
) -> _Draft | Skipped:
    check_unicode(raw, where)
    try:
        entry = _Entry.model_validate(raw)
    except ValidationError as error:
        raise BenchmarkError(f"{where}: {first_error(error)}.") from None
    try:
        asked = rules.ask(entry, context)
    except BenchmarkError as error:
        raise BenchmarkError(f"{where}: {error}.") from None
    if len(asked.images) > MAX_IMAGES:
        return item.because(Reason.TOO_MANY_IMAGES, f"{len(asked.images)} images; M3-Bench takes at most {MAX_IMAGES}")
    problem = _nonsense(asked)
    if problem is not None:
        return item.because(Reason.INVALID, problem)
    sample = Sample(
        key=item.key,
        question=asked.question,
        answer=asked.answer,
        distractors=asked.distractors,
        ability=item.ability,
        category=item.category,
        images=(b"",) * len(asked.images),
        image_names=tuple(f"{i}.bin" for i in range(len(asked.images))),
        source="M3-Bench",
        meta=item.meta,
        group=rules.group,
        # Only MMMU-Pro has tags, and these are marks by now: what is left is text, as it is to the scripts.
        tags_are_text=has_other_marks([asked.question, asked.answer, *asked.distractors]),
    )
    return _Draft(sample, tuple(images / name for name in asked.images), item, where)


def _nonsense(asked: _Asked) -> str | None:
    """Why an item cannot be asked at all, or None."""
    answer, *distractors = asked.options
    if asked.question.count(IMAGE_MARK) != asked.marks:
        return f"its text holds {IMAGE_MARK} literally, which marks the place of an image in a shard"
    if answer in distractors:
        return f"its answer {quoted(answer)} is among its distractors"
    if len(set(distractors)) < len(distractors):
        return f"a distractor comes twice: {quoted(distractors)}"
    if any(not option.strip() for option in asked.options):
        return "a candidate is empty"
    alike = look_alike_problem(asked.options)
    return f"its {alike}" if alike is not None else None


def _category(file: Path, prefix: int) -> str:
    """`MMMU_Pro_Art_Theory_7_pretrained_mllm_eval.json` -> `Art_Theory`; images lie in a folder of that name."""
    parts = file.name.partition(".")[0].split("_")
    category = "_".join(parts[prefix:-4])
    if not category:
        shape = "MMBench" if prefix == 1 else "MMMU_Pro"
        raise BenchmarkError(f"Expected a task file named {shape}_<category>_<n>{SUFFIX}.json, but got {file}.")
    return category
