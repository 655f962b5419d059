"""The gateway's own paths: everything under ``/-/``, and nothing else.

Trust: meets untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from auth.policy import ResourceType
from auth.verifier import Authenticated
from gateway.admin.status import merge_pools
from gateway.admission import checks
from gateway.admission.checks import Refused
from gateway.admission.request_record import Admitted, RequestRecord
from gateway.core.context import ProcessContext
from gateway.http.responses import answer_json, refuse
from gateway.ingress.event_stream import EventStream
from gateway.ingress.gather import ask_all
from gateway.ingress.role_switch import ask_reverse
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from rhttp.http1.fields import values
from rhttp.http1.server import ServerEnd

if TYPE_CHECKING:
    from gateway.ingress.connection import Connection

_READS: Final = frozenset({b"GET", b"HEAD"})
_WAIT: Final = re.compile(rb'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_LABEL: Final = re.compile(r"([^=]{1,63})=(.{0,255})")
_POOL: Final[ResourceType] = "Pool"


def serve(
    process: ProcessContext, connection: Connection, end: ServerEnd, record: RequestRecord, digest: Authenticated | None
) -> None:
    """Answer a request for one of our own paths; unlisted ones are 404 and never routed."""
    words = record.target.split(b"/")[2:]  # "/-/pools/render" is "", "-", "pools", "render"
    desk = _Desk(process, connection, end, record, digest)
    match words:
        case [b"health"]:
            desk.health()
        case [b"reverse", pool] if pool and not connection.is_local:
            desk.reverse(pool.decode("ascii"))
        case [b"pools"]:
            desk.pools()
        case [b"pools", pool] if pool:
            desk.pool(pool.decode("ascii"))
        case [b"pools", pool, b"events"] if pool:
            desk.events(pool.decode("ascii"))
        case [b"pools", pool, b"any", *rest] if pool and rest:
            desk.dispatch(pool.decode("ascii"), None, b"/" + b"/".join(rest))
        case [b"pools", pool, b"workers", worker, *rest] if pool and worker and rest:
            desk.dispatch(pool.decode("ascii"), worker.decode("ascii"), b"/" + b"/".join(rest))
        case _:
            refuse(process, end, record, 404, "not-found", "no_such_path")


class _Desk:
    """One request for an own path."""

    __slots__ = ("_call", "_connection", "_digest", "_end", "_process")

    def __init__(
        self,
        process: ProcessContext,
        connection: Connection,
        end: ServerEnd,
        record: RequestRecord,
        digest: Authenticated | None,
    ) -> None:
        self._process = process
        self._connection = connection
        self._end = end
        self._call = record
        self._digest = digest

    def _ask(self, action: str, pool: str, *, protocol: str = "http/1.1") -> Admitted | Refused:
        return checks.check_policy(
            self._process,
            self._call,
            self._connection.memory,
            self._digest,
            action,
            _POOL,
            pool,
            protocol=protocol,
            tls_version=self._connection.tls_version,
        )

    def _admit(self, action: str, pool: str, *, protocol: str = "http/1.1") -> Admitted | None:
        decision = self._ask(action, pool, protocol=protocol)
        if isinstance(decision, Refused):
            self._connection.refused(self._end, self._call, decision)
            return None
        self._call.admitted = decision
        return decision

    def _refuse(self, status: int, slug: str, reason: str, extra: bytes = b"") -> None:
        refuse(self._process, self._end, self._call, status, slug, reason, extra=extra)

    def _only_reads(self) -> bool:
        if self._call.head.method in _READS:
            return True
        self._refuse(405, "method-not-allowed", "method", b"Allow: GET, HEAD\r\n")
        return False

    def health(self) -> None:
        """Serving or not; needs a certificate and nothing else."""
        if not self._only_reads():
            return
        draining = self._process.draining
        status = 503 if draining else 200
        answer_json(self._process, self._end, self._call, status, {"status": "draining" if draining else "serving"})

    def reverse(self, pool: str) -> None:
        """A worker asks to switch roles."""
        admitted = self._admit("reverse", pool, protocol="ptth/1.0")
        if admitted is not None:
            ask_reverse(self._process, self._connection, self._end, self._call, admitted, pool)

    def pools(self) -> None:
        """All pools that the peer may inspect, and the sum of their slots."""
        allowed: list[HostedPool | RelayPool] = []
        refused: Refused | None = None
        pools = serving_of(self._call.generation).pools
        for name in pools or ("",):
            decision = self._ask("inspect", name)
            if isinstance(decision, Refused):
                refused = decision
            else:
                self._call.admitted = decision
                if name in pools:
                    allowed.append(pools[name])
        if self._call.admitted is None:
            assert refused is not None
            self._connection.refused(self._end, self._call, refused)
            return
        if not self._only_reads():
            return
        names = [pool.config.name for pool in allowed]

        def answer(told: Mapping[int, Any]) -> None:
            pools: list[Any] = merge_pools([[pool.describe() for pool in allowed], *map(_named(names), told.values())])
            slots = [pool["slots"] for pool in pools]
            total, free = (sum(one[key] or 0 for one in slots) for key in ("total", "free"))
            value = {"slots": {"total": total, "free": free}, "pools": pools}
            answer_json(self._process, self._end, self._call, 200, value)

        ask_all(self._process, self._end, "pools", answer, self._gone)

    def pool(self, name: str) -> None:
        """One pool."""
        if self._admit("inspect", name) is None or not self._only_reads():
            return
        pool = serving_of(self._call.generation).pools.get(name)
        if pool is None:
            self._refuse(404, "not-found", "no_pool")
            return
        here = pool

        def answer(told: Mapping[int, Any]) -> None:
            merged = merge_pools([[here.describe()], *map(_named([name]), told.values())])
            answer_json(self._process, self._end, self._call, 200, merged[0])

        ask_all(self._process, self._end, f"pool {name}", answer, self._gone)

    def _gone(self, detail: str) -> None:
        """Whoever asked left while other processes were asked."""
        self._process.record("request", self._call.audit("aborted", reason=detail))

    def events(self, name: str) -> None:
        """What happens in a pool, as server-sent events."""
        if self._admit("inspect", name) is None:
            return
        if self._call.head.method != b"GET":
            self._refuse(405, "method-not-allowed", "method", b"Allow: GET\r\n")
            return
        pool = serving_of(self._call.generation).pools.get(name)
        if not isinstance(pool, HostedPool):
            self._refuse(404, "not-found", "no_pool" if pool is None else "pool_is_relayed")
            return
        process = self._process
        if len(process.streams) >= process.generation.config.limits.event_streams:
            self._refuse(503, "overloaded", "event_streams")
            return
        if not process.record("request", self._call.audit("allowed", status=200)):
            self._refuse(503, "audit-unavailable", "audit")
            return
        EventStream(process, self._end, self._call, pool)

    def dispatch(self, name: str, worker: str | None, path: bytes) -> None:
        """Send a request to a worker."""
        admitted = self._admit("dispatch", name)
        if admitted is None:
            return
        process, record = self._process, self._call
        pool = serving_of(record.generation).pools.get(name)
        if not isinstance(pool, HostedPool):
            self._refuse(404, "not-found", "no_pool" if pool is None else "pool_is_relayed")
            return
        if process.draining:
            self._refuse(503, "draining", "draining")
            return
        admitted.require("dispatch", _POOL, pool.config.name)
        target = path if record.query is None else path + b"?" + record.query
        self._connection.forward(
            self._end,
            record,
            admitted,
            pool,
            target,
            worker=worker,
            label=_preferred_label(record),
            wait=min(float(_preferred_wait(record)), process.generation.config.limits.wait_max),
            dispatch=True,
        )


def _named(names: list[str]) -> Callable[[Any], list[Any]]:
    """Picks the pools of these names out of what a process tells of its own."""
    return lambda pools: [pool for pool in pools if pool["pool"] in names]


def _preferred_wait(record: RequestRecord) -> int:
    """Seconds of ``Prefer: wait=N`` (RFC 7240 section 4.3); 0 without it."""
    for value in values(record.head.fields, b"prefer"):
        for member in value.split(b","):
            match = _WAIT.fullmatch(member.partition(b";")[0].strip())
            if match is not None:
                return int(match[1])
    return 0


def _preferred_label(record: RequestRecord) -> tuple[str, str] | None:
    """The wish in ``Rhttp-Prefer-Label: k=v``; one that is malformed is no wish."""
    for value in values(record.head.fields, b"rhttp-prefer-label"):
        match = _LABEL.fullmatch(value.decode("latin-1").strip())
        if match is not None:
            return match[1].strip(), match[2].strip()
    return None
