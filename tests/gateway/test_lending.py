"""Slots that another process borrows: what happens to the worker's link on its way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.bench import POOL, Bench
from support.flows import Flow, MeshTransport

from gateway.cluster.frames import DATA, DROP, OFFER, WANT, FrameReader, Wish
from gateway.cluster.lend import Lender

ALL = 1 << 20


@pytest.fixture
def lent() -> Iterator[Callable[..., Flow]]:
    """Makes flows whose worker is in the other process."""
    flows: list[Flow] = []

    def make(*sizes: tuple[int, int]) -> Flow:
        flows.append(Flow(is_lent=True, sizes=list(sizes)))
        return flows[-1]

    yield make
    for flow in flows:
        flow.close()


def head_arrives(flow: Flow) -> None:
    """The head of the first request reaches the worker, and none of its content."""
    flow.ask(flow.requests.index(b"\r\n\r\n") + 4)
    for _ in range(3):  # a wish, an offer, the head
        flow.pump(ALL)
    assert flow.workers[-1].link.socket.room == 0


def check_next(flow: Flow) -> None:
    """All requests are answered, over the line that there is, and nothing is left."""
    line = flow.mesh
    flow.finish()
    assert flow.answers_seen() == flow.count
    assert flow.mesh is line
    flow.check_over()


def test_line_on_which_data_and_release_came_in_one_read_is_read_on(lent: Callable[..., Flow]) -> None:
    """The worker's link was full when the slot went back: what that had stopped goes on."""
    flow = lent((17_000, 10), (10, 10))
    head_arrives(flow)
    flow.answer(ALL)  # before it has read the content
    flow.ask(17_000)  # which waits in the mesh
    flow.pump(ALL, "back")
    assert flow.answers_seen() == 1
    flow.pump(ALL, "there")
    worker = flow.workers[-1]
    assert worker.link.owner is worker.reversed.end, "given back"
    assert worker.reversed.end.blocked
    assert flow.mesh is not None
    assert flow.mesh[1].reading
    check_next(flow)


def test_borrowed_end_whose_release_overtook_the_drain_goes_on(lent: Callable[..., Flow]) -> None:
    """The line was full when the slot went back, and drained while nothing was lent over it."""
    flow = lent((17_000, 10), (50_000, 10))
    flow.requester.link.drain()
    head_arrives(flow)
    flow.mesh[0].set_write_buffer_limits(1000)  # type: ignore[index]
    flow.mesh[0].socket.room = 100  # type: ignore[index]
    flow.answer(ALL)
    flow.ask(17_000)
    flow.pump(ALL, "back")
    assert flow.answers_seen() == 1
    (line,) = flow.here.mesh.lines[1]._open
    assert line._end is not None
    assert line._end.blocked
    flow.pump(ALL, "there")
    assert line._end.link.is_closing(), "nothing is lent over it"
    assert not line._end.blocked
    check_next(flow)


def test_end_of_a_worker_that_came_while_its_slot_was_lent_is_not_forgotten(lent: Callable[..., Flow]) -> None:
    """It answers and says goodbye in one breath: its connection takes no further request."""
    flow = lent((0, 10), (0, 10))
    flow.requester.link.drain()
    flow.ask(flow.requests.index(b"\r\n\r\n") + 4)
    for _ in range(3):
        flow.pump(ALL)
    first = flow.workers[-1]
    first.link.drain()
    flow.answer(ALL)
    first.link.finish()
    flow.pump(ALL)
    flow.pump(ALL)
    assert flow.answers_seen() == 1
    assert first.link.is_closing()
    assert flow.there.pool.pool.total == 0
    assert [line["outcome"] for line in flow.there.audit.of("reverse.closed")] == ["closed"]
    flow.finish()
    assert flow.answers_seen() == 2
    flow.check_over()


async def test_slot_of_a_worker_that_comes_is_lent_to_whoever_waits_for_it() -> None:
    """Its link stays with the process that has borrowed it, and so do its answers; why it ends is told whole."""
    bench = Bench(POOL)
    transport = MeshTransport(wheel=bench.process.wheel)
    lender = Lender(bench.process, transport, FrameReader())  # type: ignore[arg-type]
    lender.take(WANT, Wish("render", waits=True).to_bytes())
    worker = bench.worker("w1")
    worker.link.receive(b"bytes of an answer")
    transport.settle()
    assert FrameReader().feed(transport.take()) == [(OFFER, b"w1"), (DATA, b"bytes of an answer")]
    lender.take(DROP, b"\x01surplus")
    assert [line["reason"] for line in bench.audit.of("reverse.closed")] == ["surplus"]
    assert bench.pool.pool.total == bench.process.exchanges == 0
    bench.close()
