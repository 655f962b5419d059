"""Connections from outside: kept, pipelined, closed, half closed, cut; and the peers that are too slow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from OpenSSL import SSL
from support.origins import Origin, read_head, read_request
from support.rig import Rig, data_pid, wait_for
from support.wire import Wire, chunked, request

pytestmark = pytest.mark.usefixtures("fresh")


GET = b"GET /jobs/x HTTP/1.1\r\nHost: localhost\r\n"


# ---- connections ----------------------------------------------------------------------------------------------------


def test_connection_serves_many_requests_over_one_master_connection(origin: Origin, wire: Wire) -> None:
    """Keep-alive on both sides."""
    for number in range(20):
        assert wire.ask(f"/jobs/{number}").json["target"] == f"/jobs/{number}"
    assert len(origin.wires) == 1


def test_pipelined_requests_are_answered_in_order(origin: Origin, wire: Wire) -> None:
    """Own paths, routes and refusals mixed; a byte at a time or all at once makes no difference."""
    targets = ["/jobs/1", "/-/health", "/jobs/2", "/nowhere", "/jobs/..", "/jobs/3"]
    burst = b"".join(map(request, targets))
    for send in (wire.send, wire.dribble):
        send(burst)
        answers = [wire.answer() for _ in targets]
        assert [a.status for a in answers] == [200, 200, 200, 404, 400, 200]
        assert [a.json.get("target") for a in answers] == ["/jobs/1", None, "/jobs/2", None, None, "/jobs/3"]


def test_pipelined_requests_with_content_are_told_apart(origin: Origin, wire: Wire) -> None:
    """Content that looks like a request is content."""
    inner = request("/-/pools", "DELETE")
    burst = request("/jobs/1", "POST", content=inner)
    burst += request("/jobs/2", "POST", "Transfer-Encoding: chunked") + chunked(inner, inner)
    burst += request("/nowhere", "POST", content=inner) + request("/jobs/3")
    for send in (wire.send, wire.dribble):
        send(burst)
        answers = [wire.answer() for _ in range(4)]
        assert [a.status for a in answers] == [200, 200, 404, 200]
        lengths = [a.json.get("length") for a in answers]
        assert lengths == [len(inner), 2 * len(inner), None, 0]


@pytest.mark.parametrize("end", ["fin", "half_close"])
def test_pipelined_answers_leave_although_the_last_request_breaks_off(rig: Rig, end: str) -> None:
    """What was answered is not taken back for a request behind it that ends in mid-content."""
    for _ in range(20):  # whether the end is here before the master's answer, the kernel says
        with rig.connect("alice") as wire:
            wire.send(request("/jobs/x") + request("/-/health") + request("/nowhere"))
            wire.send(request("/jobs/y", "POST", "Content-Length: 9") + b"abc")
            getattr(wire, end)()
            assert [wire.answer().status for _ in range(3)] == [200, 200, 404]
            assert wire.rest() == b""


def test_more_pipelined_requests_than_are_kept_are_read_later(wire: Wire) -> None:
    """We stop reading; nothing is lost."""
    count = 3000
    sender = threading.Thread(target=lambda: wire.send(request("/-/health") * count))
    sender.start()
    try:
        for _ in range(count):
            assert wire.answer().status == 200
    finally:
        sender.join(60)


def test_connection_close_is_honoured_and_said(wire: Wire) -> None:
    """Close after the answer, in order."""
    answer = wire.ask("/jobs/x", "GET", "Connection: close")
    assert answer.status == 200
    assert answer["connection"] == "close"
    assert wire.rest() == b""
    assert wire.ended == "notify"


@pytest.mark.parametrize("lines", [(), ("Host: localhost",), ("Host: localhost", "Connection: keep-alive")])
def test_http_1_0_is_served_with_close(origin: Origin, wire: Wire, lines: tuple[str, ...]) -> None:
    """Content without a length ends with the connection, since chunks are unknown there."""

    def stream(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"one", b"two"))

    with origin.scripted(stream):
        wire.send(request("/jobs/deep/x", "GET", *lines, host=None).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = wire.answer()
        assert answer.status == 200
        assert answer.content == b"onetwo"
        assert wire.ended == "notify"
        assert origin.wires[0].received.startswith(b"GET /jobs/deep/x HTTP/1.1\r\n")


@pytest.mark.parametrize("way", ["half_close", "fin"])
def test_peer_that_ends_its_side_is_still_answered(origin: Origin, rig: Rig, way: str) -> None:
    """A request may be followed by close_notify or a bare FIN; also while a master is still being dialled."""
    for target in ("/jobs/x", "/-/health"):
        with rig.connect("alice") as wire:
            wire.send(
                request(target, "POST" if target[1] == "j" else "GET", content=b"x" * 10 if target[1] == "j" else b"")
            )
            getattr(wire, way)()
            assert wire.answer().status == 200
            assert wire.rest() == b""
        origin.clear()  # so that the next one dials


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("asked", [False, True])
def test_idle_peer_that_says_close_notify_is_answered_in_kind(rig: Rig, version: str, asked: bool) -> None:
    """In both versions, whether anything was asked or not; an alert would make peers report a failure."""
    with rig.connect("alice", version=version) as wire:
        if asked:
            assert wire.ask("/-/health").status == 200
        assert wire.is_quiet(0.1)
        wire.half_close()
        assert wire.rest() == b""
        assert wire.ended == "notify"


@pytest.mark.parametrize("way", ["half_close", "fin", "reset"])
def test_upload_that_is_cut_is_aborted_and_never_looks_whole(origin: Origin, rig: Rig, way: str) -> None:
    """The master's connection ends without the promised bytes; the log says so once."""
    seen = len(rig.audit())
    ended = threading.Event()

    def script(peer: Wire) -> None:
        head = read_head(peer)
        assert head["content-length"] == "100"
        assert peer.rest() == b"x" * 50
        ended.set()

    with origin.scripted(script), rig.connect("alice") as wire:
        wire.send(request("/jobs/x", "POST", "Content-Length: 100") + b"x" * 50)
        wait_for(lambda: origin.raw.count(b"x" * 50), bool)
        getattr(wire, way)()
        assert ended.wait(10)
    lines = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "request"], bool)
    assert [line["outcome"] for line in lines] == ["aborted"]


# ---- the slow -------------------------------------------------------------------------------------------------------


def test_slow_head_is_408(hasty: Rig, origin: Origin) -> None:
    """From its first byte to its last; a byte now and then does not help."""
    with hasty.connect("alice") as wire:
        start = time.monotonic()
        for octet in GET * 10:
            wire.send(bytes((octet,)))
            if not wire.is_quiet(0.1):
                break
        answer = wire.answer()
        assert (answer.status, answer.problem) == (408, "request-timeout")
        assert time.monotonic() - start < 2.5
        assert wire.rest() == b""
        assert hasty.line_of(answer)["status"] == 408
    assert origin.raw == b""


def test_connection_that_says_nothing_is_closed(hasty: Rig) -> None:
    """Before its first request and between two, without an answer that nobody asked for."""
    with hasty.connect("alice") as wire:
        start = time.monotonic()
        assert wire.rest() == b""
        assert time.monotonic() - start < 3
    with hasty.connect("alice") as wire:
        assert wire.ask("/-/health").status == 200
        start = time.monotonic()
        assert wire.rest() == b""
        assert 1 < time.monotonic() - start < 4


def test_content_that_stops_coming_is_408(hasty: Rig, origin: Origin) -> None:
    """The master's connection ends too."""
    with hasty.connect("alice") as wire:
        wire.send(request("/jobs/x", "POST", "Content-Length: 100") + b"x")
        answer = wire.answer()
        assert answer.status == 408
        assert wire.rest() == b""


def test_master_that_never_answers_is_504(hasty: Rig, origin: Origin) -> None:
    """After the answer timeout; the request may have run."""
    with origin.scripted(lambda peer: peer.rest()), hasty.connect("alice") as wire:
        answer = wire.ask("/jobs/x", "POST", content=b"x")
        assert (answer.status, answer.problem) == (504, "deadline")
        assert hasty.line_of(answer)["outcome"] == "failed"


def test_client_that_stops_reading_is_cut(hasty: Rig, origin: Origin) -> None:
    """It holds a master's connection for as long as the content timeout, no longer."""
    seen = len(hasty.audit())

    def script(peer: Wire) -> None:
        read_request(peer)
        block = b"x" * 65536
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(block) * 1000))
        for _ in range(1000):
            peer.send(block)

    with origin.scripted(script), hasty.connect("alice") as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(request("/jobs/x"))
        found = wait_for(lambda: [x for x in hasty.audit()[seen:] if x["event"] == "request"], bool)
        assert [line["outcome"] for line in found] == ["aborted"]


def test_reset_right_behind_the_handshake_is_seen_at_once(rig: Rig) -> None:
    """Not when the time for a request is over: the event loop tells of data and reset in one event only."""

    def held() -> int:
        return int(rig.status()["processes"][0]["connections"]["total"])

    before, pid = held(), data_pid(rig)
    with rig.tcp() as sock:
        peer = SSL.Connection(rig.tls("alice"), None)
        peer.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            peer.do_handshake()
        sock.sendall(peer.bio_read(1 << 16))
        while True:
            peer.bio_write(sock.recv(1 << 16))
            with contextlib.suppress(SSL.WantReadError):
                peer.do_handshake()
                break
        peer.send(GET)
        os.kill(pid, signal.SIGSTOP)  # so that all of it is there when it looks
        try:
            sock.sendall(peer.bio_read(1 << 16))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        finally:
            os.kill(pid, signal.SIGCONT)
    wait_for(held, lambda count: count <= before, 5.0)  # [limits] head_timeout is twice that
