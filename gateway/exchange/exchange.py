"""An exchange: one request of a server end joined to one client end, and back.

It forwards content as bytes with back-pressure both ways, keeps what a second try needs, and writes the audit line
before the answer's last byte leaves. It holds no socket and no timer of its own but the wait for a slot.

Trust: meets untrusted clients, workers and masters through the ends.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.admission.checks import is_still_allowed
from gateway.admission.passed_line import passed_line
from gateway.admission.request_record import Admitted, RequestRecord
from gateway.core.context import ProcessContext
from gateway.exchange.account import Account
from gateway.exchange.ends import Addressee, Opening
from gateway.http.fields import inbound_trailers, outbound_trailers, response_fields
from gateway.http.losses import failure
from rhttp.ends import RequestEnd, ResponseEnd
from rhttp.errors import Loss
from rhttp.message import IDEMPOTENT, Blocks, FieldBlock, Fields, ResponseHead

PASSED_CONTENT: Final = 16384
"""Bytes of content that may leave for another process before that has a slot for the request."""


class Inbound(Protocol):
    """Where response ends come from: a pool of workers, or of connections to a master."""

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Find a response end: `Exchange.granted` or `Exchange.unavailable` follows, now or later.

        ``not_again``: any worker but this one.
        """

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""


class Exchange(Account):
    """One admitted request under way. A plain slotted class: one is made for every forwarded request.

    Args:
        admitted: the proof that the request may be forwarded; nothing is forwarded without it.
        target: what stands in the request line towards the master or worker.
        blocks: the fields that go with it.
        dispatch: whether it goes to a worker of a pool, else to a master. Over a route it may be either.
    """

    __slots__ = (
        "_blocks",
        "_finishing",
        "_inbound",
        "_is_over_route",
        "_lines",
        "_named",
        "_patience",
        "_target",
        "_tries",
        "is_ours",
        "label",
        "line",
        "may_wait",
        "turn",
        "worker",
    )

    def __init__(
        self,
        process: ProcessContext,
        record: RequestRecord,
        admitted: Admitted,
        end: RequestEnd,
        inbound: Inbound,
        target: bytes,
        blocks: Blocks,
        *,
        dispatch: bool,
    ) -> None:
        assert admitted is record.admitted
        super().__init__(process, record, end, dispatch=dispatch)
        self._inbound = inbound
        self._is_over_route = not dispatch or record.pool is not None
        self._target = target
        self._blocks = blocks
        self._named: tuple[bytes, ...] = ()
        """What the answer's ``Connection`` names, for its trailers."""
        self._tries = 0
        self._finishing = False
        """The answer is here; its end waits for the audit line."""
        self._lines = 0
        """Audit lines that will be written at the end of this turn."""
        self.worker: str | None = None
        """For `gateway.pools.slots`: only this worker will do."""
        self.label: tuple[str, str] | None = None
        self.may_wait = False
        """Whether it waits when nothing is free."""
        self.is_ours = True
        self.line = b""
        """What another process needs to write its line ahead; see `may_be_passed`."""
        self.turn = 0
        """Its turn among those that wait, when it comes back; 0: it was not passed on."""
        self._patience = 0.0
        """Seconds for which it may wait when it comes back."""
        process.exchanges += 1

    # ---- the way in: from lease to request ----

    def start(self, *, wait: float | None = None) -> None:
        """Find a response end, for which it may wait so many seconds.

        Unless the audit log is known to take no line: then nothing is sent on.
        """
        if wait is not None:
            self.may_wait = True
            self._process.wheel.set(self, wait)
        if self._process.may_send():
            self._inbound.lease(self)
        else:
            self._not_recorded()

    def granted(self, client: ResponseEnd, authority: bytes, worker: Addressee | None) -> None:
        """A client end is leased to this exchange: send what there is of the request, behind its audit line."""
        self._process.wheel.clear(self)
        self.may_wait = False
        self._worker = worker
        self._tries += 1
        self._give(client, self._target, authority, self._blocks)
        if self._is_said or self._head.method not in self.record.generation.unsaid:
            self._holds = True
            self._lines += 1
            self._say_sent()
        elif self._process.may_send():
            self._send(is_first=self._tries == 1)
        else:
            self._not_recorded()

    def may_be_passed(self) -> bool:
        """Whether another process may have it before that has a slot for it: once, when it can come back whole.

        Content is short then, or not here at all, and kept until there is an answer.
        """
        if self.turn or self._tries:
            return False
        head = self._head
        if head.has_content:
            length = head.length
            if not isinstance(length, int) or length > min(PASSED_CONTENT, self._retained) or head.expect is not None:
                return False
        line = passed_line(self.record)
        if line is None:
            return False
        self.line = line
        return True

    def passed(self, client: ResponseEnd, authority: bytes, turn: int) -> None:
        """Send it to another process, which writes the line ahead when it takes it for one of its workers.

        `served` follows then, before an answer or a loss. `Loss.NOT_SENT` without that: nobody has it, and it goes on
        as if it had not been passed on, if it waits with the turn that it has now.
        """
        self.turn = turn
        if self.may_wait:
            self._patience = self.deadline - self._process.wheel.now
            self._process.wheel.clear(self)
        self._tries += 1
        self._give(client, self._target, authority, self._blocks)
        self._send(is_first=False)

    def served(self, worker: Addressee) -> None:
        """It was passed on, and this worker has it."""
        self.may_wait = False
        self._worker = worker

    def _came_back(self) -> None:
        """The process that it was passed to has no slot: look for one as if that had not been."""
        self._tries = 0
        if self.may_wait:
            self._process.wheel.set(self, max(0.0, self._patience))
        self._inbound.lease(self)

    def recorded(self, done: bool) -> None:
        """The audit line that a step waited for is written, or cannot be: go on, or answer so."""
        try:
            self._go_on(done or self._process.may_go_unrecorded())
        except Exception:
            self._end.abort()  # nobody knows any more where this exchange stands
            raise

    def _go_on(self, done: bool) -> None:
        if self._finishing:
            self._finishing = False
            end = self._end
            if end.sink is self:  # else the requester went away meanwhile
                if done:
                    end.end(self._trailers)
                else:
                    self._withhold()
            self._process.exchange_over()
            return
        self._lines -= 1
        if not self._holds or self._client is None:
            return  # its client end, or its requester, was lost in the same turn
        if not done:
            self._not_recorded()
        elif not self._lines:  # else it came to another end in the same turn, and waits for that line, too
            self._send(is_first=self._tries == 1)

    def _not_recorded(self) -> None:
        self._drop_client()
        self._fail(503, "audit-unavailable", "audit")

    def unavailable(self, status: int, slug: str, reason: str) -> None:
        """No client end is to be had."""
        self._fail(status, slug, reason)

    @property
    def waits(self) -> bool:
        """Whether nobody has the request yet: it waits for a slot or a connection."""
        return self._client is None and not self.over

    def withdraw(self) -> None:
        """It waits no more and is over; whoever calls this answers, and writes the audit line."""
        self._inbound.forget(self)
        self._process.wheel.forget(self)
        self.over = True
        self._process.exchange_over()

    def give_up(self, reason: str) -> None:
        """The gateway ends: answer, or cut what has begun."""
        if self._client is not None:
            self._client.abort(Loss.ABORTED, reason)
        else:
            self._inbound.forget(self)
            self._fail(503, "draining", reason)

    def offered(self, slot: Opening) -> None:
        """A worker's slot is this exchange's."""
        addressee = slot.addressee
        self.granted(slot.open(), addressee.authority, addressee)

    def pool_closed(self) -> None:
        """The pool that it waits for hands out nothing more."""
        if self._process.draining:
            self.unavailable(503, "draining", "draining")
        else:
            self.unavailable(503, "no-slot", "pool_gone")

    def deadline_passed(self) -> None:
        """Nothing came free in the time that the request was willing, or allowed, to wait."""
        self._inbound.forget(self)
        self._fail(503, "no-slot" if self._dispatch else "overloaded", "wait_over")

    # ---- RequestSink ----

    def request_half_closed(self) -> None:
        """The requester may be gone for good: one that waits for a slot is answered now, every other one is served.

        A master that is being dialled counts as serving: a peer may well end its side right behind its request.
        """
        self.may_wait = False  # nor will one that comes back
        if self._dispatch and self._client is None and not self.over:
            self._inbound.forget(self)
            self._fail(503, "no-slot", "half_closed")

    def _requester_lost(self, detail: str) -> None:
        self._close_books("aborted", self._end.told, detail)
        if self._client is None:
            self._inbound.forget(self)

    def _onward(self, trailers: Fields) -> Fields:
        return inbound_trailers(trailers, self._head.connection)

    def _returned(self, head: ResponseHead) -> FieldBlock:
        return response_fields(head, route=self._is_over_route)

    # ---- ResponseSink ----

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The final answer begins."""
        self._kept = None
        self._named = head.connection
        if self._is_over_route and head.status in (401, 407):
            self._drop_client()
            self._fail(502, "master-asked-credentials", "master_asked_credentials")
            return
        fields = response_fields(head, route=self._is_over_route)
        blocks: Blocks = (fields, self.record.id_block)
        if self._worker is not None:
            blocks = (*blocks, self._worker.block)
        if not fields.has_date:
            blocks = (*blocks, self._process.date)  # RFC 9110 section 6.6.1: who has a clock says when it came
        self._answer(head, blocks)

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete: the audit line first, then its last byte."""
        client, self._client = self._client, None
        if client is not None:
            client.last = self.record.request_id  # in case that more bytes follow
        if self.over:
            return
        trailers = outbound_trailers(trailers, self._named)
        if self._ended:
            event = self._count("allowed")
            self._trailers = trailers
            self._finishing = True
            line = self.record.audit_of(b"allowed", status=self._end.status, worker=self._ascii())
            self._process.record_soon(event, line, self)
        # The request's content still comes, so nothing can wait: it may end in a fault.
        elif self._close_books("allowed", self._end.status, None):
            self._end.end(trailers)
        else:
            self._withhold()

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer will come: once more elsewhere when that is safe, else say so."""
        client, self._client = self._client, None
        if self.over:
            return
        if client is not None and self._may_try_again(loss):
            if loss is Loss.NOT_SENT and self._worker is None and self._dispatch:
                self._came_back()
                return
            self.may_wait = False  # somebody may have had it
            if loss is Loss.NOT_SENT:
                self._process.counters.retries += 1
                self._inbound.lease(self)
                return
            if self._say_lost(detail):
                self._process.counters.retries += 1
                self._inbound.lease(self, not_again=None if self._worker is None else self._worker.name)
                return
        status, slug = failure(loss, dispatch=self._dispatch)
        self._fail(status, slug, f"{loss.value}: {detail}" if detail else loss.value)

    def _may_try_again(self, loss: Loss) -> bool:
        if not self._end.uncommitted or self._end.status is not None or self._kept is None:
            return False
        if loss is Loss.NOT_SENT:
            may = self._tries < 4
        else:
            may = loss is Loss.SENT_NO_ANSWER and self._head.method in IDEMPOTENT and self._tries == 1
        return may and is_still_allowed(self._process, self.record)

    # ---- the end ----

    def _fail(self, status: int, slug: str, reason: str) -> None:
        """The gateway's own answer in place of one that will not come."""
        if not self.over:
            self._process.wheel.forget(self)
            self._refuse(status, slug, reason)
