"""A request that is passed on: nobody sees a difference, a loss is told as it was, a slot is held for a moment."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from support.bench import POOL as SMALL_POOL
from support.bench import Bench
from support.flows import Flow
from support.meshes import Meshed, request, until, with_a_worker_there

from gateway.cluster.frames import NONE, OFFER, MeshError, Wish
from gateway.cluster.hop import PassedEnd, limits_between
from gateway.cluster.reservations import RESERVED_FOR, Reservations
from gateway.exchange.passed import Unreserved, loss_field, read_loss
from gateway.pools.hosted import HostedPool
from rhttp.errors import Loss, RemoteProtocolError
from rhttp.http1.fields import block_text
from rhttp.http1.head import parse_response_head
from rhttp.http1.limits import Http1Limits
from rhttp.timers import TimerWheel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
ANY = "/-/pools/render/any/job"
RESERVED = "Rhttp-Prefer-Label: not=there"
"""With a wish that nobody fulfils, a slot is reserved before the request leaves."""
_IDS = re.compile(rb"(?i)(rhttp-request-id: )[0-9a-f]+")


ANSWERS = {
    "length": OK,
    "fields": (
        b"HTTP/1.1 201 Whatever\r\nX-One:  a \r\nSET-COOKIE: b=c\r\nset-cookie: d=e\r\nEmpty:\r\n"
        b"Content-Length: 0\r\n\r\n"
    ),
    "own date": b"HTTP/1.1 200 OK\r\nDate: yesterday\r\nContent-Length: 2\r\n\r\nok",
    "ours and of the hop": (
        b"HTTP/1.1 502 No\r\nRhttp-Loss: not-sent x\r\nrhttp_loss: cut\r\nRhttp-Worker: liar\r\nKeep-Alive: x\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\nVia: 1.0 w\r\nContent-Length: 3\r\n\r\nbad"
    ),
    "chunks and trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: X-Gone\r\n\r\n"
        b"4\r\nfour\r\n3\r\nend\r\n0\r\nX-Sum: 7\r\nX-Gone: 1\r\nRhttp-Loss: cut\r\n\r\n"
    ),
    "empty chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\nETag: "e"\r\nContent-Length: 77\r\n\r\n',
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nRhttp-Loss: cut\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    ),
    "obs-text": b"HTTP/1.1 200 \xfcber\r\nX-T: \xe4\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answer_is_the_same_wherever_the_worker_is(two: Meshed, answer: bytes, method: str) -> None:
    """Fields are stripped and set once: not a byte tells a client which process holds the worker."""
    here, there, worker = await with_a_worker_there(two)
    if method == "HEAD":
        answer = answer[: answer.rindex(b"\r\n\r\n", 0, answer.find(b"\r\n\r\n", answer.rfind(b"HTTP/1.1 ")) + 4) + 4]
    seen, asked = [], []
    for bench in (there, here):
        if worker.link.is_closing():
            worker = there.worker("w1")
            await here.sees(1, 1)
        asker = bench.requester()
        assert asker.ask(ANY + "?x=1", method, "X-Mine: 1", "Rhttp-Slot: 7", "Rhttp-Loss: cut") is None
        asked.append(_IDS.sub(rb"\1ID", await request(worker)))
        worker.link.receive(answer)
        await until(lambda bench=bench, asker=asker: asker.link.sent and not bench.process.exchanges)
        seen.append(_IDS.sub(rb"\1ID", asker.link.take()))
        await until(lambda: there.pool.pool.free == there.pool.pool.total)
    assert seen[0] == seen[1]
    assert asked[0] == asked[1], "nor does the worker see one"
    assert b"Rhttp-Slot" not in asked[1]
    assert [line["status"] for line in here.audit.of("dispatch")] == [
        line["status"] for line in there.audit.of("dispatch")
    ]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_request_content_and_trailers_are_the_same_wherever_the_worker_is(two: Meshed, framing: str) -> None:
    """The worker gets what a worker of this process would get."""
    here, there, worker = await with_a_worker_there(two)
    asked = []
    for bench in (there, here):
        asker = bench.requester()
        if framing == "length":
            assert asker.ask(ANY, "POST", content=b"work") is None
        else:
            head = f"POST {ANY} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            asker.send(head.encode() + b"4\r\nwork\r\n0\r\nX-Sum: 1\r\nRhttp-Slot: 2\r\n\r\n")
        await worker.link.until(
            lambda: worker.link.sent.endswith((b"work", b"\r\n0\r\nX-Sum: 1\r\n\r\n", b"1\r\n\r\n"))
        )
        asked.append(_IDS.sub(rb"\1ID", worker.taken()))
        worker.link.receive(OK)
        assert (await asker.answered()).status == 200
    assert asked[0] == asked[1]


async def test_worker_that_is_lost_is_told_as_it_was(two: Meshed) -> None:
    """Whoever admitted the request decides what follows, so it has to know: here, that it may have run."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY, "POST", content=b"x") is None
    await request(worker)
    worker.link.reset()
    assert (await asker.answered()).problem == "worker-lost"
    assert here.audit.of("dispatch")[-1]["reason"] == "sent: connection lost"
    assert [line["worker"] for line in there.audit.of("dispatch.sent")] == ["w1"]
    assert here.audit.of("dispatch.sent") == there.audit.of("dispatch") == []


async def test_connection_outlives_a_worker_that_was_lost(two: Meshed) -> None:
    """What a worker did says nothing about the processes between."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    worker.link.receive(b"nonsense")
    assert (await asker.answered()).problem == "worker-invalid"
    worker = there.worker("w2")
    await here.sees(1, 1)
    assert asker.ask(ANY) is None
    await request(worker)
    worker.link.receive(OK)
    assert (await asker.answered()).status == 200
    assert here.mesh.remotes[1].connections() == 1


async def test_bytes_behind_an_answer_do_not_touch_it_and_are_told(two: Meshed) -> None:
    """They are never taken for an answer to anything, and the log has the reason for which the worker was ended."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    worker.link.receive(OK + OK)
    assert (await asker.answered()).content == b"done"
    await here.sees(0, 0)
    assert [line["reason"] for line in there.audit.of("reverse.closed")] == ["surplus"]


async def test_bytes_of_a_worker_whose_slot_is_reserved_are_told(two: Meshed) -> None:
    """Nobody asked for them; the request that was to come is sent to nobody and says so."""
    here, there, worker = await with_a_worker_there(two)
    here.audit.stalls = True  # the slot is offered, and its request waits for its line
    asker = here.requester()
    assert asker.ask(ANY, "POST", RESERVED, content=b"x") is None
    await until(lambda: there.pool.pool.free == 0 and here.audit._waiting)
    worker.link.receive(b"unasked")
    assert [line["reason"] for line in there.audit.of("reverse.closed")] == ["surplus"]
    here.audit.stalls = False
    here.audit.flush()
    assert (await asker.answered()).problem == "no-slot"
    assert there.process.exchanges == 0


async def test_reservation_ends_with_the_request_that_leaves_unsent(two: Meshed) -> None:
    """A requester that goes away between offer and request costs the worker nothing."""
    here, there, worker = await with_a_worker_there(two)
    here.audit.stalls = True
    asker = here.requester()
    assert asker.ask(ANY, "GET", RESERVED) is None
    await until(lambda: there.pool.pool.free == 0 and here.audit._waiting)
    asker.link.reset()
    await until(lambda: there.pool.pool.free == 1)
    here.audit.stalls = False
    here.audit.flush()
    assert worker.taken() == b""
    assert not worker.link.is_closing()


async def test_reservation_for_which_no_request_comes_in_time_is_over(two: Meshed) -> None:
    """The slot goes to somebody else; the request that comes too late was not sent, and is tried again."""
    here, there, worker = await with_a_worker_there(two)
    here.audit.stalls = True
    asker = here.requester()
    assert asker.ask(ANY, "GET", RESERVED) is None
    await until(lambda: there.pool.pool.free == 0 and here.audit._waiting and there.mesh._passed)
    there.turn(RESERVED_FOR + 0.5)
    assert there.pool.pool.free == 1
    assert there.process.exchanges == 0
    here.audit.stalls = False
    here.audit.flush()
    await request(worker)
    worker.link.receive(OK)
    assert (await asker.answered()).status == 200
    assert [line["outcome"] for line in here.audit.of("dispatch.sent")] == ["sent", "sent"]
    assert here.process.counters.retries == 1


async def test_reservations_end_with_the_process_that_has_them(two: Meshed) -> None:
    """Nobody holds a slot for a process that is gone."""
    here, there, _worker = await with_a_worker_there(two)
    here.audit.stalls = True
    asker = here.requester()
    assert asker.ask(ANY, "GET", RESERVED) is None
    await until(lambda: there.pool.pool.free == 0)
    here.die()
    await until(lambda: there.pool.pool.free == 1)
    here.audit.stalls = False
    here.audit.flush()


ALL = 1 << 20


def slow_flow(content: int, answer: int) -> Flow:
    """A flow whose worker, in another process, has the head of a request with so much content, which is on its way."""
    flow = Flow(is_remote=True, sizes=[(content, answer)])
    flow.requester.link.drain()
    flow.ask(len(flow.requests))
    for _ in range(4):  # a want, an offer, the request
        flow.pump(ALL)
    return flow


def test_worker_that_reads_slowly_is_not_cut_while_it_reads() -> None:
    """A hundred bytes in twenty seconds: as long as the worker moves, both processes wait for it."""
    flow = slow_flow(50_000, 10)
    for _ in range(503):
        flow.workers[-1].link.drain(100)
        flow.wait(20.0)
        flow.pump(ALL)
    assert flow.workers[-1].link.sent.endswith(b"x" * 50_000)
    assert not flow.requester.link.is_closing()
    flow.finish()
    assert flow.answers_seen() == 1
    flow.check_over()
    flow.close()


def test_worker_that_answers_slowly_is_not_cut_while_it_answers() -> None:
    """Nor one that takes its time for what it says."""
    flow = slow_flow(10, 300)
    flow.workers[-1].link.drain()
    flow.answer(40)  # its head, for which there is one time in all
    for _ in range(340):
        flow.answer(1)
        flow.wait(20.0)
        flow.pump(ALL)
    assert flow.requester.link.sent.endswith(b"y" * 300)
    assert [line["outcome"] for line in flow.here.audit.of("dispatch")] == ["allowed"]
    flow.check_over()
    flow.close()


def test_worker_that_stops_reading_is_cut_and_told_of_as_any_other() -> None:
    """The process that holds it has the deadline; the one that asked hears which it was."""
    flow = slow_flow(50_000, 10)
    for _ in range(5):
        flow.wait(30.0)
        flow.pump(ALL)
    assert b"urn:rhttp:problem:deadline" in flow.requester.link.sent
    (line,) = flow.here.audit.of("dispatch")
    assert line["reason"] == "deadline: no progress in time"
    assert flow.there.audit.of("reverse.closed")[0]["reason"] == "no progress in time"
    flow.check_over()
    flow.close()


class Reserving:
    """The reservations of another process, without that process."""

    def __init__(self, bench: Bench) -> None:
        self.said: list[tuple[int, int, bytes]] = []
        self.bench = bench
        self.table = Reservations(bench.process, self.hosted, lambda *what: self.said.append(what))

    def hosted(self, name: str) -> HostedPool | None:
        return self.bench.pool if name == "render" else None

    def want(self, number: int, **wish: bool) -> None:
        self.table.want(number, Wish("render", **wish))


@pytest.fixture
async def reserving() -> AsyncIterator[Reserving]:
    bench = Bench(SMALL_POOL)
    yield Reserving(bench)
    bench.close()


async def test_reserving_says_what_there_is(reserving: Reserving) -> None:
    """An offer with the worker's name, or that there is none: also of a pool that nobody knows."""
    reserving.bench.worker("w1")
    reserving.want(1)
    reserving.want(2)
    reserving.table.want(3, Wish("unknown", waits=True))
    assert reserving.said == [(OFFER, 1, b"w1"), (NONE, 2, b""), (NONE, 3, b"")]
    assert (reserving.bench.process.exchanges, len(reserving.table)) == (1, 1)
    reserving.table.close()
    assert (reserving.bench.process.exchanges, reserving.bench.pool.pool.free) == (0, 1)


async def test_reserving_worker_that_comes_is_offered_to_who_waits(reserving: Reserving) -> None:
    """One slot, one offer; what is wanted no more gets none."""
    reserving.want(1, waits=True)
    reserving.want(2, waits=True)
    assert reserving.said == []
    reserving.table.cancel(1)
    reserving.bench.worker("w1")
    assert reserving.said == [(OFFER, 2, b"w1")]
    reserving.table.cancel(2)
    assert reserving.bench.pool.pool.free == 1


async def test_reserving_under_a_number_in_use_is_refused(reserving: Reserving) -> None:
    """No process of ours does that."""
    reserving.want(1, waits=True)
    with pytest.raises(MeshError):
        reserving.want(1)
    reserving.table.close()
    assert len(reserving.bench.pool.pool.queued) == 0


async def test_reserving_slot_is_taken_once(reserving: Reserving) -> None:
    """Whoever has it is the exchange; a cancel that comes later changes nothing."""
    reserving.bench.worker("w1")
    reserving.want(1)
    one = reserving.table.take(1)
    assert one is not None
    slot = one.slot
    assert slot is not None
    assert reserving.table.take(1) is None
    reserving.table.cancel(1)
    assert slot.busy
    reserving.bench.pool.give_back(slot)


async def test_lease_without_a_reservation_takes_what_is_free_and_no_more(reserving: Reserving) -> None:
    """Of this pool, of this worker; a pool that nobody knows has none."""
    reserving.bench.worker("w1")
    wanted = [Unreserved(pool, name, 0, b"") for pool, name in (("unknown", None), ("render", "w2"), ("render", None))]
    leased = [reserving.table.lease(one) for one in (*wanted, *wanted)]
    assert [slot and slot.worker.name for slot in leased] == [None, None, "w1", None, None, None]
    assert (reserving.said, len(reserving.table)) == ([], 0)
    (slot,) = filter(None, leased)
    reserving.bench.pool.give_back(slot)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("detail", ["", "no progress in time", "two\r\nlines", "\N{SNOWMAN}"])
def test_loss_is_read_as_it_was_told(loss: Loss, detail: str) -> None:
    """Any loss, and a detail that cannot break the line it stands in."""
    head = parse_response_head(b"HTTP/1.1 502 X\r\n%bContent-Length: 0\r\n\r\n" % block_text(loss_field(loss, detail)))
    told = read_loss(head)
    assert told is not None
    assert told[0] is loss
    assert told[1] == re.sub(r"[^\x20-\x7e]", "?", detail)


GOOD = b"GET /x HTTP/1.1\r\nHost: w1\r\nRhttp-Identity: client/a\r\nRhttp-Request-Id: 0a1b\r\nRhttp-Slot: 7\r\n\r\n"


def passed_end() -> PassedEnd:
    return PassedEnd(cast("Any", None), Http1Limits(), TimerWheel(0.0))


def test_hop_head_says_who_asks_and_for_which_slot() -> None:
    """As our own end writes it."""
    end = passed_end()
    assert end.read_head(GOOD).target == b"/x"
    assert end.attested is not None
    assert (end.attested.identity, end.attested.request_id, end.attested.slot) == ("client/a", b"0a1b", 7)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b"Rhttp-Request-Id: 0a1b\r\n", b""),
        (b"Rhttp-Request-Id: 0a1b\r\n", b"Rhttp-Request-Id: \r\n"),
        (b"Rhttp-Request-Id: 0a1b\r\n", b"Rhttp-Request-Id: a b\r\n"),
        (b"Rhttp-Slot: 7\r\n", b""),
        (b"Rhttp-Slot: 7\r\n", b"Rhttp-Slot: \r\n"),
        (b"Rhttp-Slot: 7\r\n", b"Rhttp-Slot: x\r\n"),
        (b"Rhttp-Request-Id: 0a1b\r\nRhttp-Slot: 7\r\n", b"Rhttp-Slot: 7\r\nRhttp-Request-Id: 0a1b\r\n"),
        (b"Rhttp-Request-Id: 0a1b\r\nRhttp-Slot: 7\r\n", b""),
        (b"Rhttp-Identity: client/a\r\n", b""),
        (b"Rhttp-Identity: client/a\r\n", b"Rhttp-Identity: client/a\r\nRhttp-Identity: client/b\r\n"),
        (b"Host: w1\r\nRhttp-Identity: client/a\r\n", b"Rhttp-Identity: client/a\r\nHost: w1\r\n"),
        (b"GET /x HTTP/1.1\r\nHost: w1\r\nRhttp-Identity: client/a", b"A"),
        (GOOD, b"\r\n\r\n"),
    ],
)
def test_hop_head_of_another_shape_is_refused(part: bytes, instead: bytes) -> None:
    """None of our ends writes it so, therefore none of ours asked: an error of the peer, never one of ours."""
    assert part in GOOD
    with pytest.raises(RemoteProtocolError):
        passed_end().read_head(GOOD.replace(part, instead))


def test_limits_between_let_pass_what_the_edges_let_pass() -> None:
    """A head grows on its way by what we set; a deadline of the edges is not watched twice."""
    edge = Http1Limits()
    between = limits_between(edge)
    assert between.head_bytes > edge.head_bytes
    assert between.request_line_bytes > 3 * edge.request_line_bytes
    assert between.fields > edge.fields
    assert min(between.content_timeout, between.answer_timeout, between.keep_alive_timeout) > 86400
    assert between.pipelined_bytes == edge.pipelined_bytes
