"""What it takes to send a request on, or why it goes no further (RFC 9110 sections 7.6.2 and 7.6.3).

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from gateway.admission.checks import Refusal
from gateway.admission.request_record import Question
from gateway.exchange.exchange import Inbound
from gateway.http.fields import one_hop_less
from gateway.ingress.field_section import FieldSection
from gateway.ingress.outcomes import Act, Dispatch, Forward, Options
from gateway.pools.hosted import HostedPool
from rhttp.message import FieldBlock

_LOOP: Final = Refusal(status=508, slug="loop-detected", reason="via_loop")
_HERE: Final = Options()


def forward(section: FieldSection, question: Question, inbound: Inbound, target: bytes) -> Act:
    """Send it to a master as ``target`` once policy has said yes to ``question``."""
    block = _next_hop(section)
    return Forward(question, inbound, target, block) if isinstance(block, FieldBlock) else block


def dispatch(
    section: FieldSection,
    question: Question,
    pool: HostedPool,
    target: bytes,
    *,
    worker: str | None = None,
    route_pool: str | None = None,
) -> Act:
    """As `forward`, to a worker of a pool; see `Dispatch`."""
    block = _next_hop(section)
    if not isinstance(block, FieldBlock):
        return block
    return Dispatch(question, pool, target, block, section.wishes, worker=worker, route_pool=route_pool)


def _next_hop(section: FieldSection) -> FieldBlock | Options | Refusal:
    """The fields that go on, or why nothing does."""
    block = section.block
    if section.max_forwards is not None:
        if not section.max_forwards:
            return _HERE
        block = one_hop_less(block)
    return _LOOP if section.is_loop else block
