"""A process of ours as the supervisor sees it: started, told things, ended; and one that serves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Self

from gateway.control.channel import (
    ApplyState,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Hello,
    Message,
    Prepare,
    Start,
)
from gateway.control.descriptors import Inherited
from gateway.control.process_inputs import ProcessInputs
from gateway.state.snapshot import StateSnapshot
from gateway.supervisor.launcher import Child

HELLO_TIMEOUT: Final = 60.0
PREPARE_TIMEOUT: Final = 60.0
COMMAND_TIMEOUT: Final = 10.0
STOP_TIMEOUT: Final = 2.0

Problem = tuple[str, str]


class Controlled:
    """One running process and its control channel."""

    def __init__(self, child: Child) -> None:
        self.started = asyncio.get_running_loop().time()
        self.is_killed = False
        """We killed it: who waits for its answer need not do so once more."""
        self._child = child
        self._channel: ControlChannel | None = None
        self._hello = asyncio.Event()
        self._gone = asyncio.Event()

    @classmethod
    async def spawn(
        cls, child: Child, inherited: Callable[[int], Inherited], on_message: Callable[[Self, Message], None]
    ) -> Self:
        """Make one of a process that was started, and wait until it says hello.

        ``inherited`` says what it inherits, its control socket's number given; ``on_message`` gets what it says beside
        answers.

        Raises:
            ControlError: it ended or stayed silent; it is dead now.
            OSError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        made = cls(child)
        try:
            child.inherit(inherited(theirs.fileno()))
        except OSError as error:
            ours.close()
            child.kill()
            raise ControlError(f"it ended before it was handed anything ({await child.wait()})") from error
        except BaseException:
            ours.close()
            child.discard()
            raise
        finally:
            theirs.close()

        def heard(message: Message) -> None:
            if isinstance(message, Hello):
                made._hello.set()
            else:
                on_message(made, message)

        try:
            made._channel = await ControlChannel.open(ours, on_message=heard, on_close=made._gone.set)
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
        return self._child.pid

    def send(self, message: Message) -> None:
        """Tell it something that has no answer."""
        if self._channel is not None:
            self._channel.send(message)

    async def call(self, make: Callable[[int], Message], *, within: float) -> Done:
        """Command it and wait for the answer; `ControlError` when there is none."""
        if self._channel is None:
            raise ControlError("the process has no control channel")
        return await self._channel.call(make, within=within)

    @property
    def is_gone(self) -> bool:
        """Whether its channel is closed: it has ended or is about to."""
        return self._gone.is_set()

    async def ended(self) -> int:
        """Wait until it is gone (a process without its channel is killed); its exit status, negative: a signal."""
        await self._gone.wait()
        return await self.stop(STOP_TIMEOUT)

    async def stop(self, grace: float) -> int:
        """Close the channel, which ends it, and kill it if it is still there after ``grace`` seconds."""
        if self._channel is not None:
            self._channel.close()
        # Not asyncio.timeout: before Python 3.11.3 it takes an earlier cancellation of this task for a new one.
        ended = asyncio.ensure_future(self._child.wait())
        done, _ = await asyncio.wait({ended}, timeout=grace)
        if not done:
            self.kill()
        return await ended

    def kill(self) -> None:
        """End it now."""
        self.is_killed = True
        self._child.kill()


class DataProcess(Controlled):
    """One that serves."""

    def __init__(self, child: Child) -> None:
        super().__init__(child)
        self.stream = ""
        self.has = -1
        """`StateSnapshot.read` of the state that it had before it served; -1: none."""
        self.serves = False
        """It was told to take connections, and said that it does."""

    async def configure(self, inputs: ProcessInputs) -> tuple[Problem, ...]:
        """Prepare and commit, but do not serve yet; the problems if it cannot.

        Raises:
            ControlError: it does not answer.
        """
        wire = inputs.to_wire()
        done = await self.call(lambda number: Prepare(id=number, inputs=wire), within=PREPARE_TIMEOUT)
        if done.problems:
            return done.problems
        await self.call(lambda number: Commit(id=number), within=COMMAND_TIMEOUT)
        self.has = inputs.snapshot.read
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
        self.serves = True
