"""Fields across the gateway: what must not pass, under any spelling, and what is set in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import fields
from gateway.http.fields import (
    forwarded,
    inbound_trailers,
    outbound_trailers,
    via_names,
)
from rhttp.http1.fields import block_text, serialize
from rhttp.http1.head import parse_request_head, parse_response_head
from rhttp.message import FieldBlock, RequestHead, ResponseHead

HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Authentication-Info",
    "TE",
    "Trailer",
    "HTTP2-Settings",
]
INBOUND = [
    *HOP_BY_HOP,
    "Upgrade",
    "Authorization",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "Client-Cert",
    "Client-Cert-Chain",
    "Proxy-Anything",
    "Rhttp-Identity",
    "Rhttp-Request-Id",
    "Rhttp-Instance",
    "Rhttp-Prefer-Label",
    "Rhttp-Anything",
    "Via",
    "Expect",
]
OUTBOUND = [*HOP_BY_HOP, "Upgrade", "Rhttp-Worker", "Rhttp-Anything", "Proxy-Anything", "Alt-Svc"]
ROUTE_ONLY = ["WWW-Authenticate", "Authentication-Info"]
PASSING = ["Accept", "Cookie", "X-Forward", "X-Real", "Client", "Rhttp", "Rhttpx-A", "Prefer", "Origin", "Proxy"]


def request(*lines: str) -> RequestHead:
    return parse_request_head(
        f"GET / HTTP/1.1\r\nHost: x\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode()
    )


def response(*lines: str) -> ResponseHead:
    return parse_response_head(f"HTTP/1.1 200 OK\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode())


def request_fields(head: RequestHead) -> bytes:
    return serialize(fields.request_fields(head))


def response_fields(head: ResponseHead, *, route: bool) -> bytes:
    return block_text(fields.response_fields(head, route=route))


def spellings(name: str) -> list[str]:
    """A field as CGI-like servers would take it for the same: any case, any dash an underscore."""
    return [name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_", 1)]


@pytest.mark.parametrize("name", INBOUND)
def test_inbound_field_never_passes_under_any_spelling(name: str) -> None:
    """Whoever is behind us may believe these fields, so only ours arrive: in heads and in trailers."""
    for spelling in spellings(name):
        head = request("X-A: 1", f"{spelling}: 100-continue", "X-B: 2")
        assert request_fields(head) == b"x-a: 1\r\nx-b: 2\r\n"
        assert inbound_trailers([(b"x-a", b"1"), (spelling.lower().encode(), b"2")], ()) == [(b"x-a", b"1")]


@pytest.mark.parametrize("name", OUTBOUND)
def test_outbound_field_never_passes_under_any_spelling(name: str) -> None:
    """A worker or master cannot speak for the gateway, nor bind the client to another service."""
    for spelling in spellings(name):
        head = response("X-A: 1", f"{spelling}: x", "X-B: 2")
        for route in (True, False):
            assert response_fields(head, route=route) == b"x-a: 1\r\nx-b: 2\r\n"
        assert outbound_trailers([(b"x-a", b"1"), (spelling.lower().encode(), b"2")], ()) == [(b"x-a", b"1")]


@pytest.mark.parametrize("name", ROUTE_ONLY)
def test_master_cannot_challenge_over_a_route_but_a_worker_can(name: str) -> None:
    """Clients must never give their gateway password to a master; a dispatching master knows whom it asks."""
    line = f"{name}: x"
    assert response_fields(response(line), route=True) == b""
    assert response_fields(response(line), route=False) == line.lower().encode() + b"\r\n"
    assert outbound_trailers([(name.lower().encode(), b"x")], ()) == []


@pytest.mark.parametrize("name", PASSING)
def test_other_fields_pass_as_they_came(name: str) -> None:
    """Names that only look similar are the application's."""
    line = f"{name.lower()}: a, b".encode() + b"\r\n"
    assert request_fields(request(f"{name}: a, b")) == line
    assert response_fields(response(f"{name}: a, b"), route=True) == line


@pytest.mark.parametrize("connection", ["X-Secret", "close, x-secret", "x_secret", "X-SECRET , keep-alive"])
def test_fields_that_connection_names_are_for_us_only(connection: str) -> None:
    """RFC 9110 section 7.6.1, both ways, in heads and trailers, under either spelling."""
    lines = ("X-Secret: 1", f"Connection: {connection}", "X_Secret: 2", "X-Open: 3")
    assert request_fields(request(*lines)) == b"x-open: 3\r\n"
    assert response_fields(response(*lines), route=False) == b"x-open: 3\r\n"
    named = request(*lines).connection
    trailers = [(b"x-secret", b"1"), (b"x_secret", b"2"), (b"x-open", b"3")]
    assert inbound_trailers(trailers, named) == [(b"x-open", b"3")]
    assert outbound_trailers(trailers, named) == [(b"x-open", b"3")]


def test_host_and_framing_are_ours_to_set() -> None:
    """The ends frame content themselves, and the route says which host a master sees."""
    head = request("Content-Length: 0", "X-A: 1")
    assert request_fields(head) == b"x-a: 1\r\n"
    assert response_fields(response("Content-Length: 0", "X-A: 1"), route=False) == b"x-a: 1\r\n"
    assert response_fields(response("Transfer-Encoding: chunked"), route=False) == b""


def test_no_trailers_cost_nothing() -> None:
    """The usual case gives back what it got."""
    empty: list[tuple[bytes, bytes]] = []
    assert inbound_trailers(empty, (b"x",)) is empty
    assert outbound_trailers(empty, ()) is empty


@given(names=st.lists(st.from_regex(rb"[a-z0-9_-]{1,80}", fullmatch=True), max_size=50))
def test_fields_pass_or_not_whatever_was_remembered(names: list[bytes]) -> None:
    """The memory of field names is a cache: it changes no answer."""
    head = request()
    head.fields = tuple((name, b"1") for name in names)
    first = request_fields(head)
    assert request_fields(head) == first
    for memo in (fields._inbound, fields._outbound, fields._outbound_route):
        memo.clear()
    assert request_fields(head) == first


def test_memory_of_field_names_is_bounded() -> None:
    """In number, and in what one of them may weigh: names are for strangers to choose."""
    for number in range(3 * fields._MEMO):
        head = RequestHead()
        head.fields = ((b"x-%d" % number, b"1"),)
        request_fields(head)
    head = RequestHead()
    head.fields = ((b"x" * 30_000, b"1"),)
    assert request_fields(head) == b"x" * 30_000 + b": 1\r\n"
    assert len(fields._inbound) <= fields._MEMO
    assert max(map(len, fields._inbound)) < 100


# ---- Forwarded ----


@pytest.mark.parametrize(
    ("source", "proto", "host", "value"),
    [
        ("192.0.2.1", b"https", b"gw.example", b'for=192.0.2.1;proto=https;host="gw.example"'),
        ("192.0.2.1", b"http", None, b"for=192.0.2.1;proto=http"),
        ("2001:db8::1", b"https", b"[::1]:8443", b'for="[2001:db8::1]";proto=https;host="[::1]:8443"'),
        (None, b"http", b"", b"for=unknown;proto=http"),
    ],
)
def test_forwarded_is_written_as_rfc_7239_wants_it(
    source: str | None, proto: bytes, host: bytes | None, value: bytes
) -> None:
    """IPv6 in brackets and quotes; a peer without an address is unknown; no empty host."""
    assert forwarded(source, proto, host) == value


def test_forwarded_host_cannot_add_parameters() -> None:
    """A Host field is quoted text, whatever is in it."""
    value = forwarded("192.0.2.1", b"http", b'x";for="10.0.0.1\\')
    assert value == b'for=192.0.2.1;proto=http;host="x\\";for=\\"10.0.0.1\\\\"'


# ---- Via ----

US = b"rhttp-0123456789abcdef"


@pytest.mark.parametrize(
    ("lines", "joined", "loop"),
    [
        ([], b"", False),
        (["Via: 1.1 other"], b"1.1 other", False),
        (["Via: 1.1 a, 1.0 b", "Via: 2 c"], b"1.1 a, 1.0 b, 2 c", False),
        (["Via: 1.1 rhttp-0123456789abcdef"], b"1.1 rhttp-0123456789abcdef", True),
        (["Via: 1.1 a", "Via: 1.1 b , HTTP/1.1 RHTTP-0123456789ABCDEF (x)"], None, True),
        (["Via: 1.1\trhttp-0123456789abcdef"], None, True),
        (["Via: 1.1 rhttp-0123456789abcdefa"], None, False),
        (["Via: rhttp-0123456789abcdef"], None, False),
        (["Via: 1.1 a (1.1 rhttp-0123456789abcdef)"], None, False),
        (["Via: ,,"], None, False),
    ],
)
def test_via_that_names_us_is_a_loop(lines: list[str], joined: bytes | None, loop: bool) -> None:
    """RFC 9110 section 7.6.3: our pseudonym as received-by of any member on any line."""
    value, is_loop = via_names(request(*lines), US)
    assert is_loop is loop
    if joined is not None:
        assert value == joined


# ---- Max-Forwards ----


@pytest.mark.parametrize(
    ("method", "lines", "hops"),
    [
        ("OPTIONS", ["Max-Forwards: 3"], 3),
        ("OPTIONS", ["Max-Forwards: 0"], 0),
        ("OPTIONS", [], None),
        ("OPTIONS", ["Max-Forwards: x"], None),
        ("OPTIONS", ["Max-Forwards: 1", "Max-Forwards: 2"], None),
        ("GET", ["Max-Forwards: 0"], None),
    ],
)
def test_max_forwards_counts_for_options_only(method: str, lines: list[str], hops: int | None) -> None:
    """Other methods may ignore it; what is no number limits nothing."""
    head = request(*lines)
    head.method = method.encode()
    assert fields.max_forwards(head) == hops


def test_max_forwards_goes_down_and_nothing_else_changes() -> None:
    """A value that looks like the field stays."""
    head = request("X-A: max-forwards: 3", "Max-Forwards: 10", "X-B: 1")
    less = fields.one_hop_less(FieldBlock(tuple(fields.request_fields(head))))
    assert block_text(less) == b"x-a: max-forwards: 3\r\nmax-forwards: 9\r\nx-b: 1\r\n"
