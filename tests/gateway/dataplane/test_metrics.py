"""Metrics: what a scrape finds, in the format that Prometheus reads, and nothing else on that listener."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.bench import POOL, Bench, PlaneBench, client_peer

from gateway.config.values import MetricsConfig, TcpAddress
from gateway.core.counters import Counters
from gateway.dataplane.metrics import _COUNTS, measure, metrics_text
from gateway.http.hosts import HostMatcher
from gateway.ingress.acceptor import Acceptor
from gateway.ingress.metrics_handler import metrics_listener
from gateway.state.lists import PublishedLists, RevocationList
from rhttp import build

CONFIG = POOL + '[masters.jobs]\nurls = ["http://127.0.0.1:1"]\n[pools.far]\nmode = "relay"\nmaster = "jobs"\n'


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(CONFIG)
    yield made
    made.close()


def scrape(bench: Bench) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    text = metrics_text({"": measure(bench.process)}).decode()
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


def test_metrics_say_which_build_it_is(bench: Bench) -> None:
    """A gateway that lost its compiler in an upgrade shows beside its numbers."""
    assert scrape(bench)["rhttp_build_info", (("kind", build.KIND), ("version", build.version()))] == 1.0


def test_metrics_tell_how_long_lists_are_good(bench: Bench) -> None:
    """A list that nobody replaces shows long before it is over; without lists there is no such number."""
    assert not any(name == "rhttp_revocation_list_seconds" for name, _ in scrape(bench))
    end = int(bench.process.epoch) + 600
    one = RevocationList(der=b"", number=1, this_update=0, next_update=end, tag="")
    bench.process.lists = PublishedLists(version=1, lists={"worker": one})
    left = scrape(bench)["rhttp_revocation_list_seconds", (("issuer", "worker"),)]
    assert left == pytest.approx(end - bench.process.epoch)


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
    bench.process.draining = True
    bench.process.elapsed += 7
    samples = scrape(bench)
    assert samples["rhttp_draining", ()] == 1
    assert samples["rhttp_state_age_seconds", ()] == pytest.approx(7, abs=0.01)


def test_metrics_carry_no_identity(bench: Bench) -> None:
    """Who works or asks here is for the audit log; names as labels also grow without bound."""
    bench.worker("secret-worker")
    bench.requester(client_peer("secret-client")).ask("/-/pools")
    assert b"secret" not in metrics_text({"": measure(bench.process)})


# ---- the listener ----


@contextlib.asynccontextmanager
async def listening(
    home: Path, limits: str = "", sock: socket.socket | None = None, text: bytes = b"rhttp_up 1\n"
) -> AsyncIterator[Acceptor]:
    """A metrics listener with one line to tell; its port is that of `sock`."""
    plane = await PlaneBench.start(home, POOL, limits=limits)
    sock = sock or socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(plane.process, metrics_listener(plane.process, sock, lambda _, then: then(text)))
    acceptor.start()
    yield acceptor
    acceptor.end()
    for holder in acceptor.places.holders():
        holder.end.abort()
    await asyncio.sleep(0)
    plane.close()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with listening(tmp_path, sock=sock):
            yield sock.getsockname()[1]


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
    answer = await ask(port, line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
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
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
        + b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost", 200),
        (b"LOCALHOST.", 200),
        (b"localhost:9100", 200),
        (b"127.0.0.1", 200),
        (b"127.0.0.1:1", 200),
        (b"[::1]", 200),
        (b"[0:0:0:0:0:0:0:1]:80", 200),
        (b"rebound.example", 421),
        (b"localhost.evil.example", 421),
        (b"127.0.0.2", 421),
        (b"[::2]", 421),
        (b"", 400),
        (b"a b", 400),
    ],
)
async def test_metrics_listener_answers_to_its_own_names_only(port: int, host: bytes, status: int) -> None:
    """A page whose name somebody points at loopback reads nothing; every spelling of loopback is the same."""
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"rhttp_up" in answer) == (status == 200)


@pytest.mark.parametrize(
    "line",
    [b"Origin: http://localhost", b"Origin: null", b"Sec-Fetch-Site: same-origin", b"SEC-FETCH-SITE: cross-site"],
)
@pytest.mark.parametrize("path", [b"/metrics", b"/x"])
async def test_metrics_listener_answers_no_web_page(port: int, line: bytes, path: bytes) -> None:
    """Whatever it asks for, and whoever it says it is."""
    answer = await ask(port, b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\nConnection: close\r\n\r\n" % (path, line))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"rhttp_up" not in answer


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        (b"192.0.2.4", True),
        (b"[2001:db8::1]:9100", True),
        (b"gw.example.com", True),
        (b"localhost", True),  # in the server's certificate
        (b"prometheus.example", False),
        (b"not/one", None),
    ],
)
async def test_metrics_listener_for_other_machines_knows_addresses_and_its_names(
    tmp_path: Path, host: bytes, covered: bool | None
) -> None:
    """A page has a name; under a bare address there is only who has that address."""
    async with listening(tmp_path) as acceptor:
        generation = acceptor._process.generation
        far = MetricsConfig(listen=TcpAddress(host="0.0.0.0", port=9100))
        generation.config = replace(generation.config, metrics=far)
        generation.authorities = HostMatcher(["localhost", "gw.example.com"])
        assert acceptor.listener.handlers[b"http/1.1"]._covers(host) == covered


@pytest.mark.parametrize("extra", [0, 1, 5])
async def test_metrics_listener_is_bounded_and_lets_a_scraper_in(tmp_path: Path, extra: int) -> None:
    """However many connections stay silent or idle: the longest silent go, with a line, and a scrape is answered."""
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.ExitStack() as stack:
        async with listening(tmp_path, "metrics_connections = 4\n", sock) as acceptor:
            address = sock.getsockname()
            crowd = []
            for _ in range(3 + extra):
                crowd.append(stack.enter_context(socket.create_connection(address, timeout=20)))
                await asyncio.sleep(0.01)
            line = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert (await ask(address[1], line)).startswith(b"HTTP/1.1 200 ")
            counts = acceptor.counts
            assert counts.accepted == 4 + extra
            assert counts.connections <= 4
            assert counts.given_up >= extra
            for late in crowd[:extra]:  # the first to come are the first to go
                assert await asyncio.to_thread(late.recv, 1) == b""


async def test_answer_under_way_is_no_place_for_others(tmp_path: Path) -> None:
    """A reader that takes its last answer slowly gets it whole, however many come meanwhile."""
    text = b"x" * (16 << 20)
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.ExitStack() as stack:
        async with listening(tmp_path, "metrics_connections = 4\n", sock, text) as acceptor:
            address = sock.getsockname()
            slow = stack.enter_context(socket.create_connection(address, timeout=20))
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while not any(holder.link.get_write_buffer_size() for holder in acceptor.places.holders()):
                await asyncio.sleep(0.01)
            crowd = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(9)]
            while acceptor.counts.given_up < 6:
                await asyncio.sleep(0.01)
            whole = await asyncio.to_thread(lambda: b"".join(iter(lambda: slow.recv(1 << 20), b"")))
            assert whole.endswith(b"\r\n\r\n" + text)
            assert len(crowd) == 9
