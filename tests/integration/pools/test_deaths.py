"""Workers that die, from outside: what is lost, what is tried once more, what is never sent twice."""

from __future__ import annotations

import threading
import time

import pytest
from support.pooling import ANY, SURPLUS
from support.rig import Rig, Worker, wait_for
from support.wire import Ended, Wire, request


def test_idle_worker_that_leaves_takes_its_slot_along(rig: Rig) -> None:
    """By close, by reset, by half a TLS end."""
    for way in ("close", "reset", "half_close", "fin"):
        with rig.worker("w1") as worker:
            rig.wait_pool(lambda pool: pool["slots"]["total"] == 1)
            getattr(worker.wire, way)()
            rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "LINK"])
def test_request_that_may_have_run_is_never_sent_twice(rig: Rig, wire: Wire, method: str) -> None:
    """Another worker stands ready and sees nothing."""
    with rig.worker("w1") as one, rig.worker("w2") as two:
        wire.send(request(f"{ANY}/x", method, content=b"job"))
        first, second = (one, two) if not one.wire.is_quiet(0.3) else (two, one)
        assert first.request().content == b"job"
        first.wire.reset()
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-lost")
        assert answer.all("rhttp-worker") == [first.name]
        assert second.wire.is_quiet()
        assert [line["event"] for line in rig.lines_of(answer)] == ["dispatch.sent", "dispatch"]
        assert rig.line_of(answer, "dispatch")["worker"] == first.name


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_idempotent_request_is_sent_once_more_to_another_worker(rig: Rig, wire: Wire, method: str) -> None:
    """Once: a second loss is final. The log shows both sendings."""
    content = b"job" if method == "PUT" else b""
    with rig.worker("w1") as one, rig.worker("w2") as two, rig.worker("w3") as three:
        wire.send(request(f"{ANY}/x", method, content=content))
        seen: list[Worker] = []
        for _ in range(2):
            worker = wait_for(
                lambda: next((w for w in (one, two, three) if w not in seen and not w.wire.is_quiet(0.1)), None), bool
            )
            assert worker.request().content == content
            seen.append(worker)
            worker.wire.reset()
        answer = wire.answer(method)
        assert answer.status == 502
        last = next(worker for worker in (one, two, three) if worker not in seen)
        assert last.wire.is_quiet()
        events = rig.lines_of(answer)
        assert [line["event"] for line in events] == ["dispatch.sent", "dispatch.sent", "dispatch"]
        assert [line["worker"] for line in events[:2]] == [worker.name for worker in seen]


def test_second_try_succeeds_without_the_requester_noticing(rig: Rig, wire: Wire) -> None:
    """One answer."""
    with rig.worker("w1") as one, rig.worker("w2") as two:
        wire.send(request(f"{ANY}/x", "PUT", content=b"job"))
        first, second = (one, two) if not one.wire.is_quiet(0.3) else (two, one)
        first.request()
        first.wire.close()
        assert second.serve().content == b"job"
        answer = wire.answer()
        assert (answer.status, answer["rhttp-worker"]) == (200, second.name)


def test_second_try_is_not_given_to_the_same_worker(rig: Rig, wire: Wire) -> None:
    """A worker that dies of a request does not get it again on its other connection."""
    with rig.worker("w1") as one, rig.worker("w1") as other:
        wire.send(request(f"{ANY}/x"))
        first, second = (one, other) if not one.wire.is_quiet(0.3) else (other, one)
        first.request()
        first.wire.reset()
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-lost")
        assert second.wire.is_quiet()


def test_content_over_the_bound_is_not_sent_twice(rig: Rig, wire: Wire) -> None:
    """What was not kept cannot be."""
    with rig.worker("w1") as one, rig.worker("w2") as two:
        wire.send(request(f"{ANY}/x", "PUT", content=b"x" * 200_000))
        first, second = (one, two) if not one.wire.is_quiet(0.3) else (two, one)
        assert len(first.request().content) == 200_000
        first.wire.reset()
        assert wire.answer().status == 502
        assert second.wire.is_quiet()


PARTIAL = {
    "status line": b"HTTP/1.1 200",
    "head": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
}


@pytest.mark.parametrize("name", PARTIAL)
def test_worker_that_dies_behind_its_first_byte_is_not_replaced(rig: Rig, wire: Wire, name: str) -> None:
    """An answer byte was seen: even GET is lost."""
    with rig.worker("w1") as one, rig.worker("w2") as two:
        wire.send(request(f"{ANY}/x"))
        first, second = (one, two) if not one.wire.is_quiet(0.3) else (two, one)
        first.request()
        first.wire.send(PARTIAL[name])
        time.sleep(0.1)
        first.wire.reset()
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-lost")
        assert second.wire.is_quiet()


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
def test_worker_that_dies_in_mid_answer_cuts_the_requester(rig: Rig, framing: str, way: str) -> None:
    """A half answer never looks whole; exactly one line says failed."""
    with rig.worker("w1") as worker, rig.connect("m1") as wire:
        wire.send(request(f"{ANY}/x", "GET", rig.authorized("m1", f"{ANY}/x")))
        taken = worker.request()
        data = b"hello" if framing[0] == "C" else b"5\r\nhello\r\n"
        worker.wire.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + data)
        wire.until(b"hello")
        getattr(worker.wire, way)()
        rest = wire.rest()
        assert b"0\r\n" not in rest
        assert wire.ended != "notify"
        done = wait_for(lambda: rig.lines_of(taken["rhttp-request-id"])[1:], bool)
        assert [(line["event"], line["outcome"]) for line in done] == [("dispatch", "failed")]


def test_worker_that_says_close_is_served_and_then_gone(rig: Rig, wire: Wire) -> None:
    """Petelliott's and Yaler's workers serve one request each."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        worker.reply(b"last", "200 OK", "Connection: close")
        assert wire.answer().content == b"last"
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
        assert worker.wire.rest() == b""


def test_answer_that_ends_with_the_connection_arrives_whole(rig: Rig, wire: Wire) -> None:
    """With close_notify it is whole; with a bare FIN it is cut."""
    for way, whole in (("half_close", True), ("fin", False)):
        with rig.worker("w1") as worker, rig.dispatch() as one:
            one.send(request(f"{ANY}/x"))
            worker.request()
            worker.wire.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
            getattr(worker.wire, way)()
            if whole:
                assert one.answer().content == b"hello"
            else:
                with pytest.raises(Ended):
                    one.answer()
            rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)


def test_requester_that_leaves_frees_the_worker_by_closing_it(rig: Rig) -> None:
    """Its answer has no reader; the connection cannot be used again. (An orderly end may still want its answer.)"""
    with rig.worker("w1") as worker:
        wire = rig.connect("m1")
        wire.send(request(f"{ANY}/x", "GET", rig.authorized("m1", f"{ANY}/x")))
        taken = worker.request()
        wire.reset()
        assert worker.wire.rest() == b""
        assert rig.wait_line(event="dispatch", request_id=taken["rhttp-request-id"])["outcome"] == "aborted"


def test_worker_that_never_answers_is_504(rig: Rig, wire: Wire) -> None:
    """And its connection is not used again."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        answer = wire.answer()
        assert (answer.status, answer.problem) == (504, "deadline")
        assert worker.wire.rest() == b""


def test_many_workers_and_requests_end_with_sums_that_agree(rig: Rig) -> None:
    """Eight requesters, six connections that serve, lie, die and come back: slots return, every request has its end."""
    stop = threading.Event()
    seen = len(rig.audit())
    faults: list[BaseException] = []

    def serve(name: str, number: int) -> None:
        count = 0
        try:
            while not stop.is_set():
                with rig.worker(name) as worker:
                    try:
                        while not stop.is_set():
                            count += 1
                            worker.request()
                            match (count * 7 + number) % 9:
                                case 0:
                                    worker.wire.send(SURPLUS["an answer"])
                                case 1:
                                    break
                                case 2:
                                    worker.wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                                    break
                                case _:
                                    worker.reply()
                    except Ended:
                        pass
        except BaseException as error:
            if not stop.is_set():
                faults.append(error)

    statuses: list[int] = []

    def ask(number: int) -> None:
        for turn in range(40):
            with rig.dispatch() as wire:
                method = ("GET", "POST")[(turn + number) % 2]
                try:
                    statuses.append(wire.ask(f"{ANY}/{number}/{turn}", method, "Prefer: wait=10").status)
                except Ended:
                    statuses.append(0)

    workers = [threading.Thread(target=serve, args=(name, n)) for n, name in enumerate(["w1", "w2", "w3"] * 2)]
    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in workers + askers:
        thread.start()
    for thread in askers:
        thread.join(60)
    stop.set()
    with rig.dispatch() as wire:  # whoever still reads is woken
        for _ in range(20):
            if not wire.ask("/-/pools/render").json["slots"]["free"]:
                break
            with rig.dispatch() as one:
                one.send(request(f"{ANY}/last", "POST"))
                one.rest(0.3) if one.is_quiet(0.1) else None
    for thread in workers:
        thread.join(30)
    assert not faults
    assert set(statuses) <= {200, 502, 0}, set(statuses)
    assert statuses.count(200) > 150
    ends = [line for line in rig.audit()[seen:] if line["event"] == "dispatch" and "/last" not in line["target"]]
    assert len(ends) == 320 == len({line["request_id"] for line in ends})
    sent = [line for line in rig.audit()[seen:] if line["event"] == "dispatch.sent" and "/last" not in line["target"]]
    assert {line["request_id"] for line in sent} <= {line["request_id"] for line in ends}
