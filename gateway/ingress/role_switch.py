"""The role switch: an admitted worker becomes the HTTP server of the connection that it opened.

Trust: pure, meets bytes of untrusted workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.admission.checks import Refusal
from gateway.admission.request_record import RequestRecord
from gateway.core.context import ProcessContext
from gateway.ingress.field_section import FieldSection
from gateway.ingress.outcomes import Act, Later, Outcome, Switch
from gateway.pools.hosted import HostedPool
from rhttp.http1.fields import TOKEN, values
from rhttp.message import Blocks, RequestHead, one_field
from rhttp.reversal.upgrade import OFFER, chosen_variant

_MAX_INSTANCE: Final = 64


def switch_roles(section: FieldSection, head: RequestHead, name: str) -> Act:
    """Switch roles into this pool, or why not. Whatever is refused from here on closes."""
    pool = section.generation.pools.get(name)
    if pool is None:
        return _refusal(404, "not-found", "no_pool")
    variant = chosen_variant(head)
    if variant is None:
        return _refusal(426, "upgrade-required", "no_known_upgrade", extra=(OFFER,))
    if head.method not in variant.methods:
        allow = one_field(b"Allow", b", ".join(sorted(variant.methods)))
        return _refusal(405, "method-not-allowed", "method", extra=(allow,))
    instances = values(head.fields, b"rhttp-instance")
    if len(instances) > 1 or (
        instances and (len(instances[0]) > _MAX_INSTANCE or TOKEN.fullmatch(instances[0]) is None)
    ):
        return _refusal(400, "bad-request", "instance_malformed")
    if not isinstance(pool, HostedPool) and section.is_loop:
        return _refusal(508, "loop-detected", "via_loop")
    instance = instances[0].decode("ascii") if instances else None
    switch = Switch(pool, variant, instance, section.block)

    def decide(process: ProcessContext, record: RequestRecord) -> Outcome:
        if process.draining:
            return _refusal(503, "draining", "draining")
        newer = None
        if instance is not None and isinstance(pool, HostedPool):
            newer = pool.newer_start(record.peer.name, instance)
        if newer is not None:
            return _refusal(409, "superseded", "superseded", detail={"instance": instance, "newer": newer})
        return switch

    return Later(decide)


def _refusal(
    status: int, slug: str, reason: str, *, extra: Blocks = (), detail: Mapping[str, object] | None = None
) -> Refusal:
    return Refusal(status=status, slug=slug, reason=reason, extra=extra, detail=detail, closes=True)
