"""One connection of a client, worker or master: each request through admission, then to where it belongs.

Trust: meets untrusted clients, workers and masters.
"""

from __future__ import annotations

from typing import Final

from gateway.admission import checks
from gateway.admission.checks import ConnectionCache, Refused
from gateway.admission.request_record import Admitted, RequestRecord
from gateway.audit.line import MAX_STRING
from gateway.config.route_paths import is_reserved
from gateway.core.context import ProcessContext
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.exchange.ends import Inbound
from gateway.exchange.exchange import Exchange
from gateway.http.fields import forwarded, max_forwards, one_hop_less, request_fields, via_names
from gateway.http.hosts import cross_site
from gateway.http.responses import answer_options, fail, refuse
from gateway.ingress import endpoints
from gateway.ingress.resolve import Plan
from gateway.ingress.serving import serving_of
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
        "_process",
        "end",
        "is_local",
        "is_over_limit",
        "listener",
        "memory",
        "peer",
        "tls_version",
        "upgrade_refused",
    )

    def __init__(self, process: ProcessContext, peer: Peer, listener: str, tls_version: str | None) -> None:
        self._process = process
        self.peer = peer
        self.listener = listener
        self.tls_version = tls_version
        self.is_local = isinstance(peer, LocalPeer)
        self.is_over_limit = False
        """Its identity has too many connections: it is told so, and closed."""
        self.upgrade_refused = False
        """A role switch was answered 401 here; one more request is allowed."""
        self._call: RequestRecord | None = None
        """The last request."""
        self.memory = ConnectionCache()
        self._forwarded: tuple[bytes | None, bytes] | None = None
        self._plan: Plan | None = None
        self.end = ServerEnd(self, process.generation.limits, process.wheel)

    # ---- ServerOwner ----

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Decide about a request. What goes wrong in a decision denies, and leaves a line in the log."""
        process = self._process
        generation = process.generation
        end.limits = generation.limits
        record = self._call = RequestRecord(head, self.peer, self.listener, process.ids.next(), generation)
        try:
            self._decide(end, record)
        except Exception as fault:
            if end.sink is not None or end.phase not in _UNANSWERED or not end.uncommitted:
                raise  # an exchange has begun, or an answer: the link is cut, and whoever has begun writes its line
            end.close_after = True
            refuse(process, end, record, 500, "internal", f"fault: {type(fault).__name__}")
            process.loop.call_exception_handler({"message": "a decision failed", "exception": fault})

    def _decide(self, end: ServerEnd, record: RequestRecord) -> None:
        """Steps in their order: certificate, head, Digest, policy, then own path, pool or route."""
        process, head, generation = self._process, record.head, record.generation
        if self.upgrade_refused:
            end.close_after = True  # this is the one more request
        if self.is_over_limit:
            end.close_after = end.is_unwelcome = True
            refuse(process, end, record, 503, "overloaded", "connections_of_identity")
            return
        # 1. The certificate still holds.
        stopped = checks.check_peer(process, record)
        if stopped is not None:
            end.close_after = stopped.status == 403  # for good; a 503 may be over at the next request
            self.refused(end, record, stopped)
            return
        plan = self._plan
        if plan is not None and plan.memo is head.forwarded and plan.generation is generation and not process.draining:
            self._once_more(end, record, plan)
            return
        # 2. The head means one thing only and is for us.
        resolved = serving_of(generation).routes.resolve(head.target, method=head.method)
        if isinstance(resolved, BadTarget):
            refuse(process, end, record, 400, "target-invalid", f"target_{resolved.fault.value.replace('-', '_')}")
            return
        target, route = resolved
        record.target = target.path
        record.query = target.query
        if not self._check_head(end, record, target):
            return
        # 3. Digest.
        digest = checks.check_digest(process, record, self.memory)
        if isinstance(digest, Refused):
            self.refused(end, record, digest)
            return
        if process.draining and (digest is not None or self.is_local):
            end.close_after = True  # but whoever is challenged may come back with credentials where it is
        if target.asterisk:
            answer_options(process, end, record)  # about the gateway as a whole (RFC 9110 section 9.3.7)
            return
        # A page of another site changes nothing, neither over a route nor on a path of ours.
        is_free = head.method in SAFE or (route is not None and route.allow_cross_site)
        if not is_free and not self._check_origin(end, record):
            return
        # 4. and 5. Policy, then what was asked for.
        if is_reserved(target.path):
            endpoints.serve(process, self, end, record, digest)
            return
        resource = route.name if route is not None else ""
        admitted = checks.check_policy(
            process, record, self.memory, digest, "request", "Route", resource, tls_version=self.tls_version
        )
        if isinstance(admitted, Refused):
            self.refused(end, record, admitted)
            return
        record.admitted = admitted
        if route is None:
            refuse(process, end, record, 404, "not-found", "no_route")
            return
        admitted.require("request", "Route", route.name)
        self.forward(end, record, admitted, serving_of(generation).masters[route.master], target.normal)

    def _once_more(self, end: ServerEnd, record: RequestRecord, plan: Plan) -> None:
        """Fast path for a repeated request: of the checks behind the certificate's, only the time-dependent ones."""
        process = self._process
        record.target = plan.path
        record.query = plan.query
        record.parent_id = plan.parent_id
        digest = checks.check_digest(process, record, self.memory)
        if isinstance(digest, Refused):
            self.refused(end, record, digest)
            return
        admitted = plan.renew(digest, process.epoch)
        if admitted is None:
            action, kind, name = plan.question
            decision = checks.check_policy(
                process, record, self.memory, digest, action, kind, name, tls_version=self.tls_version
            )
            if isinstance(decision, Refused):
                self.refused(end, record, decision)
                return
            admitted = decision
            plan.keep(admitted, process.epoch)
        record.admitted = admitted
        if plan.rendered is None and len(record.target) <= MAX_STRING:
            plan.rendered = record.render()
        record.rendered = plan.rendered
        self._start(end, record, admitted, plan)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """Bytes that are no request: answer, and close, since nothing behind them can be trusted."""
        process = self._process
        end.close_after = True
        if self._call is not None and self._call.head is end.request:
            # It broke in mid-content: its exchange was told and wrote the audit line.
            fail(process, end, self._call, status, code)
            return
        head = RequestHead()
        head.method = b"GET"
        end.request = head
        record = RequestRecord(head, self.peer, self.listener, process.ids.next(), process.generation)
        refuse(process, end, record, status, code, detail)

    def end_closed(self, end: ServerEnd) -> None:
        """The connection is gone."""
        self._process.registry.remove(self)

    def disconnect(self, reason: str) -> None:
        """End the connection now; what runs on it is aborted."""
        self._process.record_cut(self.peer, self.listener, reason)
        self.end.abort()

    def ask_again(self) -> None:
        """A reload came: a request that still waits goes on if it is allowed now, else gets what a new one would."""
        exchange = self.end.sink
        if not isinstance(exchange, Exchange) or not exchange.waits:
            return
        record = exchange.record
        assert record.admitted is not None
        decision = checks.check_again(self._process, record, record.admitted)
        record.rendered = None  # other policies may allow it now
        if isinstance(decision, Refused):
            record.admitted = None
            exchange.withdraw()
            self.refused(self.end, record, decision)
        else:
            record.admitted = decision

    # ---- steps ----

    def _check_head(self, end: ServerEnd, record: RequestRecord, target: Target) -> bool:
        """The rest of step 2: authority, expectations, and pages that drive a browser here."""
        process, head = self._process, record.head
        authority = target.authority if target.authority is not None else head.host
        ours = (
            serving_of(record.generation).dispatch_authorities
            if self.is_local
            else serving_of(record.generation).authorities
        )
        if authority is not None:
            if ours is not None:
                covered = ours.covers(authority)
            else:  # any name will do on a unix socket, none too; but it goes into ``Forwarded``
                covered = None if authority and split_authority(authority) is None else True
            if covered and target.authority is not None and not _is_for(target, head.host):
                covered = None  # RFC 9112 section 3.2.2 lets the target win; two names for one request are refused
            if not covered:
                if covered is None:
                    refuse(process, end, record, 400, "bad-request", "authority_malformed")
                else:
                    refuse(process, end, record, 421, "misdirected", "authority_not_ours")
                return False
        if head.expect is not None and head.expect != (b"100-continue",):
            refuse(process, end, record, 417, "expectation-failed", "expectation_unknown")
            return False
        if head.upgrade is not None and head.has_content and target.path.startswith(_SWITCH):
            # A switch is at the head's end: is what stands behind it the request's, or the reversed connection's?
            end.close_after = True
            refuse(process, end, record, 400, "bad-request", "upgrade_with_content")
            return False
        if ours is not None and self.is_local and any(f[0] in (b"origin", b"sec-fetch-site") for f in head.fields):
            refuse(process, end, record, 403, "cross-site", "web_page_on_dispatch")
            return False
        if self.peer.role == "master":
            given = values(head.fields, b"rhttp-request-id")
            if len(given) == 1 and len(given[0]) <= _MAX_REQUEST_ID and TOKEN.fullmatch(given[0]):
                record.parent_id = given[0].decode("ascii")
        return True

    def _check_origin(self, end: ServerEnd, record: RequestRecord) -> bool:
        """Whether no page of another site asks, by what browsers say of their own accord."""
        if self.is_local and serving_of(record.generation).dispatch_authorities is None:
            return True  # no page reaches a unix socket: what is said here is told by a master, of its own requester
        reason = cross_site(record.head.fields, record.head.host, b"http" if self.is_local else b"https")
        if reason is not None:
            refuse(self._process, end, record, 403, "cross-site", reason)
        return reason is None

    def refused(self, end: ServerEnd, record: RequestRecord, refused: Refused) -> None:
        """Answer a refusal: with a challenge when it is a 401, and closing when a role switch was asked for.

        ``Upgrade`` for anything else is an offer that a server may ignore (RFC 9110 section 7.8), and so do we: clients
        that would rather speak HTTP/2 offer it with every request, content and all.

        The first 401 to a role switch keeps the connection for one more request and a short time only: some workers
        abandon the socket without closing it.
        """
        extra = b""
        process = self._process
        second_chance = False
        is_switch = record.head.upgrade is not None and record.target.startswith(_SWITCH)
        if refused.status == 401:
            process.counters.unauthenticated += 1
            extra = checks.challenge(process, record, refused)
            if record.target.startswith(_SWITCH):
                extra += OFFER
            second_chance = is_switch and not end.close_after
        elif is_switch:
            end.close_after = True
        if refused.event == "policy.denied":
            process.counters.policy_denied += 1
        refuse(
            process,
            end,
            record,
            refused.status,
            refused.slug,
            refused.reason,
            event=refused.event,
            extra=extra,
            policy=refused.policy,
        )
        if second_chance:
            self.upgrade_refused = True
            end.expect_within(record.generation.config.limits.upgrade_retry_timeout)

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

    def fields_for(self, end: ServerEnd, record: RequestRecord) -> bytes | None:
        """The field lines that go on with a request: stripped, then set, up to the value of ``Rhttp-Request-Id``.

        None: it came back to us and was refused.
        """
        via, loop = via_names(record.head, record.generation.via)
        if loop:
            refuse(self._process, end, record, 508, "loop-detected", "via_loop")
            return None
        return b"%b%bVia: %b\r\nRhttp-Request-Id: " % (
            request_fields(record.head),
            self._who(record.head.host),
            b"%b, %b" % (via, record.generation.via_received) if via else record.generation.via_received,
        )

    def forward(
        self,
        end: ServerEnd,
        record: RequestRecord,
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
        process = self._process
        hops = max_forwards(record.head)
        if hops == 0:
            answer_options(process, end, record)
            return
        fields = self.fields_for(end, record)
        if fields is None:
            return
        if hops is not None:
            fields = one_hop_less(fields)
        if process.draining:
            end.close_after = True
        plan = Plan(
            record,
            admitted,
            process.epoch,
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
        self._start(end, record, admitted, plan)

    def _start(self, end: ServerEnd, record: RequestRecord, admitted: Admitted, plan: Plan) -> None:
        process = self._process
        fields = b"%b%b\r\n" % (plan.lines, record.id_bytes)
        exchange = Exchange(process, record, admitted, end, plan.inbound, plan.target, fields, dispatch=plan.dispatch)
        exchange.worker = plan.worker
        exchange.label = plan.label
        if plan.wait:
            process.wheel.set(exchange, plan.wait)
        exchange.start()
