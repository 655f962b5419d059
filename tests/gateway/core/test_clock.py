"""The time of day is set, back and forth, under a gateway that serves: nobody is locked out and nobody is let in."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest
from support.bench import Bench, PlaneBench, client_peer
from support.digests import PASSWORD, user
from support.fakegateway import FakeState, snapshot

from auth.credentials import Credentials
from auth.sharedledger import SharedLedger, create
from gateway.core.context import ProcessContext
from gateway.dataplane.generation import DigestState, build_generation, read_config
from gateway.state.snapshot import StateSnapshot
from gateway.state.watch import StateWatch
from rhttp.clock import elapsed
from rhttp.digest.formula import DigestClient

HOURS = 3600.0
CONFIG = "[pools.render]\n"
KNOWN = '@id("known") permit (principal, action, resource) when { context has digest };'


class Clock:
    """The time of day, to be set by a test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        true = time.time
        patch.setattr(time, "time", lambda: true() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_elapsed_is_the_same_whatever_the_time_of_day(clock: Clock) -> None:
    """It never goes back, by no setting of the clock."""
    before = elapsed()
    clock.ahead = -HOURS
    between = elapsed()
    clock.ahead = HOURS
    assert before <= between <= elapsed() < before + HOURS


@pytest.fixture(params=["own", "shared"])
async def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:  # type: ignore[misc]  # async, so that a loop runs
    """A gateway's data process with a ledger of its own, or with that of several."""
    bench = Bench(CONFIG, policy=KNOWN, loop=asyncio.get_running_loop())
    ledger = SharedLedger(create(per_identity=4)) if request.param == "shared" else bench.digest_state.ledger
    process = bench.process
    bench.digest_state = DigestState(key=bench.digest_state.key, ledger=ledger)
    process.generation = build_generation(
        process, read_config(bench.inputs), bench.inputs, bench.digest_state, process.generation
    )
    ledger.configure(1024, 4, 300.0)
    realm = process.generation.config.digest.realm
    process.credentials = Credentials([user(name, realm=realm) for name in ("alice", "bob")])
    yield bench
    bench.close()
    if isinstance(ledger, SharedLedger):
        ledger.close()


def comes(bench: Bench, name: str) -> int:
    """The status of a request by a client that knows the password and was challenged just now."""
    process: ProcessContext = bench.process
    process.update_clocks()
    process.state_at = process.elapsed
    requester = bench.requester(client_peer(name))
    challenged = requester.ask("/-/pools")
    assert challenged is not None
    assert challenged.status == 401
    client = DigestClient(name, PASSWORD, entropy=os.urandom)
    assert client.challenged([challenged.fields["www-authenticate"].encode()])
    value = client.authorize(b"GET", b"/-/pools")
    assert value is not None
    answer = requester.ask("/-/pools", "GET", f"Authorization: {value.decode()}")
    assert answer is not None
    return answer.status


def test_clock_set_back_locks_nobody_out(bench: Bench, clock: Clock) -> None:
    """What the ledger forgot while the clock was ahead makes no nonce of today stale, whoever's it is."""
    clock.ahead = 2 * HOURS
    for _ in range(12):
        assert comes(bench, "alice") == 200
        time.sleep(0.002)  # nonces of one millisecond are forgotten together
    clock.ahead = 0.0
    assert [comes(bench, name) for name in ("alice", "bob")] == [200, 200]


def test_clock_set_forward_makes_no_nonce_stale(bench: Bench, clock: Clock) -> None:
    """A nonce lives so long by the clock that nobody sets."""
    process = bench.process
    process.update_clocks()
    client = DigestClient("alice", PASSWORD, entropy=os.urandom)
    requester = bench.requester(client_peer("alice"))
    challenged = requester.ask("/-/pools")
    assert challenged is not None
    assert client.challenged([challenged.fields["www-authenticate"].encode()])
    clock.ahead = 2 * HOURS
    process.update_clocks()
    value = client.authorize(b"GET", b"/-/pools")
    assert value is not None
    answer = requester.ask("/-/pools", "GET", f"Authorization: {value.decode()}")
    assert answer is not None
    assert answer.status == 200


@pytest.mark.parametrize("ahead", [-2 * HOURS, 2 * HOURS])
def test_state_goes_stale_by_elapsed_time_whatever_the_clock_says(bench: Bench, clock: Clock, ahead: float) -> None:
    """A clock that is set makes no fresh state stale, and keeps no stale one fresh."""
    process = bench.process
    process.state_at = elapsed() - 9
    clock.ahead = ahead
    process.update_clocks()
    assert not process.state_is_stale()
    process.state_at -= 2
    assert process.state_is_stale()


async def test_certificate_expires_by_the_time_of_day_as_it_is_now(
    tmp_path: object, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was behind and is set right ends what has expired by then, connections and requests alike."""
    assert hasattr(tmp_path, "joinpath")
    plane = await PlaneBench.start(tmp_path.joinpath())
    try:
        clock.ahead = -2 * HOURS
        plane.plane._tick()
        late = plane.requester(client_peer("late", expires=time.time() + HOURS))
        clock.ahead = 0.0
        plane.plane._tick()
        assert late.link.aborted
    finally:
        plane.close()


class Read(FakeState):
    """A database whose snapshots leave out what had expired when they were read."""

    def load(self) -> StateSnapshot:
        return snapshot(self.now.version, revoked=0 if time.time() > self.until else 1)

    until = 0.0


async def test_clock_set_back_has_the_state_read_anew(clock: Clock) -> None:
    """A revoked certificate that had expired by the clock that was ahead, and has not by the right one, is revoked."""
    state, pushed, log = Read(), list[int](), list[str]()
    state.until = time.time() + HOURS
    clock.ahead = 2 * HOURS
    told = asyncio.Event()

    async def push(value: StateSnapshot) -> int:
        pushed.append(len(value.revoked))
        told.set()
        return 0

    first = state.load()
    assert not first.revoked
    watch = StateWatch(state, first, push=push, fresh=lambda _: None, log=log.append, interval=0.001)
    running = asyncio.create_task(watch.run())
    clock.ahead = 0.0
    async with asyncio.timeout(10):
        await told.wait()
    running.cancel()
    assert pushed == [1]
    assert log == ["the clock was set back by 7200 s; state is read anew"]
