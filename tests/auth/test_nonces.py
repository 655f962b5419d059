"""Nonces: whom they are good for and how long, and that no counter is ever spent twice."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.nonces import ENTROPY_BYTES, NONCE_BYTES, NonceIssuer, NonceKey, NonceLedger, NonceStatus, Spend

KEY = NonceKey(b"k" * 32)
NOW = 1_700_000_000.25
LIFETIME = 300.0


def issuer(key: NonceKey = KEY, realm: bytes = b"r", **options: int) -> NonceIssuer:
    return NonceIssuer(key, realm, LIFETIME, **options)


def minted(by: NonceIssuer, *, now: float = NOW, entropy: bytes = b"e" * ENTROPY_BYTES) -> bytes:
    return by.mint(listener=b"tls", binding=b"alice", now=now, entropy=entropy)


def seen(
    by: NonceIssuer, nonce: bytes, *, listener: bytes = b"tls", binding: bytes = b"alice", now: float = NOW
) -> NonceStatus:
    return by.inspect(nonce, listener=listener, binding=binding, now=now)


def stamped(second: int, number: int = 0) -> bytes:
    """A nonce as the ledger sees it: only its stamp and that it is unique matter there."""
    return b"%012x" % int((NOW + second) * 1000) + b"%040d" % number


def test_mint_gives_a_nonce_that_fits_a_quoted_string() -> None:
    """52 characters, none of which needs escaping."""
    nonce = minted(issuer())
    assert len(nonce) == NONCE_BYTES
    assert nonce.replace(b"-", b"").replace(b"_", b"").isalnum()


def test_mint_with_other_entropy_or_time_gives_another_nonce() -> None:
    """No two challenges have the same nonce as long as the entropy is not used twice."""
    by = issuer()
    assert len({minted(by), minted(by, entropy=b"f" * ENTROPY_BYTES), minted(by, now=NOW + 1)}) == 3


def test_mint_with_too_little_entropy_raises() -> None:
    """A caller that forgot the entropy is a bug and is told."""
    with pytest.raises(ValueError, match="entropy"):
        minted(issuer(), entropy=b"e" * (ENTROPY_BYTES - 1))


@given(secret=st.binary(min_size=32, max_size=160), message=st.binary(max_size=300))
def test_mac_is_hmac_sha256_cut_short(secret: bytes, message: bytes) -> None:
    """RFC 2104 with keys below, at and above the block size, as the standard library has it."""
    assert NonceKey(secret).mac(message) == urlsafe_b64encode(hmac.digest(secret, message, "sha256")[:18])


def test_key_too_short_raises_and_repr_hides_it() -> None:
    """Under 32 bytes is no key; a key never shows itself."""
    with pytest.raises(ValueError, match="32 bytes"):
        NonceKey(b"k" * 31)
    assert repr(KEY) == "<NonceKey>"


@pytest.mark.parametrize("is_known", [False, True])
def test_inspect_age_decides_between_current_and_stale(is_known: bool) -> None:
    """Current up to the lifetime, stale from then on, whether or not the verdict was remembered."""
    by = issuer()
    nonce = minted(by)
    for now, status in (
        (NOW, NonceStatus.CURRENT),
        (NOW + LIFETIME - 0.01, NonceStatus.CURRENT),
        (NOW + LIFETIME, NonceStatus.STALE),
        (NOW - 0.25, NonceStatus.CURRENT),  # clocks that are read four times a second are behind the one that minted
    ):
        asked = by if is_known else issuer()
        if is_known:
            seen(by, nonce)
        assert seen(asked, nonce, now=now) is status


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize(
    "foreign", [{"listener": b"dispatch"}, {"binding": b"mallory"}, {"listener": b"tlsa", "binding": b"lice"}]
)
def test_inspect_for_another_listener_or_certificate_is_forged(foreign: dict[str, bytes], is_known: bool) -> None:
    """A nonce is worth nothing elsewhere, even right after its owner used it."""
    by = issuer()
    nonce = minted(by)
    if is_known:
        assert seen(by, nonce) is NonceStatus.CURRENT
    assert seen(by, nonce, **foreign) is NonceStatus.FORGED
    assert seen(by, nonce) is NonceStatus.CURRENT


def test_inspect_of_another_realm_or_key_is_forged() -> None:
    """Another realm's nonce, or one from before a restart, is not ours."""
    nonce = minted(issuer())
    assert seen(issuer(realm=b"other"), nonce) is NonceStatus.FORGED
    assert seen(issuer(NonceKey(b"x" * 32)), nonce) is NonceStatus.FORGED


def test_inspect_of_another_process_with_the_key_is_current() -> None:
    """Processes that share the key need to share nothing else to recognise a nonce."""
    assert seen(issuer(NonceKey(b"k" * 32)), minted(issuer())) is NonceStatus.CURRENT


@settings(deadline=None)
@given(st.integers(0, NONCE_BYTES - 1), st.integers(0, 255))
def test_inspect_of_one_changed_byte_is_forged(at: int, byte: int) -> None:
    """There is one spelling of a nonce: changing any byte, its case included, makes it forged."""
    by = issuer()
    nonce = bytearray(minted(by))
    changed = nonce[at] != byte
    nonce[at] = byte
    assert (seen(by, bytes(nonce)) is NonceStatus.FORGED) is changed


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_inspect_of_any_bytes_never_raises(nonce: bytes) -> None:
    """Whatever a peer sends as a nonce is forged."""
    assert seen(issuer(), nonce) is NonceStatus.FORGED
    assert seen(issuer(), minted(issuer()) + nonce + b"x") is NonceStatus.FORGED


def test_inspect_remembers_a_bounded_number_of_verdicts() -> None:
    """However many nonces come, memory stays bounded and the answers right."""
    by = issuer(max_verdicts=4)
    nonces = [minted(by, entropy=b"%012d" % number) for number in range(20)]
    for nonce in nonces + nonces:
        assert seen(by, nonce) is NonceStatus.CURRENT
        assert len(by._verdicts) <= 4


# --- The ledger ------------------------------------------------------------------------------------------------------


def test_spend_twice_is_a_replay() -> None:
    """The same counter is fresh once."""
    ledger = NonceLedger()
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.REPLAYED


def test_spend_out_of_order_within_the_window_is_fresh_once() -> None:
    """Connections that share a nonce may overtake each other by up to the window."""
    ledger = NonceLedger(window=8)
    assert ledger.spend("a", stamped(0), 10, NOW) is Spend.FRESH
    for nc in (3, 9, 5):
        assert ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH
        assert ledger.spend("a", stamped(0), nc, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.TOO_OLD
    assert ledger.spend("a", stamped(0), 11, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 3, NOW) is Spend.TOO_OLD
    assert ledger.spend("a", stamped(0), 4, NOW) is Spend.FRESH


def test_spend_of_a_far_jump_forgets_the_window() -> None:
    """A jump past the window costs no more than a step, and everything below it is too old."""
    ledger = NonceLedger()
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 1, NOW) is Spend.TOO_OLD
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF, NOW) is Spend.REPLAYED
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF - 1023, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 0xFFFFFFFF - 1024, NOW) is Spend.TOO_OLD


def test_spend_beyond_the_cap_of_an_identity_makes_its_oldest_nonce_stale() -> None:
    """The 65th live nonce costs the first its life; nobody else notices."""
    ledger = NonceLedger(per_identity=64)
    assert ledger.spend("b", stamped(0, 999), 1, NOW) is Spend.FRESH
    for number in range(65):
        assert ledger.spend("a", stamped(number), 1, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(0), 2, NOW) is Spend.STALE
    assert ledger.spend("a", stamped(1), 2, NOW) is Spend.FRESH
    assert ledger.spend("a", stamped(64), 2, NOW) is Spend.FRESH
    assert ledger.spend("b", stamped(0, 999), 2, NOW) is Spend.FRESH
    assert ledger.spend("c", stamped(0, 7), 1, NOW) is Spend.FRESH
    assert len(ledger) == 66


def test_spend_of_a_forgotten_nonce_is_stale_for_ever() -> None:
    """What the cap pushed out cannot come back as fresh, nor can an older nonce that was never spent."""
    ledger = NonceLedger(per_identity=2)
    for number in (1, 2, 3):
        ledger.spend("a", stamped(number), 1, NOW)
    for _ in range(3):
        assert ledger.spend("a", stamped(1), 1, NOW) is Spend.STALE
        assert ledger.spend("a", stamped(0), 1, NOW) is Spend.STALE
    assert ledger.spend("a", stamped(4), 1, NOW) is Spend.FRESH


def test_spend_on_a_full_ledger_refuses_the_oldest_and_nobody_else() -> None:
    """However many identities crowd in, a fresh nonce works and memory stays bounded."""
    ledger = NonceLedger(total=10)
    for number in range(100):
        assert ledger.spend(f"u{number}", stamped(number), 1, NOW) is Spend.FRESH
        assert len(ledger) <= 10
    assert len(ledger._accounts) <= 10
    assert ledger.spend("u0", stamped(0), 1, NOW) is Spend.STALE
    assert ledger.spend("u89", stamped(89), 1, NOW) is Spend.STALE
    assert ledger.spend("u90", stamped(90), 2, NOW) is Spend.FRESH
    assert ledger.spend("new", stamped(101), 1, NOW) is Spend.FRESH


def test_spend_sweeps_what_expired() -> None:
    """Nonces and accounts leave when they are past their lifetime, without a timer."""
    ledger = NonceLedger(lifetime=LIFETIME)
    for number in range(30):
        ledger.spend(f"u{number}", stamped(0, number), 1, NOW)
    for number in range(20):
        assert ledger.spend("late", stamped(301, number), 1, NOW + 301) is Spend.FRESH
    assert len(ledger) == 20
    assert set(ledger._accounts) == {"late"}


def test_spend_by_another_identity_is_denied() -> None:
    """A nonce that was spent by one identity is nobody else's, should bindings ever fail."""
    ledger = NonceLedger()
    ledger.spend("a", stamped(0), 1, NOW)
    assert ledger.spend("b", stamped(0), 2, NOW) is Spend.STALE


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8), st.integers(1, 12)), max_size=80),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 6),
)
def test_spend_never_gives_fresh_twice_whatever_is_forgotten(
    spends: list[tuple[str, int, int]], window: int, per_identity: int, total: int
) -> None:
    """No (identity, nonce, counter) is fresh twice, whatever the limits push out, and the bounds hold at every step."""
    ledger = NonceLedger(window=window, per_identity=per_identity, total=total)
    fresh: set[tuple[str, int, int]] = set()
    for step, (identity, number, nc) in enumerate(spends):
        nonce = stamped(number // 2, ord(identity) * 10 + number)  # pairs of nonces share their stamp
        if ledger.spend(identity, nonce, nc, NOW + step) is Spend.FRESH:
            assert (identity, number, nc) not in fresh
            fresh.add((identity, number, nc))
        assert len(ledger) <= total
        assert all(0 < len(account.nonces) <= per_identity for account in ledger._accounts.values())
        assert sum(len(account.nonces) for account in ledger._accounts.values()) == len(ledger)
    youngest = stamped(10_000)
    assert ledger.spend("a", youngest, 1, NOW + len(spends)) is Spend.FRESH


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), max_size=30),
    st.integers(1, 16),
    st.lists(st.integers(1, 40), max_size=30),
    st.integers(1, 48),
)
def test_spend_takes_no_counter_twice_whatever_the_window_becomes(
    before: list[int], window: int, after: list[int], other: int
) -> None:
    """A reload may widen the window: counters that had left it stay spent."""
    ledger = NonceLedger(window=window)
    taken = [nc for nc in before if ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH]
    ledger.configure(other, 256, 300.0)
    taken += [nc for nc in after if ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH]
    assert len(taken) == len(set(taken))


def test_spend_after_the_window_was_widened_takes_what_comes_next() -> None:
    """Widening refuses nothing that is new."""
    ledger = NonceLedger(window=4)
    for nc in (1, 2, 9):
        assert ledger.spend("a", stamped(0), nc, NOW) is Spend.FRESH
    ledger.configure(64, 256, 300.0)
    told = [ledger.spend("a", stamped(0), nc, NOW) for nc in (8, 7, 6, 5, 2, 9, 10, 12, 11)]
    assert [spend is Spend.FRESH for spend in told] == [True, True, True, False, False, False, True, True, True]


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 16))
def test_spend_agrees_with_a_set_of_everything_spent(counters: list[int], window: int) -> None:
    """The window in bits says what a plain set and the highest counter would say."""
    ledger = NonceLedger(window=window)
    spent: set[int] = set()
    for nc in counters:
        highest = max(spent, default=nc)
        right = Spend.TOO_OLD if highest - nc >= window else Spend.REPLAYED if nc in spent else Spend.FRESH
        assert ledger.spend("a", stamped(0), nc, NOW) is right
        if right is Spend.FRESH:
            spent.add(nc)
