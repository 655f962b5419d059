"""What a forwarded request meant, kept for the next one on its connection that is like it.

Posture: pure; it changes no answer.
"""

from __future__ import annotations

from auth.policy import ResourceType
from gateway.call import Call, Rendered
from gateway.exchange import Inbound
from rhttp.fields import Fields


class Plan:
    """What the last forwarded request meant: everything about it that does not depend on the moment.

    It was made of the head without ``Authorization``, the peer and the generation, so it holds for the next request
    that has the very same head (see `rhttp.headmemo`) under the same generation. A plain slotted class.
    """

    __slots__ = (
        "dispatch",
        "fields",
        "generation",
        "inbound",
        "label",
        "lines",
        "parent_id",
        "path",
        "query",
        "question",
        "rendered",
        "target",
        "wait",
        "worker",
    )

    def __init__(
        self,
        call: Call,
        question: tuple[str, ResourceType, str],
        inbound: Inbound,
        target: bytes,
        lines: bytes,
        *,
        worker: str | None,
        label: tuple[str, str] | None,
        wait: float,
        dispatch: bool,
    ) -> None:
        self.fields: Fields = call.head.fields
        """By their identity: one object for equal heads."""
        self.generation = call.generation
        self.path = call.target
        self.query = call.query
        self.parent_id = call.parent_id
        self.question = question
        self.inbound = inbound
        self.target = target
        self.lines = lines
        self.worker = worker
        self.label = label
        self.wait = wait
        self.dispatch = dispatch
        self.rendered: Rendered | None = None
