"""Reads a W&B offline run back, to see what was really recorded. wandb has a writer in Python but no reader.

The file is a 7-byte header and then blocks of 32 KiB, as in a LevelDB log: each chunk in a block has a checksum, a length and
a type (whole, first, middle or last part of a record); a record is a protobuf message.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER, BLOCK, CHUNK_HEADER = 7, 32768, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Run:
    """Rows in the order in which they were logged, and the folder that holds the run's media."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    def series(self, key: str, axis: str = "trainer/global_step") -> list[tuple[int, Any]]:
        return [(row[axis], row[key]) for row in self.rows if key in row]

    def media(self, entry: dict[str, Any]) -> Path:
        return self.folder / "files" / entry["path"]


def read_run(under: Path, timeout: float = 30.0) -> Run:
    """The only run below a folder. Its writer is a process of its own, so wait until it has written the end."""
    deadline = time.monotonic() + timeout
    while True:
        files = list(under.rglob("run-*.wandb"))
        assert len(files) <= 1, f"expected one run, but found {files}"
        run = parse(files[0]) if files else None
        if run is not None and run.finished:
            return run
        assert time.monotonic() < deadline, f"no finished run under {under} after {timeout} s"
        time.sleep(0.05)


def parse(path: Path) -> Run:
    run = Run(path.parent)
    for message in messages(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            run.rows.append(row(record.history.item))
        run.finished |= kind == "exit"
    return run


def row(items: Any) -> dict[str, Any]:
    """One logged row; a table or a picture is a dictionary in it, whose entries were written one by one."""
    values: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        target = values
        for name in outer:
            target = target.setdefault(name, {})
        target[last] = json.loads(item.value_json)
    return values


def messages(data: bytes) -> Iterator[bytes]:
    """The complete records; an unfinished file simply ends earlier."""
    position, parts = HEADER, []
    while position + CHUNK_HEADER.size <= len(data):
        room = BLOCK - position % BLOCK
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        if room < CHUNK_HEADER.size or kind == 0:
            position += room
            continue
        start = position + CHUNK_HEADER.size
        body = data[start : start + length]
        if len(body) < length:
            return
        assert zlib.crc32(bytes([kind]) + body) == checksum, f"damaged chunk at byte {position}"
        parts = [body] if kind in (WHOLE, FIRST) else [*parts, body]
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
        position = start + length
