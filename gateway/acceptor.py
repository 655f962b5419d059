"""Accepting connections on the TLS and dispatch listeners, within limits.

When a limit is reached we stop accepting: the kernel's backlog holds the peers, and nobody gets half a service.

With several data processes a TCP listener is a socket for each of them, and the kernel decides whose queue a connection
joins. While a process is down the others accept from its queue too, so nobody waits for it to come back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Final

from auth.principal import LOCAL_MASTER
from gateway.config import TcpAddress
from gateway.connection import Connection
from gateway.generation import Seen
from gateway.identity import LocalPeer, peer_of
from gateway.inherited import Sockets
from gateway.services import Services
from rhttp.tls import TlsLink

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
_BURST: Final = 64
"""Connections accepted in one turn."""
_KERNEL_BUFFERS: Final = 4
"""Times [limits] buffer_bytes: room for a fast peer at some distance."""
_PATIENCE: Final = 2.0
"""Seconds that a handshake has when others wait for its place; an honest one is done in a fraction of that."""
_RETRY: Final = 0.25
"""Seconds until the next try when no descriptor was left."""
_TURN: Final = 0.001
"""Seconds that a connection waits for a process that has fewer; then anyone takes it."""


class Queues:
    """The listening sockets of one purpose: we accept from our own, and from those of processes that are down.

    ``accept`` is called with a socket when a connection waits there.
    """

    __slots__ = ("_accept", "_from", "_loop", "_own", "_sockets", "is_open")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: tuple[socket.socket, ...],
        index: int,
        accept: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._own = index if len(sockets) > 1 else 0
        self._accept = accept
        self._from = {self._own}
        self.is_open = False

    def open(self) -> None:
        """Accept from now on."""
        if not self.is_open:
            self.is_open = True
            for index in self._from:
                self._watch(self._sockets[index])

    def close(self) -> None:
        """Accept nothing for now; connections wait in the kernel."""
        if self.is_open:
            self.is_open = False
            for index in self._from:
                self._loop.remove_reader(self._sockets[index].fileno())

    def adopt(self, index: int) -> None:
        """Accept from the queue of this process too, if it has one of its own."""
        if 0 <= index < len(self._sockets) > 1 and index not in self._from:
            self._from.add(index)
            if self.is_open:
                self._watch(self._sockets[index])

    def give_back(self, index: int) -> None:
        """Leave its queue to this process again. The socket stays open: it may go down once more."""
        if index in self._from and index != self._own:
            self._from.discard(index)
            if self.is_open:
                self._loop.remove_reader(self._sockets[index].fileno())

    def _watch(self, sock: socket.socket) -> None:
        self._loop.add_reader(sock.fileno(), self._accept, sock)


class TlsAcceptor:
    """The TLS listener."""

    def __init__(self, services: Services, sockets: Sockets) -> None:
        self._services = services
        self._queues = Queues(services.loop, sockets.tls, sockets.index, self._accept)
        # Accepted sockets inherit both: without a bound the kernel takes megabytes for each before a sender is paused.
        size = _KERNEL_BUFFERS * services.generation.config.limits.buffer_bytes
        for sock in sockets.tls:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self._shaking: dict[TlsLink, float] = {}
        """Handshakes under way, and refused peers that linger, by when they began; oldest first."""
        self._closed = False

    def start(self) -> None:
        """Accept from now on."""
        if not self._closed:
            self._queues.open()

    def peer_down(self, index: int) -> None:
        """Another data process is gone: accept what comes to it, until it is back."""
        self._queues.adopt(index)

    def peer_up(self, index: int) -> None:
        """It is back."""
        self._queues.give_back(index)

    def tick(self) -> None:
        """Look whether there is room again; called a few times a second."""
        if not self._queues.is_open:
            self._make_room()
            if self._has_room():
                self.start()

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._queues.close()

    def _has_room(self) -> bool:
        limits = self._services.generation.config.limits
        return len(self._shaking) < limits.handshakes and self._services.counters.connections < limits.connections

    def _accept(self, listening: socket.socket) -> None:
        services = self._services
        for _ in range(_BURST):
            if not self._has_room():
                self._queues.close()
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._queues.close()  # out of descriptors: the next tick tries again
                return
            self._shake(services, sock, address)

    def _shake(self, services: Services, sock: socket.socket, address: tuple[str, int]) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            return
        source = _source(address[0])

        def done(link: TlsLink, failure: str | None) -> None:
            if failure is None:
                self._shaking.pop(link, None)
                self._open(link, source)
                return
            if link.socket.fileno() < 0:
                self._gone(link)
            else:
                link.set_protocol(_Leaving(self, link))
            services.counters.handshakes_refused += 1
            services.record_refusal(
                "tls.refused", {"source": source, "listener": "tls", "outcome": "refused", "reason": _reason(failure)}
            )

        link = TlsLink(
            services.loop,
            sock,
            services.generation.context,
            server=True,
            wheel=services.wheel,
            timeout=services.generation.config.limits.handshake_timeout,
            done=done,
            outbox=services.outbox,
            high_water=services.generation.config.limits.buffer_bytes,
            tally=services.counters,
        )
        self._shaking[link] = services.wheel.now

    def _gone(self, link: TlsLink) -> None:
        """A refused peer has left; until then it counted, since it lingers for its alert with a descriptor of ours."""
        self._shaking.pop(link, None)

    def _make_room(self) -> None:
        """With every place taken, give up handshakes that stall: strangers need no certificate to begin one."""
        limits = self._services.generation.config.limits
        while len(self._shaking) >= limits.handshakes:
            link, since = next(iter(self._shaking.items()))
            if self._services.wheel.now - since < _PATIENCE:
                return
            link.deadline_passed()

    def _open(self, link: TlsLink, source: str) -> None:
        services = self._services
        seen = link.handshake.peer
        link.handshake.forget()
        if not isinstance(seen, Seen):
            # OpenSSL accepted and our verification never ran: impossible, therefore refused.
            services.record_refusal(
                "tls.refused", {"source": source, "listener": "tls", "outcome": "refused", "reason": "not_verified"}
            )
            link.abort()
            return
        peer = peer_of(seen.peer, services.snapshot.labels, source=source, der=seen.der)
        connection = Connection(services, peer, "tls", link.version())
        limits = services.generation.config.limits
        allowed = limits.connections_per_worker if peer.role == "worker" else limits.connections_per_client
        connection.is_over_limit = services.registry.held(peer.identity) >= allowed
        services.registry.add(connection)
        link.set_protocol(connection.end)
        connection.end.connection_made(link)  # type: ignore[arg-type]  # a Link
        if connection.is_over_limit:
            connection.end.expect_within(limits.linger)


class _Leaving(asyncio.Protocol):
    """Owns the link of a refused peer until it is closed."""

    def __init__(self, acceptor: TlsAcceptor, link: TlsLink) -> None:
        self._acceptor = acceptor
        self._link = link

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._acceptor._gone(self._link)


def _reason(failure: str) -> str:
    """The reason for the audit log."""
    number = failure.removeprefix("openssl_")
    return _OPENSSL.get(int(number), failure) if number != failure and number.isdigit() else failure


def _source(host: str) -> str:
    """The peer's address: IPv4 that is mapped into IPv6 unmapped, without a zone."""
    if ":" not in host:
        return host  # IPv4, as the kernel has it written
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


class DispatchAcceptor:
    """The dispatch listener: plain HTTP for masters on this host.

    One process takes all that wait at once. A unix socket of several is one queue for them all, and the first to wake
    up would have a whole burst for itself: they take one connection at a time, and one that has more than another gives
    that other a moment.
    """

    def __init__(self, services: Services, sockets: Sockets) -> None:
        self._services = services
        self._queues = Queues(services.loop, sockets.dispatch, sockets.index, self._accept)
        for sock in sockets.dispatch:
            sock.setblocking(False)
        self._alone = sockets.dispatch[0] if sockets.processes == 1 else None
        self._tally = sockets.tally if len(sockets.dispatch) == 1 else None
        self._gone: set[int] = set()
        self._closed = False

    def start(self) -> None:
        """Accept from now on."""
        self._queues.open()

    def peer_down(self, index: int) -> None:
        """Another data process is gone: accept what comes to it, until it is back."""
        self._gone.add(index)
        self._queues.adopt(index)

    def peer_up(self, index: int) -> None:
        """It is back."""
        self._gone.discard(index)
        self._queues.give_back(index)

    def _accept(self, listening: socket.socket) -> None:
        if self._tally is not None:
            here = self._services.registry.here(LOCAL_MASTER.identity)
            if self._tally.is_ahead(here, self._gone):
                self._rest(_TURN, listening)
                return
        self._take(listening)

    def _rest(self, seconds: float, listening: socket.socket) -> None:
        self._queues.close()
        self._services.loop.call_later(seconds, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if not self._closed:
            self._queues.open()
            self._take(listening)

    def _take(self, listening: socket.socket) -> None:
        for _ in range(1 if self._alone is None else _BURST):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors
                self._rest(_RETRY, listening)
                return
            self._open(self._services, sock)

    def _open(self, services: Services, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the peer has gone already
            sock.close()
            return
        dispatch = services.generation.config.dispatch
        # A TCP dispatch listener is on a loopback literal, so its peers are too.
        peer = LocalPeer(dispatch.host if isinstance(dispatch, TcpAddress) else None)
        connection = Connection(services, peer, "dispatch", None)
        # Counted apart from the TLS listener's: a flood of clients must not shut out the masters on this host.
        limits = services.generation.config.limits
        connection.is_over_limit = services.registry.held(peer.identity) >= limits.connections
        services.registry.add(connection)
        services.plain_link(sock, connection.end, services.counters)

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._queues.close()
        if self._alone is not None:
            self._alone.close()
