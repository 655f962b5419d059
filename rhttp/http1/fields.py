"""Field grammar and the sets of fields that a gateway treats specially (RFC 9110 section 5, RFC 9112 section 5).

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rhttp.errors import RemoteProtocolError
from rhttp.message import Field, FieldBlock, Fields

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9112 section 5: field-line = field-name ":" OWS field-value OWS; no obs-fold, no bare CR.
# Possessive: with backtracking, a line of spaces that ends in a bad byte costs the square of its length.
_FIELD_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r\n")

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Fields that belong to one connection (RFC 9110 section 7.6.1) and are never forwarded."""

FORBIDDEN_IN_TRAILERS: Final = HOP_BY_HOP | frozenset(
    {
        b"content-length",
        b"host",
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"expect",
        b"max-forwards",
        b"cache-control",
        b"www-authenticate",
        b"authentication-info",
        b"set-cookie",
        b"age",
        b"date",
        b"location",
        b"retry-after",
        b"vary",
    }
)
"""Fields that frame, route, authenticate or steer and so are refused in trailers (RFC 9110 section 6.5.1)."""


def tokens(value: bytes) -> tuple[bytes, ...]:
    """The members of a comma-separated list, lower case, without empty members (RFC 9110 section 5.6.1)."""
    return tuple([member for part in value.split(b",") if (member := part.strip(b" \t").lower())])


def parse_field_block(block: bytes, *, maximum: int) -> Fields:
    """Parse complete field lines, each ended by CRLF: the form that trailers have.

    Raises:
        RemoteProtocolError: 400 for a line outside the grammar, 431 for more than ``maximum`` lines.
    """
    fields: Fields = []
    at = 0
    while at < len(block):
        line = _FIELD_LINE.match(block, at)
        if line is None:
            raise RemoteProtocolError(400, "bad-request", "malformed field line")
        if len(fields) >= maximum:
            raise RemoteProtocolError(431, "fields-too-large", "too many field lines")
        fields.append((line[1].lower(), line[2].rstrip(b" \t")))
        at = line.end()
    return fields


def serialize(fields: Iterable[Field]) -> bytes:
    """Field lines as they stand on the wire. The values must come from a parser or be our own: nothing is checked."""
    # By name and value: mypyc writes that out, where for a pair it would call the interpreter's formatting.
    return b"".join([b"%b: %b\r\n" % (name, value) for name, value in fields])


def block_text(block: FieldBlock) -> bytes:
    """The field lines of a block, made once."""
    text = block.text
    if text is None:
        fields = block.fields
        if len(fields) == 1:  # one of each message is
            name, value = fields[0]
            text = b"%b: %b\r\n" % (name, value)
        else:
            text = serialize(fields)
        block.text = text
    return text


def values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Every value of the field ``name`` (lower case), in order."""
    return [value for field, value in fields if field == name]
