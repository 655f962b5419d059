"""What peers write down while they work: every request that was sent, every request that ran, every trouble.

Pure data; the lists are appended to by many threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Sent:
    """One request as its requester saw it. Times are of the monotonic clock.

    `key` is the last segment of its target and unique in a run. A complete answer has a `status`; without one the
    connection ended (`how` says in which way), or nothing came for too long (`how` is ``hung``).
    """

    key: str
    who: str
    method: str
    began: float
    ended: float = 0.0
    status: int | None = None
    request_id: str = ""
    problem: str = ""
    echo: str = ""
    """What the answer's content says that it answers; empty when the answer is the gateway's own."""
    how: str = ""


@dataclass(slots=True)
class Ran:
    """One request that reached a master or worker whole."""

    key: str
    where: str


@dataclass(slots=True)
class Trouble:
    """One thing that went wrong on purpose. `name` is its kind, `who` the peer or process that it hit."""

    name: str
    who: str
    began: float
    ended: float = 0.0


@dataclass(slots=True)
class Shut:
    """An identity that was shut out: `until` is when it was let in again (infinity: never)."""

    who: str
    since: float
    until: float = float("inf")


@dataclass(slots=True)
class Books:
    """All of one run, which began at `began`."""

    began: float = 0.0

    sent: list[Sent] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    shut: list[Shut] = field(default_factory=list)
