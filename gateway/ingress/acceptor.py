"""Takes the connections of a listener within its bounds, and makes room at them.

A listener has places for those that have not shown yet what they came for, and a bound on its connections. When either
is reached, the least deserving go (`rhttp.places`); when all of them deserve their places we stop accepting, so that
peers wait in the kernel's queue and nobody gets half a service. On a TLS listener a connection holds a place until its
handshake is done, or, refused, until it has left; in the clear, as long as it lives.

Trust: meets strangers; whoever comes further on a TLS listener has shown a certificate.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, Final

from auth.principal import LOCAL_MASTER
from gateway.core.context import ProcessContext
from gateway.core.peer import SeenPath
from gateway.ingress.handshake_reasons import reason_of
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Handler, Listener
from gateway.ingress.queues import Queues
from rhttp.http1.answer import HEAD, LINGER
from rhttp.http1.server import ServerEnd
from rhttp.places import Places, Stage, network_of, source_of
from rhttp.tls.link import SocketLink
from rhttp.tls.tls_link import TlsLink

BURST: Final = 64
"""Connections accepted in one turn, unless the listener says otherwise."""
LAST_CALL: Final = 4096
"""Connections of one queue that are still taken when it closes: as many as can wait in it, however many come."""
_BATCH: Final = 16
"""When all places are taken, their number through this are made free at once: to look for them is dearer than one."""
_RETRY: Final = 0.25
"""Seconds until the next look when there was no room, or no descriptor."""
_TURN: Final = 0.001
"""Seconds that a connection waits for a process that has fewer; then anyone takes it."""
_KERNEL_BUFFERS: Final = 4
"""Times [limits] buffer_bytes: room for a fast peer at some distance."""


class Acceptor:
    """One listener of one process, at work."""

    __slots__ = (
        "_burst",
        "_closed",
        "_gone",
        "_process",
        "_queues",
        "_resting",
        "counts",
        "listener",
        "places",
    )

    def __init__(self, process: ProcessContext, listener: Listener) -> None:
        self._process = process
        self.listener = listener
        self.counts = process.listeners[listener.purpose] = listener.counts
        self.places = Places(_stage_of)
        self._queues = Queues(process.loop, listener.sockets, listener.index, self._accept)
        self._burst = listener.burst or BURST
        self._gone: set[int] = set()
        """Processes that are down."""
        self._resting: asyncio.TimerHandle | None = None
        self._closed = False
        size = _KERNEL_BUFFERS * process.generation.config.limits.buffer_bytes
        for sock in listener.sockets:
            sock.setblocking(False)
            if listener.tls is not None:
                # Accepted sockets inherit both: without a bound the kernel takes megabytes for each before a sender is
                # paused.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        if listener.tls is not None:
            self.counts.handshakes = self.places

    def _bounds(self) -> Bounds:
        return self.listener.bounds(self._process.generation.config.limits)

    # ---- queues ----

    def start(self) -> None:
        """Accept from now on."""
        if not self._closed:
            self._queues.open()

    def peer_down(self, index: int) -> None:
        """Another data process is gone: accept what comes to it, until it is back."""
        self._gone.add(index)
        self._queues.adopt(index)

    def peer_up(self, index: int) -> None:
        """It is back."""
        self._gone.discard(index)
        self._queues.give_back(index)

    def close(self) -> None:
        """Accept what waits, as far as there is room, then nothing any more."""
        if self._closed:
            return
        self._stop()
        for sock in self._queues.served():
            for _ in range(LAST_CALL):
                if not self._take(sock):
                    break
        self._stop()
        self._closed = True

    def end(self) -> None:
        """Close our sockets: from now on the port is refused, when nobody else has it."""
        self.close()
        self._queues.end()

    def _stop(self) -> None:
        self._queues.close()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _rest(self, seconds: float) -> None:
        """Accept nothing for a moment."""
        self._stop()
        self._resting = self._process.loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        self.start()

    # ---- accepting ----

    def _accept(self, listening: socket.socket) -> None:
        tally = self.listener.tally
        if tally is not None and tally.is_ahead(self._process.registry.here(LOCAL_MASTER.identity), self._gone):
            self._stop()
            self._resting = self._process.loop.call_later(_TURN, self._after_turn, listening)
            return
        self._take_burst(listening)

    def _after_turn(self, listening: socket.socket) -> None:
        self._go_on()
        self._take_burst(listening)

    def _take_burst(self, listening: socket.socket) -> None:
        for _ in range(self._burst):
            if not self._take(listening):
                return

    def _take(self, listening: socket.socket) -> bool:
        """Take one connection; False: there is none, or no room for one."""
        if not self._has_room():
            if not _somebody_waits(listening):
                return False
            self._make_room()
            if not self._has_room():
                self._rest(_RETRY)
                return False
        try:
            sock, address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError:  # out of descriptors
            self._rest(_RETRY)
            return False
        is_tcp = type(address) is tuple  # `sock.family` would make an enumeration's member of a number each time
        try:
            sock.setblocking(False)
            if is_tcp:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the peer has gone already
            sock.close()
            return True
        source = source_of(address[0]) if is_tcp else ""
        holder = self._serve(sock, source) if self.listener.tls is None else self._shake_hands(sock, source)
        if is_tcp:
            self._keep_share(holder, source)
        else:
            self.places.take(holder, "", self._process.wheel.now)
        return True

    def _keep_share(self, holder: Any, source: str) -> None:
        """Give it a place; a source beyond its share pays with one of its own."""
        network = network_of(source)
        now = self._process.wheel.now
        self.places.take(holder, network, now)
        spare = self.places.dispensable_of(network, self._bounds().share, now)
        if spare is not None and spare is not holder:
            self._end(spare)

    def _has_room(self) -> bool:
        connections, places, _ = self._bounds()
        return self.counts.connections < connections and len(self.places) < places

    def _make_room(self) -> None:
        connections, places, share = self._bounds()
        most = max(1, min(connections, places) // _BATCH)
        for holder in self.places.dispensable(most, share, self._process.wheel.now):
            self._end(holder)

    def _end(self, holder: Any) -> None:
        """End a holder's connection at once; by that it leaves its place."""
        self.counts.given_up += 1
        if isinstance(holder, TlsLink):
            self.places.leave(holder)
            holder.give_up("crowded")
            return
        assert isinstance(holder, PlainConnection)
        fields = {"listener": self.listener.purpose, "outcome": "cut", "reason": "crowded"}
        if holder.source:
            fields["source"] = holder.source
        self._process.record_refusal("connection.cut", fields)
        holder.end.abort()

    # ---- in the clear ----

    def _serve(self, sock: socket.socket, source: str) -> PlainConnection:
        holder = PlainConnection(self, source)
        link = holder.link = self._process.open_plain(sock, holder)
        holder.end = self.listener.handlers[HTTP1].serve(link, Arrival(source, None, None))
        return holder

    # ---- TLS ----

    def _shake_hands(self, sock: socket.socket, source: str) -> TlsLink:
        process = self._process
        tls = self.listener.tls
        assert tls is not None

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
            self._refused(source, reason_of(failure))

        return TlsLink(
            process.loop,
            sock,
            tls(),
            server=True,
            wheel=process.wheel,
            timeout=process.generation.config.limits.handshake_timeout,
            done=done,
            outbox=process.outbox,
            high_water=process.generation.config.limits.buffer_bytes,
            tally=self.counts,
        )

    def _open(self, link: TlsLink, source: str) -> None:
        seen = link.handshake.peer
        if seen is None and self.listener.is_anonymous:
            self.listener.handlers[HTTP1].serve(link, Arrival(source, None, link.version()))
            return
        if not isinstance(seen, SeenPath):
            # OpenSSL accepted and our verification never ran: impossible, therefore refused.
            self._refused(source, "not_verified")
            link.abort()
            return
        handler: Handler | None = self.listener.handlers.get(link.protocol() or HTTP1)
        if handler is None:  # the handshake offers none but those that are served
            self._refused(source, "alpn")
            link.abort()
            return
        handler.serve(link, Arrival(source, seen, link.version(), link.group()))

    def _refused(self, source: str, reason: str) -> None:
        process = self._process
        process.counters.handshakes_refused += 1
        fields = {"source": source, "listener": self.listener.purpose, "outcome": "refused", "reason": reason}
        process.record_refusal("tls.refused", fields)

    def is_shaking(self, may_ask: bool, may_speak: bool) -> bool:
        """Whether a handshake is under way, of one that has spoken if it ``may_ask``, or of a silent one if not yet."""
        return any(
            not link.is_closing() and (may_speak or (may_ask and (link.handshake.has_begun or link.has_unread())))
            for link in self.places.holders()
            if isinstance(link, TlsLink)
        )

    def end_handshakes(self) -> int:
        """Give up every handshake that is under way; answer how many had begun."""
        begun = 0
        for link in self.places.holders():
            if isinstance(link, TlsLink):
                begun += not link.is_closing() and link.handshake.has_begun
                self.places.leave(link)
                link.give_up("drain")
        return begun


def _somebody_waits(listening: socket.socket) -> bool:
    """Whether a connection is in this queue: nobody is given up for a peer that is not there."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


class PlainConnection:
    """A connection in the clear and the place that it holds as long as it lives: the `Tally` of its link."""

    __slots__ = ("_acceptor", "end", "link", "source")

    def __init__(self, acceptor: Acceptor, source: str) -> None:
        self._acceptor = acceptor
        self.source = source
        self.end: ServerEnd
        self.link: SocketLink

    def opened(self) -> None:
        """The link is there."""
        self._acceptor.counts.opened()

    def closed(self) -> None:
        """The link is gone."""
        self._acceptor.counts.closed()
        self._acceptor.places.leave(self)


class _Leaving(asyncio.Protocol):
    """Owns the link of a refused peer until it is closed."""

    def __init__(self, acceptor: Acceptor, link: TlsLink) -> None:
        self._acceptor = acceptor
        self._link = link

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._acceptor.places.leave(self._link)


def _stage_of(holder: Any) -> int:
    """How much a holder has shown. In the clear one that waits for us is kept, an idle one not."""
    if isinstance(holder, TlsLink):
        if holder.is_closing():
            return Stage.LEAVING
        if holder.has_unread():
            return Stage.SERVED
        if not holder.handshake.has_begun:
            return Stage.SILENT
        return Stage.OWING if holder.was_answered() else Stage.BEGUN
    assert isinstance(holder, PlainConnection)
    end = holder.end
    if end.phase >= LINGER and not holder.link.get_write_buffer_size():
        return Stage.LEAVING
    if end.phase != HEAD or holder.link.has_unread():
        return Stage.SERVED
    if not end.is_idle:
        return Stage.BEGUN
    return Stage.SILENT if end.last_status is None else Stage.IDLE
