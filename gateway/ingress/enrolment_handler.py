"""The enrolment listener: EST (RFC 7030) for those who have a token and no certificate yet, and nothing else.

The token's id is the Digest user, its secret the password. A challenge is good for this listener alone. Who asks
is known by the token only, so it has no connection limit of its own: the listener's bounds hold.

Trust: meets strangers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from OpenSSL import SSL

from auth.credentials import TokenGrant
from auth.policy import Allowed, Context, Denied
from auth.principal import Principal
from auth.verifier import Authenticated, Unauthenticated
from gateway.admission.checks import Refusal
from gateway.config.address import public_url
from gateway.config.limits import Limits
from gateway.control.descriptors import Sockets
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.enrolment.est import CA_CERTS, CERTS_ONLY, CSR_ATTRS, csr_attributes
from gateway.enrolment.issuance import Issuance, Outcome, Unissued, enroll_order
from gateway.http.problems import Problem, problem_body
from gateway.http.responses import NO_STORE, problem_blocks
from gateway.ingress.handlers import attach
from gateway.ingress.issuing import refusal_of
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Listener, by_source
from gateway.ingress.serving import serving_of
from rhttp.digest.authorization_cache import AuthorizationCache
from rhttp.digest.formula import Malformed
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, RequestHead, one_field
from rhttp.tls.link import SocketLink

LISTENER: Final = "enroll"
_PATH: Final = re.compile(rb"/\.well-known/est/(client|worker|master)/(cacerts|csrattrs|simpleenroll)")
_LIMITS: Final = Http1Limits(head_bytes=8192, keep_alive_timeout=30.0)
_NOBODY: Final = "et_0000000000000000"
"""Stands for a token that there is not, so that its check takes as long."""
_NOT_FOUND: Final = Refusal(status=404, slug="not-found", reason="no_such_path")
_STALE: Final = Refusal(status=503, slug="state-stale", event="auth.refused", reason="state_stale")
_ABSENT: Final = Refusal(status=401, slug="unauthenticated", event="auth.refused", reason="absent")
_MALFORMED: Final = Refusal(status=401, slug="unauthenticated", event="auth.refused", reason="malformed")
_OPERATIONS: Final = {b"cacerts": (b"GET", b"HEAD"), b"csrattrs": (b"GET", b"HEAD"), b"simpleenroll": (b"POST",)}


class EnrolmentHandler:
    """Serves the enrolment listener."""

    def __init__(self, process: ProcessContext, gateway: Callable[[], bytes]) -> None:
        """``gateway`` says under which URL the TLS listener is reached."""
        self.process = process
        self.gateway = gateway

    def serve(self, link: SocketLink, arrival: Arrival) -> ServerEnd:
        """One more connection, of nobody in particular."""
        end = ServerEnd(_Applicant(self, arrival), _LIMITS, self.process.wheel)
        attach(link, end)
        return end


class _Asked:
    """One request: for its answer and its line."""

    __slots__ = ("granted", "head", "policy", "request_id", "started")

    def __init__(self, head: RequestHead, request_id: str, started: float) -> None:
        self.head = head
        self.request_id = request_id
        self.started = started
        self.granted: TokenGrant | None = None
        """The token whose secret was shown."""
        self.policy: tuple[str, ...] = ()


class _Applicant:
    """One connection: the owner of its server end."""

    __slots__ = ("_arrival", "_handler", "_process", "_recent")

    def __init__(self, handler: EnrolmentHandler, arrival: Arrival) -> None:
        self._handler = handler
        self._process = handler.process
        self._arrival = arrival
        self._recent = AuthorizationCache()

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Decide about a request. What goes wrong in a decision denies, and leaves a line in the log."""
        process = self._process
        asked = _Asked(head, process.ids.next(), process.precise())
        if process.draining:
            end.last_request()
        try:
            refusal = self._serve(end, asked)
        except Exception as fault:
            if not end.uncommitted or end.sink is not None:
                raise
            refusal = Refusal(status=500, slug="internal", reason=f"fault: {type(fault).__name__}", closes=True)
            process.loop.call_exception_handler({"message": "an enrolment failed", "exception": fault})
        if refusal is not None:
            self._refuse(end, asked, refusal)

    def _serve(self, end: ServerEnd, asked: _Asked) -> Refusal | None:
        """Answer, or begin to; or say why not."""
        process, head = self._process, asked.head
        generation = serving_of(process.generation)
        refusal = self._head_refusal(head)
        if refusal is not None:
            return refusal
        match = _PATH.fullmatch(head.target)
        if match is None:
            return _NOT_FOUND
        role, operation = match[1].decode("ascii"), match[2]
        methods = _OPERATIONS[operation]
        if head.method not in methods:
            allow = one_field(b"Allow", b", ".join(methods))
            return Refusal(status=405, slug="method-not-allowed", reason="method", extra=(allow,))
        if operation == b"cacerts":
            self._answer(end, asked, CA_CERTS, generation.ca_certs[role], {})
        elif operation == b"csrattrs":
            self._answer(end, asked, CSR_ATTRS, csr_attributes(), {})
        else:
            return self._enroll(end, asked, role)
        return None

    def _head_refusal(self, head: RequestHead) -> Refusal | None:
        if not head.target.startswith(b"/"):
            return Refusal(status=400, slug="target-invalid", reason="target_form")
        if head.authority is not None:
            covered = serving_of(self._process.generation).authorities.covers(head.authority)
            if covered is None:
                return Refusal(status=400, slug="bad-request", reason="authority")
            if not covered:
                return Refusal(status=421, slug="misdirected", reason="authority")
        if any(field[0] in (b"origin", b"sec-fetch-site") for field in head.fields):
            return Refusal(status=403, slug="cross-site", reason="web_page")
        return _STALE if self._process.state_is_stale() else None

    def _enroll(self, end: ServerEnd, asked: _Asked, role: str) -> Refusal | None:
        process, head = self._process, asked.head
        digest = self._authenticated(asked)
        if isinstance(digest, Refusal):
            return digest
        grant = asked.granted
        assert grant is not None
        if grant.role != role:
            return Refusal(status=403, slug="forbidden", event="auth.refused", reason="wrong_role")
        principal = Principal(
            kind="Token", name=grant.id, pool=grant.pool, labels=tuple(sorted(grant.labels.items())), role=grant.role
        )
        on = ("Role", role) if grant.pool is None else ("Pool", grant.pool)
        circumstances = Context(
            LISTENER,
            "http/1.1",
            digest.algorithm,
            self._arrival.tls_version,
            head.method.decode("ascii"),
            head.target.decode("ascii"),
            self._arrival.source,
            process.epoch,
        )
        decision = process.generation.engine.decider(principal, "enroll", *on).decide(circumstances)
        match decision:
            case Denied():
                return Refusal(
                    status=403,
                    slug="forbidden",
                    event="policy.denied",
                    reason=decision.reason,
                    policy=decision.policy_ids,
                )
            case Allowed():
                asked.policy = decision.policy_ids
        common = {"request_id": asked.request_id, "source": self._arrival.source, "listener": LISTENER}

        def order(content: bytes) -> dict[str, object]:
            return enroll_order(content, token=grant.id, role=role, common=common)

        Issuance(process, end, order, _Answer(self, end, asked)).start(head)
        return None

    def _authenticated(self, asked: _Asked) -> Authenticated | Refusal:
        """The token whose secret was shown; the same 401 whatever is wrong."""
        process, head = self._process, asked.head
        given = head.authorization
        if given is None:
            return _ABSENT
        sent = self._recent.parse(given[0], head.target) if len(given) == 1 else None
        if sent is None or isinstance(sent, Malformed):
            return _MALFORMED
        name = sent.username.decode("latin-1")
        grant = process.snapshot.tokens.get(name)
        outcome = process.generation.verifier.check(
            given,
            method=head.method,
            uri=head.target,
            listener=LISTENER.encode("ascii"),
            binding=b"",
            expected_user=_NOBODY if grant is None else grant.id,
            credentials=process.token_credentials,
            now=process.elapsed,
            recent=self._recent,
        )
        if isinstance(outcome, Unauthenticated) or grant is None:
            stale = isinstance(outcome, Unauthenticated) and outcome.stale
            reason = outcome.reason.value if isinstance(outcome, Unauthenticated) else "unknown_user"
            return Refusal(status=401, slug="unauthenticated", event="auth.refused", reason=reason, stale=stale)
        asked.granted = grant
        return outcome

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No request, or one whose content broke."""
        asked = _Asked(end.request or RequestHead(), self._process.ids.next(), self._process.precise())
        end.last_request()
        self._refuse(end, asked, Refusal(status=status, slug=code, reason=detail))

    def end_closed(self, end: ServerEnd) -> None:
        """Its place is its link's to leave."""

    # ---- answers ----

    def _fields(self, asked: _Asked, outcome: str, status: int, reason: str | None = None) -> dict[str, object]:
        fields: dict[str, object] = {"request_id": asked.request_id}
        if asked.granted is not None:
            fields["identity"] = f"token/{asked.granted.id}"
        fields |= {"source": self._arrival.source, "listener": LISTENER, "outcome": outcome}
        if reason is not None:
            fields["reason"] = reason
        if asked.policy:
            fields["policy"] = asked.policy
        if _PATH.fullmatch(asked.head.target):
            fields["target"] = asked.head.target.decode("ascii")
        return fields | {"status": status, "ms": round((self._process.precise() - asked.started) * 1000, 3)}

    def _answer(
        self, end: ServerEnd, asked: _Asked, media_type: bytes, content: bytes, detail: Mapping[str, object]
    ) -> None:
        process = self._process
        process.counters.requests += 1
        fields = self._fields(asked, "allowed", 200)
        if detail:
            fields["detail"] = dict(detail)
        if not process.record("request", fields):
            self._problem(end, asked, 503, "audit-unavailable")
            return
        blocks: Blocks = (one_field(b"Content-Type", media_type),)
        if detail:
            blocks = (*blocks, NO_STORE, one_field(b"Rhttp-Gateway", self._handler.gateway()))
        self._send(end, asked, 200, blocks, content)

    def _refuse(self, end: ServerEnd, asked: _Asked, refusal: Refusal) -> None:
        process = self._process
        process.counters.refused += 1
        fields = self._fields(asked, "refused", refusal.status, refusal.reason)
        if refusal.policy:
            fields["policy"] = refusal.policy
        process.record_refusal(refusal.event, fields)
        extra = refusal.extra
        if refusal.status == 401:
            process.counters.unauthenticated += 1
            extra = (*extra, *self._challenge(stale=refusal.stale))
        if refusal.closes:
            end.last_request()
        self._problem(end, asked, refusal.status, refusal.slug, extra, refusal.said)

    def _challenge(self, *, stale: bool) -> Blocks:
        process = self._process
        value = process.generation.verifier.challenge(
            listener=LISTENER.encode("ascii"),
            binding=b"",
            now=process.precise(),
            entropy=process.entropy(),
            stale=stale,
        )
        return (one_field(b"WWW-Authenticate", value),)

    def _problem(
        self, end: ServerEnd, asked: _Asked, status: int, slug: str, extra: Blocks = (), said: str | None = None
    ) -> None:
        body = problem_body(Problem(slug), asked.request_id, said)
        self._send(end, asked, status, (*problem_blocks(slug), *extra), body)

    def _send(self, end: ServerEnd, asked: _Asked, status: int, blocks: Blocks, content: bytes) -> None:
        request_id = one_field(b"Rhttp-Request-Id", asked.request_id.encode("ascii"))
        end.head(status, (*blocks, self._process.date, request_id), len(content))
        end.content(content)
        end.end([])


class _Answer:
    """Answers one enrolment. It is the requester of its issuance."""

    __slots__ = ("_applicant", "_asked", "_end")

    def __init__(self, applicant: _Applicant, end: ServerEnd, asked: _Asked) -> None:
        self._applicant = applicant
        self._end = end
        self._asked = asked

    def answer(self, outcome: Outcome) -> None:
        """It came to this."""
        if isinstance(outcome, Unissued):
            self._applicant._refuse(self._end, self._asked, refusal_of(outcome))
            return
        detail = {"name": outcome.name, "serial": outcome.serial}
        self._applicant._answer(self._end, self._asked, CERTS_ONLY, outcome.certificates(), detail)

    def gone(self, detail: str) -> None:
        """Nobody is there to be answered."""
        applicant = self._applicant
        fields = applicant._fields(self._asked, "aborted", 0, detail)
        del fields["status"]
        applicant._process.record("request", fields)


def enrolment_listener(process: ProcessContext, sockets: Sockets) -> Listener:
    """The listener for those who have no certificate yet."""
    assert sockets.enroll is not None

    def bounds(limits: Limits) -> Bounds:
        return by_source(limits.enroll_connections, limits.enroll_connections)

    def gateway() -> bytes:
        generation = serving_of(process.generation)
        config = generation.config
        port = sockets.tls[sockets.index if len(sockets.tls) > 1 else 0].getsockname()[1]
        url = config.enroll.gateway or public_url(config.listen.host, port, generation.names)
        return url.encode("ascii")

    return Listener(
        purpose=LISTENER,
        sockets=(sockets.enroll,),
        handlers={HTTP1: EnrolmentHandler(process, gateway)},
        bounds=bounds,
        counts=ListenerCounts(process.counters),
        tls=lambda: _context(process),
        is_anonymous=True,
    )


def _context(process: ProcessContext) -> SSL.Context:
    context = serving_of(process.generation).enroll_context
    assert context is not None, "the listener is fixed for the life of a gateway"
    return context
