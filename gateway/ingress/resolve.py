"""What a request is about: all that follows from its head, its peer and the generation, and from nothing else.

Time, credentials, policies, limits and slots are for the moment: `gateway.ingress.connection` asks for them in their
order, whether it was known already what a request is about or not.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.admission.checks import Refusal
from gateway.admission.request_record import Question
from gateway.config.route_paths import is_reserved
from gateway.config.values import RouteConfig, ToMaster
from gateway.core.context import Generation
from gateway.core.peer import LocalPeer, Peer
from gateway.ingress.endpoints import NO_PATH, SWITCH, Endpoint, OwnRequest, find_endpoint, method_refusal
from gateway.ingress.field_section import FieldSection, fields_about, refuse_absolute
from gateway.ingress.forwarding import dispatch, forward
from gateway.ingress.issuing import renewal_question
from gateway.ingress.outcomes import Act, Options
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool
from rhttp.http1.target import BadTarget, Target, readings
from rhttp.message import RequestHead, SharedFields

_OPTIONS: Final = Options()
_NO_ROUTE: Final = Refusal(status=404, slug="not-found", reason="no_route")
_STRIPPED_EMPTY: Final = Refusal(status=400, slug="target-invalid", reason="target_empty_segment")
"""A path that begins with two slashes is an authority to some who join it to a URL."""
_STRIPPED_RESERVED: Final = Refusal(status=404, slug="not-found", reason="reserved_behind_prefix")
"""Behind a route may be another gateway, whose own paths are not for the clients of this one."""
_WITH_CONTENT: Final = Refusal(status=400, slug="bad-request", reason="upgrade_with_content", closes=True)


class Resolved:
    """What one request is about. Plain slotted classes: requests for new paths make one each."""

    __slots__ = ("path", "query", "raw", "section")

    def __init__(self, raw: bytes, section: FieldSection, path: bytes, query: bytes | None) -> None:
        self.raw = raw
        self.section = section
        self.path = path
        """The normal path; empty when there is none."""
        self.query = query


class ResolvedRefusal(Resolved):
    """Nothing that we serve: it is refused before credentials are looked at."""

    __slots__ = ("refusal",)

    def __init__(self, raw: bytes, section: FieldSection, path: bytes, query: bytes | None, refusal: Refusal) -> None:
        super().__init__(raw, section, path, query)
        self.refusal = refusal


class ResolvedOpen(Resolved):
    """About nothing that policy is asked about; credentials that are given must be right all the same."""

    __slots__ = ("act",)

    def __init__(self, raw: bytes, section: FieldSection, path: bytes, query: bytes | None, act: Act) -> None:
        super().__init__(raw, section, path, query)
        self.act = act


class ResolvedOne(Resolved):
    """About one resource: policy is asked, and only then it counts what there is."""

    __slots__ = ("act", "protocol", "question")

    def __init__(
        self,
        raw: bytes,
        section: FieldSection,
        path: bytes,
        query: bytes | None,
        question: Question,
        act: Act,
        protocol: str,
    ) -> None:
        super().__init__(raw, section, path, query)
        self.question = question
        self.act = act
        self.protocol = protocol
        """As policies see it."""


class ResolvedEach(Resolved):
    """About several resources: one that policy allows is enough, and those that it does not are left out."""

    __slots__ = ("_endpoint", "_peer", "questions")

    def __init__(
        self,
        raw: bytes,
        section: FieldSection,
        path: bytes,
        query: bytes | None,
        questions: Sequence[Question],
        endpoint: Endpoint,
        peer: Peer,
    ) -> None:
        super().__init__(raw, section, path, query)
        self._peer = peer
        self.questions = questions
        self._endpoint = endpoint

    def act_on(self, head: RequestHead, allowed: tuple[str, ...]) -> Act:
        """What a request with this head is for, when these are allowed."""
        return _act(self._endpoint, OwnRequest(head, self.section, allowed, b"", self.query, self._peer))


Resolution = ResolvedRefusal | ResolvedOpen | ResolvedOne | ResolvedEach


def resolve(head: RequestHead, peer: Peer, generation: Generation) -> Resolution:
    """What this request is about."""
    return Resolver(peer).resolve(head, generation)


class Resolver:
    """Answers what `resolve` answers about the requests of one connection: quickly when they are alike.

    Field lines that are those of the last request are not looked at again; nor is anything when its target is, too.
    """

    __slots__ = ("_about", "_is_local", "_last", "_peer", "_section")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._is_local = isinstance(peer, LocalPeer)
        self._section: FieldSection | None = None
        self._last: Resolution | None = None
        self._about: tuple[bytes | None, SharedFields] | None = None

    def resolve(self, head: RequestHead, generation: Generation) -> Resolution:
        """What this request is about."""
        section = self._section
        if section is None or section.memo is not head.forwarded or section.generation is not generation:
            about = self._fields_about(head.authority)
            section = self._section = FieldSection(head, self._peer, serving_of(generation), about)
        else:
            last = self._last
            if last is not None and last.raw == head.target:
                return last
        self._last = None  # what is made now may fail
        resolution = self._last = self._resolve(head, section)
        return resolution

    def _fields_about(self, host: bytes | None) -> SharedFields:
        """The fields that say who asks; the same for every request to one authority."""
        known = self._about
        if known is None or known[0] != host:
            known = self._about = (host, fields_about(self._peer, host))
        return known[1]

    def _resolve(self, head: RequestHead, section: FieldSection) -> Resolution:
        raw = head.target
        found = section.generation.routes.resolve(raw, method=head.method)
        if isinstance(found, BadTarget):
            reason = f"target_{found.fault.value.replace('-', '_')}"
            bad = Refusal(status=400, slug="target-invalid", reason=reason)
            return ResolvedRefusal(raw, section, b"", None, bad)
        target, route = found
        path, query = target.path, target.query
        refusal = self._head_refusal(head, section, target)
        if refusal is not None:
            return ResolvedRefusal(raw, section, path, query, refusal)
        if target.asterisk:  # about the gateway as a whole (RFC 9110 section 9.3.7)
            return ResolvedOpen(raw, section, path, query, _OPTIONS)
        # A page of another site changes nothing, neither over a route nor on a path of ours.
        if section.cross_site is not None and (route is None or not route.allow_cross_site):
            other = Refusal(status=403, slug="cross-site", reason=section.cross_site)
            return ResolvedOpen(raw, section, path, query, other)
        if route is None and is_reserved(path):  # no route leads to a reserved path
            return self._own(head, section, path, query)
        question: Question = ("request", "Route", "" if route is None else route.name)
        act = _NO_ROUTE if route is None else _over(route, section, question, target)
        return ResolvedOne(raw, section, path, query, question, act, "http/1.1")

    def _head_refusal(self, head: RequestHead, section: FieldSection, target: Target) -> Refusal | None:
        if target.authority is None:
            refusal = section.host_refusal
        else:
            refusal = refuse_absolute(target.raw, target.authority, head.authority, self._peer, section.generation)
        refusal = refusal or section.refusal
        if refusal is None and head.upgrade is not None and head.has_content and target.path.startswith(SWITCH):
            # A switch is at the head's end: is what stands behind it the request's, or the reversed connection's?
            return _WITH_CONTENT
        return refusal

    def _own(self, head: RequestHead, section: FieldSection, path: bytes, query: bytes | None) -> Resolution:
        raw = head.target
        found = find_endpoint(path, is_local=self._is_local)
        if found is None:
            return ResolvedOpen(raw, section, path, query, NO_PATH)
        endpoint, names, rest = found
        action = endpoint.action
        if action is not None and endpoint.resource == "each Pool":
            pools = section.generation.pools or ("",)
            return ResolvedEach(
                raw, section, path, query, [(action, "Pool", name) for name in pools], endpoint, self._peer
            )
        act = _act(endpoint, OwnRequest(head, section, names, rest, query, self._peer))
        if action is None:
            return ResolvedOpen(raw, section, path, query, act)
        protocol = "ptth/1.0" if action == "reverse" else "http/1.1"
        is_own = endpoint.resource == "own Pool or Role"
        question = renewal_question(self._peer) if is_own else (action, "Pool", names[0])
        return ResolvedOne(raw, section, path, query, question, act, protocol)


def _act(endpoint: Endpoint, own: OwnRequest) -> Act:
    return method_refusal(endpoint, own.head.method) or endpoint.handler(own)


def _over(route: RouteConfig, section: FieldSection, question: Question, target: Target) -> Act:
    """What a route leads to."""
    serving, normal = section.generation, target.normal
    if route.strip_prefix:
        length = len(route.path) - 2
        normal = normal[length:]
        for rest in readings(target.path[length:]):
            if rest.startswith(b"//"):
                return _STRIPPED_EMPTY
            if is_reserved(rest):
                return _STRIPPED_RESERVED
    to = route.to
    if isinstance(to, ToMaster):
        return forward(section, question, serving.masters[to.name], normal)
    pool = serving.pools[to.name]
    assert isinstance(pool, HostedPool)  # so says the check of the configuration
    return dispatch(section, question, pool, normal, route_pool=to.name)
