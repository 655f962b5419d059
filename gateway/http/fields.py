"""Fields across the gateway: what is stripped, what is set, in both directions (RFC 9110 section 7.6, RFC 7239).

Strip first, then set: whoever is behind us may believe what it finds in ``Forwarded``, ``Client-Cert`` and ``Rhttp-*``.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rhttp.http1.fields import HOP_BY_HOP
from rhttp.memo import Memo
from rhttp.message import Field, FieldBlock, Fields, RequestHead, ResponseHead, SharedFields

_INBOUND_NAMES: Final = HOP_BY_HOP | frozenset(
    {b"authorization", b"forwarded", b"x-real-ip", b"host", b"content-length", b"expect", b"via"}
)
_INBOUND_PREFIXES: Final = (b"x-forwarded-", b"client-cert", b"proxy-", b"rhttp-")
_OUTBOUND_NAMES: Final = HOP_BY_HOP | frozenset({b"content-length", b"alt-svc"})
_OUTBOUND_PREFIXES: Final = (b"rhttp-", b"proxy-")
_ROUTE_NAMES: Final = frozenset({b"www-authenticate", b"authentication-info"})
_MEMO: Final = 4096
"""Field names remembered; real traffic uses a few dozen."""
_MEMO_NAME: Final = 64
"""Bytes of a name that is remembered: strangers choose them, and ours to strip are all shorter."""


class _Memo(Memo[bytes, bool]):
    """Whether a field name passes, remembered for the names that come again and again."""

    def __init__(self, names: frozenset[bytes], prefixes: tuple[bytes, ...]) -> None:
        super().__init__(_MEMO)
        self._names = names
        self._prefixes = prefixes

    def __missing__(self, name: bytes) -> bool:
        # Servers behind CGI-like interfaces read `_` and `-` alike, so an alias is the same field to us.
        plain = name.replace(b"_", b"-")
        passes = plain not in self._names and not plain.startswith(self._prefixes)
        if len(name) <= _MEMO_NAME:
            self.remember(name, passes)
        return passes


_inbound: Final = _Memo(_INBOUND_NAMES, _INBOUND_PREFIXES)
_outbound: Final = _Memo(_OUTBOUND_NAMES, _OUTBOUND_PREFIXES)
_outbound_route: Final = _Memo(_OUTBOUND_NAMES | _ROUTE_NAMES, _OUTBOUND_PREFIXES)
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})


def _named(connection: Iterable[bytes]) -> frozenset[bytes]:
    """Fields that ``Connection`` names and that are therefore for us only, each in its spelling with dashes."""
    return frozenset([name.replace(b"_", b"-") for name in connection]) - _CONNECTION_OPTIONS


def _pass(fields: Iterable[Field], passes: _Memo, connection: tuple[bytes, ...]) -> Fields:
    """The fields that go on."""
    if connection and (named := _named(connection)):
        return [f for f in fields if passes[f[0]] and f[0].replace(b"_", b"-") not in named]
    return [f for f in fields if passes[f[0]]]


class AnswerFields(FieldBlock):
    """The fields of an answer that go back."""

    __slots__ = ("has_date",)

    def __init__(self, fields: SharedFields) -> None:
        super().__init__(fields)
        self.has_date = any(field[0] == b"date" for field in fields)
        """Whoever answered said when (RFC 9110 section 6.6.1)."""


def request_fields(head: RequestHead) -> Fields:
    """The fields of a request that go on to a master or worker."""
    return _pass(head.fields, _inbound, head.connection)


def max_forwards(head: RequestHead) -> int | None:
    """How often an OPTIONS request may still be forwarded (RFC 9110 section 7.6.2); None: nothing limits it."""
    if head.method != b"OPTIONS":
        return None
    given = [value for name, value in head.fields if name == b"max-forwards"]
    return int(given[0]) if len(given) == 1 and given[0].isdigit() and len(given[0]) < 10 else None


def one_hop_less(block: FieldBlock) -> FieldBlock:
    """The fields with ``Max-Forwards`` one lower. It must be there once and above 0."""
    return FieldBlock(tuple([(n, b"%d" % (int(v) - 1)) if n == b"max-forwards" else (n, v) for n, v in block.fields]))


def response_fields(head: ResponseHead, *, route: bool) -> AnswerFields:
    """The fields of an answer that go back; on routes a master's own challenges do not."""
    kind = "route" if route else "dispatch"
    block = head.forwarded.get(kind)
    if block is None:
        passes = _outbound_route if route else _outbound
        block = head.forwarded[kind] = AnswerFields(tuple(_pass(head.fields, passes, head.connection)))
    assert isinstance(block, AnswerFields)
    return block


def inbound_trailers(trailers: Fields, connection: tuple[bytes, ...]) -> Fields:
    """The trailer fields of a request that go on; ``connection`` is what its head's ``Connection`` names."""
    return _pass(trailers, _inbound, connection) if trailers else trailers


def outbound_trailers(trailers: Fields, connection: tuple[bytes, ...]) -> Fields:
    """The trailer fields of an answer that go back; ``connection`` is what its head's ``Connection`` names."""
    return _pass(trailers, _outbound_route, connection) if trailers else trailers


def forwarded(source: str | None, proto: bytes, host: bytes | None) -> bytes:
    """The value of ``Forwarded`` (RFC 7239) for one request; a peer without an address is ``unknown``."""
    if source is None:
        node = b"unknown"
    else:
        node = b'"[%b]"' % source.encode("ascii") if ":" in source else source.encode("ascii")
    value = b"for=%b;proto=%b" % (node, proto)
    if not host:
        return value
    if b'"' in host or b"\\" in host:  # where no authority is asked for, Host may be anything
        host = host.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return value + b';host="%b"' % host


def via_names(head: RequestHead, pseudonym: bytes) -> tuple[bytes, bool]:
    """The ``Via`` value that came (empty: none), and whether it names this gateway already (RFC 9110 section 7.6.3)."""
    joined = b", ".join([value for name, value in head.fields if name == b"via"])
    if not joined:
        return b"", False
    loop = False
    for member in joined.split(b","):
        words = member.split()
        if len(words) > 1 and words[1].lower() == pseudonym:
            loop = True
    return joined, loop
