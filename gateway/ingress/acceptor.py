"""What every listener of a data process has in common: it takes connections within bounds, and makes room at them.

A listener has places for those that have not shown yet what they came for, and a bound on its connections. When either
is reached, the least deserving go (`rhttp.places`); when all of them deserve their places we stop accepting, so that
peers wait in the kernel's queue and nobody gets half a service.

Trust: meets strangers.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, Final

from auth.principal import LOCAL_MASTER
from gateway.config.values import TcpAddress
from gateway.control.descriptors import Sockets
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.core.peer import LocalPeer
from gateway.ingress.connection import Connection
from gateway.ingress.queues import Queues
from rhttp.http1.answer import HEAD, LINGER
from rhttp.http1.server import ServerEnd
from rhttp.places import Places, Stage, network_of, source_of
from rhttp.tls.link import SocketLink

BURST: Final = 64
"""Connections accepted in one turn."""
LAST_CALL: Final = 4096
"""Connections of one queue that are still taken when it closes: as many as can wait in it, however many come."""
SHARE: Final = 4
"""One source may hold the places of one listener up to its number through this, as long as they are idle or silent."""
_BATCH: Final = 16
"""When all places are taken, their number through this are made free at once: to look for them is dearer than one."""
_RETRY: Final = 0.25
"""Seconds until the next look when there was no room, or no descriptor."""
_TURN: Final = 0.001
"""Seconds that a connection waits for a process that has fewer; then anyone takes it."""


class Acceptor:
    """One listener of one process. What is particular to it, its subclasses say."""

    def __init__(
        self, process: ProcessContext, name: str, sockets: tuple[socket.socket, ...], index: int, counts: ListenerCounts
    ) -> None:
        self._process = process
        self.name = name
        self.counts = process.listeners[name] = counts
        self.places = Places(self._stage_of)
        self._queues = Queues(process.loop, sockets, index, self._accept)
        self._burst = BURST
        self._resting: asyncio.TimerHandle | None = None
        self._closed = False

    # ---- what a kind of listener says ----

    def _bounds(self) -> tuple[int, int]:
        """The most connections, and the number of places."""
        raise NotImplementedError

    def _welcome(self, sock: socket.socket, source: str) -> Any:
        """Serve an accepted socket; answer the guest that takes a place, or None."""
        raise NotImplementedError

    def _stage_of(self, guest: Any) -> int:
        """The `Stage` of a guest."""
        raise NotImplementedError

    def _give_up(self, guest: Any) -> None:
        """End a guest's connection at once; by that it leaves its place."""
        raise NotImplementedError

    # ---- queues ----

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
        is_tcp = sock.family != socket.AF_UNIX
        try:
            sock.setblocking(False)
            if is_tcp:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the peer has gone already
            sock.close()
            return True
        source = source_of(address[0]) if is_tcp else ""
        guest = self._welcome(sock, source)
        if guest is not None and is_tcp:
            self._keep_share(guest, source)
        elif guest is not None:
            self.places.take(guest, "", self._process.wheel.now)
        return True

    def _keep_share(self, guest: Any, source: str) -> None:
        """Give it a place; a source beyond its share pays with one of its own."""
        network = network_of(source)
        now = self._process.wheel.now
        self.places.take(guest, network, now)
        spare = self.places.dispensable_of(network, self._share(), now)
        if spare is not None and spare is not guest:
            self._end(spare)

    def _share(self) -> int:
        return max(1, self._bounds()[1] // SHARE)

    def _has_room(self) -> bool:
        connections, places = self._bounds()
        return self.counts.connections < connections and len(self.places) < places

    def _make_room(self) -> None:
        most = max(1, min(self._bounds()) // _BATCH)
        for guest in self.places.dispensable(most, self._share(), self._process.wheel.now):
            self._end(guest)

    def _end(self, guest: Any) -> None:
        self.counts.given_up += 1
        self._give_up(guest)


def _somebody_waits(listening: socket.socket) -> bool:
    """Whether a connection is in this queue: nobody is given up for a peer that is not there."""
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


class PlainGuest:
    """A connection in the clear and the place that it holds as long as it lives: the `Tally` of its link."""

    __slots__ = ("_acceptor", "end", "link", "source")

    def __init__(self, acceptor: PlainAcceptor, source: str) -> None:
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


class PlainAcceptor(Acceptor):
    """A listener in the clear, whose every connection holds a place: one that waits for us is kept, an idle one not."""

    def _end_for(self, source: str) -> ServerEnd:
        """The server end of a new connection; what it is asked is for its owner."""
        raise NotImplementedError

    def _welcome(self, sock: socket.socket, source: str) -> Any:
        guest = PlainGuest(self, source)
        guest.end = self._end_for(source)
        guest.link = self._process.plain_link(sock, guest.end, guest)
        return guest

    def _stage_of(self, guest: Any) -> int:
        assert isinstance(guest, PlainGuest)
        end = guest.end
        if end.phase >= LINGER:
            return Stage.LEAVING
        if end.phase != HEAD or guest.link.has_unread():
            return Stage.SERVED
        if not end.is_idle:
            return Stage.BEGUN
        return Stage.IDLE if end.status else Stage.SILENT

    def _give_up(self, guest: Any) -> None:
        assert isinstance(guest, PlainGuest)
        process = self._process
        process.record_refusal(
            "connection.cut",
            {"source": guest.source, "listener": self.name, "outcome": "cut", "reason": "crowded"}
            if guest.source
            else {"listener": self.name, "outcome": "cut", "reason": "crowded"},
        )
        guest.end.abort()


class DispatchAcceptor(PlainAcceptor):
    """The dispatch listener: plain HTTP for masters on this host.

    One process takes all that wait at once. A unix socket of several is one queue for them all, and the first to wake
    up would have a whole burst for itself: they take one connection at a time, and a process that holds more than
    another backs off for 1 ms.
    """

    def __init__(self, process: ProcessContext, sockets: Sockets) -> None:
        counts = ListenerCounts(process.counters)
        super().__init__(process, "dispatch", sockets.dispatch, sockets.index, counts)
        for sock in sockets.dispatch:
            sock.setblocking(False)
        self._burst = BURST if sockets.processes == 1 else 1
        self._tally = sockets.tally if len(sockets.dispatch) == 1 else None
        self._gone: set[int] = set()

    def _bounds(self) -> tuple[int, int]:
        # Apart from the TLS listener's: a crowd of clients must not shut out the masters on this host.
        most = self._process.generation.config.limits.dispatch_connections
        return most, most

    def _share(self) -> int:
        return self._bounds()[1]  # they all come from this host

    def _end_for(self, source: str) -> ServerEnd:
        process = self._process
        dispatch = process.generation.config.dispatch
        # A TCP dispatch listener is on a loopback literal, so its peers are too.
        peer = LocalPeer(dispatch.host if isinstance(dispatch, TcpAddress) else None)
        connection = Connection(process, peer, "dispatch", None)
        process.registry.add(connection)
        return connection.end

    def peer_down(self, index: int) -> None:
        """Another data process is gone: accept what comes to it, until it is back."""
        self._gone.add(index)
        super().peer_down(index)

    def peer_up(self, index: int) -> None:
        """It is back."""
        self._gone.discard(index)
        super().peer_up(index)

    def _accept(self, listening: socket.socket) -> None:
        if self._tally is not None:
            here = self._process.registry.here(LOCAL_MASTER.identity)
            if self._tally.is_ahead(here, self._gone):
                self._stop()
                self._resting = self._process.loop.call_later(_TURN, self._after_turn, listening)
                return
        super()._accept(listening)

    def _after_turn(self, listening: socket.socket) -> None:
        self._go_on()
        super()._accept(listening)
