"""Counts of one data process, for status and metrics. Plain attributes: they are raised on the hot path."""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

_NAMES: Final = (
    "audit_lost",
    "connections",
    "cut",
    "dispatches",
    "dispatches_failed",
    "handshakes_refused",
    "ocsp_deferred",
    "ocsp_signed",
    "policy_denied",
    "refused",
    "relayed",
    "requests",
    "requests_failed",
    "retries",
    "reversed_opened",
    "strangers",
    "unauthenticated",
)


class Counters:
    """Everything counted since the process began."""

    __slots__ = _NAMES

    def __init__(self) -> None:
        for name in _NAMES:
            setattr(self, name, 0)

    audit_lost: int
    connections: int
    """Open now: links of peers that came to a listener of ours. They count themselves (`rhttp.tls.link.Tally`)."""
    cut: int
    dispatches: int
    dispatches_failed: int
    handshakes_refused: int
    ocsp_deferred: int
    """OCSP requests that were told to try later: too many signatures in a second."""
    ocsp_signed: int
    policy_denied: int
    refused: int
    relayed: int
    requests: int
    requests_failed: int
    retries: int
    reversed_opened: int
    strangers: int
    """Connections to the sockets between the processes of this gateway by whoever is none of them."""
    unauthenticated: int

    def opened(self) -> None:
        """A peer's link is there."""
        self.connections += 1

    def closed(self) -> None:
        """It is gone."""
        self.connections -= 1

    def as_dict(self) -> dict[str, int]:
        """Name to count."""
        return {name: getattr(self, name) for name in _NAMES}


class ListenerCounts:
    """Counts of one listener of one data process. It is the `rhttp.tls.link.Tally` of its connections."""

    __slots__ = ("_all", "accepted", "connections", "given_up", "handshakes")

    def __init__(self, among: Counters | None = None) -> None:
        """``among``: where they count as connections of the process, too."""
        self._all = among
        self.connections = 0
        """Open now."""
        self.accepted = 0
        self.given_up = 0
        """Ended by us before their time, since others wanted their places."""
        self.handshakes: Sized = ()
        """Of the open ones: those that have not done their handshake, or were refused and linger."""

    def opened(self) -> None:
        """A connection came."""
        self.connections += 1
        self.accepted += 1
        if self._all is not None:
            self._all.opened()

    def closed(self) -> None:
        """It is gone."""
        self.connections -= 1
        if self._all is not None:
            self._all.closed()

    def as_dict(self) -> dict[str, int]:
        """Name to count."""
        return {
            "connections": self.connections,
            "handshakes": len(self.handshakes),
            "accepted": self.accepted,
            "given_up": self.given_up,
        }
