"""What shows during an evaluation: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 10.0
"""Where there is no terminal."""


@contextmanager
def progress_bar(
    label: str, say: Callable[[str], None] | None = None, now: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal that is gone when the work is done; a line every ten seconds where there is no terminal.

    Args:
        label: Stands before the bar and in each line.
        say: Writes a line; to standard error by default.
        now: A clock, in seconds.

    Yields:
        `show(done, total)`, to be called after every batch.
    """
    if not _on_a_terminal():
        yield lines(label, say or _to_standard_error, now)
        return
    with tqdm(desc=label, unit="batch", leave=False, dynamic_ncols=True, disable=None) as bar:

        def show(done: int, total: int) -> None:
            with suppress(Exception):  # a terminal that is gone ends no evaluation, for which other ranks wait
                bar.total = total
                bar.update(done - bar.n)

        yield show


def lines(label: str, say: Callable[[str], None], now: Callable[[], float]) -> Callable[[int, int], None]:
    """Says every ten seconds how far the work is.

    Args:
        label: Stands before each line.
        say: Writes one.
        now: A clock, in seconds.

    Returns:
        `show(done, total)`, to be called after every batch.

    Example:
        >>> clock = iter([0.0, 4.0, 11.0, 16.0, 22.0])
        >>> show = lines("radar", print, lambda: next(clock))
        >>> for done in (1, 2, 3, 4):
        ...     show(done, 4)
        radar: 50% done after 11 s, about 11 s to go
    """
    begun = said = now()

    def show(done: int, total: int) -> None:
        nonlocal said
        moment = now()
        if done < total and moment - said >= SECONDS_BETWEEN_LINES:
            said = moment
            to_go = (moment - begun) * (total - done) / done
            with suppress(Exception):  # a pipe that is closed ends no evaluation, for which other ranks wait
                say(f"{label}: {100 * done / total:.0f}% done after {moment - begun:.0f} s, about {to_go:.0f} s to go")

    return show


def _on_a_terminal() -> bool:
    with suppress(Exception):
        return sys.stderr.isatty()
    return False


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
