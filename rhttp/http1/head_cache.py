"""Heads that were read before: most requests and answers repeat, but for the ``Authorization`` of a request.

A head is remembered by its bytes, so a remembered one is what the parser would say again, and it is shared between
peers: nothing of it can be changed but the room for what is derived from it alone. Long heads are not remembered.

What carries a credential is never kept, in whatever spelling: the one ``Authorization`` of the usual form is cut out
first, and of what is then parsed only that is kept in which the parser found none.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from rhttp.http1.fields import SharedFields
from rhttp.http1.head import RequestHead, ResponseHead, parse_request_head, parse_response_head
from rhttp.memo import Memo

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

# A head that breaks a rule is never in them, and limits are looked at again.
_requests: Final[Memo[bytes, RequestHead]] = Memo(_KEPT)
_responses: Final[Memo[bytes, ResponseHead]] = Memo(_KEPT)


def read_request_head(block: bytes, *, max_fields: int, max_line: int) -> RequestHead:
    """As `rhttp.http1.head.parse_request_head`."""
    at = block.find(b"\r\nAuthorization: ")
    if at < 0:
        at = block.find(b"\r\nauthorization: ")
    if at < 0:
        if len(block) > _SHORT:
            return parse_request_head(block, max_fields=max_fields, max_line=max_line)
        return _request(block, max_fields, max_line)
    start = at + 17
    end = block.find(b"\r\n", start)
    value = block[start:end]
    if len(block) - len(value) > _SHORT or value.translate(None, _PRINTABLE):
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    if not value or value[0] == 0x20 or value[-1] == 0x20:
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    head = _request(block[:at] + block[end:], max_fields - 1, max_line)
    if head.authorization is not None:  # more than one: refused later on, and shown as they came
        return parse_request_head(block, max_fields=max_fields, max_line=max_line)
    return head.authorized(value)


def read_response_head(block: bytes, *, max_fields: int) -> ResponseHead:
    """As `rhttp.http1.head.parse_response_head`."""
    if len(block) > _SHORT:
        return parse_response_head(block, max_fields=max_fields)
    return _response(block, max_fields)


class _Held:
    """The longest request line that the remembered heads were held to; an attribute, since it is a plain number."""

    __slots__ = ("line",)

    def __init__(self) -> None:
        self.line = 0


_held: Final = _Held()


def _has_credentials(fields: SharedFields) -> bool:
    # Servers behind CGI-like interfaces read `_` and `-` alike.
    return any(name in _CREDENTIALS or name.replace(b"_", b"-") in _CREDENTIALS for name, _ in fields)


def _request(block: bytes, max_fields: int, max_line: int) -> RequestHead:
    if max_line != _held.line:
        _requests.clear()
        _held.line = max_line
    head = _requests.get(block)
    if head is None or len(head.fields) > max_fields:
        head = parse_request_head(block, max_fields=max_fields, max_line=max_line)
        if head.authorization is None and not _has_credentials(head.fields):
            _requests.remember(block, head)
    return head


def _response(block: bytes, max_fields: int) -> ResponseHead:
    head = _responses.get(block)
    if head is None or len(head.fields) > max_fields:
        head = parse_response_head(block, max_fields=max_fields)
        if not _has_credentials(head.fields):
            _responses.remember(block, head)
    return head
