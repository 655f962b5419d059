"""One reversed connection of a worker, and what can be told of all of them.

Trust: meets bytes of the gateway. I/O happens in the link of its end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from rhttp.http1.answer import Phase
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.worker.dial import Session
from rhttp.worker.handler import answer_problem

log = logging.getLogger("rhttp.agent")

QUIET: Final = 0.5
"""Seconds. HTTP/1.1 cannot say "no more" on an idle connection: a request that is under way when we close is lost.
Under load the gateway uses a slot again at once, so one that was just used is let go by its next answer instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What an agent is doing now."""

    wanted: int
    """Slots that there should be."""
    open: int
    """Reversed connections."""
    busy: int
    """Those that serve a request."""
    dialling: int
    served: int
    """Requests since the start."""
    problem: str | None
    """Why slots are missing, in one line; None while nothing is wrong."""
    draining: bool


class ReversedOwner(Protocol):
    """Keeps reversed connections: the agent."""

    def serve(self, reversed_: ReversedConnection, end: ServerEnd, head: RequestHead, /) -> None:
        """A request came."""

    def closed(self, reversed_: ReversedConnection, /) -> None:
        """The connection is gone."""


class ReversedConnection:
    """One reversed connection: the owner of its server end."""

    __slots__ = ("_keeper", "_patience", "end", "is_retired", "opened", "served", "session", "used")

    def __init__(self, keeper: ReversedOwner, session: Session, now: float) -> None:
        self._keeper = keeper
        self.session = session
        self.opened = self.used = now
        self.served = 0
        self.is_retired = False
        """We close it, now or after its answer."""
        self._patience = QUIET
        self.end: ServerEnd

    @property
    def is_busy(self) -> bool:
        """Whether a request is being served or arriving."""
        return self.end.phase < Phase.LINGER and not self.end.is_idle

    def is_quiet(self, now: float) -> bool:
        """Whether no request has been here for a moment, so that closing will hardly meet one that is under way."""
        return self.end.is_idle and now - self.used >= self._patience and not self.end.link.has_unread()

    def retire(self, now: float, patience: float = QUIET) -> None:
        """Let it go: at once when it is quiet, else the next answer says that it is the last (see `beat`).

        With more `patience` than usual it waits for so many seconds from now on: under load it ends by an answer, and
        no request can meet its end.
        """
        self._patience = patience
        if patience > QUIET:
            self.used = now
        self.is_retired = True
        if self.is_quiet(now):
            self.end.shutdown()
        else:
            self.end.last_request()

    def beat(self, now: float) -> None:
        """Called a few times a second."""
        if self.is_busy:
            self.used = now
        elif self.is_retired and self.is_quiet(now):
            self.end.shutdown()

    # ---- ServerOwner ----

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """On to the handler."""
        self.served += 1
        self._keeper.serve(self, end, head)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """The gateway sent no request: say so, and close."""
        log.warning("the gateway sent what is no request: %s", detail)
        answer_problem(end, status, code, "The request is malformed")

    def end_closed(self, end: ServerEnd) -> None:
        """The connection is gone."""
        self._keeper.closed(self)
