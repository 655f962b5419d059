"""Real clients against the real gateway: curl, requests, httpx, and the npm package reverse-http as a worker."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from requests.auth import HTTPDigestAuth
from support.origins import Origin, read_head, response
from support.peers import npm_worker
from support.rig import JOBS, Rig
from support.wire import Ended, Wire, request

CONFIG = f"""{JOBS}
[audit]
fold_after = 100000
"""
PEERS = ("issue-client alice", "issue-master m1", "issue-worker w1 --pool render")


def count_content(wire: Wire) -> None:
    """A master that counts uploads without keeping them, and answers downloads of ``/jobs/big?N``."""
    wire.records = False  # type: ignore[attr-defined]
    while True:
        head = read_head(wire)
        length = 0
        if "transfer-encoding" in head.names:
            while size := int(wire.until(b"\r\n"), 16):
                length += size
                wire.read(size + 2)
            wire.until(b"\r\n")
        else:
            left = int(dict(head.fields).get("content-length", "0"))
            while left:
                piece = wire.read(min(left, 1 << 20))
                left -= len(piece)
                length += len(piece)
        if head.target.startswith("/jobs/big?"):
            size = int(head.target.partition("?")[2])
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(size >> 16):
                wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            wire.send(b"0\r\n\r\n")
            continue
        content = json.dumps({"method": head.method, "target": head.target, "length": length}).encode()
        wire.send(response(b"" if head.method == "HEAD" else content))


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        origin.script = count_content
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("clients"), CONFIG.format(port=origin.port), peers=PEERS) as rig:
        yield rig


@pytest.fixture
def url(rig: Rig) -> str:
    return f"https://localhost:{rig.address[1]}"


SIZES = [3 << 20, pytest.param(100 << 20, marks=pytest.mark.long)]


# ---- curl ----


def curl(rig: Rig, *arguments: str, name: str = "alice") -> str:
    """What curl prints with a bundle's configuration; it must succeed."""
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-K", str(rig.bundle(name) / "curl.conf"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=rig.home,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_is_in_with_its_bundle_alone(rig: Rig, url: str) -> None:
    """`curl -K` and a URL: certificate, trust and password are in the file."""
    assert json.loads(curl(rig, f"{url}/jobs/x?y=1")) == {"method": "GET", "target": "/jobs/x?y=1", "length": 0}
    assert json.loads(curl(rig, f"{url}/-/pools"))["slots"] == {"total": 0, "free": 0}
    assert curl(rig, "-I", f"{url}/jobs/x").startswith("HTTP/1.1 401")
    codes = curl(rig, "-o", "/dev/null", "-o", "/dev/null", "-w", "%{http_code} ", f"{url}/jobs/1", f"{url}/nowhere")
    assert codes.split() == ["200", "404"]


@pytest.mark.parametrize("size", SIZES)
def test_curl_uploads_and_downloads(rig: Rig, url: str, size: int, tmp_path: Path) -> None:
    """By length, by chunks, with Expect; every byte arrives."""
    path = tmp_path / "content"
    with path.open("wb") as file:
        file.truncate(size)
    assert json.loads(curl(rig, "-T", str(path), f"{url}/jobs/x")) == {
        "method": "PUT", "target": "/jobs/x", "length": size,
    }  # fmt: skip
    chunks = ("-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", f"@{path}")
    assert json.loads(curl(rig, *chunks, f"{url}/jobs/x"))["length"] == size
    found = curl(rig, "-o", "/dev/null", "-w", "%{size_download} %{http_code}", f"{url}/jobs/big?{size}")
    assert found == f"{size} 200"


def test_curl_that_offers_http_2_can_post(rig: Rig) -> None:
    """In the clear curl offers h2c with every request, content and all; we go on in HTTP/1.1."""
    socket = str(rig.home / "run" / "dispatch.sock")
    offer = ("--http2", "--unix-socket", socket)
    target = "http://localhost/-/pools/render/any/x"
    answer = json.loads(curl(rig, *offer, "-d", "x" * 1000, target, name="m1"))
    assert answer["type"] == "urn:rhttp:problem:no-slot"  # as without the offer: there is no worker
    assert curl(rig, *offer, "-w", " %{http_version}", "http://localhost/-/health", name="m1").endswith(" 1.1")


def test_curl_on_the_dispatch_socket_needs_nothing(rig: Rig) -> None:
    """A master on this host is a one-liner."""
    socket = str(rig.home / "run" / "dispatch.sock")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", socket, "http://gateway/-/pools/render"], capture_output=True, timeout=30
    )
    assert json.loads(done.stdout)["pool"] == "render"


def test_curl_with_http2_and_websocket_wishes_is_served_plainly(rig: Rig, url: str) -> None:
    """ALPN settles on http/1.1; an Upgrade field on a route does no harm."""
    assert json.loads(curl(rig, "--http2", f"{url}/jobs/x"))["target"] == "/jobs/x"
    fields = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    assert json.loads(curl(rig, *fields, f"{url}/jobs/x"))["target"] == "/jobs/x"


# ---- requests ----


@pytest.fixture
def session(rig: Rig) -> Iterator[requests.Session]:
    with requests.Session() as session:
        bundle = rig.bundle("alice")
        session.cert = (str(bundle / "cert.pem"), str(bundle / "key.pem"))
        session.verify = str(bundle / "trust.pem")
        session.trust_env = False
        session.auth = HTTPDigestAuth("alice", rig.digest("alice").password)
        yield session


def test_requests_logs_in_once_and_stays(session: requests.Session, rig: Rig, url: str) -> None:
    """One challenge, then every request is admitted on the same connection."""
    first = session.get(f"{url}/jobs/0")
    assert (first.status_code, len(first.history)) == (200, 1)
    for number in range(1, 10):
        answer = session.post(f"{url}/jobs/{number}?q=a%20b", data=b"x" * number)
        assert (answer.status_code, len(answer.history), answer.json()["length"]) == (200, 0, number)
    assert session.get(f"{url}/nowhere").status_code == 404


@pytest.mark.parametrize("size", SIZES)
def test_requests_uploads_though_its_first_request_is_refused(
    session: requests.Session, url: str, size: int, tmp_path: Path
) -> None:
    """It sends all of its content before it reads the 401, and sends it again."""
    path = tmp_path / "content"
    with path.open("wb") as file:
        file.truncate(size)
    with path.open("rb") as file:
        try:
            answer = session.put(f"{url}/jobs/x", data=file)
        except requests.ConnectionError:
            # Content over a MiB is not read to its end: urllib3 may see the close before the answer, and says so.
            assert session.get(f"{url}/jobs/x").status_code == 200  # now it has a challenge
            file.seek(0)
            answer = session.put(f"{url}/jobs/x", data=file)
    assert answer.status_code == 200
    assert answer.json()["length"] == size


def test_requests_small_upload_needs_no_second_thought(session: requests.Session, url: str) -> None:
    """Up to a MiB the refused content is read, so the 401 is always seen."""
    answer = session.put(f"{url}/jobs/x", data=b"x" * 1_000_000)
    assert (answer.status_code, answer.json()["length"], len(answer.history)) == (200, 1_000_000, 1)


# ---- httpx ----


@pytest.fixture
def client(rig: Rig) -> Iterator[httpx.Client]:
    bundle = rig.bundle("alice")
    context = ssl.create_default_context(cafile=str(bundle / "trust.pem"))
    context.load_cert_chain(bundle / "cert.pem", bundle / "key.pem")
    auth = httpx.DigestAuth("alice", rig.digest("alice").password)
    with httpx.Client(verify=context, auth=auth, trust_env=False, timeout=60) as client:
        yield client


def test_httpx_logs_in_and_stays(client: httpx.Client, url: str) -> None:
    """As requests does."""
    for number in range(10):
        answer = client.post(f"{url}/jobs/{number}", content=b"x" * number)
        assert (answer.status_code, answer.json()["length"]) == (200, number)
        assert len(answer.history) == (0 if number else 1)


@pytest.mark.parametrize("size", SIZES)
def test_httpx_uploads_though_its_first_request_is_refused(client: httpx.Client, url: str, size: int) -> None:
    """Its connection is closed under its content; it reads the 401 nevertheless and sends everything again."""
    answer = client.put(f"{url}/jobs/x", content=b"x" * size)
    assert (answer.status_code, answer.json()["length"]) == (200, size)


def test_httpx_downloads(client: httpx.Client, url: str) -> None:
    """A stream in chunks."""
    with client.stream("GET", f"{url}/jobs/big?{8 << 20}") as answer:
        assert sum(map(len, answer.iter_raw())) == 8 << 20


# ---- npm reverse-http ----


async def test_npm_worker_switches_serves_and_is_seen(rig: Rig) -> None:
    """The package of 2017, through its wrapper for certificates: challenged, reversed, asked, answered."""
    async with npm_worker(port=rig.address[1], path="/-/reverse/render", bundle=rig.bundle("w1"), user="w1") as worker:
        assert (await worker.told("challenged"))["algorithm"] == "SHA-256"
        await worker.told("reversed")
        assert rig.pool()["slots"] == {"total": 1, "free": 1}
        with rig.dispatch() as wire:
            for number in range(3):
                answer = wire.ask(f"/-/pools/render/any/x/{number}", "POST", content=b"job")
                assert answer.status == 200
                told: dict[str, Any] = answer.json
                assert (told["method"], told["url"], told["length"]) == ("POST", f"/x/{number}", 3)
                assert told["host"] == "w1.render.test.internal"
                assert told["identity"] == "master/local"
            stream = wire.ask("/-/pools/render/any/stream?chunks=5&bytes=1000&ms=5")
            assert len(stream.content) == 5000
            big = wire.ask(f"/-/pools/render/any/big?bytes={4 << 20}")
            assert len(big.content) == 4 << 20
            wire.send(request("/-/pools/render/any/die?bytes=100"))
            with pytest.raises(Ended):
                wire.answer()
        assert await worker.ended() == 1
    rig.wait_pool(lambda pool: not pool["workers"])


async def test_npm_worker_without_credentials_is_refused_and_let_go(rig: Rig) -> None:
    """It abandons the socket; the gateway does not keep it for long."""
    async with npm_worker(port=rig.address[1], path="/-/reverse/render", bundle=rig.bundle("w1")) as worker:
        await worker.told("refused")
        assert await worker.ended() == 1


def test_openssl_client_can_update_its_keys(rig: Rig) -> None:
    """TLS 1.3 KeyUpdate in mid-connection, asked for in both directions."""
    bundle = rig.bundle("alice")
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{rig.address[1]}",
        "-servername",
        "localhost",
        "-tls1_3",
        "-crlf",
    ]
    command += [
        "-cert",
        str(bundle / "cert.pem"),
        "-key",
        str(bundle / "key.pem"),
        "-CAfile",
        str(bundle / "trust.pem"),
    ]
    ask = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for letter in (b"", b"k\n", b"K\n"):
            if letter:
                peer.stdin.write(letter)
                peer.stdin.flush()
                while b"KEYUPDATE" not in (line := peer.stdout.readline()):
                    assert line
            peer.stdin.write(ask.replace(b"\r\n", b"\n"))
            peer.stdin.flush()
            while b"HTTP/1.1 200" not in (line := peer.stdout.readline()):
                assert line
                assert b"HTTP/1.1 4" not in line
        peer.kill()


def test_client_is_sent_no_ticket_that_it_could_not_use(rig: Rig) -> None:
    """Sessions are never resumed, so in TLS 1.3 nothing follows the handshake but the answer."""
    bundle = rig.bundle("alice")
    context = ssl.create_default_context(cafile=str(bundle / "trust.pem"))
    context.load_cert_chain(bundle / "cert.pem", bundle / "key.pem")
    with (
        socket.create_connection(rig.address, timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as client,
    ):
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 ")
        assert client.version() == "TLSv1.3"
        assert client.session is not None
        assert not client.session.has_ticket
