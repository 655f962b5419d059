"""The configuration as the running gateway uses it: frozen values, complete and checked, no text left to interpret.

They are built in one place (`gateway.config.check`); whoever holds a `Config` need not check it again.

Trust: data only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, Field

from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.config.limits import GIB, KIB, MIB, Float, Int, Limits, Text, count, seconds, size

PEER_ROLES: Final = ("client", "worker", "master")
"""As `pki.names.PEER_ROLES`; a test holds the two together."""

T = TypeVar("T")

NONCES_PER_IDENTITY: Final = 256
"""As many as an identity may have connections: clients keep a nonce for each of theirs."""
MAX_NONCES_PER_IDENTITY: Final = 4096


_types_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def carry(kind: type[T], source: object, **others: Any) -> T:
    """A `kind` of `others`, and of what it declares in common with the class of `source`, as it stands there.

    Raises:
        TypeError: something has another type there, so it needs to be made of what `source` says and given.
    """
    wanted, there = _types_of(kind), _types_of(type(source))
    for name in wanted.keys() & there.keys() - others.keys():
        if wanted[name] != there[name]:
            raise TypeError(f"{kind.__name__}.{name} is not the {name} of a {type(source).__name__}")
        others[name] = getattr(source, name)
    return kind(**others)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigProblem:
    """One thing that is wrong: `path` is the key as typed (``pools.render.mode``), `message` says what and the mend."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class LoadFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The home cannot be served; `problems` holds all that is wrong, each with a key path or file."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class ConfigInvalid(LoadFailed):
    """The configuration cannot be used; `problems` holds all that is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """A TCP address to listen on; `host` is a name or an IP literal without brackets, `port` 0 means any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """A unix socket to listen on; `path` is absolute and at most 107 bytes."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestConfig:
    """The ``[digest]`` table: HTTP Digest (RFC 7616). Checked by its annotations, like `Limits`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    realm: Annotated[Text, Field(description="Protection space; fixed by `init`, passwords are stored for it.")]
    algorithms: Annotated[tuple[Text, ...], Field(description="Algorithms to offer, strongest first.")] = ("SHA-256",)
    nonce_lifetime: Annotated[Float, seconds(86400, "A nonce is current so long, then stale.")] = 300.0
    window: Annotated[Int, count(1, 65536, "Nonce counts remembered for each nonce.")] = 1024
    nonces_per_identity: Annotated[
        Int,
        count(
            1,
            MAX_NONCES_PER_IDENTITY,
            "Live nonces of one identity; older ones become stale. Unset, it rises with `connections_per_client` and "
            "`connections_per_worker` up to its maximum, so that each connection can keep a nonce of its own.",
        ),
    ] = NONCES_PER_IDENTITY


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterUrl:
    """One address of a master; `authority` is host and port as they go on the wire, an IPv6 literal in brackets."""

    scheme: Literal["http"]
    host: str
    port: int
    authority: bytes

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode('ascii')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterConfig:
    """A master that routes lead to; `host` replaces the client's ``Host`` field when set."""

    name: str
    urls: tuple[MasterUrl, ...]
    host: str | None = None


@dataclass(frozen=True, slots=True)
class ToMaster:
    """A route leads to the master of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class ToPool:
    """A route leads to a worker of the hosted pool of this name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig:
    """Paths that lead somewhere; `path` is normal, exact or ending in ``/*``."""

    name: str
    path: str
    to: ToMaster | ToPool
    strip_prefix: bool = False
    """What stands before the star's slash is not forwarded."""
    allow_empty_segments: bool = False
    allow_encoded_slash: bool = False
    allow_cross_site: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """A pool of workers; `master` and `path` are set exactly when `mode` is ``relay``."""

    name: str
    mode: Literal["hosted", "relay"] = "hosted"
    master: str | None = None
    path: str | None = None
    queue: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """The ``[audit]`` table: the audit log's files. Checked by its annotations, like `Limits`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    max_bytes: Annotated[Int, size(1 * KIB, 16 * GIB, "One file may have; then the next is begun.")] = 64 * MIB
    keep: Annotated[Int, count(0, 1000000, "Finished files kept for each stream; 0 keeps all.")] = 0
    when_full: Annotated[
        Literal["refuse", "continue"],
        Field(description="When a line cannot be written: refuse requests, or go on without the line."),
    ] = "refuse"
    ahead: Annotated[
        Literal["unsafe", "all", "none"],
        Field(description="Requests over routes that get a line before they leave: those that may change something."),
    ] = "unsafe"
    fold_after: Annotated[
        Int, count(1, 100000, "Refusals a second of one source and reason that get a line each; then one for all.")
    ] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """The ``[state]`` table: where users, certificates and revocations are kept. Its repr hides a password."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    url: Annotated[
        Text,
        Field(description="`sqlite:///PATH` (relative to the home) or `postgresql+psycopg://USER@HOST/DATABASE`."),
    ] = field(default=DEFAULT_STATE_URL, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where ``GET /metrics`` is served; None: nowhere."""

    listen: TcpAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PkiConfig:
    """Where revocation lists are served in the clear (None: nowhere, and none is signed), how long one is good, and
    whether OCSP is answered, too."""

    listen: TcpAddress | None = None
    list_lifetime: float = 86400.0
    url: str | None = None
    """What certificates say, for who issues them."""
    ocsp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollConfig:
    """Who may get certificates of a running gateway: with a token on a listener of their own, with a certificate on the
    TLS listener when `enabled`."""

    listen: TcpAddress | None = None
    renew: bool = False
    gateway: str | None = None

    @property
    def enabled(self) -> bool:
        """Whether certificates are issued at all while the gateway runs."""
        return self.renew or self.listen is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of ``gateway.toml`` with the command line's options merged in; paths are absolute."""

    home: Path
    trust_domain: str
    listen: TcpAddress
    dispatch: TcpAddress | UnixAddress
    digest: DigestConfig
    policy: Path
    processes: int = 1
    server_names: tuple[str, ...] = ()
    client_cert_field: bool = False
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    masters: Mapping[str, MasterConfig] = field(default_factory=dict)
    routes: tuple[RouteConfig, ...] = ()
    pools: Mapping[str, PoolConfig] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    audit: AuditConfig = field(default_factory=AuditConfig)
    state: StateConfig = field(default_factory=StateConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    pki: PkiConfig = field(default_factory=PkiConfig)
    enroll: EnrollConfig = field(default_factory=EnrollConfig)

    def resources(self) -> dict[str, frozenset[str]]:
        """What policies may name, by the entity type: routes, pools and the roles of peers."""
        routes = frozenset(route.name for route in self.routes)
        return {"Route": routes, "Pool": frozenset(self.pools), "Role": frozenset(PEER_ROLES)}
