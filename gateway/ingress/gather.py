"""Answers that are about the whole gateway: the other processes are asked first.

Trust: meets untrusted clients and masters as those who wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.context import ProcessContext
from rhttp.ends import RequestEnd
from rhttp.message import Fields

WITHIN: Final = 1.0
"""Seconds in which the other processes answer; the answer goes out without whoever does not."""


@dataclass(frozen=True, slots=True)
class _Here:
    """Whoever asked is there."""


@dataclass(frozen=True, slots=True)
class _Gone:
    """Whoever asked left."""

    detail: str


class _Patience:
    """Holds a request while others are asked. It is the request sink of its server end."""

    __slots__ = ("requester",)

    def __init__(self) -> None:
        self.requester: _Here | _Gone = _Here()

    def request_content(self, data: bytes) -> None:
        """Content of a request that has no use for it."""

    def request_flush(self) -> None:
        """Nothing is kept back."""

    def request_end(self, trailers: Fields) -> None:
        """Nothing waits for it."""

    def request_abort(self, detail: str) -> None:
        """Whoever asked is gone."""
        self.requester = _Gone(detail)

    def request_half_closed(self) -> None:
        """It may still read."""

    def response_blocked(self) -> None:
        """One answer is let out whole."""

    def response_unblocked(self) -> None:
        """One answer is let out whole."""


def ask_all(
    process: ProcessContext,
    end: RequestEnd,
    question: str,
    then: Callable[[Mapping[int, Any]], None],
    gone: Callable[[str], None],
) -> None:
    """Ask all other processes, then call ``then`` with their answers by index, or ``gone`` when the requester left.

    Without other processes ``then`` is called at once.
    """
    others = process.others
    if others is None:
        then({})
        return
    patience = _Patience()
    end.sink = patience
    process.exchanges += 1

    def answered(answers: Mapping[int, Any]) -> None:
        process.exchange_over()
        match patience.requester:
            case _Gone(detail):
                gone(detail)
            case _Here():
                then(answers)

    others.gather(question, within=WITHIN, then=answered)
