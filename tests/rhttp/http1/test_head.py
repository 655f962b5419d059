"""Message heads: every rule of RFC 9112 that llhttp leaves open, and one meaning for every head that is let through."""

from __future__ import annotations

import pytest

from rhttp.errors import RemoteProtocolError
from rhttp.http1.head import begins_request, parse_request_head, section_end
from rhttp.message import IDEMPOTENT, METHODS, NOTHING, OPEN, SAFE, Length, RequestHead

LINE = b"GET /a HTTP/1.1\r\n"
HOST = b"Host: x\r\n"


def request(fields: bytes = b"", line: bytes = LINE, host: bytes = HOST) -> RequestHead:
    return parse_request_head(line + host + fields + b"\r\n")


def refused(block: bytes, status: int = 400) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(block)
    assert caught.value.status == status
    return caught.value


# ---- where it ends ----


@pytest.mark.parametrize("at", [0, 2])
def test_section_end_is_behind_the_empty_line(at: int) -> None:
    """Found wherever the section begins; without an empty line in sight more bytes are needed."""
    data = b"\r\n"[:at] + LINE + HOST + b"\r\n"
    assert section_end(data + b"next\n", at) == len(data)
    assert all(section_end(data[:cut], at) == -1 for cut in range(at, len(data)))


@pytest.mark.parametrize(
    "data", [b"\n", b"GET / HTTP/1.1\n", LINE + b"Host: x\n", LINE + HOST + b"\n", LINE + b"\n\r\n"]
)
def test_section_end_refuses_a_bare_lf_as_soon_as_it_is_in_sight(data: bytes) -> None:
    """Nobody waits for an end that may never come."""
    with pytest.raises(RemoteProtocolError) as caught:
        section_end(data)
    assert caught.value.status == 400
    refused(data + b"\r\n\r\n")


# ---- the request line ----


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET  /a HTTP/1.1", 400),
        (b"GET /a  HTTP/1.1", 400),
        (b"GET /a HTTP/1.1 ", 400),
        (b" GET /a HTTP/1.1", 400),
        (b"GET\t/a HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /a", 400),
        (b"GET  HTTP/1.1", 400),
        (b"GET", 400),
        (b"", 400),
        (b"\r\nGET /a HTTP/1.1", 400),
        (b"\nGET /a HTTP/1.1", 400),
        (b"GET /a HTTP/1.1\nX: y", 400),
        (b"GET /a http/1.1", 400),
        (b"GET /a HTTP/1", 400),
        (b"GET /a HTTP/1.10", 400),
        (b"GET /a HTTP/01.1", 400),
        (b"GET /a HTTP/1.1\r", 400),
        (b"GET /a RTSP/1.0", 400),
        (b"GET /a ICE/1.0", 400),
        (b"GET /a HTTPS/1.1", 400),
        (b"GET /a HTTP/0.9", 505),
        (b"GET /a HTTP/1.2", 505),
        (b"GET /a HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GE(T /a HTTP/1.1", 400),
        (b"G\xc9T /a HTTP/1.1", 400),
        (b"get /a HTTP/1.1", 501),
        (b"FOO /a HTTP/1.1", 501),
        (b"CONNECT x:443 HTTP/1.1", 501),
        (b"TRACE /a HTTP/1.1", 501),
        (b"DESCRIBE /a HTTP/1.1", 501),
    ],
)
def test_request_line_that_is_not_exactly_one_is_refused(line: bytes, status: int) -> None:
    """RFC 9112 section 3: method, target, version, one space apart; methods and versions of ours only."""
    refused(line + b"\r\n" + HOST + b"\r\n", status)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_request_method_of_our_table_passes(method: bytes) -> None:
    """Every method that we name is one that the parser knows, too."""
    assert request(line=method + b" /a HTTP/1.1\r\n").method == method


def test_request_line_is_limited() -> None:
    """At the limit it passes; one byte more is 414."""
    size = len(b"GET / HTTP/1.1")
    block = b"GET /%b HTTP/1.1\r\n" + HOST + b"\r\n"
    assert parse_request_head(block % (b"a" * (100 - size)), max_line=100).target == b"/" + b"a" * (100 - size)
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(block % (b"a" * (101 - size)), max_line=100)
    assert (caught.value.status, caught.value.code) == (414, "uri-too-long")


def test_request_target_is_kept_byte_for_byte() -> None:
    """Digest covers the target as it came; what it means is for `rhttp.http1.target`."""
    assert request(line=b"GET /%7Ea/../b?c=%zz#d HTTP/1.1\r\n").target == b"/%7Ea/../b?c=%zz#d"


# ---- Host ----


def test_request_without_host_is_refused() -> None:
    """RFC 9112 section 3.2: MUST answer 400."""
    refused(LINE + b"\r\n")


@pytest.mark.parametrize("second", [b"Host: x\r\n", b"Host: y\r\n", b"host:\r\n"])
def test_request_with_two_hosts_is_refused(second: bytes) -> None:
    """RFC 9112 section 3.2: also when they agree."""
    refused(LINE + HOST + second + b"\r\n")


def test_request_of_http_1_0_needs_no_host_and_closes() -> None:
    """HTTP/1.0 is served with close, whatever it says of keep-alive."""
    head = request(b"Connection: keep-alive\r\n", b"GET / HTTP/1.0\r\n", b"")
    assert (head.version, head.is_last, head.authority) == ("1.0", True, None)


# ---- framing ----


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 5, 5\r\n", 400),
        (b"Content-Length: 5 5\r\n", 400),
        (b"Content-Length: +5\r\n", 400),
        (b"Content-Length: -5\r\n", 400),
        (b"Content-Length: 0x5\r\n", 400),
        (b"Content-Length: 5_0\r\n", 400),
        (b"Content-Length: 5.0\r\n", 400),
        (b"Content-Length: \r\n", 400),
        (b"Content-Length: \xb2\r\n", 400),
        (b"Content-Length: " + b"9" * 19 + b"\r\n", 400),
        (b"Content-Length: 18446744073709551617\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked, chunked\r\n", 400),
        (b"Transfer-Encoding: chunked, identity\r\n", 400),
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding: gzip\r\n", 400),
        (b"Transfer-Encoding: \r\n", 400),
        (b"Transfer-Encoding: ,\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Transfer-Encoding: chunked;q=1\r\n", 400),
        (b"Transfer-Encoding: \x0bchunked\r\n", 400),
        (b"Transfer-Encoding: 'chunked'\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"Transfer-Encoding\t: chunked\r\n", 400),
        (b"Content-Length : 5\r\n", 400),
        (b" Content-Length: 5\r\n", 400),
        (b"X: y\r\n Transfer-Encoding: chunked\r\n", 400),
        (b"X: y\r\n\tfolded\r\n", 400),
        (b"X: y\nTransfer-Encoding: chunked\r\n", 400),
        (b"X: y\rTransfer-Encoding: chunked\r\n", 400),
        (b"X: y\x00z\r\n", 400),
        (b"X: y\x7fz\r\n", 400),
        (b"X\r\n", 400),
        (b": y\r\n", 400),
        (b"X y: z\r\n", 400),
        (b"X\x00: y\r\n", 400),
        (b"X\xe9: y\r\n", 400),
    ],
)
def test_request_that_can_be_framed_in_two_ways_is_refused(fields: bytes, status: int) -> None:
    """RFC 9112 sections 5 and 6.3, and every shape that smuggles a request past somebody."""
    refused(LINE.replace(b"GET", b"POST") + HOST + fields + b"\r\n", status)


def test_request_of_http_1_0_in_chunks_is_refused() -> None:
    """RFC 9112 section 6.1: faulty framing in a version that knows no transfer coding."""
    refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    ("fields", "length", "has_content"),
    [
        (b"", NOTHING, False),
        (b"Content-Length: 0\r\n", 0, False),
        (b"Content-Length: 5\r\n", 5, True),
        (b"Content-Length:\t5 \r\n", 5, True),
        (b"Content-Length: 005\r\n", 5, True),
        (b"CONTENT-LENGTH: 5\r\n", 5, True),
        (b"Transfer-Encoding: chunked\r\n", OPEN, True),
        (b"transfer-encoding:  Chunked \r\n", OPEN, True),
    ],
)
def test_request_content_is_announced(fields: bytes, length: Length, has_content: bool) -> None:
    """One length, or chunks, or nothing (RFC 9112 section 6.3)."""
    head = request(fields)
    assert (head.length, head.has_content) == (length, has_content)


# ---- fields ----


def test_request_fields_are_lowered_trimmed_and_in_order() -> None:
    """Names in lower case, values without white space around, empty ones kept, none joined with its neighbour."""
    head = request(b"X-A:\r\nX-B: \t 1 2\t \r\nx-a:3\r\nX-C: \xff\r\n")
    assert head.fields == ((b"host", b"x"), (b"x-a", b""), (b"x-b", b"1 2"), (b"x-a", b"3"), (b"x-c", b"\xff"))


def test_request_fields_are_limited_in_number() -> None:
    """At the limit they pass, one more is 431."""
    block = LINE + HOST + b"X: y\r\n" * 4
    assert len(parse_request_head(block + b"\r\n", max_fields=5).fields) == 5
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(block + b"X: y\r\n\r\n", max_fields=5)
    assert (caught.value.status, caught.value.code) == (431, "fields-too-large")


def test_request_connection_options_of_all_lines_count() -> None:
    """Lists may be spread over lines (RFC 9110 section 5.3); options are compared without case."""
    head = request(b"Connection: X-A, keep-alive\r\nConnection: CLOSE\r\n")
    assert head.connection == (b"x-a", b"keep-alive", b"close")
    assert head.is_last
    assert not request(b"Connection: closed\r\n").is_last


def test_request_upgrade_counts_only_when_connection_names_it() -> None:
    """RFC 9110 section 7.8."""
    assert request(b"Upgrade: a, B\r\nConnection: upgrade\r\nUpgrade: c\r\n").upgrade == (b"a", b"B", b"c")
    assert request(b"Upgrade: a\r\n").upgrade is None
    assert request(b"Upgrade: a\r\nConnection: upgrade\r\n", b"GET / HTTP/1.0\r\n").upgrade is None


def test_request_expectations_and_credentials_are_collected() -> None:
    """All of them, for those who decide; several `Authorization` fields are seen as several."""
    head = request(b"Expect: 100-Continue, x\r\nExpect: y\r\nAuthorization: A\r\nAuthorization: B\r\n")
    assert head.expect == (b"100-continue", b"x", b"y")
    assert head.authorization == (b"A", b"B")
    assert b"authorization" not in dict(head.fields)
    assert head.all_fields == (*head.fields, (b"authorization", b"A"), (b"authorization", b"B"))
    bare = request()
    assert (bare.expect, bare.authorization) == (None, None)


def test_request_repr_shows_no_field_and_no_target() -> None:
    """Logs never get what may be a secret."""
    text = repr(request(b"Authorization: secret\r\n", b"GET /?secret HTTP/1.1\r\n"))
    assert "secret" not in text


def test_method_sets_are_consistent() -> None:
    """A safe method is idempotent; neither CONNECT nor TRACE is served."""
    assert SAFE < IDEMPOTENT < METHODS
    assert not METHODS & {b"CONNECT", b"TRACE"}
    assert b"POST" not in IDEMPOTENT
    assert b"PATCH" not in IDEMPOTENT


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"G", True),
        (b"DELETE /a", True),
        (b"OPTIONS", True),
        (b"M-SEARCH * HTTP/1", True),
        (b"CONNECT a:1 HTTP", True),
        (b"PRI * HTTP/2.0\r\n", True),
        (b"", False),
        (b"get / HTTP/1.1\r\n", False),
        (b"BREW / HTTP/1.1\r\n", False),
        (b"GETS", False),
        (b"SSH-2.0-x\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01", False),
        (b"\x80\x2e\x01", False),
        (b" GET /", False),
    ],
)
def test_request_in_the_clear_is_told_by_its_first_bytes(data: bytes, *, is_one: bool) -> None:
    """A method that we know, or the beginning of one; a TLS record never begins with a letter."""
    assert begins_request(data) is is_one
