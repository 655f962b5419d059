"""A peer that sends exactly the bytes it is told to, over TLS with any certificate or in the clear, and reads strictly.

Nothing here comes from the product: what a gateway sends is judged by an answer reader of its own.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL._util import lib

PATIENCE = 15.0


@dataclass(frozen=True)
class Answer:
    """One answer: `fields` in order with names in lower case, `raw` the head's bytes."""

    status: int
    fields: tuple[tuple[str, str], ...]
    content: bytes
    trailers: tuple[tuple[str, str], ...]
    raw: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for field, value in self.fields if field == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def json(self) -> Any:
        """The content as JSON."""
        return orjson.loads(self.content)

    @property
    def problem(self) -> str:
        """The slug of a problem answer, which must be whole: type, title, the same status, the request's id."""
        assert self["content-type"] == "application/problem+json", self
        body = self.json
        assert body["status"] == self.status
        assert body["title"]
        assert body["request_id"] == self["rhttp-request-id"]
        assert body["type"].startswith("urn:rhttp:problem:")
        return str(body["type"].removeprefix("urn:rhttp:problem:"))

    @property
    def challenges(self) -> list[str]:
        """The values of ``WWW-Authenticate``."""
        return self.all("www-authenticate")


class Ended(AssertionError):  # noqa: N818 - says what is the case
    """The connection ended where an answer should have been; `rest` is what came of it."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(f"the connection ended after {rest[:200]!r}")
        self.rest = rest


class Wire:
    """One connection. Every wait has an end."""

    def __init__(
        self,
        sock: socket.socket,
        tls: SSL.Context | None = None,
        *,
        name: bytes | None = b"localhost",
        session: SSL.Session | None = None,
    ) -> None:
        self.sock = sock
        # One connection of OpenSSL must not be used by two threads at once, and some tests send while they read.
        self._turn = threading.Lock()
        sock.setblocking(False)
        self._tls: SSL.Connection | None = None
        self.buffer = b""
        self.ended: str | None = None
        """How the peer ended: ``notify`` (TLS close_notify), ``fin`` or ``reset``."""
        if tls is not None:
            self._tls = SSL.Connection(tls, sock)
            if name is not None:
                self._tls.set_tlsext_host_name(name)
            if session is not None:
                self._tls.set_session(session)
            self._tls.set_connect_state()
            try:
                self._retry(self._tls.do_handshake)
            except BaseException:
                sock.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def session(self) -> SSL.Session | None:
        """The TLS session, for an attempt to resume it."""
        assert self._tls is not None
        return self._tls.get_session()

    def was_resumed(self) -> bool:
        """Whether the server resumed the session that was brought along."""
        assert self._tls is not None
        return bool(lib.SSL_session_reused(self._tls._ssl))  # pyOpenSSL has no method for it

    def authorities(self) -> list[x509.Name]:
        """The certification authorities that the server named when it asked for a certificate."""
        assert self._tls is not None
        return self._tls.get_client_ca_list(as_cryptography=True)

    def peer_certificate(self) -> bytes:
        """The server's certificate, DER."""
        assert self._tls is not None
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        return certificate.public_bytes(Encoding.DER)

    # ---- bytes ----

    def _retry(self, call: Any, *arguments: Any, patience: float = PATIENCE) -> Any:
        until = time.monotonic() + patience
        while True:
            try:
                with self._turn:
                    return call(*arguments)
            except (SSL.WantReadError, BlockingIOError):
                want = select.POLLIN if call != self.sock.send else select.POLLOUT
            except SSL.WantWriteError:
                want = select.POLLOUT
            waiter = select.poll()  # select() knows no descriptor above 1,023
            waiter.register(self.sock, want)
            if not waiter.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError("nothing happened on the wire")

    def send(self, data: bytes) -> Self:
        """Send all of it."""
        view = memoryview(data)
        while view:
            sent = self._retry((self._tls or self.sock).send, bytes(view[: 1 << 16]))
            view = view[sent:]
        return self

    def dribble(self, data: bytes) -> Self:
        """Send it a byte at a time, each in a segment (and TLS record) of its own."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in data:
            self.send(bytes((octet,)))
        return self

    def receive(self, patience: float = PATIENCE) -> bytes:
        """Some bytes, b"" at the end of the connection."""
        try:
            data = self._retry((self._tls or self.sock).recv, 1 << 16, patience=patience)
        except SSL.ZeroReturnError:
            self.ended = "notify"
            return b""
        except ConnectionResetError:
            self.ended = "reset"
            return b""
        except SSL.SysCallError as error:
            self.ended = "fin" if error.args[0] == -1 else "reset"
            return b""
        if not data:
            self.ended = "fin"
        return bytes(data)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            data = self.receive()
            if not data:
                self.buffer = b"".join(parts)
                raise Ended(self.buffer)
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self.buffer = whole[size:]
        return whole[:size]

    def until(self, mark: bytes) -> bytes:
        """Up to and with the mark."""
        while mark not in self.buffer:
            data = self.receive()
            if not data:
                raise Ended(self.buffer)
            self.buffer += data
        at = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def rest(self, patience: float = PATIENCE) -> bytes:
        """Everything up to the end of the connection, which must come."""
        parts = [self.buffer]
        self.buffer = b""
        while data := self.receive(patience):
            parts.append(data)
        return b"".join(parts)

    def is_quiet(self, seconds: float = 0.2) -> bool:
        """Whether neither bytes nor the end come for so long. To show that a connection is kept."""
        if self.buffer:
            return False
        try:
            self.buffer += self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def half_close(self) -> Self:
        """We send no more: close_notify and FIN."""
        if self._tls is not None:
            self._tls.shutdown()
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def fin(self) -> Self:
        """A bare FIN, as peers without manners send it."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Go away with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        """Go away."""
        self.sock.close()

    # ---- HTTP ----

    def answer(self, method: str = "GET") -> Answer:
        """One whole final answer; interim ones in front of it are dropped."""
        while True:
            answer = self.one(method)
            if answer.status >= 200 or answer.status == 101:
                return answer

    def one(self, method: str = "GET") -> Answer:
        """One answer, interim ones too."""
        raw = self.until(b"\r\n\r\n")
        line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        version, _, rest = line.partition(" ")
        assert version == "HTTP/1.1", line
        status = int(rest[:3])
        fields = tuple(
            (name.lower(), value.strip(" \t")) for name, _, value in (field.partition(":") for field in lines)
        )
        named = dict(fields)
        content = b""
        trailers: tuple[tuple[str, str], ...] = ()
        assert not ("content-length" in named and "transfer-encoding" in named), raw
        if method == "HEAD" or status in (204, 304) or status < 200:
            assert status != 204 or "content-length" not in named
        elif "transfer-encoding" in named:
            content, trailers = self._chunks()
        elif "content-length" in named:
            content = self.read(int(named["content-length"]))
        else:
            assert "close" in named.get("connection", ""), raw
            content = self.rest()
        return Answer(status, fields, content, trailers, raw)

    def _chunks(self) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        out = []
        while size := int(self.until(b"\r\n"), 16):
            out.append(self.read(size))
            assert self.read(2) == b"\r\n"
        trailers = []
        while line := self.until(b"\r\n")[:-2].decode("latin-1"):
            name, _, value = line.partition(":")
            trailers.append((name.lower(), value.strip()))
        return b"".join(out), tuple(trailers)

    def ask(self, target: str = "/-/health", method: str = "GET", *lines: str, content: bytes = b"") -> Answer:
        """Send a request and read its answer."""
        self.send(request(target, method, *lines, content=content))
        return self.answer(method)


def is_ended(sock: socket.socket) -> bool:
    """Whether the other side has ended this connection: by FIN, or by RST if it left bytes unread."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def request(
    target: str, method: str = "GET", *lines: str, content: bytes = b"", host: str | None = "localhost"
) -> bytes:
    """The bytes of a request; `lines` are whole field lines."""
    head = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        head.append(f"Host: {host}")
    head += lines
    if content:
        head.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + content


def chunked(*chunks: bytes, trailers: Iterable[str] = ()) -> bytes:
    """Content in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + "".join(f"{line}\r\n" for line in trailers).encode() + b"\r\n"


def tls_context(
    bundle: Path | None, *, version: str | None = None, cert: Path | None = None, key: Path | None = None
) -> SSL.Context:
    """A client's TLS settings with a bundle's certificate (or the given one, or none). The server is not looked at."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version == "1.2":
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    elif version == "1.3":
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
    if bundle is not None:
        cert, key = cert or bundle / "cert.pem", key or bundle / "key.pem"
    if cert is not None and key is not None:
        context.use_certificate_chain_file(str(cert))
        context.use_privatekey_file(str(key))
    return context


class Digest:
    """Digest credentials of one user, computed here from RFC 7616; every part can be replaced by a wrong one."""

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password
        self.challenge: dict[str, str] = {}
        self.nc = 0

    def challenged(self, answer: Answer) -> Self:
        """Take the challenge of a 401."""
        (value,) = answer.challenges
        scheme, _, rest = value.partition(" ")
        assert scheme == "Digest"
        parts = (part.strip().partition("=") for part in rest.split(","))
        self.challenge = {name: text.strip('"') for name, _, text in parts}
        self.nc = 0
        return self

    def line(self, target: str, method: str = "GET", **replaced: Any) -> str:
        """The ``Authorization`` line for a request. ``nc`` counts on unless given; the rest replaces parameters."""
        if "nc" not in replaced:
            self.nc += 1
        parts = {
            "username": self.user,
            "realm": self.challenge["realm"],
            "nonce": self.challenge["nonce"],
            "uri": target,
            "algorithm": "SHA-256",
            "qop": "auth",
            "nc": f"{self.nc:08x}",
            "cnonce": os.urandom(8).hex(),
        } | replaced
        name = {"SHA-256": "sha256", "MD5": "md5", "SHA-512-256": "sha512_256"}[parts["algorithm"]]

        def digest(text: str) -> str:
            return hashlib.new(name, text.encode()).hexdigest()

        password = parts.pop("password", self.password)
        a1 = digest(f"{parts['username']}:{parts['realm']}:{password}")
        a2 = digest(f"{parts.pop('method', method)}:{parts['uri']}")
        words = (parts["nonce"], parts["nc"], parts["cnonce"], parts["qop"], a2)
        parts.setdefault("response", digest(":".join((a1, *words))))
        bare = {"algorithm", "qop", "nc"}
        return "Authorization: Digest " + ", ".join(
            f"{key}={text}" if key in bare else f'{key}="{text}"' for key, text in parts.items()
        )
