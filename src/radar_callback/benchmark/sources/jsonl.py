"""Questions of one's own: a file with one JSON object a line, and its images."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radar_callback.benchmark.image_marks import place_images, refuse_model_tokens
from radar_callback.benchmark.images import ImageFileError, checked_image, load_image
from radar_callback.benchmark.inline_images import decode_inline, is_inline
from radar_callback.benchmark.options import look_alike_problem, same_number_problem
from radar_callback.benchmark.record import to_fields
from radar_callback.benchmark.sample import IMAGE_MARK, Sample, Skipped
from radar_callback.benchmark.sources.base import SourceResult, check_unicode, parse_json, read_text, slug
from radar_callback.errors import BenchmarkError, Reason
from radar_callback.quoting import LONGEST, quoted, shortened
from radar_callback.taxonomy import TaxonomyRows, name_problem

log = logging.getLogger(__name__)

QUESTIONS = "questions.jsonl"
DEFAULT_GROUP = "all"
MAX_PATH = 4096
"""Characters of a path at most."""

FIELDS = frozenset(
    {"id", "question", "answer", "options", "distractors", "images", "image", "ability", "category", "group"}
)
"""What a line may say; everything else goes into the item's `meta`."""


@dataclass(frozen=True)
class _Defaults:
    ability: str
    group: str
    source: str
    folder: Path


@dataclass(frozen=True)
class _Row:
    """One line of the file.

    Attributes:
        where: `FILE:LINE`.
        line: Its number.
        raw: What it says; empty if it is no object.
        item: The item without the contents of its images; None if it cannot be used.
        images: Path, base64 or data URI of each image stored for the item.
        group: Group of its ability.
        left: A mark of another kit that names none of its images and so is text.
        error: Why it cannot be used.
    """

    where: str
    line: int
    raw: Mapping[str, Any]
    item: Sample | None = None
    images: tuple[str, ...] = ()
    group: str = DEFAULT_GROUP
    left: str | None = None
    error: BenchmarkError | None = None


def read_jsonl(
    source: str | Path,
    *,
    name: str | None = None,
    ability: str | None = None,
    group: str | None = None,
    keep_going: bool = False,
) -> SourceResult:
    r"""Reads questions from a JSON Lines file.

    A line is an object with `question`, `answer`, and `options` (the answer among them) or `distractors`. It may have
    `images` (paths relative to the file, base64 or data URIs) or `image`,
    `id`, `ability`, `category` and `group`; all other fields are kept in
    the item's `meta`. `<image>` in the question marks where an image goes, then once for each image; with no mark, images
    come first. What other kits write for an image, `<image 1>`, `<ImageHere>`, …, is understood. Numbers are taken for their
    text. All lines are checked before the first image is opened.

    Args:
        source: The file, or a folder with `questions.jsonl`.
        name: Name of the benchmark; that of the folder, or of the file, if not given.
        ability: What items measure that do not say so; the benchmark's name if not given.
        group: Group of the abilities that do not say so.
        keep_going: Leave out what cannot be used, as `Skipped`, instead of stopping at the first.

    Raises:
        BenchmarkError: If there is no such file, it holds no item, or a line is not what it should be; the message starts
            with `FILE:LINE`. Damaged images are found while the samples are read.
    """
    path = _find(Path(source))
    name = name or (path.resolve().parent.name if path.name == QUESTIONS else path.stem)
    defaults = _Defaults(ability or name, group or DEFAULT_GROUP, name, path.parent)
    rows = _checked(_rows(path, keep_going), defaults, keep_going)
    if not rows:
        raise BenchmarkError(f"Expected at least one item in {path}, but got none.")
    return SourceResult(
        samples=_samples(rows, defaults, keep_going), groups=_groups(rows, defaults), name=name, source=name
    )


def _find(source: Path) -> Path:
    if not source.is_dir():
        return source
    if (source / QUESTIONS).is_file():
        return source / QUESTIONS
    files = sorted(source.glob("*.jsonl"))
    if len(files) != 1:
        found = f"{len(files)} of them" if files else "none"
        raise BenchmarkError(f"Expected {QUESTIONS} or one .jsonl file in {source}, but got {found}.")
    return files[0]


def _rows(path: Path, keep_going: bool) -> Iterator[_Row]:
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}:{line}"
        try:
            raw = parse_json(text, where)
            if not isinstance(raw, dict):
                raise BenchmarkError(f"{where}: Expected an object, but got {type(raw).__name__}.")
            check_unicode(raw, where)
            yield _Row(where, line, raw)
        except BenchmarkError as error:
            if not keep_going:
                raise
            yield _Row(where, line, {}, error=error)


def _checked(rows: Iterable[_Row], defaults: _Defaults, keep_going: bool) -> list[_Row]:
    """The lines with their items, but for the contents of images."""
    checked: list[_Row] = []
    lines: dict[str, str] = {}
    for row in rows:
        if row.error is None:
            try:
                row = _understood(row, defaults, lines)
            except BenchmarkError as error:
                if not keep_going:
                    raise
                row = replace(row, error=error)
        checked.append(row)
    left = [row for row in checked if row.left is not None]
    if left:
        log.warning(
            "%s: The mark %r names none of the line's images, so it is text, and images stand where %s says, or first%s.",
            left[0].where,
            left[0].left,
            IMAGE_MARK,
            f"; so in {len(left)} lines" if len(left) > 1 else "",
        )
    return checked


def _groups(rows: list[_Row], defaults: _Defaults) -> dict[str, str]:
    """`{ability: group}` of all lines, once they fit together.

    A line that does not is never left out: which of two lines is the odd one, nobody but their author knows.
    """
    cells = [(row.where, *cell) for row in rows if (cell := _cell(row, defaults)) is not None]
    groups = {ability: defaults.group for _, _, ability, _ in cells}
    # An ability may have no other line than one whose group is unusable.
    groups |= {ability: group for _, group, ability, _ in reversed(cells) if group is not None}
    tree = TaxonomyRows()
    for where, group, ability, category in cells:
        with _at(where):
            tree.add(group or groups[ability], ability, category)
    return groups


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Names the line in errors of code that knows none."""
    try:
        yield
    except BenchmarkError as error:
        raise BenchmarkError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _cell(row: _Row, defaults: _Defaults) -> tuple[str | None, str, str | None] | None:
    """Group, if it is usable, ability and category of a line, left out or not; None if they cannot be told."""
    if row.item is not None:
        return row.group, row.item.ability, row.item.category
    group, ability = row.raw.get("group") or defaults.group, row.raw.get("ability") or defaults.ability
    category = row.raw.get("category")
    known = row.raw and isinstance(category, str | None) and name_problem(ability, "ability") is None
    if not known:
        return None
    return None if name_problem(group, "group") is not None else group, ability, category


def _samples(rows: list[_Row], defaults: _Defaults, keep_going: bool) -> Iterator[Sample | Skipped]:
    for row in rows:
        try:
            if row.item is None:
                raise row.error or AssertionError(row.where)
            images = [_load(image, row.where, defaults.folder) for image in row.images]
            yield replace(
                row.item,
                images=tuple(data for data, _ in images),
                image_names=tuple(f"{i}.{suffix}" for i, (_, suffix) in enumerate(images)),
            )
        except BenchmarkError as error:
            if not keep_going:
                raise
            yield _skipped(row, defaults, error)


def _load(image: str, where: str, folder: Path) -> tuple[bytes, str]:
    if is_inline(image):
        return checked_image(decode_inline(image, where), where, quoted(image, 40))
    return load_image(folder / image, where, str(folder / shortened(image)))


def _skipped(row: _Row, defaults: _Defaults, error: BenchmarkError) -> Skipped:
    cell = _cell(row, defaults)
    item_id = row.raw.get("id", row.line)
    return Skipped(
        key=_key_of_line(row.line),  # its id may be what is wrong with it
        ability=None if cell is None else cell[1],
        category=None if cell is None else cell[2],
        reason=Reason.BAD_IMAGE if isinstance(error, ImageFileError) else Reason.INVALID,
        detail=str(error),
        meta={"id": item_id if len(str(item_id)) <= LONGEST else quoted(item_id)},
    )


def _key_of_line(line: int) -> str:
    return f"line#{line}"  # no id becomes a key with this character


def _understood(row: _Row, defaults: _Defaults, lines: dict[str, str]) -> _Row:
    """The line with its item, but for the contents of images.

    Args:
        row: The line.
        defaults: What it may leave out.
        lines: `{key: FILE:LINE}` of the items before; it is added to them.
    """
    where, raw = row.where, row.raw
    question = _text(raw, "question", where)
    answer = _text(raw, "answer", where)
    images = _images(raw, where)
    category = _text(raw, "category", where) if raw.get("category") is not None else None
    item_id = _text(raw, "id", where) if raw.get("id") is not None else None
    group, ability = _name(raw, "group", defaults.group, where), _name(raw, "ability", defaults.ability, where)
    distractors = _distractors(raw, answer, where)
    if images:
        with _at(where):
            refuse_model_tokens(question)
    with _at(where):
        placement = place_images(question, len(images), (answer, *distractors))
        images = tuple(images[i] for i in placement.order)
        item = Sample(
            key=slug(item_id) if item_id is not None else _key_of_line(row.line),
            question=placement.question,
            answer=answer,
            distractors=distractors,
            ability=ability,
            category=category,
            images=(b"",) * len(images),
            image_names=tuple(f"{i}.bin" for i in range(len(images))),
            source=defaults.source,
            meta={"id": raw.get("id", row.line), **{key: raw[key] for key in raw if key not in FIELDS}},
            group=group,
            tags_are_text=placement.left is not None,
        )
        alike = look_alike_problem(item.candidates) or same_number_problem(_as_written(raw))
        if alike is not None:
            raise BenchmarkError(f"Expected options that a person can tell apart, but {alike}.")
        to_fields(item)
    if item.key in lines:
        raise BenchmarkError(f"{where}: Expected an id of its own, but {lines[item.key]} has the same.")
    lines[item.key] = where
    return replace(row, item=item, images=images, group=group, left=placement.left)


def _name(raw: Mapping[str, Any], field: str, default: str, where: str) -> str:
    """Name of a line's group or ability."""
    name = _text({field: raw.get(field) or default}, field, where)
    problem = name_problem(name, field)
    if problem is not None:
        given = "" if raw.get(field) else f" This line names no {field}, and --{field} gives another for such lines."
        raise BenchmarkError(f"{where}: {problem}{given}")
    return name


def _as_written(raw: Mapping[str, Any]) -> list[object]:
    """All options of a line, numbers still numbers."""
    return [*raw["options"]] if "options" in raw else [raw["answer"], *raw["distractors"]]


def _text(raw: Mapping[str, Any], field: str, where: str) -> str:
    if field not in raw:
        raise BenchmarkError(f"{where}: Expected field {field!r}, but it is missing.")
    return _as_text(raw[field], f"field {field!r}", where)


def _as_text(value: Any, what: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise BenchmarkError(f"{where}: Expected {what} to be text or a number, but got {quoted(value)}.")
    return str(value)


def _texts(raw: Mapping[str, Any], field: str, where: str) -> list[str]:
    values = raw[field]
    if not isinstance(values, list):
        raise BenchmarkError(f"{where}: Expected field {field!r} to be a list, but got {quoted(values)}.")
    return [_as_text(value, f"every entry of {field!r}", where) for value in values]


def _distractors(raw: Mapping[str, Any], answer: str, where: str) -> tuple[str, ...]:
    if ("options" in raw) == ("distractors" in raw):
        raise BenchmarkError(
            f"{where}: Expected either field 'options' or 'distractors', but got {_both(raw, 'options')}."
        )
    if "distractors" in raw:
        return tuple(_texts(raw, "distractors", where))
    options = _texts(raw, "options", where)
    if answer not in options:
        raise BenchmarkError(
            f"{where}: Expected the answer among the options {quoted(options)}, but got {quoted(answer)}."
        )
    if options.count(answer) > 1:
        raise BenchmarkError(f"{where}: Expected options that differ, but the answer {quoted(answer)} comes twice.")
    return tuple(option for option in options if option != answer)


def _images(raw: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "image" in raw and "images" in raw:
        raise BenchmarkError(f"{where}: Expected either field 'images' or 'image', but got {_both(raw, 'image')}.")
    values = raw.get("images", raw.get("image"))
    images = values if isinstance(values, list) else [] if values is None else [values]
    for image in images:
        problem = _image_problem(image)
        if problem is not None:
            raise BenchmarkError(
                f"{where}: Expected images to be paths, but got {problem}; base64 and data URIs are taken too."
            )
    return tuple(images)


def _image_problem(image: Any) -> str | None:
    if not isinstance(image, str) or not image:
        return quoted(image)
    if is_inline(image):
        return None
    if "://" in image:
        # Not quoted: addresses hold passwords and signatures.
        return f"an address on the web ({quoted(image.partition('://')[0])}): fetch what lies there first"
    return f"{quoted(image)}, {len(image):,} characters" if len(image) > MAX_PATH else None


def _both(raw: Mapping[str, Any], field: str) -> str:
    return "both" if field in raw else "none"
