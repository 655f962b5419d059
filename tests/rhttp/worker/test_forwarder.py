"""Forwarding to a local server: what passes, what is stripped, what is kept open, and what fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from support.ends import Peer, served

from rhttp.worker.forward_target import ForwardTarget
from rhttp.worker.forwarder import Forwarder

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Local:
    """A local server that talks as it is told and keeps the heads it saw."""

    def __init__(self, talk: Callable[[bytes], bytes] | None = None, raw: Talk | None = None) -> None:
        self.talk = talk or (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.raw = raw
        self.heads: list[bytes] = []
        self.contents: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if self.raw is not None:
                await self.raw(reader, writer)
                return
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if b"content-length: " in head.lower():
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    self.contents.append(await reader.readexactly(length))
                answer = self.talk(head)
                writer.write(answer)
                if not answer or b"close" in answer or b"HTTP/1.0" in answer:
                    writer.close()
                    return

    def cut(self) -> None:
        """Close every connection that is open."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()


@contextlib.asynccontextmanager
async def local(
    talk: Callable[[bytes], bytes] | None = None, raw: Talk | None = None, unix: Path | None = None
) -> AsyncIterator[Local]:
    one = Local(talk, raw)
    if unix is not None:
        server: asyncio.Server = await asyncio.start_unix_server(one.accept, unix)
        one.url = f"unix:{unix}"
    else:
        server = await asyncio.start_server(one.accept, "127.0.0.1", 0)
        one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        one.cut()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def forwarding(url: str, *, keep_host: bool = False) -> AsyncIterator[Peer]:
    async with served(Forwarder(url, keep_host=keep_host)) as one:
        yield await one.connect()


async def test_request_passes_with_the_servers_own_host() -> None:
    """Path, query and fields go on; Host is the local server's; a Via tells that somebody stood between."""
    async with local() as server, forwarding(server.url) as peer:
        status, fields, content = await peer.ask(
            "/a?b=c", fields="Accept: x\r\nRhttp-Identity: client/alice\r\nVia: 1.1 gw\r\n"
        )
        assert (status, content, fields) == (200, b"ok", {"content-length": "2"})
        assert server.heads[0].decode().split("\r\n") == [
            "GET /a?b=c HTTP/1.1",
            f"Host: {server.url.removeprefix('http://')}",
            "accept: x",
            "rhttp-identity: client/alice",
            "via: 1.1 gw",
            "via: 1.1 rhttp-worker",
            "",
            "",
        ]


async def test_host_is_kept_when_told() -> None:
    """A server that tells workers or pools apart by Host gets what the gateway sent."""
    async with local() as server, forwarding(server.url, keep_host=True) as peer:
        await peer.ask()
        assert b"\r\nHost: w1.render.test\r\n" in server.heads[0]


async def test_prefix_stands_before_every_path() -> None:
    """http://host:port/prefix."""
    async with local() as server, forwarding(server.url + "/api/") as peer:
        await peer.ask("/a?b")
        assert server.heads[0].startswith(b"GET /api/a?b HTTP/1.1\r\n")


@pytest.mark.parametrize("target", ["/../x", "/a/%2e%2e/x", "/a/..;p/x", "/a%2F..%2Fx"])
async def test_target_that_could_leave_the_prefix_is_refused(target: str) -> None:
    """The gateway refuses these too; a prefix that could be left would be worth nothing."""
    async with local() as server, forwarding(server.url + "/api") as peer:
        assert (await peer.ask(target))[0] == 400
        assert server.heads == []


async def test_unix_socket_is_a_target(tmp_path: Path) -> None:
    """unix:/PATH, with Host localhost."""
    async with local(unix=tmp_path / "app.sock") as server, forwarding(server.url) as peer:
        assert (await peer.ask())[2] == b"ok"
        assert b"\r\nHost: localhost\r\n" in server.heads[0]


async def test_fields_of_a_connection_do_not_pass() -> None:
    """Hop-by-hop fields and those that Connection names end here, in both directions; no protocol is switched."""

    def talk(head: bytes) -> bytes:
        return (
            b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nConnection: X-Mine\r\nUpgrade: h2c\r\n"
            b"X-Yours: 2\r\nContent-Length: 0\r\n\r\n"
        )

    async with local(talk) as server, forwarding(server.url) as peer:
        _, fields, _ = await peer.ask(
            fields="Connection: upgrade, x-hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nTE: trailers\r\nX-End: 2\r\n"
        )
        assert fields == {"x-yours": "2", "content-length": "0"}
        names = [line.split(b":")[0] for line in server.heads[0].split(b"\r\n")[1:-2]]
        assert names == [b"Host", b"x-end", b"via"]


async def test_switch_that_nobody_asked_for_is_a_502() -> None:
    """A local server that answers 101 all the same gets nowhere."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    async with local(lambda _: switch) as server, forwarding(server.url) as peer:
        status, _, content = await peer.ask()
        assert (status, json.loads(content)["type"]) == (502, "urn:rhttp:problem:forward-invalid")


async def test_connection_is_used_again() -> None:
    """One connection serves one request after another."""
    async with local() as server, forwarding(server.url) as peer:
        for _ in range(5):
            assert (await peer.ask())[0] == 200
        assert server.connections == 1


async def test_connection_that_the_server_closed_is_replaced() -> None:
    """A kept connection that was closed meanwhile costs nobody an answer."""
    async with local() as server, forwarding(server.url) as peer:
        for _ in range(3):
            assert (await peer.ask())[0] == 200
            server.cut()
        assert server.connections == 3


async def test_request_lost_on_a_kept_connection_is_sent_once_more() -> None:
    """A server that closes as the request arrives: once more, on a fresh connection, when nothing can happen twice."""
    seen = 0

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        for number in range(2):
            await reader.readuntil(b"\r\n\r\n")
            seen += 1
            if number:
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        assert (await peer.ask())[0] == 200
        assert (await peer.ask())[0] == 200
        assert (seen, server.connections) == (3, 2)


@pytest.mark.parametrize(("size", "status"), [(65536, 200), (65537, 502)])
async def test_upload_lost_on_a_kept_connection_is_sent_once_more_when_all_of_it_was_kept(
    size: int, status: int
) -> None:
    """However its content was cut: up to 64 KiB are kept."""
    bodies: list[int] = []
    connections = 0

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        is_first = connections == 1
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
            bodies.append(len(await reader.readexactly(length)))
            if number and is_first:
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        assert (await peer.ask())[0] == 200
        peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        await asyncio.sleep(0)
        peer.send(b"x" * size)
        assert (await peer.head())[0] == status
        assert bodies == [0, size, size] if status == 200 else [0, size]


async def test_request_that_may_have_run_is_not_repeated() -> None:
    """POST on a kept connection that closes: 502, since it may have been done."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        assert (await peer.ask())[0] == 200
        status, _, content = await peer.ask(method="POST")
        assert (status, json.loads(content)["type"]) == (502, "urn:rhttp:problem:forward-lost")
        assert server.connections == 1


async def test_server_that_is_down_is_a_502_until_it_is_up() -> None:
    """A problem says so; the worker stays, and so does its connection."""
    async with local() as server:
        url, port = server.url, int(server.url.rpartition(":")[2])
    async with forwarding(url) as peer:
        status, _, content = await peer.ask(method="POST", content=b"x" * 1000)
        assert (status, json.loads(content)["type"]) == (502, "urn:rhttp:problem:forward-unreachable")
        one = Local()
        again = await asyncio.start_server(one.accept, "127.0.0.1", port)
        assert (await peer.ask())[0] == 200
        again.close()
        one.cut()
        await again.wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    ],
)
async def test_answer_outside_the_grammar_is_a_502(answer: bytes) -> None:
    """What cannot be framed in one way only is not passed on."""
    async with local(lambda _: answer) as server, forwarding(server.url) as peer:
        assert (await peer.ask())[0] == 502


@pytest.mark.parametrize("behind", [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2"])
@pytest.mark.parametrize("is_late", [False, True])
async def test_bytes_behind_an_answer_leave_it_as_it_is(
    behind: bytes, is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer passes, the next request goes over another connection, and the log says what is wrong."""
    passed = asyncio.Event()
    gone = asyncio.Event()

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        if is_late:
            writer.write(answer)
            await passed.wait()
            writer.write(behind)
        else:
            writer.write(answer + behind)
        assert await reader.read() == b""
        gone.set()

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        for number in (1, 2):
            assert (await peer.ask())[::2] == (200, b"ok")
            passed.set()
            await asyncio.wait_for(gone.wait(), 20)
            gone.clear()
            assert server.connections == number
    assert "sent more than the answers that it announced" in caplog.text


async def test_answer_cut_in_its_content_cuts_the_connection() -> None:
    """Nobody takes half an answer for a whole one."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhalf"
    async with local(lambda _: half) as server, forwarding(server.url) as peer:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.ask()


async def test_answer_until_the_end_of_the_connection_comes_in_chunks() -> None:
    """HTTP/1.0 servers, such as `python -m http.server`."""
    old = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end"
    async with local(lambda _: old) as server, forwarding(server.url) as peer:
        for _ in range(2):
            _, fields, content = await peer.ask()
            assert (fields["transfer-encoding"], content) == ("chunked", b"until the end")


async def test_interim_answers_and_trailers_pass() -> None:
    """103 goes on, 100 does not; trailers follow the chunks."""
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    async with local(lambda _: answer) as server, forwarding(server.url) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await peer.head() == (103, {"link": "</x>"})
        _, fields = await peer.head()
        assert await peer.content(fields) == b"ok"
        assert peer.trailers == b"x-sum: 1\r\n"


async def test_head_request_has_no_content() -> None:
    """HEAD: the length passes, the connection stays in step."""
    async with (
        local(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") as server,
        forwarding(server.url) as peer,
    ):
        for _ in range(2):
            assert (await peer.ask(method="HEAD"))[1] == {"content-length": "5"}
        assert server.connections == 1


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
async def test_upload_passes_whole(expect: str) -> None:
    """Large content, glued to its head or after a 100; the expectation itself is settled here."""
    content = bytes(range(256)) * 4000
    async with local() as server, forwarding(server.url) as peer:
        head = f"PUT /x HTTP/1.1\r\nHost: h\r\n{expect}Content-Length: {len(content)}\r\n\r\n".encode()
        if expect:
            peer.send(head)
            assert (await peer.head())[0] == 100
            peer.send(content)
        else:
            peer.send(head + content)
        _, fields = await peer.head()
        assert await peer.content(fields) == b"ok"
        assert server.contents == [content]
        assert b"expect" not in server.heads[0].lower()


async def test_upload_in_chunks_passes_in_chunks_with_trailers() -> None:
    """Content of unknown length stays so."""
    received: list[bytes] = []

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"x-sum: 1\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        peer.send(b"2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n")
        _, fields = await peer.head()
        assert await peer.content(fields) == b"ok"
        assert b"Transfer-Encoding: chunked" in received[0]
        assert received[0].endswith(b"0\r\nx-sum: 1\r\n\r\n")


async def test_upload_that_the_server_does_not_read_stops_being_read() -> None:
    """A slow server holds back the sender, not the memory of the worker."""
    go = asyncio.Event()
    size = 24_000_000

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)

        async def push() -> None:
            for _ in range(size // 64000):
                peer.send(b"x" * 64000)
                await peer.writer.drain()

        pushing = asyncio.create_task(push())
        done, _ = await asyncio.wait((pushing,), timeout=0.5)
        assert not done
        go.set()
        await pushing
        _, fields = await peer.head()
        assert await peer.content(fields) == b"ok"


async def test_download_that_nobody_reads_stops_the_server() -> None:
    """A slow gateway holds back the local server."""
    sent = 0
    size = 24_000_000

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 64000):
            writer.write(b"x" * 64000)
            await writer.drain()
            sent += 64000

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        _, fields = await peer.head()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < size
        assert len(await peer.content(fields)) == size


async def test_requester_that_leaves_ends_the_request() -> None:
    """The gateway closes: the connection to the local server closes too, so that it can stop its work."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await reader.read()
        ended.set()

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(began.wait(), 20)
        peer.writer.close()
        await asyncio.wait_for(ended.wait(), 20)


async def test_answer_before_the_end_of_the_request_passes() -> None:
    """A server that refuses an upload early is heard."""

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await reader.read()

    async with local(raw=raw) as server, forwarding(server.url) as peer:
        peer.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nstart")
        status, fields = await peer.head()
        assert (status, await peer.content(fields)) == (413, b"no")


@pytest.mark.parametrize(
    "url",
    ["https://h:1", "http://", "ftp://h", "h:1", "http://u@h", "http://h/?q", "http://h/a b", "unix:rel", "http://h:0"],
)
def test_url_of_another_form_is_refused(url: str) -> None:
    """Two forms, and the message has both."""
    with pytest.raises(ValueError, match="unix:/PATH"):
        ForwardTarget.parse(url)


def test_url_without_a_port_is_port_80() -> None:
    """As everywhere."""
    target = ForwardTarget.parse("http://[::1]")
    assert (target.host, target.port, target.authority) == ("::1", 80, b"[::1]")
