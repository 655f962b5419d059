"""One request of a reversed connection on its way to the local server.

Trust: the gateway let the request in. The server behind is ours, but its answers are held to the grammar.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from rhttp.ends import RequestEnd, ResponseEnd
from rhttp.errors import Loss
from rhttp.http1.fields import HOP_BY_HOP
from rhttp.joint import Joint
from rhttp.message import IDEMPOTENT, FieldBlock, Fields, RequestHead, ResponseHead
from rhttp.worker.handler import answer_problem

log = logging.getLogger("rhttp.forwarder")

_VIA: Final = (b"via", b"1.1 rhttp-worker")
_REQUEST_DROPPED: Final = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_RESPONSE_DROPPED: Final = HOP_BY_HOP | {b"content-length"}
_FAILURES: Final = {
    Loss.NOT_SENT: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.SENT_NO_ANSWER: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.CUT: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.INVALID: (502, "forward-invalid", "The answer of the server behind the worker is not valid"),
    Loss.DEADLINE: (504, "forward-deadline", "The server behind the worker did not answer in time"),
    Loss.ABORTED: (502, "forward-lost", "The request was not sent as it was announced"),
}


class Lessor(Protocol):
    """Gives connections to the local server."""

    def lease(self, forwarding: Forwarding, *, fresh: bool = False) -> None:
        """`Forwarding.granted` or `Forwarding.unreachable` follows, now or later; ``fresh``: on a new connection."""


class Forwarding(Joint):
    """One request under way."""

    __slots__ = ("_authority", "_is_first", "_is_reused", "_lessor", "_target")

    def __init__(
        self, lessor: Lessor, end: RequestEnd, head: RequestHead, target: bytes, authority: bytes, *, retained: int
    ) -> None:
        super().__init__(end, head, retained=retained)
        self._lessor = lessor
        self._target = target
        self._authority = authority
        self._is_first = True
        self._is_reused = False

    def granted(self, client: ResponseEnd) -> None:
        """A connection: send the head, and let the content come."""
        head, named = self._head, self._head.connection
        self._is_reused = client.is_reused
        fields = [f for f in head.all_fields if f[0] not in _REQUEST_DROPPED and f[0] not in named]
        self._give(client, self._target, self._authority, (FieldBlock((*fields, _VIA)),))
        is_first, self._is_first = self._is_first, False
        self._send(is_first=is_first)

    def unreachable(self) -> None:
        """Nobody answers there."""
        self._refuse(502, "forward-unreachable", "The server behind the worker cannot be reached")

    def _refuse(self, status: int, slug: str, title: str) -> None:
        if not self.over:
            self.over = True
            answer_problem(self._end, status, slug, title)

    # ---- Joint ----

    def _onward(self, trailers: Fields) -> Fields:
        return [f for f in trailers if f[0] not in HOP_BY_HOP]

    def _returned(self, head: ResponseHead) -> FieldBlock:
        """Made once for answers that are alike."""
        block = head.forwarded.get("forwarder")
        if block is None:
            named = head.connection
            fields = [f for f in head.fields if f[0] not in _RESPONSE_DROPPED and f[0] not in named]
            block = head.forwarded["forwarder"] = FieldBlock(tuple(fields))
        return block

    def _requester_lost(self, detail: str) -> None:
        self.over = True

    def request_half_closed(self) -> None:
        """The gateway sent its last byte: it gave this request up."""
        self._end.abort()

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The final answer begins."""
        self._kept = None
        self._answer(head, (self._returned(head),), head.reason or None)

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete."""
        self._client = None
        if not self.over:
            self.over = True
            self._end.end([f for f in trailers if f[0] not in HOP_BY_HOP])

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer: once more when a kept connection was closed under it, else say so."""
        self._client = None
        if self.over:
            return
        if self._may_try_again(loss):
            self._lessor.lease(self, fresh=True)
            return
        log.debug("no answer from the server behind: %s", detail)
        self._refuse(*_FAILURES[loss])

    def _may_try_again(self, loss: Loss) -> bool:
        """Only when the server closed a kept connection, and nothing can happen twice (RFC 9112 section 9.3.1)."""
        if not self._is_reused or self._kept is None or self._end.status is not None:
            return False
        return loss is Loss.NOT_SENT or (loss is Loss.SENT_NO_ANSWER and self._head.method in IDEMPOTENT)
