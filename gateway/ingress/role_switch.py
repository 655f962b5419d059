"""The role switch: an admitted worker becomes the HTTP server of the connection that it opened.

Trust: meets untrusted workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.admission.request_record import Admitted, Call
from gateway.core.context import Services
from gateway.http.responses import fail, refuse
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from rhttp.http1.fields import TOKEN, values
from rhttp.http1.server import ServerEnd
from rhttp.reversal.upgrade import OFFER, UpgradeVariant, chosen_variant

if TYPE_CHECKING:
    from gateway.ingress.connection import Connection

_MAX_INSTANCE: Final = 64


def ask_reverse(
    services: Services, connection: Connection, end: ServerEnd, call: Call, admitted: Admitted, name: str
) -> None:
    """Switch roles, or say why not. The request was admitted: certificate, Digest, policy."""
    admitted.require("reverse", "Pool", name)
    end.close_after = True  # whatever is refused from here on closes; a switch takes the connection away
    pool = call.generation.pools.get(name)
    if pool is None:
        refuse(services, end, call, 404, "not-found", "no_pool")
        return
    variant = chosen_variant(call.head)
    if variant is None:
        refuse(services, end, call, 426, "upgrade-required", "no_known_upgrade", extra=OFFER)
        return
    if call.head.method not in variant.methods:
        allow = b"Allow: %b\r\n" % b", ".join(sorted(variant.methods))
        refuse(services, end, call, 405, "method-not-allowed", "method", extra=allow)
        return
    if services.draining:
        refuse(services, end, call, 503, "draining", "draining")
        return
    instances = values(call.head.fields, b"rhttp-instance")
    if len(instances) > 1 or (
        instances and (len(instances[0]) > _MAX_INSTANCE or TOKEN.fullmatch(instances[0]) is None)
    ):
        refuse(services, end, call, 400, "bad-request", "instance_malformed")
        return
    if isinstance(pool, RelayPool):
        _relay(services, connection, end, call, pool, variant)
        return
    instance = instances[0].decode("ascii") if instances else None
    newer = pool.newer_start(call.peer.name, instance) if instance is not None else None
    if newer is not None:
        names = {"instance": instance, "newer": newer}
        refuse(services, end, call, 409, "superseded", "superseded", detail=names)
        return
    _host(services, connection, end, call, pool, variant, instance)


def _host(
    services: Services,
    connection: Connection,
    end: ServerEnd,
    call: Call,
    pool: HostedPool,
    variant: UpgradeVariant,
    instance: str | None,
) -> None:
    fields = call.audit("allowed", status=101)
    if instance is not None:
        fields["detail"] = {"instance": instance}
    if not services.record("reverse.opened", fields):
        fail(services, end, call, 503, "audit-unavailable")
        return
    link, early = end.detach()
    services.registry.remove(connection)
    if early:
        # RFC 9931: what comes before the 101 is smuggled, or from a peer that does not know what it asked for.
        services.record_closed(
            call.peer, pool.config.name, call.request_id, services.elapsed, "bytes before the switch"
        )
        link.abort()
        return
    link.write(variant.answer)
    pool.host(call.peer, link, protocol=variant.name, instance=instance, request_id=call.request_id, asked=call.context)


def _relay(
    services: Services, connection: Connection, end: ServerEnd, call: Call, pool: RelayPool, variant: UpgradeVariant
) -> None:
    assert pool.config.master is not None
    master = call.generation.masters[pool.config.master]
    fields = connection.fields_for(end, call)
    if fields is None:
        return

    def failed(status: int, slug: str, reason: str) -> None:
        pool.failed(call, end, status, slug, reason)

    pool.ask(call, end, variant, master, b"%b%b\r\n" % (fields, call.id_bytes), failed)
