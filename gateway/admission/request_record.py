"""One request as the gateway follows it: who asks, by which listener, what was decided, what the audit log will say.

Trust: pure.
"""

from __future__ import annotations

import time
from typing import Final

from auth.policy import Allowed, ResourceType
from auth.verifier import Authenticated
from gateway.audit.line import MAX_STRING, FieldRefused, Fields, RenderedFields, is_plain, render_fields, three_digits
from gateway.core.context import Generation
from gateway.core.peer import Peer
from rhttp.memo import Memo
from rhttp.message import RequestHead, one_field

_monotonic: Final = time.monotonic
_MAX_POLICIES: Final = 1024
"""Sets of policy ids remembered in rendered form."""


_policies: Final[Memo[tuple[str, ...], bytes]] = Memo(_MAX_POLICIES)


def _render_policies(ids: tuple[str, ...]) -> bytes:
    return _policies.remember(ids, render_fields({"policy": ids}))


Question = tuple[str, ResourceType, str]
"""What policy is asked: action, kind and name of the resource."""


class Admitted:
    """Proof that a request passed certificate, Digest and policy; made in `gateway.admission.checks` only."""

    __slots__ = ("allowed", "digest", "question")

    def __init__(self, digest: Authenticated | None, allowed: Allowed, question: Question) -> None:
        self.digest = digest
        self.allowed = allowed
        self.question = question
        """What was decided: the proof is good for this and for nothing else."""

    @property
    def algorithm(self) -> str | None:
        """What the peer proved its password with; None: it did not."""
        return None if self.digest is None else self.digest.algorithm

    def require(self, question: Question) -> None:
        """Raise unless it was this that policy allowed: called by whoever acts on the proof.

        Raises:
            PermissionError: the proof is about something else; a fault of ours, and nothing is done.
        """
        if self.question != question:
            raise PermissionError("a proof of another decision")


class Rendered:
    """The parts of an audit line that do not change from one request to the next that is like it.

    Args:
        head: plain (see `is_plain`), as `policy` is; a target is looked at here.
    """

    __slots__ = ("_policy", "_target", "head", "tail")

    def __init__(self, head: bytes, policy: bytes, target: bytes) -> None:
        if not is_plain(target):
            raise FieldRefused("a target that is not plain ASCII, or holds something nested")
        self.head = head
        """Behind the request id, up to the outcome."""
        self._policy = policy
        self._target = target
        self.tail = b'%b,"target":"%b"' % (policy, target)
        """Behind the outcome, up to the worker."""

    def at(self, target: bytes) -> Rendered | None:
        """The same for another target, a normal path; None: it is one that needs care."""
        if target == self._target:
            return self
        if len(target) > MAX_STRING:
            return None
        return Rendered(self.head, self._policy, target)


class RequestRecord:
    """One request. A plain slotted class: one is made for every request."""

    __slots__ = (
        "admitted",
        "generation",
        "head",
        "id_block",
        "id_bytes",
        "listener",
        "parent_id",
        "peer",
        "pool",
        "protocol",
        "query",
        "rendered",
        "request_id",
        "started",
        "target",
        "tls_version",
    )

    def __init__(
        self,
        head: RequestHead,
        peer: Peer,
        listener: str,
        request_id: str,
        generation: Generation,
        tls_version: str | None = None,
    ) -> None:
        self.head = head
        self.peer = peer
        self.listener = listener
        self.request_id = request_id
        self.id_bytes = request_id.encode("ascii")
        self.id_block = one_field(b"Rhttp-Request-Id", self.id_bytes)
        """For the request as it goes on, and for its answer."""
        self.generation = generation
        self.parent_id: str | None = None
        self.target = b""
        """The normal path; empty until it was parsed."""
        self.query: bytes | None = None
        self.pool: str | None = None
        """The pool that a route led to, which its target does not tell."""
        self.protocol = "http/1.1"
        """As policies see it: the version, or what a worker asks to speak."""
        self.tls_version = tls_version
        self.admitted: Admitted | None = None
        self.rendered: Rendered | None = None
        """What `audit_of` needs, when it is known from a request like this one."""
        self.started = _monotonic()

    def audit_of(self, outcome: bytes, *, status: int | None, worker: bytes | None) -> Fields:
        """As `audit` for an admitted request, rendered: these are the lines of nearly every exchange.

        Everything in them is ours or was parsed into a form that needs no escaping: ids are hex or tokens, names and
        pools are names, and a normal path has neither quotes nor backslashes.
        """
        rendered = self.rendered_once()
        if rendered is None:
            fields = self.audit(outcome.decode("ascii"), status=status)
            if worker is not None:
                fields["worker"] = worker.decode("ascii")
            return fields
        spent = self.spent()
        who = b',"worker":"%b"' % worker if worker is not None else b""
        if self.pool is not None:
            who += b',"pool":"%b"' % self.pool.encode("ascii")
        if status is not None:
            who += b',"status":%d' % status
        return RenderedFields(
            b'"request_id":"%b%b%b%b%b,"ms":%d.%b'
            % (
                self.id_bytes,
                rendered.head,
                outcome,
                rendered.tail,
                who,
                spent // 1000,
                three_digits(spent % 1000),
            )
        )

    def spent(self) -> int:
        """Microseconds that it took so far."""
        return int((_monotonic() - self.started) * 1e6)

    def rendered_once(self) -> Rendered | None:
        """What `render` gives, kept for the request's further lines; None also while it is not admitted."""
        if self.rendered is None and self.admitted is not None:
            self.rendered = self.render()
        return self.rendered

    def render(self) -> Rendered | None:
        """What the audit lines of this request, and of those like it, have in common. It must be admitted.

        None: it needs care, since the operator's ids of policies may hold anything, and a target be too long.
        """
        assert self.admitted is not None
        if len(self.target) > MAX_STRING:
            return None
        ids = self.admitted.allowed.policy_ids
        policy = _policies.get(ids)
        if policy is None:
            policy = _render_policies(ids)
        parent = b"" if self.parent_id is None else b'"parent_id":"%b",' % self.parent_id.encode("ascii")
        head = b'",%b%b,"listener":"%b","outcome":"' % (parent, self.peer.rendered, self.listener.encode("ascii"))
        policy = b'",%b' % policy
        return Rendered(head, policy, self.target) if is_plain(head) and is_plain(policy) else None

    def audit(self, outcome: str, *, status: int | None = None, reason: str | None = None) -> dict[str, object]:
        """The fields of this request's audit line. The target is the normal path, never the query."""
        fields: dict[str, object] = {"request_id": self.request_id}
        if self.parent_id is not None:
            fields["parent_id"] = self.parent_id
        fields |= self.peer.audit()
        fields["listener"] = self.listener
        fields["outcome"] = outcome
        if reason is not None:
            fields["reason"] = reason
        if self.admitted is not None:
            fields["policy"] = self.admitted.allowed.policy_ids
        if self.target:
            fields["target"] = self.target.decode("latin-1")
        if self.pool is not None:
            fields["pool"] = self.pool
        if status is not None:
            fields["status"] = status
        fields["ms"] = round((_monotonic() - self.started) * 1000, 3)
        return fields
