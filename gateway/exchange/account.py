"""What the audit log, the counters and, in place of an answer, the requester hear of one exchange.

Trust: pure but for the audit line.
"""

from __future__ import annotations

from gateway.admission.request_record import RequestRecord
from gateway.core.context import ProcessContext
from gateway.exchange.ends import Addressee
from gateway.http.losses import failure
from gateway.http.responses import fail
from rhttp.ends import RequestEnd
from rhttp.errors import Loss
from rhttp.joint import Joint


class Account(Joint):
    """The part of an exchange that says what became of it."""

    __slots__ = (
        "_dispatch",
        "_is_said",
        "_may_have_run",
        "_process",
        "_worker",
        "bucket",
        "deadline",
        "record",
    )

    def __init__(self, process: ProcessContext, record: RequestRecord, end: RequestEnd, *, dispatch: bool) -> None:
        super().__init__(end, record.head, retained=record.generation.config.limits.retained_content)
        self._process = process
        self.record = record
        self._dispatch = dispatch
        self._is_said = dispatch
        """Each time that the request is sent has its line."""
        self._may_have_run = False
        """It was sent, no answer came, and it is to be sent once more."""
        self._worker: Addressee | None = None
        """Who serves it."""
        self.deadline = 0.0
        self.bucket = 0.0

    def _ascii(self) -> bytes | None:
        """The worker's name for the log."""
        return None if self._worker is None else self._worker.ascii

    def _say_sent(self) -> None:
        """Write the line that the request waits for."""
        self._is_said = True
        sent = self.record.audit_of(b"sent", status=None, worker=self._ascii())
        self._process.record_soon("dispatch.sent" if self._dispatch else "request.sent", sent, self)

    def _say_lost(self, detail: str) -> bool:
        """It is to be sent once more: the line of the time before, when it left without; False: it cannot be written.

        Whatever may have run twice is visible so, whether or not requests like it have a line ahead.
        """
        self._may_have_run = True
        if self._is_said:
            return True
        self._is_said = True
        return self._process.record("request.sent", self.record.audit("lost", reason=detail))

    def recorded(self, done: bool) -> None:
        """The audit line that a step waited for is written, or cannot be."""
        raise NotImplementedError

    def _refuse(self, status: int, slug: str, reason: str) -> None:
        """The gateway's own answer in place of one that will not come."""
        if self._may_have_run and status == 503:
            # What may have run is not to be asked for again without a thought.
            status, slug = failure(Loss.SENT_NO_ANSWER, dispatch=self._dispatch)
        committed = not self._end.uncommitted
        self._close_books("failed", None if committed else status, reason)
        if committed:
            self._end.abort()
        else:
            extra = () if self._worker is None else (self._worker.block,)
            fail(self._process, self._end, self.record, status, slug, extra)

    def _withhold(self) -> None:
        """The whole answer is here, has no audit line, and so may not leave; it did run, and the problem says so."""
        fail(self._process, self._end, self.record, 500, "answer-withheld")

    def _close_books(self, outcome: str, status: int | None, reason: str | None) -> bool:
        """Write the exchange's last line now."""
        event = self._count(outcome)
        process = self._process
        process.exchange_over()
        if outcome == "allowed" and status is not None:
            return process.record(event, self.record.audit_of(b"allowed", status=status, worker=self._ascii()))
        fields = self.record.audit(outcome, status=status, reason=reason)
        if self._worker is not None:
            fields["worker"] = self._worker.name
        return process.record(event, fields)

    def _count(self, outcome: str) -> str:
        """It is over: count it; answer the name of its audit event."""
        self.over = True
        process = self._process
        process.wheel.forget(self)
        counters = process.counters
        if self._dispatch:
            counters.dispatches += 1
            counters.dispatches_failed += outcome != "allowed"
            return "dispatch"
        counters.requests += 1
        counters.requests_failed += outcome != "allowed"
        return "request"

    def deadline_passed(self) -> None:
        """The time of what it waits for is over."""
        raise NotImplementedError


def record_sent(process: ProcessContext, record: RequestRecord) -> bool:
    """Say that a request is about to leave for a master, where `[audit] ahead` wants that; whether it may."""
    if record.head.method in record.generation.unsaid:
        return process.may_send()
    return process.record("request.sent", record.audit("sent"))
