"""One HTTPS connection for commands: a request at a time, blocking, every step bounded (I/O).

TLS is that of the agent (`rhttp.tls`), with its lists of versions, groups and signatures, and so is the way there:
proxies included. HTTP is the standard library's `http.client`.

Trust: what is read is bounded in size and time, and said to be nothing more than read.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL

from rhttp.errors import RhttpError
from rhttp.tls import record
from rhttp.tls.context import openssl_reason
from rhttp.tls.handshake import Handshake
from rhttp.worker.backoff import TROUBLE
from rhttp.worker.bundle import GatewayAddress
from rhttp.worker.connect import ConnectFailed, connect

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HANDSHAKE_TIMEOUT: Final = 10.0
ANSWER_TIMEOUT: Final = 30.0
"""Seconds for one request and its whole answer."""


class HttpsFailed(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """No whole answer came. ``code`` is `ConnectFailed`'s, or ``timeout``, ``lost``, ``malformed``, ``too-long``,
    ``tls``, ``alert`` (``detail`` is what the peer's alert says) or ``untrusted`` (``detail`` is a slug)."""

    def __init__(self, code: str, detail: str, *, is_passing: bool = False) -> None:
        super().__init__(code, detail)
        self.is_passing = is_passing
        """Whether trying again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    fields: http.client.HTTPMessage
    content: bytes = field(repr=False)

    def values(self, name: str) -> list[bytes]:
        """The values of a field, each line for itself."""
        return [value.encode("latin-1", "replace") for value in self.fields.get_all(name, [])]


class HttpsConnection:
    """A connection to `peer`; making one dials and shakes hands.

    Raises:
        HttpsFailed: there is none. Every method raises it, too.
    """

    def __init__(self, peer: GatewayAddress, context: SSL.Context) -> None:
        self._peer = peer
        try:
            sock = asyncio.run(connect(peer))
        except ConnectFailed as error:
            raise HttpsFailed(error.code, error.message, is_passing=error.pace is TROUBLE) from None
        self._socket = _TlsSocket(sock, context, peer.host)
        try:
            self._socket.shake()
        except BaseException:
            self._socket.end()
            raise
        self._http = http.client.HTTPConnection(peer.host, peer.port)
        self._http.auto_open = 0  # or it would go on in the clear when the peer closed
        self._http.sock = self._socket

    def __enter__(self) -> HttpsConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, at any time, as often as you like."""
        self._socket.end()

    @property
    def is_open(self) -> bool:
        """Whether the peer left it open for another request."""
        return self._http.sock is not None

    def ask(
        self, method: str, target: str, fields: Mapping[str, str], content: bytes | None = None, *, limit: int
    ) -> Answer:
        """Send one request; its answer, of at most `limit` bytes of content."""
        self._socket.deadline = time.monotonic() + ANSWER_TIMEOUT
        try:
            self._http.request(
                method, target, content, {"Host": self._peer.authority.decode("ascii"), "Accept": "*/*", **fields}
            )
            response = self._http.getresponse()
            if not _is_framed(response.headers):
                raise HttpsFailed("malformed", "its answer does not say how long it is, or says it twice")
            is_too_long = (response.length or 0) > limit
            data = b"" if is_too_long else response.read(limit + 1)
        except http.client.RemoteDisconnected:
            raise HttpsFailed("lost", "it closed the connection", is_passing=True) from None
        except http.client.IncompleteRead:
            raise HttpsFailed("lost", "it broke off in its answer", is_passing=True) from None
        except (http.client.HTTPException, ValueError) as error:
            raise HttpsFailed("malformed", f"its answer is not HTTP/1.1 ({type(error).__name__})") from None
        except OSError as error:
            raise HttpsFailed("lost", f"the connection broke: {error.strerror or 'reset'}", is_passing=True) from None
        if is_too_long or len(data) > limit:
            raise HttpsFailed("too-long", f"its answer is longer than {limit} bytes")
        if response.length:
            raise HttpsFailed("lost", "it broke off in its answer", is_passing=True)
        return Answer(status=response.status, fields=response.headers, content=data)


def _is_framed(fields: http.client.HTTPMessage) -> bool:
    """Whether the end of the content is said once, in a way that all read alike (RFC 9112 §6.3)."""
    lengths, codings = fields.get_all("Content-Length", []), fields.get_all("Transfer-Encoding", [])
    if codings:
        return not lengths and len(codings) == 1 and codings[0].strip().lower() == "chunked"
    return not lengths or (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit())


class _TlsSocket:
    """TLS on a non-blocking socket, as much of a socket as `http.client` uses; each call ends by the deadline."""

    def __init__(self, sock: socket.socket, context: SSL.Context, host: str) -> None:
        self._sock = sock
        self._context = context  # its callbacks are needed to the end
        name = None if _is_address(host) else host.encode("ascii")
        self._ssl: Any = record.dialling(context, sock.fileno(), name)
        self.deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        self._early = b""
        """What came before we had said everything."""

    def shake(self) -> None:
        handshake = Handshake()
        try:
            while (step := record.do_handshake(self._ssl, handshake)) != record.SHAKEN:
                self._wait(select.POLLOUT if step == record.WANTS_WRITE else select.POLLIN)
        except SSL.Error as error:
            if handshake.refusal is not None:
                raise HttpsFailed("untrusted", handshake.refusal) from None
            raise _broken(error) from None

    def _wait(self, event: int) -> None:
        left = self.deadline - time.monotonic()
        look = select.poll()
        look.register(self._sock.fileno(), event)
        if left <= 0 or not look.poll(left * 1000):
            raise HttpsFailed("timeout", "it did not answer in time", is_passing=True)

    def read(self) -> bytes:
        """What came, at most one record; nothing: the peer ended it."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            while (data := record.read(self._ssl)) is None:
                self._wait(select.POLLIN)
        except SSL.ZeroReturnError:
            return b""
        except SSL.Error as error:
            raise _broken(error) from None
        return data

    def sendall(self, data: Any) -> None:
        # A peer that does not take our certificate says so behind the handshake and goes away; its alert could not be
        # read any more after a write that failed.
        try:
            self._early += record.read(self._ssl) or b""
        except SSL.Error as error:
            raise _broken(error) from None
        left = memoryview(data)
        while left:
            try:
                left = left[record.write(self._ssl, left) :]
            except SSL.WantWriteError:
                self._wait(select.POLLOUT)
            except SSL.WantReadError:
                self._wait(select.POLLIN)
            except SSL.Error as error:
                raise _broken(error) from None

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What an answer is read from."""
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """`http.client` sends no more on it, and may still read the last answer; `end` closes it."""

    def end(self) -> None:
        if self._sock.fileno() >= 0:
            record.shutdown(self._ssl)
            self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, source: _TlsSocket) -> None:
        self._source = source
        self._kept = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        self._kept = self._kept or self._source.read()
        count = min(len(view), len(self._kept))
        view[:count], self._kept = self._kept[:count], self._kept[count:]
        return count


def _broken(error: SSL.Error) -> HttpsFailed:
    """What broke the connection: in TLS 1.3 the alert about our certificate comes after the handshake."""
    if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
        return HttpsFailed("lost", "it closed the connection", is_passing=True)
    reason = openssl_reason(error)
    return HttpsFailed("alert" if "alert" in reason else "tls", reason)


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
