"""The shared ledger in one process: it says what `NonceLedger` says, within bounds of its own, and dies safely."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ctypes import c_void_p

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ledgers import (
    NOW,
    Killed,
    identity_in,
    make_mortal,
    mark_of,
    small_ledger,
    small_table,
    stamped,
    stripe_lock,
    stripe_of,
    twin_of,
)

from auth.nonces import NonceLedger, Spend
from auth.sharedledger import SharedLedger, create


@pytest.fixture
def ledger() -> Iterator[SharedLedger]:
    made = SharedLedger(create())
    yield made
    made.close()


def test_spend_twice_is_a_replay(ledger: SharedLedger) -> None:
    """The same counter is fresh once."""
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.REPLAYED


def test_spend_out_of_order_within_the_window_is_fresh_once() -> None:
    """Connections that share a nonce may overtake each other by up to the window."""
    with small_ledger(window=8) as ledger:
        assert ledger.spend("a", stamped(0), 10, NOW) is Spend.FRESH
        for nc in (3, 9, 5):
            assert ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH
            assert ledger.spend("a", stamped(0), nc, NOW) is Spend.REPLAYED
        assert ledger.spend("a", stamped(0), 2, NOW) is Spend.TOO_OLD
        assert ledger.spend("a", stamped(0), 11, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(0), 3, NOW) is Spend.TOO_OLD
        assert ledger.spend("a", stamped(0), 4, NOW) is Spend.FRESH


def test_spend_of_a_far_jump_forgets_the_window(ledger: SharedLedger) -> None:
    """A jump past the window costs no more than a step, up to the last counter there is."""
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.TOO_OLD
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF - 1023, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF - 1024, NOW) is Spend.TOO_OLD


@settings(max_examples=200)
@given(st.data(), st.integers(1, 20), st.sampled_from([0, 1000, 0xFFFFFFFF - 60]))
def test_spend_answers_as_the_ledger_of_one_process_does(data: st.DataObject, window: int, offset: int) -> None:
    """Two that share a table, asked in turns, say what one `NonceLedger` says that is asked everything."""
    right = NonceLedger(window, 8)
    counters = st.integers(1, 60)  # 0 does not parse
    turns = st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 3), counters)
    with small_ledger(window=window, per_identity=8, slots=32, stripes=2) as one:
        two = SharedLedger(os.dup(one._fd))
        for is_two, identity, number, nc in data.draw(st.lists(turns, max_size=60)):
            nonce = stamped(number // 2, ord(identity) * 10 + number)  # pairs of nonces share their stamp
            asked = (identity, nonce, offset + nc, NOW)
            assert (two if is_two else one).spend(*asked) is right.spend(*asked)
        assert len(one) == len(right)
        two.close()


@pytest.mark.parametrize("window", range(1, 20))
def test_spend_after_a_jump_agrees_with_the_ledger_of_one_process(window: int) -> None:
    """From anywhere in the ring of bits, over any number of counters: those stepped over are unspent."""
    right = NonceLedger(window, 512)
    with small_ledger(window=window, slots=512, per_identity=512) as ledger:
        for start in range(window, 2 * window):
            for ahead in range(1, window + 2):
                nonce = stamped(0, start * 100 + ahead)
                full = range(start - window + 1, start + 1)
                landing = start + ahead
                for nc in (*full, landing, *range(landing, landing - window - 1, -1)):
                    asked = ("a", nonce, nc, NOW)
                    assert ledger.spend(*asked) is right.spend(*asked), (start, ahead, nc)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"), st.integers(0, 8), st.integers(1, 12)), max_size=80),
    st.integers(1, 10),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_spend_never_gives_fresh_twice_whatever_is_forgotten(
    spends: list[tuple[bool, str, int, int]], window: int, per_identity: int, slots: int
) -> None:
    """No (identity, nonce, counter) is fresh twice, whatever the bounds push out, and a young nonce always works."""
    geometry = {"window": window, "per_identity": per_identity, "slots": slots, "stripes": 2}
    fresh: set[tuple[str, int, int]] = set()
    with small_ledger(**geometry) as one:
        two = SharedLedger(os.dup(one._fd))
        for step, (is_two, identity, number, nc) in enumerate(spends):
            nonce = stamped(number // 2, ord(identity) * 10 + number)
            if (two if is_two else one).spend(identity, nonce, nc, NOW + step / 1000) is Spend.FRESH:
                assert (identity, number, nc) not in fresh
                fresh.add((identity, number, nc))
            assert len(one) <= 2 * slots
        assert one.spend("a", stamped(10_000), 1, NOW + 10) is Spend.FRESH
        two.close()


def test_spend_beyond_the_cap_of_an_identity_makes_its_oldest_nonce_stale() -> None:
    """The 65th live nonce costs the one that was minted first its life; nobody else in the stripe notices."""
    with small_ledger(per_identity=64, slots=256) as ledger:
        assert ledger.spend("b", stamped(0, 999), 1, NOW) is Spend.FRESH
        for number in [*range(1, 65), 65]:
            assert ledger.spend("a", stamped(number, number), 1, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(1, 1), 2, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(0, 777), 1, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(2, 2), 2, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(65, 65), 2, NOW) is Spend.FRESH
        assert ledger.spend("b", stamped(0, 999), 2, NOW) is Spend.FRESH
        assert ledger.spend("c", stamped(0, 778), 1, NOW) is Spend.FRESH
        assert len(ledger) == 66


def test_spend_of_a_late_first_use_at_the_cap_is_stale_and_pushes_nobody_out() -> None:
    """A nonce older than all those that its identity holds is the oldest itself."""
    with small_ledger(per_identity=2) as ledger:
        for number in (1, 2):
            assert ledger.spend("a", stamped(number, number), 1, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(0), 1, NOW) is Spend.STALE
        for number in (1, 2):
            assert ledger.spend("a", stamped(number, number), 2, NOW) is Spend.FRESH


def test_spend_in_a_full_stripe_makes_its_oldest_nonces_stale_and_refuses_nobody() -> None:
    """However many identities crowd in, a fresh nonce works; who lost one keeps his younger ones."""
    with small_ledger(slots=10, per_identity=4) as ledger:
        for number in range(100):
            assert ledger.spend(f"u{number % 40}", stamped(number, number), 1, NOW) is Spend.FRESH
            assert len(ledger) == min(number + 1, 10)
        assert ledger.spend("u9", stamped(89, 89), 2, NOW) is Spend.STALE
        assert ledger.spend("u10", stamped(90, 90), 2, NOW) is Spend.FRESH
        assert ledger.spend("new", stamped(101), 1, NOW) is Spend.FRESH
        assert ledger.spend("late", stamped(50), 1, NOW) is Spend.STALE  # older than all that are held


def test_spend_of_a_noisy_identity_leaves_the_unspent_nonces_of_others_alone() -> None:
    """What it pushes out raises its own floor: a neighbour spends a nonce that is older than all that."""
    with small_ledger(per_identity=2, slots=8) as ledger:
        for number in range(1, 500):
            assert ledger.spend("noisy", stamped(number, number), 1, NOW) is Spend.FRESH
        assert ledger.spend("quiet", stamped(0), 1, NOW) is Spend.FRESH
        assert ledger.spend("noisy", stamped(0, 1000), 1, NOW) is Spend.STALE


def test_spend_of_an_identity_that_shares_a_floor_is_stale_as_far_as_that_and_nobody_elses() -> None:
    """Two whose tags are alike modulo the slots have one floor: what one loses makes as old nonces of both stale."""
    with small_ledger(per_identity=1) as ledger:
        twin, other = twin_of(ledger, "a"), identity_in(ledger, lambda _stripe: True)
        assert ledger._table.find_home(other)[1] % 16 != ledger._table.find_home("a")[1] % 16
        for step in (10, 20):
            assert ledger.spend("a", stamped(step, step), 1, NOW) is Spend.FRESH
        assert ledger.spend(twin, stamped(10, 100), 1, NOW) is Spend.STALE  # as old as what a lost
        assert ledger.spend(twin, stamped(11, 101), 1, NOW) is Spend.FRESH
        assert ledger.spend(other, stamped(10, 102), 1, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(10, 10), 1, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(20, 20), 2, NOW) is Spend.FRESH


def test_spend_that_pushes_out_less_than_the_floor_does_not_lower_it() -> None:
    """A floor only rises, whoever of those that share it loses a nonce."""
    with small_ledger(per_identity=1) as ledger:
        twin = twin_of(ledger, "a")
        assert ledger.spend(twin, stamped(10, 10), 1, NOW) is Spend.FRESH
        for step in (20, 30):
            assert ledger.spend("a", stamped(step, step), 1, NOW) is Spend.FRESH
        assert ledger.spend(twin, stamped(31, 31), 1, NOW) is Spend.FRESH
        assert ledger.spend(twin, stamped(10, 10), 1, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(20, 20), 1, NOW) is Spend.STALE


def test_spend_takes_the_room_of_nonces_past_their_lifetime() -> None:
    """They make room before anybody's live nonce does, and stay stale."""
    with small_ledger(slots=4, per_identity=2) as ledger:
        ledger.spend("live", stamped(301_000 - 1000, 9), 1, NOW + 300)
        for number in range(3):
            ledger.spend(f"old{number}", stamped(0, number), 1, NOW)
        for number in range(3):
            assert ledger.spend(f"new{number}", stamped(301_000, 10 + number), 1, NOW + 301) is Spend.FRESH
        assert ledger.spend("live", stamped(301_000 - 1000, 9), 2, NOW + 301) is Spend.FRESH
        for number in range(3):
            assert ledger.spend(f"old{number}", stamped(0, number), 2, NOW + 301) is Spend.STALE
        assert ledger.spend("other", stamped(301_000 - 999, 8), 1, NOW + 301) is Spend.FRESH  # costs "live" its nonce


def test_spend_of_what_made_room_after_its_lifetime_is_stale() -> None:
    """Nobody misses it, but should it come again it was spent; its twin in age does not open the door either."""
    with small_ledger(slots=1) as ledger:
        assert ledger.spend("a", stamped(0, 1), 1, NOW) is Spend.FRESH
        assert ledger.spend("b", stamped(0, 2), 1, NOW + 301) is Spend.FRESH
        assert ledger.spend("a", stamped(0, 1), 1, NOW + 301) is Spend.STALE


def test_spend_in_the_room_of_another_nonce_begins_with_nothing_spent() -> None:
    """Counters of the nonce that was there before say nothing about those of the new one."""
    with small_ledger(slots=1, window=20) as ledger:
        for nc in range(1, 21):
            assert ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH
        for nc in range(20, 0, -1):
            assert ledger.spend("b", stamped(1, 1), nc, NOW) is Spend.FRESH


def test_open_of_tags_that_match_across_two_finds_the_right_one() -> None:
    """The oldest nonce of an identity is its own, whatever bytes the tags around it have."""
    with small_ledger(per_identity=2) as ledger:
        table, stripe = ledger._table, stripe_of(ledger, "")
        mine, neighbour = 0x0101010101010101, 0x0101010101010100
        for stamp, (tag, expected) in enumerate(((neighbour, 0), (mine, 1), (mine, 2), (mine, 1)), start=1):
            nonce = stamped(stamp, stamp)
            slot = table.choose(stripe, tag, nonce)
            assert slot == expected
            table.open(table.place("", stripe, slot, nonce, c_void_p()), stripe, slot, tag, nonce, 1)


def test_spend_by_another_identity_is_denied_in_one_process_or_stripe(ledger: SharedLedger) -> None:
    """A nonce that was spent by one identity is nobody else's, should bindings ever fail."""
    ledger.spend("a", stamped(0), 1, NOW)
    assert ledger.spend("b", stamped(0), 2, NOW) is Spend.STALE
    neighbour = identity_in(ledger, lambda stripe: stripe == stripe_of(ledger, "a"))
    two = SharedLedger(os.dup(ledger._fd))
    assert two.spend(neighbour, stamped(0), 2, NOW) is Spend.STALE
    two.close()


def test_spend_by_another_identity_elsewhere_has_counters_of_its_own(ledger: SharedLedger) -> None:
    """Where a foreign nonce does not show, a counter is still spent once for the identity, and nobody's are burnt."""
    other = identity_in(ledger, lambda stripe: stripe != stripe_of(ledger, "a"))
    two = SharedLedger(os.dup(ledger._fd))
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    assert two.spend(other, stamped(0), 1, NOW) is Spend.FRESH
    assert two.spend(other, stamped(0), 1, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH
    two.close()


def test_spend_forgets_places_without_forgetting_counters(ledger: SharedLedger) -> None:
    """What a process remembers about where nonces lie saves time, and decides nothing."""
    for number in range(50):
        assert ledger.spend("a", stamped(0, number), 1, NOW) is Spend.FRESH
    ledger._places.clear()
    for number in range(50):
        assert ledger.spend("a", stamped(0, number), 1, NOW) is Spend.REPLAYED
        assert ledger.spend("a", stamped(0, number), 2, NOW) is Spend.FRESH


def test_places_are_bounded(ledger: SharedLedger) -> None:
    """However many nonces are spent, a process remembers the places of 16,384 at most."""
    for number in range(17_000):
        ledger.spend(f"u{number % 500}", stamped(number, number), 1, NOW)
        assert len(ledger._places) <= 16384
    assert len(ledger._places) == 17_000 - 16384


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("lives", range(1, 63))
def test_spend_killed_at_any_write_opens_nothing_that_was_spent(lives: int, is_late: bool) -> None:
    """Wherever a process dies, nothing that was fresh is fresh again, and all it takes to go on is a new nonce."""
    spends = [
        ("a", stamped(10, 1), 1),
        ("a", stamped(10, 1), 2),  # a step
        ("a", stamped(10, 1), 5),  # a jump
        ("a", stamped(10, 1), 4),  # back into the gap
        ("b", stamped(11, 2), 1),
        ("b", stamped(12, 3), 1),  # b's cap: pushes 11 out
        ("a", stamped(13, 4), 1),
        ("c", stamped(14, 5), 1),  # the stripe is full: pushes one of a's out
        ("a", stamped(15, 6), 7),
    ]
    fresh: list[tuple[str, bytes, int]] = []
    mortal = SharedLedger(small_table(per_identity=1, slots=2)[0])
    heir = SharedLedger(os.dup(mortal._fd))
    make_mortal(mortal, lives, is_late=is_late)

    def spend_all() -> None:
        fresh.extend(spend for spend in spends * 2 if mortal.spend(*spend, NOW) is Spend.FRESH)

    with pytest.raises(Killed):
        spend_all()
    for spend in fresh:
        assert heir.spend(*spend, NOW) is not Spend.FRESH
    for identity in "abc":
        assert heir.spend(identity, stamped(20, ord(identity)), 1, NOW) is Spend.FRESH
    heir.close()
    mortal.close()


@pytest.mark.parametrize("counters", [(1,), (1, 2), (1, 9), (1, 900)])
def test_spend_marks_what_it_writes_before_it_writes_anything(counters: tuple[int, ...]) -> None:
    """A first spend, a step and a jump write more than one number: whoever dies in between has said so before."""
    mortal = SharedLedger(small_table()[0])
    heir = SharedLedger(os.dup(mortal._fd))
    for nc in counters[:-1]:
        assert mortal.spend("a", stamped(0), nc, NOW) is Spend.FRESH
    make_mortal(mortal, 1, is_late=True)
    with pytest.raises(Killed):
        mortal.spend("a", stamped(0), counters[-1], NOW)
    is_first = len(counters) == 1  # only a first spend writes what is the stripe's
    assert heir._table.is_marked(stripe_of(heir, "a")) is is_first
    for _ in range(2):
        assert heir.spend("a", stamped(0), counters[-1], NOW) is Spend.STALE
    heir.close()
    mortal.close()


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_recovery_killed_at_any_write_is_made_again(lives: int, is_late: bool) -> None:
    """Somebody may die at cleaning up, too: nothing that was spent is fresh for the third who comes."""
    first = SharedLedger(small_table()[0])
    second, third = SharedLedger(os.dup(first._fd)), SharedLedger(os.dup(first._fd))
    assert first.spend("a", stamped(5_000), 7, NOW) is Spend.FRESH
    first._memory[mark_of(stripe_lock(first, "a"))] = 1
    make_mortal(second, lives, is_late=is_late)
    with pytest.raises(Killed):
        second.spend("a", stamped(5_000), 8, NOW)
    assert third.spend("a", stamped(5_000), 7, NOW) is Spend.STALE
    assert third.spend("a", stamped(5_001), 1, NOW) is Spend.FRESH
    for ledger in (first, second, third):
        ledger.close()


def test_spend_in_a_marked_stripe_makes_its_nonces_stale_and_no_others(ledger: SharedLedger) -> None:
    """Somebody was killed at writing it: what is in there, or is as old, needs a new challenge. One stripe of 256."""
    away = identity_in(ledger, lambda stripe: stripe != stripe_of(ledger, "a"))
    for identity in ("a", away):
        assert ledger.spend(identity, stamped(100, ord(identity[0])), 1, NOW) is Spend.FRESH
    ledger._memory[mark_of(stripe_lock(ledger, "a"))] = 1
    assert ledger.spend("a", stamped(100, 7), 1, NOW + 0.25) is Spend.STALE
    assert ledger.spend("a", stamped(100, ord("a")), 2, NOW) is Spend.STALE
    assert ledger.spend("a", stamped(250, 9), 1, NOW) is Spend.STALE  # minted before the mark was found
    assert ledger.spend("a", stamped(251, 8), 1, NOW) is Spend.FRESH
    assert ledger.spend(away, stamped(100, ord(away[0])), 2, NOW) is Spend.FRESH


def test_configure_takes_any_lifetime_and_refuses_other_bounds(ledger: SharedLedger) -> None:
    """The bounds are the table's; a reload that wants others has to be refused."""
    ledger.configure(1024, 256, 10.0)
    for window, per_identity in ((512, 256), (1024, 257)):
        with pytest.raises(ValueError, match="fixed"):
            ledger.configure(window, per_identity, 20.0)
    assert (ledger.window, ledger.per_identity) == (1024, 256)


def test_create_states_its_memory_and_uses_little_of_it_yet() -> None:
    """14.8 MiB for 65,536 nonces when all of it was used, 4 MiB before that. Its descriptor is not inherited."""
    fd = create()
    try:
        seen = os.fstat(fd)
        assert seen.st_size <= 14.8 * 2**20
        assert seen.st_blocks * 512 <= 4.6 * 2**20
        assert not os.get_inheritable(fd)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 4096)
    finally:
        os.close(fd)


@pytest.mark.parametrize("bounds", [(0, 64, 10), (1, 0, 10), (1, 1, 0)])
def test_create_with_a_bound_below_one_raises(bounds: tuple[int, int, int]) -> None:
    """A ledger that can hold nothing is a bug and is told."""
    with pytest.raises(ValueError, match="at least 1"):
        create(bounds[0], bounds[1], total=bounds[2])


@pytest.mark.parametrize("bounds", [(1, 1, 1), (1000, 100, 1000), (65536, 4096, 16384)])
def test_create_with_other_bounds_holds_what_was_asked_for(bounds: tuple[int, int, int]) -> None:
    """Any bounds that a configuration may have make a table that works."""
    window, per_identity, total = bounds
    ledger = SharedLedger(create(window, per_identity, total=total))
    assert (ledger.window, ledger.per_identity) == (window, per_identity)
    nonce = stamped(0)
    assert ledger.spend("a", nonce, 1, NOW) is Spend.FRESH
    assert ledger.spend("a", nonce, window + 1, NOW) is Spend.FRESH
    assert ledger.spend("a", nonce, 2, NOW) is (Spend.FRESH if window > 1 else Spend.REPLAYED)
    assert ledger.spend("a", nonce, 1, NOW) is Spend.TOO_OLD
    ledger.close()


def test_ledger_of_something_else_raises() -> None:
    """A descriptor that is no table, or one of another version or size, is never spent from."""
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="size could change"):
        SharedLedger(reader)
    os.close(reader)
    os.close(writer)
    unsealed = os.memfd_create("test")
    os.ftruncate(unsealed, 8192)
    with pytest.raises(ValueError, match="size could change"):
        SharedLedger(unsealed)
    os.close(unsealed)
    fd, geometry = small_table()
    for header, complaint in (
        (b"rhttpnc\x00" + geometry.header(bytes(16))[8:], "version"),
        (geometry.header(bytes(16)).replace(b"\x10", b"\x00", 1), "version"),
        (geometry.header(bytes(16)).replace(b"\x10", b"\xff\xff", 1)[:64], "by its size"),
    ):
        os.pwrite(fd, header, 0)
        with pytest.raises(ValueError, match=complaint):
            SharedLedger(fd)
    os.close(fd)


def test_spend_of_a_counter_beyond_32_bits_raises_and_writes_nothing(ledger: SharedLedger) -> None:
    """No parser lets one through; a caller that does has a bug, and the stripe does not pay for it."""
    with pytest.raises(ValueError, match="32 bits"):
        ledger.spend("a", stamped(0), 1 << 32, NOW)
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    with pytest.raises(ValueError, match="32 bits"):
        ledger.spend("a", stamped(0), 1 << 32, NOW)
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH


def test_spend_after_close_raises() -> None:
    """A closed ledger touches no memory that is not its own any more."""
    ledger = SharedLedger(create())
    ledger.spend("a", stamped(0), 1, NOW)
    ledger.close()
    for number in (0, 1):
        with pytest.raises(ValueError, match="closed"):
            ledger.spend("a", stamped(0, number), 2, NOW)
