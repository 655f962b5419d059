"""ASGI 3 messages: the scope made of a request head, and an application's answer checked and made into field lines.

Trust: pure. The head is the gateway's; what an application sends is checked, so that it cannot split an answer.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

from rhttp.http1.fields import FORBIDDEN_IN_TRAILERS, TOKEN
from rhttp.memo import Memo
from rhttp.message import OPEN, Field, Fields, Length, RequestHead, SharedFields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application, as Starlette, FastAPI, Django and Quart make them."""

VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}
TRAILERS: Final = "http.response.trailers"

_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PLAIN, _LENGTH, _CONNECTION, _DROPPED, _DATE = range(5)
_KINDS: Final = {
    b"content-length": _LENGTH,
    b"connection": _CONNECTION,
    b"transfer-encoding": _DROPPED,
    b"keep-alive": _DROPPED,
    b"proxy-connection": _DROPPED,
    b"upgrade": _DROPPED,
    b"date": _DATE,
}
_MEMO: Final = 1024
"""Field names remembered; applications use a few dozen."""


class _Names(Memo[bytes, tuple[bytes, int]]):
    """Field names as applications spell them: lower case and kind, checked once."""

    def __missing__(self, name: bytes) -> tuple[bytes, int]:
        if not isinstance(name, bytes) or TOKEN.fullmatch(name) is None:
            raise ValueError("a field name is not a token, as bytes")
        lower = name.lower()
        return self.remember(name, (lower, _KINDS.get(lower, _PLAIN)))


_names: Final = _Names(_MEMO)


def build_scope(head: RequestHead, state: dict[str, Any] | None) -> Scope:
    """The ``http`` scope of a request. ``client`` and ``server`` are None: the gateway says who asks, in ``Forwarded``
    and ``Rhttp-Identity``.

    Raises:
        ValueError: the target is no path, or not ASCII.
    """
    target = head.target
    if target[:1] != b"/":
        if target == b"*":
            pass
        else:
            _, mark, rest = target.partition(b"://")
            if not mark:
                raise ValueError("neither a path nor an absolute target")
            target = b"/" + rest.partition(b"/")[2]
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    scope: Scope = {
        "type": "http",
        "asgi": VERSIONS,
        "http_version": head.version,
        "method": head.method.decode("ascii"),
        "scheme": "https",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(head.all_fields),  # middleware adds to the list
        "client": None,
        "server": None,
        "extensions": {TRAILERS: {}},
    }
    if state is not None:
        scope["state"] = state.copy()
    return scope


def build_fields(headers: Iterable[Iterable[bytes]], date: Field) -> tuple[SharedFields, Length, bool]:
    """The answer's fields without framing, its length as announced, and whether it is the connection's last.

    ``date`` is put in when the application gives no ``Date`` (RFC 9110 section 6.6.1). Fields that
    belong to a connection are dropped: they are ours.

    Raises:
        ValueError: a name or value that cannot stand in a field line.
    """
    fields: Fields = []
    length: Length = OPEN
    close = False
    for name, value in headers:
        lower, kind = _names[name]
        if _VALUE.fullmatch(value) is None:
            raise ValueError("a field value has a control character")
        if kind == _PLAIN:
            fields.append((lower, value))
        elif kind == _LENGTH:
            if not value.isdigit() or len(value) > 18 or length is not OPEN:
                raise ValueError("Content-Length is no number, or given twice")
            length = int(value)
        elif kind == _CONNECTION:
            close = close or b"close" in value.lower()
        elif kind == _DATE:
            date = (lower, value)
    fields.append(date)
    return tuple(fields), length, close


def build_trailers(headers: Iterable[Iterable[bytes]]) -> Fields:
    """The trailer fields of an answer.

    Raises:
        ValueError: a field that cannot stand there.
    """
    trailers: Fields = []
    for name, value in headers:
        lower, _ = _names[name]
        if _VALUE.fullmatch(value) is None or lower in FORBIDDEN_IN_TRAILERS:
            raise ValueError("a field that may not stand in trailers")
        trailers.append((lower, value))
    return trailers
