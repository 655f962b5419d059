"""Where an exchange gets its client end from.

Trust: pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.exchange.exchange import Exchange


class Inbound(Protocol):
    """Where client ends come from: a pool of workers or of connections to a master."""

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Find a client end: `Exchange.granted` or `Exchange.unavailable` follows, now or later."""

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
