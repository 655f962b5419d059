"""One connection of a client, worker or master: each request through admission, then to where it belongs.

Trust: meets untrusted clients, workers and masters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

from gateway.admission import checks
from gateway.admission.checks import ConnectionCache, Refusal
from gateway.admission.request_record import Admitted, Question, RequestRecord
from gateway.core.context import ProcessContext
from gateway.core.peer import LocalPeer, Peer
from gateway.enrolment.issuance import Issuance
from gateway.exchange.exchange import Exchange
from gateway.http.responses import answer_json, answer_options, answer_raw, fail, refuse
from gateway.http.upload import Upload
from gateway.ingress.endpoints import SWITCH
from gateway.ingress.event_stream import EventStream
from gateway.ingress.gather import ask_all
from gateway.ingress.issuing import IssueAnswer
from gateway.ingress.outcomes import (
    Collect,
    Dispatch,
    Forward,
    Gather,
    Issue,
    Json,
    Later,
    Options,
    Outcome,
    Raw,
    Stream,
    Switch,
)
from gateway.ingress.resolve import ResolvedEach, ResolvedOne, ResolvedOpen, ResolvedRefusal, Resolver
from gateway.ingress.serving import serving_of
from gateway.pools.relay import RelayPool
from rhttp.http1.answer import CONTENT, READ
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, RequestHead
from rhttp.reversal.upgrade import OFFER

_UNANSWERED: Final = (CONTENT, READ)
_CROWDED: Final = Refusal(status=503, slug="overloaded", reason="connections_of_identity", closes=True)
_DRAINING: Final = Refusal(status=503, slug="draining", reason="draining")
_TOO_LARGE: Final = Refusal(status=413, slug="content-too-large", reason="content_too_large", closes=True)
_NO_AUDIT: Final = Refusal(status=503, slug="audit-unavailable", reason="audit")


class Connection:
    """The owner of one server end. Registered under its peer's identity, so that it can be cut."""

    __slots__ = (
        "_cache",
        "_last",
        "_process",
        "_resolver",
        "end",
        "is_local",
        "is_over_limit",
        "listener",
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
        self._last: RequestRecord | None = None
        self._cache = ConnectionCache()
        self._resolver = Resolver(peer)
        self.end = ServerEnd(self, process.generation.limits, process.wheel)

    # ---- ServerOwner ----

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Decide about a request. What goes wrong in a decision denies, and leaves a line in the log."""
        process = self._process
        generation = process.generation
        end.limits = generation.limits
        record = RequestRecord(head, self.peer, self.listener, process.ids.next(), generation, self.tls_version)
        self._last = record
        try:
            self._perform(end, record, self._decide(end, record))
        except Exception as fault:
            if end.sink is not None or end.phase not in _UNANSWERED or not end.uncommitted:
                raise  # an exchange has begun, or an answer: the link is cut, and whoever has begun writes its line
            reason = f"fault: {type(fault).__name__}"
            self.refuse(end, record, Refusal(status=500, slug="internal", reason=reason, closes=True))
            process.loop.call_exception_handler({"message": "a decision failed", "exception": fault})

    def _decide(self, end: ServerEnd, record: RequestRecord) -> Outcome:
        """Steps in their order: certificate, head, Digest, policy, then what the request is for."""
        process, head, cache = self._process, record.head, self._cache
        if self.upgrade_refused:
            end.last_request()  # this is the one more request
        if self.is_over_limit:
            end.is_unwelcome = True
            return _CROWDED
        # 1. The certificate still holds.
        stopped = checks.check_peer(process, record.peer, record.generation)
        if stopped is not None:
            return stopped
        # 2. The head means one thing only and is for us.
        resolved = self._resolver.resolve(head, record.generation)
        record.target = resolved.path
        record.query = resolved.query
        if isinstance(resolved, ResolvedRefusal):
            return resolved.refusal
        record.parent_id = resolved.section.parent_id
        # 3. Digest.
        digest = checks.check_digest(process, record, cache)
        if isinstance(digest, Refusal):
            return digest
        if process.draining and (digest is not None or self.is_local):
            end.last_request()  # but whoever is challenged may come back with credentials where it is
        # 4. Policy.
        if isinstance(resolved, ResolvedOne):
            record.protocol = resolved.protocol
            admitted = checks.check_policy(process, record, cache, digest, resolved.question)
            if isinstance(admitted, Refusal):
                return admitted
            act = resolved.act
        elif isinstance(resolved, ResolvedOpen):
            act = resolved.act
        elif isinstance(resolved, ResolvedEach):
            decided = [(q[2], checks.check_policy(process, record, cache, digest, q)) for q in resolved.questions]
            if record.admitted is None:
                refused = decided[-1][1]
                assert isinstance(refused, Refusal)
                return refused
            act = resolved.act_on(head, tuple([name for name, said in decided if not isinstance(said, Refusal)]))
        else:
            assert_never(resolved)
        # 5. What it is for.
        return act.decide(process, record) if isinstance(act, Later) else act

    def _perform(self, end: ServerEnd, record: RequestRecord, outcome: Outcome) -> None:
        process = self._process
        match outcome:
            case Forward():
                self._forward(end, record, outcome)
            case Dispatch():
                self._dispatch(end, record, outcome)
            case Refusal():
                self.refuse(end, record, outcome)
            case Json():
                answer_json(process, end, record, outcome.status, outcome.value)
            case Raw():
                answer_raw(process, end, record, outcome.status, outcome.blocks, outcome.length, outcome.content)
            case Collect():
                self._collect(end, record, outcome)
            case Options():
                answer_options(process, end, record)
            case Switch():
                self._switch(end, record, outcome)
            case Stream():
                _proof(record, ("inspect", "Pool", outcome.pool.config.name))
                if process.record("request", record.audit("allowed", status=200)):
                    EventStream(process, end, record, outcome.pool)
                else:
                    self.refuse(end, record, _NO_AUDIT)
            case Gather():
                self._gather(end, record, outcome)
            case Issue():
                self._issue(end, record, outcome)
            case _:
                assert_never(outcome)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """Bytes that are no request: answer, and close, since nothing behind them can be trusted."""
        process = self._process
        end.last_request()
        if self._last is not None and self._last.head is end.request:
            # It broke in mid-content: its exchange was told and wrote the audit line.
            fail(process, end, self._last, status, code)
            return
        assert end.request is not None
        record = RequestRecord(end.request, self.peer, self.listener, process.ids.next(), process.generation)
        refuse(process, end, record, Refusal(status=status, slug=code, reason=detail))

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
        if isinstance(decision, Refusal):
            record.admitted = None
            exchange.withdraw()
            self.refuse(self.end, record, decision)

    # ---- what becomes of requests ----

    def refuse(self, end: ServerEnd, record: RequestRecord, refusal: Refusal) -> None:
        """Answer a refusal: with a challenge when it is a 401, and closing when a role switch was asked for.

        ``Upgrade`` for anything else is an offer that a server may ignore (RFC 9110 section 7.8), and so do we: clients
        that would rather speak HTTP/2 offer it with every request, content and all.

        The first 401 to a role switch keeps the connection for one more request and a short time only: some workers
        abandon the socket without closing it.
        """
        process = self._process
        extra: Blocks = ()
        has_second_chance = False
        is_switch = record.head.upgrade is not None and record.target.startswith(SWITCH)
        if refusal.status == 401:
            process.counters.unauthenticated += 1
            extra = (checks.challenge(process, record, refusal),)
            if record.target.startswith(SWITCH):
                extra = (*extra, OFFER)
            has_second_chance = is_switch and not end.is_last
        elif is_switch or refusal.closes:
            end.last_request()
        if refusal.event == "policy.denied":
            process.counters.policy_denied += 1
        refuse(process, end, record, refusal, extra)
        if has_second_chance:
            self.upgrade_refused = True
            end.expect_within(record.generation.config.limits.upgrade_retry_timeout)

    def refuse_switch(self, record: RequestRecord, refusal: Refusal) -> None:
        """For a pool that was to take the connection."""
        self.refuse(self.end, record, refusal)

    def _forward(self, end: ServerEnd, record: RequestRecord, forward: Forward) -> None:
        """Start an exchange with a master; only with the proof that the request was admitted."""
        process = self._process
        admitted = _proof(record, forward.question)
        if process.draining:
            end.last_request()
        blocks = (forward.block, record.id_block)
        Exchange(process, record, admitted, end, forward.inbound, forward.target, blocks, dispatch=False).start()

    def _dispatch(self, end: ServerEnd, record: RequestRecord, dispatch: Dispatch) -> None:
        """The same with a worker, as soon as one has a free slot."""
        process = self._process
        admitted = _proof(record, dispatch.question)
        if process.draining:
            self.refuse(end, record, _DRAINING)
            return
        record.pool = dispatch.route_pool
        blocks = (dispatch.block, record.id_block)
        exchange = Exchange(process, record, admitted, end, dispatch.pool, dispatch.target, blocks, dispatch=True)
        exchange.worker = dispatch.worker
        exchange.label = dispatch.wishes.label
        exchange.start(wait=dispatch.wishes.wait)

    def _gather(self, end: ServerEnd, record: RequestRecord, gather: Gather) -> None:
        process = self._process

        def answer(told: Mapping[int, Any]) -> None:
            answer_json(process, end, record, 200, gather.answer(told))

        def gone(detail: str) -> None:
            process.record("request", record.audit("aborted", reason=detail))

        ask_all(process, end, gather.question, answer, gone)

    def _collect(self, end: ServerEnd, record: RequestRecord, collect: Collect) -> None:
        process = self._process

        def collected(content: bytes | None) -> None:
            if content is None:
                self.refuse(end, record, _TOO_LARGE)
                return
            raw = collect.answer(content)
            answer_raw(process, end, record, raw.status, raw.blocks, raw.length, raw.content)

        def gone(detail: str) -> None:
            process.record("request", record.audit("aborted", reason=detail))

        Upload(collect.most, collected, gone).begin(end, record.head)

    def _issue(self, end: ServerEnd, record: RequestRecord, issue: Issue) -> None:
        if issue.question is not None:
            _proof(record, issue.question)
        process = self._process
        answer = IssueAnswer(process, end, record)
        Issuance(process, end, lambda content: issue.order(content, record), answer).start(record.head)

    def _switch(self, end: ServerEnd, record: RequestRecord, switch: Switch) -> None:
        """The role switch, by our own 101 or by that of the pool's master."""
        pool = switch.pool
        digest = _proof(record, ("reverse", "Pool", pool.config.name)).digest
        end.last_request()  # whatever is refused from here on closes; a switch takes the connection away
        process = self._process
        if isinstance(pool, RelayPool):
            self._relay(end, record, pool, switch)
            return
        fields = record.audit("allowed", status=101)
        if switch.instance is not None:
            fields["detail"] = {"instance": switch.instance}
        if not process.record("reverse.opened", fields):
            fail(process, end, record, 503, "audit-unavailable")
            return
        link, early = end.detach()
        process.registry.remove(self)
        if early:
            # RFC 9931: what comes before the 101 is smuggled, or from a peer that does not know what it asked for.
            name, reason = pool.config.name, "bytes before the switch"
            process.record_closed(record.peer, name, record.request_id, process.elapsed, reason)
            link.abort()
            return
        link.write(switch.variant.answer)
        pool.host(
            record.peer,
            link,
            protocol=switch.variant.name,
            instance=switch.instance,
            request_id=record.request_id,
            asked=checks.circumstances(record, digest, process.epoch),
        )

    def _relay(self, end: ServerEnd, record: RequestRecord, pool: RelayPool, switch: Switch) -> None:
        assert pool.config.master is not None
        master = serving_of(record.generation).masters[pool.config.master]

        blocks = (switch.block, record.id_block)
        pool.ask(self, record, end, switch.variant, master, blocks)


def _proof(record: RequestRecord, question: Question) -> Admitted:
    """The proof that policy allowed this; raises PermissionError when there is none."""
    admitted = record.admitted
    if admitted is None:
        raise PermissionError("a request that was not admitted")
    admitted.require(question)
    return admitted
