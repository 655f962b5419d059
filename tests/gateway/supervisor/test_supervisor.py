"""The supervisor over real sockets and processes, with a data plane that only shows what was done with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import fakegateway
from support.fakegateway import FakeGateway, FakeState, make_loaded, snapshot
from support.supervised import is_gone, running, until

from gateway.admin.client import AdminFailed, call
from gateway.config.limits import Limits
from gateway.config.values import (
    ConfigProblem,
    LoadFailed,
    MetricsConfig,
    PkiConfig,
    StateConfig,
    TcpAddress,
    UnixAddress,
)
from gateway.supervisor import fleet, signer
from gateway.supervisor.load import fixed_changes
from rhttp import build


async def refused_start(place: Path, policy: str) -> tuple[int, FakeGateway]:
    gateway = FakeGateway(place, policy)
    try:
        return await gateway.supervisor.run(), gateway
    finally:
        gateway.close()


# -- start -------------------------------------------------------------------------------------------------------------


async def test_start_says_every_listener_with_its_real_address_then_ready(tmp_path: Path) -> None:
    """Whoever waits for the gateway learns where it listens, port 0 or not."""
    metrics = MetricsConfig(listen=TcpAddress(host="127.0.0.1", port=0))
    async with running(tmp_path, metrics=metrics) as run:
        port = run.gateway.listeners["tls"].sock.getsockname()[1]
        other = run.gateway.listeners["metrics"].sock.getsockname()[1]
        assert run.gateway.said == [
            f"TLS listener on https://127.0.0.1:{port}",
            f"dispatch listener on unix:{tmp_path}/run/dispatch.sock",
            f"metrics listener on http://127.0.0.1:{other}",
            f"ready ({build.describe()})",
        ]
        for purpose in ("tls", "dispatch", "metrics"):
            assert (await run.knock(purpose))[0] == purpose


async def test_start_writes_a_note_that_goes_when_it_ends(tmp_path: Path) -> None:
    """`run/gateway.json` says who runs and where, for as long as it runs."""
    note = tmp_path / "run" / "gateway.json"
    async with running(tmp_path) as run:
        value = orjson.loads(note.read_bytes())
        assert value["pid"] == os.getpid()
        assert value["listeners"]["tls"]["port"] == run.gateway.listeners["tls"].sock.getsockname()[1]
        assert note.stat().st_mode & 0o777 == 0o600
        assert await run.terminate() == 0
        assert not note.exists()


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        pytest.param("refuse", "routes.0.path: the policy text says refuse", id="problem"),
        pytest.param("crash-prepare", "preparing failed in p0 (RuntimeError); see the gateway's log", id="prepare"),
        pytest.param("crash-start", "a data process did not start: ", id="start"),
    ],
)
async def test_start_that_cannot_be_completed_leaves_nothing(tmp_path: Path, policy: str, line: str) -> None:
    """A gateway serves as a whole or ends with status 1 and says why."""
    status, gateway = await refused_start(tmp_path, policy)
    assert status == 1
    assert gateway.said == []
    assert any(logged.startswith(line) for logged in gateway.logged), gateway.logged
    assert not (tmp_path / "run" / "gateway.json").exists()
    assert call(tmp_path, "GET", "/status") is None


async def test_start_on_checkpoints_that_are_not_ours_is_refused(tmp_path: Path) -> None:
    """Nothing is served whose audit cannot be signed."""
    gateway = FakeGateway(tmp_path)
    gateway.supervisor_log.fault = RuntimeError("the last checkpoint is not signed by this key")
    assert await gateway.supervisor.run() == 1
    assert gateway.logged == [
        "no checkpoint can be written: RuntimeError: the last checkpoint is not signed by this key"
    ]
    gateway.close()


async def test_start_ended_by_a_signal_before_it_is_ready_leaves_nothing(tmp_path: Path) -> None:
    """Nobody has to wait for a start in order to end it."""
    gateway = FakeGateway(tmp_path)
    task = asyncio.create_task(gateway.supervisor.run())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 1
    assert gateway.said == []
    gateway.close()


async def test_process_gets_no_secret_in_its_command_line_or_environment(tmp_path: Path) -> None:
    """What every user of the machine can list shows descriptors, nothing else."""
    async with running(tmp_path) as run:
        entry = await run.process()
        shown = Path(f"/proc/{entry['pid']}/cmdline").read_bytes() + Path(f"/proc/{entry['pid']}/environ").read_bytes()
        assert b"descriptors=" in shown
        assert b"the-private-key" not in shown
        assert bytes.fromhex(entry["nonce_key"]) not in shown
        assert entry["nonce_key"].encode() not in shown


async def test_signals_to_the_group_do_not_end_a_process(tmp_path: Path) -> None:
    """Ctrl-C and a service manager reach the data processes too; they drain by the supervisor's word only."""
    async with running(tmp_path) as run:
        entry = await run.process()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(entry["pid"], number)
        assert (await run.process())["pid"] == entry["pid"]


# -- processes that die ------------------------------------------------------------------------------------------------


async def test_process_that_dies_is_replaced_behind_the_same_listeners(tmp_path: Path) -> None:
    """A connection made meanwhile waits in the kernel and is served by the next process, with the newest state."""
    async with running(tmp_path) as run:
        before = await run.process()
        run.gateway.state.now = snapshot(5)
        await run.ask("POST", "/refresh")
        os.kill(before["pid"], signal.SIGKILL)
        _purpose, pid, _serving = await run.knock()
        after = await run.process()
        assert int(pid) == after["pid"] != before["pid"]
        assert (after["restarts"], after["snapshot"], after["nonce_key"]) == (1, 5, before["nonce_key"])
        assert any("ended by signal 9" in line for line in run.gateway.logged)


async def test_process_whose_supervisor_is_killed_is_gone_at_once(tmp_path: Path) -> None:
    """Nothing is served that nobody can revoke."""
    script = Path(fakegateway.__file__)
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"ready\n"
    status = await asyncio.to_thread(call, tmp_path, "GET", "/status")
    assert status is not None
    (entry,) = status["processes"]
    parent.kill()
    await parent.wait()
    await until(lambda: is_gone(entry["pid"]))


# -- state -------------------------------------------------------------------------------------------------------------


async def test_refresh_returns_when_the_process_has_cut(tmp_path: Path) -> None:
    """A revocation is over when every process says so, and its count is the operator's answer, however often asked."""
    async with running(tmp_path) as run:
        run.gateway.state.now = snapshot(2, revoked=3)
        answer = await run.ask("POST", "/revoke")
        assert answer == {"version": 2, "cut": 3, "processes": 1}
        assert (await run.process())["states"] == [2]
        assert await run.ask("POST", "/refresh") == answer
        assert ("admin.revoke", "done", {"connections": 3}) in run.gateway.supervisor_log.records


async def test_state_changed_by_another_is_pushed_without_being_asked(tmp_path: Path) -> None:
    """A command that could not reach the admin socket is noticed by the poll."""
    async with running(tmp_path) as run:
        run.gateway.state.now = snapshot(7)
        async with asyncio.timeout(30):
            while (await run.process())["states"] != [7]:
                await asyncio.sleep(0.05)


async def test_state_unreadable_is_told_and_nobody_calls_it_fresh(tmp_path: Path) -> None:
    """Without state nothing is pushed, the processes hear nothing, and the operator is told."""
    async with running(tmp_path) as run:
        run.gateway.state.fault = RuntimeError("password=hunter2")
        with pytest.raises(AdminFailed, match="cannot be read") as caught:
            await run.ask("POST", "/refresh")
        assert caught.value.status == 503
        before = (await run.process())["fresh"]
        with pytest.raises(AdminFailed):
            await run.ask("POST", "/refresh")
        assert (await run.process())["fresh"] == before
        assert (await run.ask("GET", "/status"))["state"]["readable"] is False
        assert not any("hunter2" in line for line in run.gateway.logged)
        assert sum("cannot be read" in line for line in run.gateway.logged) == 1
        run.gateway.state.fault = None
        await run.ask("POST", "/refresh")
        assert (await run.ask("GET", "/status"))["state"]["readable"] is True


async def test_process_that_does_not_apply_state_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation does not wait for a process that hangs: its connections are closed with it."""
    monkeypatch.setattr(fleet, "COMMAND_TIMEOUT", 0.3)
    async with running(tmp_path, "hang-apply") as run:
        before = await run.process()
        run.gateway.state.now = snapshot(2, revoked=1)
        answer = await run.ask("POST", "/refresh")
        assert (answer["version"], answer["processes"]) == (2, 0)
        assert is_gone(before["pid"])
        await run.knock()
        assert (await run.process())["snapshot"] == 2


# -- reload ------------------------------------------------------------------------------------------------------------


async def test_reload_reaches_the_process_with_the_newest_state(tmp_path: Path) -> None:
    """What is reloaded is taken up in place: same process, next generation."""
    async with running(tmp_path) as run:
        before = await run.process()
        run.gateway.change(policy="new policy")
        run.gateway.state.now = snapshot(4)
        assert await run.ask("POST", "/reload") == {"reloaded": True, "generation": 2, "notices": []}
        after = await run.process()
        assert (after["pid"], after["commits"]) == (before["pid"], 2)
        assert (after["policy"], after["snapshot"]) == ("new policy", 4)
        assert run.gateway.supervisor_log.records == [("admin.reload", "done", {})]


async def test_reload_by_signal_does_the_same(tmp_path: Path) -> None:
    """SIGHUP is a reload."""
    async with running(tmp_path) as run:
        run.gateway.change(policy="by signal")
        os.kill(os.getpid(), signal.SIGHUP)
        await run.gateway.until(lambda: "reloaded; generation 2" in run.gateway.logged)
        assert (await run.process())["policy"] == "by signal"


async def test_reload_refused_by_the_process_rolls_back(tmp_path: Path) -> None:
    """A process's no is everybody's no; what ran before runs on, also in a process that starts later."""
    async with running(tmp_path, "old") as run:
        run.gateway.change(policy="refuse")
        with pytest.raises(AdminFailed) as caught:
            await run.ask("POST", "/reload")
        assert caught.value.problems == (("routes.0.path", "the policy text says refuse"),)
        entry = await run.process()
        assert (entry["policy"], entry["commits"], entry["rollbacks"]) == ("old", 1, 1)
        assert (await run.ask("GET", "/status"))["config"]["generation"] == 1
        assert ("admin.reload", "refused", {"count": 1}) in run.gateway.supervisor_log.records
        os.kill(entry["pid"], signal.SIGKILL)
        await run.knock()
        assert (await run.process())["policy"] == "old"


async def test_reload_of_a_wrong_file_answers_every_problem(tmp_path: Path) -> None:
    """The process is not even asked, and the operator sees all that is wrong at once."""
    async with running(tmp_path) as run:
        run.gateway.load_fault = LoadFailed(
            (ConfigProblem(path="a", message="one"), ConfigProblem(path="b", message="two"))
        )
        with pytest.raises(AdminFailed) as caught:
            await run.ask("POST", "/reload")
        assert (caught.value.status, caught.value.problems) == (409, (("a", "one"), ("b", "two")))
        assert (await run.process())["rollbacks"] == 0


async def test_reload_of_a_fixed_key_is_refused_by_name(tmp_path: Path) -> None:
    """A changed address is not silently ignored."""
    async with running(tmp_path) as run:
        config = replace(run.gateway.loaded.config, listen=TcpAddress(host="127.0.0.1", port=1))
        run.gateway.change(config=config)
        with pytest.raises(AdminFailed) as caught:
            await run.ask("POST", "/reload")
        assert [path for path, _message in caught.value.problems] == ["listen"]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("trust_domain", {"trust_domain": "other.internal"}),
        ("listen", {"listen": TcpAddress(host="127.0.0.1", port=9)}),
        ("dispatch", {"dispatch": UnixAddress(path=Path("/other.sock"))}),
        ("processes", {"processes": 2}),
        ("state.url", {"state": StateConfig(url="sqlite:///other.db")}),
        ("metrics.listen", {"metrics": MetricsConfig(listen=TcpAddress(host="127.0.0.1", port=9))}),
        ("pki.listen", {"pki": PkiConfig(listen=TcpAddress(host="127.0.0.1", port=9))}),
    ],
)
def test_fixed_key_changed_is_a_problem_with_its_path(tmp_path: Path, key: str, change: dict[str, Any]) -> None:
    """Each key that a running gateway keeps is named when it changes, alone."""
    config = make_loaded(tmp_path, FakeState()).config
    assert [path for path, _message in fixed_changes(config, replace(config, **change))] == [key]


def test_fixed_realm_changed_is_a_problem(tmp_path: Path) -> None:
    """The realm is part of every stored credential."""
    config = make_loaded(tmp_path, FakeState()).config
    changed = replace(config, digest=replace(config.digest, realm="other"))
    assert [path for path, _message in fixed_changes(config, changed)] == ["digest.realm"]


def test_free_key_changed_is_no_problem(tmp_path: Path) -> None:
    """Everything else is taken up live."""
    config = make_loaded(tmp_path, FakeState()).config
    assert fixed_changes(config, replace(config, limits=Limits(fields=50), server_names=("a.example",))) == ()


# -- status and checkpoints --------------------------------------------------------------------------------------------


async def test_status_merges_what_the_processes_say(tmp_path: Path) -> None:
    """One picture of the gateway, with the processes beside it."""
    async with running(tmp_path) as run:
        status = await run.ask("GET", "/status")
        assert status["connections"] == {"open": 2, "workers": 1}
        assert status["pools"] == [
            {"pool": "render", "mode": "hosted", "slots": {"total": 2, "free": 1}, "workers": []}
        ]
        assert status["pid"] == os.getpid()
        assert status["state"]["version"] == 1
        assert status["config"]["generation"] == 1
        assert status["draining"] is False
        assert set(status["listeners"]) == {"tls", "dispatch", "admin"}
        assert [entry["stream"] for entry in status["processes"]] == ["p0"]


async def test_checkpoint_due_is_not_kept_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lines are signed at once, long before their second is over."""
    monkeypatch.setattr(signer, "CHECKPOINT_INTERVAL", 3600.0)
    async with running(tmp_path, "many-lines") as run:
        await until(lambda: bool(run.gateway.supervisor_log.heads))
        assert run.gateway.supervisor_log.heads[0][0]["seq"] == 5000


async def test_checkpoints_are_written_every_second_and_at_the_end(tmp_path: Path) -> None:
    """Lines are never unsigned for long, and the last ones not at all."""
    async with running(tmp_path) as run:
        assert run.gateway.supervisor_log.settled == 1
        await until(lambda: len(run.gateway.supervisor_log.heads) >= 2)
        assert await run.terminate() == 0
    heads, complete = run.gateway.supervisor_log.finished or ([], False)
    assert complete
    assert [head["stream"] for head in heads] == ["p0"]


async def test_audit_log_that_is_not_well_is_said_and_shown(tmp_path: Path) -> None:
    """On stderr once, in ``status`` for as long as it is so; what was found in the log stays until the end."""
    async with running(tmp_path) as run:
        assert (await run.ask("GET", "/status"))["audit"] == {"healthy": True, "faults": []}
        run.gateway.supervisor_log.notices = ("1 lines in the audit log's cli stream are not ours",)
        run.gateway.supervisor_log.fault = OSError(28, "No space left on device")
        await run.gateway.until(lambda: any("no checkpoint" in line for line in run.gateway.logged))
        found = run.gateway.supervisor_log.notices[0]
        fault = "no checkpoint can be written: OSError: [Errno 28] No space left on device"
        assert (await run.ask("GET", "/status"))["audit"] == {"healthy": False, "faults": [fault, found]}
        run.gateway.supervisor_log.fault = None
        await run.gateway.until(lambda: "checkpoints can be written again" in run.gateway.logged)
        assert (await run.ask("GET", "/status"))["audit"] == {"healthy": False, "faults": [found]}
        assert run.gateway.logged.count(found) == 1


async def test_checkpoint_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not fill the log with itself, and its end is told."""
    monkeypatch.setattr(signer, "CHECKPOINT_INTERVAL", 0.01)
    async with running(tmp_path) as run:
        run.gateway.supervisor_log.fault = OSError(28, "No space left on device")
        await run.gateway.until(lambda: any("no checkpoint" in line for line in run.gateway.logged))
        await asyncio.sleep(0.1)
        run.gateway.supervisor_log.fault = None
        await run.gateway.until(lambda: "checkpoints can be written again" in run.gateway.logged)
        assert sum("no checkpoint" in line for line in run.gateway.logged) == 1


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_ends_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    """An orderly end is no failure, and leaves no process behind."""
    async with running(tmp_path) as run:
        entry = await run.process()
        os.kill(os.getpid(), number)
        assert await run.ended() == 0
        assert is_gone(entry["pid"])
        assert ("admin.drain", "done", {}) in run.gateway.supervisor_log.records


async def test_drain_asked_by_admin_ends_it_and_is_visible_meanwhile(tmp_path: Path) -> None:
    """While it drains, health says so, state changes still cut, and reloads are refused."""
    async with running(tmp_path, "hang-drain", limits=Limits(drain_timeout=2.0)) as run:
        assert await run.ask("POST", "/drain") == {"draining": True, "timeout": 2.0}
        async with asyncio.timeout(2):
            while (await run.knock())[2] != "draining":
                await asyncio.sleep(0.01)
        assert (await run.ask("GET", "/status"))["draining"] is True
        run.gateway.state.now = snapshot(3, revoked=2)
        assert (await run.ask("POST", "/revoke"))["cut"] == 2
        with pytest.raises(AdminFailed, match="refused"):
            await run.ask("POST", "/reload")
        assert await run.ended() == 0


async def test_second_signal_ends_it_now(tmp_path: Path) -> None:
    """Who asks twice does not want to wait; that connections were cut shows in the status."""
    async with running(tmp_path, "hang-drain", limits=Limits(drain_timeout=600.0)) as run:
        entry = await run.process()
        os.kill(os.getpid(), signal.SIGTERM)
        await run.gateway.until(lambda: any("draining" in line for line in run.gateway.logged))
        os.kill(os.getpid(), signal.SIGTERM)
        assert await run.ended() == 1
        assert is_gone(entry["pid"])


async def test_process_that_dies_while_draining_is_not_replaced_and_told(tmp_path: Path) -> None:
    """The end comes when there is nothing left to wait for; that it was no orderly one shows in the status."""
    async with running(tmp_path, "hang-drain", limits=Limits(drain_timeout=600.0)) as run:
        entry = await run.process()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            while (await run.knock())[2] != "draining":
                await asyncio.sleep(0.01)
        os.kill(entry["pid"], signal.SIGKILL)
        assert await run.ended() == 1
        assert not any("another starts" in line for line in run.gateway.logged)
        assert any("p0 did not end in order" in line for line in run.gateway.logged)


@pytest.mark.parametrize(
    ("word", "status", "cut", "problem"),
    [
        ("cut-in-drain", 0, {"requests": 2, "connections": 1}, ""),
        ("no-line", 1, {}, "p0 ends without its gateway.stop"),
    ],
)
async def test_drain_tells_what_it_cut_and_what_went_wrong(
    tmp_path: Path, word: str, status: int, cut: dict[str, int], problem: str
) -> None:
    """On stderr, to whoever asked for it, and by the exit status when the log does not know of the end."""
    async with running(tmp_path, word) as run:
        await run.ask("POST", "/drain")
        told = await run.ask("GET", "/drain")
        assert told == {"cut": cut, "problems": [problem] if problem else []}
        assert await run.ended() == status
        said = [line for line in run.gateway.logged if line.startswith("drain: ")]
        assert said == [f"drain: {problem}" if problem else "drain: cut when its time was up: 2 requests, 1 connection"]


async def test_drain_that_nobody_asked_for_is_not_waited_for(tmp_path: Path) -> None:
    """Who asks how it went before it began is told so."""
    async with running(tmp_path) as run:
        with pytest.raises(AdminFailed, match="does not drain"):
            await run.ask("GET", "/drain")
