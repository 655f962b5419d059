"""The two ends of an exchange and what joins them.

An exchange joins a *server end* (where a request came from) to a *client end* (where it goes). Each end offers the
same six operations: ``head``, ``content``, ``pause``, ``resume``, ``end`` (with trailers), ``abort``; ``flush`` marks
the end of a batch, so that what one read brought leaves in one write. HTTP/1.1 is the first implementation of both.

A link is what an end reads and writes: an asyncio transport, or `rhttp.tls.tls_link.TlsLink`, which offers the same
methods.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from rhttp.errors import Loss
from rhttp.http1.fields import Fields
from rhttp.http1.head import ResponseHead


class Link(Protocol):
    """A byte connection: the part of `asyncio.Transport` that ends use, so TLS and plain links are alike."""

    def write(self, data: bytes, /) -> None:
        """Send, or keep until the peer reads; never raises."""

    def write_eof(self) -> None:
        """After what was written: say that no more comes (close_notify and FIN), and go on reading."""

    def pause_reading(self) -> None:
        """Stop delivering bytes."""

    def resume_reading(self) -> None:
        """Deliver bytes again."""

    def is_closing(self) -> bool:
        """Whether the link is closed or about to close."""

    def has_unread(self) -> bool:
        """Whether bytes of the peer are here that nobody has read yet."""

    def get_write_buffer_size(self) -> int:
        """Bytes written that are still kept."""

    def close(self) -> None:
        """Send what was written, then close."""

    def abort(self) -> None:
        """Close now; what was not sent is lost."""

    def get_extra_info(self, name: str, /) -> Any:
        """``socket``; ``truncated`` (true when TLS ended without close_notify); None for what is unknown."""

    def set_protocol(self, protocol: asyncio.BaseProtocol, /) -> None:
        """Hand the connection to another owner; see `rhttp.tls.link.SocketLink.set_protocol` for what both then
        hear.
        """


class RequestSink(Protocol):
    """Takes one request's content and the state of its connection; an exchange is one."""

    def request_content(self, data: bytes, /) -> None:
        """Content arrived."""

    def request_flush(self) -> None:
        """The batch is over: forward what was kept back."""

    def request_end(self, trailers: Fields, /) -> None:
        """The content is complete. Not called for a request that announced none."""

    def request_abort(self, detail: str, /) -> None:
        """The connection was lost, or its bytes broke the framing; no answer can be sent."""

    def request_half_closed(self) -> None:
        """The peer sent its last byte and may or may not still read."""

    def response_blocked(self) -> None:
        """The peer reads too slowly: stop giving content."""

    def response_unblocked(self) -> None:
        """The peer caught up."""


class ResponseSink(Protocol):
    """Takes one answer; an exchange is one."""

    def response_interim(self, head: ResponseHead, /) -> None:
        """An interim answer (1xx, not 101)."""

    def response_switched(self, head: ResponseHead, surplus: bytes, /) -> None:
        """101 to a request that asked for it; ``surplus`` came glued behind it."""

    def response_head(self, head: ResponseHead, has_content: bool, /) -> None:
        """The final answer's head."""

    def response_content(self, data: bytes, /) -> None:
        """Content arrived."""

    def response_flush(self) -> None:
        """The batch is over: send what was kept back."""

    def response_end(self, trailers: Fields, /) -> None:
        """The answer is complete; always called, also without content."""

    def response_abort(self, loss: Loss, detail: str, /) -> None:
        """No whole answer will come; the client end is gone."""

    def request_blocked(self) -> None:
        """The peer reads too slowly: stop giving content."""

    def request_unblocked(self) -> None:
        """The peer caught up."""
