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
from gateway.ingress.field_section import Wishes
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from rhttp.message import Blocks, FieldBlock, Length
from rhttp.reversal.upgrade import UpgradeVariant


class Forward:
    """It goes to a master. A plain slotted class, like `Dispatch`: requests for new paths make one each."""

    __slots__ = ("block", "inbound", "question", "target")

    def __init__(self, question: Question, inbound: Inbound, target: bytes, block: FieldBlock) -> None:
        self.question = question
        """What policy must have allowed."""
        self.inbound = inbound
        self.target = target
        self.block = block
        """The fields that go on, without ``Rhttp-Request-Id``."""


class Dispatch:
    """It goes to a worker of a pool."""

    __slots__ = ("block", "pool", "question", "route_pool", "target", "wishes", "worker")

    def __init__(
        self,
        question: Question,
        pool: HostedPool,
        target: bytes,
        block: FieldBlock,
        wishes: Wishes,
        *,
        worker: str | None = None,
        route_pool: str | None = None,
    ) -> None:
        self.question = question
        """As in `Forward`, like target and block."""
        self.pool = pool
        self.target = target
        self.block = block
        self.wishes = wishes
        self.worker = worker
        """Only this worker will do; None: any."""
        self.route_pool = route_pool
        """The pool's name, when a route leads to it: its target does not tell. None: its target does."""


@dataclass(frozen=True, slots=True)
class Json:
    """An answer of our own."""

    status: int
    value: Any


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer of our own that is no JSON."""

    status: int
    blocks: Blocks
    length: Length
    content: bytes


@dataclass(frozen=True, slots=True)
class Collect:
    """The answer needs the content, as a whole, and that is at most so many bytes."""

    most: int
    answer: Callable[[bytes], Raw]


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


@dataclass(frozen=True, slots=True)
class Issue:
    """The answer is what the issuer gives."""

    order: Callable[[bytes, RequestRecord], dict[str, object]]
    """From the request's content to the order; raises `RequestInvalid`."""
    question: Question | None
    """As in `Forward`; None: policy was asked before there was a certificate."""


Outcome = Forward | Dispatch | Refusal | Json | Raw | Collect | Options | Switch | Stream | Gather | Issue


@dataclass(frozen=True, slots=True)
class Later:
    """An outcome that the moment decides: it is asked for when the request was admitted, each time."""

    decide: Callable[[ProcessContext, RequestRecord], Outcome]


Act = Outcome | Later
"""What an admitted request is for."""
