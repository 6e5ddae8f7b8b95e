"""One item as bytes: `KEY.json` with the text, `KEY.0.jpg`, `KEY.1.png`, … with the images, side by side in a tar file."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from radar_callback.benchmark.image_marks import placed
from radar_callback.benchmark.manifest import first_error
from radar_callback.benchmark.sample import Sample
from radar_callback.errors import BenchmarkError, ItemError, Reason
from radar_callback.quoting import shortened

ImageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*$"), AfterValidator(str.lower)]
"""What follows the key in a member's name, in lower case, as webdataset reads it: `0.jpg` where we write, `png` elsewhere."""


class Record(BaseModel):
    """The contents of `KEY.json`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    question: str
    answer: str
    distractors: tuple[str, ...]
    ability: str
    category: str | None = None
    images: tuple[ImageName, ...]
    source: str = ""
    meta: dict[str, Any] = {}
    group: str | None = None
    tags_are_text: bool = False


def to_fields(sample: Sample) -> dict[str, bytes]:
    """The members of an item: `{"json": …, "0.jpg": …}`.

    Raises:
        BenchmarkError: If an image has a name that the shard format cannot hold, or text or meta is not JSON.
    """
    try:
        record = Record(
            question=sample.question,
            answer=sample.answer,
            distractors=sample.distractors,
            ability=sample.ability,
            category=sample.category,
            images=sample.image_names,
            source=sample.source,
            meta=dict(sample.meta),
            group=sample.group,
            tags_are_text=sample.tags_are_text,
        )
        # Few items have these, and the others' bytes stay as they always were.
        absent = {"group": sample.group is None, "tags_are_text": not sample.tags_are_text}
        told = record.model_dump(exclude={name for name, is_absent in absent.items() if is_absent})
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        fields = {"json": text.encode()}
    except ValidationError as error:
        raise BenchmarkError(f"Item {sample.key!r} does not fit the shard format: {first_error(error)}.") from None
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"Item {sample.key!r} cannot be written as JSON: {error}.") from None
    for number, name in enumerate(sample.image_names):
        if not re.fullmatch(r"[0-9]+\.[a-z0-9]+", name):
            raise BenchmarkError(
                f"Item {sample.key!r} does not fit the shard format: field images.{number}: expected a name like 0.jpg "
                f"(got {name!r})."
            )
    for name, image in zip(sample.image_names, sample.images, strict=True):
        # An image that is shown twice needs to be stored once.
        if fields.setdefault(name, image) != image:
            names = ", ".join(sample.image_names)
            raise BenchmarkError(f"Item {sample.key!r} has two images with one name: {shortened(names)}.")
    return fields


def key_and_field(name: str) -> tuple[str, str]:
    """A member's name as webdataset reads it: the key ends at the first dot of the file name, what follows is lower case.

    A key has no slash: its folders are joined to it.

    Example:
        >>> key_and_field("item.0.jpg"), key_and_field("./train/item.PNG")
        (('item', '0.jpg'), ('train_item', 'png'))
    """
    *folders, file = name.split("/")
    key, _, field = file.partition(".")
    return "_".join([*(folder for folder in folders if folder not in ("", ".")), key]), field.lower()


def ignored(member: tarfile.TarInfo) -> bool:
    """Whether a member is none of an item's: a folder, a hidden file such as macOS adds, or webdataset's own `__…__`."""
    name = member.name.rpartition("/")[2]
    hidden = name.startswith(".") and name not in (".", "..")
    return member.isdir() or (member.isreg() and (hidden or (name.startswith("__") and name.endswith("__"))))


def unsafe(member: tarfile.TarInfo) -> str | None:
    """Why a tar member must not be used, or None. Shards hold plain files named `KEY.FIELD`.

    Example:
        >>> unsafe(tarfile.TarInfo("item.0.jpg")) is None
        True
        >>> unsafe(tarfile.TarInfo("../item.json"))
        "member '../item.json' is not named KEY.FIELD inside the archive; rename it or leave it out"
    """
    if not member.isreg() or member.issparse():
        return f"member {member.name!r} is a link, folder or special file; expected a plain file (tar --dereference)"
    *folders, file = member.name.split("/")
    key, dot, field = file.partition(".")
    if not (key and dot and field) or "\\" in member.name or ".." in folders or member.name.startswith("/"):
        return f"member {member.name!r} is not named KEY.FIELD inside the archive; rename it or leave it out"
    return None


def split_members(data: bytes, key: str, where: str) -> dict[str, bytes]:
    """Takes an item's slice of a tar file apart.

    Args:
        data: The bytes of its members, headers included.
        key: Its key; members of another item are an error.
        where: Names shard and item in errors.

    Raises:
        ItemError: With `Reason.UNREADABLE` if the slice is not what it should be.
    """
    fields: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if ignored(member):
                    continue
                problem = unsafe(member)
                name, field = key_and_field(member.name)
                if problem is None and name != key:
                    problem = f"member {member.name!r} belongs to another item"
                if problem is None and field in fields:
                    problem = f"member {member.name!r} comes twice"
                if problem is not None:
                    raise ItemError(Reason.UNREADABLE, f"{where}: {problem}")
                stream = tar.extractfile(member)
                contents = b"" if stream is None else stream.read()
                if len(contents) != member.size:
                    raise ItemError(Reason.UNREADABLE, f"{where}: member {member.name!r} is cut short")
                fields[field] = contents
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ItemError(Reason.UNREADABLE, f"{where}: not a tar slice: {error}") from error
    return fields


def to_sample(fields: dict[str, bytes], key: str, where: str, place: bool = True) -> Sample:
    """Builds the item from its members.

    Args:
        fields: See :func:`split_members`.
        key: Its key.
        where: Names shard and item in errors.
        place: Put images where the marks of other kits in the question place them; otherwise the item is as it stands there.

    Raises:
        ItemError: With `Reason.UNREADABLE` if the JSON or what it says is wrong, `Reason.BAD_IMAGE` if an image is missing.
    """
    if "json" not in fields:
        raise ItemError(Reason.UNREADABLE, f"{where}: member {key}.json is missing")
    try:
        record = Record.model_validate_json(fields["json"])
    except ValidationError as error:
        raise ItemError(Reason.UNREADABLE, f"{where}: {key}.json: {first_error(error)}") from None
    for name in record.images:
        if name not in fields:
            raise ItemError(Reason.BAD_IMAGE, f"{where}: image {key}.{name} is missing")
    try:
        sample = Sample(
            key=key,
            question=record.question,
            answer=record.answer,
            distractors=record.distractors,
            ability=record.ability,
            category=record.category,
            images=tuple(fields[name] for name in record.images),
            image_names=record.images,
            source=record.source,
            meta=record.meta,
            group=record.group,
            tags_are_text=record.tags_are_text,
        )
        return placed(sample) if place else sample
    except BenchmarkError as error:
        raise ItemError(Reason.UNREADABLE, f"{where}: {error}") from None
