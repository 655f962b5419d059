"""What becomes of a request: values, decided here and performed by its connection.

Trust: pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.admission.checks import Refusal
from gateway.admission.request_record import Question, RequestRecord
from gateway.core.context import ProcessContext
from gateway.exchange.exchange import Inbound
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from rhttp.message import FieldBlock
from rhttp.reversal.upgrade import UpgradeVariant


class Forward:
    """It goes to a master or a worker. A plain slotted class: requests for new paths make one each."""

    __slots__ = ("block", "dispatch", "inbound", "label", "pool", "question", "target", "wait", "worker")

    def __init__(
        self,
        question: Question,
        inbound: Inbound,
        target: bytes,
        block: FieldBlock,
        *,
        worker: str | None = None,
        label: tuple[str, str] | None = None,
        wait: float = 0.0,
        dispatch: bool = False,
        pool: str | None = None,
    ) -> None:
        self.question = question
        """What policy must have allowed."""
        self.inbound = inbound
        self.target = target
        self.block = block
        """The fields that go on, without ``Rhttp-Request-Id``."""
        self.worker = worker
        """Only this worker will do."""
        self.label = label
        self.wait = wait
        """Seconds that it may wait for a slot."""
        self.dispatch = dispatch
        """Whether it goes to a worker of a pool."""
        self.pool = pool
        """That pool's name, when a route leads to it: the target does not tell."""


@dataclass(frozen=True, slots=True)
class Json:
    """An answer of our own."""

    status: int
    value: object


@dataclass(frozen=True, slots=True)
class Options:
    """An OPTIONS request that ends here (RFC 9110 sections 7.6.2 and 9.3.7)."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The connection changes roles: it is a worker's from now on."""

    pool: HostedPool | RelayPool
    variant: UpgradeVariant
    instance: str | None
    """The worker's start, when it names one."""
    block: FieldBlock
    """As in `Forward`, for a master that is asked."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The answer is what happens in a pool from now on."""

    pool: HostedPool


@dataclass(frozen=True, slots=True)
class Gather:
    """The answer needs the other processes of the gateway."""

    question: str
    """What they are asked."""
    answer: Callable[[Mapping[int, Any]], object]
    """From what they told, by process, to the JSON of the answer."""


Outcome = Forward | Refusal | Json | Options | Switch | Stream | Gather


@dataclass(frozen=True, slots=True)
class Later:
    """An outcome that the moment decides: it is asked for when the request was admitted, each time."""

    decide: Callable[[ProcessContext, RequestRecord], Outcome]


Act = Outcome | Later
"""What an admitted request is for."""
