"""The data plane as the supervisor drives it: prepare, commit, state, drain, and what each does to live connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.bench import POOL, PlaneBench, client_peer, make_inputs, other_ca

from auth.credentials import UserCredentials
from gateway.audit.line import AuditUnavailable
from gateway.config.values import Config
from gateway.control.channel import Drained
from gateway.control.descriptors import Inherited, Sockets
from gateway.control.process_inputs import ProcessInputs
from gateway.dataplane import plane as dataplane
from gateway.dataplane.generation import load_policy
from gateway.dataplane.plane import DataPlane
from gateway.state.snapshot import StateSnapshot
from pki.names import Role

OTHER = '[pools.other]\nmode = "hosted"\n'
NO_REVERSE = '@id("masters") permit (principal is Master, action, resource);'
ANY = "/-/pools/render/any/x"


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[PlaneBench]:
    made = await PlaneBench.start(tmp_path)
    yield made
    made.close()


def record(name: str, *, enabled: bool = True, ha1: str = "00") -> UserCredentials:
    return UserCredentials(name=name, enabled=enabled, ha1={"SHA-256": ha1})


def state(version: int, *users: UserCredentials, revoked: frozenset[str] = frozenset()) -> StateSnapshot:
    return StateSnapshot(version=version, users={user.name: user for user in users}, revoked=revoked, labels={})


# ---- configuration ----


async def test_plane_takes_up_nothing_that_was_only_prepared(plane: PlaneBench) -> None:
    """Until commit, and not after rollback."""
    before = plane.process.generation
    inputs = make_inputs(POOL + OTHER, home=plane.inputs.home)
    assert await plane.plane.prepare(inputs) == []
    assert plane.process.generation is before
    plane.plane.rollback()
    with pytest.raises(RuntimeError):
        plane.plane.commit()
    assert plane.process.generation is before


async def test_plane_refuses_a_bad_configuration_and_goes_on_with_the_old_one(plane: PlaneBench) -> None:
    """All problems, and the next good one is taken up."""
    worker = plane.worker()
    problems = await plane.reload('[pools.render]\nmode = "loose"\n')
    assert [path for path, _ in problems] == ["pools.render.mode"]
    assert [path for path, _ in await plane.reload(policy="permit (")] == ["policy"]
    assert plane.process.generation.number == 1
    assert await plane.reload(POOL + OTHER) == []
    assert plane.process.generation.number == 2
    assert not worker.link.closed
    assert plane.audit.of("gateway.reload")[0]["detail"]["version"] == 2


async def test_plane_refuses_a_first_configuration_that_is_bad(tmp_path: Path) -> None:
    """There is nothing to go on with: the process says why and opens no log."""
    plane = DataPlane(Inherited(control=-1))
    problems = await plane.prepare(make_inputs('[pools.render]\nmode = "loose"\n', home=str(tmp_path)))
    assert [path for path, _ in problems] == ["pools.render.mode"]
    assert not (tmp_path / "audit").exists()


async def test_reload_keeps_connections_and_lets_new_requests_see_the_new_settings(plane: PlaneBench) -> None:
    """A connection is not dropped; its next request is decided by the new policy."""
    worker, master, client = plane.worker(), plane.requester(), plane.requester(client_peer())
    answer = client.ask("/-/pools")
    assert answer is not None
    assert answer.status == 401
    assert master.ask(ANY) is None
    assert await plane.reload(policy='@id("open") permit (principal, action, resource);') == []
    answer = client.ask("/-/pools")
    assert answer is not None
    assert answer.status == 200
    worker.reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    assert plane.pool.config.queue == 3
    await plane.reload(POOL.replace("queue = 3", "queue = 4"))
    assert plane.pool.pool.queue == 4


async def test_reload_drains_workers_that_are_no_longer_allowed(plane: PlaneBench) -> None:
    """Idle ones at once, busy ones behind their answer; the log says why."""
    busy, idle, master = plane.worker("w1"), plane.worker("w2"), plane.requester()
    assert master.ask(ANY) is None
    assert busy.taken()
    assert await plane.reload(policy=NO_REVERSE) == []
    assert idle.link.closed
    assert not busy.link.closed
    busy.reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    assert busy.link.closed
    assert [line["reason"] for line in plane.audit.of("reverse.closed")] == ["policy", "policy"]
    assert plane.pool.pool.total == 0


NO_DISPATCH = '@id("most") permit (principal, action, resource) unless { action == Action::"dispatch" };'
NO_ROUTE = '@id("most") permit (principal, action, resource) unless { action == Action::"request" };'
OPEN = '@id("open") permit (principal, action, resource);'


@pytest.mark.parametrize("content", [None, b"x" * 100, b"x" * 200_000])
async def test_reload_ends_requests_that_wait_and_are_no_longer_allowed(
    plane: PlaneBench, content: bytes | None
) -> None:
    """With what a new request would get, whatever of its content has come; the one that a worker has is served."""
    worker, served, waits, patient = plane.worker(), plane.requester(), plane.requester(), plane.requester()
    assert served.ask(ANY) is None
    assert waits.ask(ANY, "POST", "Prefer: wait=30", content=content) is None
    assert patient.ask("/-/pools/render/workers/w9/x", "GET", "Prefer: wait=30") is None
    assert await plane.reload(policy=NO_DISPATCH) == []
    for one in (waits, patient):
        answer = one.answer()
        assert answer is not None
        assert (answer.status, answer.problem) == (403, "forbidden")
    assert (plane.pool.pool.waiting, plane.process.exchanges) == (0, 1)
    lines = [line for line in plane.audit.of("policy.denied") if line["status"] == 403]
    assert [line["target"] for line in lines] == [ANY, "/-/pools/render/workers/w9/x"]
    assert [(line["outcome"], "policy" in line) for line in lines] == [("refused", False)] * 2
    worker.reply()
    answer = served.answer()
    assert answer is not None
    assert answer.status == 200
    again = waits.ask(ANY) if not waits.link.eof else plane.requester().ask(ANY)
    assert again is not None
    assert again.status == 403


async def test_reload_leaves_requests_waiting_that_are_still_allowed(plane: PlaneBench) -> None:
    """They keep their place, and are logged with the policy that allows them now."""
    master = plane.requester()
    assert master.ask(ANY, "GET", "Prefer: wait=30") is None
    assert await plane.reload(policy=OPEN) == []
    assert master.answer() is None
    plane.worker().reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    assert [line["policy"] for line in plane.audit.of("dispatch")] == [["open"]]


async def test_reload_ends_requests_that_wait_for_a_connection_to_a_master(tmp_path: Path) -> None:
    """One that is being dialled for, and one that waits for room."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = f'[masters.jobs]\nurls = ["{url}"]\n[[routes]]\npath = "/jobs/*"\nmaster = "jobs"\n'
        limits = "master_connections = 1"
        plane = await PlaneBench.start(tmp_path, config, policy=OPEN, limits=limits)
        inputs = make_inputs(config, policy=NO_ROUTE, limits=limits, home=plane.inputs.home)
        assert await plane.plane.prepare(inputs) == []
        dialled, waits = plane.requester(client_peer("alice")), plane.requester(client_peer("bob"))
        assert dialled.ask("/jobs/1") is None
        assert waits.ask("/jobs/2") is None
        plane.plane.commit()
        for one in (dialled, waits):
            answer = one.answer()
            assert answer is not None
            assert answer.status == 401  # they came without credentials
        assert plane.process.exchanges == 0
        plane.close()


async def test_request_is_not_sent_again_when_a_reload_forbids_it(plane: PlaneBench) -> None:
    """The worker that had it is lost: what may have run is said, and it runs nowhere else."""
    first, master = plane.worker("w1"), plane.requester()
    assert master.ask(ANY) is None
    assert first.taken()
    second = plane.worker("w2")
    assert await plane.reload(policy=NO_DISPATCH) == []
    first.reset()
    answer = master.answer()
    assert answer is not None
    assert answer.problem == "worker-lost"
    assert not second.taken()


async def test_reload_without_a_pool_ends_it(plane: PlaneBench) -> None:
    """Its workers drain, and whoever waits there is told instead of waiting for nothing."""
    waiting, master = plane.requester(), plane.requester()
    assert waiting.ask(ANY, "GET", "Prefer: wait=30") is None
    worker = plane.worker()
    assert worker.taken()
    assert master.ask(ANY, "GET", "Prefer: wait=30") is None
    assert await plane.reload(OTHER) == []
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "no-slot")  # the gateway is there, the pool is not
    assert plane.audit.of("dispatch")[-1]["reason"] == "pool_gone"
    worker.reply()
    answer = waiting.answer()
    assert answer is not None
    assert answer.status == 200
    assert worker.link.closed
    assert [line["reason"] for line in plane.audit.of("reverse.closed")] == ["pool_gone"]
    answer = master.ask(ANY)
    assert answer is not None
    assert answer.status == 404
    assert plane.process.exchanges == 0


async def test_reload_without_a_ca_cuts_what_it_issued(plane: PlaneBench) -> None:
    """Idle and busy; nobody of another CA and never the local master. The log says why."""
    idle, busy, client, local, master = (
        plane.worker("w1"),
        plane.worker("w2"),
        plane.requester(client_peer()),
        plane.requester(),
        plane.requester(),
    )
    assert master.ask("/-/pools/render/workers/w2/x", "POST", content=b"x") is None
    trust = other_ca(Role.WORKER)
    assert await plane.reload(trust=trust) == []
    assert (idle.link.aborted, busy.link.aborted, client.link.aborted, local.link.aborted) == (True, True, False, False)
    answer = master.answer()
    assert answer is not None
    assert answer.problem == "worker-lost"
    assert plane.pool.pool.total == 0
    assert [(line["identity"], line["reason"]) for line in plane.audit.of("connection.cut")] == [
        ("worker/w1", "issuer_gone"),
        ("worker/w2", "issuer_gone"),
    ]
    assert await plane.reload(trust=other_ca(Role.CLIENT)) == []
    assert client.link.aborted
    assert not local.link.aborted


async def test_reload_with_one_ca_more_cuts_nobody(plane: PlaneBench) -> None:
    """While keys roll over a role has two; only when the old one leaves, its connections end."""
    worker, old = plane.worker(), plane.inputs.trust
    both = {**old, "worker": old["worker"] + other_ca(Role.WORKER)["worker"]}
    assert await plane.reload(trust=both) == []
    assert not worker.link.closed
    assert await plane.reload(trust={**both, "worker": both["worker"].removeprefix(old["worker"])}) == []
    assert worker.link.aborted


async def test_request_behind_a_handshake_that_a_reload_overtook_is_refused(plane: PlaneBench) -> None:
    """Its certificate was verified by the store of before; the first request sees that the CA is gone."""
    assert await plane.reload(trust=other_ca(Role.CLIENT)) == []
    late = plane.requester(client_peer())
    answer = late.ask("/-/health")
    assert answer is not None
    assert answer.status == 403
    assert late.link.eof
    assert plane.audit.of("auth.refused")[-1]["reason"] == "issuer_gone"


# ---- state ----


async def test_state_cuts_exactly_those_whom_it_ends(plane: PlaneBench) -> None:
    """Revoked, removed, disabled, password changed: each with its reason; nobody else, never the local master."""
    names = ("alice", "bob", "carol", "dave", "erin", "local")
    await plane.plane.apply_state(state(1, *map(record, names)))
    lives = {name: plane.requester(client_peer(name, serial=f"s-{name}")) for name in names[:-1]}
    local = plane.requester()
    cut = await plane.plane.apply_state(
        state(
            2,
            record("alice"),
            record("carol", enabled=False),
            record("dave", ha1="11"),
            record("erin"),
            record("frank"),
            revoked=frozenset({"s-alice", "s-nobody"}),
        )
    )
    assert cut == 4
    assert {name: live.link.aborted for name, live in lives.items()} == {
        "alice": True,
        "bob": True,
        "carol": True,
        "dave": True,
        "erin": False,
    }
    assert not local.link.aborted
    reasons = {line["identity"]: line["reason"] for line in plane.audit.of("connection.cut")}
    assert reasons == {
        "client/alice": "revoked",
        "client/bob": "user_removed",
        "client/carol": "user_disabled",
        "client/dave": "password_changed",
    }
    assert plane.process.counters.cut == 4


async def test_state_cuts_workers_and_their_requests(plane: PlaneBench) -> None:
    """A revoked worker's connections close, busy or idle; its requester is told."""
    busy, idle, other, master = plane.worker("w1"), plane.worker("w1"), plane.worker("w2"), plane.requester()
    assert master.ask("/-/pools/render/workers/w1/x", "POST", content=b"x") is None
    assert await plane.plane.apply_state(state(1, revoked=frozenset({"aaw1"}))) == 2
    assert busy.link.aborted
    assert idle.link.aborted
    assert not other.link.aborted
    answer = master.answer()
    assert answer is not None
    assert answer.problem == "worker-lost"
    assert plane.pool.pool.total == 1


@pytest.mark.parametrize("second", [state(2, record("alice")), state(2, record("alice"), record("new"))])
async def test_state_that_ends_nobody_cuts_nobody(plane: PlaneBench, second: StateSnapshot) -> None:
    """Also an enabled user, a new one, or one that a certificate has no user for."""
    await plane.plane.apply_state(state(1, record("alice", enabled=False)))
    live, without = plane.requester(client_peer("alice")), plane.requester(client_peer("nobody"))
    assert await plane.plane.apply_state(second) == 0
    assert not live.link.aborted
    assert not without.link.aborted


async def test_state_that_comes_with_a_reload_cuts_as_well(plane: PlaneBench) -> None:
    """A reload carries the snapshot of its moment."""
    await plane.plane.apply_state(state(1, record("alice")))
    live = plane.requester(client_peer("alice"))
    assert await plane.reload(snapshot=state(2)) == []
    assert live.link.aborted


async def test_state_that_was_read_earlier_is_ignored(plane: PlaneBench) -> None:
    """Pushes may overtake each other, and a reload may carry what was read before: what is known stays known."""
    live = plane.requester(client_peer("bob", serial="s-bob"))
    newer = replace(state(2, revoked=frozenset({"s-alice"})), read=2)
    await plane.plane.apply_state(newer)
    older = replace(state(3, revoked=frozenset({"s-bob"})), read=1)
    assert await plane.plane.apply_state(older) == 0
    assert await plane.reload(snapshot=older) == []
    assert plane.process.snapshot is newer
    assert not live.link.aborted
    restored = replace(state(1, revoked=frozenset({"s-bob"})), read=3)
    assert await plane.plane.apply_state(restored) == 1
    assert live.link.aborted


async def test_state_comes_through_while_a_configuration_is_prepared(
    plane: PlaneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of policies take seconds; the loop turns meanwhile, and cuts."""
    live = plane.requester(client_peer("alice", serial="s-alice"))
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(config: Config, inputs: ProcessInputs) -> object:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(20)
        return load_policy(config, inputs)

    monkeypatch.setattr(dataplane, "load_policy", slow)
    reloading = asyncio.create_task(plane.reload())
    await asyncio.wait_for(begun.wait(), 20)
    newer = replace(state(2, revoked=frozenset({"s-alice"})), read=1)
    assert await plane.plane.apply_state(newer) == 1
    assert live.link.aborted
    assert not reloading.done()
    go_on.set()
    assert await reloading == []
    assert plane.process.snapshot is newer


async def test_state_before_the_first_commit_is_taken_up_by_it(tmp_path: Path) -> None:
    """It is told of what was revoked while it was prepared; nobody is admitted by what was known before."""
    plane = DataPlane(Inherited(control=-1))
    newer = replace(state(2, revoked=frozenset({"s-alice"})), read=1)
    assert await plane.prepare(make_inputs(home=str(tmp_path))) == []
    assert await plane.apply_state(newer) == 0
    plane.commit()
    assert plane.process.snapshot is newer
    plane.process.audit.close()


async def test_state_that_is_fresh_again_admits_again(plane: PlaneBench) -> None:
    """New admissions are refused while state is unread for too long, and go on when it is read."""
    client = plane.requester(client_peer())
    process = plane.process
    plane.plane.state_fresh(process.elapsed - 11)
    answer = client.ask("/-/pools")
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "state-stale")
    plane.plane.state_fresh(process.elapsed - 9)
    answer = plane.requester(client_peer()).ask("/-/pools")
    assert answer is not None
    assert answer.status == 401


# ---- the end ----


async def end(plane: PlaneBench, timeout: float) -> Drained:
    """Both steps, without a time in between."""
    await plane.plane.lame_duck(0.0, timeout)
    return await plane.plane.drain(timeout)


async def test_drain_answers_what_runs_and_ends_the_rest(plane: PlaneBench) -> None:
    """Health 503 at once; idle workers close, waiting requests are told, running ones finish, then all is closed."""
    busy, idle = plane.worker("w1"), plane.worker("w2")
    master, waiting, reader, health, late = (plane.requester() for _ in range(5))
    assert master.ask(ANY) is None
    assert waiting.ask("/-/pools/render/workers/w1/x", "GET", "Prefer: wait=30") is None
    assert reader.ask("/-/pools/render/events") is not None
    draining = asyncio.create_task(end(plane, 20.0))
    await idle.link.until(lambda: idle.link.closed)
    answer = health.ask("/-/health")
    assert answer is not None
    assert answer.status == 503
    answer = waiting.answer()
    assert answer is not None
    assert answer.problem == "draining"
    assert reader.link.sent.endswith(b"0\r\n\r\n")
    assert health.link.eof
    answer = late.ask(ANY)
    assert answer is not None
    assert answer.problem == "draining"
    assert not draining.done()
    busy.reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    await asyncio.wait_for(draining, 20)
    assert busy.link.closed
    assert all(live.link.eof for live in (master, waiting, reader, health, late))
    assert plane.audit.lines[-1]["event"] == "gateway.stop"
    assert plane.process.exchanges == 0
    reasons = [line["reason"] for line in plane.audit.of("reverse.closed")]
    assert reasons == ["drain", "drain"]


@pytest.mark.parametrize("first", ["worker", "requester"])
@pytest.mark.parametrize("answered", [b"", b"HTTP/1.1 200 OK\r\n\r\nhalf"])
async def test_drain_does_not_wait_longer_than_it_was_told(plane: PlaneBench, first: str, answered: bytes) -> None:
    """What still runs then is cut, so that nobody takes half an answer for a whole one; who has none yet gets ours."""
    master = plane.requester() if first == "requester" else None
    worker = plane.worker()
    master = master or plane.requester()
    assert master.ask(ANY) is None
    worker.reply(answered)
    master.link.take()
    await asyncio.wait_for(end(plane, 0.05), 20)
    assert worker.link.aborted
    if answered:
        assert master.link.aborted
        assert not master.link.eof
    else:
        answer = master.answer()
        assert answer is not None
        assert answer.status in (502, 503)
        assert master.link.eof
    assert plane.audit.lines[-1]["event"] == "gateway.stop"
    assert plane.process.exchanges == 0


async def test_drain_ends_requests_to_masters_that_do_not_answer(tmp_path: Path) -> None:
    """One that is being dialled or served is told that it may have run."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = f'[masters.jobs]\nurls = ["{url}"]\n[[routes]]\npath = "/jobs/*"\nmaster = "jobs"\n'
        plane = await PlaneBench.start(tmp_path, config, policy='@id("open") permit (principal, action, resource);')
        served, dialled = plane.requester(client_peer("alice")), plane.requester(client_peer("bob"))
        assert served.ask("/jobs/1", "POST", content=b"x") is None
        silent.setblocking(False)
        loop = asyncio.get_running_loop()
        taken, _ = await asyncio.wait_for(loop.sock_accept(silent), 20)
        taken.setblocking(False)
        with taken:
            assert await asyncio.wait_for(loop.sock_recv(taken, 100), 20)
            assert dialled.ask("/jobs/2") is None
            await asyncio.wait_for(end(plane, 0.0), 20)
        for requester, problems in ((served, {"master-lost"}), (dialled, {"draining", "master-lost"})):
            answer = requester.answer()
            assert answer is not None
            assert answer.problem in problems
            assert requester.link.eof
        assert plane.process.exchanges == 0
        plane.close()


async def test_drain_of_an_idle_plane_is_quick(plane: PlaneBench) -> None:
    """Nothing to wait for."""
    await asyncio.wait_for(plane.plane.drain(3600.0), 20)
    assert plane.audit.lines[-1]["event"] == "gateway.stop"


# ---- telling, serving ----


async def test_status_adds_up(plane: PlaneBench) -> None:
    """What `rhttp-pki status` shows, as JSON."""
    well = {"healthy": True, "lost": 0, "touched": False}
    plane.worker()
    plane.requester(client_peer())
    told = json.loads(json.dumps(plane.plane.status()))
    assert told["stream"] == "p0"
    assert told["generation"] == 1
    assert told["connections"] == {"total": 2, "worker": 1, "client": 1}
    assert told["pools"][0]["slots"] == {"total": 1, "free": 1}
    assert told["counters"]["reversed_opened"] == 1
    head = plane.plane.audit_head()
    assert head == {"stream": "p0", "seq": 0, "hash": "", "file": "", "opened": 0, **well}


async def test_plane_serves_its_sockets_and_ticks(plane: PlaneBench, tmp_path: Path) -> None:
    """A start writes its line, dates its answers, turns the wheel; connections beyond none are left at the end."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "d.sock"))
    sock.listen()
    sock.setblocking(False)
    await plane.plane.start(Sockets(dispatch=(sock,)))
    (started,) = plane.audit.of("gateway.start")
    assert (started["outcome"], started["previous"]) == ("started", "none")
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "d.sock"))
    writer.write(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nDate: " in head
    assert plane.plane.status()["connections"] == {"total": 1, "master": 1}
    turned = plane.process.wheel.now
    expired = client_peer("late", expires=plane.process.epoch - 1)
    late = plane.requester(expired)
    await late.link.until(lambda: late.link.aborted)
    assert plane.process.wheel.now > turned
    assert plane.audit.of("connection.cut")[0]["reason"] == "expired"
    await asyncio.wait_for(plane.plane.drain(5.0), 20)
    assert await asyncio.wait_for(reader.read(), 20) == b'{"status":"serving"}'
    writer.close()
    await writer.wait_closed()


async def test_drain_whose_last_line_cannot_be_written_says_so(
    plane: PlaneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the end is no orderly end: whoever asked for it hears of it."""

    def refuse(*_: object) -> None:
        raise AuditUnavailable("no space left")

    monkeypatch.setattr(plane.audit, "write", refuse)
    drained = await end(plane, 1.0)
    assert [where for where, _ in drained.problems] == ["audit"]
    assert "gateway.stop" in drained.problems[0][1]


@pytest.mark.parametrize(("busy", "cut"), [(0, {}), (1, {"requests": 1}), (2, {"requests": 2})])
async def test_drain_counts_what_it_cut(plane: PlaneBench, busy: int, cut: dict[str, int]) -> None:
    """Requests that still ran when the time was up, and nothing that ended by itself."""
    workers = [plane.worker(f"w{number}") for number in range(busy)]
    masters = [plane.requester() for _ in range(busy)]
    for master in masters:
        assert master.ask(ANY) is None
    idle = plane.requester()
    assert idle.ask("/-/pools") is not None
    drained = await end(plane, 0.05)
    assert drained.cut == cut
    assert all(worker.link.aborted for worker in workers)
    assert idle.link.eof


async def test_drain_does_not_close_what_has_something_unread(plane: PlaneBench) -> None:
    """A request that is in the socket's buffer is read and answered, not thrown away."""
    late = plane.requester()
    assert late.ask("/-/pools") is not None
    late.link.unread = True
    await plane.plane.lame_duck(0.0, 5.0)
    assert not late.link.eof
    draining = asyncio.create_task(plane.plane.drain(5.0))
    await asyncio.sleep(0)
    late.link.unread = False
    answer = late.ask("/-/health")
    assert answer is not None
    assert answer.status == 503
    assert late.link.eof
    await asyncio.wait_for(draining, 20)


async def test_lame_duck_lets_a_challenged_client_come_back_where_it_is(plane: PlaneBench) -> None:
    """The request that answers a challenge belongs to what was begun; every other answer closes."""
    client, master = plane.requester(client_peer()), plane.requester()
    await plane.plane.lame_duck(0.0, 5.0)
    answer = client.ask("/-/pools")
    assert answer is not None
    assert answer.status == 401
    assert not client.link.eof
    answer = master.ask("/-/pools")
    assert answer is not None
    assert master.link.eof
    await asyncio.wait_for(plane.plane.drain(0.1), 20)
    assert client.link.eof
