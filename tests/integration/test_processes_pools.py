"""Several data processes from outside: pools, limits, nonces and metrics belong to the gateway, not to one of them."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.origins import Origin
from support.rig import JOBS, NotSwitched, Rig, Worker, wait_for
from support.spread import clients, masters
from support.wire import request

CONFIG = f"""{JOBS}
[[routes]]
path = "/render/*"
pool = "render"
strip_prefix = true
[metrics]
listen = "127.0.0.1:0"
[limits]
connections_per_client = 12
[audit]
fold_after = 100000
"""
PEERS = ("issue-client alice", "issue-worker w1 --pool render", "issue-worker w2 --pool render")
ANY = "/-/pools/render/any/job"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Origin() as origin, Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS, processes=2) as rig:
        yield rig


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def worker_on(rig: Rig, stack: ExitStack, name: str, stream: str, *lines: str) -> Worker:
    """A reversed connection of this worker to this process."""
    before = rig.pool()["slots"]["total"]
    for _ in range(64):
        worker = rig.worker(name, "render", *lines)
        opened = max((line["ts"], line["stream"]) for line in rig.audit() if line["event"] == "reverse.opened")
        if opened[1] == stream:
            wait_for(rig.pool, lambda pool: pool["slots"]["total"] == before + 1)  # the others are gone
            return stack.enter_context(worker)
        worker.wire.close()
    raise AssertionError(f"64 connections were all for another process than {stream}")


def test_older_instance_is_superseded_in_both_processes(rig: Rig, stack: ExitStack) -> None:
    """Whichever process it dials: they tell each other in which order the starts of a worker were first seen."""
    older = worker_on(rig, stack, "w1", "p0", "Rhttp-Instance: older")
    newer = worker_on(rig, stack, "w1", "p1", "Rhttp-Instance: newer")
    one, two = (stack.enter_context(rig.dispatch()) for _ in range(2))
    for wire in (one, two):
        wire.send(request("/-/pools/render/workers/w1/x"))
    for worker in (older, newer):  # both, before one that is free again could take the other's
        worker.request()
    older.reply()
    newer.reply()
    assert one.answer().status == two.answer().status == 200
    assert older.wire.rest() == b""
    rig.wait_pool(lambda pool: pool["slots"]["total"] == 1)
    refused = set()
    for _ in range(64):
        with pytest.raises(NotSwitched) as caught:
            rig.worker("w1", "render", "Rhttp-Instance: older").wire.close()
        assert caught.value.answer.problem == "superseded"
        refused.add(rig.line_of(caught.value.answer)["stream"])
        if refused == {"p0", "p1"}:
            break
    assert refused == {"p0", "p1"}
    assert newer.wire.is_quiet()


def test_nonce_is_good_in_both_processes_and_each_count_once(rig: Rig, stack: ExitStack) -> None:
    """Two connections to two processes take turns on one nonce; a count that was spent in one is a replay in both."""
    first, second = clients(rig, stack).values()
    digest = rig.digest("alice").challenged(first.ask("/-/pools"))
    for turn in range(20):
        wire = (first, second)[turn % 2]
        assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x")).status == 200
    for spender, other in ((first, second), (second, first)):
        line = digest.line("/jobs/x")
        assert spender.ask("/jobs/x", "GET", line).status == 200
        for wire in (other, spender):
            refused = wire.ask("/jobs/x", "GET", line)
            assert refused.status == 401
            assert rig.line_of(refused, "auth.refused")["reason"] == "replayed_nc"


def test_counter_that_was_spent_stays_spent_when_its_process_dies(rig: Rig, stack: ExitStack) -> None:
    """The ledger outlives every process that uses it."""
    wires = clients(rig, stack)
    digest = rig.digest("alice").challenged(wires["p1"].ask("/-/pools"))
    line = digest.line("/jobs/x")
    assert wires["p1"].ask("/jobs/x", "GET", line).status == 200
    (pid,) = [one["pid"] for one in rig.status()["processes"] if one["stream"] == "p1"]
    os.kill(pid, signal.SIGKILL)
    wires["p1"].rest()
    assert wires["p0"].ask("/jobs/x", "GET", line).status == 401
    assert wires["p0"].ask("/jobs/x", "GET", digest.line("/jobs/x")).status == 200


@pytest.mark.parametrize("target", [ANY, "/-/pools/render/workers/w1/job"])
def test_dispatch_reaches_a_worker_of_the_other_process(rig: Rig, stack: ExitStack, target: str) -> None:
    """Whichever process the master's connection came to; the log says the same as for a worker of its own."""
    worker = worker_on(rig, stack, "w1", "p1")
    for wire in masters(rig, stack).values():
        for _ in range(3):
            wire.send(request(target, "POST", content=b"work"))
            assert worker.serve().content == b"work"
            answer = wire.answer()
            assert (answer.status, answer["rhttp-worker"]) == (200, "w1")
            assert [line["event"] for line in rig.lines_of(answer)] == ["dispatch.sent", "dispatch"]


def test_client_reaches_a_worker_of_the_other_process_by_a_route(rig: Rig, stack: ExitStack) -> None:
    """Straight from its connection, whichever process that came to."""
    worker = worker_on(rig, stack, "w1", "p1")
    digest = rig.digest("alice").challenged(stack.enter_context(rig.connect("alice")).ask("/-/pools"))
    for wire in clients(rig, stack).values():
        for _ in range(3):
            wire.send(request("/render/job?q", "POST", digest.line("/render/job?q", "POST"), content=b"work"))
            taken = worker.serve()
            assert (taken.target, taken.content) == ("/job?q", b"work")
            assert taken["rhttp-identity"] == "client/alice"
            answer = wire.answer()
            assert (answer.status, answer["rhttp-worker"]) == (200, "w1")
            lines = rig.lines_of(answer)
            assert [line["event"] for line in lines] == ["dispatch.sent", "dispatch"]
            told = {(line["target"], line["pool"], line["worker"]) for line in lines}
            assert told == {("/render/job", "render", "w1")}


def test_waiting_master_gets_the_other_process_s_slot(rig: Rig, stack: ExitStack) -> None:
    """As soon as it comes free, in turns."""
    asking_at = masters(rig, stack)
    worker = worker_on(rig, stack, "w1", "p1")
    asking_at["p1"].send(request(ANY, "GET", "Prefer: wait=20"))
    worker.request()
    for asking, waiting in (("p1", "p0"), ("p0", "p1"), ("p1", "p0")):
        asking_at[waiting].send(request(ANY, "GET", "Prefer: wait=20"))
        wait_for(rig.pool, lambda pool: pool["waiting"] == 1)
        worker.reply()
        assert asking_at[asking].answer().status == 200
        worker.request()
    worker.reply()
    assert asking_at["p0"].answer().status == 200


def test_slots_are_one_call_whichever_process_answers(rig: Rig, stack: ExitStack) -> None:
    """Sums and workers of the whole gateway, from each process alike."""
    worker_on(rig, stack, "w1", "p0")
    worker_on(rig, stack, "w1", "p1")
    worker_on(rig, stack, "w2", "p1")
    for wire in masters(rig, stack).values():
        told = wire.ask("/-/pools/render").json
        assert told["slots"] == {"total": 3, "free": 3}
        assert sorted((one["name"], one["slots"]) for one in told["workers"]) == [("w1", 2), ("w2", 1)]
        assert wire.ask("/-/pools").json["slots"] == {"total": 3, "free": 3}


def test_worker_of_a_process_that_dies_is_gone_and_comes_back(rig: Rig, stack: ExitStack) -> None:
    """Its connections break at once, the sums are right at once, and it may connect anywhere again."""
    worker = worker_on(rig, stack, "w1", "p1")
    here = masters(rig, stack)["p0"]
    (pid,) = [one["pid"] for one in rig.status()["processes"] if one["stream"] == "p1"]
    os.kill(pid, signal.SIGKILL)
    assert worker.wire.rest() == b""
    wait_for(lambda: here.ask("/-/pools/render").json["slots"], lambda slots: slots["total"] == 0)
    again = stack.enter_context(rig.worker("w1"))
    here.send(request(ANY, "GET", "Prefer: wait=20"))
    again.serve()
    assert here.answer().status == 200


def test_dispatch_whose_worker_s_process_is_killed_is_told_and_has_its_lines(rig: Rig, stack: ExitStack) -> None:
    """Whose it was stands in the log since before a byte of it left; the process that it came to says how it ended."""
    worker = worker_on(rig, stack, "w1", "p1")
    here = masters(rig, stack)["p0"]
    here.send(request(ANY, "POST", "Prefer: wait=20", content=b"work"))
    worker.request()
    (pid,) = [one["pid"] for one in rig.status()["processes"] if one["stream"] == "p1"]
    os.kill(pid, signal.SIGKILL)
    answer = here.answer()
    assert answer.problem == "worker-lost"
    sent, done = rig.lines_of(answer)
    assert (sent["event"], sent["worker"]) == ("dispatch.sent", "w1")
    assert (done["event"], done["stream"], done["status"]) == ("dispatch", "p0", 502)


def test_revoked_worker_is_cut_while_the_other_process_uses_it(rig: Rig, stack: ExitStack) -> None:
    """The requester learns that the worker is lost; the connection is closed when the command is back."""
    worker = worker_on(rig, stack, "w1", "p1")
    here = masters(rig, stack)["p0"]
    here.send(request(ANY))
    worker.request()
    rig.run("revoke", "w1")
    assert worker.wire.rest(1.0) == b""
    assert here.answer().problem == "worker-lost"
    assert rig.wait_line(event="connection.cut", reason="revoked")["stream"] == "p1"


def test_connections_of_a_client_are_limited_in_all_processes_together(rig: Rig, stack: ExitStack) -> None:
    """Twelve altogether, not twelve in each, once the processes have told each other."""
    for _ in range(12):
        assert stack.enter_context(rig.connect("alice")).ask("/-/health").status == 200

    def one_more() -> int:
        with rig.connect("alice") as wire:
            return wire.ask("/-/health").status

    wait_for(one_more, lambda status: status == 503)
    assert [one_more() for _ in range(8)] == [503] * 8


def test_metrics_of_all_processes_are_on_the_one_listener(rig: Rig, stack: ExitStack) -> None:
    """Whichever process is asked, each tells its own, labelled."""
    worker_on(rig, stack, "w1", "p0")
    worker_on(rig, stack, "w2", "p1")
    url = rig.served.listeners["metrics"]
    for _ in range(6):
        with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        free = {
            sample.labels["process"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "rhttp_pool_slots" and sample.labels["state"] == "free"
        }
        assert free == {"p0": 1, "p1": 1}
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        assert {sample.labels["process"] for family in families for sample in family.samples} == {"p0", "p1"}


def test_events_of_all_processes_reach_every_reader(rig: Rig, stack: ExitStack) -> None:
    """A reader at one process hears of workers at both."""
    readers = masters(rig, stack)
    for wire in readers.values():
        wire.send(request("/-/pools/render/events"))
        wire.until(b"event: slots")
    for name, stream in (("w1", "p0"), ("w2", "p1")):
        worker_on(rig, stack, name, stream)
        for wire in readers.values():
            told = wire.until(b'"worker":"%b"' % name.encode())
            assert told.count(b"event: worker-joined") >= 1


def test_run_folder_is_clean_after_a_drain(rig: Rig) -> None:
    """The sockets by which processes talk are gone with them."""
    assert {path.name for path in (rig.home / "run").glob("p*.sock")} == {"p0.sock", "p1.sock"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (rig.home / "run").glob("p*.sock"))
    rig.run("drain")
    assert rig.served.ended() == 0
    assert not list((rig.home / "run").glob("*.sock"))
    json.loads(rig.run("audit", "verify", "--json"))
