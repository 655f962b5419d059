"""The shared ledger over processes: each counter once, whoever is killed or stopped in the middle of it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support.ledgers import (
    NOW,
    identity_in,
    mark_of,
    other_processes,
    slot_lock,
    small_ledger,
    stamped,
    stripe_lock,
    stripe_of,
)

from auth.nonces import Spend
from auth.sharedledger import SharedLedger, create

PATIENCE = 0.05
SLACK = 2.0  # seconds that this machine may take for what should take milliseconds


@pytest.fixture
def ledger() -> Iterator[SharedLedger]:
    made = SharedLedger(create())
    yield made
    made.close()


def test_spend_of_what_another_process_spent_is_a_replay(ledger: SharedLedger) -> None:
    """What one has spent, all have spent."""
    with other_processes(ledger._fd) as (other,):
        assert other.spend("a", stamped(0), 1) is Spend.FRESH
        assert ledger.spend("a", stamped(0), 1, NOW) is Spend.REPLAYED
        assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH
        assert other.spend("a", stamped(0), 2) is Spend.REPLAYED


def test_spend_of_counters_in_turns_is_fresh_for_each(ledger: SharedLedger) -> None:
    """Connections of one peer that share a nonce may be in different processes, in any order within the window."""
    with other_processes(ledger._fd, 2) as others:
        for nc in range(1, 200):
            assert others[nc % 2].spend("a", stamped(0), 3 * nc) is Spend.FRESH
            assert others[nc % 3 % 2].spend("a", stamped(0), 3 * nc - 2) is Spend.FRESH


def test_spend_of_the_same_counters_by_two_processes_at_once_is_fresh_once(ledger: SharedLedger) -> None:
    """Two that spend the same counters as quickly as they can get each of them once between them."""
    last = 30_000
    with other_processes(ledger._fd, 2) as others:
        for other in others:
            other.tell("race", "a", stamped(0).decode(), 1, last, NOW)
        answers = [other.hear() for other in others]
    for nc, told in enumerate(zip(*answers, strict=True), start=1):
        times = Counter(told)
        # A process that lost its CPU for very long while it held the lock makes the other one answer busy.
        assert times["fresh"] == 1 or (times["fresh"] == 0 and times["busy"]), (nc, told)
    assert sum(Counter(told)["fresh"] for told in zip(*answers, strict=True)) > last // 2


def test_spend_by_a_process_that_started_again_sees_what_was_spent(ledger: SharedLedger) -> None:
    """The table outlives every data process, however they end."""
    with other_processes(ledger._fd) as (other,):
        assert other.spend("a", stamped(0), 5) is Spend.FRESH
    with other_processes(ledger._fd) as (other,):
        assert other.spend("a", stamped(0), 5) is Spend.REPLAYED
        assert other.spend("a", stamped(0), 4) is Spend.FRESH


def test_spend_after_a_process_was_killed_at_a_first_spend_is_stale_and_others_go_on(ledger: SharedLedger) -> None:
    """Its lock is the kernel's to release; what it left half-written opens nothing; a new nonce works at once."""
    nonce, theirs = stamped(0), stamped(1, 1)
    lock = stripe_lock(ledger, "a")
    away = identity_in(ledger, lambda stripe: stripe != stripe_of(ledger, "a"))
    assert ledger.spend("a", nonce, 1, NOW) is Spend.FRESH
    with other_processes(ledger._fd) as (other,):
        other.tell("take", lock, mark_of(lock), lock + ledger._table._keys_at)
        assert other.hear() == "taken"
        assert ledger.spend("a", stamped(0, 2), 1, NOW) is Spend.BUSY  # not to be had while it lives
        assert ledger.spend(away, theirs, 1, NOW) is Spend.FRESH
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.wait(60)
        for nc in (1, 2, 3):
            assert ledger.spend("a", nonce, nc, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(1), 1, NOW) is Spend.FRESH
        assert ledger.spend(away, theirs, 2, NOW) is Spend.FRESH


def test_spend_after_a_process_was_killed_at_a_nonces_counters_is_stale_for_that_nonce(ledger: SharedLedger) -> None:
    """Nobody knows what it had spent, so that nonce is stale for good; the identity's others are as they were."""
    nonce, others_nonce = stamped(0), stamped(0, 1)
    for one in (nonce, others_nonce):
        assert ledger.spend("a", one, 1, NOW) is Spend.FRESH
    with other_processes(ledger._fd) as (other,):
        lock = slot_lock(ledger, nonce)
        other.tell("take", lock, mark_of(lock))
        assert other.hear() == "taken"
        assert ledger.spend("a", nonce, 2, NOW) is Spend.BUSY
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.wait(60)
        for nc in (1, 2, 3):
            assert ledger.spend("a", nonce, nc, NOW) is Spend.STALE
        ledger._places.clear()
        assert ledger.spend("a", nonce, 4, NOW) is Spend.STALE
        assert ledger.spend("a", others_nonce, 2, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(0, 2), 1, NOW) is Spend.FRESH


def test_spend_while_the_holder_of_another_nonce_has_no_cpu_is_fresh_at_once(
    ledger: SharedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lock a nonce: whoever loses its CPU in the middle of a spend keeps nobody from any other nonce."""
    for number in range(3):
        assert ledger.spend("a", stamped(0, number), 1, NOW) is Spend.FRESH
    with other_processes(ledger._fd) as (other,):
        other.tell("stop", slot_lock(ledger, stamped(0)))
        os.waitid(os.P_PID, other.process.pid, os.WSTOPPED)
        with monkeypatch.context() as patch:  # not while the other process is waited for
            patch.setattr(time, "sleep", lambda _seconds: pytest.fail("it had to wait"))
            for number in (1, 2, 3):
                assert ledger.spend("a", stamped(0, number), 2, NOW) is Spend.FRESH
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.hear() == "released"


@pytest.mark.parametrize("is_first", [False, True])
def test_spend_while_the_holder_comes_back_late_waits_and_is_fresh_once(
    ledger: SharedLedger, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """A holder without a CPU is waited for longer than a timeslice takes: a fresh counter is not refused for it."""
    waited = 0.0
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    lock = stripe_lock(ledger, "a") if is_first else slot_lock(ledger, stamped(0))
    asked = ("a", stamped(0, 1) if is_first else stamped(0), 2, NOW)
    with other_processes(ledger._fd) as (other,):

        def sleep(seconds: float) -> None:
            # Time goes by here as fast as it is slept, so that the machine's load decides nothing.
            nonlocal waited
            waited += seconds
            if waited > 0.03 and not released:
                other.tell("release", lock)
                released.append(other.hear())

        released: list[str] = []
        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(time, "monotonic", lambda: waited)
        other.tell("take", lock, None)
        assert other.hear() == "taken"
        assert ledger.spend(*asked) is Spend.FRESH
        assert released == ["released"]
        assert ledger.spend(*asked) is Spend.REPLAYED


def test_spend_while_the_holder_is_stopped_waits_briefly_and_is_busy(ledger: SharedLedger) -> None:
    """A stopped process keeps its lock. Others wait some milliseconds once a second, and go on when it goes on."""
    nonce = stamped(0)
    away = identity_in(ledger, lambda stripe: stripe != stripe_of(ledger, "a"))
    assert ledger.spend("a", nonce, 1, NOW) is Spend.FRESH
    with other_processes(ledger._fd) as (other,):
        other.tell("stop", slot_lock(ledger, nonce))
        os.waitid(os.P_PID, other.process.pid, os.WSTOPPED)
        began = time.monotonic()
        assert ledger.spend("a", nonce, 2, NOW) is Spend.BUSY
        assert PATIENCE <= time.monotonic() - began < SLACK
        began = time.monotonic()
        for _ in range(2000):  # would be 100 s with all the patience
            assert ledger.spend("a", nonce, 2, NOW + 0.5) is Spend.BUSY
        assert time.monotonic() - began < SLACK
        began = time.monotonic()
        assert ledger.spend("a", nonce, 2, NOW + 1.5) is Spend.BUSY
        assert time.monotonic() - began >= PATIENCE
        assert ledger.spend(away, stamped(0, 1), 1, NOW) is Spend.FRESH
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.hear() == "released"
        assert ledger.spend("a", nonce, 2, NOW + 1.6) is Spend.FRESH


def test_spend_at_the_cap_while_the_holder_of_the_oldest_nonce_is_stopped_is_busy_and_takes_nothing() -> None:
    """The nonce that has to go is being spent by somebody: it is not pushed out under his hands."""
    with small_ledger(per_identity=1) as ledger:
        assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
        with other_processes(ledger._fd) as (other,):
            other.tell("take", slot_lock(ledger, stamped(0)), None)
            assert other.hear() == "taken"
            assert ledger.spend("a", stamped(1, 1), 1, NOW) is Spend.BUSY
            other.tell("release", slot_lock(ledger, stamped(0)))
            assert other.hear() == "released"
            assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH
            assert ledger.spend("a", stamped(1, 1), 1, NOW) is Spend.FRESH
            assert ledger.spend("a", stamped(0), 3, NOW) is Spend.STALE


def test_spend_survives_processes_that_are_killed_at_it(ledger: SharedLedger, long_run: bool) -> None:
    """Killed wherever they happen to be, they leave nothing that is fresh twice."""
    rounds = 2000 if long_run else 150
    with other_processes(ledger._fd) as (other,):
        other.tell("slaughter", "a", stamped(0).decode(), NOW, rounds)
        seen = other.hear()
    assert seen["killed"] == rounds
    assert seen["fresh_twice"] == 0
