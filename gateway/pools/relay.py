"""Relay pools: the role switch goes to a master that speaks Reverse HTTP itself; from its 101 on, bytes.

Admission, revocation, expiry and limits hold as for hosted pools; the slots are the master's affair.

Trust: meets untrusted workers and masters; after the switch it reads nothing of what passes.
"""

from __future__ import annotations

import asyncio

from gateway.admission.checks import Refusal, check_again, circumstances
from gateway.admission.request_record import RequestRecord
from gateway.config.values import PoolConfig
from gateway.core.context import ProcessContext
from gateway.exchange.account import record_sent
from gateway.exchange.ends import ClientConnection
from gateway.exchange.masters import MasterPool
from gateway.http.responses import fail
from gateway.pools.relayed import Relayed
from gateway.pools.slots import stamp
from gateway.pools.switch_request import Switcher, SwitchRequest
from gateway.pools.tcp_keepalive import keep_alive
from rhttp.ends import SURPLUS, Link, RequestEnd
from rhttp.message import Blocks
from rhttp.reversal.upgrade import UpgradeVariant


class RelayPool:
    """One relay pool."""

    mode = "relay"

    def __init__(self, process: ProcessContext, config: PoolConfig) -> None:
        self._process = process
        self.config = config
        self._relayed: set[Relayed] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.config.name

    def stop(self) -> None:
        """The configuration has it no more: switches that are under way do not come about."""
        self._is_stopped = True

    def adopt(self, config: PoolConfig) -> None:
        """Go on under a new configuration; connections stay."""
        self.config = config

    def ask(
        self,
        switcher: Switcher,
        record: RequestRecord,
        end: RequestEnd,
        variant: UpgradeVariant,
        master: MasterPool,
        blocks: Blocks,
    ) -> None:
        """Send the worker's upgrade request to the master; what follows is its answer."""
        request = SwitchRequest(self, switcher, variant, record, end)
        task = self._process.loop.create_task(self._ask(request, master, blocks))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, request: SwitchRequest, master: MasterPool, blocks: Blocks) -> None:
        process = self._process
        if not process.may_send():
            request.fail(503, "audit-unavailable", "audit")
            return
        connection = await master.dial_apart(self)
        if request.over:
            if connection is not None:
                connection.abort()
            return
        if connection is None:
            request.fail(502, "master-unreachable", "master_unreachable")
            return
        if not record_sent(process, request.record):
            connection.abort()
            request.fail(503, "audit-unavailable", "audit")
            return
        path = (self.config.path or f"/-/reverse/{self.config.name}").encode("ascii")
        authority = master.host_for(request.record.head.authority)
        request.ask(connection.open(), path, authority, blocks)

    def client_idle(self, connection: ClientConnection) -> None:
        """A refused switch leaves a connection that nobody uses again."""
        connection.close()

    def client_closed(self, connection: ClientConnection, detail: str) -> None:
        """Its sink was told, but not of what came behind the answer."""
        if detail == SURPLUS:
            self._process.record_surplus(self.config.master, None, connection.last)

    def open(self, request: SwitchRequest, master: Link, surplus: bytes) -> None:
        """The master agreed: audit line, 101, bytes. What is opened is closed by `forget`, whatever happens to it."""
        process, record, end = self._process, request.record, request.end
        switcher, variant = request.switcher, request.variant
        if not self._may_open(record, end, switcher):
            master.abort()
            return
        admitted = record.admitted
        assert admitted is not None
        link, early = end.detach()
        process.registry.remove(switcher)
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

    def _may_open(self, record: RequestRecord, end: RequestEnd, switcher: Switcher) -> bool:
        """Whether the switch still may come about: asking the master can take minutes. If not, it was answered."""
        process = self._process
        if end.is_lost:
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
            switcher.refuse_switch(record, admitted)
            return False
        if not process.record("reverse.opened", record.audit("allowed", status=101)):
            self.failed(record, end, 503, "audit-unavailable", "audit")
            return False
        return True

    def not_opened(self, record: RequestRecord, outcome: str, status: int | None, reason: str) -> bool:
        """Audit a switch that did not come about; False: it cannot be written."""
        return self._process.record("request", record.audit(outcome, status=status, reason=reason))

    def withhold(self, record: RequestRecord, end: RequestEnd) -> None:
        """The master's answer has no audit line and so may not leave."""
        fail(self._process, end, record, 500, "answer-withheld")

    def failed(self, record: RequestRecord, end: RequestEnd, status: int, slug: str, detail: str) -> None:
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
        reason = "closed" if relayed.ended is None else relayed.ended
        process.record_closed(relayed.peer, self.config.name, relayed.request_id, relayed.opened, reason)
        return True

    def connections(self) -> list[Relayed]:
        """All relayed connections."""
        return list(self._relayed)

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
