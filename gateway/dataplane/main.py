"""A data process: ``python -m gateway.dataplane.main``, started by the supervisor and by nobody else.

It inherits the control socket and the listening sockets by file descriptor, once it has loaded its code, and does what
the supervisor says with one data plane. It ends

* with status 0 when the control socket closes after a drain,
* at once when the control socket closes otherwise (the supervisor is gone, and with it every revocation to come), or
  by the kernel when the supervisor dies while the loop is busy,
* at once, with status 70, when it cannot do what keeps it safe: apply a state snapshot, commit, or start.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import uvloop

from gateway.control.channel import (
    ApplyState,
    Ask,
    CheckpointDue,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Drain,
    Hello,
    Issue,
    LameDuck,
    Message,
    Prepare,
    PublishLists,
    Question,
    Rollback,
    Start,
    StartIssuer,
    StateFresh,
)
from gateway.control.descriptors import Inherited, Sockets
from gateway.control.process import BROKEN, ProcessLog, prepare_process, read_inherited
from gateway.control.process_inputs import ProcessInputs, ProcessInputsInvalid
from gateway.state.lists import PublishedLists
from gateway.state.snapshot import StateSnapshot
from rhttp.errors import UnfitLibrary

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane  # loaded by `main`, behind what must come before

LINES_DUE: Final = 1000
"""Audit lines after which a checkpoint is asked for before its second is over."""
LINES_LOOK: Final = 0.1
"""Seconds between two looks at the audit log's length."""
ORDER_TIMEOUT: Final = 20.0
"""Seconds for the answer to an order; the supervisor's own time for the issuer is shorter, so it answers before."""
_QUEUE: Final = 64
_LOG: Final = ProcessLog("gateway.process")


class _Session:
    """One data plane at one control channel: messages in their order, except those that must never wait.

    A state snapshot waits for no message before it, so that a revocation is not held up by a configuration that is
    being prepared or a start that waits for other processes. `StateSnapshot.read` keeps their own order.
    """

    def __init__(self, plane: DataPlane, sockets: Sockets) -> None:
        self._plane = plane
        self._sockets = sockets
        self._channel: ControlChannel | None = None
        self._queue: asyncio.Queue[Message] = asyncio.Queue(_QUEUE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._drained = False
        self._lines_seen = 0

    async def run(self, control: socket.socket) -> int:
        self._channel = await ControlChannel.open(control, on_message=self._take, on_close=self._gone)
        self._channel.send(Hello(pid=os.getpid()))
        self._spawn(self._work())
        await self._closed.wait()
        for task in self._tasks:
            task.cancel()
        return 0

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.break_off(f"{type(error).__name__}: {error}")

    def _gone(self) -> None:
        if not self._drained:
            os._exit(0)  # no clean-up may delay this: nobody can revoke anything here any more
        self._closed.set()

    def _take(self, message: Message) -> None:
        match message:
            case StateFresh(at=at):
                self._plane.state_fresh(at)
            case PublishLists(lists=text):
                self._plane.publish(PublishedLists.from_text(text))
            case Ask(id=number, question=question):
                self._answer(self._ask(number, question))
            case LameDuck():
                self._spawn(self._lame_duck(message))
            case Drain():
                self._spawn(self._drain(message))
            case ApplyState():
                if len(self._tasks) >= _QUEUE:
                    _LOG.break_off("the supervisor sent more than can be waiting")
                self._spawn(self._apply(message))
            case Prepare() | Commit() | Rollback() | Start():
                try:
                    self._queue.put_nowait(message)
                except asyncio.QueueFull:
                    _LOG.break_off("the supervisor sent more than can be waiting")
            case Hello() | Done() | Issue() | CheckpointDue():
                _LOG.break_off(f"the supervisor sent {type(message).__name__}, which only a process says")
            case StartIssuer():
                _LOG.break_off("the supervisor sent StartIssuer, which is for the issuer alone")

    def _ask(self, number: int, question: Question) -> Done:
        try:
            match question:
                case Question.STATUS:
                    return Done(id=number, value=self._plane.status())
                case Question.AUDIT_HEAD:
                    return Done(id=number, value=self._plane.audit_head())
        except Exception as error:  # a question that cannot be answered ends nobody's connection
            _LOG.say(f"{question} cannot be told: {type(error).__name__}: {error}")
            return Done(id=number, problems=(("", f"{question} cannot be told ({type(error).__name__})"),), value={})

    async def _work(self) -> None:
        while True:
            message = await self._queue.get()
            try:
                await self._obey(message)
            except Exception as error:
                _LOG.break_off(f"{type(message).__name__} failed: {type(error).__name__}: {error}")

    async def _obey(self, message: Message) -> None:
        match message:
            case Prepare(id=number, inputs=wire):
                self._answer(Done(id=number, problems=await self._prepare(wire), value={}))
            case Commit(id=number):
                self._plane.commit()
                self._answer(Done(id=number, value={}))
            case Rollback(id=number):
                self._plane.rollback()
                self._answer(Done(id=number, value={}))
            case Start(id=number):
                await self._plane.start(self._sockets)
                self._answer(Done(id=number, value={}))
                self._spawn(self._watch_lines())
            case _:
                raise AssertionError(message)

    async def _apply(self, message: ApplyState) -> None:
        cut = await self._plane.apply_state(StateSnapshot.from_bytes(message.snapshot.encode()))
        self._answer(Done(id=message.id, cut=cut, value={}))

    async def _prepare(self, wire: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
        try:
            inputs = ProcessInputs.from_wire(wire)
        except ProcessInputsInvalid as error:
            return (("", f"the supervisor's inputs cannot be used: {error}"),)
        try:
            problems = tuple(await self._plane.prepare(inputs))
            if not problems:
                self._plane.process.issue = self._issue
            return problems
        except Exception as error:  # what runs is untouched, so this is a refusal, not an end
            _LOG.say(f"prepare failed: {type(error).__name__}: {error}")
            return (("", f"preparing failed in {inputs.stream} ({type(error).__name__}); see the gateway's log"),)

    async def _issue(self, order: Mapping[str, object]) -> Mapping[str, object]:
        """What `gateway.core.context.ProcessContext.issue` promises."""
        assert self._channel is not None
        try:
            return (await self._channel.call(lambda number: Issue(id=number, order=order), within=ORDER_TIMEOUT)).value
        except (ControlError, TypeError) as error:  # TypeError: what cannot be JSON, a bug of whoever orders
            _LOG.say(f"an order had no answer: {error}")
            return {"unavailable": "no answer in time"}

    async def _lame_duck(self, message: LameDuck) -> None:
        try:
            await self._plane.lame_duck(message.at_least, message.timeout)
        except Exception as error:
            _LOG.break_off(f"lame duck failed: {type(error).__name__}: {error}")
        self._answer(Done(id=message.id, value={}))

    async def _drain(self, message: Drain) -> None:
        try:
            drained = await self._plane.drain(message.timeout)
        except Exception as error:
            _LOG.break_off(f"drain failed: {type(error).__name__}: {error}")
        self._drained = True
        value = {"cut": drained.cut, "head": self._plane.audit_head()}  # the last one: the stream is closed
        self._answer(Done(id=message.id, problems=drained.problems, value=value))

    async def _watch_lines(self) -> None:
        while True:
            await asyncio.sleep(LINES_LOOK)
            number = self._plane.audit_head().get("seq")
            if isinstance(number, int) and number - self._lines_seen >= LINES_DUE:
                self._channel_send(CheckpointDue(lines=number - self._lines_seen))
                self._lines_seen = number

    def _answer(self, done: Done) -> None:
        try:
            self._channel_send(done)
        except (ControlError, TypeError) as error:  # too long, or a value that is no JSON
            _LOG.break_off(f"an answer cannot be sent: {error}")

    def _channel_send(self, message: Message) -> None:
        assert self._channel is not None
        self._channel.send(message)


def run(arguments: Sequence[str], make_plane: Callable[[Inherited], DataPlane]) -> int:
    """Be a data process until the control socket closes; returns the exit status. Signals are the supervisor's."""
    prepare_process()
    try:
        inherited = read_inherited(arguments)
        if inherited is None:
            return 0  # the supervisor had no need of us, or is gone
        control = socket.socket(fileno=inherited.control)
        sockets = inherited.sockets()
    except (ValueError, OSError) as error:
        _LOG.say(str(error))
        return 2

    async def session() -> int:
        return await _Session(make_plane(inherited), sockets).run(control)

    return uvloop.run(session())


def main() -> NoReturn:
    """Entry point of ``python -m gateway.dataplane.main``."""
    prepare_process()
    try:
        from gateway.dataplane.plane import DataPlane  # here, so that the tests' processes need not load the real one
    except UnfitLibrary as error:
        if read_inherited(sys.argv[1:]) is not None:  # else it was said by a start that came to nothing
            _LOG.say(str(error))
        sys.exit(BROKEN)
    sys.exit(run(sys.argv[1:], DataPlane))


if __name__ == "__main__":
    main()
