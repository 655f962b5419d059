"""The data processes as the supervisor sees them: started together or not at all, kept alive, told things together.

A process that does not answer a command in time is killed, not waited for: "every process has acted" then stays true,
because the connections of a dead process are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.control import (
    Ask,
    CheckpointDue,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Hello,
    Message,
    Prepare,
    Question,
    Rollback,
    Start,
    StateFresh,
)
from gateway.listeners import Listener, Purpose
from gateway.material import Material

COMMAND: Final = (sys.executable, "-P", "-m", "gateway.process")  # -P: the working directory is no place for our code

HELLO_TIMEOUT: Final = 60.0
PREPARE_TIMEOUT: Final = 60.0
COMMAND_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 2.0
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 10.0
STEADY: Final = 30.0
"""Seconds that a process must have lived for its next restart to be quick again."""

Problem = tuple[str, str]


class DataProcess:
    """One running data process and its control channel."""

    def __init__(self, stream: str, process: asyncio.subprocess.Process) -> None:
        self.stream = stream
        self.started = asyncio.get_running_loop().time()
        self._process = process
        self._channel: ControlChannel | None = None
        self._hello = asyncio.Event()
        self._gone = asyncio.Event()

    @classmethod
    async def spawn(
        cls,
        stream: str,
        listeners: Mapping[Purpose, Listener],
        *,
        command: Sequence[str],
        on_due: Callable[[], None],
    ) -> DataProcess:
        """Start it and wait until it says hello. The parent-death signal follows this thread: call from the main one.

        Raises:
            ControlError: it ended or stayed silent; it is dead now.
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        try:
            numbers = {"control": theirs.fileno()} | {name: one.sock.fileno() for name, one in listeners.items()}
            process = await asyncio.create_subprocess_exec(
                *command,
                *(f"{name}={number}" for name, number in numbers.items()),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                pass_fds=tuple(numbers.values()),
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        made = cls(stream, process)

        def on_message(message: Message) -> None:
            if isinstance(message, Hello):
                made._hello.set()
            elif isinstance(message, CheckpointDue):
                on_due()

        try:
            made._channel = await ControlChannel.open(ours, on_message=on_message, on_close=made._gone.set)
            await made._said_hello()
        except BaseException:
            await made.stop(0.0)
            raise
        return made

    async def _said_hello(self) -> None:
        hello, gone = asyncio.ensure_future(self._hello.wait()), asyncio.ensure_future(self._gone.wait())
        done, waiting = await asyncio.wait({hello, gone}, timeout=HELLO_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if hello not in done:
            raise ControlError("it ended before it was ready" if gone in done else "it did not come up in time")

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Message) -> None:
        """Tell it something that has no answer."""
        if self._channel is not None:
            self._channel.send(message)

    async def call(self, make: Callable[[int], Message], *, within: float) -> Done:
        """Command it and wait for the answer; `ControlError` when there is none."""
        if self._channel is None:
            raise ControlError("the process has no control channel")
        return await self._channel.call(make, within=within)

    async def admit(self, material: Material, fresh_at: float) -> tuple[Problem, ...]:
        """Prepare and commit, but do not serve yet; the problems if it cannot.

        Raises:
            ControlError: it does not answer.
        """
        wire = material.to_wire()
        done = await self.call(lambda number: Prepare(id=number, material=wire), within=PREPARE_TIMEOUT)
        if done.problems:
            return done.problems
        await self.call(lambda number: Commit(id=number), within=COMMAND_TIMEOUT)
        self.send(StateFresh(at=fresh_at))
        return ()

    async def serve(self) -> None:
        """Take connections from now on."""
        await self.call(lambda number: Start(id=number), within=COMMAND_TIMEOUT)

    async def ended(self) -> int:
        """Wait until it is gone (a process without its channel is killed); its exit status, negative: a signal."""
        await self._gone.wait()
        return await self.stop(STOP_TIMEOUT)

    async def stop(self, grace: float) -> int:
        """Close the channel, which ends it, and kill it if it is still there after ``grace`` seconds."""
        if self._channel is not None:
            self._channel.close()
        try:
            async with asyncio.timeout(grace):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
            return await self._process.wait()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _has_descriptor(stream: object) -> bool:
    try:
        os.fstat(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True


class Fleet:
    """N data processes on one set of listeners."""

    def __init__(
        self,
        listeners: Mapping[Purpose, Listener],
        count: int,
        *,
        command: Sequence[str] = COMMAND,
        material: Callable[[str], tuple[Material, float]],
        lock: asyncio.Lock,
        log: Callable[[str], None],
        on_due: Callable[[], None],
    ) -> None:
        """``material`` gives a stream's current material and the time its state was read; ``lock`` serialises changes.

        ``on_due`` is called when a process wants its audit lines signed.
        """
        self._listeners = listeners
        self._streams = tuple(f"p{number}" for number in range(count))
        self._command = command
        self._material = material
        self._lock = lock
        self._log = log
        self._on_due = on_due
        self._members: dict[str, DataProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._leaving: list[asyncio.Task[None]] = []
        self.restarts = dict.fromkeys(self._streams, 0)

    @property
    def members(self) -> tuple[DataProcess, ...]:
        """Those that serve now, in the order of their streams."""
        return tuple(self._members[stream] for stream in self._streams if stream in self._members)

    async def start(self) -> tuple[Problem, ...]:
        """Start all; when one cannot, none is left and its problems are returned. Nothing is served before all can."""
        made: list[DataProcess] = []
        try:
            for stream in self._streams:
                made.append(await self._spawn(stream))
                problems = await made[-1].admit(*self._material(stream))
                if problems:
                    await self._discard(made)
                    return problems
            for process in made:
                await process.serve()
        except (ControlError, OSError) as error:
            await self._discard(made)
            return (("", f"a data process did not start: {error}; its own lines above say more"),)
        except BaseException:
            await self._discard(made)
            raise
        self._members = {process.stream: process for process in made}
        self._keepers = [asyncio.create_task(self._keep(process)) for process in made]
        return ()

    async def _spawn(self, stream: str) -> DataProcess:
        return await DataProcess.spawn(stream, self._listeners, command=self._command, on_due=self._on_due)

    async def _discard(self, made: list[DataProcess]) -> None:
        for process in made:
            await process.stop(0.0)

    async def _keep(self, process: DataProcess) -> None:
        """Restart a process for ever, ever more slowly while it does not last."""
        stream, pause = process.stream, BACKOFF_FIRST
        loop = asyncio.get_running_loop()
        while True:
            status = await process.ended()
            self._members.pop(stream, None)
            if loop.time() - process.started >= STEADY:
                pause = BACKOFF_FIRST
            self._log(f"data process {stream} (pid {process.pid}) ended {_how(status)}; another starts in {pause:g} s")
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST)
                self.restarts[stream] += 1
                try:
                    process = await self._replace(stream)
                except Exception as error:  # whatever it is, giving up would leave listeners that nobody serves
                    self._log(f"data process {stream} did not start: {_why(error)}; again in {pause:g} s")
                else:
                    self._log(f"data process {stream} serves again with pid {process.pid}")
                    break

    async def _replace(self, stream: str) -> DataProcess:
        process = await self._spawn(stream)
        try:
            async with self._lock:  # no state or reload may pass between its material and its place among the members
                problems = await process.admit(*self._material(stream))
                if problems:
                    raise ControlError("; ".join(f"{path}: {text}" if path else text for path, text in problems))
                await process.serve()
                self._members[stream] = process
        except BaseException:
            await process.stop(0.0)
            raise
        return process

    def send(self, message: Message) -> None:
        """Tell all something that has no answer."""
        for process in self.members:
            process.send(message)

    async def command(self, make: Callable[[int], Message], *, within: float | None = None) -> dict[str, Done]:
        """Command all at once; the answers by stream. Whoever does not answer in time is killed (and restarted)."""

        async def one(process: DataProcess) -> Done | None:
            try:
                return await process.call(make, within=COMMAND_TIMEOUT if within is None else within)
            except ControlError as error:
                self._log(f"data process {process.stream} (pid {process.pid}) is killed: {error}")
                process.kill()
                await process.ended()
                return None

        members = self.members
        answers = await asyncio.gather(*(one(process) for process in members))
        return {
            process.stream: done for process, done in zip(members, answers, strict=True) if done is not None
        }  # fmt: skip

    async def ask(self, question: Question, *, within: float) -> dict[str, Done]:
        """Ask all at once; the answers by stream, of those that answered in time. Nobody is killed for silence."""
        members = self.members
        answers = await asyncio.gather(
            *(one.call(lambda number: Ask(id=number, question=question), within=within) for one in members),
            return_exceptions=True,
        )
        return {one.stream: done for one, done in zip(members, answers, strict=True) if isinstance(done, Done)}

    async def change(self, material: Callable[[str], Material]) -> tuple[Problem, ...]:
        """Prepare in every process, then commit in all; with any problem roll back in all and return the problems.

        Call it under the lock, and have `material` of the constructor give the new one as soon as it returns nothing.
        """
        problems: list[Problem] = []
        if not self._members:
            return (("", "no data process runs at this moment; try again"),)
        for process in self.members:
            wire = material(process.stream).to_wire()
            try:
                done = await process.call(
                    lambda number, wire=wire: Prepare(id=number, material=wire),  # type: ignore[misc]
                    within=PREPARE_TIMEOUT,
                )
                problems += done.problems
            except ControlError as error:
                problems.append(("", f"data process {process.stream} did not answer ({error}); try again"))
                process.kill()
        if problems:
            await self.command(lambda number: Rollback(id=number))
            return tuple(dict.fromkeys(problems))
        await self.command(lambda number: Commit(id=number))
        return ()

    def release(self) -> None:
        """Restart nobody from now on."""
        for keeper in self._keepers:
            keeper.cancel()
        self._leaving += self._keepers
        self._keepers = []

    async def stop(self) -> None:
        """End all that still run."""
        self.release()
        # One that was about to replace a process still has to end what it started.
        await asyncio.gather(*self._leaving, return_exceptions=True)
        self._leaving = []
        await asyncio.gather(*(process.stop(STOP_TIMEOUT) for process in self.members))
        self._members = {}

    def kill(self) -> None:
        """End all now."""
        self.release()
        for process in self.members:
            process.kill()


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ControlError | OSError) else type(error).__name__


def _how(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with status {status}"
