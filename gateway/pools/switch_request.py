"""A worker's request to switch roles on its way to the pool's master, until that says yes or no.

Trust: meets untrusted workers and masters; the request was admitted.
"""

from __future__ import annotations

from typing import Protocol

from gateway.admission.checks import Refusal
from gateway.admission.request_record import RequestRecord
from gateway.core.registry import Live
from gateway.http.fields import response_fields
from rhttp.ends import Link, RequestEnd, ResponseEnd
from rhttp.errors import Loss
from rhttp.joint import Joint
from rhttp.message import Blocks, FieldBlock, Fields, ResponseHead
from rhttp.reversal.upgrade import UpgradeVariant


class Switcher(Live, Protocol):
    """The connection that a worker asked on, until it has switched."""

    def refuse_switch(self, record: RequestRecord, refusal: Refusal, /) -> None:
        """Answer a refusal."""


class SwitchOwner(Protocol):
    """Acts on what becomes of it: the relay pool."""

    def open(self, request: SwitchRequest, master: Link, surplus: bytes, /) -> None:
        """The master agreed; ``surplus`` came glued behind its answer."""

    def not_opened(self, record: RequestRecord, outcome: str, status: int | None, reason: str, /) -> bool:
        """It comes to nothing: the audit line; False: it cannot be written."""

    def withhold(self, record: RequestRecord, end: RequestEnd, /) -> None:
        """The master's answer may not leave."""

    def failed(self, record: RequestRecord, end: RequestEnd, status: int, slug: str, detail: str, /) -> None:
        """No answer of the master will come."""


class SwitchRequest(Joint):
    """Waits for the master's answer. Over as soon as nothing more can come of it."""

    __slots__ = ("_owner", "end", "record", "switcher", "variant")

    def __init__(
        self,
        owner: SwitchOwner,
        switcher: Switcher,
        variant: UpgradeVariant,
        record: RequestRecord,
        end: RequestEnd,
    ) -> None:
        super().__init__(end, record.head, retained=0)
        self._owner = owner
        self.switcher = switcher
        self.variant = variant
        self.record = record
        self.end = end

    def ask(self, client: ResponseEnd, path: bytes, authority: bytes, blocks: Blocks) -> None:
        """Send it."""
        self._client = client
        client.head(self, self._head.method, path, authority, blocks, 0, upgrade=self.variant.token)
        client.flush()

    def fail(self, status: int, slug: str, detail: str) -> None:
        """It was not sent."""
        self.over = True
        self._owner.failed(self.record, self._end, status, slug, detail)

    # ---- the worker's side ----

    def _onward(self, trailers: Fields) -> Fields:
        return []  # none can come: an upgrade request with content was refused

    def _requester_lost(self, detail: str) -> None:
        self.over = True
        self._owner.not_opened(self.record, "aborted", None, "worker gone")

    def request_half_closed(self) -> None:
        """A worker that will never answer a request is none."""
        if not self.over:
            self.over = True
            self._drop_client()
            self._owner.not_opened(self.record, "aborted", None, "half closed")
        self._end.shutdown()  # what an earlier request was answered still leaves

    # ---- the master's side ----

    def _returned(self, head: ResponseHead) -> FieldBlock:
        return response_fields(head, route=True)

    def response_interim(self, head: ResponseHead) -> None:
        """Interim answers mean nothing to a worker that waits for 101."""

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        """The master agrees."""
        self._client = None
        self.over = True
        self._owner.open(self, link, surplus)

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The master's final answer passes, and the connection closes behind it."""
        self._end.last_request()
        if self._owner.not_opened(self.record, "refused", head.status, "master_refused"):
            self._answer(head, (self._returned(head),))
            return
        self.over = True
        self._drop_client()
        self._owner.withhold(self.record, self._end)

    def response_end(self, trailers: Fields) -> None:
        """That answer is complete."""
        if self._client is not None:
            self._client.last = self.record.request_id
        self._client = None
        if not self.over:
            self.over = True
            self._end.end([])

    def response_abort(self, loss: Loss, detail: str) -> None:
        """The master did not agree in words that we understand."""
        self._client = None
        if self.over:
            return
        self.over = True
        self._end.last_request()
        if self._end.status is not None:
            self._end.abort()
            return
        status, slug = (504, "deadline") if loss is Loss.DEADLINE else (502, "master-invalid")
        if loss in (Loss.SENT_NO_ANSWER, Loss.NOT_SENT, Loss.CUT):
            slug = "master-lost"
        self._owner.failed(self.record, self._end, status, slug, detail)
