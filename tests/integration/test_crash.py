"""Crashes from outside: kill -9 of every party in mid-exchange; one answer or a closed connection each, a sound log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.origins import Origin, read_request
from support.rig import JOBS, Rig, data_pid, upgrade, wait_for
from support.wire import Ended, Wire, request

CONFIG = f"""{JOBS}
[limits]
drain_timeout = 3.0
"""
PEERS = ("issue-client alice", "issue-worker w1 --pool render")
ANY = "/-/pools/render/any"
# A master in a process of its own: begins an answer and stays in the middle of it.
MASTER = r"""
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    sock, _ = listener.accept()
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    if b"/half" in data:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    print("asked", flush=True)
    sock.recv(1)
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def rig(tmp_path: Path, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS) as rig:
        yield rig


def outcome(wire: Wire) -> int | str:
    """What a requester gets: a status, or how its connection ended."""
    try:
        return wire.answer().status
    except Ended:
        assert wire.ended is not None
        return wire.ended


def verified(rig: Rig) -> str:
    """``audit verify`` succeeds."""
    return rig.run("audit", "verify")


def starts(rig: Rig) -> list[Any]:
    return [line["previous"] for line in rig.audit() if line["event"] == "gateway.start"]


def test_worker_process_that_is_killed_in_mid_answer(rig: Rig) -> None:
    """Its requester is cut, the log says failed, the gateway goes on."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from support.wire import Wire, tls_context; from pathlib import Path; import socket\n"
        "wire = Wire(socket.create_connection(('127.0.0.1', int(sys.argv[3]))), tls_context(Path(sys.argv[4])))\n"
        "wire.send(sys.stdin.buffer.read()); wire.one(); print('reversed', flush=True)\n"
        "wire.until(b'\\r\\n\\r\\n')\n"
        "wire.send(b'HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhello'); wire.read(1)\n"
    )
    root = Path(__file__).parents[2]
    target = "/-/reverse/render"
    arguments = [root, root / "tests", rig.address[1], rig.bundle("w1")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(upgrade(target, rig.authorized("w1", target, "POST")))
        worker.stdin.close()
        assert worker.stdout.readline() == b"reversed\n"
        with rig.dispatch() as wire:
            wire.send(request(f"{ANY}/x", "POST", content=b"job"))
            wire.until(b"hello")
            worker.send_signal(signal.SIGKILL)
            assert wire.rest() == b""
        assert rig.wait_line(event="dispatch")["outcome"] == "failed"
        rig.wait_pool(lambda pool: not pool["workers"])
    verified(rig)


@pytest.mark.parametrize(("target", "ends"), [("/jobs/half", {"fin", "reset"}), ("/jobs/none", {502})])
def test_master_process_that_is_killed(tmp_path: Path, target: str, ends: set[Any]) -> None:
    """Before its answer: 502; in the middle of it: a cut connection."""
    with subprocess.Popen([sys.executable, "-c", MASTER], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        config = CONFIG.format(port=int(master.stdout.readline()))
        with Rig(tmp_path, config, peers=PEERS) as rig, rig.connect("alice") as wire:
            wire.send(request(target, "POST", rig.authorized("alice", target, "POST"), content=b"x"))
            assert master.stdout.readline() == "asked\n"
            if target.endswith("half"):
                wire.until(b"hello")
                master.kill()
                wire.rest()
                found: int | str | None = wire.ended
            else:
                master.kill()
                found = outcome(wire)
            assert found in ends
            assert rig.wait_line(event="request")["outcome"] == "failed"
            verified(rig)


def test_data_process_that_is_killed_under_load(rig: Rig, origin: Origin) -> None:
    """Every requester has one answer or a closed connection; a new process serves on; the log is sound and says so."""
    results: list[int | str] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                with rig.dispatch() as wire:
                    wire.send(request(f"{ANY}/{number}", "GET", "Prefer: wait=5"))
                    results.append(outcome(wire))
            except OSError:
                results.append("refused")
                time.sleep(0.01)

    with rig.worker("w1") as worker:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            worker.serve()
        worker.request()
        pid = data_pid(rig)
        os.kill(pid, signal.SIGKILL)
        assert worker.wire.rest() == b""
    wait_for(lambda: starts(rig), lambda found: len(found) == 2)
    rig.forget_challenges()
    with rig.worker("w1") as worker:
        for _ in range(20):
            worker.serve()
        stop.set()
        while any(thread.is_alive() for thread in threads):
            if not worker.wire.is_quiet(0.05):
                worker.serve()
    for thread in threads:
        thread.join(10)
    assert set(results) <= {200, 502, 503, "fin", "reset", "refused"}, set(results)
    assert results.count(200) >= 70
    assert starts(rig) == ["none", "unclean"]
    verified(rig)


def test_whole_gateway_that_is_killed_leaves_a_log_that_verifies(rig: Rig, origin: Origin) -> None:
    """Supervisor and data process at once, in mid-exchange; the next start says unclean."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        peer.rest(30)

    with origin.scripted(script), rig.worker("w1") as worker, rig.connect("alice") as wire, rig.dispatch() as master:
        wire.send(request("/jobs/x", "GET", rig.authorized("alice", "/jobs/x")))
        wire.until(b"hello")
        master.send(request(f"{ANY}/x", "POST", content=b"job"))
        worker.request()
        pid = data_pid(rig)
        rig.served.signal(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        rig.served.ended()
        for one in (wire, master, worker.wire):
            assert one.rest() == b""
        assert wire.ended != "notify"
    verified(rig)
    lines = rig.audit()
    assert [line["event"] for line in lines if line.get("worker")] == ["dispatch.sent"]
    rig.start()
    rig.forget_challenges()
    assert starts(rig) == ["none", "unclean"]
    assert rig.ask("alice", "/jobs/x").status == 200
    verified(rig)


def test_whole_gateway_that_is_killed_under_load_leaves_a_line_for_every_request_that_left(
    rig: Rig, origin: Origin
) -> None:
    """Whatever a master was sent, the log names it, also when nobody lived to write how it ended."""
    lines = [rig.authorized("alice", f"/jobs/{number}", "POST") for number in range(60)]

    def ask(mine: list[int]) -> None:
        with rig.connect("alice") as wire:
            for number in mine:
                try:
                    wire.send(request(f"/jobs/{number}", "POST", lines[number], content=b"job"))
                    wire.answer()
                except (Ended, OSError):
                    return

    threads = [threading.Thread(target=ask, args=([*range(first, 60, 4)],)) for first in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: origin.raw.count(b"POST /jobs/"), lambda count: count >= 10)
    pid = data_pid(rig)
    rig.served.signal(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    rig.served.ended()
    for thread in threads:
        thread.join(20)
    ran = re.findall(rb"(?i)\r\nrhttp-request-id: ([0-9a-f]+)\r\n", origin.raw)
    assert len(ran) >= 10
    said = [line["request_id"].encode() for line in rig.audit() if line["event"] == "request.sent"]
    assert set(ran) <= set(said)
    assert len(said) == len(set(said))
    verified(rig)


def test_torn_last_line_is_set_aside(rig: Rig, origin: Origin) -> None:
    """Half a line, as a power cut leaves it."""
    assert rig.ask("alice", "/jobs/x").status == 200
    pid = data_pid(rig)
    rig.served.signal(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    rig.served.ended()
    path = sorted((rig.home / "audit").glob("p0-*.jsonl"))[-1]
    with path.open("ab") as file:
        file.write(b'{"stream":"p0","seq":99,"ts":"20')
    rig.start()
    rig.forget_challenges()
    assert starts(rig) == ["none", "unclean"]
    assert list((rig.home / "audit").glob("*.torn"))
    assert rig.ask("alice", "/jobs/x").status == 200
    verified(rig)


def test_drain_answers_what_runs_and_takes_nothing_new(rig: Rig, origin: Origin) -> None:
    """SIGTERM: health 503 at once, idle workers close, the busy one ends its answer, exit 0."""
    with rig.worker("w1") as idle, rig.worker("w1") as busy, rig.dispatch() as one, rig.dispatch() as two:
        one.send(request(f"{ANY}/x", "POST", content=b"job"))
        first, rest = (idle, busy) if not idle.wire.is_quiet(0.3) else (busy, idle)
        first.request()
        assert two.ask("/-/health").status == 200
        rig.served.signal(signal.SIGTERM)
        assert rest.wire.rest() == b""
        answer = two.ask("/-/health")
        assert (answer.status, answer.json) == (503, {"status": "draining"})
        first.reply(b"done")
        assert one.answer().content == b"done"
        assert rig.served.ended() == 0
        two.rest()
    assert rig.audit()[-1]["event"] == "gateway.stop"
    assert "0 lines behind" in verified(rig)


def test_drain_that_takes_too_long_cuts_what_is_left(rig: Rig, origin: Origin) -> None:
    """After `drain_timeout`: an answer or a closed connection, a line each, exit 0."""
    silent = origin.scripted(lambda peer: peer.rest(30))
    with silent, rig.worker("w1") as worker, rig.dispatch() as one, rig.connect("alice") as client:
        one.send(request(f"{ANY}/x", "POST", content=b"job"))
        taken = worker.request()
        client.send(request("/jobs/x", "GET", rig.authorized("alice", "/jobs/x")))
        wait_for(lambda: origin.raw, lambda raw: b"/jobs/x" in raw)
        start = time.monotonic()
        rig.served.signal(signal.SIGTERM)
        assert outcome(one) in (502, 503, "fin", "reset")
        assert outcome(client) in (502, 503, "fin", "reset")
        assert rig.served.ended() == 0
        assert 2.5 < time.monotonic() - start < 8
    ends = [line["event"] for line in rig.lines_of(taken["rhttp-request-id"])]
    assert ends.count("dispatch") == 1
    assert [line["outcome"] for line in rig.audit() if line["event"] == "request"].count("allowed") == 0
    assert "0 lines behind" in verified(rig)


def test_second_term_ends_now(rig: Rig, origin: Origin) -> None:
    """Without waiting for anyone."""
    with rig.worker("w1") as worker, rig.dispatch() as one:
        one.send(request(f"{ANY}/x", "POST", content=b"job"))
        worker.request()
        rig.served.signal(signal.SIGTERM)
        rig.wait_line(event="reverse.opened")
        with rig.dispatch() as two:
            wait_for(lambda: two.ask("/-/health").status, lambda status: status == 503)
        start = time.monotonic()
        rig.served.signal(signal.SIGTERM)
        rig.served.ended()
        assert time.monotonic() - start < 1.5
    verified(rig)
