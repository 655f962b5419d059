"""ASGI 3 on a connection: scope, streaming both ways, disconnects, and what applications do wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Any

import pytest
from support.ends import served

from rhttp.message import RequestHead
from rhttp.worker.asgi import AsgiHandler, RequesterGone
from rhttp.worker.asgi_messages import Message, Receive, Scope, Send, build_scope
from rhttp.worker.lifespan import Lifespan, LifespanFailed

OK: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def plain(inner: Any) -> AsgiHandler:
    """A handler of an application without lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await inner(scope, receive, send)

    return AsgiHandler(app)


async def whole(receive: Receive) -> bytes:
    """All content of a request."""
    found, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        found += message["body"]
        more = message["more_body"]
    return found


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    content = await whole(receive)
    await send(OK)
    await send(body(content))


async def test_scope_tells_the_request_as_asgi_names_it() -> None:
    """Method, path, query, fields and versions; who connected is for Forwarded to say."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async with served(plain(app)) as one:
        await (await one.connect()).ask("/a%20b/%C3%A4?q=%20", fields="X-Two: 2\r\n")
    (scope,) = seen
    assert {key: scope[key] for key in scope if key not in ("headers", "state", "extensions")} == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/a b/ä",
        "raw_path": b"/a%20b/%C3%A4",
        "query_string": b"q=%20",
        "root_path": "",
        "client": None,
        "server": None,
    }
    assert list(scope["headers"]) == [(b"host", b"w1.render.test"), (b"x-two", b"2")]


@pytest.mark.parametrize(("target", "path"), [("http://h/x", "/x"), ("*", "*")])
async def test_scope_of_other_target_forms(target: str, path: str) -> None:
    """Absolute and asterisk form are paths, too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK)
        await send(body(scope["path"].encode()))

    async with served(plain(app)) as one:
        assert (await (await one.connect()).ask(target, method="OPTIONS"))[2].decode() == path


@pytest.mark.parametrize("target", [b"mailto:x", b"/\xc3\xa4", b"h:1"])
def test_scope_of_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    """What no application can be given is not guessed at."""
    head = RequestHead()
    head.method, head.target = b"GET", target
    with pytest.raises(ValueError, match=r"."):
        build_scope(head, None)


async def test_whole_answer_has_a_length_and_a_date() -> None:
    """One message of content needs no chunks; a Date is added, once."""
    async with served(plain(echo)) as one:
        status, fields, content = await (await one.connect()).ask(method="POST", content=b"12345")
    assert (status, content, fields["content-length"]) == (200, b"12345", "5")
    assert fields["date"].endswith("gmt")
    assert "transfer-encoding" not in fields


async def test_answers_follow_each_other_on_one_connection() -> None:
    """Requests that were sent together are answered in order, one at a time."""
    running = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        await send(OK)
        await send(body(scope["path"].encode()))
        await asyncio.sleep(0)  # work after the answer: the next request waits for it
        running -= 1

    async with served(plain(app)) as one:
        peer = await one.connect()
        peer.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(5)))
        for n in range(5):
            _, fields = await peer.head()
            assert await peer.content(fields) == b"/%d" % n


@pytest.mark.parametrize("fields", ["", "Expect: 100-continue\r\n"])
async def test_upload_arrives_whole_and_streamed(fields: str) -> None:
    """Content comes piece by piece; 100 is sent when the application wants it."""
    pieces: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        digest = hashlib.sha256()
        more = True
        while more:
            message = await receive()
            pieces.append(len(message["body"]))
            digest.update(message["body"])
            more = message["more_body"]
        await send(OK)
        await send(body(digest.hexdigest().encode()))

    content = bytes(range(256)) * 20000
    async with served(plain(app)) as one:
        peer = await one.connect()
        peer.send(f"PUT /x HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {len(content)}\r\n\r\n".encode())
        if fields:
            assert (await peer.head())[0] == 100
        peer.send(content)
        status, got = await peer.head()
        assert status == 200
        assert (await peer.content(got)).decode() == hashlib.sha256(content).hexdigest()
    assert len(pieces) > 10


async def test_upload_that_nobody_takes_stops_being_read() -> None:
    """An application that does not call receive holds back the sender, not the memory of the worker."""
    go = asyncio.Event()
    got: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        got.append(len((await receive())["body"]))
        await whole(receive)
        await send(OK)
        await send(body(b"done"))

    size = 24_000_000
    async with served(plain(app)) as one:
        peer = await one.connect()
        peer.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)

        async def push() -> None:
            for _ in range(size // 64000):
                peer.send(b"x" * 64000)
                await peer.writer.drain()

        pushing = asyncio.create_task(push())
        done, _ = await asyncio.wait((pushing,), timeout=0.5)
        assert not done
        go.set()
        assert await peer.content((await peer.head())[1]) == b"done"
        await pushing
    assert got[0] < 1_000_000


async def test_download_that_nobody_reads_makes_send_wait() -> None:
    """``send`` holds an application back while the gateway does not read; then it goes on."""
    sent = 0
    total = 150

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(OK)
        for _ in range(total):
            await send(body(b"x" * 100_000, more=True))
            sent += 1
        await send(body())

    async with served(plain(app)) as one:
        peer = await one.connect()
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        _, fields = await peer.head()
        assert fields["transfer-encoding"] == "chunked"
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)
        assert sent < total
        assert len(await peer.content(fields)) == total * 100_000


async def test_requester_that_leaves_is_told_to_the_application() -> None:
    """``receive`` says http.disconnect, ``send`` raises an OSError, and the request no longer counts when it ends."""
    told: list[str] = []
    began, finished = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        began.set()
        told.append((await receive())["type"])
        with pytest.raises(OSError) as caught:  # noqa: PT011 - that it is one is the promise
            await send(OK)
        told.append(type(caught.value).__name__)
        finished.set()
        await send(OK)

    handler = plain(app)
    async with served(handler) as one:
        peer = await one.connect()
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(began.wait(), 20)
        peer.writer.close()
        await asyncio.wait_for(finished.wait(), 20)
    assert told == ["http.disconnect", RequesterGone.__name__]
    assert handler.orphans == 0


async def test_request_that_outlives_its_connection_is_an_orphan() -> None:
    """An application that does not care about disconnects takes up a slot until it returns."""
    began, go = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await go.wait()

    handler = plain(app)
    async with served(handler) as one:
        peer = await one.connect()
        peer.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(began.wait(), 20)
        peer.writer.close()
        async with asyncio.timeout(20):
            while not handler.orphans:
                await asyncio.sleep(0.01)
        go.set()
        async with asyncio.timeout(20):
            while handler.orphans:
                await asyncio.sleep(0.01)


async def test_receive_after_the_answer_says_disconnect() -> None:
    """When the answer is complete there is nothing more to receive."""
    told: asyncio.Queue[Message] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        waiting = asyncio.create_task(receive())
        assert (await waiting)["body"] == b""
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(OK)
        await send(body(b"x"))
        told.put_nowait(await waiting)

    async with served(plain(app)) as one:
        assert (await (await one.connect()).ask())[2] == b"x"
        assert (await asyncio.wait_for(told.get(), 20))["type"] == "http.disconnect"


async def raise_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the-secret")


async def raise_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(OK)
    raise RuntimeError("the-secret")


async def return_without_answer(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def start_twice(scope: Scope, receive: Receive, send: Send) -> None:
    await send(OK)
    await send(OK)


async def body_first(scope: Scope, receive: Receive, send: Send) -> None:
    await send(body(b"x"))


async def split_value(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [(b"x", b"1\r\nSet-Cookie: a=b")]})


async def split_name(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [(b"x: 1\r\ny", b"1")]})


async def text_name(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [("x", "1")]})


async def odd_status(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "status": 999})


async def switch(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "status": 101})


async def two_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [(b"content-length", b"1"), (b"Content-Length", b"2")]})


@pytest.mark.parametrize(
    "app",
    [
        raise_before,
        raise_after_start,
        return_without_answer,
        start_twice,
        body_first,
        split_value,
        split_name,
        text_name,
        odd_status,
        switch,
        two_lengths,
    ],
)
async def test_application_that_fails_before_its_answer_is_a_500(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The peer learns that it failed and nothing else; the log has the rest; the connection goes on."""
    with caplog.at_level(logging.ERROR, "rhttp"):
        async with served(plain(app)) as one:
            peer = await one.connect()
            for _ in range(2):
                status, fields, content = await peer.ask("/path?token=s3cret")
                assert status == 500
                assert json.loads(content)["type"] == "urn:rhttp:problem:internal"
                assert b"secret" not in content
                assert "set-cookie" not in fields
    assert len(caplog.records) == 2
    assert "s3cret" not in caplog.text


async def raise_in_content(scope: Scope, receive: Receive, send: Send) -> None:
    await send(OK)
    await send(body(b"half", more=True))
    raise RuntimeError("late")


async def too_little(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [(b"content-length", b"10")]})
    await send(body(b"half"))


async def too_much(scope: Scope, receive: Receive, send: Send) -> None:
    await send({**OK, "headers": [(b"content-length", b"6")]})
    await send(body(b"half", more=True))
    await send(body(b"another"))


@pytest.mark.parametrize("app", [raise_in_content, too_little, too_much])
async def test_application_that_fails_in_its_answer_cuts_the_connection(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody takes half an answer for a whole one."""
    with caplog.at_level(logging.ERROR, "rhttp"):
        async with served(plain(app)) as one:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
                await (await one.connect()).ask()
    assert caplog.records


@pytest.mark.parametrize(
    ("method", "status", "headers", "content", "length"),
    [
        ("HEAD", 200, [], b"12345", "5"),
        ("HEAD", 200, [(b"content-length", b"7")], b"", "7"),
        ("HEAD", 200, [], b"", None),
        ("GET", 204, [], b"", None),
        ("GET", 304, [(b"content-length", b"7")], b"", "7"),
    ],
)
async def test_answers_without_content_carry_none(
    method: str, status: int, headers: Any, content: bytes, length: str | None
) -> None:
    """HEAD, 204 and 304: whatever the application sends, the connection stays in step."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**OK, "status": status, "headers": headers})
        await send(body(content))

    async with served(plain(app)) as one:
        peer = await one.connect()
        for _ in range(2):
            got, fields, _ = await peer.ask(method=method)
            assert (got, fields.get("content-length")) == (status, length)


async def test_trailers_reach_the_gateway() -> None:
    """The extension http.response.trailers: fields after chunked content."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.trailers" in scope["extensions"]
        await send({**OK, "trailers": True})
        await send(body(b"data"))
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"1")]})

    async with served(plain(app)) as one:
        peer = await one.connect()
        assert (await peer.ask())[2] == b"data"
        assert peer.trailers == b"x-sum: 1\r\n"


async def test_fields_of_the_connection_are_not_the_applications() -> None:
    """Framing is ours: Transfer-Encoding, Keep-Alive and Upgrade are dropped, `Connection: close` is obeyed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        names = ((b"Transfer-Encoding", b"gzip"), (b"Keep-Alive", b"1"), (b"Upgrade", b"x"), (b"Connection", b"close"))
        await send({**OK, "headers": [*names, (b"Date", b"today")]})
        await send(body(b"x"))

    async with served(plain(app)) as one:
        peer = await one.connect()
        _, fields, _ = await peer.ask()
        assert fields == {"date": "today", "connection": "close", "content-length": "1"}
        assert await asyncio.wait_for(peer.reader.read(), 20) == b""


async def test_lifespan_runs_once_and_shares_its_state() -> None:
    """Startup before the first request, shutdown at the end, a copy of the state for each request."""
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                events.append(message["type"])
                scope["state"]["number"] = 7
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        events.append(str(scope["state"]["number"]))
        scope["state"]["number"] = 8
        await echo(scope, receive, send)

    async with served(AsgiHandler(app)) as one:
        peer = await one.connect()
        await peer.ask()
        await peer.ask()
    assert events == ["lifespan.startup", "7", "7", "lifespan.shutdown"]


async def test_lifespan_failed_startup_is_raised() -> None:
    """An application that says that it cannot start is not served."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(LifespanFailed, match="no database"):
        await AsgiHandler(app).start()


async def test_lifespan_shutdown_that_hangs_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """An application cannot keep its worker from ending."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.Event().wait()

    lifespan = Lifespan(app, shutdown_timeout=0.05)
    await lifespan.startup()
    with caplog.at_level(logging.ERROR, "rhttp"):
        await asyncio.wait_for(lifespan.shutdown(), 20)
    assert "is cut" in caplog.text


async def test_handler_stopped_cancels_what_still_runs() -> None:
    """Nothing of the application is left when the handler has stopped."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with served(plain(app)) as one:
        (await one.connect()).send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(began.wait(), 20)
    assert ended.is_set()
