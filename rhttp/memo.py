"""What was worked out before and may come again, within a bound.

Trust: pure.
"""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """A dictionary with room for so many entries: one more, and all the others are forgotten first.

    That is cheap, needs no order, and costs who fills it on purpose as much as everybody else. For values that can be
    made again. It is asked by `get` or ``[]`` like any dictionary, which is several times as quick as
    `functools.lru_cache`.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def remember(self, key: K, value: V) -> V:
        """Keep a value, and answer it."""
        if len(self) >= self.room:
            self.clear()
        self[key] = value
        return value
