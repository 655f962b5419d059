"""Requests over routes from outside: targets, heads, framing, fields, back-pressure; what must never reach a master."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.rig import (
    Origin,
    Request,
    Rig,
    data_pid,
    memory_of,
    read_head,
    read_request,
    response,
    serve_forever,
    wait_for,
)
from support.runhomes import set_key
from support.wire import Answer, Wire, chunked, request

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{port}"]
[masters.inner]
urls = ["http://127.0.0.1:{port}"]
host = "inner.example:81"
[[routes]]
path = "/jobs/*"
master = "jobs"
[[routes]]
name = "deep"
path = "/jobs/deep/*"
master = "inner"
[[routes]]
name = "exact"
path = "/exact"
master = "inner"
[[routes]]
name = "slashes"
path = "/slashes/*"
master = "jobs"
allow_empty_segments = true
[[routes]]
name = "encoded"
path = "/encoded/*"
master = "jobs"
allow_encoded_slash = true
[[routes]]
name = "cross"
path = "/cross/*"
master = "jobs"
allow_cross_site = true
[pools.render]
[audit]
fold_after = 100000
"""
OPEN = """
@id("all") permit (principal is Client, action, resource);
@id("local") permit (principal is Master, action, resource);
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    """Policy asks for no Digest here, so that a request is exactly the bytes that a test is about."""
    config = CONFIG.format(port=origin.port)
    with Rig(tmp_path_factory.mktemp("routes"), config, policy=OPEN, peers=("issue-client alice",)) as rig:
        yield rig


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    """The same with little patience."""
    limits = "[limits]\nhead_timeout = 1.0\nkeep_alive_timeout = 2.0\ncontent_timeout = 2.0\nanswer_timeout = 2.0\n"
    config = CONFIG.format(port=origin.port) + limits + "master_connect_timeout = 1.0\n"
    with Rig(tmp_path_factory.mktemp("hasty"), config, policy=OPEN, peers=("issue-client alice",)) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _fresh(origin: Origin) -> None:
    origin.clear()


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    with rig.connect("alice") as wire:
        yield wire


def arrived(origin: Origin) -> Request:
    """The one request that the master has."""
    (recorded,) = [bytes(wire.received) for wire in origin.wires]
    head, mark, content = recorded.partition(b"\r\n\r\n")
    return Request(head + mark, content, ())


# ---- targets --------------------------------------------------------------------------------------------------------

GOOD_TARGETS = {
    "/jobs/": "/jobs/",
    "/jobs/a/b": "/jobs/a/b",
    "/jobs/%61%7E%2d": "/jobs/a~-",
    "/jobs/%c3%a9": "/jobs/%C3%A9",
    "/jobs/%252F": "/jobs/%252F",
    "/jobs/a;p=1,2/b=c@d:e!$&'()*+": "/jobs/a;p=1,2/b=c@d:e!$&'()*+",
    "/jobs/x?q=%2e%2E/../%5c%00": "/jobs/x?q=../../%5C%00",
    "/jobs/x?": "/jobs/x?",
    "/jobs/x??a=/b": "/jobs/x??a=/b",
    "/jobs/[x]|": "/jobs/%5Bx%5D%7C",
    "/jobs/...": "/jobs/...",
    "/jobs/.hidden": "/jobs/.hidden",
    "/%6Aobs/x": "/jobs/x",
    "https://localhost/jobs/x": "/jobs/x",
    "https://localhost/jobs/x?y": "/jobs/x?y",
    "/jobs/deep/x": "/jobs/deep/x",
    "/exact": "/exact",
    "/exact?x": "/exact?x",
    "/slashes//x///y": "/slashes//x///y",
    "/encoded/a%2fb": "/encoded/a%2Fb",
}


@pytest.mark.parametrize("target", GOOD_TARGETS)
def test_target_is_forwarded_in_its_normal_form(rig: Rig, origin: Origin, wire: Wire, target: str) -> None:
    """One form for routes, policy, audit and the master; the prefix stays; the query is the peer's own affair."""
    answer = wire.ask(target)
    assert answer.status == 200, answer
    assert arrived(origin).target == GOOD_TARGETS[target]
    assert rig.line_of(answer)["target"] == GOOD_TARGETS[target].partition("?")[0]


BAD_TARGETS = [
    "/jobs/.", "/jobs/..", "/jobs/../x", "/jobs/./x", "/jobs/%2e%2e/x", "/jobs/.%2E", "/jobs/%2e", "/jobs/..;a/x",
    "/jobs/a%2Fb", "/jobs/a%2fb", "/jobs/a%5Cb", "/jobs/a%5cb", "/jobs/%00", "/jobs/a\\b", "/jobs//x", "//jobs/x",
    "/jobs/x#y", "/jobs/x#", "/jobs/%", "/jobs/%4", "/jobs/%zz", "/jobs/%u0041", "/jobs/\x7f", "/jobs/\x01",
    "/jobs/\xe9", '/jobs/"', "/jobs/<x>", "/jobs/{x}", "/jobs/^", "/jobs/`", "/jobs/x?\xe9", '/jobs/x?"', "jobs/x",
    "/slashes/../jobs/x", "/slashes//../x", "/slashes/a%2Fb", "/encoded//x", "/encoded/..%2Fjobs",
    "/encoded/%2e%2e%2fx",
    "/encoded/%2F..%2F..%2F-%2Fpools", "*", "localhost:443", "ftp://localhost/jobs/x", "https:///jobs/x",
    "https://a@localhost/jobs/x", "https://localhost:x/jobs/x", "?x", "/jobs/x?%", "/-/../jobs/x", "/%2D/../jobs/x",
]  # fmt: skip


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_target_with_two_readings_is_refused(rig: Rig, origin: Origin, wire: Wire, target: str) -> None:
    """400 and no byte to any master; not repaired, not guessed."""
    answer = wire.ask(target)
    assert answer.status == 400, answer
    assert answer.problem in ("target-invalid", "bad-request")
    assert rig.line_of(answer)["outcome"] == "refused"
    assert origin.raw == b""


NOWHERE = ["/", "/jobs", "/JOBS/x", "/exact/", "/jobsx", "/-x/y"]


@pytest.mark.parametrize("target", NOWHERE)
def test_target_outside_of_every_route_is_404(origin: Origin, wire: Wire, target: str) -> None:
    """`/x/*` is `/x/` and below, an exact path itself, and case counts."""
    assert wire.ask(target).problem == "not-found"
    assert origin.raw == b""


@pytest.mark.parametrize("target", ["/%2d/pools", "/%2D/pools", "/-/%70ools", "https://localhost/-/pools"])
def test_reserved_path_in_any_spelling_is_our_own(origin: Origin, wire: Wire, target: str) -> None:
    """The test for /-/ sees the normal form."""
    assert wire.ask(target).json["pools"][0]["pool"] == "render"
    assert origin.raw == b""


def test_longest_route_wins_and_its_master_gets_its_host(origin: Origin, wire: Wire) -> None:
    """The client's own Host goes on unless the master's table says another."""
    wire.ask("/jobs/x")
    assert arrived(origin)["host"] == "localhost"
    origin.clear()
    wire.ask("/jobs/deep/x")
    assert arrived(origin)["host"] == "inner.example:81"


# ---- authority, origin, methods -------------------------------------------------------------------------------------

HOSTS = {
    "localhost": 200,
    "LOCALHOST": 200,
    "localhost:8443": 200,
    "localhost.": 200,
    "127.0.0.1": 200,
    "127.0.0.1:1": 200,
    "[::1]:443": 200,
    "[0:0:0:0:0:0:0:1]": 200,
    "elsewhere": 421,
    "localhost.evil": 421,
    "127.0.0.2": 421,
    "[::2]": 421,
    "test.internal": 421,
    "": 400,
    "localhost:": 400,
    "localhost:0": 400,
    "localhost:99999": 400,
    "localhost:x": 400,
    "a@localhost": 400,
    "local host": 400,
    "localhost,localhost": 400,
    "localhost/x": 400,
    "[::1": 400,
    "%6cocalhost": 400,
}


@pytest.mark.parametrize("host", HOSTS)
def test_host_must_be_one_of_our_names(origin: Origin, wire: Wire, host: str) -> None:
    """421 for the name of another, 400 for what is no name; neither reaches a master."""
    wire.send(request("/jobs/x", host=host))
    answer = wire.answer()
    assert answer.status == HOSTS[host], answer
    if answer.status != 200:
        assert answer.problem == ("misdirected" if answer.status == 421 else "bad-request")
        assert origin.raw == b""


def test_absolute_target_and_host_must_agree(origin: Origin, wire: Wire) -> None:
    """Two names for one request are refused."""
    wire.send(request("https://localhost/jobs/x", host="127.0.0.1"))
    assert wire.answer().status == 400
    assert wire.ask("https://elsewhere/jobs/x").status == 400
    wire.send(request("https://elsewhere/jobs/x", host="elsewhere"))
    assert wire.answer().status == 421
    assert origin.raw == b""


CROSS = {
    ("POST", "https://evil.example"): 403,
    ("POST", "null"): 403,
    ("DELETE", "https://localhost.evil"): 403,
    ("PUT", "http://localhost"): 403,
    ("PATCH", ""): 403,
    ("POST", "https://localhost"): 200,
    ("GET", "https://evil.example"): 200,
    ("HEAD", "https://evil.example"): 200,
    ("OPTIONS", "https://evil.example"): 200,
}


@pytest.mark.parametrize(("method", "site"), CROSS)
def test_origin_of_another_site_may_not_change_anything(origin: Origin, wire: Wire, method: str, site: str) -> None:
    """Unsafe methods only; a browser with the certificate installed is no confused deputy."""
    answer = wire.ask("/jobs/x", method, f"Origin: {site}")
    assert answer.status == CROSS[method, site]
    if answer.status == 403:
        assert answer.problem == "cross-site"
        assert origin.raw == b""


def test_route_may_allow_cross_site_requests(wire: Wire) -> None:
    """When its table says so."""
    assert wire.ask("/cross/x", "POST", "Origin: https://evil.example").status == 200


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "PROPFIND",
        "MKCOL",
        "M-SEARCH",
        "REPORT",
        "QUERY",
        "PURGE",
        "LINK",
    ],
)
def test_method_is_forwarded_as_it_is(origin: Origin, wire: Wire, method: str) -> None:
    """Every method of the table, without content, twice on one connection."""
    for _ in range(2):
        answer = wire.ask("/jobs/x", method)
        assert answer.status == 200
    recorded = b"".join(bytes(one.received) for one in origin.wires)
    assert recorded.count(f"{method} /jobs/x HTTP/1.1\r\n".encode()) == 2
    assert b"content-length" not in recorded.lower()
    assert b"transfer-encoding" not in recorded.lower()


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "FOO", "get", "PRI", "GETT", "DESCRIBE", "ANNOUNCE"])
def test_method_outside_of_the_table_is_501_and_closes(origin: Origin, wire: Wire, method: str) -> None:
    """Nobody can say how its message ends."""
    wire.send(request("/jobs/x", method) + request("/jobs/y"))
    answer = wire.answer()
    assert (answer.status, answer.problem) == (501, "method-not-implemented")
    assert wire.rest() == b""
    assert origin.raw == b""


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


def test_more_pipelined_requests_than_are_kept_are_read_later(wire: Wire) -> None:
    """We stop reading; nothing is lost."""
    count = 3000
    sender = threading.Thread(target=lambda: wire.send(request("/-/health") * count))
    sender.start()
    try:
        for _ in range(count):
            assert wire.answer().status == 200
    finally:
        sender.join()


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


# ---- fields ---------------------------------------------------------------------------------------------------------

STRIPPED = """Connection: X-Named, x_alias, close-ish
X-Named: 1
X_Named: 2
x-alias: 3
Close-Ish: 4
Keep-Alive: timeout=5
Proxy-Connection: keep-alive
Proxy-Authorization: Basic eDp5
Proxy-Whatever: 1
TE: trailers
Trailer: X
Forwarded: for=6.6.6.6
X-Forwarded-For: 6.6.6.6
X-Forwarded-Proto: gopher
x_forwarded_host: evil
X-Forwarded_Port: 1
X-Real-IP: 6.6.6.6
X_Real_IP: 6.6.6.6
Client-Cert: :AAAA:
Client-Cert-Chain: :AAAA:
client_cert: :AAAA:
Rhttp-Identity: client/root
rhttp_identity: client/root
Rhttp_Identity: client/root
RHTTP-Request-Id: mine
Rhttp-Anything: x
Rhttp: y""".splitlines()
KEPT = [
    "Accept: */*",
    "X-Real: ok",
    "Cookie: a=b; c",
    "Authorization-X: ok",
    "X-Odd: caf\xe9 \t ok",
    "Forwarded-By: ok",
]


def test_fields_that_are_ours_to_set_are_stripped_with_every_alias(rig: Rig, origin: Origin, wire: Wire) -> None:
    """What a master reads there is from us alone; everything else passes as it is."""
    answer = wire.ask("/jobs/x", "GET", *STRIPPED[:-1], *KEPT)
    assert answer.status == 200
    taken = arrived(origin)
    expected = [line.partition(":")[0].lower() for line in KEPT]
    ours = ["host", "forwarded", "via", "rhttp-identity", "rhttp-request-id"]
    assert sorted(taken.names) == sorted(expected + ours)
    for line in KEPT:
        name, _, value = line.partition(":")
        assert taken[name.lower()] == value.strip()
    assert taken["rhttp-identity"] == "client/alice"
    assert taken["rhttp-request-id"] == answer["rhttp-request-id"] == rig.line_of(answer)["request_id"]
    assert taken["forwarded"] == 'for=127.0.0.1;proto=https;host="localhost"'
    assert taken["via"].startswith("1.1 rhttp-")


def test_content_fields_under_an_alias_do_not_pass(origin: Origin, wire: Wire) -> None:
    """A server that reads `_` as `-` finds no second length."""
    answer = wire.ask(
        "/jobs/x", "POST", "Content_Length: 3", "Transfer_Encoding: chunked", "Host_: x", content=b"12345"
    )
    assert answer.json["length"] == 5
    assert b"_" not in origin.raw.partition(b"\r\n\r\n")[0].replace(b"host_", b"")


def test_trailers_are_stripped_like_heads(origin: Origin, wire: Wire) -> None:
    """Ours to set, or named by Connection: neither passes behind the content."""
    trailers = ["Rhttp-Identity: client/root", "X-Forwarded-For: 6.6.6.6", "x_real_ip: 1", "Client-Cert: :AA:"]
    trailers += ["Forwarded: for=1", "X-Named: 1", "X-Sum: ok"]
    wire.send(request("/jobs/x", "POST", "Transfer-Encoding: chunked", "Connection: X-Named"))
    wire.send(chunked(b"x", trailers=trailers))
    assert wire.answer().status == 200
    end = origin.raw.lower().partition(b"\r\n0\r\n")[2]
    assert end == b"x-sum: ok\r\n\r\n"


@pytest.mark.parametrize(
    "line", ["Content-Length: 3", "Host: x", "Transfer-Encoding: chunked", "Authorization: x", "X: \x00"]
)
def test_trailers_that_frame_or_route_are_refused(origin: Origin, rig: Rig, wire: Wire, line: str) -> None:
    """The exchange ends: no whole request reaches the master."""
    wire.send(request("/jobs/x", "POST", "Transfer-Encoding: chunked") + chunked(b"x", trailers=[line]))
    answer = wire.answer()
    assert answer.status == 400
    assert wire.rest() == b""
    assert b"0\r\n" not in origin.raw.partition(b"\r\n\r\n")[2]


def test_via_is_appended_and_a_loop_is_508(origin: Origin, wire: Wire) -> None:
    """A request that has passed this gateway before does not pass it again."""
    assert wire.ask("/jobs/x", "GET", "Via: 1.0 fred, 1.1 p.example (x)").status == 200
    via = arrived(origin)["via"]
    assert via.startswith("1.0 fred, 1.1 p.example (x), 1.1 rhttp-")
    origin.clear()
    for line in (f"Via: {via}", f"Via: 1.1 x, {via.rpartition(', ')[2].upper()}"):
        answer = wire.ask("/jobs/x", "GET", "Via: 1.1 other", line)
        assert (answer.status, answer.problem) == (508, "loop-detected")
    assert origin.raw == b""


def test_answer_fields_are_stripped_and_ours_set(origin: Origin, wire: Wire) -> None:
    """Hop-by-hop fields, Rhttp-*, Proxy-*, Alt-Svc and a master's own challenges do not reach the client."""
    lines = ["Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Rhttp-Worker: evil", "rhttp_x: 1"]
    lines += ["Proxy-Authenticate: Basic", "Proxy-X: 1", "Alt-Svc: h3=:1", "alt_svc: h3=:1", "Upgrade: h2c"]
    lines += ["WWW-Authenticate: Basic realm=x", "Authentication-Info: a=b", "Rhttp-Request-Id: forged", "Trailer: X"]
    lines += ["X-Ok: 1", "Set-Cookie: a=1", "Set-Cookie: b=2", "Server: origin"]

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"x", "207 Odd Words", *lines))

    with origin.scripted(script):
        answer = wire.ask("/jobs/x")
    names = [name for name, _ in answer.fields]
    assert sorted(names) == sorted(["x-ok", "set-cookie", "set-cookie", "server", "rhttp-request-id", "content-length"])
    assert answer["rhttp-request-id"] != "forged"
    assert answer.all("set-cookie") == ["a=1", "b=2"]


def test_answer_trailers_are_stripped(origin: Origin, wire: Wire) -> None:
    """Behind the content the same rule holds."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n\r\n")
        peer.send(chunked(b"x", trailers=["Rhttp-Worker: evil", "Alt-Svc: h3", "Proxy-X: 1", "X-Hop: 1", "X-Ok: 1"]))

    with origin.scripted(script):
        assert wire.ask("/jobs/x").trailers == (("x-ok", "1"),)


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required"])
def test_master_that_asks_for_credentials_is_502(origin: Origin, wire: Wire, status: str) -> None:
    """No client shall ever type its password for somebody behind us."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"x", status, "WWW-Authenticate: Basic realm=x"))

    with origin.scripted(script):
        answer = wire.ask("/jobs/x")
    assert (answer.status, answer.problem) == (502, "master-asked-credentials")
    assert not answer.challenges
    assert wire.ask("/-/health").status == 200


# ---- what must never reach a master ---------------------------------------------------------------------------------

SMUGGLED = b"GET /jobs/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /jobs/x HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /jobs/x HTTP/1.1\r\nHost: localhost\r\n"
SHAPES: dict[str, bytes] = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nxxxxx",
    "list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nxxxxx",
    "signed length": POST + b"Content-Length: +5\r\n\r\nxxxxx",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "hex length": POST + b"Content-Length: 0x5\r\n\r\nxxxxx",
    "spaced length": POST + b"Content-Length: 5 5\r\n\r\nxxxxx",
    "underscored length": POST + b"Content-Length: 1_0\r\n\r\n",
    "huge length": POST + b"Content-Length: 18446744073709551621\r\n\r\nxxxxx",
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "arabic length": POST + "Content-Length: \u0665\r\n\r\n".encode(),
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "identity and length": POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nxxxxx",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "quoted chunked": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with parameter": POST + b"Transfer-Encoding: chunked;x=1\r\n\r\n0\r\n\r\n",
    "vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "empty coding": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "coding in 1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before colon": POST + b"Content-Length : 5\r\n\r\nxxxxx",
    "tab before colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "folded field": GET + b"X: a\r\n b\r\n\r\n",
    "line that begins with space": GET + b" X: a\r\n\r\n",
    "first line that begins with space": b"GET /jobs/x HTTP/1.1\r\n Host: localhost\r\nHost: localhost\r\n\r\n",
    "field without colon": GET + b"Broken\r\n\r\n",
    "empty name": GET + b": x\r\n\r\n",
    "space in name": GET + b"X Y: 1\r\n\r\n",
    "NUL in value": GET + b"X: a\0b\r\n\r\n",
    "CR in value": GET + b"X: a\rb\r\n\r\n",
    "CR before smuggled field": GET + b"X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "LF line end": GET + b"X: a\nContent-Length: 5\r\n\r\nxxxxx",
    "NUL in name": GET + b"X\0: a\r\n\r\n",
    "high name": GET + b"X\xff: a\r\n\r\n",
    "DEL in value": GET + b"X: \x7f\r\n\r\n",
    "escape in value": GET + b"X: \x1b[2J\r\n\r\n",
    "no host": b"GET /jobs/x HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: localhost\r\n\r\n",
    "two other hosts": GET + b"Host: evil\r\n\r\n",
    "leading CRLF": b"\r\n" + GET + b"\r\n",
    "leading LF": b"\n" + GET + b"\r\n",
    "leading space": b" " + GET + b"\r\n",
    "two spaces": GET.replace(b"GET /", b"GET  /") + b"\r\n",
    "tab": GET.replace(b"GET /", b"GET\t/") + b"\r\n",
    "trailing space": GET.replace(b"1.1\r", b"1.1 \r") + b"\r\n",
    "space in target": GET.replace(b"/x", b"/x y") + b"\r\n",
    "0.9": b"GET /jobs/x\r\n\r\n",
    "0.9 named": GET.replace(b"1.1", b"0.9") + b"\r\n",
    "2.0": GET.replace(b"1.1", b"2.0") + b"\r\n",
    "1.2": GET.replace(b"1.1", b"1.2") + b"\r\n",
    "1.10": GET.replace(b"1.1", b"1.10") + b"\r\n",
    "RTSP": GET.replace(b"HTTP/1.1", b"RTSP/1.0") + b"\r\n",
    "lower case version": GET.replace(b"HTTP", b"http") + b"\r\n",
    "no method": b" /jobs/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "odd method": GET.replace(b"GET", b"G@T") + b"\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "TLS in TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_head_that_can_be_read_in_two_ways_is_refused_and_closes(
    rig: Rig, origin: Origin, wire: Wire, name: str
) -> None:
    """4xx or 5xx, one answer, close; neither it nor what was glued to it reaches a master, and the log has a line."""
    seen = len(rig.audit())
    wire.send(SHAPES[name] + SMUGGLED * 2)
    answer = wire.answer()
    assert 400 <= answer.status < 600, answer
    assert answer.problem
    assert "close" in answer.all("connection")
    assert wire.rest() == b""
    assert origin.raw == b""
    (line,) = [x for x in rig.audit()[seen:] if x["event"] == "request"]
    assert (line["outcome"], line["status"], line["request_id"]) == (
        "refused", answer.status, answer["rhttp-request-id"],
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "TLS in TLS"])
def test_hostile_head_byte_by_byte_is_refused_too(origin: Origin, wire: Wire, name: str) -> None:
    """The same verdict however the bytes are cut."""
    for at in range(0, len(SHAPES[name]), 1):
        try:
            wire.send(SHAPES[name][at : at + 1])
        except Exception:
            break
    wire.send(SMUGGLED)
    answer = wire.answer()
    assert 400 <= answer.status < 600, answer
    assert wire.rest() == b""
    assert origin.raw == b""


BAD_CHUNKS: dict[str, bytes] = {
    "no size": b"\r\nx\r\n0\r\n\r\n",
    "sign": b"+1\r\nx\r\n0\r\n\r\n",
    "minus": b"-1\r\nx\r\n0\r\n\r\n",
    "0x": b"0x1\r\nx\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n",
    "leading space": b" 1\r\nx\r\n0\r\n\r\n",
    "trailing space": b"1 \r\nx\r\n0\r\n\r\n",
    "huge": b"fffffffffffffffff\r\nx\r\n",
    "LF": b"1\nx\r\n0\r\n\r\n",
    "LF after data": b"1\r\nx\n0\r\n\r\n",
    "CR": b"1\rx\r\n0\r\n\r\n",
    "data too long": b"1\r\nxy\r\n0\r\n\r\n",
    "NUL in extension": b"1;a=\0\r\nx\r\n0\r\n\r\n",
    "LF in extension": b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "CR in extension": b"1;a=\rb\r\nx\r\n0\r\n\r\n",
    "long extension": b"1;" + b"a" * 5000 + b"\r\nx\r\n0\r\n\r\n",
    "many extensions": (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 50 + b"0\r\n\r\n",
    "trailer without colon": b"0\r\nbroken\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer LF": b"0\r\nX: a\n\r\n\r\n",
    "huge trailers": b"0\r\n" + b"X: " + b"a" * 20000 + b"\r\n\r\n",
    "many trailers": b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    "endless trailers": b"0\r\n" + b"X: " + b"a" * 20000,
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
@pytest.mark.parametrize("target", ["/jobs/x", "/nowhere"])
def test_chunks_outside_of_the_grammar_end_the_request(
    rig: Rig, origin: Origin, wire: Wire, name: str, target: str
) -> None:
    """No whole request reaches the master, nothing behind it is served, and the peer gets its one answer or a close."""
    wire.send(request(target, "POST", "Transfer-Encoding: chunked") + BAD_CHUNKS[name] + SMUGGLED)
    answer = wire.answer()
    assert answer.status in ((400, 431) if target == "/jobs/x" else (404,))
    assert wire.rest() == b""
    assert b"smuggled" not in origin.raw
    assert not origin.raw.endswith(b"0\r\n\r\n")


def test_head_too_large_is_431_and_line_too_long_is_414(origin: Origin, wire: Wire, rig: Rig) -> None:
    """At their limits they pass, one byte above they do not, whole or in pieces."""
    line = b"GET /jobs/%b HTTP/1.1"
    fits = 8192 - len(line % b"")
    for size, status in ((fits, 200), (fits + 1, 414), (200_000, 414)):
        with rig.connect("alice") as one:
            one.send(line % (b"a" * size) + b"\r\nHost: localhost\r\n\r\n")
            assert one.answer().status == status, size
    head = request("/jobs/x", "GET", "X: ")[:-4]
    for size, status in ((32768, 200), (32769, 431), (500_000, 431)):
        with rig.connect("alice") as one:
            one.send(head + b"a" * (size - len(head) - 4) + b"\r\n\r\n")
            answer = one.answer()
            assert answer.status == status, size
            if status != 200:
                assert one.rest() == b""
    for count, status in ((99, 200), (100, 431)):
        with rig.connect("alice") as one:
            assert one.ask("/jobs/x", "GET", *["X: 1"] * count).status == status


def test_head_without_an_end_is_refused_at_its_limit_not_kept(rig: Rig) -> None:
    """Neither an endless line nor endless fields."""
    with rig.connect("alice") as wire:
        wire.send(b"GET /" + b"a" * 9000)
        assert wire.answer().status == 414
        assert wire.rest() == b""
    with rig.connect("alice") as wire:
        wire.send(GET + b"X: a\r\n" * 6000)
        assert wire.answer().status == 431
        assert wire.rest() == b""


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


# ---- masters that misbehave -----------------------------------------------------------------------------------------

BAD_ANSWERS: dict[str, bytes] = {
    "junk": b"junk\r\n\r\n",
    "0.9": b"hello world\r\n\r\n",
    "2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 x\r\n\r\n",
    "status 999": b"HTTP/1.1 999 x\r\n\r\n",
    "status 20": b"HTTP/1.1 20 x\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "101 nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "surplus": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
    "second answer": b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000,
    "interim with content": b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\nhello",
    "chunk without size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_answer_outside_of_the_grammar_is_502(rig: Rig, origin: Origin, wire: Wire, name: str) -> None:
    """A master's answers are untrusted; the client's own connection goes on."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(BAD_ANSWERS[name])
        peer.rest()

    with origin.scripted(script):
        answer = wire.ask("/jobs/x", "POST", content=b"x")
    assert (answer.status, answer.problem) == (502, "master-invalid")
    assert rig.line_of(answer)["outcome"] == "failed"
    assert wire.ask("/jobs/x").status == 200


def test_bytes_behind_a_whole_answer_never_become_the_next_one(origin: Origin, wire: Wire) -> None:
    """They come later than the answer, before the next request: the connection to the master is dropped."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"first"))
        peer.send(response(b"poison"))
        peer.rest()

    with origin.scripted(script):
        first = wire.ask("/jobs/x")
        assert first.status in (200, 502)
        origin.script = serve_forever
        for _ in range(3):
            assert wire.ask("/jobs/y").json["target"] == "/jobs/y"


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"])
def test_master_that_dies_before_content_is_502_for_post(rig: Rig, origin: Origin, wire: Wire, cut: bytes) -> None:
    """Never sent twice: the master sees it once."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(cut)

    with origin.scripted(script):
        answer: Answer = wire.ask("/jobs/x", "POST", content=b"x")
        assert (answer.status, answer.problem) == (502, "master-lost")
        assert len(origin.wires) == 1
    assert wire.ask("/-/health").status == 200


def test_master_that_dies_in_mid_content_cuts_the_client_too(rig: Rig, origin: Origin, wire: Wire) -> None:
    """A half answer must not look whole: no close_notify, no last chunk."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        time.sleep(0.1)  # so that the first bytes are on their way to the client

    with origin.scripted(script):
        wire.send(request("/jobs/x"))
        rest = wire.rest()
        assert rest.startswith(b"HTTP/1.1 200")
        assert not rest.endswith(b"0\r\n\r\n")
        assert wire.ended != "notify"
    line = wait_for(lambda: [x for x in rig.audit() if x.get("outcome") == "failed"][-1:], bool)[0]
    assert "status" not in line


def test_get_on_a_kept_connection_that_the_master_closed_is_tried_again(origin: Origin, wire: Wire) -> None:
    """An idle connection that dies with the request on it costs nobody anything when the method is idempotent."""
    count = [0]

    def script(peer: Wire) -> None:
        read_request(peer)
        count[0] += 1
        if count[0] == 2:
            return
        peer.send(response(b"%d" % count[0]))
        read_request(peer)
        count[0] += 1

    with origin.scripted(script):
        assert wire.ask("/jobs/x").content == b"1"
        assert wire.ask("/jobs/x").content == b"3"


def test_master_that_is_not_there_is_502(rig: Rig, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody listens; the answer says so and the connection goes on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = CONFIG.format(port=taken.getsockname()[1])
        place = tmp_path_factory.mktemp("dead")
        with Rig(place, config, policy=OPEN, peers=("issue-client alice",)) as dead, dead.connect("alice") as one:
            answer = one.ask("/jobs/x", "POST", content=b"x")
            assert (answer.status, answer.problem) == (502, "master-unreachable")
            assert one.ask("/-/health").status == 200


# ---- the dispatch listener ------------------------------------------------------------------------------------------


def test_dispatch_socket_serves_no_routes_and_no_role_switch(rig: Rig, origin: Origin) -> None:
    """One purpose each."""
    with rig.dispatch() as wire:
        assert wire.ask("/-/health").status == 200
        assert wire.ask("/-/pools").status == 200
        assert wire.ask("/-/reverse/render", "POST").problem == "not-found"
        assert wire.ask("/jobs/x").status in (403, 404)
    assert origin.raw == b""


def test_dispatch_on_tcp_refuses_web_pages_and_foreign_names(
    tmp_path_factory: pytest.TempPathFactory, origin: Origin
) -> None:
    """No web page is a master, and DNS rebinding finds nobody."""
    place = tmp_path_factory.mktemp("tcp")
    config = CONFIG.format(port=origin.port)
    rig = Rig(place, config, policy=OPEN, peers=("issue-client alice",))
    set_key(rig.home, "dispatch", '"127.0.0.1:0"')
    with rig:
        port = int(rig.served.listeners["dispatch"].rpartition(":")[2])
        with Wire(socket.create_connection(("127.0.0.1", port))) as wire:
            for host, status in {"localhost": 200, f"127.0.0.1:{port}": 200, "evil.example": 421, "[::1]": 421}.items():
                wire.send(request("/-/pools", host=host))
                assert wire.answer().status == status, host
            for line in ("Origin: http://localhost", "Sec-Fetch-Site: same-origin", "Origin: null"):
                answer = wire.ask("/-/pools", "GET", line)
                assert (answer.status, answer.problem) == (403, "cross-site")


def test_counts_of_answers_and_audit_lines_agree(rig: Rig, wire: Wire) -> None:
    """Every answer of a request has its line: asked here with a mixture of a hundred."""
    targets: list[Any] = ["/jobs/x", "/nowhere", "/-/health", "/jobs/..", "/-/pools"]
    seen = len(rig.audit())
    answers = [wire.ask(target) for target in targets * 20]
    lines = [line for line in rig.audit()[seen:] if "request_id" in line]
    assert [line["request_id"] for line in lines] == [answer["rhttp-request-id"] for answer in answers]
    assert [line["status"] for line in lines] == [answer.status for answer in answers]
