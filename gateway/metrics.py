"""Metrics for Prometheus, and the listener that serves them and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.hosted import HostedPool
from gateway.services import Services
from rhttp.head import RequestHead
from rhttp.limits import Http1Limits
from rhttp.server import ServerEnd
from rhttp.timers import TimerWheel

_COUNTS: Final = {
    "requests": "Requests answered over routes and own paths.",
    "requests_failed": "Of these, without a whole answer.",
    "dispatches": "Requests dispatched to workers.",
    "dispatches_failed": "Of these, without a whole answer.",
    "refused": "Requests refused.",
    "unauthenticated": "Of these, 401.",
    "policy_denied": "Of these, denied by policy.",
    "handshakes_refused": "TLS handshakes that failed or were refused.",
    "reversed_opened": "Role switches.",
    "retries": "Requests sent once more.",
    "cut": "Live connections ended because a certificate, user or permission ended.",
    "audit_lost": "Audit lines that could not be written.",
}


class GatewayCollector(Collector):
    """Reads the counters when it is asked; the data path knows nothing of Prometheus."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """All metrics of this process."""
        services = self._services
        counters = services.counters
        for name, text in _COUNTS.items():
            yield CounterMetricFamily(f"rhttp_{name}", text, value=getattr(counters, name))
        yield GaugeMetricFamily("rhttp_connections", "Open connections.", value=counters.connections)
        roles = GaugeMetricFamily("rhttp_role_connections", "Open connections by role.", labels=["role"])
        for role, count in services.registry.by_role().items():
            roles.add_metric([role], count)
        yield roles
        yield GaugeMetricFamily("rhttp_exchanges", "Requests under way.", value=services.exchanges)
        slots = GaugeMetricFamily("rhttp_pool_slots", "Slots of a pool.", labels=["pool", "state"])
        waiting = GaugeMetricFamily("rhttp_pool_waiting", "Requests that wait for a slot.", labels=["pool"])
        for name, pool in services.generation.pools.items():
            if isinstance(pool, HostedPool):
                slots.add_metric([name, "free"], pool.pool.free)
                slots.add_metric([name, "busy"], pool.pool.total - pool.pool.free)
                waiting.add_metric([name], pool.pool.waiting)
            else:
                slots.add_metric([name, "relayed"], len(pool.connections()))
        yield slots
        yield waiting
        yield GaugeMetricFamily("rhttp_draining", "1 while shutting down.", value=int(services.draining))
        yield GaugeMetricFamily("rhttp_generation", "Configurations taken up.", value=services.generation.number)
        yield GaugeMetricFamily(
            "rhttp_state_age_seconds",
            "Time since state was read.",
            value=max(0.0, services.epoch - services.state_at),
        )


def metrics_text(services: Services) -> bytes:
    """The metrics in the text exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(services))
    return generate_latest(registry)


class MetricsListener:
    """``GET /metrics``; everything else is 404. No identity is asked: it listens on loopback unless told otherwise."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, wheel: TimerWheel, text: Callable[[], bytes]
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._wheel = wheel
        self._text = text
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept from now on."""
        self._server = await self._loop.create_server(self._make, sock=self._socket)

    def close(self) -> None:
        """Accept no more."""
        if self._server is not None:
            self._server.close()

    def _make(self) -> ServerEnd:
        return ServerEnd(self, Http1Limits(head_bytes=8192, keep_alive_timeout=120.0), self._wheel)

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Answer a scrape."""
        path = head.target.partition(b"?")[0]
        if path != b"/metrics":
            self._answer(end, 404, b"not found\n")
        elif head.method not in (b"GET", b"HEAD"):
            self._answer(end, 405, b"method not allowed\n", b"Allow: GET, HEAD\r\n")
        else:
            self._answer(end, 200, self._text())

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No request."""
        end.request = RequestHead()
        end.close_after = True
        self._answer(end, status, code.encode("ascii") + b"\n")

    def end_closed(self, end: ServerEnd) -> None:
        """Nothing to do."""

    @staticmethod
    def _answer(end: ServerEnd, status: int, body: bytes, extra: bytes = b"") -> None:
        kind = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        end.head(status, kind + extra, len(body))
        end.content(body)
        end.end([])
