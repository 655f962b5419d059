"""Every live connection by who holds it, so that it can be cut when its certificate, user or permission ends.

Trust: pure book-keeping; cutting is the connection's own act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from gateway.core.peer import Peer


class Live(Protocol):
    """A connection that can be cut."""

    peer: Peer

    def disconnect(self, reason: str, /) -> None:
        """Close the socket now and abort what runs on it; it leaves the registry by that."""


class OtherRegistries(Protocol):
    """What other processes of the gateway hold."""

    def held(self, identity: str, /) -> int:
        """How many connections an identity has there."""


class Watcher(Protocol):
    """Is told what other processes must know."""

    def held(self, identity: str, count: int, /) -> None:
        """So many connections of an identity are here now."""


class Registry:
    """Live connections by identity."""

    def __init__(self) -> None:
        self.others: OtherRegistries | None = None
        self.watcher: Watcher | None = None
        self._by_identity: dict[str, dict[Live, None]] = {}
        self._next_expiry = float("inf")
        self.count = 0

    def __iter__(self) -> Iterator[Live]:
        for held in tuple(self._by_identity.values()):
            yield from tuple(held)

    def add(self, live: Live) -> None:
        """A connection is up."""
        held = self._by_identity.get(live.peer.identity)
        if held is None:
            held = self._by_identity[live.peer.identity] = {}
        held[live] = None
        self.count += 1
        if self.watcher is not None:
            self.watcher.held(live.peer.identity, len(held))
        self._next_expiry = min(self._next_expiry, live.peer.expires)

    def remove(self, live: Live) -> None:
        """A connection is gone."""
        held = self._by_identity.get(live.peer.identity)
        if held is not None and live in held:
            del held[live]
            self.count -= 1
            if self.watcher is not None:
                self.watcher.held(live.peer.identity, len(held))
            if not held:
                del self._by_identity[live.peer.identity]

    def here(self, identity: str) -> int:
        """How many connections an identity has in this process."""
        held = self._by_identity.get(identity)
        return len(held) if held is not None else 0

    def held(self, identity: str) -> int:
        """How many connections an identity has, in all processes."""
        here = self.here(identity)
        return here if self.others is None else here + self.others.held(identity)

    def counts(self) -> dict[str, int]:
        """Connections in this process by identity."""
        return {identity: len(held) for identity, held in self._by_identity.items()}

    def by_role(self) -> dict[str, int]:
        """Connections by role."""
        counts: dict[str, int] = {}
        for identity, held in self._by_identity.items():
            role = identity.partition("/")[0]
            counts[role] = counts.get(role, 0) + len(held)
        return counts

    def cut_where(self, reason_of: Callable[[Peer], str | None]) -> int:
        """Cut every connection for whose peer ``reason_of`` answers a reason; answer how many."""
        cut = 0
        for live in self:
            reason = reason_of(live.peer)
            if reason is not None:
                live.disconnect(reason)
                cut += 1
        return cut

    def cut_expired(self, now: float) -> int:
        """Cut the connections whose certificate has expired; cheap when none has. ``now`` in epoch seconds."""
        if now < self._next_expiry:
            return 0
        cut = self.cut_where(lambda peer: "expired" if peer.expires <= now else None)
        self._next_expiry = min((live.peer.expires for live in self), default=float("inf"))
        return cut
