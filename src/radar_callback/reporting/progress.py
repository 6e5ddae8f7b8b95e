"""The bar that shows during an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tqdm.auto import tqdm


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal that is gone when the work is done; nothing where there is no terminal.

    Args:
        label: Stands before the bar.

    Yields:
        `show(done, total)`, to be called after every batch.
    """
    with tqdm(desc=label, unit="batch", leave=False, dynamic_ncols=True, disable=None) as bar:

        def show(done: int, total: int) -> None:
            with suppress(Exception):  # a terminal that is gone ends no evaluation, for which other ranks wait
                bar.total = total
                bar.update(done - bar.n)

        yield show
