"""The hop: a request that was admitted by one party of ours is passed on to another one, which holds the worker.

It is plain HTTP/1.1 over a connection whose other end was proved to be one of ours before the first byte of a request.
The one that admitted the request says who asks (``Rhttp-Identity``, ``Rhttp-Request-Id``) and names the slot that it
reserved, or says that any free one will do and what the audit log has to know (``Rhttp-Slot``): then the answer tells
whose it was (``Rhttp-Worker``). It keeps the queue, the retries and the audit log. The one with the worker sends the
request on as it came, without looking at a field of it that is not about framing or about who asks, and answers with
what the worker answers. When no answer of a worker comes, it says why in ``Rhttp-Loss``: a value, which the other side
takes for what a worker of its own would have told it. No worker can say either: fields of these names are stripped from
its answers.

How a connection is made, and what proves its other end, is for others: see `gateway.cluster.sockets`.

Trust: the requester's bytes were admitted by one of ours; a worker's bytes are untrusted, and pass ends of ours.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from gateway.exchange.ends import Addressees
from gateway.exchange.exchange import Exchange
from gateway.exchange.passed import Attested, read_loss, read_slot, unreserved_text
from rhttp.ends import Link, ResponseSink
from rhttp.errors import LocalProtocolError, Loss, RemoteProtocolError
from rhttp.http1.client import ClientEnd, ClientOwner
from rhttp.http1.head_cache import HeadForm, read_request_head
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd, ServerOwner
from rhttp.message import Blocks, FieldBlock, Fields, Length, RequestHead, ResponseHead, SharedFields, one_field
from rhttp.timers import TimerWheel

PATIENCE: Final = 1e6
"""Seconds of every deadline of ours towards one another: the side of the requester and the side of the worker have
theirs, and who hangs is ended by its supervisor."""
_MARGIN_BYTES: Final = 131072
_MARGIN_FIELDS: Final = 64
"""What a head may grow by, behind the limits that it was held to: fields that we set, and spelling."""

_ID: Final = b"\r\nRhttp-Request-Id: "
_SLOT: Final = b"\r\nRhttp-Slot: "
_TOKEN: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.-"
"""What a request's id is made of."""
_MAX_ID: Final = 128
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})


def limits_between(limits: Http1Limits) -> Http1Limits:
    """Bounds of a hop: those of the edges, with room for what we add, and no deadline that one of the edges has."""
    return dataclasses.replace(
        limits,
        request_line_bytes=2 * limits.head_bytes + _MARGIN_BYTES,
        head_bytes=2 * limits.head_bytes + _MARGIN_BYTES,
        fields=limits.fields + _MARGIN_FIELDS,
        trailer_bytes=2 * limits.trailer_bytes,
        interim_bytes=2 * limits.interim_bytes + limits.interim_answers * 64,
        head_timeout=PATIENCE,
        keep_alive_timeout=PATIENCE,
        content_timeout=PATIENCE,
        answer_timeout=PATIENCE,
    )


# ---- where the worker is ----


class PassedFields(FieldBlock):
    """The fields that a worker is to get, written as they came, without the id, which is another one each time."""

    __slots__ = ("identity",)

    def __init__(self, fields: SharedFields, text: bytes) -> None:
        """
        Args:
            fields: of the head.
            text: their lines without ``Host`` and what frames the request.

        Raises:
            RemoteProtocolError: 400, they do not say who asks.
        """
        super().__init__(tuple([field for field in fields if field[0] not in _FRAMING]))
        self.text = text
        given = [value for name, value in fields if name == b"rhttp-identity"]
        if len(given) != 1:
            raise RemoteProtocolError(400, "bad-request", "a hop without an identity")
        self.identity = given[0].decode("latin-1")


class PassedEnd(ServerEnd):
    """The server end of a hop. It keeps who asks, and the fields that the worker is to get."""

    __slots__ = ("_edge", "_plain_form", "attested", "passed")

    def __init__(self, owner: ServerOwner, limits: Http1Limits, wheel: TimerWheel) -> None:
        """``limits`` are those of the edges."""
        super().__init__(owner, limits_between(limits), wheel, is_patient=True)
        self._edge = limits
        self._plain_form: HeadForm | None = None  # of the last head, without what is another one in each request
        self.attested: Attested | None = None
        self.passed: PassedFields | None = None

    def use(self, limits: Http1Limits) -> None:
        """Those of the edges are these from now on."""
        if limits is not self._edge:
            self._edge = limits
            self.limits = limits_between(limits)

    def read_head(self, block: bytes) -> RequestHead:
        """Parse a head but for what is another one in each request, so that it is found among those read before.

        Raises:
            RemoteProtocolError: 400, it does not say who asks, or for which slot.
        """
        at = block.rfind(_ID)
        slot = block.find(_SLOT, at)
        if at < 0 or slot < at + len(_ID):  # compiled, a slice that ends before it begins is an error
            raise RemoteProtocolError(400, "bad-request", "a hop without a request id or a slot")
        end = block.find(b"\r\n", slot + len(_SLOT))
        wanted = read_slot(block[slot + len(_SLOT) : end])
        request_id = block[at + len(_ID) : slot]
        if wanted is None or not 0 < len(request_id) <= _MAX_ID or request_id.translate(None, _TOKEN):
            raise RemoteProtocolError(400, "bad-request", "a hop without a request id or a slot")
        limits = self.limits
        plain = block[:at] + block[end:]
        head, self._plain_form = read_request_head(
            plain, self._plain_form, max_fields=limits.fields, max_line=limits.request_line_bytes
        )
        passed = head.forwarded.get("passed")
        if passed is None:
            # Our ends write ``Host`` behind the request line, then the fields, then what frames the content.
            second = block.find(b"\r\n") + 2
            if not block.startswith(b"Host: ", second):
                raise RemoteProtocolError(400, "bad-request", "a hop whose head none of our ends wrote")
            begin = block.find(b"\r\n", second) + 2
            passed = head.forwarded["passed"] = PassedFields(head.fields, block[begin : at + 2])
        assert isinstance(passed, PassedFields)
        self.passed = passed
        self.attested = Attested(passed.identity, request_id, wanted)
        return head

    def eof_received(self) -> bool:
        """None of ours ever closes one side only: the other process is gone, and with it whoever asked."""
        self.abort()
        return False


# ---- where the request came in ----


class _Answer:
    """Between a hop and its exchange: what tells of a loss becomes one. One for each connection, used again."""

    __slots__ = ("_loss", "addressees", "sink", "unreserved")

    def __init__(self) -> None:
        self.sink: ResponseSink | None = None
        self.unreserved: Exchange | None = None
        """It has no reservation, and nobody said yet that it got a slot."""
        self.addressees: Addressees
        self._loss: tuple[Loss, str] | None = None

    def response_interim(self, head: ResponseHead) -> None:
        if self.sink is not None:
            self.sink.response_interim(head)

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        raise LocalProtocolError("a hop does not switch protocols")

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        exchange = self.unreserved
        if exchange is not None:
            for name, value in head.fields:
                if name == b"rhttp-worker":
                    self.unreserved = None
                    exchange.served(self.addressees.of(value))
        self._loss = read_loss(head)
        if self._loss is None and self.sink is not None:
            self.sink.response_head(head, has_content)

    def response_content(self, data: bytes) -> None:
        if self.sink is not None:
            self.sink.response_content(data)

    def response_flush(self) -> None:
        if self.sink is not None:
            self.sink.response_flush()

    def response_end(self, trailers: Fields) -> None:
        sink, self.sink = self.sink, None
        loss, self._loss = self._loss, None
        if sink is not None:
            if loss is None:
                sink.response_end(trailers)
            else:
                sink.response_abort(loss[0], loss[1])

    def response_abort(self, loss: Loss, detail: str) -> None:
        sink, self.sink = self.sink, None
        self._loss = None
        if sink is not None:
            sink.response_abort(loss, detail)

    def request_blocked(self) -> None:
        if self.sink is not None:
            self.sink.request_blocked()

    def request_unblocked(self) -> None:
        if self.sink is not None:
            self.sink.request_unblocked()


class HopEnd(ClientEnd):
    """The client end of a hop: what an exchange has for a worker that another one of ours holds."""

    __slots__ = ("_answer", "_edge", "pool", "slot")

    def __init__(self, owner: ClientOwner, limits: Http1Limits, wheel: TimerWheel) -> None:
        """``limits`` are those of the edges."""
        super().__init__(owner, limits_between(limits), wheel)
        self._edge = limits
        self._answer = _Answer()
        self.pool: str
        """Whose slot it is."""
        self.slot = 0
        """The number of the reservation that the next request is for; 0: it has none."""

    @property
    def has_sent(self) -> bool:
        """Whether a byte of the request under way, or of the last one, was given to the link."""
        return self._given > 0

    @property
    def was_refused(self) -> bool:
        """Whether the last request had no reservation and got no slot."""
        return self._answer.unreserved is not None

    def reserve(self, slot: int, limits: Http1Limits) -> None:
        """The next request is for this reservation; the edges' limits are these from now on."""
        self.slot = slot
        self._answer.unreserved = None
        self._prepare(limits)

    def pass_unreserved(self, exchange: Exchange, addressees: Addressees, limits: Http1Limits) -> None:
        """The next request is this exchange's, for any slot that is free; it is told whose it was."""
        self.slot = 0
        self._answer.unreserved = exchange
        self._answer.addressees = addressees
        self._prepare(limits)

    def _prepare(self, limits: Http1Limits) -> None:
        self._given = 0
        if limits is not self._edge:
            self._edge = limits
            self.limits = limits_between(limits)

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
        """Begin a request; see `rhttp.ends.ResponseEnd.head`. The last field must be ``Rhttp-Request-Id``."""
        self._answer.sink = sink
        exchange = self._answer.unreserved
        slot = b"%d" % self.slot if exchange is None else unreserved_text(self.pool, exchange.worker, exchange.line)
        blocks = (*blocks, one_field(b"Rhttp-Slot", slot))
        super().head(self._answer, method, target, authority, blocks, length, upgrade=upgrade)
