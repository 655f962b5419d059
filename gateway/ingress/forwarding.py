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
from gateway.ingress.outcomes import Act, Forward, Options

_LOOP: Final = Refusal(status=508, slug="loop-detected", reason="via_loop")
_HERE: Final = Options()


def forward(
    section: FieldSection,
    question: Question,
    inbound: Inbound,
    target: bytes,
    *,
    worker: str | None = None,
    dispatch: bool = False,
    pool: str | None = None,
) -> Act:
    """Send it to ``inbound`` as ``target`` once policy has said yes to ``question``; see `Forward`.

    What goes to a worker waits for a slot as long as its requester is willing to, and the configuration lets it.
    """
    block = section.block
    if section.max_forwards is not None:
        if not section.max_forwards:
            return _HERE
        block = one_hop_less(block)
    if section.is_loop:
        return _LOOP
    if not dispatch:
        return Forward(question, inbound, target, block)
    wishes = section.wishes
    return Forward(
        question,
        inbound,
        target,
        block,
        worker=worker,
        label=wishes.label,
        wait=min(float(wishes.wait), section.generation.config.limits.wait_max),
        dispatch=True,
        pool=pool,
    )
