"""One request through the gateway to a worker and back: order, retries, back-pressure, every way it can end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bench import Bench, Requester, request_id_of

ANY = "/-/pools/render/any/job?x=1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(limits="retained_content = 1000")
    yield made
    made.close()


def check_at_rest(bench: Bench, *, workers: int) -> None:
    """Nothing runs, nothing waits, every slot that is left is free."""
    pool = bench.pool.pool
    assert bench.process.exchanges == 0
    assert (pool.waiting, pool.total, pool.free) == (0, workers, workers)


def test_exchange_forwards_a_request_and_its_answer(bench: Bench) -> None:
    """Method, path, query and fields go on; the answer comes back with who served it."""
    worker, master = bench.worker(), bench.requester()
    assert master.ask(ANY, "POST", "X-A: 1", "Rhttp-Identity: client/root", content=b"hello") is None
    sent = worker.taken()
    head, _, content = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /job?x=1 HTTP/1.1\r\nHost: w1.render.test.internal\r\n")
    assert content == b"hello"
    assert b"\r\nx-a: 1" in head
    assert head.count(b"Rhttp-Identity") == 1
    assert b"Rhttp-Identity: master/local\r\n" in head
    assert b"client/root" not in head
    worker.reply(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nX-B: 2\r\nRhttp-Worker: evil\r\n\r\ndone")
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.content) == (201, b"done")
    assert (answer.fields["x-b"], answer.fields["rhttp-worker"]) == ("2", "w1")
    assert answer.fields["rhttp-request-id"] == request_id_of(sent)
    check_at_rest(bench, workers=1)


def test_exchange_writes_its_audit_lines_before_what_they_tell_of(bench: Bench) -> None:
    """`dispatch.sent` before the first byte to a worker, `dispatch` before the last byte of the answer."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    worker.reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndone\r\n")
    worker.reply(b"0\r\n\r\n")
    assert bench.events() == [
        "audit dispatch.sent",
        "write w1",
        "write local",
        "audit dispatch",
        "write local",
    ]
    assert bench.log[-1][1] == b"0\r\n\r\n"
    sent, done = (values for kind, values in bench.log if kind.startswith("audit"))
    assert (sent["outcome"], sent["worker"]) == ("sent", "w1")
    assert (done["outcome"], done["worker"], done["status"]) == ("allowed", "w1", 200)
    assert sent["request_id"] == done["request_id"]
    assert sent["target"] == "/-/pools/render/any/job"
    assert done["policy"]


@pytest.mark.parametrize("length", [b"Content-Length: 4\r\n\r\ndone", b"Content-Length: 0\r\n\r\n"])
def test_exchange_of_known_length_is_audited_before_its_last_byte(bench: Bench, length: bytes) -> None:
    """Byte by byte from the worker: the last one leaves behind the line."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    for byte in b"HTTP/1.1 200 OK\r\n" + length:
        worker.reply(bytes([byte]))
    events = bench.events()
    assert events.index("audit dispatch") == len(events) - 2
    assert events[-1] == "write local"
    check_at_rest(bench, workers=1)


def test_exchange_that_cannot_be_audited_does_not_happen(bench: Bench) -> None:
    """No line, no request to a worker; and no answer that looks whole."""
    worker, master = bench.worker(), bench.requester()
    bench.audit.fails_on = "dispatch.sent"
    answer = master.ask(ANY)
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "audit-unavailable")
    assert worker.taken() == b""
    worker = bench.worker("w2")
    bench.audit.fails_on = "dispatch"
    assert master.ask(ANY) is None
    worker.reply()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (500, "answer-withheld")
    assert "retry-after" not in answer.fields
    check_at_rest(bench, workers=1)


def test_exchange_that_began_its_answer_and_cannot_be_audited_is_cut(bench: Bench) -> None:
    """What has left cannot be taken back, but it must not end well."""
    worker, master = bench.worker(), bench.requester()
    bench.audit.fails_on = "dispatch"
    master.ask(ANY)
    worker.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
    worker.reply(b"ne")
    assert master.link.aborted
    assert b"done" not in master.link.sent
    check_at_rest(bench, workers=1)


# ---- waiting ----


def test_exchange_without_a_slot_is_told_so(bench: Bench) -> None:
    """503 with Retry-After, the connection stays."""
    master = bench.requester()
    answer = master.ask(ANY)
    assert answer is not None
    assert (answer.status, answer.problem, answer.fields["retry-after"]) == (503, "no-slot", "1")
    assert not master.link.eof
    check_at_rest(bench, workers=0)


def test_exchange_waits_as_long_as_it_is_willing_to(bench: Bench) -> None:
    """`Prefer: wait`: a slot in time serves it, the end of the time answers it."""
    master = bench.requester()
    assert master.ask(ANY, "GET", "Prefer: wait=10") is None
    bench.turn(9.0)
    worker = bench.worker()
    assert worker.taken().startswith(b"GET /job?x=1 ")
    bench.turn(5.0)
    worker.reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    worker.reset()
    assert master.ask(ANY, "GET", "Prefer: wait=10") is None
    bench.turn(10.5)
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "no-slot")
    check_at_rest(bench, workers=0)


def test_exchanges_wait_in_order_and_within_the_queue(bench: Bench) -> None:
    """First come first served; the queue's bound is one clear 503."""
    masters = [bench.requester() for _ in range(4)]
    answers = [
        master.ask(f"/-/pools/render/any/{number}", "GET", "Prefer: wait=10") for number, master in enumerate(masters)
    ]
    assert answers[:3] == [None, None, None]
    assert answers[3] is not None
    assert answers[3].problem == "no-slot"
    worker = bench.worker()
    for number in range(3):
        assert worker.taken().startswith(b"GET /%d " % number)
        worker.reply()
    check_at_rest(bench, workers=1)


def test_exchange_whose_requester_leaves_gives_its_place_back(bench: Bench) -> None:
    """Gone for good or half closed: nobody's slot is spent on it."""
    gone, half, stays = (bench.requester() for _ in range(3))
    for master in (gone, half, stays):
        assert master.ask(ANY, "GET", "Prefer: wait=10") is None
    gone.link.reset()
    half.end.eof_received()
    answer = half.answer()
    assert answer is not None
    assert answer.problem == "no-slot"
    assert bench.pool.pool.waiting == 1
    worker = bench.worker()
    assert worker.taken()
    worker.reply()
    answer = stays.answer()
    assert answer is not None
    assert answer.status == 200
    outcomes = [line["outcome"] for line in bench.audit.of("dispatch")]
    assert outcomes == ["aborted", "failed", "allowed"]
    check_at_rest(bench, workers=1)


def test_exchange_that_waits_reads_no_more_than_it_keeps(bench: Bench) -> None:
    """Content of a waiting request is read up to its limit, then the peer is slowed down; nothing is lost."""
    master = bench.requester()
    master.send(
        b"POST /-/pools/render/any/up HTTP/1.1\r\nHost: x\r\nPrefer: wait=10\r\nContent-Length: 2000\r\n\r\n"
        + b"a" * 900
    )
    assert master.link.reading
    master.send(b"b" * 101)
    assert not master.link.reading
    worker = bench.worker()
    assert worker.taken().endswith(b"\r\n\r\n" + b"a" * 900 + b"b" * 101)
    assert master.link.reading
    master.send(b"c" * 999)
    assert worker.taken() == b"c" * 999
    worker.reply()
    check_at_rest(bench, workers=1)


# ---- content and back-pressure ----


def upload(master: Requester, *lines: bytes) -> None:
    head = b"".join(line + b"\r\n" for line in lines)
    master.send(b"PUT /-/pools/render/any/up HTTP/1.1\r\nHost: x\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n")


def test_exchange_slows_the_requester_for_a_slow_worker(bench: Bench) -> None:
    """The worker's link says stop: the requester is not read until it says go."""
    worker, master = bench.worker(), bench.requester()
    upload(master)
    worker.end.pause_writing()
    assert not master.link.reading
    worker.end.resume_writing()
    assert master.link.reading
    master.send(b"3\r\nabc\r\n0\r\nX-T: 1\r\nRhttp-T: 2\r\n\r\n")
    assert worker.taken().endswith(b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n")


def test_exchange_slows_the_worker_for_a_slow_requester(bench: Bench) -> None:
    """And the other way round, also when the requester was slow before the answer began."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    worker.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    master.end.pause_writing()
    assert not worker.link.reading
    master.end.resume_writing()
    assert worker.link.reading
    worker.reply(b"rest")
    assert worker.link.reading
    check_at_rest(bench, workers=1)


def test_exchange_sends_continue_after_the_decision_and_once(bench: Bench) -> None:
    """`100 Continue` is ours, not the worker's: when there is a slot, and not before."""
    master = bench.requester()
    upload(master, b"Expect: 100-continue", b"Prefer: wait=5")
    assert master.link.take() == b""
    worker = bench.worker()
    assert master.link.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert b"xpect" not in worker.taken()
    worker.reply(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert master.link.take() == b""
    master.send(b"0\r\n\r\n")
    worker.reply()
    assert master.link.take().startswith(b"HTTP/1.1 200 OK")


def test_exchange_passes_other_interim_answers_on(bench: Bench) -> None:
    """Early hints reach the requester, without what the gateway strips."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    worker.reply(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nRhttp-X: 1\r\n\r\n")
    assert master.link.take() == b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"


@pytest.mark.parametrize("how", ["whole", "half"])
def test_exchange_with_an_early_answer_passes_it_and_drops_the_rest(bench: Bench, how: str) -> None:
    """A worker that answers before it has read everything: its answer counts, its connection is used up."""
    worker, master = bench.worker(), bench.requester()
    upload(master)
    master.send(b"3\r\nabc\r\n")
    worker.taken()
    if how == "half":
        worker.reply(OK[:-2])
        master.send(b"3\r\ndef\r\n")
        assert worker.taken() == b"3\r\ndef\r\n"
        worker.reply(OK[-2:])
    else:
        worker.reply(OK)
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.content) == (200, b"done")
    master.send(b"3\r\nghi\r\n0\r\n\r\n")
    assert worker.link.closed
    check_at_rest(bench, workers=0)
    second = bench.worker("w2")
    assert master.ask(ANY) is None
    assert second.taken()


def test_exchange_serves_a_requester_that_half_closes(bench: Bench) -> None:
    """The peer ended its side right behind its request: it gets its answer, then the connection ends."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    master.end.eof_received()
    worker.reply()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert master.link.closed
    check_at_rest(bench, workers=1)


def test_exchange_aborted_by_its_requester_frees_nothing_but_itself(bench: Bench) -> None:
    """The worker's connection is in mid-request, so it ends; the books are closed once."""
    worker, other, master = bench.worker("w1"), bench.worker("w2"), bench.requester()
    master.ask(ANY)
    assert worker.taken()
    master.link.reset()
    assert worker.link.aborted
    assert not other.link.aborted
    (line,) = bench.audit.of("dispatch")
    assert (line["outcome"], line["worker"]) == ("aborted", "w1")
    check_at_rest(bench, workers=1)


def test_exchange_whose_upload_is_cut_does_not_end_well_for_the_worker(bench: Bench) -> None:
    """A request that was not finished is never finished in its requester's place."""
    worker, master = bench.worker(), bench.requester()
    upload(master)
    master.send(b"3\r\nabc\r\n")
    master.end.eof_received()
    assert worker.link.aborted
    assert b"0\r\n\r\n" not in worker.taken()
    check_at_rest(bench, workers=0)


def test_exchange_on_a_connection_that_is_cut_tells_the_requester(bench: Bench) -> None:
    """A revoked worker's request may have run: 502, and no second try for a POST."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY, "POST", content=b"x")
    worker.reversed.disconnect("revoked")
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (502, "worker-lost")
    assert [line["reason"] for line in bench.audit.of("connection.cut")] == ["revoked"]
    assert [line["reason"] for line in bench.audit.of("reverse.closed")] == ["revoked"]
    check_at_rest(bench, workers=0)


def test_exchange_to_a_named_worker_takes_no_other(bench: Bench) -> None:
    """`/workers/{name}/`: that one or none, also after a loss."""
    first, second, master = bench.worker("w1"), bench.worker("w2"), bench.requester()
    target = "/-/pools/render/workers/w2/job"
    assert master.ask(target) is None
    assert first.taken() == b""
    assert second.taken().startswith(b"GET /job ")
    second.reset()
    answer = master.answer()
    assert answer is not None
    assert answer.problem == "worker-lost"
    answer = master.ask(target)
    assert answer is not None
    assert answer.problem == "no-slot"
    check_at_rest(bench, workers=1)
