"""Jobs: those that run and those that are done, in bounded tables. Nothing of them outlives the process.

An order that comes again with the same id is the same job, whether it still runs or is done: that is what makes it
safe to send it twice. A job that failed is begun anew. Pure but for the event that tells of a job's end.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass

from mapreduce.orders import Order
from mapreduce.problems import Problem, refuse

MAX_RUNNING = 64
MAX_RUNNING_SIZE = 256 << 20
MAX_FINISHED = 256
MAX_FINISHED_SIZE = 64 << 20
"""Bytes: of the orders of running jobs, and about those of the results of finished ones."""

Key = tuple[str, str]
"""Whose job, and its id."""


@dataclass(frozen=True, slots=True)
class Done:
    """A result of the job's kind, and about how many bytes it takes."""

    result: object
    size: int


class Job:
    """One job on its way. `outcome` is None while it runs."""

    __slots__ = (
        "change",
        "characters",
        "characters_done",
        "digest",
        "done",
        "ended",
        "key",
        "kind",
        "outcome",
        "retries",
        "size",
        "units",
        "workers",
    )

    def __init__(self, key: Key, order: Order, digest: bytes, size: int) -> None:
        self.key = key
        self.kind = order.kind
        self.digest = digest
        """Of the order, to know it again."""
        self.size = size
        """Bytes that it takes here: of the order, later of the result."""
        self.characters = sum(len(text.text) for text in order.texts)
        self.characters_done = 0
        self.units = 0
        """Made so far; more follow while something of the job is left."""
        self.done = 0
        self.retries = 0
        self.workers: Counter[str] = Counter()
        """Units that each worker did; a worker behind another master has that one's name in front."""
        self.outcome: Done | Problem | None = None
        self.ended = asyncio.Event()
        self.change = asyncio.Event()
        """Set at the next change, and another one then."""

    def unit_done(self, characters: int) -> None:
        """One more unit has a result."""
        self.done += 1
        self.characters_done += characters
        self.tell()

    def tell(self) -> None:
        """Something changed: whoever follows the job is told."""
        change, self.change = self.change, asyncio.Event()
        change.set()

    @property
    def progress(self) -> float:
        """How much of it is done, from 0 to 1."""
        if isinstance(self.outcome, Done):
            return 1.0
        return round(self.characters_done / self.characters, 3) if self.characters else 0.0

    @property
    def id(self) -> str:
        """What the one who ordered it calls it."""
        return self.key[1]

    def show_state(self) -> dict[str, object]:
        """The JSON object of a job without its result."""
        status = {type(None): "running", Done: "done"}.get(type(self.outcome), "failed")
        return {
            "id": self.id,
            "kind": self.kind.name,
            "status": status,
            "progress": self.progress,
            "units": {"total": self.units, "done": self.done, "retries": self.retries},
            "workers": dict(sorted(self.workers.items())),
        }

    def show(self, top: int | None) -> dict[str, object]:
        """The JSON object of a job."""
        body = self.show_state()
        match self.outcome:
            case Done(result):
                body["result"] = self.kind.show(result, top)
            case Problem() as problem:
                body["problem"] = problem.to_json()
        return body


class JobStore:
    """All jobs of one master or worker."""

    def __init__(self, *, max_running: int = MAX_RUNNING, max_finished: int = MAX_FINISHED) -> None:
        self._max_running = max_running
        self._max_finished = max_finished
        self._running: dict[Key, Job] = {}
        self._finished: OrderedDict[Key, Job] = OrderedDict()

    def find(self, key: Key) -> Job | None:
        """The job, if it runs or its end is not long ago."""
        if key in self._finished:
            self._finished.move_to_end(key)
            return self._finished[key]
        return self._running.get(key)

    def open(self, key: Key, order: Order, digest: bytes, size: int) -> tuple[Job, bool]:
        """The job of this order, and whether it is to be begun. `size` is that of the order in bytes.

        Raises `Refused`: too much runs, or there is another order under this id.
        """
        known = self.find(key)
        if known is not None and not isinstance(known.outcome, Problem):
            if known.digest != digest:
                raise refuse("id-taken", 409, "There is a job with this id, and its order is another one")
            return known, False
        if len(self._running) >= self._max_running or sum(self._sizes()) + size > MAX_RUNNING_SIZE:
            raise refuse("busy", 503, "Too many jobs are running")
        self._finished.pop(key, None)
        job = self._running[key] = Job(key, order, digest, size)
        return job, True

    def _sizes(self) -> list[int]:
        return [job.size for job in self._running.values()]

    def close(self, job: Job, outcome: Done | Problem) -> None:
        """The job has ended; whoever waits for it is told, and the oldest finished ones are forgotten."""
        del self._running[job.key]
        job.outcome = outcome
        job.size = outcome.size if isinstance(outcome, Done) else 0
        job.ended.set()
        job.tell()
        finished = self._finished
        finished[job.key] = job
        while len(finished) > self._max_finished or (
            len(finished) > 1 and sum(other.size for other in finished.values()) > MAX_FINISHED_SIZE
        ):
            finished.popitem(last=False)
