"""The two ends of an exchange and what joins them.

An exchange joins a *request end* (where a request comes from, and its answer goes) to a *response end* (where the
request goes, and its answer comes from). Each end offers the same six operations: ``head``, ``content``, ``pause``,
``resume``, ``end`` (with trailers), ``abort``; ``flush`` marks the end of a batch, so that what one read brought leaves
in one write. A head is method or status, target, authority, fields and length (`rhttp.message`): how it is written is
known to its end alone. HTTP/1.1 is the first implementation of both.

The ends are base classes and not protocols: a compiled call through a class is a jump, one by name a search.

A link is what an end reads and writes: an asyncio transport, or `rhttp.tls.tls_link.TlsLink`, which offers the same
methods.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from rhttp.errors import Loss
from rhttp.message import Blocks, Fields, Length, ResponseHead

SURPLUS: Final = "surplus"
"""Why a connection ended on which bytes came that no request had asked for: behind a whole answer, or before any."""


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

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes, /) -> None:
        """The switch of protocols that was asked for: ``link`` is the sink's now; ``surplus`` came glued behind it."""

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


class End:
    """What both ends offer to what joins them. What was given leaves with `flush` or `end`."""

    __slots__ = ()

    @property
    def blocked(self) -> bool:
        """Whether the peer reads too slowly for more content now."""
        raise NotImplementedError

    def content(self, data: bytes) -> None:
        """Give content of the message whose head was given. Dropped where an answer carries none (HEAD).

        Raises:
            LocalProtocolError: it is more than was announced.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Send what was kept back."""
        raise NotImplementedError

    def end(self, trailers: Fields) -> None:
        """The content is complete; what is shorter than announced is aborted."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading: whoever takes what comes is slower."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again."""
        raise NotImplementedError


class RequestEnd(End):
    """Where a request comes from, and where its answer goes: we are the server.

    One request is under way at a time.
    """

    __slots__ = ("is_last", "sink", "status", "told")

    def __init__(self) -> None:
        self.sink: RequestSink | None = None
        self.is_last = False
        """No further request is taken: see `last_request`."""
        self.status: int | None = None
        """Of the answer under way; None: its head was not given yet."""
        self.told: int | None = None
        """The status that a request which broke off is answered with, for whoever is told that it did."""

    @property
    def is_asked(self) -> bool:
        """Whether a request is here whose answer is not complete."""
        raise NotImplementedError

    @property
    def uncommitted(self) -> bool:
        """Whether the answer can still be replaced: nothing of it left for the peer."""
        raise NotImplementedError

    @property
    def is_lost(self) -> bool:
        """Whether no answer will arrive any more; the sink hears of it in a moment."""
        raise NotImplementedError

    def last_request(self) -> None:
        """Take no request behind this one: the peer is told so with the answer, then the connection ends."""
        self.is_last = True

    def interim(self, status: int, blocks: Blocks = ()) -> None:
        """Send an interim answer, unless the peer knows none."""
        raise NotImplementedError

    def head(self, status: int, blocks: Blocks, length: Length, *, reason: bytes | None = None) -> None:
        """Begin the answer.

        Args:
            status: a final status.
            blocks: its fields, without those that frame it or say what becomes of the connection.
            length: of its content. For an answer without content (HEAD, 204, 304) it is announced when it is a number,
                and nothing follows.
            reason: reason phrase in place of the standard one, where there are such.

        Raises:
            LocalProtocolError: out of turn.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Close now, so that the peer sees that the answer is not whole."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Answer nothing more: what was given still leaves, then the connection ends."""
        raise NotImplementedError

    def detach(self) -> tuple[Link, bytes]:
        """Give the link away after a switch of protocols; answer it with the bytes that came too early."""
        raise NotImplementedError


class ResponseEnd(End):
    """Where a request goes, and where its answer comes from: we are the client.

    One request is under way at a time.
    """

    __slots__ = ("last", "sink")

    def __init__(self) -> None:
        self.sink: ResponseSink | None = None
        self.last: str | None = None
        """For the owner's log: who was answered last; whoever gave the request says it."""

    @property
    def is_reused(self) -> bool:
        """Whether its connection has served before: then the peer may have given it up meanwhile."""
        raise NotImplementedError

    def head(
        self,
        sink: ResponseSink,
        method: bytes,
        target: bytes,
        authority: bytes,
        blocks: Blocks,
        length: Length,
        *,
        upgrade: bytes | None = None,
    ) -> None:
        """Begin a request.

        Args:
            sink: takes the answer.
            method: it decides whether the answer can have content, too.
            target: in the form that an origin server takes.
            authority: whom it is for.
            blocks: its fields, without those that frame it or say what becomes of the connection.
            length: of its content.
            upgrade: the protocol to switch to; only when one is asked for is a switch an answer.

        Raises:
            LocalProtocolError: the end is busy, or closed.
        """
        raise NotImplementedError

    def abort(self, loss: Loss = Loss.ABORTED, detail: str = "aborted") -> None:
        """End it now; a sink that still waits is told ``loss``."""
        raise NotImplementedError

    def release(self) -> None:
        """Forget the sink without telling it, and end it: whoever asked lost interest."""
        raise NotImplementedError
