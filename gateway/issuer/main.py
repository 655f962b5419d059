"""The issuer: ``python -m gateway.issuer.main``, started by the supervisor and by nobody else.

It inherits the control socket, is told which home to open, and then does what it is ordered, in the order in which
orders come; whatever waits is done together. It ends at once when the control socket closes, or with its parent: what
was under way is in the state as a whole or not at all.

Nobody else can read its memory, as far as the kernel keeps processes of one user apart.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from gateway.control.channel import ControlChannel, Done, Hello, Issue, Message, StartIssuer
from gateway.control.process import ProcessLog, prepare_process, read_inherited, withhold_memory
from gateway.issuer.orders import Order, OrderMalformed, Result, Unavailable, parse_order

if TYPE_CHECKING:
    from gateway.issuer.signing import Issuer  # loaded by `main`, behind what must come before

MAX_WAITING: Final = 1024
"""Orders that wait; the supervisor gives no more."""
MAX_BATCH: Final = 64
"""Orders that are done together."""
_LOG: Final = ProcessLog("gateway.issuer")


class _Session:
    """The issuer at its control channel. One thread beside the loop does what blocks."""

    def __init__(self, open_issuer: Callable[[Path, str, bytes | None, Callable[[str], None]], Issuer]) -> None:
        self._open_issuer = open_issuer
        self._channel: ControlChannel | None = None
        self._orders: asyncio.Queue[tuple[int, Order]] = asyncio.Queue(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="signing")
        self._task: asyncio.Task[None] | None = None

    async def run(self, control: socket.socket) -> None:
        self._channel = await ControlChannel.open(control, on_message=self._take, on_close=lambda: os._exit(0))
        self._channel.send(Hello(pid=os.getpid()))
        await asyncio.Event().wait()

    def _take(self, message: Message) -> None:
        match message:
            case StartIssuer() if self._task is None:
                self._task = asyncio.create_task(self._work(message))
                self._task.add_done_callback(_ended)
            case Issue(id=number, order=value):
                try:
                    self._orders.put_nowait((number, parse_order(value)))
                except OrderMalformed as error:
                    _LOG.say(str(error))
                    self._answer(number, Unavailable(what="malformed order"))
                except asyncio.QueueFull:
                    self._answer(number, Unavailable(what="busy"))
            case _:
                _LOG.break_off(f"the supervisor sent {type(message).__name__}, which is not for the issuer now")

    async def _work(self, start: StartIssuer) -> None:
        from gateway.issuer.signing import CannotOpen

        loop = asyncio.get_running_loop()
        passphrase = None if start.passphrase is None else start.passphrase.encode("latin-1")
        opened = partial(self._open_issuer, Path(start.home), start.state_url, passphrase, _LOG.say)
        try:
            issuer = await loop.run_in_executor(self._thread, opened)
        except CannotOpen as error:
            self._send(Done(id=start.id, problems=(("issuer", str(error)),), value={}))
            return
        self._send(Done(id=start.id, value={}))
        del start, passphrase, opened
        while True:
            batch = [await self._orders.get()]
            while len(batch) < MAX_BATCH and not self._orders.empty():
                batch.append(self._orders.get_nowait())
            results = await loop.run_in_executor(self._thread, issuer.perform, [order for _, order in batch])
            for (number, _), result in zip(batch, results, strict=True):
                self._answer(number, result)

    def _answer(self, number: int, result: Result) -> None:
        self._send(Done(id=number, value=result.to_wire()))

    def _send(self, done: Done) -> None:
        assert self._channel is not None
        self._channel.send(done)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.break_off(f"{type(error).__name__}: {error}")


def run(
    arguments: Sequence[str], open_issuer: Callable[[Path, str, bytes | None, Callable[[str], None]], Issuer]
) -> int:
    """Be the issuer until the control socket closes, which ends the process; the exit status of one that cannot be."""
    try:
        inherited = read_inherited(arguments)
        if inherited is None:
            return 0
        control = socket.socket(fileno=inherited.control)
    except (ValueError, OSError) as error:
        _LOG.say(str(error))
        return 2

    async def session() -> int:
        await _Session(open_issuer).run(control)
        return 0

    return asyncio.run(session())


def main() -> NoReturn:
    """Entry point of ``python -m gateway.issuer.main``."""
    prepare_process()
    withhold_memory()
    from gateway.issuer.signing import Issuer

    sys.exit(run(sys.argv[1:], Issuer.open))


if __name__ == "__main__":
    main()
