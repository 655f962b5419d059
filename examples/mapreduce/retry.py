"""Whether a unit that brought no result is tried once more, and when.

A unit may be sent as often as one likes: it has an id, its answer is taken once, and working on it changes nothing
else. Still it matters which kind of failure it was. One that never reached a worker harms nobody and waits patiently.
One that was lost *with* its worker may be what killed it, and must not take the whole pool along. Pure: randomness is
an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapreduce.problems import GATEWAY, OURS, Problem

WAITING = frozenset({GATEWAY + slug for slug in ("no-slot", "not-sent", "draining", "overloaded")}) | frozenset(
    {OURS + "busy", OURS + "gateway-unreachable"}
)
"""Problem types that say that no worker began."""
LOST = frozenset({GATEWAY + slug for slug in ("worker-lost", "worker-invalid", "deadline")})
"""Problem types that say that a worker had it, or may have had it."""

MAX_WAITING = 20
MAX_LOST = 4
_FIRST = 0.1
_LONGEST = 5.0
"""Seconds: the first pause is at most this long, each later one twice as long, up to the second number."""


@dataclass(frozen=True, slots=True)
class Tries:
    """How many tries ended in either way."""

    waiting: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more after `delay` seconds."""

    delay: float
    tries: Tries


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job has failed, with this problem."""

    problem: Problem


def gateway_problem(slug: str, status: int, title: str, detail: str | None = None) -> Problem:
    """A problem of one of the gateway's types, for what we find out ourselves (an answer that makes no sense)."""
    return Problem(type=GATEWAY + slug, title=title, status=status, detail=detail)


def judge(problem: Problem, tries: Tries, *, chance: float, retry_after: float = 0.0) -> Again | GiveUp:
    """What follows when a try ended with `problem`; `tries` are those before it.

    Args:
        chance: a random number from 0 to 1; it spreads the next tries of many units.
        retry_after: seconds that the answer asked to wait, honoured up to the longest pause.
    """
    if problem.status < 500:
        # The order is wrong, or not permitted: it will be so everywhere.
        return GiveUp(problem)
    if problem.type in WAITING:
        now = Tries(waiting=tries.waiting + 1, lost=tries.lost)
    else:
        # Types that nobody listed, too: a worker that answers 500 had the unit.
        now = Tries(waiting=tries.waiting, lost=tries.lost + 1)
    if now.waiting >= MAX_WAITING or now.lost >= MAX_LOST:
        return GiveUp(problem)
    pause: float = min(_LONGEST, _FIRST * 2.0 ** (now.waiting + now.lost - 1))
    return Again(max(pause * chance, min(retry_after, _LONGEST)), now)
