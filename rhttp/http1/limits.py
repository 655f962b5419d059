"""Bounds of the HTTP/1.1 ends. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNIX_PATH_MAX: Final = 107
"""Bytes of a unix socket's path (``sun_path`` of 108 and its end)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http1Limits:
    """What one HTTP/1.1 connection may cost."""

    head_bytes: int = 32768
    """A whole head; Apache allows 8 KiB a line, nginx 4 lines of 8 KiB, Node 16 KiB."""
    request_line_bytes: int = 8192
    """RFC 9112 section 3 asks for at least 8,000 octets."""
    fields: int = 100
    trailer_bytes: int = 8192
    interim_answers: int = 100
    """Interim answers (1xx) to one request."""
    interim_bytes: int = 65536
    """Bytes of their heads in all."""
    pipelined_bytes: int = 65536
    """Bytes kept of requests that came before their turn; then we stop reading."""
    head_timeout: float = 10.0
    """From a head's first byte to its last."""
    keep_alive_timeout: float = 75.0
    content_timeout: float = 60.0
    """Without a byte of content."""
    answer_timeout: float = 300.0
    """From the request's last byte to the answer's first."""
    refused_content: int = 1048576
    """Content of a refused request that is read and dropped, and the connection kept."""
    refused_timeout: float = 5.0
    """Without a byte of what is dropped, after our last byte too."""
    linger: float = 2.0
    """After our last byte, so that a peer that still sends does not lose the answer to a reset."""
    linger_time: float = 30.0
    """In all, for what is dropped, however steadily it comes."""
