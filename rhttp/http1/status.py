"""Status codes and their reason phrases (RFC 9110 section 15, RFC 6585, RFC 5842)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

_LINES: Final = {int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode("ascii")) for status in HTTPStatus}


def status_line(status: int, reason: bytes | None = None) -> bytes:
    """The status line with its CRLF; ``reason`` in place of the standard phrase."""
    if reason is None:
        line = _LINES.get(status)
        return line if line is not None else b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)
