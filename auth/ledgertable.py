"""The table of spent counters that processes share: where what lies in it, and what is done to it. Pure.

    header     one page: magic, bounds, the key of the hash that spreads identities over stripes
    stripe     pages: a cell, then arrays over its slots: cells, keys, tags, stamps, floors, rings

A *slot* holds one nonce: its key (the random part of its text), its identity's tag (64 bits of the keyed hash), its
stamp, a *cell* and a *ring* of ``window`` bits: the bit at ``counter % window`` says that it was spent. A cell is a
lock, a mark and the highest counter. What a slot gives up raises the *floor* of its identity: nonces up to that stamp
are stale. A floor is that of all identities of a stripe whose tags are equal modulo the number of slots.

All nonces of one identity lie in one stripe. The stripe's lock covers which nonces lie where, hence the bounds of an
identity; a slot's lock covers the counters of the nonce that lies there. Who needs both takes the stripe's first.

A stripe and a slot are marked before their first byte is written and unmarked behind the last. Who finds a mark knows
that somebody died in between: every nonce of such a stripe is stale, or the one nonce of such a slot.

Trust: every byte here was written by a process of this gateway. No locks are taken here: `auth.sharedledger` holds
them around every call but `find_home`.
"""

from __future__ import annotations

from ctypes import c_void_p
from dataclasses import dataclass
from hashlib import blake2s
from mmap import PAGESIZE, mmap
from struct import Struct
from sys import byteorder
from typing import Final

from auth.ledgerlocks import LOCK_BYTES
from auth.nonces import RANDOM_END, STAMP_END, Spend

KEY_BYTES: Final = 16  # both of the hash's key and of a slot's
MAX_COUNTER: Final = 0xFFFFFFFF

_MAGIC: Final = b"rhttpnc\x03"
_HEADER: Final = Struct("=8s4Q16s")
_CELL: Final = 64  # lock, mark (one byte), highest counter (4 bytes)
_MARK: Final = LOCK_BYTES
_HIGHEST: Final = LOCK_BYTES + 4
_SLOT: Final = _CELL + KEY_BYTES + 3 * 8  # all of a slot but its ring
_MIN_SLOTS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The bounds that a table is made for; they hold as long as it lives.

    A stripe has room for four identities that hold all they may, and never for fewer than 256 nonces: the larger it
    is, the better identities share it, and the longer a first spend searches.
    """

    window: int
    per_identity: int
    stripes: int
    slots: int

    @classmethod
    def of(cls, window: int, per_identity: int, total: int) -> Geometry:
        """For so many nonces, rounded down to whole stripes (but one at least).

        Raises:
            ValueError: a bound below 1.
        """
        if min(window, per_identity, total) < 1:
            raise ValueError("window, nonces of an identity and nonces in total are at least 1")
        slots = max(_MIN_SLOTS, 4 * per_identity)
        return cls(window=window, per_identity=per_identity, stripes=max(1, total // slots), slots=slots)

    @classmethod
    def read(cls, memory: mmap) -> tuple[Geometry, bytes]:
        """Geometry and hash key of a table.

        Raises:
            ValueError: it is none of ours, or its size does not fit its geometry.
        """
        if len(memory) < PAGESIZE:
            raise ValueError("too small for a table of nonces")
        magic, window, per_identity, stripes, slots, key = _HEADER.unpack(memory[: _HEADER.size])
        geometry = cls(window=window, per_identity=per_identity, stripes=stripes, slots=slots)
        if magic != _MAGIC or min(window, per_identity, stripes, slots) < 1:
            raise ValueError("not a table of nonces of this version")
        if geometry.table_bytes != len(memory):
            raise ValueError(f"a table of {geometry.table_bytes} bytes by its header, but of {len(memory)} by its size")
        return geometry, key

    def header(self, key: bytes) -> bytes:
        """The first bytes of a table; all the others are 0 at first, but for `cells`."""
        return _HEADER.pack(_MAGIC, self.window, self.per_identity, self.stripes, self.slots, key)

    def cells(self, lock: bytes) -> tuple[bytes, range]:
        """The cells of a stripe, all with such a lock, and all the places in the table where they belong."""
        starts = range(PAGESIZE, self.table_bytes, self.stripe_bytes)
        return lock.ljust(_CELL, b"\0") * (1 + self.slots), starts

    @property
    def ring_bytes(self) -> int:
        """Bytes of one nonce's bits."""
        return (self.window + 7) // 8

    @property
    def stripe_bytes(self) -> int:
        """Bytes of a stripe, whole pages."""
        return -(-(_CELL + self.slots * (_SLOT + self.ring_bytes)) // PAGESIZE) * PAGESIZE

    @property
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return PAGESIZE + self.stripes * self.stripe_bytes


class Place:
    """Where a nonce was seen last, and the lock of that slot; worth something only while its key still stands there.

    Plain slots: it is read for every request.
    """

    __slots__ = ("cell_at", "highest_at", "identity", "key", "key_at", "lock", "ring_at")

    def __init__(
        self, identity: str, key: bytes, lock: c_void_p, *, key_at: int, cell_at: int, highest_at: int, ring_at: int
    ) -> None:
        self.identity: Final = identity
        self.key: Final = key
        self.lock: Final = lock
        self.key_at: Final = key_at
        self.cell_at: Final = cell_at
        self.highest_at: Final = highest_at
        self.ring_at: Final = ring_at


class LedgerTable:
    """What is done to a table in memory that others may have mapped too.

    A stripe is named by where it begins. That is where its lock lies, and a slot's where its cell begins.

    Raises:
        ValueError: see `Geometry.read`.
    """

    def __init__(self, memory: mmap) -> None:
        geometry, self._hash_key = Geometry.read(memory)
        self.geometry: Final = geometry
        self._memory = memory
        self._halves = memoryview(memory).cast("I")  # the same bytes: an aligned number is read and written at once
        self._window = geometry.window
        self._per_identity = geometry.per_identity
        self._stripes = geometry.stripes
        self._slots = geometry.slots
        self._ring_bytes = geometry.ring_bytes
        self._stripe_bytes = geometry.stripe_bytes
        self._keys_at = _CELL + _CELL * geometry.slots
        self._tags_at = self._keys_at + KEY_BYTES * geometry.slots
        self._stamps_at = self._tags_at + 8 * geometry.slots
        self._floors_at = self._stamps_at + 8 * geometry.slots
        self._rings_at = self._floors_at + 8 * geometry.slots

    def close(self) -> None:
        """Let go of the memory, which its owner may then unmap."""
        self._halves.release()

    def find_home(self, identity: str) -> tuple[int, int]:
        """The identity's stripe, and its tag, which is never 0. Nobody without the key can choose either."""
        digest = blake2s(identity.encode(), key=self._hash_key, digest_size=16).digest()
        number = int.from_bytes(digest[8:], "little") % self._stripes
        return PAGESIZE + number * self._stripe_bytes, int.from_bytes(digest[:8], "little") or 1

    def find(self, stripe: int, nonce: bytes) -> int:
        """The slot of a nonce, or -1."""
        keys = self._memory[stripe + self._keys_at : stripe + self._tags_at]
        return _index(keys, nonce[STAMP_END:RANDOM_END])

    def is_owned(self, stripe: int, slot: int, tag: int, nonce: bytes) -> bool:
        """Whether the nonce in the slot is this identity's, and as old as it says."""
        owner = self._number(stripe + self._tags_at + 8 * slot)
        return owner == tag and self._number(stripe + self._stamps_at + 8 * slot) == _stamp(nonce)

    def cell_at(self, stripe: int, slot: int) -> int:
        """Where a slot's cell begins."""
        return stripe + _CELL + _CELL * slot

    def place(self, identity: str, stripe: int, slot: int, nonce: bytes, lock: c_void_p) -> Place:
        """Where a slot is, for `spend` and `open`."""
        return Place(
            identity,
            nonce[STAMP_END:RANDOM_END],
            lock,
            key_at=stripe + self._keys_at + KEY_BYTES * slot,
            cell_at=self.cell_at(stripe, slot),
            highest_at=(self.cell_at(stripe, slot) + _HIGHEST) // 4,
            ring_at=stripe + self._rings_at + self._ring_bytes * slot,
        )

    def spend(self, place: Place, nc: int) -> Spend | None:
        """Spend a counter of a nonce, whose slot is locked. None: the nonce is there no longer.

        It is stale for good where somebody died at writing the slot, until another nonce takes that.
        """
        memory, cell = self._memory, place.cell_at
        if memory[place.key_at : place.key_at + KEY_BYTES] != place.key:
            return None
        if memory[cell + _MARK]:
            return Spend.STALE
        ahead = nc - self._halves[place.highest_at]
        if -ahead >= self._window:
            return Spend.TOO_OLD
        ring = nc % self._window
        byte, bit = place.ring_at + (ring >> 3), 1 << (ring & 7)
        if ahead > 0:
            memory[cell + _MARK] = 1
            self._halves[place.highest_at] = nc
            if ahead > 1:
                self._step_over(place.ring_at, ring, ahead - 1)
            memory[byte] |= bit  # it stood for ``nc - window``, which falls out of the window now
            memory[cell + _MARK] = 0
        elif memory[byte] & bit:
            return Spend.REPLAYED
        else:
            memory[byte] |= bit  # one byte: there is no half of it to be found
        return Spend.FRESH

    def _step_over(self, start: int, ring: int, count: int) -> None:
        """Clear the bits of so many counters before this one: others, that they stood for, fall out of the window."""
        end = start + self._ring_bytes
        bits = 0
        if count < self._window:
            over = ((1 << count) - 1) << (ring - count) % self._window
            bits = int.from_bytes(self._memory[start:end], "little") & ~(over | over >> self._window)
        self._memory[start:end] = bits.to_bytes(self._ring_bytes, "little")

    def choose(self, stripe: int, tag: int, nonce: bytes) -> int:
        """The slot that a nonce which is not here may take, or -1: it is stale.

        It is a free one if there is any, else the oldest one's; but an identity that holds all it may gives its own
        oldest. What is pushed out, and what is as old, is stale for good.
        """
        stamp = _stamp(nonce)
        if stamp <= self._number(self._floor_at(stripe, tag)):
            return -1
        stamps = memoryview(self._memory[stripe + self._stamps_at : stripe + self._floors_at]).cast("Q").tolist()
        tags = self._memory[stripe + self._tags_at : stripe + self._stamps_at]
        slot = -1
        if tags.count(tag.to_bytes(8, byteorder)) >= self._per_identity:  # quick, and nearly always all
            mine = [at for at, owner in enumerate(memoryview(tags).cast("Q")) if owner == tag]
            if len(mine) >= self._per_identity:
                slot = min(mine, key=stamps.__getitem__)
        if slot < 0:
            slot = stamps.index(min(stamps))  # an empty one's is 0
        return slot if stamp >= stamps[slot] else -1  # less: the newcomer is the oldest itself

    def open(self, place: Place, stripe: int, slot: int, tag: int, nonce: bytes, nc: int) -> None:
        """Take a nonce in, at the place of the slot that was chosen, and spend its first counter; both are locked."""
        memory, cell = self._memory, place.cell_at
        tag_at, stamp_at = stripe + self._tags_at + 8 * slot, stripe + self._stamps_at + 8 * slot
        memory[stripe + _MARK] = 1
        memory[cell + _MARK] = 1  # some process may still know the nonce that was here, and asks for no stripe's lock
        floor_at = self._floor_at(stripe, self._number(tag_at))
        self._write(floor_at, max(self._number(floor_at), self._number(stamp_at)))
        self._write(tag_at, tag)
        self._write(stamp_at, _stamp(nonce))
        self._halves[place.highest_at] = nc
        bits = (1 << nc % self._window).to_bytes(self._ring_bytes, "little")
        memory[place.ring_at : place.ring_at + self._ring_bytes] = bits
        memory[place.key_at : place.key_at + KEY_BYTES] = place.key
        memory[cell + _MARK] = 0
        memory[stripe + _MARK] = 0

    def is_marked(self, stripe: int) -> bool:
        """Whether somebody died at writing the stripe."""
        return bool(self._memory[stripe + _MARK])

    def recover(self, stripe: int, now: int) -> None:
        """Empty a marked stripe: every nonce that was in it, or is as old as the youngest of those, is stale for good.

        It may be interrupted, too: the floors are there before anything goes, the mark goes last. No slot's lock is
        needed: who has one and saw the key before it went spends what was not spent yet, in a ring that stays as it is.

        Args:
            now: milliseconds; what was minted until then is stale as well.
        """
        memory = self._memory
        keys, stamps, floors = stripe + self._keys_at, stripe + self._stamps_at, stripe + self._floors_at
        end = stripe + self._rings_at
        floor = max(now, *memoryview(memory[stamps:end]).cast("Q"))
        memory[floors:end] = floor.to_bytes(8, byteorder) * self._slots
        memory[keys:floors] = bytes(floors - keys)
        memory[stripe + _MARK] = 0

    def __len__(self) -> int:
        """How many nonces lie in the table, those past their lifetime included. Reads all of it: for reports."""
        count = 0
        for stripe in range(PAGESIZE, len(self._memory), self._stripe_bytes):
            stamps = memoryview(self._memory[stripe + self._stamps_at : stripe + self._floors_at]).cast("Q").tolist()
            count += self._slots - stamps.count(0)
        return count

    def _floor_at(self, stripe: int, tag: int) -> int:
        return stripe + self._floors_at + 8 * (tag % self._slots)

    def _number(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 8], byteorder)

    def _write(self, at: int, number: int) -> None:
        self._memory[at : at + 8] = number.to_bytes(8, byteorder)


def _stamp(nonce: bytes) -> int:
    return int(nonce[:STAMP_END], 16)


def _index(keys: bytes, key: bytes) -> int:
    """Which of the keys it is, or -1."""
    at = keys.find(key)
    while at > 0 and at % KEY_BYTES:  # across two keys: by chance, or by a test
        at = keys.find(key, at + 1)
    return at // KEY_BYTES if at >= 0 else -1
