"""Admission: certificate, Digest, policy, in this order, before anything is done for a request.

The certificate was verified in the handshake; here it is looked at again for each request, since it may have been
revoked or have run out. Then Digest, then policy. Everything denies by default.

Trust: untrusted client, worker and master.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auth.cedar import Decider
from auth.policy import Allowed, Context, Denied
from auth.principal import Principal
from auth.verifier import Authenticated, Unauthenticated
from gateway.admission.request_record import Admitted, Question, Rendered, RequestRecord
from gateway.core.context import Generation, Policies, ProcessContext
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from rhttp.digest.authorization_cache import AuthorizationCache
from rhttp.message import Blocks, FieldBlock, one_field


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A negative answer: what the peer is told and what the audit log says."""

    status: int
    slug: str
    reason: str
    event: str = "request"
    policy: tuple[str, ...] = ()
    stale: bool = False
    """For the challenge of a 401 (RFC 7616 section 3.3)."""
    extra: Blocks = ()
    """Fields of the answer."""
    detail: Mapping[str, object] | None = None
    """More for the audit log."""
    closes: bool = False
    """The connection ends behind the answer."""
    said: str | None = None
    """What the peer is told of its own input, where the problem type takes that."""


class _Decision:
    """What policy allowed, for the next request of the connection that differs in nothing a policy can see."""

    __slots__ = ("algorithm", "allowed", "engine", "method", "minute", "parent_id", "path", "question", "rendered")

    def __init__(
        self, engine: Policies, question: Question, record: RequestRecord, admitted: Admitted, minute: int
    ) -> None:
        self.engine = engine
        self.question = question
        self.allowed = admitted.allowed
        self.algorithm = admitted.algorithm
        self.method = record.head.method
        self.minute = minute
        self.path: bytes | None = record.target
        """None: no policy looks at it."""
        self.parent_id = record.parent_id
        self.rendered: Rendered | None = None

    def holds(
        self, engine: Policies, question: Question, record: RequestRecord, algorithm: str | None, minute: int
    ) -> bool:
        """Whether it is about this request, too. Of the rest that policies see a connection has but one."""
        return (
            self.engine is engine
            and self.question == question
            and self.method == record.head.method
            and self.minute == minute
            and self.algorithm == algorithm
            and (self.path is None or self.path == record.target)
        )

    def render(self, record: RequestRecord) -> None:
        """Give the record the parts of its audit line that requests like it have in common."""
        rendered = self.rendered
        if rendered is None or self.parent_id != record.parent_id:
            self.parent_id = record.parent_id
            rendered = record.render()
        else:
            rendered = rendered.at(record.target)
        self.rendered = record.rendered = rendered


class ConnectionCache:
    """What the next request of one connection can reuse of the last one's checks; it changes no answer."""

    __slots__ = ("_decider", "_decider_of", "authorization", "decision")

    def __init__(self) -> None:
        self.authorization = AuthorizationCache()
        self._decider: Decider | None = None
        self._decider_of: tuple[Policies, Question] | None = None
        self.decision: _Decision | None = None

    def decider_for(self, engine: Policies, principal: Principal, question: Question) -> Decider:
        """The prepared question; the principal is always the connection's."""
        of = (engine, question)
        decider = self._decider
        if decider is None or self._decider_of != of:
            decider = self._decider = engine.decider(principal, *question)
            self._decider_of = of
        return decider


def check_peer(process: ProcessContext, peer: Peer, generation: Generation) -> Refusal | None:
    """Step 1: the certificate still holds, and we still know enough to say so."""
    if isinstance(peer, LocalPeer):
        return None
    if peer.issuer not in generation.issuers:  # the handshake may have begun before the reload that took it out
        return _ended("issuer_gone")
    if peer.serial in process.snapshot.revoked:
        return _ended("revoked")
    if peer.expires <= process.epoch:
        return _ended("expired")
    if process.state_is_stale():
        return Refusal(status=503, slug="state-stale", event="auth.refused", reason="state_stale")
    return None


def _ended(reason: str) -> Refusal:
    """For good, so the connection ends, too; what may be over at the next request leaves it."""
    return Refusal(status=403, slug="forbidden", event="auth.refused", reason=reason, closes=True)


def check_digest(
    process: ProcessContext, record: RequestRecord, memory: ConnectionCache
) -> Authenticated | Refusal | None:
    """Step 2: Digest credentials. None: there are none, and policy says whether that will do.

    The dispatch listener asks for none: whoever may open it is its master.
    """
    peer = record.peer
    if isinstance(peer, LocalPeer):
        return None
    head = record.head
    if head.authorization is None:
        return None
    outcome = record.generation.verifier.check(
        head.authorization,
        method=head.method,
        uri=head.target,
        listener=record.listener.encode("ascii"),
        binding=peer.fingerprint,
        expected_user=peer.name,
        credentials=process.credentials,
        now=process.elapsed,
        recent=memory.authorization,
    )
    if isinstance(outcome, Unauthenticated):
        return Refusal(
            status=401,
            slug="unauthenticated",
            event="auth.refused",
            reason=outcome.reason.value,
            stale=outcome.stale,
        )
    return outcome


def check_policy(
    process: ProcessContext,
    record: RequestRecord,
    memory: ConnectionCache,
    digest: Authenticated | None,
    question: Question,
) -> Admitted | Refusal:
    """Step 3: the policy's decision, which the record keeps when it is a yes.

    A denial without Digest credentials is a challenge, not a final word. Policies see the time to the minute, so a
    decision holds until that is over.
    """
    peer = record.peer
    engine = record.generation.engine
    minute = int(process.epoch) // 60
    algorithm = None if digest is None else digest.algorithm
    known = memory.decision
    if known is not None and known.holds(engine, question, record, algorithm, minute):
        admitted = record.admitted = Admitted(digest, known.allowed, question)
        known.render(record)
        return admitted
    decider = memory.decider_for(engine, peer.principal, question)
    outcome = _outcome(record, digest, decider.decide(circumstances(record, digest, process.epoch)), question)
    if isinstance(outcome, Admitted):
        record.admitted = outcome
        known = memory.decision = _Decision(engine, question, record, outcome, minute)
        if "path" not in decider.reads:
            known.path = None
    return outcome


def circumstances(record: RequestRecord, digest: Authenticated | None, now: float) -> Context:
    """What policies see of a request besides who asks and for what; ``now`` in epoch seconds."""
    return Context(
        record.listener,
        record.protocol,
        digest.algorithm if digest is not None else None,
        record.tls_version,
        record.head.method.decode("ascii"),
        record.target.decode("ascii"),
        record.peer.source,
        now,
        record.peer.key_type,
        record.peer.group,
    )


def check_again(process: ProcessContext, record: RequestRecord, kept: Admitted) -> Admitted | Refusal:
    """Certificate and policy once more, for a request that waited: by what is in force now, not when it came.

    Digest is not: who loses its user or password loses its connection by that, and with it a request that waits.
    """
    generation = record.generation = process.generation
    record.rendered = None  # other policies may allow it now
    stopped = check_peer(process, record.peer, generation)
    if stopped is not None:
        return stopped
    decider = generation.engine.decider(record.peer.principal, *kept.question)
    decision = decider.decide(circumstances(record, kept.digest, process.epoch))
    outcome = _outcome(record, kept.digest, decision, kept.question)
    if isinstance(outcome, Admitted):
        record.admitted = outcome
    return outcome


def admit_connection(
    process: ProcessContext,
    peer: Peer,
    question: Question,
    *,
    listener: str,
    protocol: str,
    tls_version: str | None,
) -> Admitted | Refusal:
    """Certificate and policy for a connection that carries no request: its dialect begins with the switch itself.

    There are no credentials to ask for, so what policy wants them for is refused, and by no challenge. Policies see
    neither method nor path. Nothing is remembered: a connection is asked about once, and again by a reload.
    """
    generation = process.generation
    stopped = check_peer(process, peer, generation)
    if stopped is not None:
        return stopped
    circumstance = Context(
        listener,
        protocol,
        tls_version=tls_version,
        source=peer.source,
        now=process.epoch,
        key_type=peer.key_type,
        group=peer.group,
    )
    decision = generation.engine.decider(peer.principal, *question).decide(circumstance)
    return Admitted(None, decision, question) if isinstance(decision, Allowed) else _denied(decision)


def is_still_allowed(process: ProcessContext, record: RequestRecord) -> bool:
    """Whether an admitted request may be sent again: asked once more if a reload came since it was."""
    if record.generation is process.generation:
        return True
    assert record.admitted is not None
    return isinstance(check_again(process, record, record.admitted), Admitted)


def _outcome(
    record: RequestRecord, digest: Authenticated | None, decision: Allowed | Denied, question: Question
) -> Admitted | Refusal:
    if isinstance(decision, Allowed):
        return Admitted(digest, decision, question)
    if digest is None and isinstance(record.peer, CertifiedPeer):
        return Refusal(status=401, slug="unauthenticated", event="auth.refused", reason="absent")
    return _denied(decision)


def _denied(decision: Denied) -> Refusal:
    return Refusal(
        status=403, slug="forbidden", event="policy.denied", reason=decision.reason, policy=decision.policy_ids
    )


def challenge(process: ProcessContext, record: RequestRecord, refused: Refusal) -> FieldBlock:
    """The ``WWW-Authenticate`` field of a 401."""
    value = record.generation.verifier.challenge(
        listener=record.listener.encode("ascii"),
        binding=record.peer.fingerprint,
        now=process.precise(),
        entropy=process.entropy(),
        stale=refused.stale,
    )
    return one_field(b"WWW-Authenticate", value)
