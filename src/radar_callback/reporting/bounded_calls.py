"""Calling into other people's code that may never come back, without waiting for it for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any


class StillWaitingError(Exception):
    """A call has not come back within the time it was given, or an earlier one has not yet."""


class BoundedCaller:
    """Makes calls one after another in a thread of its own and waits a bounded time for each.

    The caller waits while a call runs, so nothing runs beside it and the order of calls is that of a plain program. Only a
    call that takes longer than `patience` is left alone: it goes on in its thread, nobody waits for that thread any more
    (not even the end of the program), and further calls are refused until it has come back.

    Args:
        patience: Seconds to wait for a call.

    Example:
        >>> caller = BoundedCaller(patience=0.05)
        >>> caller.call(lambda: 1 + 1)
        2
        >>> released = threading.Event()
        >>> for job in (released.wait, lambda: 1):
        ...     try:
        ...         caller.call(job)
        ...     except StillWaitingError as error:
        ...         print(error)
        no answer within 0.05 s
        an earlier call has not come back
        >>> released.set()
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: _Job | None = None

    def call(self, function: Callable[[], Any], patience: float | None = None) -> Any:
        """Calls a function.

        Args:
            function: What to call.
            patience: Seconds to wait for this call, if other than usual.

        Returns:
            What it returned.

        Raises:
            StillWaitingError: If it took too long, or the call before it has not come back.
            BaseException: Whatever the function raises, KeyboardInterrupt included.
        """
        if self._last is not None and not self._last.done.is_set():
            raise StillWaitingError("an earlier call has not come back")
        if self._thread is None:
            # A daemon: a program whose logger hangs must still be able to end.
            self._thread = threading.Thread(target=self._work, name="radar-callback-logger", daemon=True)
            self._thread.start()
        self._last = job = _Job(function)
        self._jobs.put(job)
        seconds = self._patience if patience is None else patience
        if not job.done.wait(seconds):
            raise StillWaitingError(f"no answer within {seconds:g} s")
        if job.error is not None:
            raise job.error
        return job.value

    def _work(self) -> None:
        while True:
            self._jobs.get().run()


class BackgroundWork:
    """Does pieces of work in a thread of its own, in order, and hands their results over in that order.

    Example:
        >>> work = BackgroundWork()
        >>> work.submit(lambda: "drawn")
        >>> work.finished(wait=1.0)
        ['drawn']
        >>> work.pending
        0
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open: list[_Job] = []

    @property
    def pending(self) -> int:
        """Pieces of work whose results have not been handed over."""
        return len(self._open)

    def submit(self, function: Callable[[], Any]) -> None:
        """Takes a piece of work, which must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="radar-callback-pictures", daemon=True)
            self._thread.start()
        job = _Job(function)
        self._open.append(job)
        self._jobs.put(job)

    def finished(self, wait: float = 0.0) -> list[Any]:
        """Results that were not handed over yet, up to the first piece of work that is not done.

        Args:
            wait: Seconds to wait for all of them.
        """
        until, results = time.monotonic() + wait, []
        while self._open and self._open[0].done.wait(max(0.0, until - time.monotonic())):
            job = self._open.pop(0)
            if job.error is not None:
                raise job.error
            results.append(job.value)
        return results

    def _work(self) -> None:
        while True:
            self._jobs.get().run()


class _Job:
    """One call, its result, and whether it is over."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:  # raised where somebody waits for it
            self.error = error
        finally:
            self.done.set()
