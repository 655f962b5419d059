"""Limits from outside: connections, handshakes, event streams; whoever is too many or too slow hurts only itself."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from support.origins import Origin, read_request
from support.rig import JOBS, Rig, data_pid, memory_of, wait_for
from support.wire import PATIENCE, Wire, is_ended, request

CONFIG = f"""{JOBS}
[audit]
fold_after = 5
[limits]
connections_per_client = 4
connections = 40
handshakes = 8
handshake_timeout = 1.0
event_streams = 3
event_queue = 5
master_connections = 2
master_connect_timeout = 1.0
"""
PEERS = (
    "issue-client alice",
    "issue-client bob",
    *(f"issue-client c{number}" for number in range(12)),
    "issue-worker w1 --pool render",
)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("limits"), CONFIG.format(port=origin.port), peers=PEERS) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _nobody_left(rig: Rig) -> Iterator[None]:
    """Counts return to nothing: a leak of one connection a test would show here."""
    yield
    wait_for(lambda: rig.status()["connections"]["total"], lambda total: total == 0)


def close_all(wires: list[Wire]) -> None:
    for wire in wires:
        wire.close()


def test_connections_of_one_client_are_bounded_and_others_are_not_touched(rig: Rig) -> None:
    """One too many is told so and closed; when one leaves there is room again."""
    wires = [rig.connect("alice") for _ in range(4)]
    try:
        for wire in wires:
            assert wire.ask("/-/health").status == 200
        with rig.connect("alice") as fifth, rig.connect("bob") as other:
            answer = fifth.ask("/-/health")
            assert (answer.status, answer.problem) == (503, "overloaded")
            assert answer["retry-after"]
            assert fifth.rest() == b""
            assert rig.line_of(answer)["reason"] == "connections_of_identity"
            assert other.ask("/-/health").status == 200
        wires.pop().close()

        def again() -> int:
            with rig.connect("alice") as wire:
                return wire.ask("/-/health").status

        wait_for(again, lambda status: status == 200)
        for wire in wires:
            assert wire.ask("/-/health").status == 200
    finally:
        close_all(wires)


def test_connections_in_all_are_bounded_and_the_backlog_waits(rig: Rig) -> None:
    """Nobody gets half a service: who is too many waits in the kernel and is served when there is room."""
    wires: list[Wire] = []
    late: socket.socket | None = None
    try:
        for number in range(10):
            wires += [rig.connect(f"c{number}") for _ in range(4)]
        assert rig.status()["connections"]["total"] == 40
        late = rig.tcp()
        late.sendall(b"\x16\x03\x01")
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.recv(1)
        with rig.dispatch() as master:  # whom a crowd of clients does not shut out
            assert master.ask("/-/health").status == 200
        wires.pop().close()
        wires.pop().close()
        with rig.connect("bob") as other:
            assert other.ask("/-/health").status == 200
    finally:
        close_all(wires)
        if late is not None:
            late.close()


def test_handshakes_that_never_end_are_ended_and_do_not_lock_the_door(rig: Rig) -> None:
    """Three times as many as there is room for; a good client gets in when the first of them are thrown out."""
    seen = len(rig.audit())
    stuck = [rig.tcp() for _ in range(24)]
    try:
        for sock, opening in zip(
            stuck, [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] * 8, strict=True
        ):
            sock.sendall(opening)
        start = time.monotonic()
        with rig.connect("alice") as wire:
            assert wire.ask("/-/health").status == 200
        assert time.monotonic() - start < 6
        for sock in stuck:
            sock.settimeout(PATIENCE)
            assert is_ended(sock)
    finally:
        for sock in stuck:
            sock.close()
    lines = [line for line in rig.audit()[seen:] if line["event"] == "tls.refused"]
    reasons = {line["reason"] for line in lines}
    assert "crowded" in reasons
    assert reasons <= {"crowded", "timeout"}
    wait_for(
        lambda: sum(line.get("count", 1) for line in rig.audit()[seen:] if line["event"] == "tls.refused"),
        lambda count: count == 24,
    )


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"SSH-2.0-x\r\n"]
)
def test_junk_instead_of_tls_is_refused(rig: Rig, junk: bytes) -> None:
    """And closed, with a line."""
    seen = len(rig.audit())
    with rig.tcp() as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(junk)
        while sock.recv(4096):
            pass
    wait_for(lambda: [line for line in rig.audit()[seen:] if line["event"] == "tls.refused"], bool)


def test_plain_http_on_the_tls_port_is_answered_in_the_clear(rig: Rig) -> None:
    """Who forgot the s in https reads why nothing works; the log has its line, and no request was served."""
    seen = len(rig.audit())
    url = f"http://127.0.0.1:{rig.address[1]}/jobs/x"
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-m", "20", "-w", "%{http_code}", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "This port speaks TLS: ask again with https.\n400", done.stderr
    (line,) = wait_for(lambda: list(rig.audit()[seen:]), bool)
    assert (line["event"], line["reason"], line["source"]) == ("tls.refused", "plain_http", "127.0.0.1")


def test_many_refusals_become_one_line_a_second(rig: Rig) -> None:
    """A stranger cannot fill the disk; nothing goes uncounted."""
    seen = len(rig.audit())
    count = 200
    with rig.connect("bob") as wire:
        for _ in range(count):
            assert wire.ask("/jobs/x", "GET", "Authorization: Basic eDp5").status == 401

    def refused() -> list[dict[str, object]]:
        return [line for line in rig.audit()[seen:] if line.get("reason") == "scheme"]

    wait_for(lambda: sum(int(str(line.get("count", 1))) for line in refused()), lambda total: total == count)
    assert len(refused()) < 40


def test_event_streams_are_bounded(rig: Rig) -> None:
    """One too many is told so; the others go on."""
    target = "/-/pools/render/events"
    wires = [rig.dispatch() for _ in range(4)]
    try:
        for wire in wires[:3]:
            wire.send(request(target))
            wire.until(b"\n\n")
        answer = wires[3].ask(target)
        assert (answer.status, answer.problem) == (503, "overloaded")
        with rig.worker("w1"):
            for wire in wires[:3]:
                wire.until(b"worker-joined")
        wires[0].close()

        def again() -> bytes:
            with rig.dispatch() as wire:
                wire.send(request(target))
                return wire.until(b"\r\n\r\n")

        wait_for(again, lambda head: b" 200 " in head)
    finally:
        close_all(wires)
    rig.wait_pool(lambda pool: not pool["workers"])


def test_connections_to_a_master_are_bounded(rig: Rig, origin: Origin) -> None:
    """Who waits too long for one is told 503; who gets one is served."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.rest(30)

    with origin.scripted(script):
        wires = [rig.connect("alice") for _ in range(3)]
        try:
            for wire in wires[:2]:
                wire.send(request("/jobs/x", "GET", rig.authorized("alice", "/jobs/x")))
            wait_for(lambda: len(origin.wires), lambda count: count == 2)
            answer = rig.ask("alice", "/jobs/x", wire=wires[2])
            assert (answer.status, answer.problem) == (503, "overloaded")
            assert len(origin.wires) == 2
        finally:
            close_all(wires)


def test_idle_connections_cost_little_and_give_it_back(rig: Rig) -> None:
    """Opened and closed a thousand times: memory does not grow with the number."""
    pid = data_pid(rig)

    def turn(count: int) -> None:
        for _ in range(count):
            with rig.connect("alice") as wire:
                assert wire.ask("/-/health").status == 200

    turn(200)
    before = memory_of(pid)
    turn(500)
    assert memory_of(pid) - before < 2 << 20


def test_peers_that_vanish_in_the_handshake_leave_nothing_behind(rig: Rig) -> None:
    """By reset, in every state of it."""
    for size in (0, 1, 5, 100, 300):
        for _ in range(20):
            sock = rig.tcp()
            sock.sendall((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600)[:size])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
    with rig.connect("bob") as wire:
        assert wire.ask("/-/health").status == 200
