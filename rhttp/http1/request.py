"""The asking half of an HTTP/1.1 client end: head, content, and how both are framed (RFC 9112 sections 6 and 7).

Trust: pure but for the link it writes to.
"""

from __future__ import annotations

import asyncio

from rhttp.ends import Link, ResponseEnd
from rhttp.errors import LocalProtocolError
from rhttp.http1.content import LAST_CHUNK, chunk, last_chunk
from rhttp.http1.fields import block_text
from rhttp.message import NOTHING, Blocks, Fields, Length


class RequestSide(ResponseEnd, asyncio.Protocol):
    """What an exchange gives to a client end. What was kept back leaves with `flush`, so one read becomes one write."""

    __slots__ = (
        "_blocked",
        "_chunking",
        "_closed",
        "_given",
        "_left",
        "_out",
        "_sent_whole",
        "_taken",
        "answered",
        "link",
    )

    def __init__(self) -> None:
        super().__init__()
        self.link: Link
        # None while nothing is kept back: an idle worker's end would hold an empty list for days.
        self._out: list[bytes] | None = None
        self._left: int | None = 0
        self._chunking = False
        self._given = 0  # bytes of the request that the link has
        self._taken = 0  # of these, what the peer had taken when we last looked
        self._blocked = False
        self._sent_whole = True
        self._closed = False
        self.answered = 0
        """Answers completed on this connection."""

    @property
    def capacity(self) -> int:
        """One request at a time."""
        return 1

    @property
    def is_reused(self) -> bool:
        """Whether a request was answered on it before."""
        return self.answered > 0

    @property
    def blocked(self) -> bool:
        """Whether the peer reads too slowly for more content now."""
        return self._blocked

    def _begin(
        self, method: bytes, target: bytes, authority: bytes, blocks: Blocks, length: Length, upgrade: bytes | None
    ) -> None:
        """Keep the head back, with its framing; see `rhttp.ends.ResponseEnd.head`."""
        self._given = 0
        self._taken = -self.link.get_write_buffer_size() if self._blocked else 0
        self._chunking = False
        self._left = 0
        out = self._kept()
        out.append(b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, authority))
        if upgrade is not None:
            out.append(b"Upgrade: %b\r\nConnection: Upgrade\r\n" % upgrade)
        for block in blocks:
            out.append(block_text(block))
        if length is NOTHING:
            self._sent_whole = True
            out.append(b"\r\n")
        elif isinstance(length, int):
            self._left = length
            self._sent_whole = not length
            out.append(b"Content-Length: %d\r\n\r\n" % length)
        else:
            self._left = None
            self._chunking = True
            self._sent_whole = False
            out.append(b"Transfer-Encoding: chunked\r\n\r\n")

    def content(self, data: bytes) -> None:
        """Give content; it leaves with the next `flush` or with the request's end.

        Raises:
            LocalProtocolError: it is more than was announced.
        """
        if not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise LocalProtocolError("more content than was announced")
        self._kept().append(chunk(data) if self._chunking else data)

    def _finish_content(self, trailers: Fields) -> None:
        """Keep back what ends the content."""
        if self._chunking:
            self._kept().append(last_chunk(trailers) if trailers else LAST_CHUNK)
        self._sent_whole = True

    def _kept(self) -> list[bytes]:
        out = self._out
        if out is None:
            out = self._out = []
        return out

    def flush(self) -> None:
        """Send what was kept back."""
        out = self._out
        if out and not self._closed:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._out = None
            self._given += len(data)
            self.link.write(data)

    def _makes_progress(self) -> bool:
        """Whether the peer took something since we last looked, and has not all of it: then nobody is to be cut."""
        waiting = self.link.get_write_buffer_size()
        before, self._taken = self._taken, self._given - waiting
        return self._taken != before and bool(waiting or not self._sent_whole)
