"""Heads of any bytes: refused, or of one meaning that survives being written again."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from support.slots import attributes

from rhttp.errors import RemoteProtocolError
from rhttp.http1.fields import TOKEN, serialize
from rhttp.http1.head import Http1ResponseHead, parse_request_head, parse_response_head
from rhttp.message import RequestHead, ResponseHead

SAMPLES = [
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: b\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"POST /r HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: PTTH/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.0 404 \r\nTransfer-Encoding: chunked\r\n\r\n",
]
BITS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b"\x00",
    b"\x7f",
    b"\xff",
    b"0",
    b"chunked",
    b"Content-Length: 3\r\n",
]
BITS += [b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"HTTP/1.1", b"X", b"\r\n\r\n", b"_", b"#", b"GET"]


@st.composite
def mutations(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A valid head with a few bytes cut out, put in or exchanged; it still ends as a head does."""
    data = draw(st.sampled_from(samples))[:-4]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 3))
        data = data[:at] + draw(st.sampled_from(BITS) | st.binary(max_size=2)) + data[at + gone :]
    return (data + b"\r\n\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"  # as the scanner hands it over


@given(block=mutations(SAMPLES))
@example(block=b"\r\n\r\n")
def test_request_head_parses_or_blames_the_peer(block: bytes) -> None:
    """Any mutation is a head of one meaning, which it keeps when written again, or `RemoteProtocolError`."""
    try:
        head = parse_request_head(block)
    except RemoteProtocolError as error:
        fault = error.status
    else:
        fault = None
    if fault is not None:
        assert fault in (400, 414, 431, 501, 505)
        return
    check_fields(head)
    line = b"%b %b HTTP/%b\r\n" % (head.method, head.target, head.version.encode())
    again = parse_request_head(line + serialize(head.fields) + b"\r\n")
    for name in attributes(RequestHead):
        assert getattr(again, name) == getattr(head, name)


@given(block=mutations(ANSWERS))
@example(block=b"\r\n\r\n")
def test_response_head_parses_or_blames_the_peer(block: bytes) -> None:
    """The same for answers."""
    try:
        head = parse_response_head(block)
    except RemoteProtocolError as error:
        fault = error.status
    else:
        fault = None
    if fault is not None:
        assert fault == 502
        return
    check_fields(head)
    line = b"%b %d %b\r\n" % (block[:8], head.status, head.reason)
    again = parse_response_head(line + serialize(head.fields) + b"\r\n")
    for name in attributes(Http1ResponseHead):
        assert getattr(again, name) == getattr(head, name)


def check_fields(head: RequestHead | ResponseHead) -> None:
    """Nothing in a field can become a line of its own, and no field line was lost, joined or split."""
    for name, value in head.fields:
        assert TOKEN.fullmatch(name)
        assert name == name.lower()
        assert not set(value) & {*range(9), *range(10, 32), 127}
        assert value == value.strip(b" \t")


LINES = st.lists(
    st.tuples(
        st.from_regex(rb"[A-Za-z_-]{1,10}", fullmatch=True).filter(lambda name: not name.lower().startswith(b"c")),
        st.from_regex(rb"[\t -~\x80-\xff]{0,12}", fullmatch=True),
    ),
    max_size=8,
)


@given(lines=LINES)
def test_request_fields_are_the_lines_that_came(lines: list[tuple[bytes, bytes]]) -> None:
    """One field for each line, judged against plain splitting: nothing merges, whatever is empty."""
    special = {b"host", b"expect", b"upgrade", b"te"}
    lines = [(name, value) for name, value in lines if name.lower() not in special]
    block = b"GET /a HTTP/1.1\r\nHost: x\r\n" + b"".join(b"%b:%b\r\n" % line for line in lines) + b"\r\n"
    fields = tuple((name.lower(), value.strip(b" \t")) for name, value in lines)
    assert parse_request_head(block).fields[1:] == fields
