"""The turnover of connections: those of a new certificate take the place of those of the one before.

New ones come first: up to a quarter of the slots, one at least, are open beside the others. For each that is up, an old
one is let go: the one that was idle longest, which the gateway uses next, so that it ends with an answer that says it
is the last; when no request comes for a while it is closed; one that serves a request ends behind its answer. So no
slot is missing meanwhile, and nothing is lost but what crosses the end of a connection that had long been idle.

More connections than slots must not mean more requests than slots: while so many are served, the others are not read
from. And a gateway that takes no more connections of this worker has the old ones closed first, a quarter at a time.

Trust: pure; what it does to a connection goes through its end.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from rhttp.http1.answer import Phase
from rhttp.worker.dial import Session
from rhttp.worker.reversed import ReversedConnection

PATIENCE: Final = 2.0
"""Seconds for which a connection that was let go waits for its last request."""


class Turnover:
    """Of the connections in a set that its owner keeps."""

    def __init__(self, there: AbstractSet[ReversedConnection]) -> None:
        self._there = there
        self._unread: set[ReversedConnection] = set()
        self._is_crowded = False
        self._is_under_way = False

    def begin(self) -> None:
        """There is another session: whether the gateway has room is found out anew."""
        self._is_crowded = False

    def spare(self, session: Session, wanted: int) -> int:
        """How many connections more than wanted there should be now."""
        if self._is_crowded or not wanted or not any(one.session is not session for one in self._standing()):
            return 0
        return _quarter(wanted)

    def crowd(self) -> None:
        """The gateway takes no more connections than it has."""
        self._is_crowded = True

    def turn(self, session: Session, wanted: int, now: float, *, is_calm: bool) -> None:
        """Let go of as many old connections as there are new ones for; `is_calm`: nothing is dialled, nothing fails."""
        self._is_under_way = any(one.session is not session for one in self._there)
        if not self._is_under_way:
            return
        standing = self._standing()
        surplus = len(standing) - wanted
        if self._is_crowded and is_calm and len(standing) == len(self._there):
            surplus = _quarter(wanted)
        old = [one for one in standing if one.session is not session]
        old.sort(key=lambda one: (one.is_busy, one.used))
        for reversed_ in old[: max(surplus, 0)]:
            reversed_.retire(now, PATIENCE)

    def bound(self, wanted: int) -> None:
        """Read from connections that are idle only while fewer requests are served than there are slots."""
        if not self._is_under_way and not self._unread:
            return
        busy = sum(one.is_busy for one in self._there)
        if self._is_under_way and busy >= max(wanted, 1):
            for reversed_ in self._there - self._unread:
                if reversed_.end.is_idle:
                    reversed_.end.pause()
                    self._unread.add(reversed_)
            return
        unread, self._unread = self._unread & self._there, set()
        for reversed_ in unread:
            reversed_.end.resume()

    def _standing(self) -> list[ReversedConnection]:
        """Those that nobody has let go of."""
        return [one for one in self._there if not one.is_retired and one.end.phase < Phase.LINGER]


def _quarter(wanted: int) -> int:
    return max(1, wanted // 4)
