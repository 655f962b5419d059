"""Shared ledgers for tests: tables of any geometry, nonces, and other processes that have the table too."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

from auth.ledgerlocks import LOCK_BYTES, fresh_lock
from auth.ledgertable import Geometry, LedgerTable
from auth.nonces import Spend
from auth.sharedledger import SharedLedger

NOW = 1_700_000_000.25
STAMP = int(NOW * 1000)


def stamped(milliseconds: int, number: int = 0) -> bytes:
    """A nonce as a ledger sees it, minted so long after `NOW`; the number makes its random part."""
    return b"%012x%016d" % (STAMP + milliseconds, number) + b"m" * 24


def small_table(*, window: int = 8, per_identity: int = 4, stripes: int = 1, slots: int = 16) -> tuple[int, Geometry]:
    """A table of a geometry that `create` would not choose, as it would make it."""
    geometry = Geometry(window=window, per_identity=per_identity, stripes=stripes, slots=slots)
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, geometry.table_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    os.pwrite(fd, geometry.header(b"k" * 16), 0)
    cells, places = geometry.cells(fresh_lock())
    for at in places:
        os.pwrite(fd, cells, at)
    return fd, geometry


@contextmanager
def small_ledger(**geometry: int) -> Iterator[SharedLedger]:
    """A ledger over a table of its own."""
    ledger = SharedLedger(small_table(**geometry)[0])
    try:
        yield ledger
    finally:
        ledger.close()


class Killed(BaseException):
    """Stands for a process that dies where it is: nothing of ours catches it, and nothing behind it happens."""


class MortalMemory(mmap):
    """Memory whose writer dies at one of its writes, before or after it is done."""

    lives: int = 1 << 60
    is_late = False

    def __setitem__(self, at: Any, value: Any) -> None:
        self.lives -= 1
        if self.lives == 0 and not self.is_late:
            raise Killed
        super().__setitem__(at, value)
        if self.lives == 0:
            raise Killed


def make_mortal(ledger: SharedLedger, lives: int, *, is_late: bool) -> None:
    """Let the ledger die at its write number ``lives``; it is not to be used afterwards."""
    memory = MortalMemory(ledger._fd, os.fstat(ledger._fd).st_size)
    memory.lives, memory.is_late = lives, is_late
    ledger._table.close()
    ledger._table = LedgerTable(memory)


class OtherProcess:
    """A process that has the table mapped and does as it is told, one order after the other."""

    def __init__(self, fd: int) -> None:
        script = Path(__file__).with_name("ledgerchild.py")
        # -P: the project comes from where it is installed, which may be the compiled build.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
        )

    def tell(self, order: str, *arguments: object) -> None:
        """Give an order; the answer is read with `hear`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([order, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """The answer to the oldest order that has none."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def spend(self, identity: str, nonce: bytes, nc: int, now: float = NOW) -> Spend:
        """What its ledger answers."""
        self.tell("spend", identity, nonce.decode(), nc, now)
        return Spend(self.hear())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate(timeout=60)


@contextmanager
def other_processes(fd: int, count: int = 1) -> Iterator[list[OtherProcess]]:
    """So many, ready to be told."""
    others: list[OtherProcess] = []
    try:
        others.extend(OtherProcess(fd) for _ in range(count))
        for other in others:
            assert other.hear() == "ready"
        yield others
    finally:
        for other in others:
            other.close()


def identity_in(ledger: SharedLedger, wanted: Callable[[int], bool]) -> str:
    """An identity whose stripe is as wanted."""
    return next(name for name in (f"u{number}" for number in range(100_000)) if wanted(stripe_of(ledger, name)))


def stripe_lock(ledger: SharedLedger, identity: str) -> int:
    """Where in the table the lock of an identity's stripe lies."""
    return stripe_of(ledger, identity)


def slot_lock(ledger: SharedLedger, nonce: bytes) -> int:
    """Where in the table the lock of a nonce lies that this ledger spent from."""
    return ledger._places[nonce].cell_at


def mark_of(lock_at: int) -> int:
    """Where the mark of what such a lock covers is."""
    return lock_at + LOCK_BYTES


def stripe_of(ledger: SharedLedger, identity: str) -> int:
    """The stripe that an identity's nonces lie in: where in the table it begins."""
    return ledger._table.find_home(identity)[0]


def twin_of(ledger: SharedLedger, identity: str) -> str:
    """Another identity of the same stripe that has the same floor."""
    slots = ledger._table.geometry.slots
    stripe, tag = ledger._table.find_home(identity)
    homes = ((name, ledger._table.find_home(name)) for name in (f"t{number}" for number in range(1_000_000)))
    return next(name for name, home in homes if home[0] == stripe and home[1] % slots == tag % slots)
