"""The worker: the same API as the master's, over the processor of this machine. Needs nothing but `rhttp` to be served:

rhttp-pki worker BUNDLE --app mapreduce.worker:app --slots 2
"""

from __future__ import annotations

import asyncio
import json
import os

from mapreduce.api import Api, Slots
from mapreduce.orders import Order
from mapreduce.problems import refuse
from mapreduce.store import Done, Job

SLOTS = "MAPREDUCE_SLOTS"
_DEFAULT_SLOTS = 4
_MAX_SLOTS = 256


class LocalEngine:
    """Works on orders itself, so many at a time; more wait their turn.

    The work runs in threads. One that was begun runs to its end, also when nobody wants its result any more.
    """

    def __init__(self, slots: int) -> None:
        self._total = slots
        self._busy = 0
        self._turn = asyncio.Semaphore(slots)

    async def run(self, order: Order, job: Job) -> Done:
        """The whole order is one unit here."""
        job.units = 1
        if self._busy >= 2 * self._total:
            raise refuse("busy", 503, "Too many jobs wait here")
        self._busy += 1
        try:
            async with self._turn:
                done = await asyncio.to_thread(_work, order)
        finally:
            self._busy -= 1
        job.unit_done(job.characters)
        return done

    async def slots(self) -> Slots:
        """Those that no order is being worked on in."""
        return Slots(self._total, max(0, self._total - self._busy))


def _work(order: Order) -> Done:
    result = order.kind.work(order.texts, order.options)
    # Its size as JSON is near enough to what it takes in memory to bound the sum of many.
    return Done(result, len(json.dumps(order.kind.show(result, None))))


def _slots() -> int:
    given = os.environ.get(SLOTS, "")
    return min(int(given), _MAX_SLOTS) if given.isdigit() and int(given) else _DEFAULT_SLOTS


app = Api(LocalEngine(_slots()))
