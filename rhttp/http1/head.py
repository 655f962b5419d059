"""Message heads of HTTP/1.x: parsed by httptools, then held to the rules that it leaves open (RFC 9112).

httptools (llhttp) is given exactly one head, never content, so that it cannot disagree with us about where a message
ends; framing is decided here, from the field lines, by RFC 9112 section 6.3.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

import httptools

from rhttp.errors import RemoteProtocolError
from rhttp.http1.fields import TOKEN, tokens
from rhttp.message import METHODS, NOTHING, OPEN, Fields, Length, RequestHead, ResponseHead

_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
# Content-Length: 18 digits stay far below 2**63, so no parser behind us can wrap.
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

_SPECIAL: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"authorization"}
)


class Http1ResponseHead(ResponseHead):
    """One response head, with what only the client end of HTTP/1.1 asks for."""

    __slots__ = ("block", "chunked", "close", "upgrade")

    def __init__(self) -> None:
        super().__init__()
        self.block = b""
        """The bytes that it was parsed from, when equal ones may be taken for it."""
        self.chunked = False
        self.close = False
        """The connection ends after this answer."""
        self.upgrade: tuple[bytes, ...] | None = None


class _Collector:
    """Takes httptools' callbacks; those that it looks for and we do not want are there as None, which is quicker."""

    __slots__ = ("fields", "special")

    on_message_begin: ClassVar[None] = None
    on_url: ClassVar[None] = None
    on_status: ClassVar[None] = None
    on_body: ClassVar[None] = None
    on_headers_complete: ClassVar[None] = None
    on_message_complete: ClassVar[None] = None
    on_chunk_header: ClassVar[None] = None
    on_chunk_complete: ClassVar[None] = None

    def __init__(self) -> None:
        self.fields: Fields = []
        self.special: Fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        field = (name, value.strip(b" \t"))
        self.fields.append(field)
        if name in _SPECIAL:
            self.special.append(field)


def _fault(detail: str, status: int = 400, code: str = "bad-request") -> RemoteProtocolError:
    return RemoteProtocolError(status, code, detail)


def bad_answer(detail: str) -> RemoteProtocolError:
    """What is raised about an answer."""
    return _fault(detail, 502)


_KNOWN: Final = METHODS | {b"CONNECT", b"TRACE", b"PRI"}


def begins_request(data: bytes) -> bool:
    """Whether the first bytes of a connection are a request in the clear: a method, or the beginning of one.

    No TLS record begins so: its first byte is no letter.
    """
    word, space, _ = data.partition(b" ")
    if space:
        return word in _KNOWN
    return bool(word) and any(method.startswith(word) for method in _KNOWN)


def section_end(data: bytes, at: int = 0) -> int:
    """Where a head, or a trailer section that has fields, ends: behind its empty line; -1 when more bytes are needed.

    Args:
        data: what has come so far.
        at: where the section begins.

    Raises:
        RemoteProtocolError: 400 as soon as a line ends in LF alone. RFC 9112 section 2.2 lets a recipient take that
            for a line end, so two parsers could disagree, and whoever waits for CRLF would wait for ever.

    Behind an end that was found nothing is looked at, and what stands before it is for the parser to refuse.
    """
    end = data.find(b"\r\n\r\n", at)
    if end >= 0:
        return end + 4
    if _BARE_LF.search(data, at) is not None:
        raise _fault("a line ends in LF alone")
    return -1


def skip_empty_lines(data: bytes, most: int) -> int:
    """Where a request line begins, behind at most so many empty lines (RFC 9112 section 2.2).

    It may still be to come: nothing, or a CR, is then behind.

    Raises:
        RemoteProtocolError: 400, more of them, or white space or a control byte in its place.
    """
    at = 0
    while data.startswith(b"\r\n", at):
        at += 2
        if at > 2 * most:
            raise _fault("empty lines in place of a request")
    if len(data) > at and data[at] < 0x21 and (data[at] != 0x0D or len(data) > at + 1):
        raise _fault("white space or a control byte before the request")
    return at


def parse_request_head(block: bytes, *, max_fields: int = 100, max_line: int = 8192) -> RequestHead:
    """Parse one whole request head, from the method to the empty line.

    Args:
        block: the bytes up to and with the CRLF CRLF that ends the head.
        max_fields: field lines allowed.
        max_line: bytes allowed in the request line.

    Raises:
        RemoteProtocolError: 400, 414, 431, 501 or 505, for the first rule of RFC 9112 that the head breaks.

    The target is not parsed: see `rhttp.http1.target`.
    """
    eol = block.find(b"\r\n")
    if eol > max_line:
        raise _fault("request line too long", 414, "uri-too-long")
    parts = block[:eol].split(b" ")
    if len(parts) != 3:
        raise _fault("request line is not three words one space apart")
    head = RequestHead()
    head.method, head.target, version = parts
    if version == b"HTTP/1.1":
        pass
    elif version == b"HTTP/1.0":
        head.version = "1.0"
        head.is_last = True
    elif _VERSION.fullmatch(version):
        raise _fault("only HTTP/1.1 and HTTP/1.0 are spoken here", 505, "version-not-supported")
    else:
        raise _fault("malformed HTTP version")
    if head.method not in METHODS:
        if TOKEN.fullmatch(head.method) is None:
            raise _fault("malformed method")
        raise _fault("method is not implemented", 501, "method-not-implemented")
    if not head.target:
        raise _fault("empty target")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops at the head's end there, which is all that it was given
    except httptools.HttpParserError as error:
        raise _fault(f"llhttp: {error}") from None
    fields = collector.fields
    if len(fields) > max_fields:
        raise _fault("too many field lines", 431, "fields-too-large")
    for name, value in collector.special:
        _note_request_field(head, name, value)
    head.fields = tuple(fields if head.authorization is None else [f for f in fields if f[0] != b"authorization"])
    is_old = head.version == "1.0"
    if head.authority is None and not is_old:
        raise _fault("no Host field")
    if head.length is OPEN and is_old:
        raise _fault("Transfer-Encoding in HTTP/1.0")
    if head.upgrade is not None and (is_old or b"upgrade" not in head.connection):
        head.upgrade = None
    return head


def _note_request_field(head: RequestHead, name: bytes, value: bytes) -> None:
    if name == b"host":
        if head.authority is not None:
            raise _fault("more than one Host field")
        head.authority = value
    elif name == b"authorization":
        head.authorization = (*(head.authorization or ()), value)
    elif name == b"content-length":
        head.length = _length(head.length, value)
    elif name == b"transfer-encoding":
        head.length = _chunked(head.length, value)
    elif name == b"connection":
        head.connection += tokens(value)
        if b"close" in head.connection:
            head.is_last = True
    elif name == b"expect":
        head.expect = (head.expect or ()) + tokens(value)
    else:
        head.upgrade = (head.upgrade or ()) + _protocols(value)


def _protocols(value: bytes) -> tuple[bytes, ...]:
    """The members of ``Upgrade``, whose names have a case."""
    return tuple([part for item in value.split(b",") if (part := item.strip(b" \t"))])


def _length(seen: Length, value: bytes) -> int:
    if seen is OPEN:
        raise _fault("Content-Length beside Transfer-Encoding")
    if seen is not NOTHING:
        raise _fault("more than one Content-Length field")
    if _LENGTH.fullmatch(value) is None:
        raise _fault("malformed Content-Length")
    return int(value)


def _chunked(seen: Length, value: bytes) -> Length:
    if seen is OPEN:
        raise _fault("more than one Transfer-Encoding field")
    if value.lower() != b"chunked":
        codings = tokens(value)
        if not codings or codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            raise _fault("the last transfer coding is not chunked")
        raise _fault("only the transfer coding chunked is implemented", 501, "coding-not-implemented")
    if seen is not NOTHING:
        raise _fault("Content-Length beside Transfer-Encoding")
    return OPEN


def parse_response_head(block: bytes, *, max_fields: int = 100) -> Http1ResponseHead:
    """Parse one whole response head, from the version to the empty line.

    Raises:
        RemoteProtocolError: with status 502, for the first rule of RFC 9112 that the head breaks.

    Whether content follows depends on the request too: see `rhttp.message.response_has_content`.
    """
    eol = block.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(block, 0, eol)
    if line is None:
        raise bad_answer("malformed status line")
    head = Http1ResponseHead()
    is_old = line[1] == b"0"
    head.status = int(line[2])
    head.reason = line[3] or b""
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise bad_answer(f"llhttp: {error}") from None
    if len(collector.fields) > max_fields:
        raise bad_answer("too many field lines")
    head.fields = tuple(collector.fields)
    length: Length = NOTHING
    try:
        for name, value in collector.special:
            if name == b"content-length":
                length = _length(length, value)
            elif name == b"transfer-encoding":
                length = _chunked(length, value)
            elif name == b"connection":
                head.connection += tokens(value)
            elif name == b"upgrade":
                head.upgrade = (head.upgrade or ()) + _protocols(value)
    except RemoteProtocolError as broken:
        raise bad_answer(broken.detail) from None
    head.close = b"close" in head.connection or (is_old and b"keep-alive" not in head.connection)
    head.chunked = length is OPEN
    if head.chunked and is_old:
        raise bad_answer("conflicting message lengths")
    if length is NOTHING:
        head.length = OPEN  # announced by the connection's end
    else:
        head.length = length
        if head.status < 200 and length != 0:
            raise bad_answer("content announced in an interim answer")
    return head
