"""The answering half of an HTTP/1.1 server end: head, content, and how both are framed (RFC 9112 sections 6 and 7).

Trust: pure but for the link it writes to.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Final

from rhttp.ends import Link, RequestEnd
from rhttp.errors import LocalProtocolError
from rhttp.http1.content import chunk
from rhttp.http1.fields import block_text
from rhttp.http1.status import status_line
from rhttp.message import NOTHING, Blocks, Length, RequestHead

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Phase(enum.IntEnum):
    """Where the request side stands."""

    HEAD = 0
    """Waiting for a head, or in the middle of one."""
    CONTENT = 1
    READ = 2
    """The request is complete, its answer is not."""
    DISCARD = 3
    """The answer is complete, the request's content is not: read and drop."""
    LINGER = 4
    """Our side is shut down: read and drop until the peer closes too."""
    CLOSED = 5
    DETACHED = 6
    """The link belongs to somebody else now."""


# The same as plain numbers, for the ends: they are compared many times a request.
HEAD: Final = 0
CONTENT: Final = 1
READ: Final = 2
DISCARD: Final = 3
LINGER: Final = 4
CLOSED: Final = 5
DETACHED: Final = 6


class AnswerSide(RequestEnd, asyncio.Protocol):
    """What an exchange gives to a server end. What was kept back leaves with `flush`, so one read becomes one write."""

    __slots__ = (
        "_blocked",
        "_bodyless",
        "_chunking",
        "_continued",
        "_has_begun",
        "_left",
        "_out",
        "_waiting",
        "last_status",
        "link",
        "phase",
        "request",
    )

    def __init__(self) -> None:
        super().__init__()
        self.link: Link
        self.phase: int = HEAD
        """A `Phase`."""
        self.request: RequestHead | None = None
        self.last_status: int | None = None
        """Of the last answer that was begun on the connection; None: there was none."""
        self._out: list[bytes] = []
        self._left: int | None = None
        self._chunking = False
        self._bodyless = False
        self._continued = True
        self._blocked = False
        self._waiting = 0  # bytes that the peer had not taken when we last looked, while it reads too slowly
        self._has_begun = False
        """Bytes of the answer under way have left."""

    @property
    def is_asked(self) -> bool:
        """Whether a request is here whose answer is not complete."""
        return self.phase == READ or self.phase == CONTENT

    @property
    def uncommitted(self) -> bool:
        """Whether the answer can still be replaced: nothing of it left for the peer."""
        return self.status is None or not self._has_begun

    @property
    def blocked(self) -> bool:
        """Whether the peer reads too slowly for more content now."""
        return self._blocked

    @property
    def is_lost(self) -> bool:
        """Whether the link is closed or about to close."""
        return self.link.is_closing()

    def interim(self, status: int, blocks: Blocks = ()) -> None:
        """Send an interim answer, unless the peer speaks HTTP/1.0, which knows none."""
        if self.phase in (CONTENT, READ) and self.request is not None and self.request.version != "1.0":
            self._continued = self._continued or status == 100
            text = b"".join([block_text(block) for block in blocks])
            self.link.write(CONTINUE if status == 100 else b"%b%b\r\n" % (status_line(status), text))

    def head(self, status: int, blocks: Blocks, length: Length, *, reason: bytes | None = None) -> None:
        """Begin the answer; see `rhttp.ends.RequestEnd.head`.

        Content of open length goes in chunks; to HTTP/1.0, which knows none, it ends with the connection.
        """
        request = self.request
        if request is None or self.phase not in (CONTENT, READ) or not self.uncommitted:
            raise LocalProtocolError(f"an answer out of turn ({Phase(self.phase)!r})")
        self._has_begun = False
        self.status = self.last_status = status
        out = self._out
        out.clear()
        self._chunking = False
        if not self._continued and self.phase == CONTENT:
            self.is_last = True  # nobody can say whether the content that we did not ask for still comes
        self._bodyless = request.method == b"HEAD" or status == 204 or status == 304
        if request.is_last or self.is_last:
            self.is_last = True
            framing = b"Connection: close\r\n"
        else:
            framing = b""
        if length is NOTHING:
            self._left = 0
            if not self._bodyless:
                framing += b"Content-Length: 0\r\n"
        elif isinstance(length, int):
            self._left = 0 if self._bodyless else length
            if status != 204:
                framing += b"Content-Length: %d\r\n" % length
        elif self._bodyless:
            self._left = 0
        elif request.version != "1.0":
            self._left = None
            self._chunking = True
            framing += b"Transfer-Encoding: chunked\r\n"
        else:
            self._left = None
            self.is_last = True
        out.append(status_line(status, reason))
        for block in blocks:
            out.append(block_text(block))
        out.append(framing + b"\r\n")

    def content(self, data: bytes) -> None:
        """Give content; it leaves with the next `flush` or `end`. Dropped where the answer carries none (HEAD)."""
        if not data or self._bodyless:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise LocalProtocolError("more content than was announced")
        self._out.append(chunk(data) if self._chunking else data)

    def flush(self) -> None:
        """Send what was kept back."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._has_begun = True
            self.link.write(data)

    def _makes_progress(self) -> bool:
        """Whether the peer took something since we last looked: then it is slow, and not to be cut."""
        before, self._waiting = self._waiting, self.link.get_write_buffer_size()
        return self._waiting != before
