"""Metrics: what a scrape finds, in the format that Prometheus reads, and nothing else on that listener."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.bench import POOL, Bench, client_peer

from gateway.counters import Counters
from gateway.metrics import _COUNTS, MetricsListener, measure, metrics_text
from rhttp.timers import TimerWheel

CONFIG = POOL + '[masters.jobs]\nurls = ["http://127.0.0.1:1"]\n[pools.far]\nmode = "relay"\nmaster = "jobs"\n'


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(CONFIG)
    yield made
    made.close()


def scrape(bench: Bench) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    text = metrics_text({"": measure(bench.services)}).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_name_every_counter(bench: Bench) -> None:
    """A counter that is raised but not told of would be missed by everybody."""
    told_as_gauges = {"connections"}
    untold = {"relayed"}  # told as slots of its pool
    assert set(Counters().as_dict()) - told_as_gauges - untold == set(_COUNTS)
    samples = scrape(bench)
    assert all((f"rhttp_{name}_total", ()) in samples for name in _COUNTS)


def test_metrics_tell_the_present_numbers(bench: Bench) -> None:
    """Counters, connections by role, slots by state, requests under way."""
    worker, _idle = bench.worker("w1"), bench.worker("w2")
    master, client = bench.requester(), bench.requester(client_peer())
    client.ask("/-/pools")
    master.ask("/-/pools/render/any/x")
    master.link.reset()
    waiting = [bench.requester() for _ in range(3)]
    for asker in waiting:
        asker.ask("/-/pools/render/any/y", "GET", "Prefer: wait=5")
    samples = scrape(bench)
    assert samples["rhttp_refused_total", ()] == 1
    assert samples["rhttp_unauthenticated_total", ()] == 1
    assert samples["rhttp_dispatches_total", ()] == 1
    assert samples["rhttp_dispatches_failed_total", ()] == 1
    assert samples["rhttp_reversed_opened_total", ()] == 2
    assert worker.link.aborted
    assert samples["rhttp_role_connections", (("role", "worker"),)] == 1
    assert samples["rhttp_role_connections", (("role", "client"),)] == 1
    assert samples["rhttp_role_connections", (("role", "master"),)] == 3
    assert samples["rhttp_connections", ()] == 5
    assert samples["rhttp_pool_slots", (("pool", "render"), ("state", "free"))] == 0
    assert samples["rhttp_pool_slots", (("pool", "render"), ("state", "busy"))] == 1
    assert samples["rhttp_pool_waiting", (("pool", "render"),)] == 2
    assert samples["rhttp_pool_slots", (("pool", "far"), ("state", "relayed"))] == 0
    assert samples["rhttp_exchanges", ()] == 3
    assert samples["rhttp_generation", ()] == 1
    assert samples["rhttp_draining", ()] == 0
    bench.services.draining = True
    bench.services.elapsed += 7
    samples = scrape(bench)
    assert samples["rhttp_draining", ()] == 1
    assert samples["rhttp_state_age_seconds", ()] == pytest.approx(7, abs=0.01)


def test_metrics_carry_no_identity(bench: Bench) -> None:
    """Who works or asks here is for the audit log; names as labels also grow without bound."""
    bench.worker("secret-worker")
    bench.requester(client_peer("secret-client")).ask("/-/pools")
    assert b"secret" not in metrics_text({"": measure(bench.services)})


# ---- the listener ----


@pytest.fixture
async def port() -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    listener = MetricsListener(loop, sock, TimerWheel(loop.time()), lambda _, then: then(b"rhttp_up 1\n"))
    await listener.start()
    yield sock.getsockname()[1]
    listener.close()
    await asyncio.sleep(0)


async def ask(port: int, data: bytes) -> bytes:
    """Everything that the listener answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("line", "status", "content"),
    [
        (b"GET /metrics", 200, b"rhttp_up 1\n"),
        (b"GET /metrics?x=1", 200, b"rhttp_up 1\n"),
        (b"HEAD /metrics", 200, b""),
        (b"POST /metrics", 405, b"method not allowed\n"),
        (b"GET /", 404, b"not found\n"),
        (b"GET /-/health", 404, b"not found\n"),
        (b"GET /-/pools", 404, b"not found\n"),
        (b"GET /metrics/", 404, b"not found\n"),
        (b"CONNECT /metrics", 501, b"method-not-implemented\n"),
        (b"nonsense", 400, b"bad-request\n"),
    ],
)
async def test_metrics_listener_serves_metrics_and_nothing_else(
    port: int, line: bytes, status: int, content: bytes
) -> None:
    """One path, two methods; bytes that are no request are answered and closed."""
    answer = await ask(port, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"\r\n\r\n" + content)
    if status == 200:
        assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer
    if status == 405:
        assert b"\r\nAllow: GET, HEAD\r\n" in answer


async def test_metrics_listener_keeps_a_scrapers_connection(port: int) -> None:
    """Prometheus scrapes for years over one."""
    answer = await ask(
        port,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2
        + b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 ") == 3
