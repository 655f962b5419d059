"""One data process as the supervisor sees it: started, told things, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.control import (
    ApplyState,
    CheckpointDue,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Hello,
    Message,
    Prepare,
    Start,
)
from gateway.inherited import Inherited
from gateway.material import Material
from gateway.snapshot import StateSnapshot

COMMAND: Final = (sys.executable, "-P", "-m", "gateway.process")  # -P: the working directory is no place for our code

HELLO_TIMEOUT: Final = 60.0
PREPARE_TIMEOUT: Final = 60.0
COMMAND_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 2.0

Problem = tuple[str, str]


class DataProcess:
    """One running data process and its control channel."""

    def __init__(self, stream: str, process: asyncio.subprocess.Process) -> None:
        self.stream = stream
        self.started = asyncio.get_running_loop().time()
        self.has = -1
        """`StateSnapshot.read` of the state that it had before it served; -1: none."""
        self._process = process
        self._channel: ControlChannel | None = None
        self._hello = asyncio.Event()
        self._gone = asyncio.Event()

    @classmethod
    async def spawn(
        cls,
        stream: str,
        hand: Callable[[int], Inherited],
        *,
        command: Sequence[str],
        on_due: Callable[[], None],
    ) -> DataProcess:
        """Start it and wait until it says hello. The parent-death signal follows this thread: call from the main one.

        ``hand`` says what it inherits, its control socket's number given.

        Raises:
            ControlError: it ended or stayed silent; it is dead now.
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        try:
            inherited = hand(theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *command,
                *inherited.arguments(),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                pass_fds=inherited.descriptors(),
                env=environment(os.environ),
            )
        except BaseException:
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
            ours.close()
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

    async def admit(self, material: Material) -> tuple[Problem, ...]:
        """Prepare and commit, but do not serve yet; the problems if it cannot.

        Raises:
            ControlError: it does not answer.
        """
        wire = material.to_wire()
        done = await self.call(lambda number: Prepare(id=number, material=wire), within=PREPARE_TIMEOUT)
        if done.problems:
            return done.problems
        await self.call(lambda number: Commit(id=number), within=COMMAND_TIMEOUT)
        self.has = material.snapshot.read
        return ()

    async def catch_up(self, newest: StateSnapshot) -> None:
        """Use this state, while it does not serve yet.

        Raises:
            ControlError: it does not answer.
        """
        text = newest.to_bytes().decode()
        await self.call(lambda number: ApplyState(id=number, snapshot=text), within=COMMAND_TIMEOUT)
        self.has = newest.read

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
        # Not asyncio.timeout: before Python 3.11.3 it takes an earlier cancellation of this task for a new one.
        ended = asyncio.ensure_future(self._process.wait())
        done, _ = await asyncio.wait({ended}, timeout=grace)
        if not done:
            self.kill()
        return await ended

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a data process gets of our environment: all, and OpenSSL's settings file unless somebody named another.

    OpenSSL reads it when it is loaded, so it cannot be set later on.
    """
    return {"OPENSSL_CONF": str(Path(__file__).with_name("openssl.cnf")), **ours}


def _has_descriptor(stream: object) -> bool:
    try:
        os.fstat(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
