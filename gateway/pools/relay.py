"""Relay pools: the role switch goes to a master that speaks Reverse HTTP itself; from its 101 on, bytes.

Admission, revocation, expiry and limits hold as for hosted pools; the slots are the master's affair.

Trust: meets untrusted workers and masters; after the switch it reads nothing of what passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gateway.admission.checks import Refusal, check_again, circumstances
from gateway.admission.request_record import RequestRecord
from gateway.config.values import PoolConfig
from gateway.core.context import ProcessContext
from gateway.exchange.account import record_sent
from gateway.exchange.masters import MasterPool
from gateway.http.fields import response_fields
from gateway.http.responses import fail
from gateway.pools.relayed import Relayed
from gateway.pools.slots import stamp
from gateway.pools.tcp_keepalive import keep_alive
from rhttp.ends import Link
from rhttp.errors import Loss
from rhttp.http1.client import SURPLUS, ClientEnd
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, Fields, ResponseHead
from rhttp.reversal.upgrade import UpgradeVariant

if TYPE_CHECKING:
    from gateway.ingress.connection import Connection


class _Asking:
    """Waits for the master's answer to the upgrade request. It is the sink of both ends meanwhile."""

    __slots__ = ("_call", "_client", "_end", "_pool", "_switched", "_variant", "gone")

    def __init__(self, pool: RelayPool, record: RequestRecord, end: ServerEnd, variant: UpgradeVariant) -> None:
        self._pool = pool
        self._call = record
        self._end = end
        self._variant = variant
        self._client: ClientEnd | None = None
        self._switched = False
        self.gone = False
        end.sink = self

    def ask(self, client: ClientEnd, path: bytes, authority: bytes, blocks: Blocks) -> None:
        """Send the upgrade request."""
        self._client = client
        client.head(self, self._call.head.method, path, authority, blocks, 0, upgrade=self._variant.token)
        client.flush()

    # RequestSink: the worker's side

    def request_content(self, data: bytes) -> None:
        """Cannot come: an upgrade request with content was refused."""

    def request_flush(self) -> None:
        """Nothing is kept back."""

    def request_end(self, trailers: Fields) -> None:
        """Cannot come."""

    def request_abort(self, detail: str) -> None:
        """The worker is gone."""
        self._stop("worker gone")

    def request_half_closed(self) -> None:
        """A worker that will never answer a request is none."""
        self._stop("half closed")
        self._end.shutdown()  # what an earlier request was answered still leaves

    def _stop(self, detail: str) -> None:
        if not self.gone:
            self.gone = True
            if self._client is not None:
                self._client.release()
            self._pool.not_opened(self._call, "aborted", None, detail)

    def response_blocked(self) -> None:
        """The worker reads its refusal slowly."""
        if self._client is not None:
            self._client.pause()

    def response_unblocked(self) -> None:
        """It caught up."""
        if self._client is not None:
            self._client.resume()

    # ResponseSink: the master's side

    def response_interim(self, head: ResponseHead) -> None:
        """Interim answers mean nothing to a worker that waits for 101."""

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        """The master agrees."""
        self._switched = True
        self.gone = True
        self._pool.open(self._call, self._end, link, self._variant, surplus)

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The master's final answer passes, and the connection closes behind it."""
        self._end.last_request()
        if not self._pool.not_opened(self._call, "refused", head.status, "master_refused"):
            self.gone = True
            client, self._client = self._client, None
            if client is not None:
                client.release()
            self._pool.withhold(self._call, self._end)
            return
        self._end.head(head.status, (response_fields(head, route=True),), head.length)

    def response_content(self, data: bytes) -> None:
        """Content of that answer."""
        self._end.content(data)

    def response_flush(self) -> None:
        """The batch is over."""
        self._end.flush()

    def response_end(self, trailers: Fields) -> None:
        """That answer is complete."""
        self.gone = True
        if self._client is not None:
            self._client.last = self._call.request_id
        self._client = None
        self._end.end([])

    def response_abort(self, loss: Loss, detail: str) -> None:
        """The master did not agree in words that we understand."""
        if self.gone:
            return
        self.gone = True
        self._client = None
        self._end.last_request()
        if self._end.status is not None:
            self._end.abort()
            return
        status, slug = (504, "deadline") if loss is Loss.DEADLINE else (502, "master-invalid")
        if loss in (Loss.SENT_NO_ANSWER, Loss.NOT_SENT, Loss.CUT):
            slug = "master-lost"
        self._pool.failed(self._call, self._end, status, slug, detail)

    def request_blocked(self) -> None:
        """One head always fits."""

    def request_unblocked(self) -> None:
        """One head always fits."""


class RelayPool:
    """One relay pool."""

    mode = "relay"

    def __init__(self, process: ProcessContext, config: PoolConfig) -> None:
        self._process = process
        self.config = config
        self._relayed: set[Relayed] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """The configuration has it no more: switches that are under way do not come about."""
        self._is_stopped = True

    def adopt(self, config: PoolConfig) -> None:
        """Go on under a new configuration; connections stay."""
        self.config = config

    def ask(
        self,
        record: RequestRecord,
        end: ServerEnd,
        variant: UpgradeVariant,
        master: MasterPool,
        blocks: Blocks,
        failed: Callable[[int, str, str], None],
    ) -> None:
        """Send the worker's upgrade request to the master; what follows is its answer."""
        asking = _Asking(self, record, end, variant)
        task = self._process.loop.create_task(self._ask(asking, record, master, blocks, variant, failed))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(
        self,
        asking: _Asking,
        record: RequestRecord,
        master: MasterPool,
        blocks: Blocks,
        variant: UpgradeVariant,
        failed: Callable[[int, str, str], None],
    ) -> None:
        process = self._process
        client = ClientEnd(self, process.generation.limits, process.wheel)
        if not process.may_send():
            asking.gone = True
            failed(503, "audit-unavailable", "audit")
            return
        transport = await master.dial_raw(client)
        if asking.gone:
            if transport is not None:
                transport.abort()
            return
        if transport is None:
            asking.gone = True
            failed(502, "master-unreachable", "master_unreachable")
            return
        if not record_sent(process, record):
            asking.gone = True
            transport.abort()
            failed(503, "audit-unavailable", "audit")
            return
        path = (self.config.path or f"/-/reverse/{self.config.name}").encode("ascii")
        asking.ask(client, path, master.host_for(record.head.authority), blocks)

    def client_idle(self, end: ClientEnd) -> None:
        """A refused switch leaves a connection that nobody uses again."""
        end.close()

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """Its sink was told, but not of what came behind the answer."""
        if detail == SURPLUS:
            self._process.record_surplus(self.config.master, None, end.last)

    def open(
        self, record: RequestRecord, end: ServerEnd, master: Link, variant: UpgradeVariant, surplus: bytes
    ) -> None:
        """The master agreed: audit line, 101, bytes. What is opened is closed by `forget`, whatever happens to it."""
        process = self._process
        owner = cast("Connection", end.owner)
        if not self._may_open(record, end, owner):
            master.abort()
            return
        admitted = record.admitted
        assert admitted is not None
        link, early = end.detach()
        process.registry.remove(owner)
        relayed = Relayed(
            self,
            record.peer,
            variant.name,
            record.request_id,
            process.elapsed,
            circumstances(record, admitted.digest, process.epoch),
            worker=link,
            master=master,
        )
        self._relayed.add(relayed)
        process.registry.add(relayed)
        if early:
            # RFC 9931: bytes before the 101 are either smuggled or a fault.
            relayed.abort("bytes before the switch")
            return
        process.counters.reversed_opened += 1
        process.counters.relayed += 1
        for side in (link, master):  # neither end can tell by itself that the other one vanished
            keep_alive(side, process.generation.config.limits)
        link.write(variant.answer)
        relayed.join(surplus)

    def _may_open(self, record: RequestRecord, end: ServerEnd, owner: Connection) -> bool:
        """Whether the switch still may come about: asking the master can take minutes. If not, it was answered."""
        process = self._process
        if end.link.is_closing():
            self.not_opened(record, "aborted", None, "worker gone")  # its end will hear of it in a moment
            return False
        if self._is_stopped:
            self.failed(record, end, 503, "no-slot", "pool_gone")
            return False
        if process.draining:
            self.failed(record, end, 503, "draining", "draining")
            return False
        assert record.admitted is not None
        admitted = check_again(process, record, record.admitted)
        if isinstance(admitted, Refusal):
            end.last_request()
            owner.refuse(end, record, admitted)
            return False
        if not process.record("reverse.opened", record.audit("allowed", status=101)):
            self.failed(record, end, 503, "audit-unavailable", "audit")
            return False
        return True

    def not_opened(self, record: RequestRecord, outcome: str, status: int | None, reason: str) -> bool:
        """Audit a switch that did not come about; False: it cannot be written."""
        return self._process.record("request", record.audit(outcome, status=status, reason=reason))

    def withhold(self, record: RequestRecord, end: ServerEnd) -> None:
        """The master's answer has no audit line and so may not leave."""
        fail(self._process, end, record, 500, "answer-withheld")

    def failed(self, record: RequestRecord, end: ServerEnd, status: int, slug: str, detail: str) -> None:
        """Answer in the master's place."""
        self.not_opened(record, "failed", status, detail)
        end.last_request()
        fail(self._process, end, record, status, slug)

    def record_cut(self, relayed: Relayed, reason: str) -> None:
        """Audit that we ended it."""
        self._process.record_cut(relayed.peer, "tls", reason)

    def limit_half(self, relayed: Relayed) -> None:
        """Give a half-closed connection a time to end in."""
        self._process.wheel.set(relayed, self._process.generation.config.limits.content_timeout)

    def forget(self, relayed: Relayed) -> bool:
        """Take a connection off the books; False when it was off already."""
        if relayed not in self._relayed:
            return False
        self._relayed.discard(relayed)
        self._process.wheel.forget(relayed)
        process = self._process
        process.registry.remove(relayed)
        process.record_closed(
            relayed.peer, self.config.name, relayed.request_id, relayed.opened, relayed.ended or "closed"
        )
        return True

    def connections(self) -> list[Relayed]:
        """All relayed connections."""
        return list(self._relayed)

    def slots(self) -> tuple[int, int | None]:
        """Slots in all; how many are free only the master knows."""
        return len(self._relayed), None

    def describe(self) -> dict[str, object]:
        """The pool as ``GET /-/pools/{pool}`` shows it; what is free only the master knows."""
        workers: dict[str, list[Relayed]] = {}
        for relayed in self._relayed:
            workers.setdefault(relayed.peer.name, []).append(relayed)
        return {
            "pool": self.config.name,
            "mode": self.mode,
            "slots": {"total": len(self._relayed), "free": None},
            "waiting": 0,
            "workers": [
                {
                    "name": name,
                    "protocol": held[0].protocol,
                    "slots": len(held),
                    "busy": None,
                    "since": stamp(self._process.time_of_day(min(r.opened for r in held))),
                    "labels": dict(held[0].peer.principal.labels),
                    "instance": None,
                }
                for name, held in workers.items()
            ],
        }
