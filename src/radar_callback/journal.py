"""Files of JSON lines that survive a crash at any moment: a line is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

FIRST_BYTES = b'{"step": '
"""Every line begins like this, so a torn line can be told from a file that is something else."""


class StrangeLineError(ValueError):
    """The file ends in something that is no line of such a file, not even a torn one."""


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of a file; a last one without its newline counts only if nothing but the newline is missing.

    Each line is written whole, newline last, so an incomplete one can only be the last. After a power cut a file may
    also end in zero bytes, which some file systems leave for data that never arrived.

    Raises:
        StrangeLineError: If the end is no part of such a line.
    """
    if not path.exists():
        return []
    data = path.read_bytes().rstrip(b"\0")
    size = data.rfind(b"\n") + 1
    lines, torn = data[:size].splitlines(keepends=True), data[size:]
    if not FIRST_BYTES.startswith(torn[: len(FIRST_BYTES)]):
        raise StrangeLineError(f"its last line begins with {torn[:20]!r}")
    with contextlib.suppress(ValueError):
        json.loads(torn)
        lines.append(torn + b"\n")
    return lines


def set_aside(path: Path, *companions: Path) -> Path | None:
    """Renames a file that holds something, and others along with it, to the first free `<name>.<n><suffix>`.

    Args:
        path: The file.
        companions: Files beside it, each with the same start of its name.

    Returns:
        Its new place, or None if there was nothing.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    n = 1
    while (kept := path.with_suffix(f".{n}{path.suffix}")).exists():
        n += 1
    for old in [*companions, path]:
        if old.exists():
            old.replace(old.with_name(old.name.replace(path.stem, kept.stem, 1)))
    sync_folder(path.parent)
    return kept


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that somebody else has put in its place or added to; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size


def own_path(path: Path, run: str, free: bool = False) -> Path:
    """Names the file of a run that finds another run's at its usual place: `<name>.<run><suffix>`.

    Args:
        path: The usual place.
        run: Identity of the run.
        free: Whether it must not exist yet.
    """
    own, n = path.with_suffix(f".{run}{path.suffix}"), 1
    while free and own.exists():
        own, n = path.with_suffix(f".{run}-{n}{path.suffix}"), n + 1
    return own


def append_line(path: Path, line: bytes, sync: bool = True) -> None:
    """Adds a line in one write; if the disk is full, the file is left as it was.

    Args:
        path: The file.
        line: With its newline.
        sync: Whether to wait until the line is on the disk. Without, it survives the end of this process, and a power cut may
            take it.
    """
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written to {path}")
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def write_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Writes a whole file so that a crash leaves either the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a new or renamed file's name survive a power cut, where the system can do that (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
