"""Counts of one data process, for status and metrics. Plain attributes: they are raised on the hot path."""

from __future__ import annotations

from typing import Final

_NAMES: Final = (
    "audit_lost",
    "connections",
    "cut",
    "dispatches",
    "dispatches_failed",
    "handshakes_refused",
    "policy_denied",
    "refused",
    "relayed",
    "requests",
    "requests_failed",
    "retries",
    "reversed_opened",
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
    """Open now: links of peers that came to a listener of ours. They count themselves (`rhttp.link.Tally`)."""
    cut: int
    dispatches: int
    dispatches_failed: int
    handshakes_refused: int
    policy_denied: int
    refused: int
    relayed: int
    requests: int
    requests_failed: int
    retries: int
    reversed_opened: int
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
