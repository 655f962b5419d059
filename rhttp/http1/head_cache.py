"""Heads that were read before: of most requests only target and ``Authorization`` are new, and most answers repeat.

A head is remembered by its bytes, so a remembered one is what the parser would say again, and it is shared between
peers: nothing of it can be changed but the room for what is derived from it alone. Long heads are not remembered.

A request's target is cut out first: field lines and method are parsed once, the request line anew. What the parser says
of them does not depend on a target that has none but the usual bytes; every other one is parsed in its whole head.

What carries a credential is never kept, in whatever spelling: the one ``Authorization`` of the usual form is cut out,
too, and of what is then parsed only that is kept in which the parser found none. Nor is a target.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from rhttp.http1.head import Http1ResponseHead, parse_request_head, parse_response_head
from rhttp.memo import Memo
from rhttp.message import RequestHead, SharedFields

_KEPT: Final = 1024
"""Heads of each kind; with `_SHORT` at most some 4 MiB a process."""
_SHORT: Final = 1024
"""Bytes of a head that is worth remembering."""
_CREDENTIALS: Final = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"authentication-info",
        b"proxy-authentication-info",
        b"www-authenticate",
        b"proxy-authenticate",
        b"cookie",
        b"cookie2",
        b"set-cookie",
        b"set-cookie2",
    }
)
"""Names of fields whose heads are not remembered: nonces and cookies, which would not come again anyhow."""
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_TARGET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%"
"""What a target in origin-form is made of (RFC 3986 section 3.3): bytes that no parser of heads minds."""
_ANY: Final = b"/"
"""Stands for the target where field lines are parsed."""

# A head that breaks a rule is never in them, and limits are looked at again.
_requests: Final[Memo[bytes, RequestHead]] = Memo(_KEPT)
_responses: Final[Memo[bytes, Http1ResponseHead]] = Memo(_KEPT)


def read_request_head(block: bytes, *, max_fields: int, max_line: int) -> RequestHead:
    """As `rhttp.http1.head.parse_request_head`."""
    eol = block.find(b"\r\n")
    first = block.find(b" ") + 1
    last = block.rfind(b" ", 0, eol)
    if last < first:  # no target; compiled, a slice that ends before it begins is an error
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    target = block[first:last]
    if eol > max_line or not target or target[0] != 0x2F or target.translate(None, _TARGET):
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    at = block.find(b"\r\nAuthorization: ", eol)
    if at < 0:
        at = block.find(b"\r\nauthorization: ", eol)
    if at < 0:
        if len(block) - len(target) > _SHORT:
            return parse_request_head(block, max_fields=max_fields, max_line=max_line)
        head = _request(block[:first], block[last:], max_fields)
        return head.at(target, head.authorization)
    start = at + 17
    end = block.find(b"\r\n", start)
    value = block[start:end]
    if len(block) - len(target) - len(value) > _SHORT or value.translate(None, _PRINTABLE):
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    if not value or value[0] == 0x20 or value[-1] == 0x20:
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    head = _request(block[:first], block[last:at] + block[end:], max_fields - 1)
    if head.authorization is not None:  # more than one: refused later on, and shown as they came
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    return head.at(target, (value,))


def read_response_head(block: bytes, *, max_fields: int) -> Http1ResponseHead:
    """As `rhttp.http1.head.parse_response_head`."""
    if len(block) > _SHORT:
        return parse_response_head(block, max_fields=max_fields)
    return _response(block, max_fields)


def _has_credentials(fields: SharedFields) -> bool:
    # Servers behind CGI-like interfaces read `_` and `-` alike.
    return any(name in _CREDENTIALS or name.replace(b"_", b"-") in _CREDENTIALS for name, _ in fields)


def _request(method: bytes, rest: bytes, max_fields: int) -> RequestHead:
    """The head for any target: ``method`` is what stands before it, ``rest`` what stands behind it."""
    key = method + rest
    head = _requests.get(key)
    if head is None or len(head.fields) > max_fields:
        head = parse_request_head(method + _ANY + rest, max_fields=max_fields, max_line=len(key) + 1)
        if head.authorization is None and not _has_credentials(head.fields):
            _requests.remember(key, head)
    return head


def _response(block: bytes, max_fields: int) -> Http1ResponseHead:
    head = _responses.get(block)
    if head is None or len(head.fields) > max_fields:
        head = parse_response_head(block, max_fields=max_fields)
        if not _has_credentials(head.fields):
            _responses.remember(block, head)
    return head
