"""What is remembered from one evaluation to the next, within a bound."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """A bounded memory for things that are asked for in the same order in every evaluation.

    For that, "keep what came first until the room is used up" is the best a bounded memory can do: evicting what was used
    longest ago would evict each thing just before it is needed again. Only what neither this evaluation nor the one before
    has asked for makes room: batches may have become others.

    Args:
        room: Bytes that may be taken.

    Example:
        >>> shelf = Shelf[str](room=10)
        >>> shelf.put("a", "first", 6), shelf.put("b", "second", 6)
        (True, False)
        >>> for _ in range(2):  # two evaluations in which nobody asks for "a"
        ...     shelf.begin()
        >>> shelf.put("b", "second", 6), shelf.get("a"), shelf.get("b")
        (True, None, 'second')
    """

    def __init__(self, room: int) -> None:
        self._room = self.left = room
        self._kept: dict[Hashable, tuple[T, int]] = {}
        self._asked: dict[Hashable, int] = {}
        self._evaluation = 0

    def begin(self) -> None:
        """An evaluation begins."""
        self._evaluation += 1

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable) -> T | None:
        """What was put there, if it is still there."""
        if key not in self._kept:
            return None
        self._asked[key] = self._evaluation
        return self._kept[key][0]

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be kept; makes room if it must and can."""
        if size > self.left:
            for stale in [one for one, at in self._asked.items() if at < self._evaluation - 1]:
                self.left += self._kept.pop(stale)[1]
                del self._asked[stale]
        return size <= self.left

    def put(self, key: Hashable, value: T, size: int) -> bool:
        """Keeps a thing of so many bytes, if there is room.

        Returns:
            Whether it is kept.
        """
        if not self.has_room(size):
            return False
        self.left -= size
        self._kept[key] = value, size
        self._asked[key] = self._evaluation
        return True

    def clear(self) -> None:
        """Forgets everything."""
        self._kept, self._asked, self.left = {}, {}, self._room
