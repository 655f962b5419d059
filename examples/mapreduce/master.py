"""The master: splits an order into units, has them done through the gateway, joins their results.

Each unit is an order of its own, under an id of its own, posted to ``/jobs`` of whoever takes it: a worker, or another
master that is one towards this gateway. The result of a unit is taken exactly once, however often it had to be sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from mapreduce.api import Slots
from mapreduce.door import Door, Failure, Pool, Reply
from mapreduce.kinds import Kind
from mapreduce.orders import Order, encode_order
from mapreduce.problems import Problem, Refused, read_problem
from mapreduce.retry import Again, Tries, gateway_problem, judge
from mapreduce.split import MAX_UNITS, Rest, Unit, find_lanes, size_of
from mapreduce.store import Done, Job

JOB_TIMEOUT = 900.0
_MAX_WORKERS = 1000
"""Names of workers behind another master that are taken over from one answer."""
_MAX_NAME = 200
_PAUSE = 1.0
_LOOK = 5.0
"""Seconds after which a job with something left looks at the pool even if nothing told it to."""


class MasterEngine:
    """Does orders by having others do them. `chance` and `sleep` are there to be replaced in tests."""

    def __init__(
        self,
        door: Door,
        *,
        units_per_slot: int = 1,
        timeout: float = JOB_TIMEOUT,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._door = door
        self._units_per_slot = units_per_slot
        self._timeout = timeout
        self._chance = chance
        self._sleep = sleep
        self._change = asyncio.Event()
        self._under_way = 0
        """Units of all jobs that have no result yet; those that are planned but not yet sent take slots, too."""

    async def slots(self) -> Slots:
        """The sum that the gateway shows; raises `Refused` when it cannot be asked."""
        pool = await self._door.look()
        if isinstance(pool, Failure):
            raise Refused(pool.problem)
        return pool.slots

    async def run(self, order: Order, job: Job) -> Done:
        """Split, have done, join; raises `Refused` with the problem of the first unit that cannot be done."""
        try:
            async with asyncio.timeout(self._timeout):
                results = await self._do_all(order, job)
                return await asyncio.to_thread(_merge, order, results)
        except TimeoutError:
            problem = gateway_problem("deadline", 504, "The job took too long", f"more than {self._timeout:g} s")
            raise Refused(problem) from None

    async def _look(self) -> Pool:
        tries = Tries()
        while True:
            pool = await self._door.look()
            if isinstance(pool, Pool):
                return pool
            tries = await self._pause(pool, tries)

    def _plan(self, order: Order, rest: Rest, pool: Pool, under_way: int) -> tuple[Unit, ...]:
        """Units for the slots that are free; one at least while none of the job is under way: it queues for a slot."""
        # What the gateway calls free may be meant for units that were planned a moment ago and are on their way to it.
        free = max(min(pool.slots.free, pool.slots.total - self._under_way), 0 if under_way else 1)
        if not free:
            return ()
        lanes = find_lanes(pool.workers, order.spread, free)
        return rest.take(
            lanes, slots=free * self._units_per_slot, total=max(1, pool.slots.total) * self._units_per_slot
        )

    async def _do_all(self, order: Order, job: Job) -> list[object]:
        prefix = secrets.token_hex(8)  # not the job's id: two masters, or two clients, may use the same
        rest = Rest(order.texts)
        tasks: list[asyncio.Task[object]] = []
        try:
            async with asyncio.TaskGroup() as group:
                while not rest.is_empty:
                    change = self._change  # taken before the look, so that no change in between is missed
                    units = self._plan(order, rest, await self._look(), sum(not task.done() for task in tasks))
                    job.units += len(units)
                    self._under_way += len(units)
                    for unit in units:
                        task = group.create_task(self._do(order, job, unit, f"{prefix}.{unit.index}"))
                        task.add_done_callback(self._unit_over)
                        tasks.append(task)
                    if not rest.is_empty:
                        await _wait(change)
        except BaseExceptionGroup as errors:
            refused = next((error for error in errors.exceptions if isinstance(error, Refused)), None)
            raise refused or errors.exceptions[0] from None
        return [task.result() for task in tasks]

    def _unit_over(self, task: asyncio.Task[object]) -> None:
        self._under_way -= 1
        self.slots_changed()

    def slots_changed(self) -> None:
        """A slot may have come free: what is left of every job is planned again."""
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _do(self, order: Order, job: Job, unit: Unit, id: str) -> object:
        """The result of one unit."""
        content = encode_order(order, id=id, texts=unit.texts)
        tries = Tries()
        while True:
            answer = await self._send(content, unit.label, id)
            if isinstance(answer, Reply):
                found = await asyncio.to_thread(_read_result, order.kind, id, answer)
                if not isinstance(found, Problem):
                    _credit(job.workers, answer)
                    job.unit_done(size_of(unit.texts))
                    return found
                answer = Failure(problem=found)
            tries = await self._pause(answer, tries)
            job.retries += 1
            job.tell()

    async def _send(self, content: bytes, label: str | None, id: str) -> Reply | Failure:
        answer = await self._door.submit(content, label)
        # 202: the worker would rather not hold the answer back any longer, and goes on.
        while isinstance(answer, Reply) and answer.status == 202 and answer.worker:
            later = await self._door.follow_up(answer.worker, id)
            if isinstance(later, Failure):
                if later.problem.status >= 500:
                    return later
                # It does not know the job any more, after a new start.
                return Failure(problem=gateway_problem("worker-lost", 502, "The worker was lost", later.problem.title))
            answer = Reply(status=later.status, worker=answer.worker, value=later.value)
        return answer

    async def _pause(self, failure: Failure, tries: Tries) -> Tries:
        verdict = judge(failure.problem, tries, chance=self._chance(), retry_after=failure.retry_after)
        if not isinstance(verdict, Again):
            raise Refused(verdict.problem)
        await self._sleep(verdict.delay)
        return verdict.tries


async def _wait(change: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK):
            await change.wait()


def _merge(order: Order, results: list[object]) -> Done:
    result = order.kind.merge(results, order.options)
    return Done(result, len(json.dumps(order.kind.show(result, None))))


def _read_result(kind: Kind[object, object], id: str, reply: Reply) -> object | Problem:
    """The result in an answer, or why there is none in it."""
    match reply.value:
        case {"id": str(answered), "status": "failed", "problem": dict(problem)} if answered == id:
            return read_problem(problem, 502)
        case {"id": str(answered), "status": "done", "result": dict(result)} if answered == id:
            try:
                return kind.read(result)
            except (ValueError, TypeError, RecursionError) as error:
                return gateway_problem("worker-invalid", 502, "The worker's answer makes no sense", str(error)[:100])
    return gateway_problem("worker-invalid", 502, "The worker's answer makes no sense", "it is not about this unit")


def _credit(workers: Counter[str], reply: Reply) -> None:
    """Count the unit for who did it: the worker, or those that it, a master itself, had it done by."""
    inner = reply.value.get("workers")
    credits = [
        (f"{reply.worker}/{name}", count)
        for name, count in (list(inner.items())[:_MAX_WORKERS] if isinstance(inner, dict) else ())
        if type(count) is int and 0 < count <= MAX_UNITS and len(name) <= _MAX_NAME
    ]
    for name, count in credits or [(reply.worker, 1)]:
        if name in workers or len(workers) < _MAX_WORKERS:
            workers[name] += count


class SlotFollower:
    """The slots of the pool, followed over its stream of events.

    For the engine, which plans again when slots come free, and for the gateway above that this master joins.
    """

    def __init__(
        self,
        door: Door,
        *,
        on_change: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._door = door
        self._on_change = on_change
        self._sleep = sleep
        self.slots = Slots(0, 0)
        """None, while the gateway cannot be reached."""

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with suppress(OSError):
                async with aclosing(self._door.events()) as events:
                    async for slots in events:
                        self.slots = slots
                        self._on_change()
            self.slots = Slots(0, 0)
            await self._sleep(_PAUSE)
