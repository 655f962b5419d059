"""Dispatch from outside: who gets a request, what the worker sees of it, and what comes back."""

from __future__ import annotations

import pytest
from support.pooling import ANY, slots
from support.rig import Rig, wait_for
from support.wire import Answer, Wire, chunked, request


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


def test_unknown_pool_is_404_for_dispatch(rig: Rig, wire: Wire) -> None:
    """With and without a wait."""
    for target in ("/-/pools/nowhere/any/x", "/-/pools/nowhere/workers/w1/x", "/-/pools/nowhere"):
        answer: Answer = wire.ask(target, "GET", "Prefer: wait=5")
        assert (answer.status, answer.problem) == (404, "not-found")
