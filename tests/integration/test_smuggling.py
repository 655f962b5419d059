"""What can be read in two ways, from outside: refused, closed, and never seen by a master."""

from __future__ import annotations

import pytest
from support.origins import Origin
from support.rig import Rig
from support.wire import Wire, request

pytestmark = pytest.mark.usefixtures("fresh")


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
    "LF line ends": GET.replace(b"\r\n", b"\n") + b"\n",
    "LF at the end": GET + b"\n",
    "LF line end": GET + b"X: a\nContent-Length: 5\r\n\r\nxxxxx",
    "NUL in name": GET + b"X\0: a\r\n\r\n",
    "high name": GET + b"X\xff: a\r\n\r\n",
    "DEL in value": GET + b"X: \x7f\r\n\r\n",
    "escape in value": GET + b"X: \x1b[2J\r\n\r\n",
    "no host": b"GET /jobs/x HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: localhost\r\n\r\n",
    "two other hosts": GET + b"Host: evil\r\n\r\n",
    "leading CRLFs": b"\r\n" * 5 + GET + b"\r\n",
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


@pytest.mark.parametrize("name", SHAPES)
def test_hostile_head_behind_a_good_request_takes_no_answer_away(
    rig: Rig, origin: Origin, wire: Wire, name: str
) -> None:
    """The request that ran is answered, then the bad one is, and the log says of both what the peer was told."""
    seen = len(rig.audit())
    wire.send(request("/jobs/ran", "POST", content=b"12345") + SHAPES[name])
    first = wire.answer()
    second = wire.answer()
    assert first.status == 200
    assert 400 <= second.status < 600
    assert wire.rest() == b""
    assert b"/jobs/ran" in origin.raw
    lines = [x for x in rig.audit()[seen:] if x["event"] == "request"]
    assert [line["status"] for line in lines] == [first.status, second.status]


def test_empty_line_before_a_request_is_skipped(origin: Origin, wire: Wire) -> None:
    """Some clients send one behind the content of a POST (RFC 9112 section 2.2)."""
    wire.send(request("/jobs/a", "POST", content=b"12345") + b"\r\n" + request("/jobs/b"))
    assert [wire.answer().status, wire.answer().status] == [200, 200]
    assert b"/jobs/b" in origin.raw
    wire.send(b"\r\n")
    assert wire.ask("/jobs/c").status == 200


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
    "LF for a line": b"1\n",
    "LF for the last line": b"0\r\n\n",
    "LF in trailers": b"0\r\nX: a\n\n",
    "extension without a name": b"1;=a\r\nx\r\n0\r\n\r\n",
    "extension with a space": b"1;a b\r\nx\r\n0\r\n\r\n",
    "extension without an end": b'1;a="b\r\nx\r\n0\r\n\r\n',
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
