"""How a data process ends: first it says so and still serves, then it takes nothing more, then there is nothing left.

No request that was sent before the port closed is lost, as far as that is in our hand. As a *lame duck* the process
accepts and answers, with ``Connection: close``, so that nobody has a connection left on which a request could cross our
end. Closed is only what is idle and has nothing unread. When `Draining.close` returns, nothing is accepted, shakes
hands or is forwarded any more, and the audit stream may be closed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from gateway.core.context import ProcessContext
from gateway.exchange.exchange import Exchange
from gateway.ingress.acceptor import Acceptor, PlainConnection
from gateway.ingress.connection import Connection
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool, ReversedConnection
from gateway.pools.relayed import Relayed
from rhttp.http1.answer import LINGER

_LOOK: Final = 0.01
"""Seconds between two looks at what is left."""
_ASK: Final = 0.5
"""Seconds that a peer which came before the port closed has to shake hands and to ask, or to answer a challenge."""
_ASKS_YET: Final = (None, 401)
"""The last answer's status of a connection whose next request belongs to what was begun; None: there was no answer."""
_SILENT: Final = 0.25
"""The same for one that has not said a byte: its hello comes with its third packet."""
_UNREFUSED: Final = 1.0
"""Seconds that the port stays open although nobody is let in any more: newcomers, whose first packet is dropped, try
again a second later and find the next gateway. When this process takes longer to end, they are refused."""
_FAREWELL: Final = 0.5
"""Seconds for peers to close their side, so that none loses its answer to a reset."""


class Draining:
    """One process's end; `lame_duck`, then `close`."""

    def __init__(self, process: ProcessContext, acceptors: Sequence[Acceptor]) -> None:
        self._process = process
        self._acceptors = acceptors

    async def lame_duck(self, at_least: float, timeout: float) -> None:  # noqa: ASYNC109 - what is late goes on
        """Health says 503, nothing new is leased, all else is served, and each answer closes its connection.

        Returns after ``at_least`` seconds when what ran before is over, or ``timeout`` has passed.
        """
        process = self._process
        begun = process.loop.time()
        process.draining = True
        earlier = [
            (live, live.end.sink)
            for live in process.registry
            if isinstance(live, Connection) and isinstance(live.end.sink, Exchange)
        ]
        for pool in serving_of(process.generation).pools.values():
            if isinstance(pool, HostedPool):
                pool.stop()
        for stream in tuple(process.streams):
            stream.close()
        await self._close_workers(min(2.0, timeout / 4))
        await asyncio.sleep(begun + min(at_least, timeout) - process.loop.time())
        # Looked at again and again: who would tell is on the path of every request.
        while any(live.end.sink is sink for live, sink in earlier) and process.loop.time() < begun + timeout:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        self._close_idle(with_new=False)

    async def close(self, timeout: float) -> dict[str, int]:  # noqa: ASYNC109 - what is late is cut
        """Take what waits in the queues, serve what has come, and end; answer how much had to be cut, by kind."""
        process = self._process
        process.draining = True
        now = process.loop.time()
        until, asked, spoken = now + timeout, now + min(_ASK, timeout), now + min(_SILENT, timeout)
        for acceptor in self._acceptors:
            acceptor.close()
        refusing = now + _UNREFUSED
        while (now := process.loop.time()) < until and self._is_busy(now < asked, now < spoken):
            await asyncio.sleep(_LOOK)
            if now > refusing:
                refusing = until
                for acceptor in self._acceptors:
                    acceptor.end()
        self._close_idle(with_new=True)
        cut = self._give_up()
        farewell = process.loop.time() + _FAREWELL
        while process.loop.time() < farewell and self._is_lingering():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        self._end_all()
        await asyncio.sleep(0)  # lets the closed links tell their owners
        return cut

    # ---- steps ----

    async def _close_workers(self, within: float) -> None:
        """Close idle workers, spread over a moment, so that they do not all come back in the same one."""
        process = self._process
        lives = [live for live in process.registry if isinstance(live, ReversedConnection | Relayed)]
        random.shuffle(lives)
        if not lives:
            return
        steps = min(len(lives), 50)
        pause = min(within, 0.02 * len(lives)) / steps
        for step in range(steps):
            for live in lives[step::steps]:
                live.drain("drain")
            await asyncio.sleep(pause)

    def _close_idle(self, *, with_new: bool) -> None:
        """Shut our side of connections on which nothing is under way.

        ``with_new``: also of those that have not asked yet, or were challenged and will ask again.
        """
        for live in self._process.registry:
            if isinstance(live, Connection):
                end = live.end
                if end.is_idle and (with_new or end.last_status not in _ASKS_YET) and not end.link.has_unread():
                    end.shutdown()

    def _is_busy(self, may_ask: bool, may_speak: bool) -> bool:
        """Whether anybody is served, or came in time and may still say what for."""
        self._close_idle(with_new=not may_ask)
        if self._process.exchanges:
            return True
        for acceptor in self._acceptors:
            if acceptor.is_shaking(may_ask, may_speak):
                return True
        return any(isinstance(live, Connection) and live.end.phase < LINGER for live in self._process.registry)

    def _is_lingering(self) -> bool:
        return any(isinstance(live, Connection) and live.end.phase == LINGER for live in self._process.registry)

    def _give_up(self) -> dict[str, int]:
        """Cut whatever is under way still, so that nobody takes half an answer for a whole one; answer how much."""
        cut = {"requests": 0, "connections": 0, "handshakes": 0}
        for acceptor in self._acceptors:
            cut["handshakes"] += acceptor.end_handshakes()
        # Workers first: requests that they served are answered, or cut, before their requesters' connections end.
        lives = list(self._process.registry)
        connections = [live for live in lives if isinstance(live, Connection) and live.end.phase < LINGER]
        cut["requests"] = sum(isinstance(connection.end.sink, Exchange) for connection in connections)
        cut["connections"] = len(connections) - cut["requests"]
        for live in lives:
            if not isinstance(live, Connection):
                cut["connections"] += isinstance(live, Relayed)  # what a worker of ours served is a request above
                live.disconnect("drain")
        for connection in connections:
            end = connection.end
            if isinstance(end.sink, Exchange):
                end.sink.give_up("drain")
            if end.sink is None:
                end.shutdown()
            else:
                end.abort()
        return {kind: count for kind, count in cut.items() if count}

    def _end_all(self) -> None:
        """Nothing is open any more when this returns."""
        for acceptor in self._acceptors:
            acceptor.end()
        for live in self._process.registry:
            if isinstance(live, Connection):
                live.end.abort()
        for acceptor in self._acceptors:
            for holder in acceptor.places.holders():
                if isinstance(holder, PlainConnection):
                    holder.end.abort()
        for master in serving_of(self._process.generation).masters.values():
            master.close()
