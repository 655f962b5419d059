"""Heads of answers: untrusted, like those of requests."""

from __future__ import annotations

import pytest

from rhttp.errors import RemoteProtocolError
from rhttp.http1.head import Http1ResponseHead, parse_response_head
from rhttp.message import OPEN, Length, response_has_content


def response(fields: bytes = b"", line: bytes = b"HTTP/1.1 200 OK\r\n") -> Http1ResponseHead:
    return parse_response_head(line + fields + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 999 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"RTSP/1.0 200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"\r\nHTTP/1.1 200 OK",
        b"\nHTTP/1.1 200 OK",
        b"",
    ],
)
def test_status_line_that_is_not_exactly_one_is_refused(line: bytes) -> None:
    """RFC 9112 section 4; 1xx to 5xx are the statuses that mean something (RFC 9110 section 15)."""
    with pytest.raises(RemoteProtocolError) as caught:
        response(line=line + b"\r\n")
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.0 404 Not  found\xe9", 404, b"Not  found\xe9"),
        (b"HTTP/1.1 599 x", 599, b"x"),
    ],
)
def test_status_line_is_read(line: bytes, status: int, reason: bytes) -> None:
    """The reason phrase may be empty, and left out with its space, as many do."""
    head = response(line=line + b"\r\n")
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"X : y\r\n",
        b"X: y\r\n folded\r\n",
        b"X: y\nZ: 1\r\n",
        b"X: y\x00\r\n",
    ],
)
def test_response_that_can_be_framed_in_two_ways_is_refused(fields: bytes) -> None:
    """An answer is as untrusted as a request, and 502 says whose fault it is."""
    with pytest.raises(RemoteProtocolError) as caught:
        response(fields)
    assert caught.value.status == 502


@pytest.mark.parametrize("fields", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_response_interim_with_content_is_refused(fields: bytes) -> None:
    """RFC 9110 section 15.2: an interim answer has none."""
    with pytest.raises(RemoteProtocolError):
        response(fields, b"HTTP/1.1 103 Early\r\n")


def test_response_of_http_1_0_in_chunks_is_refused() -> None:
    """RFC 9112 section 6.1."""
    with pytest.raises(RemoteProtocolError):
        response(b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0 200 OK\r\n")


def test_response_fields_are_limited_in_number() -> None:
    """At the limit they pass, one more is refused."""
    block = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5
    assert len(parse_response_head(block + b"\r\n", max_fields=5).fields) == 5
    with pytest.raises(RemoteProtocolError):
        parse_response_head(block + b"X: y\r\n\r\n", max_fields=5)


@pytest.mark.parametrize(
    ("line", "fields", "close"),
    [
        (b"HTTP/1.1 200 OK", b"", False),
        (b"HTTP/1.1 200 OK", b"Connection: close\r\n", True),
        (b"HTTP/1.0 200 OK", b"", True),
        (b"HTTP/1.0 200 OK", b"Connection: keep-alive\r\n", False),
        (b"HTTP/1.0 200 OK", b"Connection: keep-alive, close\r\n", True),
        (b"HTTP/1.0 200 OK", b"Connection: close\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_response_says_whether_the_connection_stays(line: bytes, fields: bytes, close: bool) -> None:
    """RFC 9112 section 9.3: close wins over everything."""
    assert response(fields, line + b"\r\n").close is close


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        (b"", OPEN, False),
        (b"Content-Length: 0\r\n", 0, False),
        (b"Content-Length: 5\r\n", 5, False),
        (b"Transfer-Encoding: chunked\r\n", OPEN, True),
    ],
)
def test_response_length_is_announced_or_open(fields: bytes, length: Length, chunked: bool) -> None:
    """Without a length the end shows: by the last chunk, or by the connection's (RFC 9112 section 6.3)."""
    head = response(fields)
    assert (head.length, head.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("method", "status", "has"),
    [
        (b"GET", 200, True),
        (b"HEAD", 200, False),
        (b"GET", 204, False),
        (b"GET", 304, False),
        (b"GET", 103, False),
        (b"GET", 205, True),
        (b"POST", 404, True),
    ],
)
def test_response_has_content_by_method_and_status(method: bytes, status: int, has: bool) -> None:
    """RFC 9112 section 6.3 rule 1."""
    assert response_has_content(method, status) is has
