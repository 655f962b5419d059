"""Content from outside: framing both ways, expectations, early answers, refused uploads, back-pressure."""

from __future__ import annotations

import hashlib
import socket
import threading
import time

import pytest
from support.origins import Origin, Request, read_head, read_request, response
from support.rig import Rig, data_pid, memory_of
from support.wire import Wire, chunked, request

pytestmark = pytest.mark.usefixtures("fresh")


# ---- content --------------------------------------------------------------------------------------------------------


def test_chunks_and_trailers_pass_both_ways(origin: Origin, wire: Wire) -> None:
    """Content and trailers, chunk borders being nobody's business."""

    def echo(peer: Wire) -> None:
        while True:
            taken = read_request(peer)
            assert taken.trailers == ("x-sum: 1",)
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            peer.send(head + chunked(taken.content, b"!", trailers=["X-Sum: 2", "X-Other: 3"]))

    with origin.scripted(echo):
        body = chunked(b"a" * 10, b"b" * 70000, b"c", trailers=["X-Sum: 1"])
        for send in (wire.send, wire.dribble if len(body) < 2000 else wire.send):
            send(request("/jobs/x", "POST", "Transfer-Encoding: chunked", "Trailer: X-Sum") + body)
            answer = wire.answer()
            assert answer.content == b"a" * 10 + b"b" * 70000 + b"c!"
            assert answer.trailers == (("x-sum", "2"), ("x-other", "3"))


def test_chunks_byte_by_byte_pass(origin: Origin, wire: Wire) -> None:
    """Every cut of the framing."""
    head = request("/jobs/x", "POST", "Transfer-Encoding: chunked")
    body = b'5;ext=1\r\nhello\r\n0005 ; a="b"\r\nworld\r\n0\r\nX-A: 1\r\n\r\n'
    wire.dribble(head + body)
    assert wire.answer().json["length"] == 10
    assert b"0\r\nx-a: 1\r\n\r\n" in origin.raw.lower()


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 200_000])
def test_answer_content_of_any_framing_arrives_whole(origin: Origin, wire: Wire, framing: str, size: int) -> None:
    """Length stays a length; chunks and until-close become chunks."""
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]

    def script(peer: Wire) -> None:
        read_request(peer)
        if framing == "length":
            peer.send(response(content))
        elif framing == "chunks":
            pieces = [content[at : at + 999] for at in range(0, size, 999)]
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(*pieces))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + content)
            peer.half_close()
            peer.rest()

    with origin.scripted(script):
        answer = wire.ask("/jobs/x")
        assert answer.content == content
        assert bool(answer.all("content-length")) is (framing == "length")
        assert wire.ask("/-/health").status == 200


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK"])
def test_answer_without_content_keeps_the_connection(origin: Origin, wire: Wire, status: str) -> None:
    """HEAD, 204 and 304 have none, whatever their fields say."""

    def script(peer: Wire) -> None:
        for _ in range(2):
            read_request(peer)
            length = "" if status.startswith("204") else "Content-Length: 5\r\n"
            peer.send(f"HTTP/1.1 {status}\r\nETag: x\r\n{length}\r\n".encode())

    method = "HEAD" if status.startswith("200") else "GET"
    with origin.scripted(script):
        for _ in range(2):
            answer = wire.ask("/jobs/x", method)
            assert answer.status == int(status[:3])
            assert answer["etag"] == "x"
            assert answer.content == b""
            assert answer.all("content-length") == ([] if answer.status == 204 else ["5"])
    assert wire.ask("/-/health", "HEAD").status == 200
    assert wire.ask("/nowhere", "HEAD").status == 404


def test_interim_answers_pass_and_100_is_ours(origin: Origin, wire: Wire) -> None:
    """A master's 103 reaches the client; its 100 does not, since we sent ours after the decision."""

    def script(peer: Wire) -> None:
        read_head(peer)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nRhttp-X: 1\r\n\r\n")
        assert peer.read(4) == b"data"
        peer.send(response())

    with origin.scripted(script):
        wire.send(request("/jobs/x", "POST", "Expect: 100-continue", "Content-Length: 4"))
        assert wire.one().status == 100
        hints = wire.one()
        assert (hints.status, hints["link"]) == (103, "</x>")
        assert not hints.all("rhttp-x")
        wire.send(b"data")
        assert wire.one().status == 200
        assert "expect" not in Request(bytes(origin.wires[0].received).partition(b"data")[0], b"", ()).names


def test_expectation_of_a_refused_request_gets_no_100(origin: Origin, wire: Wire) -> None:
    """The refusal is the answer; the content is never asked for, so the connection cannot go on."""
    wire.send(request("/nowhere", "POST", "Expect: 100-continue", "Content-Length: 5"))
    answer = wire.one()
    assert answer.status == 404
    assert answer["connection"] == "close"
    assert wire.rest() == b""


def test_unknown_expectation_is_417(origin: Origin, wire: Wire) -> None:
    """We promise nothing that we do not understand."""
    for value in ("200-ok", "100-continue, x"):
        assert wire.ask("/jobs/x", "GET", f"Expect: {value}").problem == "expectation-failed"
    assert origin.raw == b""


def test_early_answer_arrives_while_content_is_still_sent(origin: Origin, wire: Wire) -> None:
    """A master may refuse before it has read everything; the connection then reads and drops the rest."""

    def script(peer: Wire) -> None:
        read_head(peer)
        peer.send(response(b"no", "413 Content Too Large", "Connection: close"))
        peer.half_close()
        peer.records = False  # type: ignore[attr-defined]
        peer.rest()

    with origin.scripted(script):
        wire.send(request("/jobs/x", "POST", "Content-Length: 200000") + b"x" * 100_000)
        answer = wire.answer()
        assert (answer.status, answer.content) == (413, b"no")
        wire.send(b"x" * 100_000)
        assert wire.ask("/-/health").status == 200


def test_refused_content_up_to_a_mebibyte_is_dropped_and_the_connection_kept(origin: Origin, wire: Wire) -> None:
    """A refusal costs no connection when its content is small."""
    assert wire.ask("/nowhere", "POST", content=b"x" * 1_000_000).status == 404
    wire.send(request("/nowhere", "POST", "Transfer-Encoding: chunked") + chunked(b"y" * 500_000))
    assert wire.answer().status == 404
    assert wire.ask("/jobs/x").status == 200


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_refused_content_over_a_mebibyte_closes_and_the_answer_is_not_lost(rig: Rig, framing: str) -> None:
    """The peer that writes on for a while still finds its answer."""
    with rig.connect("alice") as wire:
        size = 4_000_000
        line = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
        wire.send(request("/nowhere", "POST", line))
        time.sleep(0.1)  # the answer is on its way before the content is
        wire.send(b"x" * size if framing == "length" else chunked(b"x" * size))
        answer = wire.answer()
        assert answer.status == 404
        assert wire.rest() == b""
        assert wire.ended == "notify"


@pytest.mark.parametrize(("size", "seconds"), [(900_000, 6.0), (1_300_000, 3.0)])
def test_refused_upload_that_is_slow_is_read_on_and_never_reset(rig: Rig, size: int, seconds: float) -> None:
    """Longer than the gap that is allowed, below and above what is read for the connection to be kept."""
    with rig.connect("alice") as wire:
        wire.send(request("/nowhere", "POST", f"Content-Length: {size}"))
        sent = 0
        while sent < size:
            piece = min(size // 30, size - sent)
            wire.send(b"x" * piece)
            sent += piece
            time.sleep(seconds / 30)
        answer = wire.answer()
        assert answer.status == 404
        assert ("close" in answer.all("connection")) is (size > 1 << 20)
        if size < 1 << 20:
            assert wire.ask("/-/health").status == 200
        else:
            assert wire.rest() == b""
            assert wire.ended == "notify"


@pytest.mark.parametrize("line", ["Upgrade: h2c", "Upgrade: PTTH/1.0", "Upgrade: websocket"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upgrade_that_is_offered_with_content_is_ignored(origin: Origin, wire: Wire, line: str, framing: str) -> None:
    """RFC 9110 section 7.8: the request is served as it is, and none of the offer reaches the master."""
    lines = (line, "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings")
    for _ in range(2):
        if framing == "length":
            wire.send(request("/jobs/x", "POST", *lines, content=b"abc"))
        else:
            wire.send(request("/jobs/x", "POST", *lines, "Transfer-Encoding: chunked") + chunked(b"abc"))
        answer = wire.answer()
        assert answer.status == 200
        assert "close" not in answer.all("connection")
    assert b"abc" in origin.raw
    for name in (b"upgrade", b"http2-settings", b"h2c", b"ptth", b"websocket"):
        assert name not in origin.raw.lower()


def test_refusal_of_a_request_that_offers_an_upgrade_keeps_the_connection(wire: Wire) -> None:
    """Only a switch of roles that is refused ends the connection."""
    answer = wire.ask("/nowhere", "GET", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade")
    assert answer.status == 404
    assert "close" not in answer.all("connection")
    assert wire.ask("/-/health").status == 200


def upload(wire: Wire, size: int) -> str:
    """Send so many bytes as content; their SHA-256."""
    digest = hashlib.sha256()
    block = bytes(range(256)) * 256
    wire.send(request("/jobs/x", "POST", f"Content-Length: {size}"))
    for _ in range(size // len(block)):
        digest.update(block)
        wire.send(block)
    return digest.hexdigest()


SIZES = [32 << 20, pytest.param(100 << 20, marks=pytest.mark.long)]


@pytest.mark.parametrize("size", SIZES)
def test_upload_to_a_slow_master_is_held_back_not_piled_up(origin: Origin, rig: Rig, size: int) -> None:
    """The gateway's memory stays where it was while the master does not read."""
    got: list[str] = []
    go = threading.Event()

    def script(peer: Wire) -> None:
        head = read_head(peer)
        peer.records = False  # type: ignore[attr-defined]
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert go.wait(30)
        digest, left = hashlib.sha256(), int(head["content-length"])
        while left:
            data = peer.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        got.append(digest.hexdigest())
        peer.send(response())

    pid = data_pid(rig)
    with origin.scripted(script), rig.connect("alice") as wire:
        before = memory_of(pid)
        sent: list[str] = []
        sender = threading.Thread(target=lambda: sent.append(upload(wire, size)))
        sender.start()
        try:
            sender.join(1.0)
            assert sender.is_alive(), "nothing held the sender back"
            assert memory_of(pid) - before < 3 << 20
        finally:
            go.set()
            sender.join(60)
        assert wire.answer().status == 200
        assert got == sent


@pytest.mark.parametrize("size", SIZES)
def test_download_by_a_slow_client_is_held_back_not_piled_up(origin: Origin, rig: Rig, size: int) -> None:
    """The same the other way, in chunks."""
    block = bytes(range(256)) * 256
    stuck = threading.Event()

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(size // len(block)):
            peer.send(b"%x\r\n%b\r\n" % (len(block), block))
            if number == size // len(block) - 1:
                stuck.set()
        peer.send(b"0\r\n\r\n")

    pid = data_pid(rig)
    with origin.scripted(script), rig.connect("alice") as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        before = memory_of(pid)
        wire.send(request("/jobs/x"))
        assert not stuck.wait(1.0), "nothing held the master back"
        assert memory_of(pid) - before < 3 << 20
        answer = wire.answer()
        assert hashlib.sha256(answer.content).digest() == hashlib.sha256(block * (size // len(block))).digest()
