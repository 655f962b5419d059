"""OCSP on the wire (RFC 6960 §4): a request from bytes, and the parts of a response to bytes.

`cryptography` takes and makes messages about one certificate only. This is a reader of strict DER: definite and minimal
lengths, nothing behind the end of anything, and no field that is not known. What it cannot read has one answer,
`malformedRequest`.

Trust: pure; meets bytes of strangers, at most `MAX_REQUEST` of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

__all__ = ["MAX_REQUEST", "MAX_REQUESTS", "CertId", "OcspRequest", "ResponseStatus", "parse_request"]

MAX_REQUEST: Final = 4096
"""Bytes of a request; one about a single certificate has about 120."""
MAX_REQUESTS: Final = 16
"""Certificates that one request may ask about."""
_NONCE_MOST: Final = 128  # RFC 9654 §2.1
_SERIAL_MOST: Final = 21  # 20 octets (RFC 5280 §4.1.2.2), and one for a sign that others wrote

SEQUENCE: Final = 0x30
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
ENUMERATED: Final = 0x0A
BOOLEAN: Final = 0x01
GENERALIZED_TIME: Final = 0x18
_NULL: Final = b"\x05\x00"
_OID_BASIC: Final = bytes.fromhex("06092b0601050507300101")  # id-pkix-ocsp-basic
_OID_NONCE: Final = bytes.fromhex("06092b0601050507300102")  # id-pkix-ocsp-nonce


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (§4.2.1), without those that we never say."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CertId:
    """Whom a request asks about. `der` is what it wrote, and what the response repeats."""

    der: bytes
    algorithm: bytes
    """The hash's OID, in DER."""
    name_hash: bytes
    key_hash: bytes
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspRequest:
    """What is asked. Who asks, and a signature, are not looked at: everybody gets the same answer."""

    certs: tuple[CertId, ...]
    nonce: bytes | None = None
    """The value of the nonce extension, as the response repeats it."""


def parse_request(data: bytes) -> OcspRequest | None:
    """The request in these bytes, or None: they are none."""
    try:
        return _request(data)
    except ValueError:
        return None


class _Reader:
    """One element after the other, out of a piece of DER."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def next(self, tag: int) -> _Element:
        """The next element, which must have this tag."""
        if self._at + 2 > self._end or self._data[self._at] != tag:
            raise ValueError("another element")
        first, content = self._data[self._at + 1], self._at + 2
        length = first
        if first & 0x80:
            octets = first & 0x7F
            length = int.from_bytes(self._data[content : content + octets])
            if not 1 <= octets <= 2 or length < (0x80 if octets == 1 else 0x100):
                raise ValueError("a length that is not minimal, or too long")
            content += octets
        if content + length > self._end:
            raise ValueError("truncated")
        element = _Element(self._data, self._at, content, content + length)
        self._at = content + length
        return element

    def maybe(self, tag: int) -> _Element | None:
        """The next element if it has this tag."""
        return self.next(tag) if self._at < self._end and self._data[self._at] == tag else None

    @property
    def is_over(self) -> bool:
        return self._at == self._end

    def close(self) -> None:
        """Nothing may follow."""
        if not self.is_over:
            raise ValueError("more than there should be")


class _Element:
    __slots__ = ("_data", "content_at", "end", "start")

    def __init__(self, data: bytes, start: int, content_at: int, end: int) -> None:
        self._data, self.start, self.content_at, self.end = data, start, content_at, end

    @property
    def der(self) -> bytes:
        return self._data[self.start : self.end]

    @property
    def content(self) -> bytes:
        return self._data[self.content_at : self.end]

    def inside(self) -> _Reader:
        return _Reader(self._data, self.content_at, self.end)

    def only(self, tag: int) -> _Element:
        """The one element in it."""
        inside = self.inside()
        found = inside.next(tag)
        inside.close()
        return found


def _request(data: bytes) -> OcspRequest:
    if len(data) > MAX_REQUEST:
        raise ValueError("too long")
    whole = _Reader(data)
    outer = whole.next(SEQUENCE).inside()
    whole.close()
    tbs = outer.next(SEQUENCE).inside()
    outer.maybe(0xA0)  # optionalSignature
    outer.close()
    version = tbs.maybe(0xA0)
    if version is not None:  # DER leaves out the default, and there is no other version
        raise ValueError("version")
    tbs.maybe(0xA1)  # requestorName
    asked = tbs.next(SEQUENCE).inside()
    extensions = tbs.maybe(0xA2)
    tbs.close()
    certs: list[CertId] = []
    while not asked.is_over:
        if len(certs) == MAX_REQUESTS:
            raise ValueError("too many")
        one = asked.next(SEQUENCE).inside()
        certs.append(_cert_id(one.next(SEQUENCE)))
        for oid, _value in _extensions(one.maybe(0xA0)):
            if oid == _OID_NONCE:
                raise ValueError("a nonce in the wrong place")
        one.close()
    if not certs:
        raise ValueError("none")
    nonces = [value for oid, value in _extensions(extensions) if oid == _OID_NONCE]
    if len(nonces) > 1 or any(not 1 <= len(_octets(nonce)) <= _NONCE_MOST for nonce in nonces):
        raise ValueError("nonce")
    return OcspRequest(certs=tuple(certs), nonce=nonces[0] if nonces else None)


def _cert_id(element: _Element) -> CertId:
    inside = element.inside()
    algorithm = inside.next(SEQUENCE).inside()
    oid = algorithm.next(OID)
    if (null := algorithm.maybe(0x05)) is not None and null.der != _NULL:
        raise ValueError("parameters")
    algorithm.close()
    name_hash, key_hash = inside.next(OCTET_STRING), inside.next(OCTET_STRING)
    serial = inside.next(INTEGER).content
    inside.close()
    if not 1 <= len(serial) <= _SERIAL_MOST or (len(serial) > 1 and serial[0] in (0, 0xFF) and _is_padded(serial)):
        raise ValueError("serial number")
    return CertId(
        der=element.der,
        algorithm=oid.der,
        name_hash=name_hash.content,
        key_hash=key_hash.content,
        serial=int.from_bytes(serial, signed=True),
    )


def _is_padded(integer: bytes) -> bool:
    """Whether an INTEGER of several octets has a first one that says nothing (X.690 §8.3.2)."""
    return (integer[0] == 0) == (integer[1] < 0x80)


def _extensions(holder: _Element | None) -> Iterator[tuple[bytes, bytes]]:
    """OID and value of each; ValueError for one that is critical and not known, or there twice."""
    if holder is None:
        return
    inside = holder.only(SEQUENCE).inside()
    seen: set[bytes] = set()
    while not inside.is_over:
        one = inside.next(SEQUENCE).inside()
        oid, critical, value = one.next(OID).der, one.maybe(BOOLEAN), one.next(OCTET_STRING).content
        one.close()
        if critical is not None and critical.content != b"\xff":  # DER leaves out FALSE
            raise ValueError("critical")
        if oid in seen or (critical is not None and oid != _OID_NONCE):
            raise ValueError("an extension")
        seen.add(oid)
        yield oid, value
    if not seen:
        raise ValueError("no extension")


def _octets(value: bytes) -> bytes:
    """The content of a value that is one OCTET STRING."""
    reader = _Reader(value)
    found = reader.next(OCTET_STRING)
    reader.close()
    return found.content


# -- writing -----------------------------------------------------------------------------------------------------------


def element(tag: int, *parts: bytes) -> bytes:
    """An element of these parts."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content


def generalized_time(at: datetime) -> bytes:
    """An aware time, to the second (RFC 5280 §4.1.2.5.2)."""
    return element(GENERALIZED_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def single_response(cert: CertId, status: bytes, this_update: datetime, next_update: datetime) -> bytes:
    """What is said about one certificate."""
    times = generalized_time(this_update), element(0xA0, generalized_time(next_update))
    return element(SEQUENCE, cert.der, status, *times)


GOOD: Final = b"\x80\x00"
"""CertStatus: not revoked."""


def revoked(at: datetime, reason: int | None) -> bytes:
    """CertStatus: revoked then, for this reason (CRLReason's number)."""
    why = () if reason is None else (element(0xA0, element(ENUMERATED, bytes((reason,)))),)
    return element(0xA1, generalized_time(at), *why)


def response_data(key_hash: bytes, produced_at: datetime, responses: Sequence[bytes], nonce: bytes | None) -> bytes:
    """ResponseData: what is signed. The responder is named by the SHA-1 of its key (byKey)."""
    parts = [element(0xA2, element(OCTET_STRING, key_hash)), generalized_time(produced_at)]
    parts.append(element(SEQUENCE, *responses))
    if nonce is not None:
        parts.append(element(0xA1, element(SEQUENCE, element(SEQUENCE, _OID_NONCE, element(OCTET_STRING, nonce)))))
    return element(SEQUENCE, *parts)


def successful(data: bytes, algorithm: bytes, signature: bytes, certificate: bytes) -> bytes:
    """An OCSPResponse with its BasicOCSPResponse; `certificate` is the signer's."""
    basic = element(
        SEQUENCE,
        data,
        algorithm,
        element(BIT_STRING, b"\x00", signature),
        element(0xA0, element(SEQUENCE, certificate)),
    )
    held = element(SEQUENCE, _OID_BASIC, element(OCTET_STRING, basic))
    return element(SEQUENCE, element(ENUMERATED, b"\x00"), element(0xA0, held))


def unsuccessful(status: ResponseStatus) -> bytes:
    """An OCSPResponse that says nothing but why there is no answer; it is not signed."""
    return element(SEQUENCE, element(ENUMERATED, bytes((status,))))
