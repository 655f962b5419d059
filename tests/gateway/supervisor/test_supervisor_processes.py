"""A supervisor with several data processes: started together, told together, each replaced for itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fakegateway import FakeGateway, FakeState, make_loaded, snapshot
from support.supervised import Running, is_gone, running, until

from gateway.admin.client import AdminFailed
from gateway.config.limits import Limits
from gateway.config.values import MetricsConfig, TcpAddress
from gateway.supervisor import fleet, signer, supervisor
from gateway.supervisor.load import fixed_changes


async def pids_of(run: Running, purpose: str = "tls", count: int = 64) -> Counter[int]:
    """Which processes answer this purpose's connections."""
    answers = [await run.knock(purpose) for _ in range(count)]
    return Counter(int(pid) for _purpose, pid, _state in answers)


async def restarted(run: Running, stream: str, count: int = 1) -> dict[str, Any]:
    """What a process tells of itself when it serves again."""
    async with asyncio.timeout(30):
        while True:
            for entry in await run.processes():
                if entry["stream"] == stream and entry["restarts"] >= count and entry["answers"]:
                    return entry
            await asyncio.sleep(0.02)


def signed(run: Running) -> list[str]:
    """The streams whose heads the last checkpoint was given."""
    heads = run.gateway.supervisor_log.heads
    return sorted(str(head["stream"]) for head in heads[-1]) if heads else []


# -- start -------------------------------------------------------------------------------------------------------------


async def test_processes_get_what_is_theirs_and_what_is_everyones(tmp_path: Path) -> None:
    """All listening sockets, the one mesh socket that is its own, the table that is everybody's; no file in between."""
    metrics = MetricsConfig(listen=TcpAddress(host="127.0.0.1", port=0))
    async with running(tmp_path, processes=3, metrics=metrics) as run:
        entries = await run.processes()
        assert [entry["stream"] for entry in entries] == ["p0", "p1", "p2"]
        assert len({entry["pid"] for entry in entries}) == 3
        assert [entry["place"] for entry in entries] == [[0, 3], [1, 3], [2, 3]]
        assert [entry["mesh"] for entry in entries] == [f"{tmp_path}/run/p{number}.sock" for number in range(3)]
        assert {entry["ledger"] for entry in entries} == {"what all have spent"}
        assert all(entry["tally"] for entry in entries)
        assert len({entry["nonce_key"] for entry in entries}) == 1
        for entry in entries:
            shown = Path(f"/proc/{entry['pid']}/cmdline").read_bytes().split(b"\0")
            assert shown[-2].startswith(b"descriptors=")
            assert next(argument for argument in entry["inherited"] if argument.startswith("tls=")).count(",") == 2
            assert entry["nonce_key"].encode() not in b" ".join(shown)


async def test_one_process_gets_neither_table_nor_mesh(tmp_path: Path) -> None:
    """A gateway with one process is what it always was."""
    async with running(tmp_path) as run:
        entry = await run.process()
        assert (entry["place"], entry["mesh"], entry["ledger"], entry["tally"]) == ([0, 1], None, None, False)
        assert [argument.partition("=")[0] for argument in entry["inherited"]] == ["control", "tls", "dispatch"]
        assert not list((tmp_path / "run").glob("p*.sock"))


async def test_connections_land_on_every_process_and_the_addresses_are_told_once(tmp_path: Path) -> None:
    """From outside it is one gateway."""
    async with running(tmp_path, processes=2, dispatch=TcpAddress(host="127.0.0.1", port=0)) as run:
        assert [line.partition(" ")[0] for line in run.gateway.said] == ["TLS", "dispatch", "ready"]
        status = await run.ask("GET", "/status")
        assert set(status["listeners"]) == {"tls", "dispatch", "admin"}
        pids = {entry["pid"] for entry in status["processes"]}
        for purpose in ("tls", "dispatch"):
            assert set(await pids_of(run, purpose)) == pids  # all on one: once in 2 ** 63 runs


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        pytest.param("p1:refuse", "routes.0.path: the policy text says refuse", id="problem"),
        pytest.param("p2:crash-prepare", "preparing failed in p2 (RuntimeError); see the gateway's log", id="prepare"),
        pytest.param("p1:crash-start", "a data process did not start: ", id="start"),
    ],
)
async def test_start_that_one_process_cannot_complete_leaves_none(tmp_path: Path, policy: str, line: str) -> None:
    """Together or not at all, and told once."""
    gateway = FakeGateway(tmp_path, policy, processes=3)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    try:
        assert await gateway.supervisor.run() == 1
    finally:
        gateway.close()
    assert gateway.said == []
    assert sum(logged.startswith(line) for logged in gateway.logged) == len(gateway.logged) == 1
    assert set(children.read_text().split()) <= before


async def test_start_ended_before_it_is_ready_leaves_none(tmp_path: Path) -> None:
    """Half-started processes are ended, whatever they were at."""
    gateway = FakeGateway(tmp_path, processes=4)
    task = asyncio.create_task(gateway.supervisor.run())
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    await until(lambda: len(set(children.read_text().split()) - before) >= 2)
    started = set(children.read_text().split()) - before
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 1
    assert all(is_gone(int(pid)) for pid in started)
    gateway.close()


# -- one dies ----------------------------------------------------------------------------------------------------------


async def test_process_that_dies_is_replaced_alone_with_what_it_had(tmp_path: Path) -> None:
    """The others serve on; its successor has its sockets, its place, and the table with all that was spent."""
    async with running(tmp_path, processes=2) as run:
        first, second = await run.processes()
        run.gateway.state.now = snapshot(5)
        await run.ask("POST", "/refresh")
        os.kill(second["pid"], signal.SIGKILL)
        after = await restarted(run, "p1")
        assert after["pid"] != second["pid"]
        for key in ("place", "mesh", "ledger", "nonce_key"):
            assert after[key] == second[key]
        assert (after["snapshot"], after["states"]) == (5, [])
        (entry, _after) = await run.processes()
        assert (entry["pid"], entry["restarts"], entry["states"]) == (first["pid"], 0, [5])
        assert set(await pids_of(run)) == {first["pid"], after["pid"]}


async def test_process_that_is_down_is_shown_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees that one is missing, and which; state and reload reach the others at once."""
    monkeypatch.setattr(fleet, "BACKOFF_FIRST", 3600.0)
    async with running(tmp_path, processes=2) as run:
        first, second = await run.processes()
        os.kill(second["pid"], signal.SIGKILL)
        await run.gateway.until(lambda: any("another starts in 3600 s" in line for line in run.gateway.logged))
        status = await run.ask("GET", "/status")
        assert status["processes"][0]["pid"] == first["pid"]
        down = {"stream": "p1", "pid": None, "restarts": 0, "answers": False, "state": "restarting"}
        assert status["processes"][1] == down
        assert status["connections"] == {"open": 2, "workers": 1}
        run.gateway.state.now = snapshot(2, revoked=3)
        assert await run.ask("POST", "/revoke") == {"version": 2, "cut": 3, "processes": 1}
        run.gateway.change(policy="new policy")
        assert await run.ask("POST", "/reload") == {"reloaded": True, "generation": 2, "notices": []}
        assert await run.terminate() == 0


async def test_process_that_crashes_again_and_again_waits_longer_and_disturbs_nobody(tmp_path: Path) -> None:
    """Back-off is each process's own."""
    async with running(tmp_path, processes=2) as run:
        first, second = await run.processes()
        os.kill(second["pid"], signal.SIGKILL)
        again = await restarted(run, "p1")
        os.kill(again["pid"], signal.SIGKILL)
        await restarted(run, "p1", 2)
        ends = [line for line in run.gateway.logged if "p1" in line and "another starts" in line]
        assert [line.rpartition(" in ")[2] for line in ends] == ["0.1 s", "0.2 s"]
        (entry, _other) = await run.processes()
        assert (entry["pid"], entry["restarts"]) == (first["pid"], 0)


# -- told together -----------------------------------------------------------------------------------------------------


async def test_state_reaches_every_process_and_what_they_cut_adds_up(tmp_path: Path) -> None:
    """A revocation is over when all have acted."""
    async with running(tmp_path, processes=3) as run:
        run.gateway.state.now = snapshot(2, revoked=3)
        assert await run.ask("POST", "/revoke") == {"version": 2, "cut": 9, "processes": 3}
        assert [entry["states"] for entry in await run.processes()] == [[2]] * 3


@asynccontextmanager
async def held(place: Path) -> AsyncIterator[None]:
    """Processes that are told to wait do so, until the block ends."""
    (place / "hold").touch()
    yield
    (place / "hold").unlink()


async def test_revocation_passes_a_reload_that_is_being_prepared(tmp_path: Path) -> None:
    """It is over when all have acted, which no prepare holds up; the reload's older state takes nothing back."""
    async with running(tmp_path, processes=2) as run:
        async with held(tmp_path):
            run.gateway.change(policy="hold-prepare")
            reload = asyncio.create_task(run.ask("POST", "/reload"))
            await until((tmp_path / "held").exists)
            run.gateway.state.now = snapshot(2, revoked=3)
            assert await run.ask("POST", "/revoke") == {"version": 2, "cut": 6, "processes": 2}
            run.gateway.state.now = snapshot(3, revoked=4)  # found by the poll
            await until(lambda: run.gateway.supervisor._watch.snapshot.version == 3)
            while [entry["states"] for entry in await run.processes()] != [[2, 3]] * 2:
                await asyncio.sleep(0.01)
            assert not reload.done()
        assert await reload == {"reloaded": True, "generation": 2, "notices": []}
        entries = await run.processes()
        assert [(entry["commits"], entry["snapshot"], entry["states"]) for entry in entries] == [(2, 3, [2, 3])] * 2


@pytest.mark.parametrize("word", ["hold-prepare", "hold-start"])
async def test_revocation_passes_a_process_that_is_being_started(tmp_path: Path, word: str) -> None:
    """The others act at once; the one that starts has it before it serves, or at once when it was about to."""
    async with running(tmp_path, f"p1:{word}", processes=2) as run:
        _first, second = await run.processes()
        async with held(tmp_path):
            os.kill(second["pid"], signal.SIGKILL)
            await until((tmp_path / "held").exists)
            run.gateway.state.now = snapshot(2, revoked=3)
            answer = await run.ask("POST", "/revoke")
            assert (answer["version"], answer["cut"]) == (2, 3 if word == "hold-prepare" else 6)
            assert (await run.processes())[0]["states"] == [2]
        await run.gateway.until(lambda: any("p1 serves again" in line for line in run.gateway.logged))
        after = await restarted(run, "p1")
        assert (after["states"], after["snapshot"], after["started_with"]) == ([2], 2, 2)


async def test_process_that_starts_is_shown_as_such_until_it_serves(tmp_path: Path) -> None:
    """It could answer before, with what it has not got yet; who waits for it sees when it takes connections."""
    async with running(tmp_path, "p1:hold-start", processes=2) as run:
        _first, second = await run.processes()
        async with held(tmp_path):
            os.kill(second["pid"], signal.SIGKILL)
            await until((tmp_path / "held").exists)
            status = await run.ask("GET", "/status")
            pid = status["processes"][1]["pid"]
            assert pid not in (None, second["pid"])
            starting = {"stream": "p1", "pid": pid, "restarts": 1, "answers": False, "state": "starting"}
            assert status["processes"][1] == starting
            assert status["connections"] == {"open": 2, "workers": 1}
        after = await restarted(run, "p1")
        assert (after["pid"], after["state"]) == (pid, "serving")


async def test_start_serves_nobody_with_the_state_of_before_it(tmp_path: Path) -> None:
    """What is revoked while a gateway starts is known to every process before the first connection."""
    (tmp_path / "hold").touch()
    gateway = FakeGateway(tmp_path, "p1:hold-prepare", processes=2)
    task = asyncio.create_task(gateway.supervisor.run())
    try:
        await until((tmp_path / "held").exists)
        gateway.state.now = snapshot(7, revoked=1)
        await until(lambda: gateway.supervisor._watch.snapshot.version == 7)
        (tmp_path / "hold").unlink()
        await gateway.until(gateway.is_ready)
        entries = await Running(gateway, task).processes()
        assert [(entry["started_with"], entry["states"]) for entry in entries] == [(7, [7])] * 2
    finally:
        task.cancel()
        await asyncio.wait({task})
        gateway.close()


async def test_process_that_hangs_is_killed_and_the_others_have_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not obey costs its own connections, nobody else's."""
    monkeypatch.setattr(fleet, "COMMAND_TIMEOUT", 0.3)
    async with running(tmp_path, "p1:hang-apply", processes=2) as run:
        first, second = await run.processes()
        run.gateway.state.now = snapshot(2, revoked=1)
        answer = await run.ask("POST", "/refresh")
        assert (answer["cut"], answer["version"]) == (1, 2)
        assert is_gone(second["pid"])
        assert (await restarted(run, "p1"))["snapshot"] == 2
        assert (await run.processes())[0]["pid"] == first["pid"]


async def test_reload_reaches_every_process(tmp_path: Path) -> None:
    """All take it up, each for its own stream."""
    async with running(tmp_path, processes=3) as run:
        run.gateway.change(policy="new policy")
        assert await run.ask("POST", "/reload") == {"reloaded": True, "generation": 2, "notices": []}
        assert [(entry["policy"], entry["commits"]) for entry in await run.processes()] == [("new policy", 2)] * 3


async def test_reload_that_one_process_refuses_is_taken_up_by_none(tmp_path: Path) -> None:
    """One no is everybody's no, told once."""
    async with running(tmp_path, "old", processes=3) as run:
        run.gateway.change(policy="p1:refuse p2:refuse")
        with pytest.raises(AdminFailed) as caught:
            await run.ask("POST", "/reload")
        assert caught.value.problems == (("routes.0.path", "the policy text says refuse"),)
        told = [(entry["policy"], entry["commits"], entry["rollbacks"]) for entry in await run.processes()]
        assert told == [("old", 1, 1)] * 3


async def test_drain_reaches_every_process_and_waits_for_the_slowest(tmp_path: Path) -> None:
    """All drain at once; the gateway ends when the last has nothing left."""
    limits = Limits(drain_timeout=1.0)
    async with running(tmp_path, "p1:hang-drain", processes=3, limits=limits) as run:
        pids = [entry["pid"] for entry in await run.processes()]
        await run.ask("POST", "/drain")
        async with asyncio.timeout(10):
            while not all(entry.get("draining") for entry in await run.processes()):
                await asyncio.sleep(0.01)
        assert await run.ended() == 0
        assert all(map(is_gone, pids))


async def test_checkpoints_name_the_head_of_every_stream(tmp_path: Path) -> None:
    """No process's lines are left unsigned."""
    async with running(tmp_path, processes=3) as run:
        await until(lambda: signed(run) == ["p0", "p1", "p2"])


async def test_process_that_hangs_keeps_nobody_elses_lines_unsigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads of the others are signed meanwhile; it is killed when it stays silent, told once."""
    monkeypatch.setattr(supervisor, "HEAD_TIMEOUT", 2.0)
    monkeypatch.setattr(supervisor, "HEAD_PATIENCE", 0.1)
    monkeypatch.setattr(signer, "CHECKPOINT_INTERVAL", 0.05)
    async with running(tmp_path, processes=2) as run:
        first, second = await run.processes()
        os.kill(second["pid"], signal.SIGSTOP)
        await until(lambda: signed(run) == ["p0"])
        count = len(run.gateway.supervisor_log.heads)
        await until(lambda: len(run.gateway.supervisor_log.heads) >= count + 3)
        assert not is_gone(second["pid"])
        after = await restarted(run, "p1")
        assert is_gone(second["pid"])
        assert after["pid"] != second["pid"]
        assert sum("is killed: " in line for line in run.gateway.logged) == 1
        await until(lambda: signed(run) == ["p0", "p1"])
        assert (await run.processes())[0]["pid"] == first["pid"]


async def test_status_merges_the_processes(tmp_path: Path) -> None:
    """Sums for the gateway, one entry a process."""
    async with running(tmp_path, processes=2) as run:
        status = await run.ask("GET", "/status")
        assert status["connections"] == {"open": 4, "workers": 2}
        assert status["pools"] == [
            {"pool": "render", "mode": "hosted", "slots": {"total": 4, "free": 2}, "workers": []}
        ]


# -- what cannot change ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["window", "nonces_per_identity"])
@pytest.mark.parametrize("processes", [1, 2])
def test_size_of_the_table_is_fixed_when_it_is_shared(tmp_path: Path, key: str, processes: int) -> None:
    """One process resizes its own; a table that several have mapped stays as it is."""
    config = make_loaded(tmp_path, FakeState(), processes=processes).config
    changed = replace(config, digest=replace(config.digest, **{key: 77}))
    assert [path for path, _text in fixed_changes(config, changed)] == ([f"digest.{key}"] if processes > 1 else [])
