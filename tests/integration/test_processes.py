"""Several data processes from outside: one gateway, on one port, of which each part may die for itself."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.origins import Origin
from support.rig import JOBS, Rig, Worker, wait_for
from support.runhomes import copy_home, set_key
from support.serving import REAL, Served
from support.spread import clients
from support.wire import Wire, request

CONFIG = f"""{JOBS}
[audit]
fold_after = 100000
"""
PEERS = ("issue-client alice", "issue-worker w1 --pool render")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def rig(tmp_path: Path, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS, processes=2) as rig:
        yield rig


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pids(rig: Rig) -> dict[str, int | None]:
    """The data processes by stream."""
    return {process["stream"]: process["pid"] for process in rig.status()["processes"]}


def counts(rig: Rig, role: str) -> dict[str, int]:
    """Connections of a role by stream."""
    return {one["stream"]: one["connections"].get(role, 0) for one in rig.status()["processes"] if one["answers"]}


def workers_everywhere(rig: Rig, stack: ExitStack) -> list[Worker]:
    """Reversed connections of w1, at least one to each process."""
    workers: list[Worker] = []
    while not (workers and all(counts(rig, "worker").values())):
        assert len(workers) < 60
        workers += [stack.enter_context(rig.worker("w1")) for _ in range(4)]
    return workers


# -- one gateway -------------------------------------------------------------------------------------------------------


def test_both_processes_serve_one_port_and_status_shows_both(rig: Rig, stack: ExitStack) -> None:
    """What a peer sees is one address; what the operator sees is two processes and one sum."""
    wires = [stack.enter_context(rig.connect("alice")) for _ in range(64)]
    status = wait_for(rig.status, lambda status: status["connections"].get("client") == len(wires))
    first, second = status["processes"]
    assert (first["stream"], second["stream"]) == ("p0", "p1")
    assert first["pid"] != second["pid"]
    assert first["answers"] is second["answers"] is True
    assert min(counts(rig, "client").values()) > 8  # of 32 each; fewer by chance in one of a billion runs
    assert {rig.ask("alice", "/jobs/x", wire=wire).status for wire in wires[:8]} == {200}


def test_masters_on_this_host_are_spread_over_the_processes(rig: Rig, stack: ExitStack) -> None:
    """One socket file is one queue, and no process takes all that waits there."""
    for _ in range(32):
        stack.enter_context(rig.dispatch())
    wait_for(lambda: counts(rig, "master"), lambda found: sum(found.values()) == 32)
    assert min(counts(rig, "master").values()) >= 12


def test_workers_of_one_name_are_one_worker_in_the_status(rig: Rig, stack: ExitStack) -> None:
    """However their connections were spread."""
    workers = workers_everywhere(rig, stack)
    (pool,) = rig.status()["pools"]
    (worker,) = pool["workers"]
    assert (worker["name"], worker["slots"], worker["busy"]) == ("w1", len(workers), 0)
    assert pool["slots"] == {"total": len(workers), "free": len(workers)}


@pytest.mark.parametrize(("held", "wanted"), [(1, 2), (2, 1), (2, 2)])
def test_port_of_a_gateway_is_refused_to_another(tmp_path: Path, held: int, wanted: int) -> None:
    """Ports are shared by the processes of one gateway, never by two gateways of one user."""
    first, second = copy_home(tmp_path / "first"), copy_home(tmp_path / "second")
    set_key(first, "processes", str(held))
    set_key(second, "processes", str(wanted))
    with Served(first) as served:
        address = served.listeners["tls"].removeprefix("https://")
        command = [*REAL, "--home", str(second), "--listen", address]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"cannot listen on {address} (tls): the address is in use" in refused.stderr
        assert [path.name for path in (second / "run").iterdir()] == ["gateway.lock"]
        served.signal(signal.SIGTERM)
        assert served.ended() == 0


def test_dispatch_over_tcp_is_one_port_too(tmp_path: Path, stack: ExitStack) -> None:
    """Shared like the TLS port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = free.getsockname()
    rig = Rig(tmp_path, processes=2)
    set_key(rig.home, "dispatch", f'"127.0.0.1:{address[1]}"')
    with rig:
        wires = [stack.enter_context(Wire(socket.create_connection(address, timeout=20))) for _ in range(64)]
        wait_for(lambda: counts(rig, "master"), lambda found: sum(found.values()) == 64)
        assert min(counts(rig, "master").values()) > 8
        for wire in wires[:8]:
            wire.send(request("/-/health", host=f"127.0.0.1:{address[1]}"))
            assert wire.answer().status == 200


# -- a part of it dies -------------------------------------------------------------------------------------------------


def test_process_that_is_killed_takes_only_its_own_along(rig: Rig, stack: ExitStack) -> None:
    """The other's connections live on, new ones wait for nobody, and it comes back with its share of them."""
    wires = clients(rig, stack)
    before = pids(rig)
    gone, stays = wires["p1"], wires["p0"]
    assert before["p1"] is not None
    os.kill(before["p1"], signal.SIGKILL)
    gone.rest()
    start = time.monotonic()
    for _ in range(16):  # half of them join the queue of the process that is gone
        with rig.connect("alice") as wire:
            assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
    assert time.monotonic() - start < 5
    assert rig.ask("alice", "/jobs/x", wire=stays).status == 200
    after = wait_for(lambda: pids(rig), lambda found: found["p1"] not in (None, before["p1"]))
    assert after["p0"] == before["p0"]
    assert set(clients(rig, stack)) == {"p0", "p1"}
    restarts = {process["stream"]: process["restarts"] for process in rig.status()["processes"]}
    assert restarts == {"p0": 0, "p1": 1}
    starts = [(line["stream"], line["previous"]) for line in rig.audit() if line["event"] == "gateway.start"]
    assert sorted(starts) == [("p0", "none"), ("p1", "none"), ("p1", "unclean")]
    rig.run("audit", "verify")


def test_process_that_cannot_come_back_leaves_a_gateway_that_serves(rig: Rig, stack: ExitStack) -> None:
    """While one fails to start again and again, what comes to its queue is served by the other; then it is back."""
    log, aside = rig.home / "audit" / "p1-000001.jsonl", rig.home / "audit" / "aside"
    before = pids(rig)
    log.rename(aside)
    log.mkdir()
    assert before["p1"] is not None
    os.kill(before["p1"], signal.SIGKILL)
    wait_for(rig.served.errors, lambda text: text.count("data process p1 did not start") >= 2)
    for _ in range(24):
        with rig.connect("alice") as wire:
            assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
    down = rig.status()["processes"][1]
    assert (down["stream"], down["pid"], down["answers"]) == ("p1", None, False)
    assert "DOWN, being started again" in rig.run("status")
    log.rmdir()
    aside.rename(log)
    after = wait_for(lambda: pids(rig), lambda found: found["p1"] is not None)
    assert after["p0"] == before["p0"]
    assert set(clients(rig, stack)) == {"p0", "p1"}
    rig.run("audit", "verify")


def test_processes_that_all_die_at_once_all_come_back(rig: Rig, origin: Origin) -> None:
    """Connections wait in the kernel, and who comes back is one gateway again."""
    before = pids(rig)
    for pid in before.values():
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    rig.forget_challenges()
    assert rig.ask("alice", "/jobs/x").status == 200
    after = wait_for(lambda: pids(rig), lambda found: None not in found.values())
    assert not set(after.values()) & set(before.values())
    with ExitStack() as stack:
        assert set(clients(rig, stack)) == {"p0", "p1"}


def test_gateway_that_is_killed_takes_all_its_processes_along(rig: Rig) -> None:
    """No process serves what nobody can revoke."""
    descriptors = [os.pidfd_open(pid) for pid in pids(rig).values() if pid is not None]
    rig.served.signal(signal.SIGKILL)
    rig.served.ended()
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    with pytest.raises(ConnectionRefusedError):
        rig.tcp()
    rig.start()  # sockets that were left behind stand in nobody's way
    rig.forget_challenges()
    assert rig.ask("alice", "/jobs/x").status == 200


# -- told as one -------------------------------------------------------------------------------------------------------


def test_reload_reaches_connections_of_every_process(rig: Rig, stack: ExitStack) -> None:
    """The next request sees the new routes, whichever process has the connection."""
    wires = clients(rig, stack)
    assert {rig.ask("alice", "/more/x", wire=wire).status for wire in wires.values()} == {404}
    path = rig.home / "gateway.toml"
    path.write_text(path.read_text() + '[[routes]]\nname = "more"\npath = "/more/*"\nmaster = "jobs"\n')
    rig.run("reload")
    assert {rig.ask("alice", "/more/x", wire=wire).status for wire in wires.values()} == {200}
    assert [process["generation"] for process in rig.status()["processes"]] == [2, 2]
    reloads = Counter(line["stream"] for line in rig.audit() if line["event"] == "gateway.reload")
    assert reloads == {"p0": 1, "p1": 1}  # side by side: either may write first


def test_reload_cannot_resize_the_table_that_all_share(rig: Rig) -> None:
    """The key is named, and nothing is taken up."""
    path = rig.home / "gateway.toml"
    path.write_text(path.read_text().replace("[digest]\n", "[digest]\nwindow = 2048\n"))
    with pytest.raises(AssertionError, match=r"digest\.window: cannot change while the gateway runs"):
        rig.run("reload")
    assert [process["generation"] for process in rig.status()["processes"]] == [1, 1]


def test_revoke_returns_when_every_process_has_cut(rig: Rig, stack: ExitStack) -> None:
    """A worker's connections are closed in all of them when the command is back."""
    workers = workers_everywhere(rig, stack)
    before = Counter(counts(rig, "worker"))
    assert f"the gateway cut {len(workers)} connection(s)" in rig.run("revoke", "w1")
    for worker in workers:
        assert worker.wire.rest(1.0) == b""
    cuts = Counter(str(line["stream"]) for line in rig.audit() if line["event"] == "connection.cut")
    assert cuts == before
    assert not sum(counts(rig, "worker").values())


def test_drain_reaches_every_process_and_leaves_a_sound_log(rig: Rig, stack: ExitStack) -> None:
    """All end with their last line, and every stream is under a signature."""
    workers = workers_everywhere(rig, stack)
    rig.run("drain")
    assert rig.served.ended() == 0
    for worker in workers:
        assert worker.wire.rest() == b""
    ends: dict[str, Any] = {line["stream"]: line["event"] for line in rig.audit()}
    assert ends == {"p0": "gateway.stop", "p1": "gateway.stop"}
    assert "0 lines behind the last checkpoint" in rig.run("audit", "verify")
    assert {path.name for path in (rig.home / "run").iterdir()} == {"gateway.lock", "issuing.lock"}


def test_log_of_more_processes_stays_sound_under_fewer(tmp_path: Path, origin: Origin, stack: ExitStack) -> None:
    """Streams that nobody writes any more keep their place in every later checkpoint."""
    rig = Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS, processes=3)
    with rig:
        rig.run("drain")
        assert rig.served.ended() == 0
        for processes in (1, 2):
            set_key(rig.home, "processes", str(processes))
            rig.start()
            rig.forget_challenges()
            assert rig.ask("alice", "/jobs/x").status == 200
            assert len(pids(rig)) == processes
            rig.run("audit", "verify")
            rig.run("drain")
            assert rig.served.ended() == 0
            assert "0 lines behind the last checkpoint" in rig.run("audit", "verify")
    starts = Counter(str(line["stream"]) for line in rig.audit() if line["event"] == "gateway.start")
    assert starts == {"p0": 3, "p1": 2, "p2": 1}
