"""The ledger of spent counters that all data processes of a gateway share: a table in memory, with locks in it.

The supervisor makes the table (`create`) and keeps the descriptor open, so that it outlives every data process; each
data process inherits the descriptor and maps it (`SharedLedger`). What one has spent, all have spent, and a process
that is started again finds it so.

A spend holds the lock of the nonce's slot, the first one of a nonce in a process that of the identity's stripe as well
(`auth.ledgertable`). The locks are the kernel's to release when their holder dies, however it dies
(`auth.ledgerlocks`); none is held between two calls of `spend`. A ledger is one event loop's.

A holder that is stopped or waits for a CPU keeps its lock. Only spends of the same nonce, or the first one of a nonce
in the same stripe, have to wait for it: for some timeslices at most, in which the event loop stands, then nothing was
spent and the answer is `Spend.BUSY`: the peer gets a fresh challenge. For the next second a spend tries such a lock
some times without sleeping, so a process that was stopped costs the event loops of the others next to nothing.

Trust: untrusted client. Asked only after the response verified.
"""

from __future__ import annotations

import os
import time
from ctypes import c_void_p
from fcntl import F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from fcntl import fcntl as control
from mmap import mmap
from typing import Final

from auth.ledgerlocks import LockMemory, fresh_lock, release, take
from auth.ledgertable import KEY_BYTES, MAX_COUNTER, Geometry, LedgerTable, Place
from auth.nonces import Spend
from rhttp.memo import Memo

_SIZE_SEALS: Final = F_SEAL_SHRINK | F_SEAL_GROW
_PATIENCE: Final = 0.05  # seconds; a holder is done in microseconds unless it lost its CPU, and then soon has it again
_EAGER_TRIES: Final = 32  # without sleeping: several times what a holder on another CPU may take
_SHORT_PAUSE: Final = 0.0001
_LONG_PAUSE: Final = 0.001
_JAM_MEMORY: Final = 1.0  # seconds
_MAX_JAMS: Final = 64  # a process that is stopped holds two locks at most
_MAX_PLACES: Final = 16384  # about 8 MiB; a nonce is found again by one search of its stripe


def create(window: int = 1024, per_identity: int = 256, *, total: int = 65536) -> int:
    """Make a table; answer its descriptor, which is closed on exec unless it is passed on by name (``pass_fds``).

    The file has no name, its size is sealed. With the bounds by default it has 4 MiB from the start, for its locks,
    and 15 MiB when all was used: window/8 + 104 bytes a nonce, whole pages for each 256 or 4 * per_identity.

    Args:
        window: counters a nonce that may arrive out of order.
        per_identity: live nonces an identity.
        total: live nonces altogether, rounded down to whole stripes.

    Raises:
        ValueError: a bound below 1.
        OSError: the kernel gave no memory, or the C library no locks.
    """
    geometry = Geometry.of(window, per_identity, total)
    fd = os.memfd_create("rhttp-pki-nonces", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, geometry.table_bytes)
        control(fd, F_ADD_SEALS, _SIZE_SEALS | F_SEAL_SEAL)
        os.pwrite(fd, geometry.header(os.urandom(KEY_BYTES)), 0)
        cells, places = geometry.cells(fresh_lock())
        for at in places:
            os.pwrite(fd, cells, at)
    except BaseException:
        os.close(fd)
        raise
    return fd


class SharedLedger:
    """The ledger of all processes that mapped the same table. It answers as `NonceLedger` does, with these differences:

    * An identity that holds all it may loses the nonce that was *minted* first, and a first spend of a nonce older
      than all those is stale.
    * Identities share stripes: 1,024 nonces each with the default bounds. A full stripe makes its oldest nonces stale,
      though there may be room in others.
    * A nonce that another identity spent is stale where that shows: in the same process or the same stripe. Elsewhere
      it is a nonce of its own; a counter is spent once for each identity either way.
    * What cannot be locked in time is busy. What was being written when its writer was killed is stale: one nonce, or
      for a first spend all of the stripe.

    Args:
        fd: the table. It stays open until `close`, by which it is closed, too.

    Raises:
        ValueError: the descriptor is no table of this version, or its size could still change.
        OSError: it cannot be mapped.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = _mapped(fd)
        self._table = LedgerTable(self._memory)
        self._locks = LockMemory(self._memory)
        self._places: Memo[bytes, Place] = Memo(_MAX_PLACES)
        self._jams: Memo[int, float] = Memo(_MAX_JAMS)

    @property
    def window(self) -> int:
        """Counters a nonce that may arrive out of order."""
        return self._table.geometry.window

    @property
    def per_identity(self) -> int:
        """Live nonces an identity."""
        return self._table.geometry.per_identity

    def configure(self, window: int, per_identity: int, lifetime: float) -> None:
        """See `NonceLedger.configure`; the lifetime says nothing here: the oldest nonce makes room, whatever its age.

        Raises:
            ValueError: other bounds than the table was made for.
        """
        del lifetime
        if (window, per_identity) != (self.window, self.per_identity):
            raise ValueError("the window and the nonces of an identity are fixed for the life of a shared ledger")

    def close(self) -> None:
        """Unmap the table and close its descriptor; it lives on where others have it."""
        self._places.clear()  # and with them the locks, which must not be used any more
        self._locks.close()
        self._table.close()
        self._memory.close()
        os.close(self._fd)

    def __len__(self) -> int:
        """How many nonces are held, those past their lifetime included. Reads all of the table: for reports."""
        return len(self._table)

    def spend(self, identity: str, nonce: bytes, nc: int, now: float) -> Spend:
        """See `auth.nonces.Ledger.spend`. Blocks for 50 ms a lock at most, and nearly always for no time at all.

        Raises:
            ValueError: the ledger is closed, or a counter of more than 32 bits.
        """
        if not 0 <= nc <= MAX_COUNTER:
            raise ValueError("a counter has 32 bits")
        place = self._places.get(nonce)
        if place is not None:
            if place.identity != identity:
                return Spend.STALE  # cannot happen while nonces are bound to certificates; deny if it does
            spent = self._spend_at(place, nc, now)
            if spent is not None:
                return spent
            del self._places[nonce]
        stripe, tag = self._table.find_home(identity)
        lock = self._locks.lock_at(stripe)
        if not take(lock) and not self._wait(lock, now):
            return Spend.BUSY
        try:
            found = self._settle(identity, stripe, tag, nonce, nc, now)
        finally:
            release(lock)
        if not isinstance(found, Place):
            return found
        return self._spend_at(found, nc, now) or Spend.STALE  # None: pushed out in this very moment

    def _spend_at(self, place: Place, nc: int, now: float) -> Spend | None:
        """Spend of a nonce that was seen there; None: it is there no longer."""
        lock = place.lock
        if not take(lock) and not self._wait(lock, now):
            return Spend.BUSY
        try:
            return self._table.spend(place, nc)
        finally:
            release(lock)

    def _settle(self, identity: str, stripe: int, tag: int, nonce: bytes, nc: int, now: float) -> Place | Spend:
        """Find a nonce of which it is not known here where it lies, or take it in and spend; the stripe is locked."""
        table = self._table
        if table.is_marked(stripe):
            table.recover(stripe, max(0, int(now * 1000)))
        slot = table.find(stripe, nonce)
        is_new = slot < 0
        if is_new:
            slot = table.choose(stripe, tag, nonce)
        if slot < 0 or not (is_new or table.is_owned(stripe, slot, tag, nonce)):
            return Spend.STALE
        lock = self._locks.lock_at(table.cell_at(stripe, slot))
        # A new nonce does not lie there yet: a spend looks whether it does.
        place = self._places.remember(nonce, table.place(identity, stripe, slot, nonce, lock))
        if not is_new:
            return place
        if not take(lock) and not self._wait(lock, now):
            return Spend.BUSY
        try:
            table.open(place, stripe, slot, tag, nonce, nc)
        finally:
            release(lock)
        return Spend.FRESH

    def _wait(self, lock: c_void_p, now: float) -> bool:
        """Try for a lock that somebody holds; False: not in time."""
        address = lock.value or 0
        is_jammed = self._jams.get(address, now) > now
        deadline = time.monotonic() + _PATIENCE
        tries = 1
        pause = _SHORT_PAUSE
        while not take(lock):
            tries += 1
            if tries < _EAGER_TRIES:
                continue
            if is_jammed or time.monotonic() >= deadline:
                if not is_jammed:
                    self._jams.remember(address, now + _JAM_MEMORY)
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONG_PAUSE)
        self._jams.pop(address, None)
        return True


def _mapped(fd: int) -> mmap:
    try:
        seals = control(fd, F_GET_SEALS)
    except OSError:
        seals = 0  # no file of that kind
    if seals & _SIZE_SEALS != _SIZE_SEALS:
        raise ValueError("not a table of nonces: its size could change")  # an access beyond it would end the process
    return mmap(fd, os.fstat(fd).st_size)
