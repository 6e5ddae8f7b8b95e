"""`manifest.json`: what is in a benchmark and where each item lies, so that one item is read without reading the rest.

pydantic models guard the file's boundary; inside, the reader works with plain dataclasses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from radar_callback.benchmark.sample import Skipped
from radar_callback.errors import BenchmarkError
from radar_callback.taxonomy import Taxonomy

FORMAT = "radar-benchmark"
VERSION = 1
MANIFEST = "manifest.json"
BLOCK = 512
"""A tar file is a row of blocks of this many bytes; every item starts and ends at such a border."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class ManifestError(BenchmarkError):
    """A manifest that is not JSON or lacks a field."""


class _Model(BaseModel):
    # Strict: "3" is not 3. Unknown fields are ignored, so that a later release may add some within the same version.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ItemEntry(_Model):
    """Where one item lies and what it costs to score.

    Attributes:
        key: Unique in the benchmark.
        offset: First byte of the item's tar members in the shard, header included.
        size: Bytes of its members, headers and padding included: one read gets all of it.
        crc32: Checksum of these bytes.
        ability: What it measures.
        category: Sub-division of the ability, if it has any.
        images: `[width, height]` of each image, in the order shown.
        question: Length of the question in characters.
        candidates: Length of each candidate in characters, the correct one first.
        image_crc32: Checksum of each image's file, which tells items that share one; empty if not known.
        round: Items of one name belong together, and are taken together where not all items are: those whose answers only
            all of them balance, as radar-mini's do. From the sample's `meta`.
    """

    key: Annotated[str, Field(min_length=1)]
    offset: Count
    size: Positive
    crc32: Annotated[int, Field(ge=0, lt=2**32)]
    ability: str
    category: str | None = None
    images: tuple[tuple[Positive, Positive], ...] = ()
    question: Count
    candidates: Annotated[tuple[Positive, ...], Field(min_length=2)]
    image_crc32: tuple[Count, ...] = ()
    round: str | None = None


class ShardEntry(_Model):
    """One tar file beside the manifest.

    Attributes:
        file: Its name.
        bytes: Its size.
        sha256: Its checksum.
        samples: How many items it has.
        items: Where each lies.
        compressed: Whether it was compressed as a whole (gzip, bzip2, xz). Items then lie where they do once it is unpacked;
            `bytes` and `sha256` are of the file as it is.
    """

    file: Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*\.tar$")]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    samples: Count
    items: tuple[ItemEntry, ...]
    compressed: bool = False


class Manifest(_Model):
    """The whole file.

    Attributes:
        format: Always `radar-benchmark`.
        version: Version of this format.
        name: Name of the benchmark, as it stands in histories and reports.
        licence: Under which the items may be used.
        source: Where the items come from.
        tree: `{group: {ability: [category, …]}}`.
        shards: The tar files, in order.
        skipped: Items that the source's rules left out; an evaluation counts them as failed.
    """

    format: str
    version: int
    name: Annotated[str, Field(min_length=1)]
    licence: str
    source: str
    tree: dict[str, dict[str, list[str]]]
    shards: tuple[ShardEntry, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> str:
        """Compact JSON text; the same manifest always gives the same text."""
        return self.model_dump_json(exclude_defaults=True) + "\n"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an opened benchmark: where it lies, and what planning needs to know without reading it.

    Attributes:
        index: Its position in the benchmark, the argument of `Benchmark.read`.
        shard: File name of its shard.
        key: Unique in the benchmark.
        offset: First byte of its members in the shard.
        size: Bytes of its members.
        crc32: Checksum of these bytes.
        ability: What it measures.
        category: Sub-division of the ability, or None.
        image_sizes: `(width, height)` of each image, in the order shown.
        question_chars: Length of the question in characters.
        candidate_chars: Length of each candidate in characters, the correct one first.
        image_crc32: Checksum of each image's file, or empty if the manifest does not tell.
        round: Which items it belongs together with, if any.
    """

    index: int
    shard: str
    key: str
    offset: int
    size: int
    crc32: int
    ability: str
    category: str | None
    image_sizes: tuple[tuple[int, int], ...]
    question_chars: int
    candidate_chars: tuple[int, ...]
    image_crc32: tuple[int, ...] = ()
    round: str | None = None

    @property
    def n_images(self) -> int:
        """How many images it shows."""
        return len(self.image_sizes)


def items_of(manifest: Manifest) -> tuple[Item, ...]:
    """All items, shard by shard, in the order they lie there."""
    entries = [(shard.file, entry) for shard in manifest.shards for entry in shard.items]
    return tuple(
        Item(
            index=index,
            shard=shard,
            key=entry.key,
            offset=entry.offset,
            size=entry.size,
            crc32=entry.crc32,
            ability=entry.ability,
            category=entry.category,
            image_sizes=entry.images,
            question_chars=entry.question,
            candidate_chars=entry.candidates,
            image_crc32=entry.image_crc32,
            round=entry.round,
        )
        for index, (shard, entry) in enumerate(entries)
    )


class _Head(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    format: str
    version: int


def is_manifest(data: bytes) -> bool:
    """Whether a file is a manifest of this library, of whatever version and in whatever state."""
    try:
        return _Head.model_validate_json(data).format == FORMAT
    except ValidationError:
        return False


def first_error(error: ValidationError) -> str:
    """The first finding of pydantic as one line: `field shards.0.bytes: Input should be … (got 'x')`."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    got = "" if found["type"] in ("missing", "json_invalid") else f" (got {_short(found['input'])})"
    return f"field {where}: {found['msg']}{got}" if where else f"{found['msg']}{got}"


def _short(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Reads a manifest.

    Args:
        data: Contents of the file.
        where: Names the file in errors.

    Raises:
        ManifestError: If it is not JSON or lacks a field.
        BenchmarkError: If it is another kind of file, or was written in a newer format.
    """
    try:
        head = _Head.model_validate_json(data)
    except ValidationError as error:
        raise ManifestError(f"Expected {where} to be the manifest of a benchmark, but {first_error(error)}.") from None
    if head.format != FORMAT:
        raise BenchmarkError(f"Expected {where} to have the format {FORMAT!r}, but got {head.format!r}.")
    if not 1 <= head.version <= VERSION:
        raise BenchmarkError(
            f"Expected {where} to have a format version up to {VERSION}, but got {head.version}: it was written by another "
            "release; upgrade radar-callback or build the shards again."
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ManifestError(f"Expected {where} to be the manifest of a benchmark, but {first_error(error)}.") from None


def contradictions(manifest: Manifest) -> Iterator[tuple[str, str | None, str]]:
    """What a manifest says that cannot all be true: `(shard or "", key or None, what)`, in order."""
    cells: set[tuple[str, str | None]] | None = None
    try:
        cells = set(Taxonomy(manifest.tree).cells)
    except BenchmarkError as error:
        yield "", None, str(error)
    files: set[str] = set()
    keys: set[str] = set()
    for shard in manifest.shards:
        if shard.file in files:
            yield shard.file, None, "the manifest lists this shard twice"
        files.add(shard.file)
        if shard.samples != len(shard.items):
            yield shard.file, None, f"the manifest says {shard.samples} samples but lists {len(shard.items)} items"
        end = 0
        for item in sorted(shard.items, key=lambda entry: entry.offset):
            if item.key in keys:
                yield shard.file, item.key, "the manifest lists this key twice"
            keys.add(item.key)
            if cells is not None and (item.ability, item.category) not in cells:
                yield shard.file, item.key, f"{_cell(item.ability, item.category)} is not in the manifest's tree"
            if item.offset % BLOCK or item.size % BLOCK:
                yield shard.file, item.key, f"offset {item.offset} and size {item.size} are not multiples of {BLOCK}"
            if item.offset < end:
                yield shard.file, item.key, f"its bytes overlap with those of the item before, which end at {end}"
            end = item.offset + item.size
        if end > shard.bytes and not shard.compressed:
            yield shard.file, None, f"the manifest puts items up to byte {end} into a shard of {shard.bytes} bytes"
    for left_out in manifest.skipped:
        if left_out.key in keys:
            yield "", left_out.key, "the manifest lists this key twice, once as skipped"
        keys.add(left_out.key)


def _cell(ability: str, category: str | None) -> str:
    return f"ability {ability!r}" + ("" if category is None else f" with category {category!r}")


def tree_of(rows: Iterable[tuple[str, str, str | None]]) -> dict[str, dict[str, list[str]]]:
    """The `tree` field from `(group, ability, category)` rows.

    Raises:
        BenchmarkError: If the rows contradict one another; see `Taxonomy.from_rows`.

    Example:
        >>> tree_of([("reasoning", "maths", "area"), ("reasoning", "maths", "angle")])
        {'reasoning': {'maths': ['area', 'angle']}}
    """
    tree = Taxonomy.from_rows(rows).tree
    return {group: {ability: list(names) for ability, names in abilities.items()} for group, abilities in tree.items()}
