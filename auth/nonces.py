"""Nonces: minted without memory, spent exactly once per counter. Pure: time and entropy are arguments.

    nonce  = stamp random mac                     52 bytes
    stamp  = 12 hex digits, milliseconds          sorts as text
    random = 16 characters of base64url           96 bits
    mac    = 24 characters of base64url           144 bits of HMAC-SHA-256

The MAC covers the text of stamp and random, the listener's purpose, the realm and the fingerprint of the peer's
certificate, so a nonce has one spelling and is worth nothing anywhere else.

``now`` is in seconds of one clock for all processes that share a key, and that clock never goes back: what was
forgotten is stale up to a stamp, so a stamp of the future would lock its owner out until then. No time of day will do.

Trust: untrusted client. A challenge costs no memory; a spend is only asked for after the response verified.
"""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from collections import OrderedDict
from enum import Enum
from hashlib import sha256
from typing import Final, Protocol

from rhttp.memo import Memo

ENTROPY_BYTES: Final = 12
NONCE_BYTES: Final = 52
STAMP_END: Final = 12
RANDOM_END: Final = 28

_MAC_BYTES: Final = 18
_BLOCK: Final = 64
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_MAX_VERDICTS: Final = 16384  # about 5 MiB; an HMAC is cheap, so losing them all is


def _base64url(data: bytes) -> bytes:
    """RFC 4648 section 5, for multiples of three bytes; the library's goes by way of two functions more."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE)


class NonceKey:
    """The MAC key of a gateway's life: made at its start, shared by its processes, never stored.

    Raises:
        ValueError: fewer than 32 bytes.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("a nonce key has at least 32 bytes")
        # RFC 2104: what both hashes begin with is the same for every message, so it is hashed once.
        block = (secret if len(secret) <= _BLOCK else sha256(secret).digest()).ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return "<NonceKey>"

    def mac(self, message: bytes) -> bytes:
        """HMAC-SHA-256 of the message, cut to 144 bits, as 24 characters of base64url."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return _base64url(outer.digest()[:_MAC_BYTES])


class NonceStatus(Enum):
    """What a nonce is worth here and now."""

    CURRENT = "current"
    STALE = "stale"  # ours, too old
    FORGED = "forged"  # not ours, or ours for another listener, realm or certificate, or from before a restart


class NonceIssuer:
    """Mints and recognises nonces of one realm.

    Args:
        lifetime: seconds from minting until a nonce is stale.
        max_verdicts: how many MAC verdicts to remember; beyond it all are forgotten, which costs time only.
    """

    def __init__(
        self, key: NonceKey, realm: bytes, lifetime: float = 300.0, *, max_verdicts: int = _MAX_VERDICTS
    ) -> None:
        self._key = key
        self._realm = realm
        self._lifetime = lifetime
        self._verdicts: Memo[bytes, tuple[bytes, bytes, float]] = Memo(max_verdicts)

    def mint(self, *, listener: bytes, binding: bytes, now: float, entropy: bytes) -> bytes:
        """A new nonce for a peer on a listener.

        Args:
            listener: the listener's purpose.
            binding: the fingerprint of the peer's certificate.
            entropy: at least 12 unpredictable bytes, never used before.

        Raises:
            ValueError: too little entropy.
        """
        if len(entropy) < ENTROPY_BYTES:
            raise ValueError(f"a nonce needs {ENTROPY_BYTES} bytes of entropy")
        signed = b"%012x%b" % (int(now * 1000), _base64url(entropy[:ENTROPY_BYTES]))
        return signed + self._mac(signed, listener, binding)

    def inspect(self, nonce: bytes, *, listener: bytes, binding: bytes, now: float) -> NonceStatus:
        """Whether the nonce was minted here for this listener and peer, and is young enough. Total: any bytes do.

        It does not look at counters: that is the ledger's.
        """
        known = self._verdicts.get(nonce)
        if known is not None and known[0] == binding and known[1] == listener:
            minted = known[2]
        else:
            # compare_digest first and alone decides; the stamp is only read from text that we signed.
            if len(nonce) != NONCE_BYTES or not hmac.compare_digest(
                nonce[RANDOM_END:], self._mac(nonce[:RANDOM_END], listener, binding)
            ):
                return NonceStatus.FORGED
            minted = int(nonce[:STAMP_END], 16) / 1000
            self._verdicts.remember(nonce, (binding, listener, minted))
        if now - minted < self._lifetime:
            return NonceStatus.CURRENT
        self._verdicts.pop(nonce, None)
        return NonceStatus.STALE

    def _mac(self, signed: bytes, listener: bytes, binding: bytes) -> bytes:
        # Lengths in front: no two (listener, realm, binding) give the same message.
        parts = (signed, listener, self._realm, binding)
        return self._key.mac(b"".join(b"%08x%b" % (len(part), part) for part in parts))


class Spend(Enum):
    """What became of a counter that a verified response brought."""

    FRESH = "fresh"
    REPLAYED = "replayed"
    TOO_OLD = "too_old"  # below the window: it may have been spent, so it counts as spent
    STALE = "stale"  # the ledger had to forget nonces of that age
    BUSY = "busy"  # nothing was spent: somebody else holds the counters for longer than a spend may wait


class Ledger(Protocol):
    """Where counters are spent. One for all processes of a gateway; a spend is atomic."""

    def spend(self, identity: str, nonce: bytes, nc: int, now: float) -> Spend:
        """Spend ``nc`` of the nonce. Only to be asked when the MAC *and* the response verified."""
        ...


class _Account:
    """What one identity holds: its nonces, first spent first, and the youngest stamp that it had to forget."""

    __slots__ = ("floor", "nonces")

    def __init__(self) -> None:
        self.nonces: dict[bytes, None] = {}
        self.floor = b""


_ALL: Final = -1
"""Every bit is set."""


class _Entry:
    """Counters of one nonce: bit i of ``seen`` says that ``highest - i`` counts as spent.

    The bits of all that left the window are set, too, so they stay spent when the window is widened. `_ALL` is what a
    peer that counts 1, 2, 3 has, and nothing needs to be shifted for it.
    """

    __slots__ = ("highest", "identity", "seen")

    def __init__(self, identity: str, highest: int, seen: int) -> None:
        self.identity = identity
        self.highest = highest
        self.seen = seen


class NonceLedger:
    """The ledger of one process, bounded three ways: counters a nonce, nonces an identity, nonces in total.

    A nonce that has to go makes itself and every nonce minted before it that was never spent stale, so nothing
    that was forgotten can be spent again: a floor stamp stands for the forgotten ones. Nobody is ever refused: a
    fresh challenge always works: the clock never goes back, so its stamp is above every floor.

    Args:
        window: counters a nonce that may arrive out of order.
        per_identity: live nonces an identity.
        total: live nonces altogether; 0.4 to 0.6 KiB each.
        lifetime: seconds after which a nonce may be swept. Shorter than the issuer's is safe: swept nonces are stale.
    """

    def __init__(
        self, window: int = 1024, per_identity: int = 256, *, total: int = 65536, lifetime: float = 300.0
    ) -> None:
        self._window = window
        self._left = -1 << window
        """Bits of the counters that left the window."""
        self._per_identity = per_identity
        self._total = total
        self._lifetime = lifetime
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._accounts: dict[str, _Account] = {}
        self._floor = b""

    def configure(self, window: int, per_identity: int, lifetime: float) -> None:
        """Go on with other bounds; what was spent stays spent."""
        self._window = window
        self._left = -1 << window
        self._per_identity = per_identity
        self._lifetime = lifetime

    def __len__(self) -> int:
        """How many nonces are held."""
        return len(self._entries)

    def spend(self, identity: str, nonce: bytes, nc: int, now: float) -> Spend:
        """See `Ledger.spend`. Constant time but for a first spend, which may sweep a few old nonces."""
        entry = self._entries.get(nonce)
        if entry is None:
            return self._open(identity, nonce, nc, now)
        if entry.identity != identity:
            return Spend.STALE  # cannot happen while nonces are bound to certificates; deny if it does
        ahead = nc - entry.highest
        if ahead > 0:
            if ahead != 1 or entry.seen != _ALL:
                entry.seen = entry.seen << ahead | self._left | 1 if ahead < self._window else self._left | 1
            entry.highest = nc
            return Spend.FRESH
        if -ahead >= self._window:
            return Spend.TOO_OLD
        bit = 1 << -ahead
        if entry.seen & bit:
            return Spend.REPLAYED
        entry.seen |= bit
        return Spend.FRESH

    def _open(self, identity: str, nonce: bytes, nc: int, now: float) -> Spend:
        self._sweep(now)
        stamp = nonce[:STAMP_END]
        account = self._accounts.get(identity)
        if stamp <= self._floor or (account is not None and stamp <= account.floor):
            return Spend.STALE
        if account is None:
            account = self._accounts[identity] = _Account()
        account.nonces[nonce] = None
        self._entries[nonce] = _Entry(identity, nc, _ALL if nc == 1 else self._left | 1)
        if len(account.nonces) > self._per_identity:
            self._forget(next(iter(account.nonces)))
        if len(self._entries) > self._total:
            self._forget(next(iter(self._entries)))
        return Spend.FRESH

    def _sweep(self, now: float) -> None:
        # Three a first spend: more leave than come. First-spent order is near enough to age, since a nonce is spent
        # within its lifetime; one that stays a little longer costs only room.
        oldest_alive = b"%012x" % max(0, int((now - self._lifetime) * 1000))
        for _ in range(3):
            nonce = next(iter(self._entries), None)
            if nonce is None or nonce[:STAMP_END] >= oldest_alive:
                return
            self._forget(nonce)

    def _forget(self, nonce: bytes) -> None:
        entry = self._entries.pop(nonce)
        account = self._accounts[entry.identity]
        del account.nonces[nonce]
        account.floor = max(account.floor, nonce[:STAMP_END])
        if not account.nonces:
            # Accounts live no longer than their nonces, so the floor becomes everyone's. It is about as old as the
            # oldest nonce held: at worst a peer that was slow to spend its nonce answers one more challenge.
            del self._accounts[entry.identity]
            self._floor = max(self._floor, account.floor)
