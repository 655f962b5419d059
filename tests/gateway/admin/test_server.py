"""The admin socket and its client: who may ask, what is parsed, and what happens to everyone else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.admin.client import AdminFailed, call
from gateway.admin.server import CONTENT_MAX, LIMITS, AdminServer, Answer, parse_content
from gateway.supervisor.sockets import ADMIN_MODE, Listener, bind_unix


async def echo(body: Mapping[str, object]) -> Answer:
    return Answer(body={"echo": dict(body)})


async def refuse(_body: Mapping[str, object]) -> Answer:
    return Answer(status=409, body={"error": "no", "problems": [{"path": "listen", "message": "cannot change"}]})


async def crash(_body: Mapping[str, object]) -> Answer:
    raise RuntimeError("a secret in an exception")


ROUTES = {"/echo": {"GET": echo, "POST": echo}, "/refuse": {"POST": refuse}, "/crash": {"GET": crash}}


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Place:
    """A served admin socket in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log: list[str] = []
        self.uid = os.geteuid()
        (home / "run").mkdir(mode=0o700)
        self.listener: Listener = bind_unix(home / "run" / "admin.sock", "admin", mode=ADMIN_MODE)
        self.server = AdminServer(ROUTES, log=self.log.append, uid_of=lambda _sock: self.uid)

    async def raw(self, data: bytes, *, eof: bool = False) -> bytes:
        """All that comes back for these bytes."""
        reader, writer = await asyncio.open_unix_connection(self.home / "run" / "admin.sock")
        writer.write(data)
        if eof:
            writer.write_eof()
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            await closed(writer)

    async def call(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        return await asyncio.to_thread(call, self.home, *args, **kwargs)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    await made.server.start(made.listener.sock)
    yield made
    await made.server.close()
    made.listener.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_request_of_the_owner_is_answered(place: Place) -> None:
    """The client and the server understand each other."""
    assert await place.call("POST", "/echo", {"serials": ["0a"]}) == {"echo": {"serials": ["0a"]}}
    assert await place.call("GET", "/echo") == {"echo": {}}


async def test_socket_file_is_the_owners_alone(place: Place) -> None:
    """The socket's own mode guards it too, not only the folder's."""
    assert (place.home / "run" / "admin.sock").stat().st_mode & 0o777 == 0o600


async def test_peer_of_another_user_is_refused_before_it_is_read(place: Place) -> None:
    """Whoever got through to the socket is nobody without the owner's uid."""
    place.uid = 65534
    if os.geteuid() == 65534:
        pytest.skip("runs as the very user that it plays")
    answer = await place.raw(b"")
    assert status_of(answer) == 403
    assert place.log == ["the admin socket was refused to uid 65534"]


async def test_peer_root_is_served(place: Place) -> None:
    """Root may ask whoever owns the home."""
    place.uid = 0
    assert await place.call("GET", "/echo") == {"echo": {}}


async def test_peer_credentials_are_the_kernels(tmp_path: Path) -> None:
    """Without a stand-in the uid is what SO_PEERCRED says: ours, so we are served."""
    place = Place(tmp_path)
    place.server = AdminServer(ROUTES, log=place.log.append)
    await place.server.start(place.listener.sock)
    assert await place.call("GET", "/echo") == {"echo": {}}
    await place.server.close()
    place.listener.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", 404, id="unknown path"),
        pytest.param(b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n", 400, id="path that is no text"),
        pytest.param(b"GET http://localhost/echo HTTP/1.1\r\nHost: h\r\n\r\n", 404, id="absolute form"),
        pytest.param(b"GET /" + b"a" * 512 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, id="target too long"),
        pytest.param(b"POST /crash HTTP/1.1\r\nHost: h\r\n\r\n", 405, id="method"),
        pytest.param(b"TRACE /echo HTTP/1.1\r\nHost: h\r\n\r\n", 501, id="method that nobody serves"),
        pytest.param(b"GET /echo HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(b"GET /echo HTTP/2.0\r\nHost: h\r\n\r\n", 505, id="version"),
        pytest.param(b"GET  /echo HTTP/1.1\r\nHost: h\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"GET /echo HTTP/1.0\r\nA : b\r\n\r\n", 400, id="space before colon"),
        pytest.param(b"GET /echo HTTP/1.0\r\nA: b\r\n c\r\n\r\n", 400, id="folded field"),
        pytest.param(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, id="chunked"
        ),
        pytest.param(b"GET /echo HTTP/1.0\r\nUpgrade: h2c\r\n\r\n", 501, id="upgrade"),
        pytest.param(b"GET /echo HTTP/1.0\r\nOrigin: http://a.example\r\n\r\n", 403, id="web page"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, id="two lengths"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: +2\r\n\r\n{}", 400, id="signed length"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: 1\r\n\r\n{", 400, id="no JSON"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\n[]", 400, id="no object"),
        pytest.param(b"POST /echo HTTP/1.0\r\nContent-Length: 65537\r\n\r\n", 413, id="content too long"),
        pytest.param(b"GET /echo HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", 417, id="unknown expectation"),
        pytest.param(b"GET /echo HTTP/1.1\n", 400, id="LF"),
        pytest.param(b"GET /echo HTTP/1.1\r\nA: b\n", 400, id="LF behind a field"),
        pytest.param(b"GET /echo HTTP/1.1\r\nA: b\r\n\n", 400, id="LF at the end"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(
            (b"GET /echo HTTP/1.1\r\n" + b"A: b\r\n" * LIMITS.head_bytes)[: 2 * LIMITS.head_bytes],
            431,
            id="too many fields",
        ),
        pytest.param(b"GET /echo HTTP/1.1\r\nA: " + b"b" * LIMITS.head_bytes + b"\r\n\r\n", 431, id="head too long"),
    ],
)
async def test_request_unfit_is_refused_with_its_status(place: Place, request_bytes: bytes, status: int) -> None:
    """Everything but a plain small request gets a clear no."""
    answer = await place.raw(request_bytes)
    assert status_of(answer) == status
    assert "error" in orjson.loads(answer.split(b"\r\n\r\n", 1)[1])


async def test_request_cut_off_gets_no_answer(place: Place) -> None:
    """Half a request is not acted upon."""
    assert await place.raw(b"POST /echo HTTP/1.0\r\nContent-Length: 9\r\n\r\n{", eof=True) == b""


async def test_request_byte_by_byte_is_answered(place: Place) -> None:
    """How the bytes arrive does not matter."""
    reader, writer = await asyncio.open_unix_connection(place.home / "run" / "admin.sock")
    for byte in b'POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n{"a":1}':
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await reader.read()).endswith(b'{"echo":{"a":1}}\n')
    await closed(writer)


async def test_peer_that_dawdles_is_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody occupies a connection by saying nothing."""
    monkeypatch.setattr("gateway.admin.server.LIMITS", replace(LIMITS, head_timeout=0.02, content_timeout=0.02))
    assert status_of(await place.raw(b"GET /echo HTT")) == 408
    assert status_of(await place.raw(b"POST /echo HTTP/1.0\r\nContent-Length: 9\r\n\r\n{")) == 408
    assert await place.raw(b"") == b""


async def test_answer_larger_than_the_buffers_arrives_whole_behind_a_slow_reader(place: Place) -> None:
    """A status of very many workers gets through, also when the gateway ends while it is read."""
    blob = "x" * (4 << 20)

    async def big(_body: Mapping[str, object]) -> Answer:
        return Answer(body={"blob": blob})

    place.server._routes = {"/big": {"GET": big}}
    reader, writer = await asyncio.open_unix_connection(place.home / "run" / "admin.sock", limit=1024)
    writer.write(b"GET /big HTTP/1.0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    ending = asyncio.create_task(place.server.close())
    content = await reader.read()
    await ending
    assert b"Connection: close\r\n" in head
    assert orjson.loads(content) == {"blob": blob}
    await closed(writer)


async def test_act_whose_asker_left_is_done_and_holds_its_place_until_then(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload does not stop half-way with its command; who asks and leaves has as many under way as places."""
    monkeypatch.setattr(place.server, "_most", lambda: 1)
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def act(_body: Mapping[str, object]) -> Answer:
        begun.set()
        await go_on.wait()
        done.set()
        return Answer(body={})

    place.server._routes = {"/act": {"POST": act}, **ROUTES}
    reader, writer = await asyncio.open_unix_connection(place.home / "run" / "admin.sock")
    writer.write(b"POST /act HTTP/1.0\r\n\r\n")
    await begun.wait()
    writer.transport.abort()
    next_one = asyncio.create_task(place.raw(b"GET /echo HTTP/1.0\r\n\r\n"))
    refused, _ = await asyncio.wait({next_one}, timeout=0.3)
    assert not refused
    go_on.set()
    assert status_of(await next_one) == 200
    assert done.is_set()
    assert await reader.read() == b""


async def test_expectation_is_met_before_the_content_comes(place: Place) -> None:
    """A client that asks whether to send its content is told so (RFC 9110 section 10.1.1)."""
    reader, writer = await asyncio.open_unix_connection(place.home / "run" / "admin.sock")
    writer.write(b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert status_of(await reader.read()) == 200
    await closed(writer)


@pytest.mark.parametrize("extra", [0, 1, 3])
async def test_connections_over_the_cap_give_way_as_long_as_they_ask_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    """An operator is served whoever else holds the socket open; the one that was silent longest goes."""
    monkeypatch.setattr(place.server, "_most", lambda: 2)
    silent = [await asyncio.open_unix_connection(place.home / "run" / "admin.sock") for _ in range(1 + extra)]
    assert status_of(await place.raw(b"GET /echo HTTP/1.0\r\n\r\n")) == 200
    for number, (reader, writer) in enumerate(silent):
        if number < extra:
            assert await reader.read() == b""
        await closed(writer)


async def test_connection_at_the_cap_is_left_in_peace_while_nobody_else_comes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place is taken from somebody only for somebody."""
    monkeypatch.setattr(place.server, "_most", lambda: 1)
    reader, writer = await asyncio.open_unix_connection(place.home / "run" / "admin.sock")
    for _ in range(10):
        await asyncio.sleep(0)
    writer.write(b"GET /echo HTTP/1.0\r\n\r\n")
    assert status_of(await reader.read()) == 200
    await closed(writer)


async def test_handler_that_fails_is_500_without_its_text(place: Place) -> None:
    """What went wrong inside is for the log, not for the socket."""
    answer = await place.raw(b"GET /crash HTTP/1.0\r\n\r\n")
    assert status_of(answer) == 500
    assert b"secret" not in answer
    assert place.log == ["GET /crash failed: RuntimeError: a secret in an exception"]


async def test_client_refused_raises_with_the_problems(place: Place) -> None:
    """A caller cannot take a refusal for success, and can show every problem."""
    with pytest.raises(AdminFailed) as caught:
        await place.call("POST", "/refuse")
    assert (caught.value.status, caught.value.problems) == (409, (("listen", "cannot change"),))


async def test_client_without_an_answer_in_time_fails(tmp_path: Path) -> None:
    """A gateway that hangs is no gateway that does not run."""
    (tmp_path / "run").mkdir()
    listener = bind_unix(tmp_path / "run" / "admin.sock", "admin", mode=ADMIN_MODE)
    with pytest.raises(AdminFailed, match="did not answer"):
        await asyncio.to_thread(call, tmp_path, "GET", "/status", None, 0.05)
    listener.close()


def test_client_without_a_gateway_gets_none(tmp_path: Path) -> None:
    """No socket, or a dead one, means that no gateway runs."""
    assert call(tmp_path, "GET", "/status") is None
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run" / "admin.sock"))
    assert call(tmp_path, "GET", "/status") is None


def test_client_with_a_long_home_says_what_is_too_long(tmp_path: Path) -> None:
    """The kernel's limit on a socket's path is told in words."""
    with pytest.raises(AdminFailed, match="over 107 bytes"):
        call(tmp_path / ("x" * 107), "GET", "/status")


async def test_content_at_the_limit_passes(place: Place) -> None:
    """The limit itself is allowed."""
    body = b'{"a":"%b"}' % (b"x" * (CONTENT_MAX - 8))
    assert len(body) == CONTENT_MAX
    answer = await place.raw(b"POST /echo HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert status_of(answer) == 200


def test_content_absent_is_an_empty_object() -> None:
    """A request without content has no arguments."""
    assert parse_content(b"") == {}
