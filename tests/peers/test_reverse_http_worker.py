"""The npm worker's wrapper against a small stand-in, so that a failure with the gateway is the gateway's."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import ipaddress
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.peers import NpmWorker, npm_worker

PATH = "/-/reverse/render"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
CHALLENGE = (
    b"HTTP/1.1 401 Unauthorized\r\n"
    b'WWW-Authenticate: Digest realm="stand-in", nonce="n0nce", qop="auth", algorithm=SHA-256\r\n'
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One self-signed certificate that plays the server's, the worker's and the trust anchor."""
    folder = tmp_path_factory.mktemp("bundle")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "trust.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "password").write_text("open sesame\n")
    return folder


class StandIn:
    """A TLS server that demands a certificate, answers each upgrade by `answer` and keeps what it switched."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.port = 0
        self.heads: list[bytes] = []
        self.switched: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        answer = self.answer(head)
        writer.write(answer)
        await writer.drain()
        if answer == SWITCH:
            self.switched.put_nowait((reader, writer))
        else:
            writer.close()

    async def request(self, target: str, content: bytes = b"") -> tuple[bytes, bytes]:
        """Send a request down the reversed connection; its answer's head and content (by Content-Length or chunks)."""
        reader, writer = await asyncio.wait_for(self.switched.get(), 20)
        self.switched.put_nowait((reader, writer))
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: w1\r\nContent-Length: %d\r\n\r\n%s" % (target.encode(), len(content), content)
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            return head, await asyncio.wait_for(reader.readexactly(int(length[1])), 20)
        received = b""
        while size := int(await asyncio.wait_for(reader.readline(), 20), 16):
            received += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return head, received


@contextlib.asynccontextmanager
async def stand_in(bundle: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[StandIn]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle / "cert.pem", bundle / "key.pem")
    context.load_verify_locations(bundle / "trust.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    peer = StandIn(answer)
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0, ssl=context)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        while not peer.switched.empty():
            peer.switched.get_nowait()[1].transport.abort()
        await server.wait_closed()


def check_digest(head: bytes) -> bytes:
    """A challenge to a request without credentials, 101 to a right response (RFC 7616, 3.4.1), 403 to a wrong one."""
    if b"Authorization:" not in head:
        return CHALLENGE
    got = dict(re.findall(r'(\w+)="?([^",\r]+)', head.decode().split("Authorization: Digest ")[1]))

    def h(*parts: str) -> str:
        return hashlib.sha256(":".join(parts).encode()).hexdigest()

    ha1, ha2 = h("w1", "stand-in", "open sesame"), h("POST", PATH)
    right = got["response"] == h(ha1, "n0nce", got["nc"], got["cnonce"], "auth", ha2)
    return SWITCH if right else b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def reversed_worker(bundle: Path) -> AsyncIterator[tuple[StandIn, NpmWorker]]:
    async with (
        stand_in(bundle, check_digest) as peer,
        npm_worker(port=peer.port, path=PATH, bundle=bundle, user="w1") as worker,
    ):
        await worker.told("reversed")
        yield peer, worker


async def test_npm_worker_challenged_answers_digest_and_serves(bundle: Path) -> None:
    """It presents its certificate, answers a SHA-256 challenge on a second connection and echoes requests."""
    async with reversed_worker(bundle) as (peer, worker):
        _, content = await peer.request("/job?n=1", b"12345")
        assert json.loads(content)["length"] == 5
        assert json.loads(content)["url"] == "/job?n=1"
        assert [event["event"] for event in worker.events] == ["challenged", "reversed"]
        assert len(peer.heads) == 2
        assert peer.heads[1].startswith(b"POST /-/reverse/render HTTP/1.1\r\n")


async def test_npm_worker_stream_and_big_carry_the_bytes_asked_for(bundle: Path) -> None:
    """Chunked and counted content come in the sizes that the target names."""
    async with reversed_worker(bundle) as (peer, _):
        head, content = await peer.request("/stream?chunks=4&bytes=10&ms=1")
        assert b"chunked" in head.lower()
        assert content == b"s" * 40
        _, content = await peer.request("/big?bytes=200000")
        assert content == b"b" * 200_000


async def test_npm_worker_told_to_die_ends_in_mid_answer(bundle: Path) -> None:
    """`/die` promises more than it sends, so a reader sees the connection end too early."""
    async with reversed_worker(bundle) as (peer, worker):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.request("/die?bytes=8")
        assert await worker.ended() == 1


async def test_npm_worker_connection_closed_ends_its_life(bundle: Path) -> None:
    """When the reversed connection closes the process ends instead of dialling with its old credentials."""
    async with reversed_worker(bundle) as (peer, worker):
        _, writer = peer.switched.get_nowait()
        writer.close()
        assert await worker.ended() == 0
        assert len(peer.heads) == 2


@pytest.mark.parametrize("status", [b"403 Forbidden", b"426 Upgrade Required"])
async def test_npm_worker_refused_tells_the_status(bundle: Path, status: bytes) -> None:
    """Anything but a challenge to its first request ends it with status 1."""
    async with (
        stand_in(bundle, lambda _: b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status) as peer,
        npm_worker(port=peer.port, path=PATH, bundle=bundle, user="w1") as worker,
    ):
        assert (await worker.told("refused"))["status"] == int(status[:3])
        assert await worker.ended() == 1
