"""One request as the gateway follows it: who asks, by which listener, what was decided, what the audit log will say.

Posture: pure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from auth.policy import Allowed, Context
from auth.verifier import Authenticated
from gateway.audit import MAX_STRING, render_fields
from gateway.identity import Peer
from rhttp.head import RequestHead

if TYPE_CHECKING:
    from gateway.services import Generation

_MAX_POLICIES: Final = 1024
"""Sets of policy ids remembered in rendered form."""


_policies: Final[dict[tuple[str, ...], bytes]] = {}


def _render_policies(ids: tuple[str, ...]) -> bytes:
    rendered = render_fields({"policy": ids})
    if len(_policies) >= _MAX_POLICIES:
        _policies.clear()
    _policies[ids] = rendered
    return rendered


class Admitted:
    """Proof that a request passed certificate, Digest and policy; made in `gateway.admission` only."""

    __slots__ = ("allowed", "digest")

    def __init__(self, digest: Authenticated | None, allowed: Allowed) -> None:
        self.digest = digest
        self.allowed = allowed


class Call:
    """One request. A plain slotted class: one is made for every request."""

    __slots__ = (
        "admitted",
        "context",
        "generation",
        "head",
        "listener",
        "parent_id",
        "peer",
        "query",
        "request_id",
        "started",
        "target",
    )

    def __init__(self, head: RequestHead, peer: Peer, listener: str, request_id: str, generation: Generation) -> None:
        self.head = head
        self.peer = peer
        self.listener = listener
        self.request_id = request_id
        self.generation = generation
        self.parent_id: str | None = None
        self.target = b""
        """The normal path; empty until it was parsed."""
        self.query: bytes | None = None
        self.context: Context
        """The circumstances that policy was last asked about."""
        self.admitted: Admitted | None = None
        self.started = time.monotonic()

    def audit_of(self, outcome: str, *, status: int | None, worker: str | None) -> Mapping[str, object] | bytes:
        """As `audit` for an admitted request, rendered: these are the lines of nearly every exchange.

        Everything in them is ours or was parsed into a form that needs no escaping: ids are hex or tokens, names and
        pools are names, and a normal path has neither quotes nor backslashes.
        """
        if self.admitted is None or len(self.target) > MAX_STRING:
            fields = self.audit(outcome, status=status)
            if worker is not None:
                fields["worker"] = worker
            return fields
        ids = self.admitted.allowed.policy_ids
        policy = _policies.get(ids)
        if policy is None:
            policy = _render_policies(ids)
        parent, peer = self.parent_id, self.peer.rendered
        return b'"request_id":"%b",%b%b,"listener":"%b","outcome":"%b",%b,"target":"%b"%b%b,"ms":%.3f' % (
            self.request_id.encode("ascii"),
            peer if parent is None else b'"parent_id":"%b",' % parent.encode("ascii"),
            b"" if parent is None else peer,
            self.listener.encode("ascii"),
            outcome.encode("ascii"),
            policy,
            self.target,
            b"" if worker is None else b',"worker":"%b"' % worker.encode("ascii"),
            b"" if status is None else b',"status":%d' % status,
            (time.monotonic() - self.started) * 1000,
        )

    def audit(self, outcome: str, *, status: int | None = None, reason: str | None = None) -> dict[str, object]:
        """The fields of this request's audit line. The target is the normal path, never the query."""
        peer = self.peer
        fields: dict[str, object] = {"request_id": self.request_id}
        if self.parent_id is not None:
            fields["parent_id"] = self.parent_id
        fields["identity"] = peer.identity
        if peer.serial is not None:
            fields["serial"] = peer.serial
        if peer.source is not None:
            fields["source"] = peer.source
        fields["listener"] = self.listener
        fields["outcome"] = outcome
        if reason is not None:
            fields["reason"] = reason
        if self.admitted is not None:
            fields["policy"] = self.admitted.allowed.policy_ids
        if self.target:
            fields["target"] = self.target.decode("latin-1")
        if status is not None:
            fields["status"] = status
        fields["ms"] = round((time.monotonic() - self.started) * 1000, 3)
        return fields
