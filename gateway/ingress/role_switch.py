"""The role switch: an admitted worker becomes the HTTP server of the connection that it opened.

Trust: meets untrusted workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.admission.request_record import Admitted, RequestRecord
from gateway.core.context import ProcessContext
from gateway.http.responses import fail, refuse
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from rhttp.http1.fields import TOKEN, values
from rhttp.http1.server import ServerEnd
from rhttp.reversal.upgrade import OFFER, UpgradeVariant, chosen_variant

if TYPE_CHECKING:
    from gateway.ingress.connection import Connection

_MAX_INSTANCE: Final = 64


def ask_reverse(
    process: ProcessContext,
    connection: Connection,
    end: ServerEnd,
    record: RequestRecord,
    admitted: Admitted,
    name: str,
) -> None:
    """Switch roles, or say why not. The request was admitted: certificate, Digest, policy."""
    admitted.require("reverse", "Pool", name)
    end.close_after = True  # whatever is refused from here on closes; a switch takes the connection away
    pool = serving_of(record.generation).pools.get(name)
    if pool is None:
        refuse(process, end, record, 404, "not-found", "no_pool")
        return
    variant = chosen_variant(record.head)
    if variant is None:
        refuse(process, end, record, 426, "upgrade-required", "no_known_upgrade", extra=OFFER)
        return
    if record.head.method not in variant.methods:
        allow = b"Allow: %b\r\n" % b", ".join(sorted(variant.methods))
        refuse(process, end, record, 405, "method-not-allowed", "method", extra=allow)
        return
    if process.draining:
        refuse(process, end, record, 503, "draining", "draining")
        return
    instances = values(record.head.fields, b"rhttp-instance")
    if len(instances) > 1 or (
        instances and (len(instances[0]) > _MAX_INSTANCE or TOKEN.fullmatch(instances[0]) is None)
    ):
        refuse(process, end, record, 400, "bad-request", "instance_malformed")
        return
    if isinstance(pool, RelayPool):
        _relay(process, connection, end, record, pool, variant)
        return
    instance = instances[0].decode("ascii") if instances else None
    newer = pool.newer_start(record.peer.name, instance) if instance is not None else None
    if newer is not None:
        names = {"instance": instance, "newer": newer}
        refuse(process, end, record, 409, "superseded", "superseded", detail=names)
        return
    _host(process, connection, end, record, pool, variant, instance)


def _host(
    process: ProcessContext,
    connection: Connection,
    end: ServerEnd,
    record: RequestRecord,
    pool: HostedPool,
    variant: UpgradeVariant,
    instance: str | None,
) -> None:
    fields = record.audit("allowed", status=101)
    if instance is not None:
        fields["detail"] = {"instance": instance}
    if not process.record("reverse.opened", fields):
        fail(process, end, record, 503, "audit-unavailable")
        return
    link, early = end.detach()
    process.registry.remove(connection)
    if early:
        # RFC 9931: what comes before the 101 is smuggled, or from a peer that does not know what it asked for.
        process.record_closed(
            record.peer, pool.config.name, record.request_id, process.elapsed, "bytes before the switch"
        )
        link.abort()
        return
    link.write(variant.answer)
    pool.host(
        record.peer, link, protocol=variant.name, instance=instance, request_id=record.request_id, asked=record.context
    )


def _relay(
    process: ProcessContext,
    connection: Connection,
    end: ServerEnd,
    record: RequestRecord,
    pool: RelayPool,
    variant: UpgradeVariant,
) -> None:
    assert pool.config.master is not None
    master = serving_of(record.generation).masters[pool.config.master]
    fields = connection.fields_for(end, record)
    if fields is None:
        return

    def failed(status: int, slug: str, reason: str) -> None:
        pool.failed(record, end, status, slug, reason)

    pool.ask(record, end, variant, master, b"%b%b\r\n" % (fields, record.id_bytes), failed)
