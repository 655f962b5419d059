"""The ledger of spent counters that all data processes of a gateway share: a table in memory, and a lock a stripe.

The supervisor makes the table (`create`) and keeps the descriptor open, so that it outlives every data process; each
data process inherits the descriptor and maps it (`SharedLedger`). What one has spent, all have spent, and a process
that is started again finds it so.

A spend holds the lock of the identity's stripe: one byte of the file, by ``fcntl``. Such locks belong to a process and
the kernel lets them go when it dies, however it dies. Their traps, and what is done:

* Closing *any* descriptor of the file drops all locks of the process. None is held between two calls of `spend`.
* They do not keep threads of one process apart, nor two ledgers in it that run at once: a ledger is one event loop's.
* A holder that is stopped or waits for a CPU keeps its lock. A spend waits some milliseconds at most, then it answers
  `Spend.STALE`: the peer gets a fresh challenge. For the next second a spend in that stripe tries some times without
  sleeping, so a process that was stopped costs the event loops of the others next to nothing.

Posture: untrusted client. Asked only after the response verified.
"""

from __future__ import annotations

import os
import time
from fcntl import F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, LOCK_EX, LOCK_NB, LOCK_UN, lockf
from fcntl import fcntl as control
from mmap import mmap
from typing import Final

from auth.ledgertable import KEY_BYTES, KEY_END, STAMP_TEXT, Geometry, LedgerTable, Place
from auth.nonces import Spend

_TRY: Final = LOCK_EX | LOCK_NB
_RELEASE: Final = LOCK_UN
_SIZE_SEALS: Final = F_SEAL_SHRINK | F_SEAL_GROW
_PATIENCE: Final = 0.005  # seconds; a holder is done in microseconds unless it lost its CPU
_EAGER_TRIES: Final = 8  # without sleeping: several times what a holder on another CPU may take
_PAUSE: Final = 0.0001
_JAM_MEMORY: Final = 1.0  # seconds
_MAX_PLACES: Final = 16384  # about 8 MiB; a nonce is found again by one search of its stripe


def create(window: int = 1024, per_identity: int = 64, *, total: int = 65536) -> int:
    """Make a table; answer its descriptor, which is closed on exec unless it is passed on by name (``pass_fds``).

    The file has no name, its size is sealed. Pages that were never written cost nothing; all of them are 11 MiB for
    the bounds by default, and window/8 + 41 bytes a nonce in general, whole pages for each 256 or 4 * per_identity.

    Args:
        window: counters a nonce that may arrive out of order.
        per_identity: live nonces an identity.
        total: live nonces altogether, rounded down to whole stripes.

    Raises:
        ValueError: a bound below 1.
        OSError: the kernel gave no memory.
    """
    geometry = Geometry.of(window, per_identity, total)
    fd = os.memfd_create("rhttp-pki-nonces", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, geometry.table_bytes)
        control(fd, F_ADD_SEALS, _SIZE_SEALS | F_SEAL_SEAL)
        os.pwrite(fd, geometry.header(os.urandom(KEY_BYTES)), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


class SharedLedger:
    """The ledger of all processes that mapped the same table. It answers as `NonceLedger` does, with these differences:

    * An identity that holds all it may loses the nonce that was *minted* first, and a first spend of a nonce older
      than all those is stale.
    * Identities share stripes: 256 nonces each with the default bounds. A full stripe makes its oldest nonces stale,
      though there may be room in others.
    * A nonce that another identity spent is stale where that shows: in the same process or the same stripe. Elsewhere
      it is a nonce of its own; a counter is spent once for each identity either way.
    * A stripe that cannot be locked in time answers stale, and one whose writer was killed makes all its nonces stale.

    Args:
        fd: the table. It stays open until `close`, by which it is closed, too.
        lifetime: seconds after which a nonce may make room. Shorter than the issuer's is safe.

    Raises:
        ValueError: the descriptor is no table of this version, or its size could still change.
        OSError: it cannot be mapped.
    """

    def __init__(self, fd: int, lifetime: float = 300.0) -> None:
        self._fd = fd
        self._lifetime = lifetime
        self._memory = _mapped(fd)
        self._table = LedgerTable(self._memory)
        self._places: dict[bytes, Place] = {}
        self._jams: dict[int, float] = {}
        #: Spends that were stale because a lock was not to be had, by this process.
        self.timeouts = 0
        #: Stripes that this process emptied, since whoever had written there was killed.
        self.recoveries = 0

    @property
    def window(self) -> int:
        """Counters a nonce that may arrive out of order."""
        return self._table.geometry.window

    @property
    def per_identity(self) -> int:
        """Live nonces an identity."""
        return self._table.geometry.per_identity

    def configure(self, window: int, per_identity: int, lifetime: float) -> None:
        """Go on with another lifetime.

        Raises:
            ValueError: other bounds than the table was made for; nothing was changed.
        """
        if (window, per_identity) != (self.window, self.per_identity):
            raise ValueError("the window and the nonces of an identity are fixed for the life of a shared ledger")
        self._lifetime = lifetime

    def close(self) -> None:
        """Unmap the table and close its descriptor; it lives on where others have it."""
        self._table.close()
        self._memory.close()
        fd, self._fd = self._fd, -1  # nobody shall lock the file that gets the number next
        os.close(fd)

    def __len__(self) -> int:
        """How many nonces are held, those past their lifetime included. Reads all of the table: for reports."""
        return len(self._table)

    def spend(self, identity: str, nonce: bytes, nc: int, now: float) -> Spend:
        """See `auth.nonces.Ledger.spend`. Blocks for 5 ms at most, and nearly always for no time at all."""
        place = self._places.get(nonce)
        tag = 0
        if place is None:
            stripe, tag = self._table.find_home(identity)
        elif place.identity != identity:
            return Spend.STALE  # cannot happen while nonces are bound to certificates; deny if it does
        else:
            stripe = place.stripe
        try:
            lockf(self._fd, _TRY, 1, stripe)
        except (BlockingIOError, PermissionError):  # POSIX lets a system say either
            if not self._wait(stripe, now):
                return Spend.STALE
        try:
            if place is not None:
                spent = self._table.spend(place, nc)
                if spent is not None:
                    return spent
            return self._settle(identity, stripe, tag or self._table.find_home(identity)[1], nonce, nc, now)
        finally:
            lockf(self._fd, _RELEASE, 1, stripe)

    def _settle(self, identity: str, stripe: int, tag: int, nonce: bytes, nc: int, now: float) -> Spend:
        """Spend of a nonce of which it is not known here where it lies, if anywhere; the stripe is locked."""
        table = self._table
        self._places.pop(nonce, None)
        if table.is_marked(stripe):
            table.recover(stripe, max(0, int(now * 1000)))
            self.recoveries += 1
        key, stamp = nonce[STAMP_TEXT:KEY_END], int(nonce[:STAMP_TEXT], 16)
        slot = table.find(stripe, key)
        is_new = slot < 0
        if is_new:
            alive = max(0, int((now - self._lifetime) * 1000))
            slot = table.open(stripe, tag, key, stamp, nc, alive=alive)
            if slot < 0:
                return Spend.STALE
        elif not table.is_owned(stripe, slot, tag, stamp):
            return Spend.STALE
        place = table.place(identity, stripe, slot, key)
        if len(self._places) >= _MAX_PLACES:
            self._places.clear()
        self._places[nonce] = place
        return Spend.FRESH if is_new else table.spend(place, nc) or Spend.STALE

    def _wait(self, stripe: int, now: float) -> bool:
        """Try for a lock that somebody holds; False: not in time."""
        is_jammed = self._jams.get(stripe, now) > now
        deadline = time.monotonic() + _PATIENCE
        tries = 0
        while True:
            tries += 1
            if tries > _EAGER_TRIES:
                time.sleep(_PAUSE)
            try:
                lockf(self._fd, _TRY, 1, stripe)
            except (BlockingIOError, PermissionError):
                if tries < _EAGER_TRIES or (not is_jammed and time.monotonic() < deadline):
                    continue
                if not is_jammed:
                    self._jams[stripe] = now + _JAM_MEMORY
                self.timeouts += 1
                return False
            self._jams.pop(stripe, None)
            return True


def _mapped(fd: int) -> mmap:
    try:
        seals = control(fd, F_GET_SEALS)
    except OSError:
        seals = 0  # no file of that kind
    if seals & _SIZE_SEALS != _SIZE_SEALS:
        raise ValueError("not a table of nonces: its size could change")  # an access beyond it would end the process
    return mmap(fd, os.fstat(fd).st_size)
