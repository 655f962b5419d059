"""The audit log as data: which fields a line may have, how a line is written, how lines chain.

Trust: untrusted client + untrusted worker (values come from both). Pure: the time is an argument, nothing is opened.

A line is one JSON object in printable ASCII, in this order::

    {"stream":"p0","seq":7,"ts":"2026-01-02T03:04:05.000006Z","event":"request", ...fields... ,"prev":"<64 hex>"}

``seq`` counts from 1 without gaps, ``ts`` never goes backwards within a stream, and ``prev`` is the SHA-256 (lower hex)
of the bytes of the stream's previous line without its newline; the first line of a stream has 64 zeros. The chain goes
on across files. `gateway.audit.chain` checks all that, `gateway.audit.writer` writes it to disk.
"""

from __future__ import annotations

import json
import math
import re
import time
from binascii import hexlify
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal, NewType

import orjson

GENESIS: Final = b"0" * 64
MAX_STRING: Final = 2048  # characters a value; longer ones end in "...[+N]", N the characters left out
MAX_ITEMS: Final = 32  # entries of a list (policy ids)
MAX_BODY: Final = 61440  # bytes; with both caps above a line could still reach 700 KiB, so a second, tight pass follows
MAX_LINE: Final = 65536  # bytes a line; readers refuse longer ones
_TIGHT_STRING: Final = 128
_TIGHT_ITEMS: Final = 8

FIELDS: Final = frozenset(
    {
        "request_id",
        "parent_id",
        "identity",
        "serial",
        "source",
        "listener",
        "outcome",
        "reason",
        "policy",
        "target",
        "worker",
        "pool",
        "status",
        "ms",
        "count",
        "previous",
        "process",
        "detail",
    }
)
"""What a caller may give; stream, seq, ts, event and prev are added here and cannot be given."""
DETAIL_KEYS: Final = frozenset(
    {
        "name",
        "role",
        "pool",
        "serial",
        "expires",
        "formerly",
        "reason",
        "profile",
        "key_type",
        "algorithm",
        "user",
        "users",
        "labels",
        "issuer",
        "ttl",
        "csr",
        "version",
        "connections",
        "processes",
        "file",
        "count",
        "enabled",
        "instance",
        "newer",
        "token",
        "prefix",
        "uses",
    }
)
"""What the small map ``detail`` of pki, user, token, admin and reverse events may hold."""
EVENTS: Final = frozenset(
    {
        "gateway.start",
        "gateway.stop",
        "gateway.reload",
        "tls.refused",
        "auth.refused",
        "policy.denied",
        "request.sent",
        "request",
        "dispatch.sent",
        "dispatch",
        "reverse.opened",
        "reverse.closed",
        "connection.cut",
        "pki.exported",
        "pki.issued",
        "pki.renewed",
        "pki.revoked",
    }
)
_EVENT_FAMILIES: Final = re.compile(r"(?:user|token|admin|pki)\.[a-z][a-z_]{0,31}")
STREAM: Final = re.compile(r"cli|p(?:0|[1-9][0-9]{0,3})")
_STAMP: Final = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
_LINE: Final = re.compile(
    rb'\{"stream":"([a-z0-9]{1,8})","seq":([1-9][0-9]{0,17}),"ts":"(' + _STAMP + rb')","event":"([a-z_.]{1,64})"'
    rb'[ -~]*,"prev":"([0-9a-f]{64})"\}'
)

# One pass over a rendered object: these bytes need no care, and what may be left is its brace and a few brackets (a
# list of policy ids, IPv6 addresses). A question mark may begin a query; a second brace is something nested.
_EASY: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"{[?")
_EASY_LEFT: Final = frozenset(b"{" + b"[" * count for count in range(4))

_THREE: Final = tuple(b"%03d" % number for number in range(1000))

Previous = Literal["clean", "unclean", "none"]
RenderedFields = NewType("RenderedFields", bytes)
"""Fields as the inside of a JSON object, as `render_fields` writes them. Who makes one answers for every byte of it."""
Fields = Mapping[str, object] | RenderedFields
"""What a line is made of."""


class AuditUnavailable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A line could not be written, or the log's end cannot be read: nothing may be called audited now."""


class LogBroken(AuditUnavailable):
    """The log on disk is not the one that was written. Nothing is added to it, so that nothing is passed over."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; run `rhttp-pki audit verify`. When it is lost for good, move the whole audit directory away and"
            " keep it as it is: the next line begins a new log, which says so"
        )


class FieldRefused(ValueError):  # noqa: N818 - see above
    """A field, event or type that the log does not take was given: a bug of the caller, and nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLine:
    """A line's own statements; that they are true is for the chain check to say."""

    stream: str
    seq: int
    stamp_us: int
    event: str
    prev: bytes


def parse_line(line: bytes) -> ParsedLine | None:
    """Read the frame of a line (without newline); None when it is not one. The fields between are not looked at."""
    match = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
    if match is None:
        return None
    stream, seq, stamp, event, prev = match.groups()
    try:
        stamp_us = parse_stamp(stamp)
    except ValueError:
        return None
    return ParsedLine(stream=stream.decode(), seq=int(seq), stamp_us=stamp_us, event=event.decode(), prev=prev)


def parse_stamp(stamp: bytes) -> int:
    """Microseconds since the epoch of an RFC 3339 UTC stamp; raises ValueError."""
    at = datetime.fromisoformat(stamp.decode("ascii"))
    return (
        int((at.replace(microsecond=0) - datetime.fromtimestamp(0, UTC)).total_seconds()) * 1_000_000 + at.microsecond
    )


def format_stamp(now_us: int) -> str:
    """RFC 3339, UTC, microseconds."""
    seconds, micro = divmod(now_us, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micro:06d}Z"


def line_hash(line: bytes) -> bytes:
    """The SHA-256 of a line's bytes without its newline, lower hex: what the next line's ``prev`` says."""
    return hexlify(sha256(line).digest())


def is_event(event: str) -> bool:
    """Whether the log has an event of this name."""
    return event in EVENTS or _EVENT_FAMILIES.fullmatch(event) is not None


def is_plain(rendered: bytes) -> bool:
    """Whether rendered bytes are printable ASCII with nothing nested and no query in them."""
    return b"{" + rendered.translate(None, _EASY) in _EASY_LEFT


def three_digits(number: int) -> bytes:
    """A number below 1,000 with its leading zeros; quicker than to format it."""
    return _THREE[number]


def render_fields(fields: Mapping[str, object]) -> RenderedFields:
    """The fields as the inside of a JSON object, printable ASCII, no line end whatever the values are.

    None values are left out, bytes are read as latin-1, long strings are capped, a query is cut off ``target``.

    Raises:
        FieldRefused: a name outside `FIELDS` or `DETAIL_KEYS`, or a value of a type that the log does not take.
    """
    if not FIELDS.issuperset(fields):
        raise FieldRefused(f"not audit fields: {', '.join(sorted(set(map(str, fields)) - FIELDS))}")
    try:
        body = orjson.dumps(fields)
        if body.find(b":null") >= 0:
            body = orjson.dumps({name: value for name, value in fields.items() if value is not None})
    except TypeError:  # bytes, lone surrogates, integers over 64 bits: the careful way knows them
        return _render_carefully(fields)
    # What orjson wrote stands as it is when nothing in it can need care: no string can be over the cap, nothing is
    # nested or absent, and there is only ASCII that neither ends a line for some reader nor moves a terminal's cursor.
    if (
        len(body) <= MAX_STRING
        and body.translate(None, _EASY) in _EASY_LEFT
        and "detail" not in fields
        and body.find(b":null") < 0
    ):
        return RenderedFields(body[1:-1])
    return _render_carefully(fields)


def _render_carefully(fields: Mapping[str, object]) -> RenderedFields:
    body = _dump(fields, MAX_STRING, MAX_ITEMS)
    if len(body) > MAX_BODY:
        body = _dump(fields, _TIGHT_STRING, _TIGHT_ITEMS)
    return RenderedFields(body[1:-1])


def _dump(fields: Mapping[str, object], cap: int, items: int) -> bytes:
    record: dict[str, object] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name == "detail":
            record[name] = _detail(value, cap, items)
        elif name == "target":
            target = _value(name, value, cap, items)
            record[name] = target.split("?", 1)[0] if isinstance(target, str) else target
        else:
            record[name] = _value(name, value, cap, items)
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f").encode("ascii")


def _detail(value: object, cap: int, items: int) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise FieldRefused(f"detail is a map, not {type(value).__name__}")
    if not DETAIL_KEYS.issuperset(value):
        raise FieldRefused(f"not detail keys: {', '.join(sorted(set(map(str, value)) - DETAIL_KEYS))}")
    return {key: _value(key, entry, cap, items) for key, entry in value.items() if entry is not None}


def _value(name: str, value: object, cap: int, items: int) -> object:
    if not isinstance(value, (list, tuple)):
        return _scalar(name, value, cap)
    kept = [_scalar(name, entry, cap) for entry in value[:items]]
    if len(value) > items:
        kept.append(f"...[+{len(value) - items}]")
    # Only policy ids stay a list, so that the size of a line has a bound that can be counted.
    return kept if name == "policy" else _scalar(name, ",".join(map(str, kept)), cap)


def _scalar(name: str, value: object, cap: int) -> str | int | float | bool:
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("latin-1")
    if isinstance(value, str):
        text = str(value) if len(value) <= cap else f"{value[:cap]}...[+{len(value) - cap}]"
        return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate is not JSON for everyone
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else hex(value)[:cap]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    raise FieldRefused(f"{name} has a value of type {type(value).__name__}")


class LineBuilder:
    """The end of one stream's chain, and the next line for it.

    `build` changes nothing but the cached second, so a line that could not be written is simply built again; `commit`
    moves the chain on. A plain slots class: two calls a request.
    """

    __slots__ = ("_fragments", "_last_us", "_next_us", "_opening", "_second_us", "_stamp", "file", "head")

    def __init__(self, stream: str, *, seq: int = 0, digest: bytes = GENESIS, last_us: int = 0, file: str = "") -> None:
        if STREAM.fullmatch(stream) is None:
            raise ValueError(f"not a stream name: {stream!r}")
        self.file = file
        self.head: tuple[int, bytes, str] = (seq, digest, file)  # one tuple, so that another thread reads it whole
        self._opening = b'{"stream":"%b","seq":' % stream.encode()
        self._fragments: dict[str, bytes] = {}
        self._last_us = self._next_us = last_us
        self._second_us = -1_000_000
        """Where the second begins that `_stamp` tells; none was told yet."""
        self._stamp = b""

    def build(self, event: str, fields: Fields, now_us: int) -> bytes:
        """The whole next line with its newline. A time before the last line's becomes the last line's.

        Raises:
            FieldRefused: see `render_fields`; also for an event that the log does not know.
        """
        if now_us < self._last_us:
            now_us = self._last_us
        self._next_us = now_us
        micro = now_us - self._second_us
        if not 0 <= micro < 1_000_000:
            second = now_us // 1_000_000
            self._stamp = b',"ts":"%b.' % time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._second_us = second * 1_000_000
            micro = now_us - self._second_us
        fragment = self._fragments.get(event) or self._fragment(event)
        body: bytes = fields if isinstance(fields, bytes) else render_fields(fields)
        if len(body) > MAX_BODY:
            raise FieldRefused("rendered fields are too long")
        seq, digest, _ = self.head
        return b'%b%d%b%b%b%b%b%b,"prev":"%b"}\n' % (
            self._opening,
            seq + 1,
            self._stamp,
            three_digits(micro // 1000),
            three_digits(micro % 1000),
            fragment,
            b"," if body else b"",
            body,
            digest,
        )

    def commit(self, line: bytes) -> None:
        """The line that `build` gave is the stream's next one, in `file`."""
        self.head = (self.head[0] + 1, line_hash(line[:-1]), self.file)
        self._last_us = self._next_us

    def go_back(self, head: tuple[int, bytes, str]) -> None:
        """The lines behind ``head`` could not be written: go on from there."""
        self.head = head

    def _fragment(self, event: str) -> bytes:
        if not is_event(event):
            raise FieldRefused(f"not an audit event: {event!r}")
        fragment = b'Z","event":"%b"' % event.encode()
        if len(self._fragments) < 256:
            self._fragments[event] = fragment
        return fragment
