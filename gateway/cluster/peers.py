"""The mesh: what the data processes of one gateway tell each other, ask each other, and pass on.

Each process listens on a unix socket of its own in the home's `run` folder and dials every other. Over the connection
that it dialled it hears that process's news, asks it questions and reserves slots of it; when the connection is lost,
all that was heard over it is forgotten, and it is dialled again: the socket is the supervisor's, so the call waits
there for the successor. Requests are passed on over connections of their own to the same socket.

Trust: the peers are processes of this gateway: on sockets that only its user can open, of its user, and with a greeting
that only they can make. What they send is checked for shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.cluster.directory import Learned, News, PeerDirectory
from gateway.cluster.frames import (
    FOR_NEWS,
    FOR_REQUESTS,
    NEWS,
    Greetings,
    message,
)
from gateway.cluster.incoming import Incoming
from gateway.cluster.outgoing import Outgoing
from gateway.cluster.remote_process import RemoteProcess
from gateway.cluster.remote_slots import RemotePool
from gateway.cluster.reservations import PassedConnection, Reservations
from gateway.cluster.sockets import accept, dial, is_of_our_user
from gateway.control.descriptors import mesh_path
from gateway.core.context import ProcessContext
from gateway.pools.hosted import HostedPool
from rhttp.ends import Link

PACE: Final = 0.005
"""Seconds between two batches of news, when there is much."""
SLOW_PACE: Final = 0.05
"""The same when nothing happened but that other numbers of slots are free, neither none before nor none now."""
REDIAL: Final = 0.05
JOIN_WITHIN: Final = 3.0
"""Seconds for which a process waits for the others before it serves; one that does not come is told of when it does."""
MAX_STRANGERS: Final = 64
"""Connections that have not greeted yet; more are refused."""
BURST: Final = 64
"""Connections that are accepted in one turn."""


class Mesh:
    """One process's part in it."""

    def __init__(
        self,
        process: ProcessContext,
        *,
        index: int,
        processes: int,
        run: Path,
        secret: bytes,
        hosted: Callable[[str], HostedPool | None],
        whole: Callable[[], bytes],
        tell: Callable[[str], object],
        learned: Callable[[Learned], None],
        on_peer: Callable[[int, bool], None],
    ) -> None:
        """``whole`` gives all of this process's news, ``tell`` answers a question with a JSON value.

        ``secret`` is known to the processes of this gateway alone; ``hosted`` finds a hosted pool by its name;
        ``learned`` hears what the others' news say, ``on_peer`` who is there and who is gone.
        """
        self.process = process
        self.index = index
        self.greetings = Greetings(secret, index)
        self.hosted = hosted
        self.whole = whole
        self.tell = tell
        self.directory = PeerDirectory()
        self.news = News(self.directory, self._news_due)
        self._learned = learned
        self._on_peer = on_peer
        self._paths = {other: str(mesh_path(run, other)) for other in range(processes) if other != index}
        self.connect: Callable[[int, int, asyncio.Protocol], Link | None] = self._connect_to
        """Gives an owner a connection to another process for a purpose, greeted; None: there is none to be had."""
        self.remotes = {other: self._remote(other) for other in self._paths}
        self._outgoing: dict[int, Outgoing] = {}
        self._redialling: dict[int, asyncio.TimerHandle] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._subscribers: dict[Incoming, int] = {}
        self._reservations: dict[int, Reservations] = {}
        """Of the processes that hear our news."""
        self._strangers: set[Incoming] = set()
        self._passed: set[PassedConnection] = set()
        self._told_at = 0.0
        self._telling: asyncio.Handle | None = None
        self._listening: socket.socket | None = None
        self._all_here = asyncio.Event()
        self._closed = False

    def _remote(self, index: int) -> RemoteProcess:
        def say(kind: int, number: int, content: bytes) -> None:
            outgoing = self._outgoing.get(index)
            if outgoing is not None:
                outgoing.say(kind, number, content)

        def break_off() -> None:
            outgoing = self._outgoing.get(index)
            if outgoing is not None:
                outgoing.close()

        return RemoteProcess(
            self.process,
            say=say,
            connect=lambda end: self.connect(index, FOR_REQUESTS, end) is not None,
            break_off=break_off,
            adjust=functools.partial(self.directory.adjust, index),
        )

    def pool(self, hosted: HostedPool) -> RemotePool:
        """What a hosted pool has to do with the other processes."""
        return RemotePool(hosted, self.directory, self.remotes, self.news)

    async def start(self, sock: socket.socket) -> None:
        """Listen and dial."""
        self._listening = sock
        self.process.loop.add_reader(sock.fileno(), self._accept)
        for index in self._paths:
            self._dial(index)

    async def complete(self) -> None:
        """Wait until all others were heard, so that this process can tell of the whole gateway; not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_WITHIN):
                await self._all_here.wait()

    def close(self) -> None:
        """End all connections."""
        if self._closed:
            return
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
        if self._listening is not None:
            self.process.loop.remove_reader(self._listening.fileno())
            self._listening.close()
        for handle in self._redialling.values():
            handle.cancel()
        for outgoing in tuple(self._outgoing.values()):
            outgoing.close()
        for incoming in (*self._subscribers, *self._strangers):
            incoming.close()
        for remote in self.remotes.values():
            remote.close()
        for passed in tuple(self._passed):
            passed.end.abort()

    def missing(self) -> list[int]:
        """The processes that are not there."""
        return [index for index in self._paths if not self.is_up(index)]

    def is_up(self, index: int) -> bool:
        """Whether a process is there."""
        return index in self.directory.peers

    # ---- who comes ----

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(BURST):
            sock = accept(self._listening)
            if sock is None:
                return
            if len(self._strangers) >= MAX_STRANGERS or not is_of_our_user(sock):
                sock.close()
                self.stranger()
            else:
                self._own(sock, Incoming(self))

    def _own(self, sock: socket.socket, owner: asyncio.Protocol) -> Link:
        link = self.process.open_plain(sock)
        link.set_protocol(owner)
        owner.connection_made(link)  # type: ignore[arg-type]  # a Link
        return link

    def stranger(self) -> None:
        """Somebody came who is no process of this gateway: refused, counted, and told of in the log."""
        process = self.process
        process.counters.strangers += 1
        process.record_refusal("connection.cut", {"listener": "mesh", "outcome": "refused", "reason": "stranger"})

    def arrived(self, incoming: Incoming) -> None:
        """A connection was accepted; nobody knows yet who it is."""
        self._strangers.add(incoming)

    def greeted(self, incoming: Incoming, index: int, purpose: int) -> PassedConnection | None:
        """It is another process of ours; for requests, their owner from now on."""
        self._strangers.discard(incoming)
        if purpose == FOR_REQUESTS:
            passed = PassedConnection(self.process, index, self._reservations.get, self._passed.discard)
            self._passed.add(passed)
            return passed
        for earlier, other in tuple(self._subscribers.items()):
            if other == index:
                earlier.close()  # its process dialled anew, and wants nothing of what it wanted then
        self._tell_news()  # what is due now is in the whole as well, and must not come after it
        self._subscribers[incoming] = index
        self._reservations[index] = incoming.reservations
        incoming.send_news(message(NEWS, 0, self.whole()))
        return None

    def left(self, incoming: Incoming) -> None:
        """It is gone, and with it what its process wanted and has under way here."""
        self._strangers.discard(incoming)
        index = self._subscribers.pop(incoming, None)
        if index is not None:
            if self._reservations.get(index) is incoming.reservations:
                del self._reservations[index]
            for passed in tuple(self._passed):
                if passed.index == index:
                    passed.end.abort()

    # ---- telling ----

    def _news_due(self, is_pressing: bool) -> None:
        loop = self.process.loop
        if self._telling is not None:
            self._telling.cancel()
        wait = self._told_at + (PACE if is_pressing else SLOW_PACE) - loop.time()
        if wait > 0:
            self._telling = loop.call_later(wait, self._tell_news)
        else:
            self._telling = loop.call_soon(self._tell_news)

    def _tell_news(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._told_at = self.process.loop.time()
        news = message(NEWS, 0, self.news.take())
        for subscriber in tuple(self._subscribers):
            subscriber.send_news(news)

    # ---- hearing ----

    def _connect_to(self, index: int, purpose: int, owner: asyncio.Protocol) -> Link | None:
        try:
            sock = dial(self._paths[index])
        except OSError:
            return None
        link = self._own(sock, owner)
        link.write(self.greetings.greet(purpose, index))
        return link

    def _dial(self, index: int) -> None:
        self._redialling.pop(index, None)
        if self._closed:
            return
        outgoing = Outgoing(
            self.process.loop, self.remotes[index], functools.partial(self.heard, index), lambda: self.lost(index)
        )
        link = self.connect(index, FOR_NEWS, outgoing)
        if link is None:
            self._dial_later(index, REDIAL * 4)
        else:
            self._outgoing[index] = outgoing

    def _dial_later(self, index: int, seconds: float) -> None:
        self._redialling[index] = self.process.loop.call_later(seconds, self._dial, index)

    def heard(self, index: int, news: bytes) -> None:
        """News of a process.

        Raises:
            MeshError: they have another shape.
        """
        was_up = self.is_up(index)
        learned = self.directory.learn(index, news)
        if not was_up:
            self.remotes[index].joined()
            self._on_peer(index, True)
            if not self.missing():
                self._all_here.set()
        self._learned(learned)

    def lost(self, index: int) -> None:
        """The connection to a process is gone."""
        self._outgoing.pop(index, None)
        if self._closed:
            return
        learned = self.directory.forget(index)
        self.remotes[index].lost()
        self._on_peer(index, False)
        self._learned(learned)
        self._dial_later(index, REDIAL)

    def gather(self, question: str, *, within: float, then: Callable[[dict[int, Any]], None]) -> None:
        """Ask all others at once, and call back with the answers of those that gave one in time."""

        async def ask() -> None:
            then(await self._ask(question, within))

        task = self.process.loop.create_task(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, question: str, within: float) -> dict[int, Any]:
        asked = {index: outgoing for index, outgoing in self._outgoing.items() if self.is_up(index)}
        waiting = {index: outgoing.ask(question) for index, outgoing in asked.items()}
        if waiting:
            await asyncio.wait(waiting.values(), timeout=within)
        answers: dict[int, Any] = {}
        for index, future in waiting.items():
            if future.done() and not future.cancelled():
                answers[index] = future.result()
            else:
                future.cancel()
        return answers
