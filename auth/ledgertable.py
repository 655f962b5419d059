"""The table of spent counters that processes share: where what lies in it, and what is done to it. Pure.

    header     one page: magic, geometry, the key of the hash that spreads identities over stripes
    stripe     pages: mark, floor, then arrays over its slots: keys, tags, stamps, floors of identities, cells, rings

A *slot* holds one nonce: its key (the random part of its text), its identity's tag (64 bits of the keyed hash), its
stamp, a *cell* and a *ring* of ``window`` bits: the bit at ``counter % window`` says that it was spent. A cell is a
lock, a mark and the highest counter; the stripe's own lock lies in one cell more.

All nonces of one identity lie in one stripe. Its lock covers which nonces lie where, hence the bounds of an identity; a
slot's lock covers the counters of the nonce that lies there. Who needs both takes the stripe's first.

A stripe and a slot are marked before their first byte is written and unmarked behind the last. Who finds a mark knows
that somebody died in between: every nonce of such a stripe is stale, or the one nonce of such a slot.

Trust: every byte here was written by a process of this gateway. No locks are taken here: `auth.sharedledger` holds
them around every call but `find_home`.
"""

from __future__ import annotations

import struct
import sys
from ctypes import c_void_p
from dataclasses import dataclass
from hashlib import blake2s
from mmap import PAGESIZE, mmap
from typing import Final

from auth.ledgerlocks import LOCK_BYTES
from auth.nonces import Spend

KEY_BYTES: Final = 16  # both of the hash's key and of a slot's
STAMP_TEXT: Final = 12
KEY_END: Final = 28

_MAGIC: Final = b"rhttpnc\x02"
_HEADER: Final = struct.Struct("=8s5Q16s")
_FRONT: Final = 64  # of a stripe: mark (one byte), floor (at 8)
_CELL: Final = 64  # of a slot: lock, mark (one byte), highest counter (4 bytes)
_CELL_MARK: Final = LOCK_BYTES
_CELL_HIGHEST: Final = LOCK_BYTES + 4
_MIN_SLOTS: Final = 256
_MAX_COUNTER: Final = 0xFFFFFFFF


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
    floors: int

    @classmethod
    def of(cls, window: int, per_identity: int, total: int) -> Geometry:
        """For so many nonces, rounded down to whole stripes (but one at least).

        Raises:
            ValueError: a bound below 1.
        """
        if min(window, per_identity, total) < 1:
            raise ValueError("window, nonces of an identity and nonces in total are at least 1")
        slots = max(_MIN_SLOTS, 4 * per_identity)
        return cls(
            window=window, per_identity=per_identity, stripes=max(1, total // slots), slots=slots, floors=slots // 4
        )

    @property
    def bit_bytes(self) -> int:
        """Bytes of one nonce's ring."""
        return (self.window + 7) // 8

    @property
    def stripe_bytes(self) -> int:
        """Bytes of a stripe, whole pages."""
        return _pages(self.cells_at + (self.slots + 1) * _CELL + self.slots * self.bit_bytes)

    @property
    def cells_at(self) -> int:
        """Where in a stripe its cells begin."""
        behind = _FRONT + self.slots * (KEY_BYTES + 8 + 8) + self.floors * 16
        return -(-behind // _CELL) * _CELL

    @property
    def table_bytes(self) -> int:
        """Bytes of the table."""
        return PAGESIZE + self.stripes * self.stripe_bytes

    def header(self, key: bytes) -> bytes:
        """The first bytes of a table; all the others are 0 at first, but for `cells`."""
        return _HEADER.pack(_MAGIC, self.window, self.per_identity, self.stripes, self.slots, self.floors, key)

    def cells(self, lock: bytes) -> tuple[bytes, list[int]]:
        """The cells of a stripe, all with such a lock, and all the places in the table where they belong."""
        starts = [PAGESIZE + stripe * self.stripe_bytes + self.cells_at for stripe in range(self.stripes)]
        return lock.ljust(_CELL, b"\0") * (self.slots + 1), starts


def _pages(size: int) -> int:
    return -(-size // PAGESIZE) * PAGESIZE


def read_header(memory: mmap) -> tuple[Geometry, bytes]:
    """Geometry and hash key of a table.

    Raises:
        ValueError: it is none of ours, or its size does not fit its geometry.
    """
    if len(memory) < PAGESIZE:
        raise ValueError("too small for a table of nonces")
    magic, window, per_identity, stripes, slots, floors, key = _HEADER.unpack(memory[: _HEADER.size])
    geometry = Geometry(window=window, per_identity=per_identity, stripes=stripes, slots=slots, floors=floors)
    if magic != _MAGIC or min(window, per_identity, stripes, slots, floors) < 1:
        raise ValueError("not a table of nonces of this version")
    if geometry.table_bytes != len(memory):
        raise ValueError(f"a table of {geometry.table_bytes} bytes by its header, but of {len(memory)} by its size")
    return geometry, key


class Place:
    """Where a nonce was seen last, and the lock of that slot; worth something only while its key still stands there.

    Plain slots: it is read for every request.
    """

    __slots__ = ("bits_at", "highest_at", "identity", "key", "key_at", "key_end", "lock", "mark_at")

    def __init__(
        self, identity: str, key: bytes, lock: c_void_p, *, mark_at: int, key_at: int, highest_at: int, bits_at: int
    ) -> None:
        self.identity: Final = identity
        self.key: Final = key
        self.lock: Final = lock
        self.mark_at: Final = mark_at
        self.key_at: Final = key_at
        self.key_end: Final = key_at + KEY_BYTES
        self.highest_at: Final = highest_at
        self.bits_at: Final = bits_at


class LedgerTable:
    """What is done to the stripes of a table in memory that others may have mapped too.

    Raises:
        ValueError: see `read_header`.
    """

    def __init__(self, memory: mmap) -> None:
        geometry, self._hash_key = read_header(memory)
        self.geometry: Final = geometry
        self._memory = memory
        # Two views of the same bytes; an aligned number in them is written with one store.
        self._words = memoryview(memory).cast("Q")
        self._halves = memoryview(memory).cast("I")
        self._window = geometry.window
        self._per_identity = geometry.per_identity
        self._stripes = geometry.stripes
        self._slots = geometry.slots
        self._floors = geometry.floors
        self._bit_bytes = geometry.bit_bytes
        self._stripe_bytes = geometry.stripe_bytes
        self._tags_at = _FRONT + KEY_BYTES * geometry.slots
        self._stamps_at = self._tags_at + 8 * geometry.slots
        self._floors_at = self._stamps_at + 8 * geometry.slots
        self._floors_end = self._floors_at + 16 * geometry.floors
        self._cells_at = geometry.cells_at
        self._bits_at = self._cells_at + _CELL * (geometry.slots + 1)

    def close(self) -> None:
        """Let go of the memory, which its owner may then unmap."""
        self._words.release()
        self._halves.release()

    def find_home(self, identity: str) -> tuple[int, int]:
        """The identity's stripe, and its tag, which is never 0. Nobody without the key can choose either."""
        digest = blake2s(identity.encode(), key=self._hash_key, digest_size=16).digest()
        return int.from_bytes(digest[8:], "little") % self._stripes, int.from_bytes(digest[:8], "little") or 1

    def find(self, stripe: int, key: bytes) -> int:
        """The slot of a nonce, or -1."""
        start = self._base(stripe) + _FRONT
        keys = self._memory[start : start + KEY_BYTES * self._slots]
        at = keys.find(key)
        while at > 0 and at % KEY_BYTES:  # across two keys: by chance, or by a test
            at = keys.find(key, at + 1)
        return at // KEY_BYTES if at >= 0 else -1

    def is_owned(self, stripe: int, slot: int, tag: int, stamp: int) -> bool:
        """Whether the nonce in the slot is this identity's and of this age."""
        base = self._base(stripe)
        return (
            self._words[(base + self._tags_at) // 8 + slot] == tag
            and self._words[(base + self._stamps_at) // 8 + slot] == stamp
        )

    def stripe_lock_at(self, stripe: int) -> int:
        """Where a stripe's lock lies."""
        return self.lock_at(stripe, self._slots)

    def lock_at(self, stripe: int, slot: int) -> int:
        """Where a slot's lock lies."""
        return self._base(stripe) + self._cells_at + _CELL * slot

    def place(self, identity: str, stripe: int, slot: int, key: bytes, lock: c_void_p) -> Place:
        """Where a slot is, for `spend` and `open`."""
        base, cell = self._base(stripe), self.lock_at(stripe, slot)
        return Place(
            identity,
            key,
            lock,
            mark_at=cell + _CELL_MARK,
            key_at=base + _FRONT + KEY_BYTES * slot,
            highest_at=(cell + _CELL_HIGHEST) // 4,
            bits_at=base + self._bits_at + self._bit_bytes * slot,
        )

    def spend(self, place: Place, nc: int) -> Spend | None:
        """Spend a counter of a nonce, whose slot is locked. None: the nonce is there no longer.

        It is stale for good where somebody died at writing the slot, until another nonce takes that.
        """
        memory = self._memory
        if memory[place.key_at : place.key_end] != place.key:
            return None
        if memory[place.mark_at]:
            return Spend.STALE
        ahead = nc - self._halves[place.highest_at]
        ring = nc % self._window
        at = place.bits_at + (ring >> 3)
        bit = 1 << (ring & 7)
        if ahead == 1:
            # The bit stood for ``nc - window``, which falls out of the window now.
            memory[place.mark_at] = 1
            self._halves[place.highest_at] = nc
            memory[at] |= bit
            memory[place.mark_at] = 0
            return Spend.FRESH
        if ahead > 1:
            self._jump(place, nc, ahead)
            return Spend.FRESH
        if -ahead >= self._window:
            return Spend.TOO_OLD
        if memory[at] & bit:
            return Spend.REPLAYED
        memory[at] |= bit  # one byte: there is no half of it to be found
        return Spend.FRESH

    def _jump(self, place: Place, nc: int, ahead: int) -> None:
        """Step over counters: their bits stood for others, that fall out of the window now, and have to be cleared."""
        if nc > _MAX_COUNTER:
            raise ValueError("a counter has 32 bits")
        start, end = place.bits_at, place.bits_at + self._bit_bytes
        window = self._window
        bits = 0
        if ahead < window:
            bits = int.from_bytes(self._memory[start:end], "little")
            first = (nc - ahead + 1) % window
            beyond = first + ahead - 1 - window  # how far the stretch goes past the ring's end
            if beyond <= 0:
                bits &= ~(((1 << (ahead - 1)) - 1) << first)
            else:
                bits = bits >> beyond << beyond & (1 << first) - 1
        bits |= 1 << nc % window
        self._memory[place.mark_at] = 1
        self._halves[place.highest_at] = nc
        self._memory[start:end] = bits.to_bytes(self._bit_bytes, "little")
        self._memory[place.mark_at] = 0

    def choose(self, stripe: int, tag: int, stamp: int) -> int:
        """The slot that a nonce which is not here may take, or -1: it is stale.

        It is a free one if there is any, else the oldest one's (one past its lifetime, if there is any); but an
        identity that holds all it may gives its own oldest. What is pushed out, and what is as old, is stale for good.

        Args:
            stamp: when the nonce was minted, in milliseconds.
        """
        words, base = self._words, self._base(stripe)
        if stamp <= words[base // 8 + 1] or stamp <= self._floor_of(base, tag):
            return -1
        stamps_at = (base + self._stamps_at) // 8
        stamps = words[stamps_at : stamps_at + self._slots].tolist()
        slot = self._own_oldest(base, tag, stamps)
        if slot < 0:
            slot = stamps.index(min(stamps))  # an empty one's is 0
        return slot if stamp >= stamps[slot] else -1  # less: the newcomer is the oldest itself

    def open(self, place: Place, stripe: int, slot: int, tag: int, stamp: int, nc: int, *, alive: int) -> None:
        """Take a nonce in, at the place of the slot that was chosen, and spend its first counter; both are locked.

        Args:
            alive: the stamp below which nonces are past their lifetime, so that nobody misses them.

        Raises:
            ValueError: a counter of more than 32 bits; nothing was written.
        """
        if not 0 <= nc <= _MAX_COUNTER:
            raise ValueError("a counter has 32 bits")
        memory, words, base = self._memory, self._words, self._base(stripe)
        tag_at, stamp_at = (base + self._tags_at) // 8 + slot, (base + self._stamps_at) // 8 + slot
        pushed: int = words[stamp_at]
        memory[base] = 1
        memory[place.mark_at] = 1  # some process may still know the nonce that was here, and asks for no stripe's lock
        if pushed < alive:
            words[base // 8 + 1] = max(words[base // 8 + 1], pushed)  # harms nobody: all those are past their lifetime
        elif pushed:
            self._raise_floor(base, words[tag_at], pushed)
        words[tag_at] = tag
        words[stamp_at] = stamp
        self._halves[place.highest_at] = nc
        memory[place.bits_at : place.bits_at + self._bit_bytes] = bytes(self._bit_bytes)
        memory[place.bits_at + (nc % self._window >> 3)] = 1 << (nc % self._window & 7)
        memory[place.key_at : place.key_end] = place.key
        memory[place.mark_at] = 0
        memory[base] = 0

    def is_marked(self, stripe: int) -> bool:
        """Whether somebody died at writing the stripe."""
        return bool(self._memory[self._base(stripe)])

    def recover(self, stripe: int, now: int) -> None:
        """Empty a marked stripe: every nonce that was in it, or is as old as the youngest of those, is stale for good.

        It may be interrupted, too: the floor is there before anything goes, the mark goes last. No slot's lock is
        needed: who has one and saw the key before it went spends what was not spent yet, in a ring that stays as it is.

        Args:
            now: milliseconds; what was minted until then is stale as well.
        """
        base = self._base(stripe)
        floor = base // 8 + 1
        stamps_at, end = (base + self._stamps_at) // 8, (base + self._floors_end) // 8
        stamps = self._words[stamps_at : stamps_at + self._slots].tolist()
        floors = self._words[end - self._floors : end].tolist()
        self._words[floor] = max(self._words[floor], now, *stamps, *floors)
        start, end = base + _FRONT, base + self._floors_end
        self._memory[start:end] = bytes(end - start)
        self._memory[base] = 0

    def __len__(self) -> int:
        """How many nonces lie in the table, those past their lifetime included. Reads all of it: for reports."""
        count = 0
        for stripe in range(self._stripes):
            at = (self._base(stripe) + self._stamps_at) // 8
            count += self._slots - self._words[at : at + self._slots].tolist().count(0)
        return count

    def _base(self, stripe: int) -> int:
        return PAGESIZE + stripe * self._stripe_bytes

    def _own_oldest(self, base: int, tag: int, stamps: list[int]) -> int:
        """The slot of the oldest nonce of an identity that holds all it may; -1 if it may have one more."""
        start = base + self._tags_at
        tags = self._memory[start : start + 8 * self._slots]
        wanted = tag.to_bytes(8, sys.byteorder)
        if tags.count(wanted) < self._per_identity:  # the one that is quick, and nearly always all
            return -1
        mine = []
        at = tags.find(wanted)
        while at >= 0:
            if at % 8 == 0:
                mine.append(at // 8)
            at = tags.find(wanted, at + 1)
        return min(mine, key=stamps.__getitem__) if len(mine) >= self._per_identity else -1

    def _floor_of(self, base: int, tag: int) -> int:
        at = (base + self._floors_at) // 8
        tags = self._words[at : at + self._floors].tolist()
        return self._words[at + self._floors + tags.index(tag)] if tag in tags else 0

    def _raise_floor(self, base: int, tag: int, stamp: int) -> None:
        """Remember that an identity's nonces up to the stamp are stale.

        With no room for one more, the lowest floor becomes the stripe's: it makes the fewest nonces of others stale.
        """
        words = self._words
        at = (base + self._floors_at) // 8
        tags = words[at : at + self._floors].tolist()
        if tag in tags:
            mine = at + self._floors + tags.index(tag)
            words[mine] = max(words[mine], stamp)
            return
        stamps = words[at + self._floors : at + 2 * self._floors].tolist()
        lowest = min(stamps)
        words[base // 8 + 1] = max(words[base // 8 + 1], min(lowest, stamp))
        if stamp > lowest:
            index = stamps.index(lowest)
            words[at + self._floors + index] = stamp
            words[at + index] = tag
