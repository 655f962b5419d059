"""The tables and keys of ``gateway.toml`` as pydantic sees them: which there are, of what type, within what bounds.

This is the one list of keys: checks and the reference are made from it. What a value *means* (is that text an address,
is there such a master) is for `gateway.configcheck`. Scalars are strict, so ``"8"`` or ``true`` is never a number.

Posture: trusts the operator to mean well, not to type well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from gateway.configvalues import AuditConfig
from gateway.limits import Float, Int, Limits, count, seconds

Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]


class Table(BaseModel):
    """A table of the file: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TopTable(Table):
    """The keys before the first table."""

    trust_domain: Text = Field(description="SPIFFE trust domain of every certificate; fixed by `init`.")
    listen: Text = Field(
        "127.0.0.1:8443", description="TLS listener for clients, workers and remote masters, `host:port`."
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
    processes: Annotated[Int, count(1, 256, "Data processes.")] = 1
    client_cert_field: Flag = Field(False, description="Send masters the `Client-Cert` field (RFC 9440).")


class DigestTable(Table):
    """``[digest]``: HTTP Digest (RFC 7616)."""

    realm: Text = Field(description="Protection space; fixed by `init`, passwords are stored for it.")
    algorithms: list[Text] = Field(["SHA-256"], description="Algorithms to offer, strongest first.")
    nonce_lifetime: Annotated[Float, seconds(86400, "A nonce is current so long, then stale.", low=1)] = 300.0
    window: Annotated[Int, count(16, 65536, "Nonce counts remembered for each nonce.")] = 1024
    nonces_per_identity: Annotated[Int, count(1, 4096, "Live nonces of one identity; older ones become stale.")] = 64


class MasterTable(Table):
    """``[masters.NAME]``: where requests of routes go."""

    urls: list[Text] = Field(description="Addresses of the master, `http://host:port`.")
    host: Text | None = Field(None, description="`Host` field sent to the master; without it, the client's own.")


class RouteTable(Table):
    """``[[routes]]``: which paths lead to which master; the longest match wins."""

    name: Text | None = Field(None, description="Name in policies; without it, the name of the master.")
    path: Text = Field(description="`/x/*` for `/x/` and all below, or one exact path; in normal form.")
    master: Text = Field(description="Name of the master.")
    allow_empty_segments: Flag = Field(False, description="Accept `//` in paths of this route.")
    allow_encoded_slash: Flag = Field(False, description="Accept `%2F` in paths of this route.")
    allow_cross_site: Flag = Field(False, description="Accept a cross-site `Origin` on unsafe methods.")


class PoolTable(Table):
    """``[pools.NAME]``: workers that reversed their connection."""

    mode: Literal["hosted", "relay"] = Field(
        "hosted", description="`hosted`: connections are kept here. `relay`: they are handed to a master."
    )
    master: Text | None = Field(None, description="For mode `relay`: name of the master.")
    path: Text | None = Field(None, description="For mode `relay`: path of the upgrade; default `/-/reverse/NAME`.")
    queue: Annotated[Int, count(0, 1000000, "Requests that may wait for a slot.")] = 1000


class StateTable(Table):
    """``[state]``: where users, certificates and revocations are kept."""

    url: Text = Field(
        "sqlite:///state.db",
        description="`sqlite:///PATH` (relative to the home) or `postgresql+psycopg://USER@HOST/DATABASE`.",
    )


class MetricsTable(Table):
    """``[metrics]``: `GET /metrics` for Prometheus."""

    listen: Text | None = Field(None, description="`host:port`; without it there is no such listener.")
    allow_remote: Flag = Field(False, description="Permit an address that is not a loopback one.")


Group = list[Text]
"""``[groups] NAME = [members]``."""

# Every table of the file but the top one: its key, how it is written, what it holds. Order is that of the reference.
TABLES: dict[str, tuple[str, type[Any]]] = {
    "digest": ("[digest]", DigestTable),
    "masters": ("[masters.NAME]", MasterTable),
    "routes": ("[[routes]]", RouteTable),
    "pools": ("[pools.NAME]", PoolTable),
    "limits": ("[limits]", Limits),
    "audit": ("[audit]", AuditConfig),
    "state": ("[state]", StateTable),
    "metrics": ("[metrics]", MetricsTable),
}
GROUPS_TEXT = 'Principals of each group, `client/NAME`, `worker/NAME` or `master/NAME`; policies say `Group::"NAME"`.'
# Tables that later work brings: named here so that setting one says so instead of "unknown key".
NOT_BUILT = {"enroll": "enrolment", "pki": "the plain listener for revocation lists"}
