"""Hosted pools from outside: the switch, slots, waiting, workers that die or lie, and what is never sent twice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.origins import read_head, response
from support.rig import Rig, Worker, upgrade, wait_for
from support.wire import Answer, Ended, Wire, chunked, request

CONFIG = """
[pools.render]
[pools.tiny]
queue = 2
[audit]
fold_after = 100000
[limits]
answer_timeout = 3.0
connections_per_worker = 5
"""
PEERS = (
    "issue-client alice",
    "issue-master m1",
    "issue-worker w1 --pool render --label gpu=a100 --label zone=b",
    "issue-worker w2 --pool render --label gpu=none",
    "issue-worker w3 --pool render",
    "issue-worker t1 --pool tiny",
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
ANY = "/-/pools/render/any"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("pools"), CONFIG, peers=PEERS) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _empty(rig: Rig) -> Iterator[None]:
    """Every test leaves empty pools and nobody waiting."""
    yield
    for name in ("render", "tiny"):
        rig.wait_pool(lambda pool: not pool["workers"] and not pool["waiting"], name)


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    """A master on this host."""
    with rig.dispatch() as wire:
        yield wire


def slots(rig: Rig, name: str = "render") -> tuple[int, int]:
    """Total and free."""
    found = rig.pool(name)["slots"]
    return found["total"], found["free"]


# ---- the switch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_switch_is_answered_with_exactly_three_lines(rig: Rig, method: str) -> None:
    """npm workers compare bytes."""
    with rig.worker("w1", method=method) as worker:
        assert worker.switched.raw == SWITCH
        assert worker.wire.is_quiet()
        assert slots(rig) == (1, 1)


@pytest.mark.parametrize("token", ["ptth/1.0", "websocket, PTTH/1.0", "PTTH/1.0, h2c", " PTTH/1.0"])
def test_token_is_found_in_lists_and_in_any_case(rig: Rig, token: str) -> None:
    """The answer is the same bytes."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST"), "Content-Length: 0", token=token))
        assert wire.one().raw == SWITCH


def test_reversed_connection_is_on_record_from_switch_to_close(rig: Rig) -> None:
    """Opened with identity and policy, closed with a reason, one request id."""
    seen = len(rig.audit())
    with rig.worker("w1"):
        opened = rig.wait_line(event="reverse.opened")
        assert opened["identity"] == "worker/w1"
        assert opened["outcome"] == "allowed"
        assert opened["policy"] == ["workers-reverse-into-own-pool"]
        assert opened["target"] == "/-/reverse/render"
        assert opened["status"] == 101
    closed = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "reverse.closed"], bool)[0]
    assert closed["request_id"] == opened["request_id"]
    assert closed["reason"]


@pytest.mark.parametrize("early", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x", b"GET / HTTP/1.1\r\n\r\n"])
def test_bytes_before_the_switch_close_it(rig: Rig, early: bytes) -> None:
    """RFC 9931: smuggled, or from a peer that does not know what it asked for. No 101, no slot, a line that says so."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST")) + early)
        assert b"101" not in wire.rest()
    line = rig.wait_line(reason="bytes before the switch")
    opened = [x["event"] for x in rig.lines_of(line["request_id"])]
    assert opened in (["request"], ["reverse.opened", "reverse.closed"]), opened
    assert slots(rig) == (0, 0)


@pytest.mark.parametrize("instance", ["a b", "x" * 65, '"q"', ""])
def test_malformed_instance_is_refused(rig: Rig, instance: str) -> None:
    """It would be the name that supersedes others."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST"), f"Rhttp-Instance: {instance}"))
        assert wire.one().status == 400
        assert wire.rest() == b""


# ---- dispatch ------------------------------------------------------------------------------------------------


def test_request_reaches_the_worker_and_its_answer_comes_back(rig: Rig, wire: Wire) -> None:
    """Target, method, fields and content; host and identity are ours; three audit lines tell of it."""
    with rig.worker("w1") as worker:
        lines = (
            "Content-Type: text/x",
            "Authorization: Basic x",
            "Rhttp-Identity: client/root",
            "X: y",
            "Prefer: wait=5",
        )
        wire.send(request(f"{ANY}/a/b?c=%2F", "POST", *lines, "Rhttp-Request-Id: parent-1", content=b"job"))
        taken = worker.request()
        assert (taken.method, taken.target, taken.content) == ("POST", "/a/b?c=%2F", b"job")
        assert taken["host"] == "w1.render.test.internal"
        assert taken["rhttp-identity"] == "master/local"
        assert not taken.all("authorization")
        assert taken["x"] == "y"
        worker.reply(b"result", "201 Created", "X-R: 1", "Rhttp-Worker: liar", "WWW-Authenticate: Basic realm=w")
        answer = wire.answer()
        assert (answer.status, answer.content, answer["x-r"]) == (201, b"result", "1")
        assert answer["rhttp-worker"] == "w1"
        assert taken["rhttp-request-id"] == answer["rhttp-request-id"] != "parent-1"
        sent, done = rig.lines_of(answer)
        assert (sent["event"], done["event"]) == ("dispatch.sent", "dispatch")
        for line in (sent, done):
            assert (line["worker"], line["parent_id"], line["identity"]) == ("w1", "parent-1", "master/local")
            assert line["policy"] == ["local-master-dispatches-and-inspects"]
        assert done["status"] == 201
        assert done["target"] == f"{ANY}/a/b"


HOSTS = {
    "gateway": 'for=unknown;proto=http;host="gateway"',
    "a:80": 'for=unknown;proto=http;host="a:80"',
    "": "for=unknown;proto=http",
    'x";for=1.2.3.4;y="': None,
    "a b": None,
    "caf\xe9": None,
}


@pytest.mark.parametrize("host", HOSTS)
def test_host_on_the_unix_socket_is_any_name_but_a_name(rig: Rig, wire: Wire, host: str) -> None:
    """What is none is 400: it would write into Forwarded."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x", host=host))
        if HOSTS[host] is None:
            assert wire.answer().status == 400
            assert worker.wire.is_quiet()
            return
        assert worker.serve()["forwarded"] == HOSTS[host]
        assert wire.answer().status == 200


@pytest.mark.parametrize("target", ["", "?q", "/", "/-/reverse/x", "/-/pools"])
def test_path_behind_the_prefix_is_the_workers_own(rig: Rig, wire: Wire, target: str) -> None:
    """`any/` at least; what follows is not ours to read."""
    if not target.startswith("/"):
        assert wire.ask(ANY + target).status == 404
        return
    with rig.worker("w1") as worker:
        wire.send(request(ANY + target))
        assert worker.serve().target == target
        assert wire.answer().status == 200


def test_own_worker_is_reached_by_name(rig: Rig, wire: Wire) -> None:
    """And nobody else in its place."""
    with rig.worker("w1") as one, rig.worker("w2") as two:
        for name, worker in (("w1", one), ("w2", two), ("w2", two)):
            wire.send(request(f"/-/pools/render/workers/{name}/x"))
            assert worker.serve().target == "/x"
            assert wire.answer()["rhttp-worker"] == name
        for name in ("w3", "nobody"):
            answer = wire.ask(f"/-/pools/render/workers/{name}/x")
            assert (answer.status, answer.problem, answer["retry-after"]) == (503, "no-slot", "1")


def test_master_on_tls_dispatches_with_digest(rig: Rig) -> None:
    """The same door for masters elsewhere."""
    with rig.worker("w1") as worker, rig.connect("m1") as wire:
        wire.send(request(f"{ANY}/x", "GET", rig.authorized("m1", f"{ANY}/x")))
        assert worker.serve()["rhttp-identity"] == "master/m1"
        assert wire.answer().status == 200


def test_answer_in_chunks_with_trailers_passes(rig: Rig, wire: Wire) -> None:
    """Streams are streams: the first chunk arrives before the second is made."""
    with rig.worker("w1") as worker:
        wire.send(
            request(f"{ANY}/x", "POST", "Transfer-Encoding: chunked") + chunked(b"ab", b"cd", trailers=["X-A: 1"])
        )
        taken = worker.request()
        assert (taken.content, taken.trailers) == (b"abcd", ("x-a: 1",))
        worker.wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        wire.until(b"one")
        worker.wire.send(b"3\r\ntwo\r\n0\r\nX-B: 2\r\n\r\n")
        assert wire.until(b"\r\n\r\n").endswith(b"two\r\n0\r\nx-b: 2\r\n\r\n")
        assert slots(rig) == (1, 1)


def test_worker_connection_serves_many_and_counts(rig: Rig, wire: Wire) -> None:
    """One in flight, then free again."""
    with rig.worker("w1") as worker:
        for _ in range(10):
            wire.send(request(f"{ANY}/x"))
            worker.request()
            assert slots(rig) == (1, 0)
            worker.reply()
            assert wire.answer().status == 200
            assert slots(rig) == (1, 1)


def test_slots_are_the_sum_of_connections(rig: Rig, wire: Wire) -> None:
    """Over all pools and workers, busy or not."""
    with rig.worker("w1") as one, rig.worker("w1"), rig.worker("w2"), rig.worker("t1", "tiny"):
        everything = wire.ask("/-/pools").json
        assert everything["slots"] == {"total": 4, "free": 4}
        wire.send(request("/-/pools/render/workers/w1/x"))
        one_of = [one]
        pool = rig.wait_pool(lambda pool: pool["slots"]["free"] == 2)
        assert pool["slots"]["total"] == 3
        w1 = next(worker for worker in pool["workers"] if worker["name"] == "w1")
        assert (w1["slots"], w1["busy"], w1["protocol"]) == (2, 1, "ptth/1.0")
        assert w1["labels"] == {"gpu": "a100", "zone": "b"}
        one_of[0].serve()
        assert wire.answer().status == 200


def test_least_busy_worker_is_chosen_first(rig: Rig) -> None:
    """Then the longest idle: four requests over two workers with two slots each."""
    with rig.worker("w1") as a, rig.worker("w1") as b, rig.worker("w2") as c, rig.worker("w2") as d:
        wires = [rig.dispatch() for _ in range(4)]
        for wire in wires[:2]:
            wire.send(request(f"{ANY}/x"))
        rig.wait_pool(lambda pool: pool["slots"]["free"] == 2)
        assert [w["busy"] for w in rig.pool()["workers"]] == [1, 1]
        for wire in wires[2:]:
            wire.send(request(f"{ANY}/x"))
        rig.wait_pool(lambda pool: pool["slots"]["free"] == 0)
        for worker in (a, b, c, d):
            worker.serve()
        assert sorted(wire.answer()["rhttp-worker"] for wire in wires) == ["w1", "w1", "w2", "w2"]
        for wire in wires:
            wire.close()


def test_preferred_label_is_honoured_when_it_can_be(rig: Rig, wire: Wire) -> None:
    """A wish, not a condition."""
    with rig.worker("w2") as other, rig.worker("w1") as wanted:
        for _ in range(3):
            wire.send(request(f"{ANY}/x", "GET", "Rhttp-Prefer-Label: gpu=a100"))
            assert "rhttp-prefer-label" not in wanted.serve().names
            assert wire.answer()["rhttp-worker"] == "w1"
        for label in ("gpu=h100", "nonsense", "=", "gpu=a100x"):
            wire.send(request(f"{ANY}/x", "GET", f"Rhttp-Prefer-Label: {label}"))
            free = wait_for(lambda: [w for w in rig.pool()["workers"] if w["busy"]], bool)[0]["name"]
            (wanted if free == "w1" else other).serve()
            assert wire.answer().status == 200
        with rig.dispatch() as busy:
            busy.send(request("/-/pools/render/workers/w1/x"))
            wanted.request()
            wire.send(request(f"{ANY}/x", "GET", "Rhttp-Prefer-Label: gpu=a100"))
            other.serve()
            assert wire.answer()["rhttp-worker"] == "w2"
            wanted.reply()
            assert busy.answer().status == 200


# ---- waiting -------------------------------------------------------------------------------------------------


def test_request_without_a_wait_is_refused_at_once(rig: Rig, wire: Wire) -> None:
    """503 with Retry-After, on a connection that goes on."""
    for _ in range(2):
        answer = wire.ask(f"{ANY}/x", "POST", content=b"x")
        assert (answer.status, answer.problem, answer["retry-after"]) == (503, "no-slot", "1")
        assert rig.line_of(answer, "dispatch")["outcome"] == "failed"


@pytest.mark.parametrize("prefer", ["wait=10", "respond-async, wait=10", 'wait="10"', "Wait = 10", "wait=10; foo"])
def test_request_that_waits_gets_the_next_worker(rig: Rig, wire: Wire, prefer: str) -> None:
    """In every form of RFC 7240."""
    wire.send(request(f"{ANY}/x", "POST", f"Prefer: {prefer}", content=b"job"))
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    with rig.worker("w1") as worker:
        assert worker.serve().content == b"job"
        assert wire.answer().status == 200
    assert rig.pool()["waiting"] == 0


def test_wait_that_is_over_is_503(rig: Rig, wire: Wire) -> None:
    """After as long as it was willing to wait."""
    start = time.monotonic()
    answer = wire.ask(f"{ANY}/x", "GET", "Prefer: wait=1")
    assert (answer.status, answer.problem) == (503, "no-slot")
    assert 0.7 < time.monotonic() - start < 2.5
    assert rig.line_of(answer, "dispatch")["reason"] == "wait_over"


def test_waiting_requests_are_served_in_their_order(rig: Rig) -> None:
    """First come, first served; who left is passed over."""
    wires = []
    for number in range(5):
        wire = rig.dispatch()
        wire.send(request(f"{ANY}/{number}", "GET", "Prefer: wait=20"))
        rig.wait_pool(lambda pool, want=number + 1: pool["waiting"] == want)  # type: ignore[misc]
        wires.append(wire)
    wires[1].close()
    wires[3].reset()
    rig.wait_pool(lambda pool: pool["waiting"] == 3)
    with rig.worker("w1") as worker:
        assert [worker.serve().target for _ in range(3)] == ["/0", "/2", "/4"]
        for number in (0, 2, 4):
            assert wires[number].answer().status == 200
            wires[number].close()


def test_queue_has_an_end(rig: Rig) -> None:
    """Beyond it: 503 at once."""
    with rig.dispatch() as one, rig.dispatch() as two, rig.dispatch() as three:
        for number, wire in enumerate((one, two)):
            wire.send(request("/-/pools/tiny/any/x", "GET", "Prefer: wait=20"))
            rig.wait_pool(lambda pool, want=number + 1: pool["waiting"] == want, "tiny")  # type: ignore[misc]
        start = time.monotonic()
        answer = three.ask("/-/pools/tiny/any/x", "GET", "Prefer: wait=20")
        assert (answer.status, answer.problem) == (503, "no-slot")
        assert time.monotonic() - start < 1
        assert rig.line_of(answer, "dispatch")["reason"] == "queue_full"
        with rig.worker("t1", "tiny") as worker:
            worker.serve()
            worker.serve()
            assert one.answer().status == two.answer().status == 200


def test_content_of_a_waiting_request_is_kept_up_to_a_bound_and_arrives_whole(rig: Rig, wire: Wire) -> None:
    """The rest stays with its sender until a slot is there."""
    size = 24 << 20
    content = bytes(range(256)) * (size // 256)
    sender = threading.Thread(target=lambda: wire.send(request(f"{ANY}/x", "POST", "Prefer: wait=30", content=content)))
    sender.start()
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    sender.join(0.5)
    assert sender.is_alive()
    with rig.worker("w1") as worker:
        taken = worker.request()
        assert taken.content == content
        worker.reply()
        sender.join()
        assert wire.answer().status == 200


def test_waiting_expectation_gets_100_when_a_slot_is_there(rig: Rig, wire: Wire) -> None:
    """Not before."""
    wire.send(request(f"{ANY}/x", "POST", "Prefer: wait=20", "Expect: 100-continue", "Content-Length: 3"))
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    assert wire.is_quiet()
    with rig.worker("w1") as worker:
        assert wire.one().status == 100
        wire.send(b"job")
        assert worker.serve().content == b"job"
        assert wire.one().status == 200


# ---- workers that die ----------------------------------------------------------------------------------------


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
        assert answer.all("rhttp-worker") == []
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


# ---- workers that lie ----------------------------------------------------------------------------------------

LIES: dict[str, bytes] = {
    "junk": b"junk\r\n\r\n",
    "surplus": response(b"x") + b"y",
    "two answers": response(b"x") + response(b"y"),
    "101 unasked": SWITCH,
    "re-reversal": SWITCH + b"GET / HTTP/1.1\r\n\r\n",
    "conflicting lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "204 and more": b"HTTP/1.1 204 No Content\r\n\r\nx",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", LIES)
def test_answer_outside_of_the_rules_is_502_and_drops_the_worker(rig: Rig, wire: Wire, name: str) -> None:
    """Whoever waits behind never sees a byte of it."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        worker.wire.send(LIES[name])
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-invalid")
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
        worker.wire.rest()
        assert worker.wire.ended is not None
        assert wire.ask("/-/health").status == 200


@pytest.mark.parametrize("lie", [b"x", response(b"unasked"), SWITCH, b"GET / HTTP/1.1\r\n\r\n"])
def test_bytes_without_a_question_drop_the_connection(rig: Rig, wire: Wire, lie: bytes) -> None:
    """Before the first request and between two."""
    with rig.worker("w1") as worker:
        worker.wire.send(lie)
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.serve()
        assert wire.answer().status == 200
        worker.wire.send(lie)
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
    assert wire.ask(f"{ANY}/x").status == 503
    assert "question" in rig.wait_line(event="reverse.closed")["reason"]


def test_worker_that_answers_before_it_has_read_is_served_but_not_reused(rig: Rig, wire: Wire) -> None:
    """Early answers are allowed; the rest of the content has nowhere to go."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x", "POST", "Content-Length: 100000") + b"x" * 1000)
        read_head(worker.wire)
        worker.reply(b"no", "413 Content Too Large")
        answer = wire.answer()
        assert answer.status == 413
        wire.send(b"x" * 99_000)
        assert wire.ask("/-/health").status == 200
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)


# ---- instances and caps --------------------------------------------------------------------------------------


def serve_one(rig: Rig, worker: Worker) -> None:
    """One request through this worker, which must be the only free one of its name."""
    with rig.dispatch() as wire:
        wire.send(request(f"/-/pools/render/workers/{worker.name}/x"))
        worker.serve()
        assert wire.answer().status == 200


def test_newer_instance_supersedes_an_older_one_once_it_served(rig: Rig, wire: Wire) -> None:
    """Idle old connections close, busy ones after their answer; not before the new one was seen serving."""
    with (
        rig.worker("w1", "render", "Rhttp-Instance: old") as idle,
        rig.worker("w1", "render", "Rhttp-Instance: old") as busy,
    ):
        wire.send(request("/-/pools/render/workers/w1/x"))
        first, rest = (idle, busy) if not idle.wire.is_quiet(0.3) else (busy, idle)
        first.request()
        with rig.worker("w1", "render", "Rhttp-Instance: new") as new:
            assert rig.pool()["slots"] == {"total": 3, "free": 2}
            assert rest.wire.is_quiet()
            with rig.dispatch() as one, rig.dispatch() as two:
                one.send(request("/-/pools/render/workers/w1/y"))
                two.send(request("/-/pools/render/workers/w1/y"))
                rest.serve()
                new.serve()
                assert one.answer().status == two.answer().status == 200
            assert rest.wire.rest() == b""
            assert rest.wire.ended == "notify"
            assert first.wire.is_quiet()
            first.reply()
            assert wire.answer().status == 200
            assert first.wire.rest() == b""
            pool = rig.wait_pool(lambda pool: pool["slots"]["total"] == 1)
            assert pool["workers"][0]["instance"] == "new"
            assert rig.wait_line(event="reverse.closed", reason="superseded")


def test_connections_without_an_instance_supersede_nothing(rig: Rig) -> None:
    """And are superseded by none."""
    with rig.worker("w1", "render", "Rhttp-Instance: a") as named, rig.worker("w1") as nameless:
        with rig.dispatch() as one, rig.dispatch() as two:
            for wire in (one, two):
                wire.send(request("/-/pools/render/workers/w1/x"))
            named.serve()
            nameless.serve()
            assert one.answer().status == two.answer().status == 200
        assert slots(rig) == (2, 2)
        assert named.wire.is_quiet()


def test_connections_of_one_worker_are_capped(rig: Rig) -> None:
    """Beyond the cap: told so, and closed; the others go on, and room is room again."""
    held = [rig.worker("w1") for _ in range(5)]
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w2", target, "POST")))
        answer = wire.one()
        assert (answer.status, answer.problem) == (503, "overloaded")
        assert wire.rest() == b""
    assert slots(rig) == (5, 5)
    held.pop().wire.close()
    rig.wait_pool(lambda pool: pool["slots"]["total"] == 4)
    with rig.worker("w1"):
        assert slots(rig) == (5, 5)
    for worker in held:
        worker.wire.close()


# ---- events --------------------------------------------------------------------------------------------------


def next_event(wire: Wire) -> tuple[str, dict[str, Any]]:
    """One event of a stream in chunks, whose borders are events' borders or not."""
    if not hasattr(wire, "stream"):
        wire.stream = b""  # type: ignore[attr-defined]
    stream: bytes = wire.stream  # type: ignore[attr-defined]
    while b"\n\n" not in stream:
        size = int(wire.until(b"\r\n"), 16)
        assert size, "the stream ended"
        stream += wire.read(size)
        assert wire.read(2) == b"\r\n"
    event, _, wire.stream = stream.partition(b"\n\n")  # type: ignore[attr-defined]
    lines = dict(line.split(": ", 1) for line in event.decode().split("\n"))
    return lines["event"], json.loads(lines["data"])


def test_events_tell_of_workers_and_slots(rig: Rig, wire: Wire) -> None:
    """The sum at once, then joins, leaves and changes."""
    wire.send(request("/-/pools/render/events"))
    head = wire.until(b"\r\n\r\n").lower()
    assert b"content-type: text/event-stream" in head
    assert next_event(wire) == ("slots", {"pool": "render", "total": 0, "free": 0})
    with rig.worker("w1") as worker:
        kind, data = next_event(wire)
        assert (kind, data["worker"]) == ("worker-joined", "w1")
        assert next_event(wire) == ("slots", {"pool": "render", "total": 1, "free": 1})
        with rig.dispatch() as one:
            one.send(request(f"{ANY}/x"))
            worker.request()
            assert next_event(wire)[1]["free"] == 0
            worker.reply()
            assert one.answer().status == 200
            assert next_event(wire)[1]["free"] == 1
    kind, data = next_event(wire)
    assert (kind, data["worker"]) == ("worker-left", "w1")
    assert next_event(wire) == ("slots", {"pool": "render", "total": 0, "free": 0})
    wire.close()


def test_events_are_for_those_who_may_inspect(rig: Rig) -> None:
    """A client with Digest may, a worker may not, and there are none of an unknown pool."""
    with rig.connect("alice") as wire:
        wire.send(request("/-/pools/render/events", "GET", rig.authorized("alice", "/-/pools/render/events")))
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        wire.half_close()
    assert rig.ask("w1", "/-/pools/render/events").status == 403
    with rig.dispatch() as wire:
        assert wire.ask("/-/pools/nowhere/events").status == 404
        assert wire.ask("/-/pools/render/events", "POST").status == 405


def test_unknown_pool_is_404_for_dispatch(rig: Rig, wire: Wire) -> None:
    """With and without a wait."""
    for target in ("/-/pools/nowhere/any/x", "/-/pools/nowhere/workers/w1/x", "/-/pools/nowhere"):
        answer: Answer = wire.ask(target, "GET", "Prefer: wait=5")
        assert (answer.status, answer.problem) == (404, "not-found")


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
                                    worker.wire.send(LIES["two answers"])
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
