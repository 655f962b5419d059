"""The tables and keys of ``gateway.toml`` as pydantic sees them: which there are, of what type, within what bounds.

This is the one list of keys: checks and the reference are made from it. A table whose values are used as they stand in
the file is that of `gateway.config.limits` or `gateway.config.values` itself; the others are models here, which
`gateway.config.check` turns into those values. What a text *means* (is it an address, is there such a master) is for
that one, too. Scalars are strict, so ``"8"`` or ``true`` is never a number.

Trust: trusts the operator to mean well, not to type well.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from gateway.config.defaults import DEFAULT_LISTEN, MAX_PROCESSES
from gateway.config.limits import Flag, Float, Int, Limits, Text, count, seconds
from gateway.config.values import AuditConfig, DigestConfig, StateConfig


class Table(BaseModel):
    """A table of the file: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TopTable(Table):
    """The keys before the first table."""

    trust_domain: Text = Field(description="SPIFFE trust domain of every certificate; fixed by `init`.")
    listen: Text = Field(
        DEFAULT_LISTEN, description="TLS listener for clients, workers and remote masters, `host:port`."
    )
    dispatch: Text = Field(
        "unix:run/dispatch.sock",
        description="Plain HTTP listener for masters on this host: `unix:PATH` (relative to the home) or a loopback "
        "`address:port`.",
    )
    server_names: list[Text] = Field(
        [], description="Names and addresses that requests may be addressed to beside those of the server certificate."
    )
    policy: Text = Field("policy.cedar", description="The policy file, relative to the home.")
    processes: Annotated[Int, count(1, MAX_PROCESSES, "Data processes; about one for each core.")] = 1
    client_cert_field: Flag = Field(False, description="Send masters the `Client-Cert` field (RFC 9440).")


class MasterTable(Table):
    """``[masters.NAME]``: where requests of routes go."""

    urls: list[Text] = Field(description="Addresses of the master, `http://host:port`.")
    host: Text | None = Field(None, description="`Host` field sent to the master; without it, the client's own.")


class RouteTable(Table):
    """``[[routes]]``: which paths lead to which master or pool; the longest match wins."""

    name: Text | None = Field(None, description="Name in policies; without it, the name of the master or pool.")
    path: Text = Field(description="`/x/*` for `/x/` and all below, or one exact path; in normal form.")
    master: Text | None = Field(None, description="Name of the master. Either this or `pool` must be there.")
    pool: Text | None = Field(
        None, description="Name of a hosted pool: the request goes to a worker that has a free slot."
    )
    strip_prefix: Flag = Field(
        False,
        description="Forward the path without what stands before `/*`: `/x/y` of a route `/x/*` as `/y`. Answers pass"
        " as they are: `Location` and links in pages are not rewritten.",
    )
    allow_empty_segments: Flag = Field(False, description="Accept `//` in paths of this route.")
    allow_encoded_slash: Flag = Field(False, description="Accept `%2F` in paths of this route.")
    allow_cross_site: Flag = Field(
        False, description="Accept unsafe methods from pages of other sites (`Origin`, `Sec-Fetch-Site`)."
    )


class PoolTable(Table):
    """``[pools.NAME]``: workers that reversed their connection."""

    mode: Literal["hosted", "relay"] = Field(
        "hosted", description="`hosted`: connections are kept here. `relay`: they are handed to a master."
    )
    master: Text | None = Field(None, description="For mode `relay`: name of the master.")
    path: Text | None = Field(None, description="For mode `relay`: path of the upgrade; default `/-/reverse/NAME`.")
    queue: Annotated[Int, count(0, 1000000, "Requests that may wait for a slot.")] = 1000


class MetricsTable(Table):
    """``[metrics]``: `GET /metrics` for Prometheus."""

    listen: Text | None = Field(None, description="`host:port`; without it there is no such listener.")
    allow_remote: Flag = Field(False, description="Permit an address that is not a loopback one.")


class PkiTable(Table):
    """``[pki]``: revocation lists, and OCSP, for others, in the clear."""

    listen: Text | None = Field(
        None, description="`host:port`; without it no list is signed by the gateway, and there is no such listener."
    )
    allow_remote: Flag = Field(False, description="Permit an address that is not a loopback one.")
    list_lifetime: Annotated[
        Float, seconds(366 * 86400, "A list is good so long; it is replaced when half of that is over.", low=60)
    ] = 86400.0
    url: Text | None = Field(
        None,
        description="Where others reach that listener, or wherever the lists are served: `http://host:port`. "
        "Certificates that live for more than a day say it.",
    )
    ocsp: Flag = Field(False, description="Answer OCSP requests there, too: `POST` or `GET /-/pki/ocsp`.")


class EnrollTable(Table):
    """``[enroll]``: EST (RFC 7030) for machines that have an enrolment token, or a certificate that will end."""

    listen: Text | None = Field(
        None, description="`host:port` for those who have a token and no certificate; without it there is none."
    )
    renew: Flag = Field(
        False, description="Renew certificates on the TLS listener also without `listen`. With it that goes unsaid."
    )
    gateway: Text | None = Field(
        None,
        description="`https://host:port` of the TLS listener, told to those who enrol. Unset: `listen` at the top,"
        " by the first name of the server certificate when that is a wildcard address.",
    )


# Every table of the file but the top one: its key, how it is written, what it holds. Order is that of the reference.
TABLES: dict[str, tuple[str, type[Any]]] = {
    "digest": ("[digest]", DigestConfig),
    "masters": ("[masters.NAME]", MasterTable),
    "routes": ("[[routes]]", RouteTable),
    "pools": ("[pools.NAME]", PoolTable),
    "limits": ("[limits]", Limits),
    "audit": ("[audit]", AuditConfig),
    "state": ("[state]", StateConfig),
    "metrics": ("[metrics]", MetricsTable),
    "pki": ("[pki]", PkiTable),
    "enroll": ("[enroll]", EnrollTable),
}
GROUPS_TEXT = 'Principals of each group, `client/NAME`, `worker/NAME` or `master/NAME`; policies say `Group::"NAME"`.'


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a table, for messages and the reference. `default` is None where there is none."""

    name: str
    expects: str
    default: object
    required: bool
    description: str

    @property
    def blank(self) -> str | list[str]:
        """What stands for a required key that is not there; those are texts and lists of texts."""
        return [] if self.expects == "a list of texts" else ""


def keys_of(table: type[Any]) -> tuple[Key, ...]:
    """The keys of a table in the order in which they are documented."""
    if issubclass(table, BaseModel):
        return tuple(
            _key(name, info.annotation, info, info.default, required=info.is_required())
            for name, info in table.model_fields.items()
        )
    hints = get_type_hints(table, include_extras=True)
    keys = []
    for field in fields(table):
        kind, *notes = get_args(hints[field.name])
        info = next(note for note in notes if isinstance(note, FieldInfo))
        keys.append(_key(field.name, kind, info, field.default, required=field.default is MISSING))
    return tuple(keys)


def _key(name: str, kind: Any, info: FieldInfo, default: object, *, required: bool) -> Key:
    bounds = {sign: getattr(note, sign) for note in info.metadata for sign in ("gt", "ge", "le") if hasattr(note, sign)}
    extra = info.json_schema_extra
    unit = str(extra["unit"]) if isinstance(extra, dict) else ""
    return Key(
        name=name,
        expects=_expects(kind, bounds, unit),
        default=None if required else list(default) if isinstance(default, tuple) else default,
        required=required,
        description=info.description or "",
    )


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _expects(kind: Any, bounds: dict[str, float], unit: str) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return "a list of texts"
    if get_origin(kind) is UnionType or get_origin(kind) is Union:
        kind = get_args(kind)[0]  # "... | None": the key may be absent
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    low = f" above {bounds['gt']:g} up to" if "gt" in bounds else f" from {bounds['ge']:g} to" if "ge" in bounds else ""
    high = f" {bounds['le']:.15g}" if "le" in bounds else ""
    return f"{_KINDS[kind]}{low}{high}{f' ({unit})' if unit else ''}"
