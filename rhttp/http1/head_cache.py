"""Heads that were read before: of most requests only target and ``Authorization`` are new, and most answers repeat.

A head is remembered by its bytes, so a remembered one is what the parser would say again, and it is shared between
peers: nothing of it can be changed but the room for what is derived from it alone. Long heads are not remembered.

A request's target is cut out first: field lines and method are parsed once, the request line anew. What the parser says
of them does not depend on a target that has none but the usual bytes; every other one is parsed in its whole head. What
is left is the request's form. A connection that remembers the form of its last request finds the two again without
looking at the rest (`HeadForm.read`).

What carries a credential is never kept, in whatever spelling: the one ``Authorization`` of the usual form is cut out,
too, and of what is then parsed only that is kept in which the parser found none. Nor is a target.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from rhttp.errors import RemoteProtocolError
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


class HeadForm:
    """What heads that differ in target and value of ``Authorization`` have in common, and what the parser said of it.

    Args:
        before: the bytes up to the target: the method and a space.
        between: those behind the target, up to the credentials; without credentials up to the end.
        behind: those behind the credentials; without credentials none.
    """

    __slots__ = ("_before", "_behind", "_between", "_fields", "_has_credentials", "_line", "head")

    def __init__(self, before: bytes, between: bytes, behind: bytes, head: RequestHead) -> None:
        self._before = before
        self._between = between
        self._behind = behind
        self._has_credentials = behind != b""
        self._line = len(before) + between.find(b"\r\n")
        self._fields = len(head.fields) + self._has_credentials
        self.head = head
        """For no particular target, and without the credentials."""

    def read(self, data: bytes, *, max_fields: int, max_line: int) -> RequestHead | None:
        """The head, if ``data`` is one of this form and nothing else; None: find out by `read_request_head`.

        The parts are compared as bytes, and what stands between them holds no line end and, in the target, no space:
        so these are the first line end and the first empty line of ``data``, as in the head that was parsed.
        """
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        last = data.find(self._between, at)
        if last <= at:
            return None
        start = last + len(self._between)
        end = len(data) - len(self._behind)
        if start > end or self._fields > max_fields or self._line + last - at > max_line:
            return None
        target = data[at:last]
        if target[0] != 0x2F or target.translate(None, _TARGET):
            return None
        if not self._has_credentials:
            return self.head.at(target, None) if start == end else None
        if not data.endswith(self._behind):
            return None
        value = data[start:end]
        return self.head.at(target, (value,)) if _is_usual(value) else None


# A head that breaks a rule is never in them, and limits are looked at again.
_forms: Final[Memo[bytes, HeadForm]] = Memo(_KEPT)
_responses: Final[Memo[bytes, Http1ResponseHead]] = Memo(_KEPT)


def read_request_head(
    block: bytes, last: HeadForm | None = None, *, max_fields: int, max_line: int
) -> tuple[RequestHead, HeadForm | None]:
    """As `rhttp.http1.head.parse_request_head`; also its form, if the next head of its sender may have the same.

    ``last`` is the form of the last one, if there was any.
    """
    if last is not None:
        head = last.read(block, max_fields=max_fields, max_line=max_line)
        if head is not None:
            return head, last
    form = _form(block, max_fields)
    head = None if form is None else form.read(block, max_fields=max_fields, max_line=max_line)
    if head is None:
        return parse_request_head(block, max_fields=max_fields, max_line=max_line), None
    return head, form


def read_response_head(block: bytes, *, max_fields: int) -> Http1ResponseHead:
    """As `rhttp.http1.head.parse_response_head`; its `block` is set when an equal head can be taken for it."""
    if len(block) > _SHORT:
        return parse_response_head(block, max_fields=max_fields)
    head = _responses.get(block)
    if head is None or len(head.fields) > max_fields:
        head = parse_response_head(block, max_fields=max_fields)
        if not _has_credentials(head.fields):
            head.block = block
            _responses.remember(block, head)
    return head


def _is_usual(value: bytes) -> bool:
    """Whether a value of ``Authorization`` is what a parser makes of it, byte for byte, and no line ends in it."""
    return value != b"" and value[0] != 0x20 and value[-1] != 0x20 and not value.translate(None, _PRINTABLE)


def _form(block: bytes, max_fields: int) -> HeadForm | None:
    """The form of a whole head; None: it has none that could be remembered."""
    eol = block.find(b"\r\n")
    first = block.find(b" ") + 1
    last = block.rfind(b" ", 0, eol)
    if eol < 0 or last < first:  # no target; compiled, a slice that ends before it begins is an error
        return None
    at = block.find(b"\r\nAuthorization: ", eol)
    if at < 0:
        at = block.find(b"\r\nauthorization: ", eol)
    start = end = len(block)
    if at >= 0:
        start = at + 17
        end = block.find(b"\r\n", start)
        if end < 0:
            return None
    before, between, behind = block[:first], block[last:start], block[end:]
    key = before + between + behind
    if len(key) > _SHORT:
        return None
    form = _forms.get(key)
    if form is None:
        rest = between if at < 0 else block[last:at] + behind
        try:
            # Its request line is short, whatever the limit is; the target's length is looked at in `HeadForm.read`.
            head = parse_request_head(before + _ANY + rest, max_fields=max_fields, max_line=_SHORT)
        except RemoteProtocolError:
            return None  # what is wrong with the whole head is said of the whole head
        if head.authorization is not None or _has_credentials(head.fields):
            return None  # more than one, or spelled otherwise: refused later on, and shown as they came
        form = _forms.remember(key, HeadForm(before, between, behind, head))
    return form


def _has_credentials(fields: SharedFields) -> bool:
    # Servers behind CGI-like interfaces read `_` and `-` alike.
    return any(name in _CREDENTIALS or name.replace(b"_", b"-") in _CREDENTIALS for name, _ in fields)
