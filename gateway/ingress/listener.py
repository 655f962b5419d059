"""What a listener is: its purpose, its sockets, whether it speaks TLS, who serves what arrives, and its bounds.

Trust: pure.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from OpenSSL import SSL

from gateway.config.limits import Limits
from gateway.control.descriptors import Tally
from gateway.core.counters import ListenerCounts
from gateway.core.peer import SeenPath
from rhttp.http1.server import ServerEnd
from rhttp.tls.link import SocketLink

HTTP1: Final = b"http/1.1"
"""The protocol of a peer that names none by ALPN (RFC 7301), and of every listener in the clear."""
_SHARE: Final = 4


class Arrival(NamedTuple):
    """Who came, as far as a listener can tell."""

    source: str
    """The address, in the form of the audit log; empty on a unix socket."""
    path: SeenPath | None
    """The verified certification path; None on a listener that asks for none."""
    tls_version: str | None
    group: str | None = None
    """Of the key exchange of TLS, by its registered name."""


class Handler(Protocol):
    """Serves the connections of one listener that speak one protocol."""

    def serve(self, link: SocketLink, arrival: Arrival, /) -> ServerEnd:
        """Give the link an owner, which reads from it from now on; answer the owner."""


class Bounds(NamedTuple):
    """What a listener may hold."""

    connections: int
    places: int
    """Connections that have not shown yet what they came for; in the clear, all of them."""
    share: int
    """Places of one source that are idle or silent."""


def by_source(connections: int, places: int) -> Bounds:
    """Bounds of a listener that strangers reach: one source may hold a quarter of the places."""
    return Bounds(connections, places, max(1, places // _SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listener of one data process.

    With several processes a TCP listener is a socket for each of them, and ``index`` says which is ours.
    """

    purpose: str
    """Its name in the audit log, in policies and in nonces: none of them is good on another listener."""
    sockets: tuple[socket.socket, ...]
    handlers: Mapping[bytes, Handler]
    """By ALPN protocol id."""
    bounds: Callable[[Limits], Bounds]
    counts: ListenerCounts
    tls: Callable[[], SSL.Context] | None = None
    """The settings in force; None: in the clear."""
    is_anonymous: bool = False
    """Its settings of TLS ask for no certificate."""
    index: int = 0
    burst: int | None = None
    """Connections accepted in one turn; None: as many as is good for one process alone."""
    tally: Tally | None = None
    """What each process holds, where all share one queue: who holds more than another leaves it the next one."""
