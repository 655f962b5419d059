"""Content framing of HTTP/1.1: chunks in and out, lengths, and the end of the connection (RFC 9112 sections 6 and 7).

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from typing import Final

from rhttp.errors import RemoteProtocolError
from rhttp.http1.fields import FORBIDDEN_IN_TRAILERS, parse_field_block
from rhttp.http1.head import section_end
from rhttp.message import Fields

# RFC 9112 section 7.1: chunk-size is 1*HEXDIG, and 15 digits stay below 2**63; chunk-ext is names with or without
# values, tokens or quoted strings. Nobody uses them, and what is outside of the grammar is a chunk that somebody else
# may read otherwise. Possessive: no line is tried twice.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + _TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})((?:" + _EXTENSION + rb")*+)")
MAX_CHUNK_LINE: Final = 256
"""Bytes of one chunk-size line with its extensions; a longer one is an attack (megabyte extensions), not a client."""
MAX_EXTENSIONS: Final = 4096
"""Bytes of chunk extensions in one message."""
LAST_CHUNK: Final = b"0\r\n\r\n"


class LengthReader:
    """Content of a known length."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """Take bytes; answer (content, whether it ended, surplus bytes)."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return data, False, b""
        if size == self.left:
            self.left = 0
            return data, True, b""
        content, surplus = data[: self.left], data[self.left :]
        self.left = 0
        return content, True, surplus

    @property
    def trailers(self) -> Fields:
        """Always empty: only chunks carry trailers."""
        return []


class CloseReader:
    """Content that ends with the connection (answers only)."""

    __slots__ = ()

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """Take bytes; all of them are content."""
        return data, False, b""

    @property
    def trailers(self) -> Fields:
        """Always empty: only chunks carry trailers."""
        return []


# What a chunked reader waits for.
_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3


class ChunkedReader:
    """Chunked content, strictly: CRLF line ends only, bounded lines, extensions and trailers.

    Trailer fields that frame, route, authenticate or steer are refused (RFC 9110 section 6.5.1).
    """

    __slots__ = ("_buffer", "_extensions", "_left", "_max_fields", "_max_trailers", "_state", "trailers")

    def __init__(self, *, max_trailers: int = 8192, max_fields: int = 100) -> None:
        self._buffer = b""
        self._left = 0
        self._state = _SIZE
        self._extensions = 0
        self._max_trailers = max_trailers
        self._max_fields = max_fields
        self.trailers: Fields = []

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """Take bytes; answer (content, whether it ended, surplus bytes).

        Raises:
            RemoteProtocolError: 400 for bytes outside the grammar, 431 for trailers over their limit.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        out: list[bytes] = []
        at, size = 0, len(data)
        while True:
            if self._state == _DATA:
                take = min(self._left, size - at)
                if take:
                    out.append(data[at : at + take])
                    at += take
                    self._left -= take
                if self._left:
                    break
                self._state = _DATA_END
            elif self._state == _DATA_END:
                if size - at < 2:
                    if data[at : at + 1] not in (b"", b"\r"):
                        raise RemoteProtocolError(400, "bad-request", "chunk data is longer than its size")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise RemoteProtocolError(400, "bad-request", "chunk data is longer than its size")
                at += 2
                self._state = _SIZE
            elif self._state == _SIZE:
                eol = data.find(b"\n", at, at + MAX_CHUNK_LINE)
                if eol < 0:
                    if size - at >= MAX_CHUNK_LINE:
                        raise RemoteProtocolError(400, "bad-request", "chunk-size line too long")
                    break
                self._read_size(data[at : eol + 1])
                at = eol + 1
            else:
                end = self._trailers_end(data, at)
                if end < 0:
                    break
                return b"".join(out), True, data[end:]
        self._buffer = data[at:]
        return (out[0] if len(out) == 1 else b"".join(out)), False, b""

    def _read_size(self, line: bytes) -> None:
        if line[-2:] != b"\r\n":
            raise RemoteProtocolError(400, "bad-request", "chunk-size line ends without CRLF")
        match = _CHUNK_LINE.fullmatch(line[:-2])
        if match is None:
            raise RemoteProtocolError(400, "bad-request", "malformed chunk size")
        self._extensions += len(match[2])
        if self._extensions > MAX_EXTENSIONS:
            raise RemoteProtocolError(400, "bad-request", "too many chunk extensions")
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _trailers_end(self, data: bytes, at: int) -> int:
        """Where the trailer section ends, or -1 when more bytes are needed."""
        if data[at : at + 2] == b"\r\n":
            return at + 2
        end = section_end(data, at)
        # Without an end in sight, the last three bytes may be part of it.
        if (end - 4 if end >= 0 else len(data) - 3) - at > self._max_trailers:
            raise RemoteProtocolError(431, "fields-too-large", "trailers too large")
        if end < 0:
            return -1
        self.trailers = parse_field_block(data[at : end - 2], maximum=self._max_fields)
        for name, _ in self.trailers:
            if name in FORBIDDEN_IN_TRAILERS:
                raise RemoteProtocolError(400, "bad-request", "a field that may not stand in trailers")
        return end


ContentReader = LengthReader | ChunkedReader | CloseReader


def chunk(data: bytes) -> bytes:
    """One chunk; ``data`` must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields) -> bytes:
    """The last chunk and the trailer section."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n" + b"".join([b"%b: %b\r\n" % field for field in trailers]) + b"\r\n"
