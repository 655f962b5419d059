"""One connection of a client, worker or master: each request through admission, then to where it belongs.

Trust: meets untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from gateway.admission import checks
from gateway.admission.checks import Memory, Refused
from gateway.admission.request_record import Admitted, Call
from gateway.audit.line import MAX_STRING
from gateway.config.route_paths import is_reserved
from gateway.core.context import Services
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.exchange.ends import Inbound
from gateway.exchange.exchange import Exchange
from gateway.http.fields import forwarded, max_forwards, one_hop_less, request_fields, via_names
from gateway.http.hosts import cross_site
from gateway.http.responses import answer_options, fail, refuse
from gateway.ingress import endpoints
from gateway.ingress.resolve import Plan
from rhttp.http1.answer import CONTENT, READ
from rhttp.http1.fields import TOKEN, values
from rhttp.http1.head import SAFE, RequestHead
from rhttp.http1.server import ServerEnd
from rhttp.http1.target import BadTarget, Target, is_same_authority, split_authority
from rhttp.reversal.upgrade import OFFER

_MAX_REQUEST_ID: Final = 128
_SWITCH: Final = b"/-/reverse/"
_UNANSWERED: Final = (CONTENT, READ)


def _is_for(target: Target, host: bytes | None) -> bool:
    """Whether ``Host`` names what a target in absolute form names; HTTP/1.0 may leave it out."""
    if host is None or target.authority is None:
        return True
    port = 443 if target.raw[:6].lower() == b"https:" else 80
    return is_same_authority(target.authority, host, default_port=port)


class Connection:
    """The owner of one server end. Registered under its peer's identity, so that it can be cut."""

    __slots__ = (
        "_call",
        "_forwarded",
        "_plan",
        "_services",
        "end",
        "is_local",
        "is_over_limit",
        "listener",
        "memory",
        "peer",
        "tls_version",
        "upgrade_refused",
    )

    def __init__(self, services: Services, peer: Peer, listener: str, tls_version: str | None) -> None:
        self._services = services
        self.peer = peer
        self.listener = listener
        self.tls_version = tls_version
        self.is_local = isinstance(peer, LocalPeer)
        self.is_over_limit = False
        """Its identity has too many connections: it is told so, and closed."""
        self.upgrade_refused = False
        """A role switch was answered 401 here; one more request is allowed."""
        self._call: Call | None = None
        """The last request."""
        self.memory = Memory()
        self._forwarded: tuple[bytes | None, bytes] | None = None
        self._plan: Plan | None = None
        self.end = ServerEnd(self, services.generation.limits, services.wheel)

    # ---- ServerOwner ----

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Decide about a request. What goes wrong in a decision denies, and leaves a line in the log."""
        services = self._services
        generation = services.generation
        end.limits = generation.limits
        call = self._call = Call(head, self.peer, self.listener, services.ids.next(), generation)
        try:
            self._decide(end, call)
        except Exception as fault:
            if end.sink is not None or end.phase not in _UNANSWERED or not end.uncommitted:
                raise  # an exchange has begun, or an answer: the link is cut, and whoever has begun writes its line
            end.close_after = True
            refuse(services, end, call, 500, "internal", f"fault: {type(fault).__name__}")
            services.loop.call_exception_handler({"message": "a decision failed", "exception": fault})

    def _decide(self, end: ServerEnd, call: Call) -> None:
        """Steps in their order: certificate, head, Digest, policy, then own path, pool or route."""
        services, head, generation = self._services, call.head, call.generation
        if self.upgrade_refused:
            end.close_after = True  # this is the one more request
        if self.is_over_limit:
            end.close_after = end.is_unwelcome = True
            refuse(services, end, call, 503, "overloaded", "connections_of_identity")
            return
        # 1. The certificate still holds.
        stopped = checks.check_peer(services, call)
        if stopped is not None:
            end.close_after = stopped.status == 403  # for good; a 503 may be over at the next request
            self.refused(end, call, stopped)
            return
        plan = self._plan
        if plan is not None and plan.memo is head.forwarded and plan.generation is generation and not services.draining:
            self._once_more(end, call, plan)
            return
        # 2. The head means one thing only and is for us.
        resolved = generation.routes.resolve(head.target, method=head.method)
        if isinstance(resolved, BadTarget):
            refuse(services, end, call, 400, "target-invalid", f"target_{resolved.fault.value.replace('-', '_')}")
            return
        target, route = resolved
        call.target = target.path
        call.query = target.query
        if not self._check_head(end, call, target):
            return
        # 3. Digest.
        digest = checks.check_digest(services, call, self.memory)
        if isinstance(digest, Refused):
            self.refused(end, call, digest)
            return
        if services.draining and (digest is not None or self.is_local):
            end.close_after = True  # but whoever is challenged may come back with credentials where it is
        if target.asterisk:
            answer_options(services, end, call)  # about the gateway as a whole (RFC 9110 section 9.3.7)
            return
        # A page of another site changes nothing, neither over a route nor on a path of ours.
        is_free = head.method in SAFE or (route is not None and route.allow_cross_site)
        if not is_free and not self._check_origin(end, call):
            return
        # 4. and 5. Policy, then what was asked for.
        if is_reserved(target.path):
            endpoints.serve(services, self, end, call, digest)
            return
        resource = route.name if route is not None else ""
        admitted = checks.check_policy(
            services, call, self.memory, digest, "request", "Route", resource, tls_version=self.tls_version
        )
        if isinstance(admitted, Refused):
            self.refused(end, call, admitted)
            return
        call.admitted = admitted
        if route is None:
            refuse(services, end, call, 404, "not-found", "no_route")
            return
        admitted.require("request", "Route", route.name)
        self.forward(end, call, admitted, generation.masters[route.master], target.normal)

    def _once_more(self, end: ServerEnd, call: Call, plan: Plan) -> None:
        """Fast path for a repeated request: of the checks behind the certificate's, only the time-dependent ones."""
        services = self._services
        call.target = plan.path
        call.query = plan.query
        call.parent_id = plan.parent_id
        digest = checks.check_digest(services, call, self.memory)
        if isinstance(digest, Refused):
            self.refused(end, call, digest)
            return
        admitted = plan.renew(digest, services.epoch)
        if admitted is None:
            action, kind, name = plan.question
            decision = checks.check_policy(
                services, call, self.memory, digest, action, kind, name, tls_version=self.tls_version
            )
            if isinstance(decision, Refused):
                self.refused(end, call, decision)
                return
            admitted = decision
            plan.keep(admitted, services.epoch)
        call.admitted = admitted
        if plan.rendered is None and len(call.target) <= MAX_STRING:
            plan.rendered = call.render()
        call.rendered = plan.rendered
        self._start(end, call, admitted, plan)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """Bytes that are no request: answer, and close, since nothing behind them can be trusted."""
        services = self._services
        end.close_after = True
        if self._call is not None and self._call.head is end.request:
            # It broke in mid-content: its exchange was told and wrote the audit line.
            fail(services, end, self._call, status, code)
            return
        head = RequestHead()
        head.method = b"GET"
        end.request = head
        call = Call(head, self.peer, self.listener, services.ids.next(), services.generation)
        refuse(services, end, call, status, code, detail)

    def end_closed(self, end: ServerEnd) -> None:
        """The connection is gone."""
        self._services.registry.remove(self)

    def cut(self, reason: str) -> None:
        """End the connection now; what runs on it is aborted."""
        self._services.record_cut(self.peer, self.listener, reason)
        self.end.abort()

    def ask_again(self) -> None:
        """A reload came: a request that still waits goes on if it is allowed now, else gets what a new one would."""
        exchange = self.end.sink
        if not isinstance(exchange, Exchange) or not exchange.waits:
            return
        call = exchange.call
        assert call.admitted is not None
        decision = checks.check_again(self._services, call, call.admitted)
        call.rendered = None  # other policies may allow it now
        if isinstance(decision, Refused):
            call.admitted = None
            exchange.withdraw()
            self.refused(self.end, call, decision)
        else:
            call.admitted = decision

    # ---- steps ----

    def _check_head(self, end: ServerEnd, call: Call, target: Target) -> bool:
        """The rest of step 2: authority, expectations, and pages that drive a browser here."""
        services, head = self._services, call.head
        authority = target.authority if target.authority is not None else head.host
        ours = call.generation.dispatch_authorities if self.is_local else call.generation.authorities
        if authority is not None:
            if ours is not None:
                covered = ours.covers(authority)
            else:  # any name will do on a unix socket, none too; but it goes into ``Forwarded``
                covered = None if authority and split_authority(authority) is None else True
            if covered and target.authority is not None and not _is_for(target, head.host):
                covered = None  # RFC 9112 section 3.2.2 lets the target win; two names for one request are refused
            if not covered:
                if covered is None:
                    refuse(services, end, call, 400, "bad-request", "authority_malformed")
                else:
                    refuse(services, end, call, 421, "misdirected", "authority_not_ours")
                return False
        if head.expect is not None and head.expect != (b"100-continue",):
            refuse(services, end, call, 417, "expectation-failed", "expectation_unknown")
            return False
        if head.upgrade is not None and head.has_content and target.path.startswith(_SWITCH):
            # A switch is at the head's end: is what stands behind it the request's, or the reversed connection's?
            end.close_after = True
            refuse(services, end, call, 400, "bad-request", "upgrade_with_content")
            return False
        if ours is not None and self.is_local and any(f[0] in (b"origin", b"sec-fetch-site") for f in head.fields):
            refuse(services, end, call, 403, "cross-site", "web_page_on_dispatch")
            return False
        if self.peer.role == "master":
            given = values(head.fields, b"rhttp-request-id")
            if len(given) == 1 and len(given[0]) <= _MAX_REQUEST_ID and TOKEN.fullmatch(given[0]):
                call.parent_id = given[0].decode("ascii")
        return True

    def _check_origin(self, end: ServerEnd, call: Call) -> bool:
        """Whether no page of another site asks, by what browsers say of their own accord."""
        if self.is_local and call.generation.dispatch_authorities is None:
            return True  # no page reaches a unix socket: what is said here is told by a master, of its own requester
        reason = cross_site(call.head.fields, call.head.host, b"http" if self.is_local else b"https")
        if reason is not None:
            refuse(self._services, end, call, 403, "cross-site", reason)
        return reason is None

    def refused(self, end: ServerEnd, call: Call, refused: Refused) -> None:
        """Answer a refusal: with a challenge when it is a 401, and closing when a role switch was asked for.

        ``Upgrade`` for anything else is an offer that a server may ignore (RFC 9110 section 7.8), and so do we: clients
        that would rather speak HTTP/2 offer it with every request, content and all.

        The first 401 to a role switch keeps the connection for one more request and a short time only: some workers
        abandon the socket without closing it.
        """
        extra = b""
        services = self._services
        second_chance = False
        is_switch = call.head.upgrade is not None and call.target.startswith(_SWITCH)
        if refused.status == 401:
            services.counters.unauthenticated += 1
            extra = checks.challenge(services, call, refused)
            if call.target.startswith(_SWITCH):
                extra += OFFER
            second_chance = is_switch and not end.close_after
        elif is_switch:
            end.close_after = True
        if refused.event == "policy.denied":
            services.counters.policy_denied += 1
        refuse(
            services,
            end,
            call,
            refused.status,
            refused.slug,
            refused.reason,
            event=refused.event,
            extra=extra,
            policy=refused.policy,
        )
        if second_chance:
            self.upgrade_refused = True
            end.expect_within(call.generation.config.limits.upgrade_retry_timeout)

    # ---- where requests go ----

    def _who(self, host: bytes | None) -> bytes:
        """The field lines that say who asks; the same for every request to one authority."""
        known = self._forwarded
        if known is None or known[0] != host:
            value = forwarded(self.peer.source, b"http" if self.is_local else b"https", host)
            lines = b"Forwarded: %b\r\nRhttp-Identity: %b\r\n" % (value, self.peer.identity.encode("ascii"))
            if isinstance(self.peer, CertifiedPeer) and self.peer.client_cert is not None:
                lines += b"Client-Cert: %b\r\n" % self.peer.client_cert
            known = self._forwarded = (host, lines)
        return known[1]

    def fields_for(self, end: ServerEnd, call: Call) -> bytes | None:
        """The field lines that go on with a request: stripped, then set, up to the value of ``Rhttp-Request-Id``.

        None: it came back to us and was refused.
        """
        via, loop = via_names(call.head, call.generation.via)
        if loop:
            refuse(self._services, end, call, 508, "loop-detected", "via_loop")
            return None
        return b"%b%bVia: %b\r\nRhttp-Request-Id: " % (
            request_fields(call.head),
            self._who(call.head.host),
            b"%b, %b" % (via, call.generation.via_received) if via else call.generation.via_received,
        )

    def forward(
        self,
        end: ServerEnd,
        call: Call,
        admitted: Admitted,
        inbound: Inbound,
        target: bytes,
        *,
        worker: str | None = None,
        label: tuple[str, str] | None = None,
        wait: float = 0.0,
        dispatch: bool = False,
    ) -> None:
        """Start an exchange; only with the proof that the request was admitted."""
        services = self._services
        hops = max_forwards(call.head)
        if hops == 0:
            answer_options(services, end, call)
            return
        fields = self.fields_for(end, call)
        if fields is None:
            return
        if hops is not None:
            fields = one_hop_less(fields)
        if services.draining:
            end.close_after = True
        plan = Plan(
            call,
            admitted,
            services.epoch,
            inbound,
            target,
            fields,
            worker=worker,
            label=label,
            wait=wait,
            dispatch=dispatch,
        )
        if hops is None:
            self._plan = plan
        self._start(end, call, admitted, plan)

    def _start(self, end: ServerEnd, call: Call, admitted: Admitted, plan: Plan) -> None:
        services = self._services
        fields = b"%b%b\r\n" % (plan.lines, call.id_bytes)
        exchange = Exchange(services, call, admitted, end, plan.inbound, plan.target, fields, dispatch=plan.dispatch)
        exchange.worker = plan.worker
        exchange.label = plan.label
        if plan.wait:
            services.wheel.set(exchange, plan.wait)
        exchange.start()
