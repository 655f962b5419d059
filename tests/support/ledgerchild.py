"""The program of `support.ledgers.OtherProcess`: a process that spends from a table that it inherited."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from mmap import mmap
from typing import Any

from auth import ledgerlocks
from auth.nonces import Spend
from auth.sharedledger import SharedLedger


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


def race(ledger: SharedLedger, identity: str, nonce: bytes, first: int, last: int, now: float) -> list[str]:
    """Spend one counter after the other, as quickly as can be."""
    return [ledger.spend(identity, nonce, nc, now).value for nc in range(first, last + 1)]


def take(ledger: SharedLedger, lock_at: int, mark_at: int | None, scribble_at: int | None = None) -> None:
    """Take a lock of the table as a spend does, and leave the table as one does in the middle of a write."""
    assert ledgerlocks.take(ledger._locks.lock_at(lock_at))
    if mark_at is not None:
        ledger._memory[mark_at] = 1
    if scribble_at is not None:
        ledger._memory[scribble_at : scribble_at + 8] = b"scribble"  # half of a key


def slaughter(fd: int, identity: str, nonce: bytes, now: float, rounds: int) -> dict[str, int]:
    """Kill processes while they spend, and look whether anything that they were told is fresh is so once more."""
    told = mmap(-1, 8)  # the last counter for which a process was told that it is fresh
    seen = {"fresh_twice": 0, "killed": 0}
    ledger = SharedLedger(os.dup(fd))
    minted = int(nonce[:12], 16)
    for number in range(rounds):
        mine = b"%012x%016d" % (minted + number * 1000, number) + nonce[28:]
        told[:] = bytes(8)
        pid = os.fork()
        if pid == 0:
            # Steps of two write the whole ring each time: long enough to be met in the middle.
            for nc in range(1, 1 << 30, 2):
                if ledger.spend(identity, mine, nc, now + number) is Spend.FRESH:
                    told[:] = nc.to_bytes(8, "little")
        while not told[0]:
            os.sched_yield()
        time.sleep(random.uniform(0, 0.001))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        last = int.from_bytes(told[:], "little")
        seen["killed"] += 1
        for nc in range(last, max(0, last - 40), -2):
            seen["fresh_twice"] += ledger.spend(identity, mine, nc, now + number) is Spend.FRESH
    return seen


def main() -> None:
    fd = int(sys.argv[1])
    ledger = SharedLedger(fd)
    answer("ready")
    for line in sys.stdin:
        order, *rest = json.loads(line)
        arguments: list[Any] = rest
        if order == "spend":
            identity, nonce, nc, now = arguments
            answer(ledger.spend(identity, nonce.encode(), nc, now).value)
        elif order == "race":
            identity, nonce, *counters = arguments
            answer(race(ledger, identity, nonce.encode(), *counters))
        elif order == "take":
            take(ledger, *arguments)
            answer("taken")
        elif order == "release":
            ledgerlocks.release(ledger._locks.lock_at(arguments[0]))
            answer("released")
        elif order == "stop":  # with a lock held, until somebody continues it; then it lets go
            take(ledger, arguments[0], None)
            os.kill(os.getpid(), signal.SIGSTOP)
            ledgerlocks.release(ledger._locks.lock_at(arguments[0]))
            answer("released")
        elif order == "slaughter":
            identity, nonce, *numbers = arguments
            answer(slaughter(fd, identity, nonce.encode(), *numbers))
        else:
            raise ValueError(order)


main()
