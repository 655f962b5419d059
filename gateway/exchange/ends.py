"""What stands behind the response end of an exchange: room for a request, connections on which we are the client.

Trust: pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from rhttp.ends import Link, ResponseEnd
from rhttp.errors import Loss
from rhttp.http1.limits import Http1Limits
from rhttp.memo import Memo
from rhttp.message import one_field
from rhttp.timers import TimerWheel

_REMEMBERED: Final = 1024


class Addressee:
    """A worker, as requests for it and answers of it name it."""

    __slots__ = ("ascii", "authority", "block", "name")

    def __init__(self, name: str, suffix: bytes) -> None:
        """``suffix`` is what follows its name in its authority."""
        self.name = name
        self.ascii = name.encode("ascii")
        self.authority = self.ascii + suffix
        self.block = one_field(b"Rhttp-Worker", self.ascii)


class Addressees:
    """The workers of one pool that other processes hold, as requests for them name them."""

    __slots__ = ("_known", "_suffix")

    def __init__(self, suffix: bytes) -> None:
        """``suffix`` is what follows a worker's name in its authority."""
        self._suffix = suffix
        self._known: Memo[bytes, Addressee] = Memo(_REMEMBERED)

    def of(self, name: bytes) -> Addressee:
        """The worker of this name."""
        known = self._known.get(name)
        if known is None:
            known = self._known.remember(name, Addressee(name.decode("ascii"), self._suffix))
        return known


class Opening(Protocol):
    """Room for one request, which is whoever's it was given to: a worker's slot."""

    def open(self) -> ResponseEnd:
        """An end for the request."""

    @property
    def addressee(self) -> Addressee:
        """Whom the request is for."""


class ClientConnection(Protocol):
    """A connection on which we are the client: it opens response ends, one at a time or many."""

    limits: Http1Limits
    """Those in force for what it opens next."""

    @property
    def capacity(self) -> int:
        """How many requests it takes at a time."""

    @property
    def answered(self) -> int:
        """Requests that were answered on it."""

    @property
    def last(self) -> str | None:
        """For the owner's log: who was answered last."""

    @property
    def closed(self) -> bool:
        """Whether it takes no further request."""

    def open(self) -> ResponseEnd:
        """An end for one request; there must be room for it."""

    def rest(self, seconds: float) -> None:
        """Close when no request comes in this time; said each time that it is idle."""

    def close(self, detail: str = "closed") -> None:
        """Close it in order; it must be idle."""

    def abort(self, loss: Loss = Loss.ABORTED, detail: str = "aborted") -> None:
        """Close it now; who waits for an answer on it is told ``loss``."""


class ConnectionOwner(Protocol):
    """Keeps connections: a pool."""

    def client_idle(self, connection: ClientConnection, /) -> None:
        """An exchange is over, and the connection can take another request in its place."""

    def client_closed(self, connection: ClientConnection, detail: str, /) -> None:
        """The connection is gone or no longer of use; told once."""


Speak = Callable[[ConnectionOwner, Http1Limits, TimerWheel, Link], ClientConnection]
"""Makes the client's side of a link that is up and has no owner; it hears of the link from now on."""
