"""Who serves what arrives: clients, workers and remote masters by TLS, and masters on this host in the clear.

Trust: whoever comes by TLS has shown a certificate; the dispatch listener asks for none.
"""

from __future__ import annotations

from gateway.config.limits import Limits
from gateway.config.values import TcpAddress
from gateway.control.descriptors import Sockets
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.core.peer import LocalPeer, peer_of
from gateway.ingress.connection import Connection
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Listener, by_source
from gateway.ingress.serving import serving_of
from rhttp.http1.server import ServerEnd
from rhttp.tls.link import SocketLink


class CertifiedHandler:
    """HTTP/1.1 of peers with a certificate."""

    __slots__ = ("_process", "_purpose")

    def __init__(self, process: ProcessContext, purpose: str) -> None:
        self._process = process
        self._purpose = purpose

    def serve(self, link: SocketLink, arrival: Arrival) -> ServerEnd:
        """One more connection of its identity; beyond the limit for that, its first request is refused."""
        process = self._process
        path = arrival.path
        assert path is not None, "no connection without a verified path"
        peer = peer_of(path.peer, process.snapshot.labels, source=arrival.source, der=path.der, group=arrival.group)
        connection = Connection(process, peer, self._purpose, arrival.tls_version)
        limits = process.generation.config.limits
        allowed = limits.connections_per_worker if peer.role == "worker" else limits.connections_per_client
        connection.is_over_limit = process.registry.held(peer.identity) >= allowed
        process.registry.add(connection)
        attach(link, connection.end)
        if connection.is_over_limit:
            connection.end.expect_within(limits.linger)
        return connection.end


class LocalHandler:
    """HTTP/1.1 of masters on this host: whoever may open the dispatch listener is one."""

    __slots__ = ("_process", "_purpose")

    def __init__(self, process: ProcessContext, purpose: str) -> None:
        self._process = process
        self._purpose = purpose

    def serve(self, link: SocketLink, arrival: Arrival) -> ServerEnd:
        """One more connection of the local master."""
        process = self._process
        dispatch = process.generation.config.dispatch
        # A TCP dispatch listener is on a loopback literal, so its peers are too.
        peer = LocalPeer(dispatch.host if isinstance(dispatch, TcpAddress) else None)
        connection = Connection(process, peer, self._purpose, None)
        process.registry.add(connection)
        attach(link, connection.end)
        return connection.end


def attach(link: SocketLink, end: ServerEnd) -> None:
    """Make the end the owner of the link. It knows the link first: what came before is told to it at once."""
    end.connection_made(link)  # type: ignore[arg-type]  # a Link
    link.set_protocol(end)


def tls_listener(process: ProcessContext, sockets: Sockets) -> Listener:
    """The listener for clients, workers and remote masters."""

    def bounds(limits: Limits) -> Bounds:
        return by_source(limits.connections, limits.handshakes)

    return Listener(
        purpose="tls",
        sockets=sockets.tls,
        index=sockets.index,
        handlers={HTTP1: CertifiedHandler(process, "tls")},
        bounds=bounds,
        counts=ListenerCounts(process.counters),
        tls=lambda: serving_of(process.generation).context,
    )


def dispatch_listener(process: ProcessContext, sockets: Sockets) -> Listener:
    """The listener for masters on this host.

    One process takes all that wait at once. A unix socket of several is one queue for them all, and the first to wake
    up would have a whole burst for itself: they take one connection at a time, and one that holds more than another
    backs off.
    """

    def bounds(limits: Limits) -> Bounds:
        # Apart from the TLS listener's: a crowd of clients must not shut out the masters on this host, who all come
        # from one source.
        most = limits.dispatch_connections
        return Bounds(most, most, most)

    return Listener(
        purpose="dispatch",
        sockets=sockets.dispatch,
        index=sockets.index,
        handlers={HTTP1: LocalHandler(process, "dispatch")},
        bounds=bounds,
        counts=ListenerCounts(process.counters),
        burst=None if sockets.processes == 1 else 1,
        tally=sockets.tally if len(sockets.dispatch) == 1 else None,
    )
