"""The TLS listener: a connection holds a place until its handshake is done, or, refused, until it has left.

Trust: meets strangers; whoever comes further has shown a certificate.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from gateway.control.descriptors import Sockets
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.core.peer import SeenPath, peer_of
from gateway.ingress.acceptor import Acceptor
from gateway.ingress.connection import Connection
from gateway.ingress.serving import serving_of
from rhttp.places import Stage
from rhttp.tls.tls_link import TlsLink

_OPENSSL: Final = {
    2: "untrusted",  # issuer not found
    7: "untrusted",  # signature
    9: "not_yet_valid",
    10: "expired",
    18: "untrusted",  # signed by itself
    19: "untrusted",  # a root that is not ours
    20: "untrusted",  # no issuer in reach
    21: "untrusted",
    24: "profile",  # an issuer that is no CA
    25: "profile",  # path length
    26: "purpose",
    47: "profile",  # name constraints
    48: "profile",
}
"""What OpenSSL refuses by number, in the words that our own verification uses for the same."""
_KERNEL_BUFFERS: Final = 4
"""Times [limits] buffer_bytes: room for a fast peer at some distance."""


class TlsAcceptor(Acceptor):
    """The TLS listener."""

    def __init__(self, process: ProcessContext, sockets: Sockets) -> None:
        super().__init__(process, "tls", sockets.tls, sockets.index, ListenerCounts(process.counters))
        self.counts.handshakes = self.places
        # Accepted sockets inherit both: without a bound the kernel takes megabytes for each before a sender is paused.
        size = _KERNEL_BUFFERS * process.generation.config.limits.buffer_bytes
        for sock in sockets.tls:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _bounds(self) -> tuple[int, int]:
        limits = self._process.generation.config.limits
        return limits.connections, limits.handshakes

    def _welcome(self, sock: socket.socket, source: str) -> Any:
        process = self._process

        def done(link: TlsLink, failure: str | None) -> None:
            if failure is None:
                self.places.know(link)
                self.places.leave(link)
                self._open(link, source)
                return
            if link.socket.fileno() < 0:
                self.places.leave(link)
            else:
                link.set_protocol(_Leaving(self, link))
            self._refused(source, _reason(failure))

        return TlsLink(
            process.loop,
            sock,
            serving_of(process.generation).context,
            server=True,
            wheel=process.wheel,
            timeout=process.generation.config.limits.handshake_timeout,
            done=done,
            outbox=process.outbox,
            high_water=process.generation.config.limits.buffer_bytes,
            tally=self.counts,
        )

    def _stage_of(self, guest: Any) -> int:
        assert isinstance(guest, TlsLink)
        if guest.is_closing():
            return Stage.LEAVING
        if guest.has_unread():
            return Stage.SERVED
        if not guest.handshake.has_begun:
            return Stage.SILENT
        return Stage.OWING if guest.was_answered() else Stage.BEGUN

    def _give_up(self, guest: Any) -> None:
        assert isinstance(guest, TlsLink)
        self.places.leave(guest)
        guest.give_up("crowded")

    def is_shaking(self, may_ask: bool, may_speak: bool) -> bool:
        """Whether a handshake is under way, of one that has spoken if it ``may_ask``, or of a silent one if not yet."""
        for link in self.places.guests():
            if not link.is_closing() and (may_speak or (may_ask and (link.handshake.has_begun or link.has_unread()))):
                return True
        return False

    def end_handshakes(self) -> int:
        """Give up every handshake that is under way; answer how many had begun."""
        begun = 0
        for link in self.places.guests():
            begun += not link.is_closing() and link.handshake.has_begun
            self.places.leave(link)
            link.give_up("drain")
        return begun

    def _refused(self, source: str, reason: str) -> None:
        process = self._process
        process.counters.handshakes_refused += 1
        process.record_refusal(
            "tls.refused", {"source": source, "listener": "tls", "outcome": "refused", "reason": reason}
        )

    def _open(self, link: TlsLink, source: str) -> None:
        process = self._process
        seen = link.handshake.peer
        link.handshake.forget()
        if not isinstance(seen, SeenPath):
            # OpenSSL accepted and our verification never ran: impossible, therefore refused.
            self._refused(source, "not_verified")
            link.abort()
            return
        peer = peer_of(seen.peer, process.snapshot.labels, source=source, der=seen.der)
        connection = Connection(process, peer, "tls", link.version())
        limits = process.generation.config.limits
        allowed = limits.connections_per_worker if peer.role == "worker" else limits.connections_per_client
        connection.is_over_limit = process.registry.held(peer.identity) >= allowed
        process.registry.add(connection)
        connection.end.connection_made(link)  # type: ignore[arg-type]  # a Link
        link.set_protocol(connection.end)
        if connection.is_over_limit:
            connection.end.expect_within(limits.linger)


class _Leaving(asyncio.Protocol):
    """Owns the link of a refused peer until it is closed."""

    def __init__(self, acceptor: TlsAcceptor, link: TlsLink) -> None:
        self._acceptor = acceptor
        self._link = link

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._acceptor.places.leave(self._link)


def _reason(failure: str) -> str:
    """The reason for the audit log."""
    number = failure.removeprefix("openssl_")
    return _OPENSSL.get(int(number), failure) if number != failure and number.isdigit() else failure
