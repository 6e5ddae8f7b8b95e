"""Questions of one's own: a file with one JSON object a line, and its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radar_callback.benchmark.images import ImageFileError, load_image
from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.benchmark.sources.base import SourceResult, check_unicode, parse_json, read_text, slug
from radar_callback.errors import BenchmarkError, Reason

QUESTIONS = "questions.jsonl"
DEFAULT_GROUP = "all"
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
    """One line of the file, or the reason why it cannot be used."""

    where: str
    line: int
    raw: Mapping[str, Any]
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
    `images` (paths relative to the file) or `image`, `id`, `ability`, `category` and `group`; all other fields are kept in
    the item's `meta`. `<image>` in the question marks where an image goes, then once for each image; with no mark, images
    come first. Numbers are taken for their text.

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
    rows = list(_rows(path, keep_going))
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
            yield _Row(where, line, {}, error)


def _groups(rows: list[_Row], defaults: _Defaults) -> dict[str, str]:
    groups: dict[str, str] = {}
    for row in rows:
        ability, group = row.raw.get("ability") or defaults.ability, row.raw.get("group") or defaults.group
        if not isinstance(ability, str) or not isinstance(group, str):
            continue  # said when the item is read
        if groups.setdefault(ability, group) != group:
            raise BenchmarkError(
                f"{row.where}: Expected ability {ability!r} in group {groups[ability]!r} as before, but got {group!r}."
            )
    # An ability may have no other line than one whose group is unusable.
    abilities = [row.raw.get("ability") for row in rows]
    return {ability: defaults.group for ability in abilities if isinstance(ability, str)} | groups


def _samples(rows: list[_Row], defaults: _Defaults, keep_going: bool) -> Iterator[Sample | Skipped]:
    seen: dict[str, str] = {}
    for row in rows:
        try:
            if row.error is not None:
                raise row.error
            sample = _sample(row, defaults)
            if sample.key in seen:
                raise BenchmarkError(f"{row.where}: Expected an id of its own, but {seen[sample.key]} has the same.")
            seen[sample.key] = row.where
            yield sample
        except BenchmarkError as error:
            if not keep_going:
                raise
            yield _skipped(row, defaults, error)


def _skipped(row: _Row, defaults: _Defaults, error: BenchmarkError) -> Skipped:
    ability, category = row.raw.get("ability") or defaults.ability, row.raw.get("category")
    known = row.error is None and isinstance(ability, str) and (category is None or isinstance(category, str))
    return Skipped(
        key=_key_of_line(row.line),  # its id may be what is wrong with it
        ability=ability if known else None,
        category=category if known else None,
        reason=Reason.BAD_IMAGE if isinstance(error, ImageFileError) else Reason.INVALID,
        detail=str(error),
        meta={"id": row.raw.get("id", row.line)},
    )


def _key_of_line(line: int) -> str:
    return f"line#{line}"  # no id becomes a key with this character


def _sample(row: _Row, defaults: _Defaults) -> Sample:
    where, raw = row.where, row.raw
    question = _text(raw, "question", where)
    answer = _text(raw, "answer", where)
    images = [load_image(defaults.folder / name, where) for name in _image_names(raw, where)]
    category = _text(raw, "category", where) if raw.get("category") is not None else None
    item_id = _text(raw, "id", where) if raw.get("id") is not None else None
    group = _text({"group": raw.get("group") or defaults.group}, "group", where)
    try:
        return Sample(
            key=slug(item_id) if item_id is not None else _key_of_line(row.line),
            question=question,
            answer=answer,
            distractors=_distractors(raw, answer, where),
            ability=_text({"ability": raw.get("ability") or defaults.ability}, "ability", where),
            category=category,
            images=tuple(data for data, _ in images),
            image_names=tuple(f"{i}.{suffix}" for i, (_, suffix) in enumerate(images)),
            source=defaults.source,
            meta={"id": raw.get("id", row.line), **{key: raw[key] for key in raw if key not in FIELDS}},
            group=group,
        )
    except BenchmarkError as error:
        raise BenchmarkError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def _text(raw: Mapping[str, Any], field: str, where: str) -> str:
    if field not in raw:
        raise BenchmarkError(f"{where}: Expected field {field!r}, but it is missing.")
    return _as_text(raw[field], f"field {field!r}", where)


def _as_text(value: Any, what: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BenchmarkError(f"{where}: Expected {what} to be text or a number, but got {value!r}.")
    return str(value)


def _texts(raw: Mapping[str, Any], field: str, where: str) -> list[str]:
    values = raw[field]
    if not isinstance(values, list):
        raise BenchmarkError(f"{where}: Expected field {field!r} to be a list, but got {values!r}.")
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
        raise BenchmarkError(f"{where}: Expected the answer among the options {options}, but got {answer!r}.")
    if options.count(answer) > 1:
        raise BenchmarkError(f"{where}: Expected options that differ, but the answer {answer!r} comes twice.")
    return tuple(option for option in options if option != answer)


def _image_names(raw: Mapping[str, Any], where: str) -> list[str]:
    if "image" in raw and "images" in raw:
        raise BenchmarkError(f"{where}: Expected either field 'images' or 'image', but got {_both(raw, 'image')}.")
    values = raw.get("images", raw.get("image"))
    names = values if isinstance(values, list) else [] if values is None else [values]
    for name in names:
        if not isinstance(name, str) or not name:
            raise BenchmarkError(f"{where}: Expected images to be paths, but got {name!r}.")
    return names


def _both(raw: Mapping[str, Any], field: str) -> str:
    return "both" if field in raw else "none"
