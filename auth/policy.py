"""Policy questions and answers as plain values, and the one rule that turns an engine's verdict into an answer.

Nothing here knows Cedar: `auth.cedar` asks the engine, `fold` decides what its verdict is worth.

Trust: untrusted client + untrusted worker + untrusted master (names, paths and sources come from the wire).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from auth.principal import Principal

__all__ = [
    "ACTIONS",
    "CONTEXT_KEYS",
    "REQUIRED_KEYS",
    "Allowed",
    "Context",
    "Decision",
    "Denied",
    "DenyReason",
    "PolicyQuery",
    "QueryInvalid",
    "ResourceType",
    "fold",
    "minute_text",
    "source_text",
]

ACTIONS: Final = ("request", "reverse", "dispatch", "inspect", "enroll")
ResourceType = Literal["Route", "Pool", "Role"]


class QueryInvalid(ValueError):  # noqa: N818 - says what is the case, like every error of ours
    """A query that has no meaning in the schema; whoever asks for a decision gets `Denied`, never this."""


class Context(NamedTuple):
    """The circumstances of one request, as policies see them under ``context``; None means absent.

    A named tuple and not a dataclass: one is made for every request, and a frozen dataclass is several times dearer,
    and a decision's cache key is cut out of it with one `operator.itemgetter`.

    ``listener`` is the purpose of the listener (``tls``, ``dispatch``), ``protocol`` the HTTP version (``http/1.1``)
    or, for ``reverse``, the protocol that the worker asks for, ``digest`` the algorithm that the peer proved its
    password with, ``path`` the normal path without its query, ``source`` an IP address, ``now`` seconds since the
    epoch, ``key_type`` the type of the key in the peer's certificate (``mldsa65``), ``group`` the group of the TLS key
    exchange by its registered name (``X25519MLKEM768``).
    """

    listener: str
    protocol: str
    digest: str | None = None
    tls_version: str | None = None
    method: str | None = None
    path: str | None = None
    source: str | None = None
    now: float | None = None
    key_type: str | None = None
    group: str | None = None


CONTEXT_KEYS: Final = Context._fields
REQUIRED_KEYS: Final = frozenset({"listener", "protocol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyQuery:
    """May `principal` do `action` on `resource`? Groups are not part of it: the engine knows them."""

    principal: Principal
    action: str
    resource_type: ResourceType
    resource: str
    context: Context


class DenyReason(StrEnum):
    """Why a decision is no: a stable slug for the audit log."""

    NOT_PERMITTED = "not_permitted"  # no policy permits it
    FORBIDDEN = "forbidden"  # at least one policy forbids it
    EVALUATION_ERROR = "evaluation_error"  # a policy could not be evaluated, so what it would have said is unknown
    NO_DECISION = "no_decision"  # the engine refused the question, or answered what we do not know
    UNNAMED_ALLOW = "unnamed_allow"  # the engine allowed without naming a policy
    QUERY_INVALID = "query_invalid"  # a value of the query has no form in the schema
    ENGINE_FAULT = "engine_fault"  # the engine raised or panicked


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, by these policies. Also the proof that the question was asked: only `fold` makes one."""

    policy_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and why; the policies that forbid it or that could not be evaluated, none when nothing permits it."""

    reason: str
    policy_ids: tuple[str, ...] = ()


Decision = Allowed | Denied


def fold(verdict: str, reasons: Sequence[str], failed: Sequence[str]) -> Decision:
    """What an engine's verdict is worth to us. Fails closed.

    Allowed only if the verdict is exactly ``Allow``, no policy failed (a ``forbid`` that fails is skipped by the
    engine, which then says Allow) and at least one policy is named.

    Args:
        verdict: ``Allow``, ``Deny`` or anything else, which counts as no decision.
        reasons: ids of the policies that decided; an empty one names nobody.
        failed: ids of the policies that could not be evaluated, an empty one for a failure that names none.
    """
    by, broken = _named(reasons), _named(failed)
    if verdict == "Deny":
        if by:
            return Denied(DenyReason.FORBIDDEN, by)
        if failed:
            return Denied(DenyReason.EVALUATION_ERROR, broken)
        return Denied(DenyReason.NOT_PERMITTED)
    if verdict != "Allow":
        return Denied(DenyReason.NO_DECISION, broken)
    if failed:
        return Denied(DenyReason.EVALUATION_ERROR, broken)
    if not by:
        return Denied(DenyReason.UNNAMED_ALLOW)
    return Allowed(by)


def _named(ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(filter(None, ids))))


def source_text(source: str) -> str:
    """An IP address as Cedar's ``ipaddr`` takes it: the zone removed, IPv4 that is mapped into IPv6 unmapped.

    Raises:
        QueryInvalid: it is no IP address.
    """
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        raise QueryInvalid("source is not an IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def minute_text(now: float) -> str:
    """The minute that `now` (seconds since the epoch) falls in, as Cedar's ``datetime`` takes it; seconds cut off.

    Raises:
        QueryInvalid: it is not a time between the years 1 and 9999.
    """
    try:
        at = datetime.fromtimestamp(now // 60 * 60, UTC)
    except (ValueError, OverflowError, OSError, TypeError):
        raise QueryInvalid("now is not a time") from None
    return at.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
