"""The data processes as the supervisor sees them: started together or not at all, kept alive, told things together.

A process that does not answer a command in time is killed, not waited for: "every process has acted" then stays true,
because the connections of a dead process are closed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from gateway.control.channel import (
    Ask,
    CheckpointDue,
    Commit,
    ControlError,
    Done,
    Issue,
    Message,
    Prepare,
    PublishLists,
    Question,
    Rollback,
    StateFresh,
)
from gateway.control.descriptors import Inherited, Tally
from gateway.control.process_inputs import ProcessInputs
from gateway.state.lists import PublishedLists
from gateway.state.snapshot import StateSnapshot
from gateway.supervisor.child import COMMAND_TIMEOUT, PREPARE_TIMEOUT, STOP_TIMEOUT, DataProcess, Problem
from gateway.supervisor.launcher import COMMAND, Child
from gateway.supervisor.sockets import Listener, Purpose

BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0
STEADY: Final = 30.0
"""Seconds that a process must have lived for its next restart to be quick again."""


class _Refused(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A process cannot serve its inputs."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{path}: {text}" if path else text for path, text in problems))
        self.problems = problems


async def _run_all(works: Iterable[Awaitable[None]]) -> None:
    """Do all at once; the first failure is raised when the others, cancelled by it, have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()  # once: a second time would break off what they do in order to end
        await asyncio.wait(tasks)
    faults = [fault for task in tasks if not task.cancelled() and (fault := task.exception()) is not None]
    if faults:
        raise faults[0]


class Fleet:
    """N data processes on one set of listeners."""

    def __init__(
        self,
        listeners: Mapping[Purpose, Listener],
        count: int,
        *,
        command: Sequence[str] = COMMAND,
        ahead: list[Child] | None = None,
        ledger: int | None = None,
        inputs: Callable[[str], ProcessInputs],
        state: Callable[[], tuple[StateSnapshot, float]],
        lists: Callable[[], PublishedLists | None] = lambda: None,
        lock: asyncio.Lock,
        log: Callable[[str], None],
        on_due: Callable[[], None],
        on_order: Callable[[DataProcess, Issue], None],
    ) -> None:
        """``inputs`` gives a stream's current inputs, ``state`` the newest state and the time it was read.

        ``lock`` serialises reloads and starts. State is pushed to all members at any time, so a process that starts is
        brought up to date in the very turn in which it becomes one. So are ``lists``, if there are any.

        ``on_due`` is called when a process wants its audit lines signed, ``on_order`` when it has an order for the
        issuer. ``ledger`` is the descriptor of the table of
        spent counters that several processes share. ``ahead`` holds processes that were started already: each that is
        taken is taken out, what is left is the caller's.
        """
        self._listeners = listeners
        self._streams = tuple(f"p{number}" for number in range(count))
        self._command = command
        self._ahead = [] if ahead is None else ahead
        self._ledger = ledger
        self._tally: int | None = None
        # What a start and a reload cost is processor time, and a copy of the state for each: no more than can run.
        self._at_once = asyncio.Semaphore(2 * len(os.sched_getaffinity(0)))
        self._inputs = inputs
        self._state = state
        self._lists = lists
        self._lock = lock
        self._log = log
        self._on_due = on_due
        self._on_order = on_order
        self._members: dict[str, DataProcess] = {}
        self._restarters: list[asyncio.Task[None]] = []
        self._leaving: list[asyncio.Task[None]] = []
        self._owing: dict[DataProcess, asyncio.Task[None]] = {}
        self.restarts = dict.fromkeys(self._streams, 0)

    @property
    def streams(self) -> tuple[str, ...]:
        """All that there should be, by name."""
        return self._streams

    @property
    def members(self) -> tuple[DataProcess, ...]:
        """Those that serve now, in the order of their streams."""
        return tuple(self._members[stream] for stream in self._streams if stream in self._members)

    async def start(self) -> tuple[Problem, ...]:
        """Start all; when one cannot, none is left and its problems are returned. Nothing is served before all can."""
        made: list[DataProcess] = []
        if len(self._streams) > 1:
            self._tally = Tally.make(len(self._streams))

        async def admitted(stream: str) -> None:
            async with self._at_once:
                process = await self._spawn(stream)
                made.append(process)
                await self._admit(process)

        try:
            await _run_all(admitted(stream) for stream in self._streams)
            await self._join(made)
            await _run_all(process.serve() for process in made)
        except _Refused as refused:
            await self._discard(made)
            return refused.problems
        except (ControlError, OSError) as error:
            await self._discard(made)
            return (("", f"a data process did not start: {error}; its own lines above say more"),)
        except BaseException:
            await self._discard(made)
            raise
        self._restarters = [asyncio.create_task(self._restart(process)) for process in made]
        return ()

    async def _spawn(self, stream: str) -> DataProcess:
        index = self._streams.index(stream)
        child = self._ahead.pop(0) if self._ahead else Child(self._command)
        made = await DataProcess.spawn(child, lambda control: self._inherited(index, control), self._heard)
        made.stream = stream
        return made

    def _heard(self, process: DataProcess, message: Message) -> None:
        match message:
            case CheckpointDue():
                self._on_due()
            case Issue():
                self._on_order(process, message)
            case _:
                pass

    def _inherited(self, index: int, control: int) -> Inherited:
        numbers = {purpose: listener.numbers() for purpose, listener in self._listeners.items()}
        return Inherited(
            control=control,
            tls=numbers.get("tls", ()),
            dispatch=numbers.get("dispatch", ()),
            metrics=numbers["metrics"][0] if "metrics" in numbers else None,
            pki=numbers["pki"][0] if "pki" in numbers else None,
            enroll=numbers["enroll"][0] if "enroll" in numbers else None,
            mesh=numbers["mesh"][index] if "mesh" in numbers else None,
            ledger=self._ledger,
            tally=self._tally,
            index=index,
            processes=len(self._streams),
        )

    async def _admit(self, process: DataProcess) -> None:
        problems = await process.configure(self._inputs(process.stream))
        if problems:
            raise _Refused(problems)

    async def _join(self, made: list[DataProcess]) -> None:
        """Make them members that have the newest state; they serve next."""
        while True:
            newest, fresh_at = self._state()
            behind = [process for process in made if process.has < newest.read]
            if not behind:
                break
            await _run_all(process.catch_up(newest) for process in behind)
        # No wait between the last look and this: what is read from now on is pushed to them.
        for process in made:
            self._members[process.stream] = process
            process.send(StateFresh(at=fresh_at))
            if (lists := self._lists()) is not None:
                process.send(PublishLists(lists=lists.to_text()))

    async def _discard(self, made: list[DataProcess]) -> None:
        self._members = {}
        await asyncio.gather(*(process.stop(0.0) for process in made))

    async def _restart(self, process: DataProcess) -> None:
        """Restart a process for ever, ever more slowly while it does not last."""
        stream, pause = process.stream, BACKOFF_FIRST
        loop = asyncio.get_running_loop()
        while True:
            status = await process.ended()
            self._members.pop(stream, None)
            if loop.time() - process.started >= STEADY:
                pause = BACKOFF_FIRST
            self._log(
                f"data process {stream} (pid {process.pid}) ended {exit_text(status)}; another starts in {pause:g} s"
            )
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST)
                self.restarts[stream] += 1
                try:
                    process = await self._replace(stream)
                except Exception as error:  # whatever it is, giving up would leave listeners that nobody serves
                    self._log(f"data process {stream} did not start: {_error_text(error)}; again in {pause:g} s")
                else:
                    self._log(f"data process {stream} serves again with pid {process.pid}")
                    break

    async def _replace(self, stream: str) -> DataProcess:
        async with self._at_once:
            process = await self._spawn(stream)
        try:
            async with self._lock:  # no reload may pass between its inputs and its place among the members
                await self._admit(process)
                await self._join([process])
                await process.serve()
        except BaseException:
            self._members.pop(stream, None)
            await process.stop(0.0)
            raise
        return process

    def send(self, message: Message) -> None:
        """Tell all something that has no answer."""
        for process in self.members:
            process.send(message)

    async def command(self, make: Callable[[int], Message], *, within: float | None = None) -> dict[str, Done]:
        """Command all at once; the answers by stream. Whoever does not answer in time is killed (and restarted)."""
        members, limit = self.members, COMMAND_TIMEOUT if within is None else within
        answers = await asyncio.gather(*(self._command_one(process, make, limit) for process in members))
        return {
            process.stream: done for process, done in zip(members, answers, strict=True) if done is not None
        }  # fmt: skip

    async def _command_one(self, process: DataProcess, make: Callable[[int], Message], within: float) -> Done | None:
        try:
            return await process.call(make, within=within)
        except ControlError as error:
            if not process.is_killed:  # else whoever killed it said why
                self._log(f"data process {process.stream} (pid {process.pid}) is killed: {error}")
                process.kill()
            await process.ended()
            return None

    async def collect(self, make: Callable[[int], Message], *, patience: float, within: float) -> dict[str, Done]:
        """The answers by stream of those that give one before ``patience`` is over; a slow one delays nobody further.

        Whoever still owes the answer to the question before is not asked again, and killed as `command` does it.
        """
        answers: dict[str, Done] = {}

        async def one(process: DataProcess) -> None:
            try:
                done = await self._command_one(process, make, within)
            finally:
                self._owing.pop(process, None)
            if done is not None:
                answers[process.stream] = done

        for process in self.members:
            if process not in self._owing:
                self._owing[process] = asyncio.create_task(one(process))
        if self._owing:
            heard, _slow = await asyncio.wait(tuple(self._owing.values()), timeout=patience)
            for task in heard:
                task.result()
        return dict(answers)

    async def ask(self, question: Question, *, within: float) -> dict[str, Done]:
        """Ask all at once; the answers by stream, of those that answered in time. Nobody is killed for silence."""
        members = self.members
        answers = await asyncio.gather(
            *(one.call(lambda number: Ask(id=number, question=question), within=within) for one in members),
            return_exceptions=True,
        )
        return {one.stream: done for one, done in zip(members, answers, strict=True) if isinstance(done, Done)}

    async def reconfigure(self, inputs: Callable[[str], ProcessInputs]) -> tuple[Problem, ...]:
        """Prepare in every process, then commit in all; with any problem roll back in all and return the problems.

        Call it under the lock, and have `inputs` of the constructor give the new one as soon as it returns nothing.
        """
        if not self._members:
            return (("", "no data process runs at this moment; try again"),)

        async def prepare(process: DataProcess) -> tuple[Problem, ...]:
            async with self._at_once:
                wire = inputs(process.stream).to_wire()
                try:
                    done = await process.call(lambda number: Prepare(id=number, inputs=wire), within=PREPARE_TIMEOUT)
                except ControlError as error:
                    process.kill()
                    return (("", f"data process {process.stream} did not answer ({error}); try again"),)
                return done.problems

        told = await asyncio.gather(*(prepare(process) for process in self.members))
        problems = tuple(dict.fromkeys(problem for some in told for problem in some))
        if problems:
            await self.command(lambda number: Rollback(id=number))
            return problems
        await self.command(lambda number: Commit(id=number))
        return ()

    def release(self) -> None:
        """Restart nobody from now on."""
        for restarter in self._restarters:
            restarter.cancel()
        self._leaving += self._restarters
        self._restarters = []

    async def stop(self) -> None:
        """End all that still run."""
        self.release()
        # One that was about to replace a process still has to end what it started.
        await asyncio.gather(*self._leaving, return_exceptions=True)
        self._leaving = []
        for task in self._owing.values():
            task.cancel()
        self._owing = {}
        await asyncio.gather(*(process.stop(STOP_TIMEOUT) for process in self.members))
        self._members = {}
        if self._tally is not None:
            os.close(self._tally)
            self._tally = None

    def kill(self) -> None:
        """End all now."""
        self.release()
        for process in self.members:
            process.kill()


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, ControlError | OSError | _Refused) else type(error).__name__


def exit_text(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with status {status}"
