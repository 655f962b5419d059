"""Pools over several processes: a slot serves whoever needs it, wherever it is, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bench import Answer, Requester, Worker
from support.meshes import QUEUED_POOL, Meshed, request, until, with_a_worker_there

from gateway.cluster.directory import PeerDirectory, whole
from gateway.pools.hosted import HostedPool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
ANY = "/-/pools/render/any/job"


@pytest.fixture
async def two() -> AsyncIterator[Meshed]:
    with tempfile.TemporaryDirectory(prefix="mesh") as folder:  # a short path: unix sockets allow no other
        meshed = await Meshed.start(Path(folder), config=QUEUED_POOL)
        yield meshed
        for bench in meshed.benches:
            await until(lambda bench=bench: not bench.process.exchanges and not bench.pool.pool.queued)  # type: ignore[misc]
        check_at_rest(meshed)
        meshed.close()
        for _ in range(10):  # closed connections tell their owners
            await asyncio.sleep(0)


def check_at_rest(meshed: Meshed) -> None:
    """Nothing runs and nothing waits anywhere."""
    for bench in meshed.benches:
        pool = bench.pool.pool
        assert bench.process.exchanges == 0
        assert (pool.waiting, len(pool.queued)) == (0, 0)
        assert pool.free == sum(len(worker.idle) for worker in pool.workers.values())
        assert pool.total == pool.free, "a slot is still leased"


async def answer(asker: Requester) -> Answer:
    return await asker.answered()


async def serve(asker: Requester, worker: Worker, target: str = ANY, *lines: str) -> Answer:
    """One exchange between them, from asking to answer."""
    assert asker.ask(target, "GET", *lines) is None
    await request(worker)
    worker.link.owner.data_received(OK)
    return await answer(asker)


async def test_request_reaches_a_worker_of_the_other_process(two: Meshed) -> None:
    """The worker sees the request that a worker here would see, the requester its answer, the log both lines."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY + "?x=1", "POST", content=b"work") is None
    head, _, content = (await request(worker)).partition(b"\r\n\r\n")
    assert content == b"work"
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /job?x=1 HTTP/1.1"
    assert lines[1].startswith(b"Host: w1.render.")
    assert there.process.exchanges == 1, "a drain waits for it"
    await here.sees(1, 0)
    worker.link.owner.data_received(OK)
    reply = await answer(asker)
    assert (reply.status, reply.content, reply.fields["rhttp-worker"]) == (200, b"done", "w1")
    sent, done = there.audit.of("dispatch.sent"), here.audit.of("dispatch")
    assert [(line["worker"], line["outcome"]) for line in sent + done] == [("w1", "sent"), ("w1", "allowed")]
    assert there.audit.of("dispatch") == []
    await here.sees(1, 1)
    await there.sees(1, 1)


@pytest.mark.parametrize("target", [ANY, "/-/pools/render/workers/w1/job"])
async def test_worker_of_which_no_news_came_yet_is_found(two: Meshed, target: str) -> None:
    """News is a moment old; who has no slot says so itself."""
    here, there = two.benches
    worker = there.worker("w1")
    assert here.sums() == (0, 0)
    assert (await serve(here.requester(), worker, target)).fields["rhttp-worker"] == "w1"


async def test_own_worker_comes_first(two: Meshed) -> None:
    """Nobody pays for another process's slot while there is one here."""
    here, there = two.benches
    far, near = there.worker("w1"), here.worker("w2")
    await here.sees(2, 2)
    assert (await serve(here.requester(), near)).fields["rhttp-worker"] == "w2"
    assert far.taken() == b""


async def test_named_worker_is_found_wherever_it_is(two: Meshed) -> None:
    """A worker has one address in the whole gateway."""
    here, there = two.benches
    here.worker("w1")
    far = there.worker("w2")
    await here.sees(2, 2)
    reply = await serve(here.requester(), far, "/-/pools/render/workers/w2/job")
    assert reply.fields["rhttp-worker"] == "w2"


async def test_worker_with_the_label_is_preferred_wherever_it_is(two: Meshed) -> None:
    """A wish is honoured when it can be; else any worker will do."""
    here, there = two.benches
    near, far = here.worker("w1"), there.worker("w2", labels=(("gpu", "a"),))
    await here.sees(2, 2)
    wish = "Rhttp-Prefer-Label: gpu=a"
    assert (await serve(here.requester(), far, ANY, wish)).fields["rhttp-worker"] == "w2"
    await until(lambda: there.pool.pool.free == 1)
    busy = there.requester()
    assert busy.ask(ANY) is None
    await request(far)
    assert (await serve(here.requester(), near, ANY, wish)).fields["rhttp-worker"] == "w1"
    far.link.owner.data_received(OK)
    await answer(busy)


async def test_line_is_used_again(two: Meshed) -> None:
    """One connection carries one dispatch after another."""
    here, _there, worker = await with_a_worker_there(two)
    asker = here.requester()
    for _ in range(5):
        assert (await serve(asker, worker)).status == 200
    assert here.mesh.remotes[1].connections() == 1


async def test_no_slot_anywhere_is_503(two: Meshed) -> None:
    """All were asked, and nobody had one."""
    here, _there, worker = await with_a_worker_there(two)
    first, second = here.requester(), here.requester()
    assert first.ask(ANY) is None
    await request(worker)
    assert second.ask(ANY) is None
    assert (await answer(second)).problem == "no-slot"
    worker.link.owner.data_received(OK)
    assert (await answer(first)).status == 200


async def test_waiting_request_gets_the_first_slot_that_comes_free_elsewhere(two: Meshed) -> None:
    """The wait is the gateway's, not one process's."""
    here, there, worker = await with_a_worker_there(two)
    first, second = there.requester(), here.requester()
    assert first.ask(ANY) is None
    await request(worker)
    assert second.ask(ANY, "GET", "Prefer: wait=30") is None
    await until(lambda: len(there.pool.pool.queued) == 1)
    assert there.pool.pool.waiting == 0, "it is counted where it came"
    worker.link.owner.data_received(OK)
    assert (await answer(first)).status == 200
    await request(worker)
    worker.link.owner.data_received(OK)
    assert (await answer(second)).status == 200


async def test_waiting_request_gets_a_worker_that_comes_to_another_process(two: Meshed) -> None:
    """Also when nobody was there at first."""
    here, there = two.benches
    anyone, named = here.requester(), here.requester()
    assert anyone.ask(ANY, "GET", "Prefer: wait=30") is None
    assert named.ask("/-/pools/render/workers/w2/job", "GET", "Prefer: wait=30") is None
    first, second = there.worker("w1"), there.worker("w2")
    for worker, asker in ((first, anyone), (second, named)):
        await request(worker)
        worker.link.owner.data_received(OK)
        assert (await answer(asker)).status == 200


async def test_requests_wait_in_their_order(two: Meshed) -> None:
    """Whoever came first here is served first, also by a slot of another process."""
    here, there, worker = await with_a_worker_there(two)
    busy = there.requester()
    assert busy.ask(ANY) is None
    await request(worker)
    askers = [here.requester() for _ in range(3)]
    for number, asker in enumerate(askers):
        assert asker.ask(f"{ANY}{number}", "GET", "Prefer: wait=30") is None
    await until(lambda: len(there.pool.pool.queued) == 3)
    worker.link.owner.data_received(OK)
    await answer(busy)
    for number, asker in enumerate(askers):
        assert b" /job%d HTTP" % number in await request(worker)
        worker.link.owner.data_received(OK)
        assert (await answer(asker)).status == 200


async def test_borrowed_slot_is_not_lent_again(two: Meshed) -> None:
    """With waiting requests on both sides, each slot serves the process that it was lent to."""
    here, there = two.benches
    near, far = here.worker("w1"), there.worker("w2")
    await here.sees(2, 2)
    await there.sees(2, 2)
    busy = [here.requester(), there.requester()]
    for asker in busy:
        assert asker.ask(ANY) is None
    await request(near)
    await request(far)
    waiting = [bench.requester() for _ in range(4) for bench in (here, there)]
    for asker in waiting:
        assert asker.ask(ANY, "GET", "Prefer: wait=30") is None
    await until(lambda: here.pool.pool.queued.own + there.pool.pool.queued.own == 8)
    await until(lambda: len(here.pool.pool.queued) + len(there.pool.pool.queued) == 16)
    for worker in (near, far):
        worker.link.owner.data_received(OK)
    served: set[Requester] = set()
    while len(served) < len(busy) + len(waiting):
        served |= {asker for asker in (*busy, *waiting) if asker.link.sent}
        for worker in (near, far):
            if worker.taken():
                worker.link.owner.data_received(OK)
        await asyncio.sleep(0)


async def test_waiting_request_that_leaves_takes_its_want_with_it(two: Meshed) -> None:
    """Nobody holds a slot for a request that is gone."""
    here, there, worker = await with_a_worker_there(two)
    busy, leaving = there.requester(), here.requester()
    assert busy.ask(ANY) is None
    await request(worker)
    assert leaving.ask(ANY, "GET", "Prefer: wait=30") is None
    await until(lambda: len(there.pool.pool.queued) == 1)
    leaving.link.reset()
    await until(lambda: len(there.pool.pool.queued) == 0)
    worker.link.owner.data_received(OK)
    await answer(busy)
    assert here.audit.of("dispatch")[-1]["outcome"] == "aborted"


async def test_queue_is_bounded_for_all_processes_together(two: Meshed) -> None:
    """Eight may wait: not eight in each process."""
    here, there = two.benches
    waiting = [bench.requester() for bench in (*[here] * 5, *[there] * 3)]
    for asker in waiting:
        assert asker.ask(ANY, "GET", "Prefer: wait=30") is None
    await until(lambda: here.mesh.directory.sums("render")[2] == 3 and there.mesh.directory.sums("render")[2] == 5)
    for bench in (here, there):
        asker = bench.requester()
        assert asker.ask(ANY, "GET", "Prefer: wait=30") is None
        assert (await answer(asker)).problem == "no-slot"
    for asker in waiting:
        asker.link.reset()


async def test_worker_that_dies_in_mid_answer_is_502(two: Meshed) -> None:
    """As it would be here."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    worker.link.owner.data_received(b"HTTP/1.1 200 O")
    worker.link.reset()
    assert (await answer(asker)).problem == "worker-lost"
    await here.sees(0, 0)
    assert there.audit.of("reverse.closed")


async def test_idempotent_request_is_tried_again_on_another_worker(two: Meshed) -> None:
    """A worker of another process that vanished before its answer costs nobody a request."""
    here, there = two.benches
    lost, other = there.worker("w1"), there.worker("w2")
    await here.sees(2, 2)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await lost.link.until(lambda: bool(lost.link.sent or other.link.sent))
    first, second = (lost, other) if lost.link.sent else (other, lost)
    first.taken()
    first.link.reset()
    await request(second)
    second.link.owner.data_received(OK)
    assert (await answer(asker)).status == 200


async def test_revoked_worker_is_cut_while_another_process_uses_it(two: Meshed) -> None:
    """The certificate ends where the connection is; the requester is told."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY, "GET") is None
    await request(worker)
    worker.reversed.disconnect("revoked")
    assert worker.link.aborted
    assert (await answer(asker)).problem == "worker-lost"
    assert there.process.exchanges == 0
    assert here.audit.of("dispatch")[-1]["reason"] == "cut: revoked"


async def test_client_that_leaves_ends_the_worker_connection_it_used(two: Meshed) -> None:
    """Where the exchange stands, nobody knows: the connection cannot be used again."""
    here, _there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    asker.link.reset()
    await until(lambda: worker.link.aborted)
    await here.sees(0, 0)


async def test_answer_that_ends_with_the_connection_is_whole(two: Meshed) -> None:
    """Without a length the worker's close_notify is the end, and its lack a cut."""
    here, there = two.benches
    for truncated in (False, True):
        worker = there.worker("w1")
        await here.sees(1, 1)
        asker = here.requester()
        assert asker.ask(ANY) is None
        await request(worker)
        worker.link.truncated = truncated
        worker.link.owner.data_received(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        worker.link.finish()
        await until(
            lambda asker=asker, cut=truncated: asker.link.aborted if cut else asker.link.sent.endswith(b"0\r\n\r\n")
        )
        await until(lambda worker=worker: worker.link.closed or worker.link.aborted)
        await here.sees(0, 0)


async def test_large_content_passes_in_both_directions(two: Meshed) -> None:
    """More than any buffer, byte for byte."""
    here, _there, worker = await with_a_worker_there(two)
    asker = here.requester()
    content = bytes(range(256)) * 8192
    assert asker.ask(ANY, "POST", content=content) is None
    await worker.link.until(lambda: worker.link.sent.endswith(content))
    worker.taken()
    worker.link.owner.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
    for at in range(0, len(content), 65536):
        worker.link.owner.data_received(content[at : at + 65536])
    await asker.link.until(lambda: asker.link.sent.endswith(content))


async def test_slow_requester_stops_the_worker_of_the_other_process(two: Meshed) -> None:
    """Back-pressure reaches through: nothing heaps up in between."""
    here, _there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    asker.end.pause_writing()
    worker.link.owner.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    fed = 0
    while worker.link.reading:
        worker.link.owner.data_received(bytes(65536))
        fed += 65536
        assert fed < 16 << 20, "nobody stops it"
        await asyncio.sleep(0)
    asker.end.resume_writing()
    await until(lambda: worker.link.reading)
    asker.link.reset()
    await until(lambda: worker.link.aborted)


async def test_process_that_dies_takes_only_its_own(two: Meshed) -> None:
    """Its workers are no longer seen, and nobody waits for them; what is connected here goes on."""
    here, there = two.benches
    worker, near = there.worker("w1"), here.worker("w2")
    await here.sees(2, 2)
    asker, own = here.requester(), here.requester()
    assert own.ask(ANY) is None
    await request(near)
    assert asker.ask(ANY, "POST", content=b"x") is None
    await request(worker)
    there.die()
    assert (await answer(asker)).problem == "worker-lost"
    await here.sees(1, 0)
    assert here.peers == {1: False}
    near.link.owner.data_received(OK)
    assert (await answer(own)).status == 200


async def test_lender_ends_the_connection_when_the_borrower_dies(two: Meshed) -> None:
    """A worker whose request is lost must not get the next one on top of it."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    here.die()
    await until(lambda: worker.link.aborted)
    assert there.process.exchanges == 0
    assert asker.link.aborted


async def test_pools_are_told_for_the_whole_gateway(two: Meshed) -> None:
    """One call tells how many slots are free, whichever process answers it."""
    here, there = two.benches
    here.worker("w1")
    there.worker("w1")
    there.worker("w2")
    await here.sees(3, 3)
    asker = here.requester()
    for target in ("/-/pools", "/-/pools/render"):
        assert asker.ask(target) is None
        told = json.loads((await answer(asker)).content)
        assert told["slots"] == {"total": 3, "free": 3}
    assert sorted((one["name"], one["slots"]) for one in told["workers"]) == [("w1", 2), ("w2", 1)]


async def test_pools_are_told_without_a_process_that_does_not_answer(two: Meshed) -> None:
    """A wedged process holds nobody up for long."""
    here, there = two.benches
    here.worker("w1")
    there.mesh.tell = lambda _: 1 / 0  # its connection breaks off instead
    asker = here.requester()
    assert asker.ask("/-/pools") is None
    assert json.loads((await answer(asker)).content)["slots"] == {"total": 1, "free": 1}


async def test_events_tell_of_workers_of_all_processes(two: Meshed) -> None:
    """A worker joins with its first connection anywhere, and leaves with its last."""
    here, there = two.benches
    reader = here.requester()
    assert reader.ask("/-/pools/render/events") is not None
    seen = ""

    async def told(event: str) -> None:
        nonlocal seen
        async with asyncio.timeout(10):
            while event not in seen:
                await asyncio.sleep(0.01)
                seen += reader.link.take().decode()
        assert seen.count("event: worker-") == 1
        seen = ""

    far = there.worker("w1")
    await told("event: worker-joined")
    near = here.worker("w1")
    near.reset()
    again = here.worker("w1")
    far.reset()
    await here.sees(1, 1)
    again.reset()
    await told("event: worker-left")
    for stream in tuple(here.process.streams):
        stream.close()


async def test_newer_start_retires_the_older_one_in_the_other_process(two: Meshed) -> None:
    """A worker that was started again is one worker: what its old process left behind closes."""
    here, there = two.benches
    old = there.worker("w1", instance="a")
    new = here.worker("w1", instance="b")
    await here.sees(2, 2)
    assert (await serve(here.requester(), new)).status == 200
    await until(lambda: old.link.closed)
    assert not new.link.closed
    await here.sees(1, 1)


async def test_connections_of_an_identity_are_counted_in_all_processes(two: Meshed) -> None:
    """Limits are the gateway's."""
    here, there = two.benches
    identity = here.worker("w1").peer.identity
    there.worker("w1")
    there.worker("w1")
    await until(lambda: here.process.registry.held(identity) == 3 and there.process.registry.held(identity) == 3)


async def test_drain_hands_out_nothing_more(two: Meshed) -> None:
    """A process that drains lends no slot, and those that wait for one of its are told."""
    here, there, worker = await with_a_worker_there(two)
    busy, waiting = there.requester(), here.requester()
    assert busy.ask(ANY) is None
    await request(worker)
    assert waiting.ask(ANY, "GET", "Prefer: wait=30") is None
    await until(lambda: len(there.pool.pool.queued) == 1)
    there.process.draining = True
    there.pool.stop()
    here.process.draining = True
    here.pool.stop()
    assert (await answer(waiting)).problem == "draining"
    worker.link.owner.data_received(OK)
    await answer(busy)
    await until(lambda: worker.link.closed)


async def test_older_start_of_a_worker_stays_away_from_every_process(two: Meshed) -> None:
    """It served in one process and was superseded by a start that serves in the other: neither lets it in again."""
    here, there = two.benches
    old = here.worker("w1", instance="a")
    await there.sees(1, 1)
    assert (await serve(here.requester(), old)).status == 200
    new = there.worker("w1", instance="b")
    await here.sees(2, 2)
    asker = here.requester()
    assert (await serve(asker, old)).status == 200
    other = there.requester()
    assert (await serve(other, new)).status == 200
    await until(lambda: old.link.closed)
    old.reset()
    await here.sees(1, 1)
    assert [bench.pool.newer_start("w1", "a") for bench in two.benches] == ["b", "b"]
    assert [bench.pool.newer_start("w1", "b") for bench in two.benches] == [None, None]
    assert not new.link.closed
    new.reset()
    await here.sees(0, 0)
    assert [bench.pool.newer_start("w1", "a") for bench in two.benches] == ["b", "b"]
    for bench in two.benches:
        bench.process.elapsed += 31.0
    assert [bench.pool.newer_start("w1", "a") for bench in two.benches] == [None, None]


async def test_newer_start_whose_process_dies_is_gone(two: Meshed) -> None:
    """What was told over a connection goes with it: the older start is not kept away for ever."""
    here, there = two.benches
    old = here.worker("w1", instance="a")
    new = there.worker("w1", instance="b")
    await here.sees(2, 2)
    assert (await serve(there.requester(), new)).status == 200
    await until(lambda: old.link.closed)
    old.reset()
    there.die()
    await here.sees(0, 0)
    assert here.pool.newer_start("w1", "a") == "b"
    here.process.elapsed += 31.0
    assert here.pool.newer_start("w1", "a") is None


async def test_process_that_starts_learns_which_starts_were_superseded() -> None:
    """Also of those that have no connection any more."""
    with tempfile.TemporaryDirectory(prefix="mesh") as folder:
        meshed = await Meshed.start(Path(folder), config=QUEUED_POOL)
        here, there = meshed.benches
        old, new = here.worker("w1", instance="a"), here.worker("w1", instance="b")
        assert [here.requester().ask(ANY) for _ in range(2)] == [None, None]
        for worker in (old, new):
            await request(worker)
            worker.link.owner.data_received(OK)
        old.reset()
        told = whole([here.pool.pool], {})
        fresh = PeerDirectory()
        learned = fresh.learn(0, told)
        assert [(what.worker, what.instance) for what in learned.started] == [("w1", "b")]
        there.mesh.directory.learn(0, told)
        pool = HostedPool(there.process, there.pool.config, "test.internal")
        for what in learned.ordered:
            pool.ordered(what)
        assert pool.newer_start("w1", "a") == "b"
        assert pool.newer_start("w1", "b") is None
        meshed.close()
        for _ in range(10):
            await asyncio.sleep(0)
