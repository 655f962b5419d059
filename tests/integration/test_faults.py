"""Faults of the machine from outside: a log that cannot be written, or a state, read: closed, then healed."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.origins import Origin, read_request, response
from support.rig import JOBS, Rig, data_pid, wait_for
from support.wire import Wire, request

CONFIG = f"""{JOBS}
[limits]
state_stale = 3.0
[audit]
when_full = "{{when_full}}"
"""
PEERS = ("issue-client alice", "issue-worker w1 --pool render")
ANY = "/-/pools/render/any"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def start(place: Path, origin: Origin, when_full: str = "refuse") -> Rig:
    return Rig(place, CONFIG.format(port=origin.port, when_full=when_full), peers=PEERS)


def fill(rig: Rig, spare: int = 0) -> None:
    """The audit file may grow by `spare` bytes and no more, as on a full disk."""
    (path,) = (rig.home / "audit").glob("p0-*.jsonl")
    resource.prlimit(data_pid(rig), resource.RLIMIT_FSIZE, (path.stat().st_size + spare, resource.RLIM_INFINITY))


def heal(rig: Rig) -> None:
    infinity = resource.RLIM_INFINITY
    resource.prlimit(data_pid(rig), resource.RLIMIT_FSIZE, (infinity, infinity))


@pytest.mark.parametrize("spare", [0, 100])
def test_nothing_succeeds_while_the_log_cannot_be_written(tmp_path: Path, origin: Origin, spare: int) -> None:
    """Routes, own paths, dispatch and switches are 503 before anything is sent; afterwards all is well.

    With room for half a line the torn half must not spoil what comes later.
    """
    with start(tmp_path, origin) as rig, rig.connect("alice") as wire, rig.dispatch() as master:
        assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
        lines = {target: rig.authorized("alice", target) for target in ("/-/pools", "/jobs/y")}
        unsafe = [rig.authorized("alice", f"/jobs/{number}", "POST") for number in range(3)]
        with rig.worker("w1") as worker:
            switch = rig.authorized("w1", "/-/reverse/render", "POST")
            fill(rig, spare)
            had = len(origin.raw)
            for number, line in enumerate(unsafe):
                answer = wire.ask(f"/jobs/{number}", "POST", line, content=b"job")
                assert (answer.status, answer.problem) == (503, "audit-unavailable")
                assert answer["retry-after"]
            answer = wire.ask("/-/pools", "GET", lines["/-/pools"])
            assert (answer.status, answer.problem) == (503, "audit-unavailable")
            wire.send(request("/jobs/y", "GET", lines["/jobs/y"]))
            answer = wire.answer()
            assert (answer.status, answer.problem) == (503, "audit-unavailable")
            answer = master.ask(f"{ANY}/x", "POST", content=b"job")
            assert (answer.status, answer.problem) == (503, "audit-unavailable")
            assert worker.wire.is_quiet(0.1)
            assert len(origin.raw) == had
            with rig.connect("w1") as other:
                other.send(request("/-/reverse/render", "POST", "Upgrade: PTTH/1.0", "Connection: Upgrade", switch))
                assert other.one().status == 503
            heal(rig)
            wait_for(lambda: rig.ask("alice", "/jobs/z").status, lambda status: status == 200)
            with rig.dispatch() as one:
                one.send(request(f"{ANY}/x", "POST", content=b"job"))
                worker.serve()
                assert one.answer().status == 200
        rig.check_stderr()
        assert [x for x in rig.audit() if x.get("target") == "/jobs/z"]
        rig.run("audit", "verify")


def test_answer_that_comes_when_the_log_cannot_be_written_is_withheld_and_not_asked_for_again(
    tmp_path: Path, origin: Origin
) -> None:
    """The request ran and its line is there; what the client gets says so, without Retry-After."""

    def script(peer: Wire) -> None:
        read_request(peer)
        fill(rig)
        peer.send(response(b"done"))
        peer.rest()

    with start(tmp_path, origin) as rig, rig.connect("alice") as wire, origin.scripted(script):
        answer = rig.ask("alice", "/jobs/x", "POST", wire=wire, content=b"job")
        assert (answer.status, answer.problem) == (500, "answer-withheld")
        assert "retry-after" not in dict(answer.fields)
        assert b"done" not in answer.content
        heal(rig)
        (line,) = rig.lines_of(answer)
        assert (line["event"], line["target"]) == ("request.sent", "/jobs/x")
        rig.run("audit", "verify")


def test_log_that_cannot_be_written_is_passed_over_when_so_configured(tmp_path: Path, origin: Origin) -> None:
    """`when_full = "continue"`: served without a line, and counted."""
    with start(tmp_path, origin, "continue") as rig, rig.connect("alice") as wire:
        assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
        fill(rig)
        for _ in range(3):
            assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
        heal(rig)
        assert rig.ask("alice", "/jobs/z", wire=wire).status == 200
        assert sum(process["counters"]["audit_lost"] for process in rig.status()["processes"]) >= 3
        rig.run("audit", "verify")


def test_state_that_cannot_be_read_admits_nobody_new(tmp_path: Path, origin: Origin) -> None:
    """503 after `state_stale`; reversed connections and the dispatch socket live on; then all is well again."""
    with start(tmp_path, origin) as rig, rig.connect("alice") as wire, rig.worker("w1") as worker:
        assert rig.ask("alice", "/jobs/x", wire=wire).status == 200
        path = rig.home / "state.db"
        parts = [part for part in ("state.db-wal", "state.db-shm", "state.db") if (rig.home / part).exists()]
        for part in reversed(parts):
            (rig.home / part).rename(rig.home / f"{part}.away")
        path.write_bytes(b"this is no database" * 1000)
        began = time.monotonic()
        answer = wait_for(
            lambda: rig.ask("alice", "/jobs/x", wire=wire), lambda answer: answer.status != 200, patience=10
        )
        assert (answer.status, answer.problem) == (503, "state-stale")
        assert 1.5 < time.monotonic() - began < 8
        with rig.dispatch() as master:
            master.send(request(f"{ANY}/x"))
            worker.serve()
            assert master.answer().status == 200
        for part in parts:  # the database last: without its log it would be an older one
            (rig.home / f"{part}.away").rename(rig.home / part)
        wait_for(lambda: rig.ask("alice", "/jobs/x").status, lambda status: status == 200, patience=10)
