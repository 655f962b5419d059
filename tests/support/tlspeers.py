"""TLS links on real sockets for tests: both ends in one event loop, or a blocking pyOpenSSL peer at one of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from support.certs import Pair, a_key, common_name, forge

from pki.issue import certificate_pem
from pki.keys import KeyType
from rhttp.timers import TimerWheel
from rhttp.tls.binding import use_private_key
from rhttp.tls.context import client_context, server_context
from rhttp.tls.handshake import PresentedPath, Verify
from rhttp.tls.link import SocketLink
from rhttp.tls.outbox import Outbox
from rhttp.tls.tls_link import TlsLink

PATIENCE = 20.0


@functools.cache
def authority() -> Pair:
    """A root that signs both sides; valid now, unlike those of `support.certs`."""
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    return forge("tls test root", ca=True, not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))


@functools.cache
def leaf(name: str, *, server: bool = False, expired: bool = False, kind: KeyType = KeyType.P256) -> Pair:
    """A certificate for one side."""
    from datetime import UTC, datetime, timedelta

    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.now(UTC)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    return forge(
        common_name(name),
        authority(),
        key=a_key(kind, number=1 + server),
        extensions=[
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),
        ],
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(hours=-1 if expired else 24),
    )


def key_of(pair: Pair) -> bytes:
    return pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def accept(path: PresentedPath) -> object:
    """The verify callback that lets everybody in and says who it was."""
    return path.certificates()[0].subject.rfc4514_string()


def listening_context(
    verify: Verify = accept, *, version: int | None = None, kind: KeyType = KeyType.P256
) -> SSL.Context:
    """The server side."""
    pair = leaf("server", server=True, kind=kind)
    anchor = certificate_pem(authority().certificate)
    context = server_context(
        chain=certificate_pem(pair.certificate), key=key_of(pair), anchors=[anchor], intermediates=[], verify=verify
    )
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    return context


def dialling_context(who: Pair | None, *, host: str = "localhost") -> SSL.Context:
    """The client side, as the agent builds it."""
    chain, key = (None, None) if who is None else (certificate_pem(who.certificate), key_of(who))
    return client_context(chain=chain, key=key, anchors=[certificate_pem(authority().certificate)], host=host)


def plain_context(who: Pair | None, *, version: int | None = None, alpn: Sequence[bytes] = ()) -> SSL.Context:
    """A foreign client: nothing of ours, resumes whatever it can."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    context.set_verify(SSL.VERIFY_NONE)
    if who is not None:
        context.use_certificate(who.certificate)
        use_private_key(context, key_of(who))
    if alpn:
        context.set_alpn_protos(list(alpn))
    return context


class Owner(asyncio.Protocol):
    """Records what a link tells its owner; `changed` wakes whoever waits."""

    def __init__(self) -> None:
        self.link: SocketLink
        self.data = bytearray()
        self.eof = False
        self.lost = False
        self.error: Exception | None = None
        self.blocked = 0
        self.unblocked = 0
        self.keep_open = True
        self.on_data: Callable[[bytes], None] | None = None
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._changed.set()
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> bool:
        self.eof = True
        self._changed.set()
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost, "told twice"
        self.lost = True
        self.error = exc
        self._changed.set()

    def pause_writing(self) -> None:
        self.blocked += 1
        self._changed.set()

    def resume_writing(self) -> None:
        self.unblocked += 1
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that was told makes the condition true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Side:
    """One end: its link, its owner, and how its handshake went."""

    def __init__(
        self,
        sock: socket.socket,
        context: SSL.Context,
        *,
        server: bool,
        wheel: TimerWheel | None = None,
        name: bytes | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.owner = Owner()
        self.wheel = TimerWheel(100.0) if wheel is None else wheel  # an empty wheel is false
        self.outcomes: list[str | None] = []
        self.peer: object = None
        self._done = asyncio.Event()
        sock.setblocking(False)
        self.link = TlsLink(
            asyncio.get_running_loop(),
            sock,
            context,
            server=server,
            wheel=self.wheel,
            timeout=timeout,
            done=self._finished,
            server_name=name,
            # As in the product: the gateway holds small writes back, the agent does not.
            outbox=Outbox(asyncio.get_running_loop()) if server else None,
        )
        self.owner.link = self.link

    def _finished(self, link: TlsLink, failure: str | None) -> None:
        self.outcomes.append(failure)
        self.peer = link.handshake.peer
        if failure is None:
            link.set_protocol(self.owner)
        self._done.set()

    async def outcome(self) -> str | None:
        """How the handshake went, once it is over."""
        async with asyncio.timeout(PATIENCE):
            await self._done.wait()
        assert len(self.outcomes) == 1
        return self.outcomes[0]


@contextlib.asynccontextmanager
async def joined(
    server: SSL.Context | None = None, client: SSL.Context | None = None
) -> AsyncIterator[tuple[Side, Side]]:
    """Two links over a socket pair, handshake done: (server, client). Both are closed at the end."""
    left, right = socket.socketpair()
    for sock in (left, right):  # small, so that back-pressure is felt soon
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    ours = Side(left, server or listening_context(), server=True)
    theirs = Side(right, client or dialling_context(leaf("w1")), server=False)
    try:
        assert await theirs.outcome() is None
        assert await ours.outcome() is None
        yield ours, theirs
    finally:
        for side in (ours, theirs):
            side.link.abort()
        await asyncio.sleep(0)


class BlockingPeer:
    """A foreign TLS client on its own blocking socket; run its methods in a thread."""

    def __init__(self, sock: socket.socket, context: SSL.Context) -> None:
        sock.setblocking(True)
        self.sock = sock
        self.connection = SSL.Connection(context, sock)
        self.connection.set_connect_state()

    def shake(self) -> None:
        self.connection.do_handshake()

    def talk(self, data: bytes) -> Any:
        """Handshake, send, and read one answer; TLS 1.3 clients learn of a refusal only here."""
        self.shake()
        self.connection.sendall(data)
        return self.connection.recv(65536)

    def close(self) -> None:
        self.sock.close()


def alert_of(error: SSL.Error) -> str:
    """OpenSSL's words for the alert that arrived."""
    return (
        str(error.args[0][-1][2]) if error.args and error.args[0] and isinstance(error.args[0], list) else repr(error)
    )
