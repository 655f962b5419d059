"""Admission: certificate, Digest, policy, in this order, before anything is done for a request.

The certificate was verified in the handshake; here it is looked at again for each request, since it may have been
revoked or have run out. Then Digest, then policy. Everything denies by default.

Trust: untrusted client, worker and master.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from auth.cedar import Decider
from auth.policy import Allowed, Context, Denied, ResourceType
from auth.principal import Principal
from auth.verifier import Authenticated, Unauthenticated
from gateway.admission.request_record import Admitted, Question, RequestRecord
from gateway.core.context import Policies, ProcessContext
from gateway.core.peer import CertifiedPeer, LocalPeer
from rhttp.digest.authorization_cache import RecentAuthorization

_TLS: Final = b"tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A negative answer: what the peer is told and what the audit log says."""

    status: int
    slug: str
    event: str
    reason: str
    policy: tuple[str, ...] = ()
    stale: bool = False
    """For the challenge of a 401 (RFC 7616 section 3.3)."""


class ConnectionCache:
    """What the next request of one connection can reuse of the last one's checks; it changes no answer."""

    __slots__ = ("authorization", "decider", "decider_of")

    def __init__(self) -> None:
        self.authorization = RecentAuthorization()
        self.decider: Decider | None = None
        self.decider_of: tuple[Policies, Question] | None = None

    def decider_for(self, engine: Policies, principal: Principal, question: Question) -> Decider:
        """The prepared question; the principal is always the connection's."""
        of = (engine, question)
        decider = self.decider
        if decider is None or self.decider_of != of:
            decider = self.decider = engine.decider(principal, *question)
            self.decider_of = of
        return decider


def check_peer(process: ProcessContext, record: RequestRecord) -> Refused | None:
    """Step 1: the certificate still holds, and we still know enough to say so."""
    peer = record.peer
    if isinstance(peer, LocalPeer):
        return None
    if peer.issuer not in record.generation.issuers:  # the handshake may have begun before the reload that took it out
        return Refused(status=403, slug="forbidden", event="auth.refused", reason="issuer_gone")
    if peer.serial in process.snapshot.revoked:
        return Refused(status=403, slug="forbidden", event="auth.refused", reason="revoked")
    if peer.expires <= process.epoch:
        return Refused(status=403, slug="forbidden", event="auth.refused", reason="expired")
    if process.state_is_stale():
        return Refused(status=503, slug="state-stale", event="auth.refused", reason="state_stale")
    return None


def check_digest(
    process: ProcessContext, record: RequestRecord, memory: ConnectionCache
) -> Authenticated | Refused | None:
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
        listener=_TLS,
        binding=peer.fingerprint,
        expected_user=peer.name,
        credentials=process.credentials,
        now=process.elapsed,
        recent=memory.authorization,
    )
    if isinstance(outcome, Unauthenticated):
        return Refused(
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
    action: str,
    resource_type: ResourceType,
    resource: str,
    *,
    protocol: str = "http/1.1",
    tls_version: str | None = None,
) -> Admitted | Refused:
    """Step 3: the policy's decision. A denial without Digest credentials is a challenge, not a final word."""
    peer = record.peer
    question = (action, resource_type, resource)
    decider = memory.decider_for(record.generation.engine, peer.principal, question)
    context = record.context = Context(
        record.listener,
        protocol,
        digest.algorithm if digest is not None else None,
        tls_version,
        record.head.method.decode("ascii"),
        record.target.decode("ascii"),
        peer.source,
        process.epoch,
    )
    return _outcome(record, digest, decider.decide(context), question)


def check_again(process: ProcessContext, record: RequestRecord, kept: Admitted) -> Admitted | Refused:
    """Certificate and policy once more, for a request that waited: by what is in force now, not when it came.

    Digest is not: who loses its user or password loses its connection by that, and with it a request that waits.
    """
    generation = record.generation = process.generation
    stopped = check_peer(process, record)
    if stopped is not None:
        return stopped
    context = record.context = record.context._replace(now=process.epoch)
    decision = generation.engine.decider(record.peer.principal, *kept.question).decide(context)
    return _outcome(record, kept.digest, decision, kept.question)


def is_still_allowed(process: ProcessContext, record: RequestRecord) -> bool:
    """Whether an admitted request may be sent again: asked once more if a reload came since it was."""
    if record.generation is process.generation:
        return True
    assert record.admitted is not None
    return isinstance(check_again(process, record, record.admitted), Admitted)


def _outcome(
    record: RequestRecord, digest: Authenticated | None, decision: Allowed | Denied, question: Question
) -> Admitted | Refused:
    if isinstance(decision, Allowed):
        return Admitted(digest, decision, question)
    if digest is None and isinstance(record.peer, CertifiedPeer):
        return Refused(status=401, slug="unauthenticated", event="auth.refused", reason="absent")
    return Refused(
        status=403, slug="forbidden", event="policy.denied", reason=decision.reason, policy=decision.policy_ids
    )


def admit_again(kept: Admitted, digest: Authenticated | None) -> Admitted:
    """The proof for a request that differs from one that was admitted in nothing that a policy can see.

    That it does not is for the caller to know: see `gateway.ingress.resolve`. The certificate and Digest were looked
    at anew.
    """
    return Admitted(digest, kept.allowed, kept.question)


def challenge(process: ProcessContext, record: RequestRecord, refused: Refused) -> bytes:
    """The ``WWW-Authenticate`` field line of a 401."""
    value = record.generation.verifier.challenge(
        listener=_TLS,
        binding=record.peer.fingerprint,
        now=process.precise(),
        entropy=process.entropy(),
        stale=refused.stale,
    )
    return b"WWW-Authenticate: %b\r\n" % value
