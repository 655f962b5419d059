"""Relay pools from outside: the role switch handed to a master that speaks Reverse HTTP itself, then bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from support.origins import Origin, Request, read_request, response
from support.rig import Rig, upgrade, wait_for
from support.runhomes import new_ca
from support.wire import PATIENCE, Wire, request

from pki.names import Role

CONFIG = """
[masters.tier]
urls = ["http://127.0.0.1:{port}"]
[pools.far]
mode = "relay"
master = "tier"
[pools.elsewhere]
mode = "relay"
master = "tier"
path = "/attach/here"
[pools.near]
[audit]
fold_after = 100000
[limits]
answer_timeout = 2.0
"""
PEERS = (
    "issue-client alice",
    "issue-worker w1 --pool far --label gpu=a100",
    "issue-worker w2 --pool elsewhere",
    "issue-worker w3 --pool near",
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
FAR = "/-/reverse/far"


class Master:
    """A tiny master: agrees to every switch and hands the connection to the test."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.asked: list[Request] = []
        self.joined: SimpleQueue[Wire] = SimpleQueue()
        self.answer = SWITCH
        self.done = threading.Event()

    def script(self, wire: Wire) -> None:
        """Answer the upgrade, then keep the connection open until the test is over."""
        self.asked.append(read_request(wire))
        wire.send(self.answer)
        self.joined.put(wire)
        self.done.wait(30)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("relay"), CONFIG.format(port=origin.port), peers=PEERS) as rig:
        yield rig


@pytest.fixture
def master(origin: Origin) -> Iterator[Master]:
    master = Master(origin)
    with origin.scripted(master.script):
        yield master
        master.done.set()


@pytest.fixture(autouse=True)
def _none_left(rig: Rig, master: Master) -> Iterator[None]:
    """Every test leaves empty pools once the master let go."""
    yield
    master.done.set()
    for name in ("far", "elsewhere"):
        rig.wait_pool(lambda pool: not pool["workers"], name)


def switch(rig: Rig, name: str, target: str, *lines: str, method: str = "POST") -> Wire:
    """A worker that has asked and not yet read the answer."""
    wire = rig.connect(name)
    return wire.send(upgrade(target, rig.authorized(name, target, method), *lines, method=method))


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_switch_goes_to_the_master_without_credentials_and_with_identity(rig: Rig, master: Master, method: str) -> None:
    """The master learns who it is from us, and nothing that the worker says about itself."""
    spoof = ("Rhttp-Identity: worker/root", "X-Forwarded-For: 1.2.3.4", "Client-Cert: :AA:", "X-Purpose: event")
    with switch(rig, "w1", FAR, *spoof, method=method) as worker:
        assert worker.one().raw == SWITCH
        asked = master.asked[0]
        assert (asked.method, asked.target) == (method, FAR)
        assert asked["upgrade"] == "PTTH/1.0"
        assert asked["connection"].lower() == "upgrade"
        assert asked["rhttp-identity"] == "worker/w1"
        assert asked["x-purpose"] == "event"
        assert asked["host"]
        assert not {"authorization", "x-forwarded-for", "client-cert"} & set(asked.names)
        opened = rig.wait_line(event="reverse.opened")
        assert opened["request_id"] == asked["rhttp-request-id"]
        assert opened["target"] == FAR


def test_path_of_the_pool_is_asked_for(rig: Rig, master: Master) -> None:
    """When its table has one."""
    with switch(rig, "w2", "/-/reverse/elsewhere") as worker:
        assert worker.one().status == 101
        assert master.asked[0].target == "/attach/here"


def test_bytes_pass_both_ways_untouched(rig: Rig, master: Master) -> None:
    """Whatever they are: HTTP, junk, megabytes."""
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        tier = master.joined.get(timeout=PATIENCE)
        tier.send(request("/job", "POST", "Rhttp-Identity: as-is", content=b"x"))
        taken = read_request(worker)
        assert (taken.target, taken["rhttp-identity"]) == ("/job", "as-is")
        worker.send(response(b"done"))
        assert tier.answer().content == b"done"
        junk = bytes(range(256)) * 4096
        for one, other in ((worker, tier), (tier, worker)):
            sender = threading.Thread(target=one.send, args=(junk * 4,))
            sender.start()
            assert other.read(len(junk) * 4) == junk * 4
            sender.join(60)
        assert worker.is_quiet()


def test_bytes_glued_to_the_101_pass(rig: Rig, master: Master) -> None:
    """The first request may come in the same packet."""
    master.answer = SWITCH + request("/first")
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().raw == SWITCH
        assert read_request(worker).target == "/first"


def test_pool_shows_relayed_workers_and_no_free_slots(rig: Rig, master: Master) -> None:
    """Only the master knows what is free."""
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        pool = rig.pool("far")
        assert pool["mode"] == "relay"
        assert pool["slots"] == {"total": 1, "free": None}
        (entry,) = pool["workers"]
        assert (entry["name"], entry["slots"], entry["labels"]) == ("w1", 1, {"gpu": "a100"})
        with rig.dispatch() as wire:
            assert wire.ask("/-/pools").json["slots"] == {"total": 1, "free": 0}


def test_dispatch_to_a_relay_pool_is_404(rig: Rig, master: Master) -> None:
    """The master does that."""
    with rig.dispatch() as wire:
        for target in ("/-/pools/far/any/x", "/-/pools/far/workers/w1/x", "/-/pools/far/events"):
            assert wire.ask(target).problem == "not-found"


@pytest.mark.parametrize("side", ["worker", "master"])
@pytest.mark.parametrize("way", ["half_close", "reset", "close"])
def test_end_of_either_side_ends_the_other(rig: Rig, master: Master, side: str, way: str) -> None:
    """And the log says closed, once."""
    seen = len(rig.audit())
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        tier = master.joined.get(timeout=PATIENCE)
        one, other = (worker, tier) if side == "worker" else (tier, worker)
        getattr(one, way)()
        assert other.rest() == b""
        if way == "half_close":
            other.send(b"last words")
            other.half_close()
            assert one.rest() == b"last words"
        other.close()
        wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "reverse.closed"], bool)


REFUSALS = {
    "403 Forbidden": 403,
    "429 Too Many Requests": 429,
    "503 Service Unavailable": 503,
    "204 No Content": 204,
    "200 OK": 200,
}


@pytest.mark.parametrize("status", REFUSALS)
def test_another_final_answer_passes_and_closes(rig: Rig, master: Master, status: str) -> None:
    """The master refused: its words, its fields but for those that are ours, and the end."""
    content = b"" if status.startswith("204") else b"no"
    length = "" if status.startswith("204") else "Content-Length: 2\r\n"
    master.answer = f"HTTP/1.1 {status}\r\nRetry-After: 7\r\nRhttp-X: 1\r\n{length}\r\n".encode() + content
    with switch(rig, "w1", FAR) as worker:
        answer = worker.one()
        assert (answer.status, answer.content, answer["retry-after"]) == (REFUSALS[status], content, "7")
        assert not answer.all("rhttp-x")
        assert "close" in answer.all("connection")
        assert worker.rest() == b""
        sent, line = rig.lines_of(master.asked[0]["rhttp-request-id"])
        assert (sent["event"], sent["outcome"]) == ("request.sent", "sent")
        assert (line["event"], line["status"]) == ("request", REFUSALS[status])


BAD: dict[str, bytes] = {
    "other token": SWITCH.replace(b"PTTH/1.0", b"websocket"),
    "two tokens": SWITCH.replace(b"PTTH/1.0", b"PTTH/1.0, websocket"),
    "no token": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    "no Connection": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\n\r\n",
    "101 with a length": SWITCH[:-2] + b"Content-Length: 5\r\n\r\nhello",
    "junk": b"junk\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_101_for_something_else_is_502(rig: Rig, master: Master, name: str) -> None:
    """It must name the token asked for."""
    master.answer = BAD[name]
    with switch(rig, "w1", FAR) as worker:
        answer = worker.one()
        assert (answer.status, answer.problem) == (502, "master-invalid")
        assert worker.rest() == b""


def test_401_of_the_master_is_not_passed(rig: Rig, master: Master) -> None:
    """Its challenge would ask the worker for our password."""
    master.answer = response(b"", "401 Unauthorized", "WWW-Authenticate: Digest realm=x")
    with switch(rig, "w1", FAR) as worker:
        answer = worker.one()
        assert not [value for value in answer.all("www-authenticate") if "realm=x" in value]
        assert worker.rest() == b""


def test_interim_answers_are_passed_over(rig: Rig, master: Master) -> None:
    """They mean nothing to a worker that waits for its 101."""
    master.answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hint\r\n\r\n" + SWITCH
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().raw == SWITCH


def test_master_that_does_not_answer_is_504(rig: Rig, master: Master) -> None:
    """After the answer timeout."""
    master.answer = b""
    with switch(rig, "w1", FAR) as worker:
        answer = worker.one()
        assert (answer.status, answer.problem) == (504, "deadline")
        assert worker.rest() == b""


def test_master_that_closes_is_502(rig: Rig, master: Master) -> None:
    """Once, and said so."""
    master.answer = b"HTTP/1.1 1"
    master.done.set()
    with switch(rig, "w1", FAR) as worker:
        answer = worker.one()
        assert (answer.status, answer.problem) == (502, "master-lost")


def test_worker_that_leaves_while_the_master_thinks_lets_the_master_go(rig: Rig, master: Master) -> None:
    """Nobody waits for an answer that nobody reads."""
    master.answer = b""
    worker = switch(rig, "w1", FAR)
    tier = master.joined.get(timeout=PATIENCE)
    worker.close()
    assert tier.rest() == b""


def test_bytes_before_the_101_end_both(rig: Rig, master: Master) -> None:
    """Nothing that was smuggled behind the upgrade reaches the master."""
    master.answer = b""
    worker = switch(rig, "w1", FAR)
    tier = master.joined.get(timeout=PATIENCE)
    worker.send(b"GET /smuggled HTTP/1.1\r\n\r\n")
    assert worker.is_quiet(0.1)
    tier.send(SWITCH)
    assert b"101" not in worker.rest()
    assert tier.rest() == b""
    assert b"smuggled" not in master.origin.raw
    worker.close()


def test_revoked_worker_is_cut_and_its_master_told(rig: Rig, master: Master) -> None:
    """As on a hosted pool."""
    rig.run("issue-worker", "w9", "--pool", "far")
    with switch(rig, "w9", FAR) as worker:
        assert worker.one().status == 101
        tier = master.joined.get(timeout=PATIENCE)
        rig.run("revoke", "w9")
        assert worker.rest(1.0) == b""
        assert tier.rest(1.0) == b""
        assert rig.wait_line(event="connection.cut", identity="worker/w9")["reason"] == "revoked"
        assert rig.wait_line(event="reverse.closed", identity="worker/w9")["reason"] == "revoked"


def test_slow_side_holds_back_the_other(rig: Rig, master: Master) -> None:
    """Bytes wait with their sender, not with us."""
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        tier = master.joined.get(timeout=PATIENCE)
        junk = b"x" * (24 << 20)
        sender = threading.Thread(target=tier.send, args=(junk,))
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()
        assert worker.read(len(junk)) == junk
        sender.join(60)


def test_idle_relayed_worker_is_probed_by_the_kernel(rig: Rig, master: Master) -> None:
    """One that lost its power would be shown for ever otherwise."""
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        port = worker.sock.getsockname()[1]

        def timer() -> str:
            lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            (found,) = [line[5] for line in lines if line[2].endswith(f":{port:04X}") and line[3] == "01"]
            return found

        wait_for(timer, lambda found: found.startswith("02:"))  # the keep-alive timer


def test_status_shows_relay_pools(rig: Rig, master: Master) -> None:
    """As JSON, for the operator."""
    with switch(rig, "w1", FAR) as worker:
        assert worker.one().status == 101
        assert '"far"' in json.dumps(rig.status())


def test_relayed_connection_ends_when_its_ca_leaves_the_store(tmp_path: Path, origin: Origin, master: Master) -> None:
    """On both sides, though nothing is read of what passes."""
    with Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS) as own, switch(own, "w1", FAR) as worker:
        assert worker.one().raw == SWITCH
        joined = master.joined.get(timeout=PATIENCE)
        (own.home / "certs" / "worker-ca.pem").write_bytes(new_ca(own.home, Role.WORKER))
        own.run("reload")
        worker.rest(5.0)
        joined.rest(5.0)
        assert own.wait_line(event="connection.cut", identity="worker/w1")["reason"] == "issuer_gone"
        assert own.wait_line(event="reverse.closed")["reason"] == "issuer_gone"
