"""A request that another party of ours admitted, on its way to a worker that is connected here.

The other one keeps the queue, the retries and the audit log, but for the line ahead of a request that came without a
reservation: it is written here, where the worker is known; see `gateway.cluster.hop`. What a worker's answer must not
have is stripped here, and what is ours to add is added there: once each, so a requester sees the same answer wherever
the worker is connected. When no answer of the worker comes, the other one is told why: a value, which it takes for what
a worker of its own would have told it. No worker can say that, since fields of that name are stripped from its answers.

Trust: the requester's bytes were admitted by one of ours; the worker's bytes are untrusted, and pass ends of ours.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.admission.passed_line import is_passed_line, sent_fields
from gateway.core.context import ProcessContext
from gateway.exchange.ends import Addressee, Opening
from gateway.http.fields import outbound_trailers, response_fields
from rhttp.ends import RequestEnd, ResponseEnd
from rhttp.errors import Loss
from rhttp.joint import Joint
from rhttp.memo import Memo
from rhttp.message import FieldBlock, Fields, RequestHead, ResponseHead, one_field

_LOST: Final = 502
_LOSSES: Final = {loss.value.encode("ascii"): loss for loss in Loss}
_DETAIL: Final = re.compile(rb"[^\x20-\x7e]")
_NUMBER_DIGITS: Final = 10
_TIME_DIGITS: Final = 15
_NAME: Final = re.compile(rb"[a-z0-9-]{1,63}")
_ANY: Final = b"*"

_slots: Final[Memo[bytes, tuple[str, str | None]]] = Memo(1024)
"""Pool and worker, by the text that names them."""


class Unreserved:
    """What a request says that comes without a reservation: for any free slot of a pool, or of one worker of it."""

    __slots__ = ("line", "pool", "spent", "worker")

    def __init__(self, pool: str, worker: str | None, spent: int, line: bytes) -> None:
        self.pool = pool
        self.worker = worker
        """Only this worker will do."""
        self.spent = spent
        """Microseconds that it took so far."""
        self.line = line
        """The fields of its line in the audit log, behind its id."""


def unreserved_text(pool: str, worker: str | None, line: bytes) -> bytes:
    """An `Unreserved` as a field's value; ``line`` is of `gateway.admission.passed_line.passed_line`."""
    return b"%b %b %b" % (pool.encode("ascii"), _ANY if worker is None else worker.encode("ascii"), line)


def read_slot(value: bytes) -> int | Unreserved | None:
    """The number of a reservation, or what a request without one says; None: it is neither."""
    first = value.find(b" ")
    if first < 0:
        return int(value) if value.isdigit() and len(value) <= _NUMBER_DIGITS else None
    second = value.find(b" ", first + 1)
    third = value.find(b" ", second + 1)
    if not first < second < third:
        return None
    where = _read_where(value[:first], value[first + 1 : second], value[:second])
    spent = value[second + 1 : third]
    line = value[third + 1 :]
    if where is None or not spent.isdigit() or len(spent) > _TIME_DIGITS or not is_passed_line(line):
        return None
    return Unreserved(where[0], where[1], int(spent), line)


def _read_where(pool: bytes, worker: bytes, both: bytes) -> tuple[str, str | None] | None:
    known = _slots.get(both)
    if known is not None:
        return known
    is_named = worker != _ANY
    if _NAME.fullmatch(pool) is None or (is_named and _NAME.fullmatch(worker) is None):
        return None
    return _slots.remember(both, (pool.decode("ascii"), worker.decode("ascii") if is_named else None))


class Attested:
    """Who asks, as one of ours says that admitted the request; nothing is sent to a worker without it."""

    __slots__ = ("identity", "request_id", "slot")

    def __init__(self, identity: str, request_id: bytes, slot: int | Unreserved) -> None:
        self.identity = identity
        self.request_id = request_id
        self.slot = slot
        """The number of the reservation, or what is wanted without one."""


def loss_field(loss: Loss, detail: str) -> FieldBlock:
    """The field that tells why no worker's answer comes."""
    told = _DETAIL.sub(b"?", detail.encode("latin-1", "replace"))
    return one_field(b"Rhttp-Loss", b"%b %b" % (loss.value.encode("ascii"), told))


def read_loss(head: ResponseHead) -> tuple[Loss, str] | None:
    """What such an answer tells; None: it is a worker's."""
    if head.status != _LOST:
        return None
    for name, value in head.fields:
        if name == b"rhttp-loss":
            word, _, detail = value.partition(b" ")
            return _LOSSES.get(word, Loss.INVALID), detail.decode("ascii", "replace")
    return None


def refuse_passed(end: RequestEnd, loss: Loss, detail: str, worker: Addressee | None = None) -> None:
    """Say that no answer of a worker will come; one that has begun breaks off behind what is here of it.

    It is framed, so the other side can tell; and it sees that there was an answer, so the request is not sent again.
    ``worker``: whose slot a request got that came without a reservation.
    """
    if not end.uncommitted:
        end.sink = None
        end.shutdown()
        return
    told = loss_field(loss, detail)
    end.head(_LOST, (told,) if worker is None else (told, worker.block), 0)
    end.end([])


class PassedRequest(Joint):
    """A request that another one of ours admitted, on its way to a worker here."""

    __slots__ = ("_attested", "_named", "_process", "_worker")

    def __init__(self, process: ProcessContext, end: RequestEnd, head: RequestHead, attested: Attested) -> None:
        super().__init__(end, head, retained=0)  # whoever admitted it keeps what is to be sent once more
        self._process = process
        self._attested = attested
        self._named: tuple[bytes, ...] = ()
        self._worker: Addressee | None = None
        """Whoever admitted it does not know yet whose slot it got."""
        process.exchanges += 1

    def send(self, client: ResponseEnd, fields: FieldBlock) -> None:
        """Send it to the worker of its reservation, with the fields as they came."""
        self._hand(client, self._head.authority or b"", fields)
        self._send(is_first=False)

    def send_recorded(self, slot: Opening, fields: FieldBlock, unreserved: Unreserved) -> None:
        """Send it to the worker whose free slot it got, behind its line in the audit log."""
        worker = self._worker = slot.addressee
        self._hand(slot.open(), worker.authority, fields)
        self._holds = True
        line = sent_fields(self._attested.request_id, unreserved.spent, unreserved.line, worker.ascii)
        self._process.record_soon("dispatch.sent", line, self)

    def recorded(self, done: bool) -> None:
        """The line is written, or cannot be: then it was not sent."""
        if self._client is None:
            return  # its worker, or whoever asked, was lost in the same turn
        try:
            if done or self._process.may_go_unrecorded():
                self._send(is_first=False)
            else:
                self._drop_client()
                self._finish()
                refuse_passed(self._end, Loss.NOT_SENT, "audit")
        except Exception:
            self._end.abort()  # nobody knows any more where it stands
            raise

    def _hand(self, client: ResponseEnd, authority: bytes, fields: FieldBlock) -> None:
        head = self._head
        blocks = (fields, one_field(b"Rhttp-Request-Id", self._attested.request_id))
        self._give(client, head.target, authority, blocks)

    def _finish(self) -> None:
        self._client = None
        self.over = True
        self._process.exchange_over()

    def _onward(self, trailers: Fields) -> Fields:
        """They are those that go on."""
        return trailers

    def _returned(self, head: ResponseHead) -> FieldBlock:
        """What is ours to add is added where the requester is."""
        return response_fields(head, route=False)

    def _requester_lost(self, detail: str) -> None:
        """Whoever asked is gone, or the process that admitted it: where the worker stands, nobody knows any more."""
        self.over = True
        self._process.exchange_over()

    def request_half_closed(self) -> None:
        """Cannot come: see `gateway.cluster.hop.PassedEnd.eof_received`."""

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The final answer begins."""
        self._named = head.connection
        fields = self._returned(head)
        worker = self._worker
        self._answer(head, (fields,) if worker is None else (fields, worker.block))

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete."""
        client = self._client
        if client is not None:
            client.last = self._attested.request_id.decode("ascii")
            self._finish()
            self._end.end(outbound_trailers(trailers, self._named))

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer will come: whoever admitted the request knows what follows from that."""
        if not self.over:
            self._finish()
            refuse_passed(self._end, loss, detail, self._worker)
