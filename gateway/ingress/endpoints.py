"""The gateway's own paths: everything under ``/-/`` and ``/.well-known/est/``, and nothing else.

One table, which the reference is made from.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.admin.status import merge_pools
from gateway.admission.checks import Refusal
from gateway.admission.request_record import RequestRecord
from gateway.core.context import ProcessContext
from gateway.core.peer import Peer
from gateway.enrolment.est import CA_CERTS, CSR_ATTRS, csr_attributes
from gateway.ingress.field_section import FieldSection
from gateway.ingress.forwarding import dispatch
from gateway.ingress.issuing import CREDENTIALS, renewal, renewal_question
from gateway.ingress.list_document import list_document
from gateway.ingress.ocsp_message import is_ocsp, ocsp_answer
from gateway.ingress.outcomes import Act, Collect, Gather, Json, Later, Outcome, Raw, Stream
from gateway.ingress.role_switch import switch_roles
from gateway.pools.hosted import HostedPool
from pki.ocsp_codec import MAX_REQUEST
from rhttp.message import RequestHead, one_field

SWITCH: Final = b"/-/reverse/"
"""What paths of the role switch begin with."""
_READS: Final = (b"GET", b"HEAD")
_NOT_OCSP: Final = Refusal(status=400, slug="bad-request", reason="not_an_ocsp_request")
NO_PATH: Final = Refusal(status=404, slug="not-found", reason="no_such_path")
_NO_POOL: Final = Refusal(status=404, slug="not-found", reason="no_pool")
_RELAYED: Final = Refusal(status=404, slug="not-found", reason="pool_is_relayed")


class OwnRequest:
    """A request for one of our own paths: what its handler decides from."""

    __slots__ = ("head", "names", "peer", "query", "rest", "section")

    def __init__(
        self,
        head: RequestHead,
        section: FieldSection,
        names: tuple[str, ...],
        rest: bytes,
        query: bytes | None,
        peer: Peer,
    ) -> None:
        self.peer = peer
        self.head = head
        self.section = section
        self.names = names
        """What stands in the places of the pattern, in order; of a list, the pools that policy shows."""
        self.rest = rest
        """The path behind them, with its slash."""
        self.query = query


Handler = Callable[[OwnRequest], Act]
Resource = Literal["Pool", "each Pool", "own Pool or Role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One own path. Policy is asked about ``action`` on ``resource`` before the handler's word counts."""

    pattern: str
    """``{name}`` is one segment, ``{path…}`` all that follows, from the slash before it."""
    who: str
    methods: tuple[bytes, ...] = ()
    """Empty: all that are implemented, or what the handler takes."""
    how: str = ""
    """What the reference says of the methods besides."""
    action: str | None = None
    """None: policy is not asked."""
    resource: Resource | None = None
    handler: Handler
    answers: str
    """For the reference: answers beside those for every request."""
    on_dispatch: bool = True
    """Whether it is there on the dispatch listener, too."""


def _health(_own: OwnRequest) -> Act:
    """Serving or not; needs a certificate and nothing else."""
    return Later(_health_now)


def _health_now(process: ProcessContext, _record: RequestRecord) -> Outcome:
    return Json(503, {"status": "draining"}) if process.draining else Json(200, {"status": "serving"})


def _pools(own: OwnRequest) -> Act:
    """The pools that the peer may inspect, and the sum of their slots."""
    pools = own.section.generation.pools
    allowed = [pools[name] for name in own.names if name in pools]
    names = [pool.config.name for pool in allowed]

    def answer(told: Mapping[int, Any]) -> object:
        found: list[Any] = merge_pools([[pool.describe() for pool in allowed], *_named(names, told)])
        slots = [pool["slots"] for pool in found]
        total, free = (sum(one[key] or 0 for one in slots) for key in ("total", "free"))
        return {"slots": {"total": total, "free": free}, "pools": found}

    return Gather("pools", answer)


def _pool(own: OwnRequest) -> Act:
    """One pool."""
    name = own.names[0]
    pool = own.section.generation.pools.get(name)
    if pool is None:
        return _NO_POOL
    here = pool

    def answer(told: Mapping[int, Any]) -> object:
        return merge_pools([[here.describe()], *_named([name], told)])[0]

    return Gather(f"pool {name}", answer)


def _named(names: list[str], told: Mapping[int, Any]) -> list[list[Any]]:
    """The pools of these names out of what other processes told of theirs."""
    return [[pool for pool in pools if pool["pool"] in names] for pools in told.values()]


def _events(own: OwnRequest) -> Act:
    """What happens in a pool, as server-sent events."""
    pool = own.section.generation.pools.get(own.names[0])
    if not isinstance(pool, HostedPool):
        return _NO_POOL if pool is None else _RELAYED
    stream = Stream(pool)

    def decide(process: ProcessContext, _record: RequestRecord) -> Outcome:
        if len(process.streams) >= process.generation.config.limits.event_streams:
            return Refusal(status=503, slug="overloaded", reason="event_streams")
        return stream

    return Later(decide)


def _dispatch(own: OwnRequest) -> Act:
    """Send a request to a worker."""
    name = own.names[0]
    pool = own.section.generation.pools.get(name)
    if not isinstance(pool, HostedPool):
        return _NO_POOL if pool is None else _RELAYED
    target = own.rest if own.query is None else own.rest + b"?" + own.query
    worker = own.names[1] if len(own.names) > 1 else None
    return dispatch(own.section, ("dispatch", "Pool", name), pool, target, worker=worker)


def _list(own: OwnRequest) -> Act:
    """The revocation list of a CA. It is public, so any certificate will do."""
    name, asked = own.names[0], own.head.fields

    def decide(process: ProcessContext, _record: RequestRecord) -> Outcome:
        return list_document(process, name, asked) or NO_PATH

    return Later(decide)


def _ocsp(own: OwnRequest) -> Act:
    """Whether a certificate was revoked, by OCSP. Any certificate may ask."""
    is_one = is_ocsp(own.head.fields)

    def decide(process: ProcessContext, _record: RequestRecord) -> Outcome:
        service = process.ocsp
        if service is None:
            return NO_PATH
        if not is_one:
            return _NOT_OCSP
        return Collect(MAX_REQUEST, lambda content: ocsp_answer((service.answer(content)[0], 0)))

    return Later(decide)


def _ca_certs(own: OwnRequest) -> Act:
    """The root and the issuing CA of a role."""
    found = own.section.generation.ca_certs.get(own.names[0])
    return NO_PATH if found is None else _public(CA_CERTS, found)


def _csr_attributes(own: OwnRequest) -> Act:
    """What a request may be made of."""
    return _public(CSR_ATTRS, csr_attributes()) if own.names[0] in own.section.generation.ca_certs else NO_PATH


def _public(media_type: bytes, content: bytes) -> Raw:
    return Raw(200, (one_field(b"Content-Type", media_type),), len(content), content)


def _renew(own: OwnRequest) -> Act:
    """The next certificate of whoever asks."""
    if own.names[0] not in own.section.generation.ca_certs:
        return NO_PATH
    if own.names[0] != own.peer.role:
        return Refusal(status=403, slug="forbidden", reason="wrong_role")
    return renewal(renewal_question(own.peer))


def _credentials(own: OwnRequest) -> Act:
    """The password of whoever enrolled just now, once."""
    return CREDENTIALS if own.section.generation.config.enroll.enabled else NO_PATH


OWN_PATHS: Final = (
    Endpoint(
        methods=_READS,
        pattern="/-/health",
        who="TLS with any certificate; dispatch",
        handler=_health,
        answers="200 serving, 503 draining",
    ),
    Endpoint(
        methods=_READS,
        pattern="/-/pools",
        who="TLS client or master; dispatch",
        action="inspect",
        resource="each Pool",
        handler=_pools,
        answers="200 with the pools that `inspect` is allowed for; 403 (or 401) when there is none",
    ),
    Endpoint(
        methods=_READS,
        pattern="/-/pools/{pool}",
        who="same",
        action="inspect",
        resource="Pool",
        handler=_pool,
        answers="200, 404",
    ),
    Endpoint(
        methods=(b"GET",),
        pattern="/-/pools/{pool}/events",
        who="same",
        action="inspect",
        resource="Pool",
        handler=_events,
        answers="200 `text/event-stream`, 404 (no such pool, or a relayed one), 503 `overloaded`",
    ),
    Endpoint(
        pattern="/-/pools/{pool}/any/{path…}",
        who="dispatch; TLS master",
        action="dispatch",
        resource="Pool",
        handler=_dispatch,
        answers="the worker's answer, or a problem: 404, 502, 503, 504",
    ),
    Endpoint(
        pattern="/-/pools/{pool}/workers/{name}/{path…}",
        who="same",
        action="dispatch",
        resource="Pool",
        handler=_dispatch,
        answers="same",
    ),
    Endpoint(
        how="POST, GET, with `Connection: Upgrade` and `Upgrade: PTTH/1.0`",
        pattern="/-/reverse/{pool}",
        who="TLS worker",
        action="reverse",
        resource="Pool",
        handler=lambda own: switch_roles(own.section, own.head, own.names[0]),
        answers="101; 404, 405, 409 `superseded`, 426, 503 `draining`",
        on_dispatch=False,
    ),
    Endpoint(
        methods=_READS,
        pattern="/-/pki/{role}.crl",
        who="TLS with any certificate",
        handler=_list,
        answers="200 `application/pkix-crl`, 304, 404 (no such list, or no `[pki] listen`), 503 (it is out of date)",
        on_dispatch=False,
    ),
    Endpoint(
        methods=(b"POST",),
        pattern="/-/pki/ocsp",
        who="TLS with any certificate",
        handler=_ocsp,
        answers="200 `application/ocsp-response`, 400, 404 (no `[pki] ocsp`), 413",
        on_dispatch=False,
    ),
    Endpoint(
        methods=(b"POST",),
        pattern="/-/credentials",
        who="TLS, a certificate of the last ten minutes that a token gave",
        handler=_credentials,
        answers="200 with `user` and `password`, once; 403, 404 (no `[enroll]`), 503 `issuer-unavailable`",
        on_dispatch=False,
    ),
    Endpoint(
        methods=_READS,
        pattern="/.well-known/est/{role}/cacerts",
        who="enrolment, without credentials; TLS with any certificate",
        handler=_ca_certs,
        answers="200 `application/pkcs7-mime` (RFC 7030): the root and the role's issuing CA; 404 (no `[enroll]`)",
        on_dispatch=False,
    ),
    Endpoint(
        methods=_READS,
        pattern="/.well-known/est/{role}/csrattrs",
        who="same",
        handler=_csr_attributes,
        answers="200 `application/csrattrs`; 404",
        on_dispatch=False,
    ),
    Endpoint(
        methods=(b"POST",),
        pattern="/.well-known/est/{role}/simplereenroll",
        who="TLS, a peer of that role",
        action="enroll",
        resource="own Pool or Role",
        handler=_renew,
        answers="200 `application/pkcs7-mime`: the next certificate; 400 `request-invalid`, 403, 404, 413, 503"
        " `issuer-unavailable`",
        on_dispatch=False,
    ),
)


def _matcher(pattern: str) -> re.Pattern[bytes]:
    """A pattern of the table as an expression for normal paths."""
    places = re.escape(pattern).replace(re.escape("/{path…}"), "(?P<rest>/.*)")
    return re.compile(re.sub(r"\\\{[a-z]+\\\}", "([^/]+)", places).encode("ascii"), re.DOTALL)


_MATCHERS: Final = tuple((_matcher(endpoint.pattern), endpoint) for endpoint in OWN_PATHS)


def find_endpoint(path: bytes, *, is_local: bool) -> tuple[Endpoint, tuple[str, ...], bytes] | None:
    """The own path that a normal path is, what stands in its places, and the rest; None: unlisted.

    An empty name is none, and neither is a path behind ``any`` or a worker without its slash.
    """
    for matcher, endpoint in _MATCHERS:
        match = matcher.fullmatch(path)
        if match is None:
            continue
        if is_local and not endpoint.on_dispatch:
            return None
        words = match.groups()
        if "rest" not in matcher.groupindex:
            return endpoint, tuple([word.decode("ascii") for word in words]), b""
        return endpoint, tuple([word.decode("ascii") for word in words[:-1]]), words[-1]
    return None


def method_refusal(endpoint: Endpoint, method: bytes) -> Refusal | None:
    """Why a path does not take this method; None: it does, or its handler looks at that itself."""
    if not endpoint.methods or method in endpoint.methods:
        return None
    allow = one_field(b"Allow", b", ".join(endpoint.methods))
    return Refusal(status=405, slug="method-not-allowed", reason="method", extra=(allow,))
