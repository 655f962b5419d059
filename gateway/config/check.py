"""What the values of ``gateway.toml`` mean, addresses, names, references: from typed tables to a `Config`.

Each check notes what it finds and leaves the value out, so the others still run. No file is touched here.

Trust: pure; trusts the operator to mean well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from gateway.config.address import (
    is_https_origin,
    is_loopback,
    is_loopback_literal,
    parse_master_url,
    parse_tcp,
    public_url_problem,
)
from gateway.config.limits import Limits
from gateway.config.models import EnrollTable, MasterTable, MetricsTable, PkiTable, PoolTable, RouteTable
from gateway.config.places import check_places
from gateway.config.route_paths import route_path_problem
from gateway.config.tables import Notes, Part, Tables
from gateway.config.values import (
    MAX_NONCES_PER_IDENTITY,
    AuditConfig,
    Config,
    DigestConfig,
    EnrollConfig,
    MasterConfig,
    MasterUrl,
    MetricsConfig,
    PkiConfig,
    PoolConfig,
    RouteConfig,
    TcpAddress,
    ToMaster,
    ToPool,
    UnixAddress,
    carry,
)
from pki.errors import NameInvalid
from pki.names import PEER_ROLES, parse_dns_name, parse_name, parse_trust_domain
from rhttp.http1.limits import UNIX_PATH_MAX
from rhttp.http1.target import BadTarget, parse_target, split_authority

_REALM: Final = re.compile(r"[ !#-\[\]-~]{1,128}")
_ALGORITHMS: Final = ("SHA-256",)
_KNOWN_ALGORITHMS: Final = frozenset(
    name + suffix for name in ("SHA-256", "SHA-512-256", "MD5") for suffix in ("", "-sess")
)
# (smaller, bigger): the second bounds the first.
_ORDERED_LIMITS: Final = (
    ("request_line_bytes", "head_bytes"),
    ("handshakes", "connections"),
    ("master_idle_connections", "master_connections"),
)


def build_config(tables: Tables, home: Path, notes: Notes) -> Config | None:
    """The configuration; None when something was noted. `home` is absolute."""
    top = tables.top
    groups = _groups(tables.groups, notes)
    masters = _masters(tables.masters, notes)
    routes = _routes(tables, notes)
    pools = _pools(tables.pools, tables.given.get("masters", frozenset()), notes)
    limits = _limits(tables.limits or Limits(), tables.given.get("limits", frozenset()), notes)
    digest = _digest(tables.digest, limits, tables.given.get("digest", frozenset()), notes)
    state = tables.state
    if state is not None:
        _state_url(state.url, notes)
    metrics = _metrics(tables.metrics, notes)
    pki = _pki(tables.pki, notes)
    enroll = _enroll(tables.enroll, notes)
    if top is None:
        return None
    trust_domain = _checked(parse_trust_domain, top.trust_domain, notes, "trust_domain") if top.trust_domain else None
    notes.files.append(("policy", home / top.policy))
    listen = _tcp(top.listen, notes, "listen")
    dispatch = _dispatch(top.dispatch, home, notes)
    server_names = _server_names(top.server_names, notes)
    _unix_paths(dispatch, top.dispatch, home, notes)
    addresses = {"listen": listen, "dispatch": dispatch, "metrics.listen": metrics.listen, "pki.listen": pki.listen}
    check_places(addresses | {"enroll.listen": enroll.listen}, tables.masters, notes)
    if notes.problems or not (trust_domain and listen and dispatch and digest and state):
        return None
    return carry(
        Config,
        top,
        home=home,
        trust_domain=trust_domain,
        listen=listen,
        dispatch=dispatch,
        digest=digest,
        policy=home / top.policy,
        server_names=server_names,
        groups=groups,
        masters=masters,
        routes=routes,
        pools=pools,
        limits=limits,
        audit=tables.audit or AuditConfig(),
        state=state,
        metrics=metrics,
        pki=pki,
        enroll=enroll,
    )


def _checked(parse: Callable[[str], str], text: str, notes: Notes, *parts: Part) -> str | None:
    """The text when it is a name of its kind."""
    try:
        return parse(text)
    except NameInvalid as error:
        notes.say(str(error), *parts)
        return None


def _digest(table: DigestConfig | None, limits: Limits, given: frozenset[str], notes: Notes) -> DigestConfig | None:
    if table is None:
        return None
    if table.realm and not _REALM.fullmatch(table.realm):
        notes.say("must be 1 to 128 printable ASCII characters without quotes and backslashes", "digest", "realm")
    if not table.algorithms:
        notes.say('must name at least one algorithm; write ["SHA-256"]', "digest", "algorithms")
    for index, name in enumerate(table.algorithms):
        if name not in _ALGORITHMS:
            what = "is not supported yet" if name in _KNOWN_ALGORITHMS else "is no algorithm of HTTP Digest"
            notes.say(f'{name[:40]!r} {what}; write ["SHA-256"]', "digest", "algorithms", index)
        elif name in table.algorithms[:index]:
            notes.say(f"{name!r} is listed twice; remove one", "digest", "algorithms", index)
    if "nonces_per_identity" not in given:
        # A connection that finds its nonce pushed out by the next one's sends every request twice.
        connections = max(limits.connections_per_client, limits.connections_per_worker)
        nonces = max(table.nonces_per_identity, min(connections, MAX_NONCES_PER_IDENTITY))
        return replace(table, nonces_per_identity=nonces)
    return table


def _groups(tables: Mapping[str, list[str]], notes: Notes) -> dict[str, tuple[str, ...]]:
    for name, members in tables.items():
        _checked(parse_name, name, notes, "groups", name)
        for index, member in enumerate(members):
            role, slash, rest = member.partition("/")
            if not slash or role not in PEER_ROLES:
                text = f"{member[:80]!r} is no principal; write 'client/NAME', 'worker/NAME' or 'master/NAME'"
                notes.say(text, "groups", name, index)
            else:
                _checked(parse_name, rest, notes, "groups", name, index)
    return {name: tuple(dict.fromkeys(members)) for name, members in tables.items()}


def _masters(tables: Mapping[str, MasterTable], notes: Notes) -> dict[str, MasterConfig]:
    found = {}
    for name, table in tables.items():
        _checked(parse_name, name, notes, "masters", name)
        urls: list[MasterUrl] = []
        for index, text in enumerate(table.urls):
            url = parse_master_url(text)
            if isinstance(url, str):
                notes.say(url, "masters", name, "urls", index)
            elif url in urls:
                notes.say("is listed twice; remove one", "masters", name, "urls", index)
            else:
                urls.append(url)
        if table.host is not None and (not table.host.isascii() or split_authority(table.host.encode()) is None):
            notes.say("must be a host, or host:port", "masters", name, "host")
        found[name] = carry(MasterConfig, table, name=name, urls=tuple(urls))
    return found


def _routes(tables: Tables, notes: Notes) -> tuple[RouteConfig, ...]:
    found: list[RouteConfig] = []
    paths: dict[str, int] = {}
    leads: dict[str, tuple[int, ToMaster | ToPool]] = {}
    for index, table in tables.routes:
        if table.name is not None:
            _checked(parse_name, table.name, notes, "routes", index, "name")
        problem = route_path_problem(table.path) if table.path else None
        if problem is not None:
            notes.say(problem, "routes", index, "path")
        first = paths.setdefault(table.path, index)
        if first != index and table.path:
            notes.say(f"routes[{first}] has the same path; remove one", "routes", index, "path")
        for option in ("allow_empty_segments", "allow_encoded_slash", "strip_prefix"):
            if getattr(table, option) and table.path and not table.path.endswith("/*"):
                notes.say(
                    "means nothing for an exact path; end the path in '/*' or remove this", "routes", index, option
                )
        if table.strip_prefix and table.path == "/*":
            notes.say("there is nothing to strip from '/*'; remove this", "routes", index, "strip_prefix")
        to = _destination(index, table, tables, notes)
        if to is None:
            continue
        name = table.name or to.name
        other, known = leads.setdefault(name, (index, to))
        if to.name and known.name and to != known:
            text = f"routes[{other}] is called {name!r} too but leads elsewhere; policies could not tell"
            notes.say(f"{text} them apart, so rename one", "routes", index, "name")
        found.append(carry(RouteConfig, table, name=name, to=to))
    return tuple(found)


def _destination(index: int, table: RouteTable, tables: Tables, notes: Notes) -> ToMaster | ToPool | None:
    """Where a route leads; None: nowhere, or to two places, which was noted."""
    match table.master, table.pool:
        case None, None:
            if not (notes.has("routes", index, "master") or notes.has("routes", index, "pool")):
                notes.say("is missing; name a master, or a pool instead", "routes", index, "master")
            return None
        case str(master), None:
            _known_master(master, tables.given.get("masters", frozenset()), notes, "routes", index, "master")
            return ToMaster(master)
        case None, str(pool):
            _known_pool(pool, tables, notes, "routes", index, "pool")
            return ToPool(pool)
        case _:
            notes.say("a route leads to a master or to a pool; remove one of the two", "routes", index, "pool")
            return None


def _known_pool(name: str, tables: Tables, notes: Notes, *parts: Part) -> None:
    pools = tables.given.get("pools", frozenset())
    if name not in pools:
        known = f"known: {', '.join(sorted(pools))}" if pools else "there is no [pools] table"
        notes.say(f"there is no pool {name[:80]!r} ({known}); add [pools.NAME] or name another", *parts)
    elif name in tables.pools and tables.pools[name].mode != "hosted":
        notes.say(f"pool {name!r} is not hosted, so its workers are a master's; name that master", *parts)


def _known_master(name: str, masters: frozenset[str], notes: Notes, *parts: Part) -> None:
    if name not in masters:
        known = f"known: {', '.join(sorted(masters))}" if masters else "there is no [masters] table"
        notes.say(f"there is no master {name[:80]!r} ({known}); add [masters.NAME] or name another", *parts)


def _pools(tables: Mapping[str, PoolTable], masters: frozenset[str], notes: Notes) -> dict[str, PoolConfig]:
    found = {}
    for name, table in tables.items():
        _checked(parse_name, name, notes, "pools", name)
        if table.mode == "relay":
            if table.master is None:
                notes.say('is missing; mode "relay" needs the master to hand workers to', "pools", name, "master")
            else:
                _known_master(table.master, masters, notes, "pools", name, "master")
            path = table.path or f"/-/reverse/{name}"
            if not path.isascii() or _is_not_normal(path.encode()):
                notes.say("must be a path in normal form, as in '/-/reverse/render'", "pools", name, "path")
        else:
            path = None
            for key in ("master", "path"):
                if getattr(table, key) is not None:
                    notes.say('belongs to mode "relay" only; remove it or set the mode', "pools", name, key)
        found[name] = carry(PoolConfig, table, name=name, path=path)
    return found


def _is_not_normal(path: bytes) -> bool:
    target = parse_target(path, method=b"GET")
    return isinstance(target, BadTarget) or target.query is not None or target.path != path


def _limits(limits: Limits, given: frozenset[str], notes: Notes) -> Limits:
    for small, big in _ORDERED_LIMITS:
        bound = getattr(limits, big)
        if getattr(limits, small) <= bound:
            continue
        if small in given:
            default = "" if big in given else ", its default"
            notes.say(f"is more than limits.{big} ({bound}{default}); lower it or raise that", "limits", small)
        else:
            # A default never stands in the way of what was set.
            limits = replace(limits, **{small: bound})
    return limits


def _state_url(url: str, notes: Notes) -> None:
    # It may hold a password: no part of it is repeated.
    scheme, _, rest = url.partition("://")
    if scheme in ("sqlite", "sqlite+pysqlite"):
        name = rest[1:].partition("?")[0]
        if not rest.startswith("/") or not name or name == ":memory:":
            notes.say("must name a file, as in 'sqlite:///state.db'", "state", "url")
    elif scheme in ("postgresql", "postgres"):
        notes.say("must name the driver: 'postgresql+psycopg://…'", "state", "url")
    elif scheme != "postgresql+psycopg" or not rest:
        notes.say("must be 'sqlite:///PATH' or 'postgresql+psycopg://USER@HOST/DATABASE'", "state", "url")


def _metrics(table: MetricsTable | None, notes: Notes) -> MetricsConfig:
    if table is None:
        return MetricsConfig()
    return MetricsConfig(listen=_near(table.listen, table.allow_remote, notes, "metrics"))


def _pki(table: PkiTable | None, notes: Notes) -> PkiConfig:
    if table is None:
        return PkiConfig()
    if table.url is not None and (problem := public_url_problem(table.url)) is not None:
        notes.say(problem, "pki", "url")
    if table.ocsp and table.listen is None:
        notes.say("needs the listener on which it is answered; set pki.listen, or remove this", "pki", "ocsp")
    return carry(PkiConfig, table, listen=_near(table.listen, table.allow_remote, notes, "pki"))


def _near(text: str | None, allow_remote: bool, notes: Notes, name: str) -> TcpAddress | None:
    """Where a table's listener is: nowhere, or on loopback unless that is allowed."""
    if text is None:
        return None
    address = _tcp(text, notes, name, "listen")
    if address is not None and not allow_remote and not is_loopback(address.host):
        text = f"other machines may reach this address; take 127.0.0.1, or set {name}.allow_remote = true if they shall"
        notes.say(text, name, "listen")
    return address


def _enroll(table: EnrollTable | None, notes: Notes) -> EnrollConfig:
    if table is None:
        return EnrollConfig()
    listen = None if table.listen is None else _tcp(table.listen, notes, "enroll", "listen")
    if table.gateway is not None and not is_https_origin(table.gateway):
        notes.say("must be 'https://host:port', without a path", "enroll", "gateway")
    return carry(EnrollConfig, table, listen=listen)


def _tcp(text: str, notes: Notes, *parts: Part) -> TcpAddress | None:
    address = parse_tcp(text)
    if isinstance(address, str):
        notes.say(address, *parts)
        return None
    return address


def _dispatch(text: str, home: Path, notes: Notes) -> TcpAddress | UnixAddress | None:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path or path.endswith("/"):
            notes.say("must name a file, as in 'unix:run/dispatch.sock'", "dispatch")
            return None
        notes.folders.append(("dispatch", (home / path).parent))
        return UnixAddress(path=home / path)
    address = _tcp(text, notes, "dispatch")
    if address is not None and not is_loopback_literal(address.host):
        text = "must be a loopback address as a literal, 127.0.0.1 or [::1]: whoever reaches it is a master"
        notes.say(f"{text}; or use 'unix:run/dispatch.sock'", "dispatch")
        return None
    return address


def _unix_paths(dispatch: TcpAddress | UnixAddress | None, text: str, home: Path, notes: Notes) -> None:
    """One clear error for paths that no unix socket can have; a home that is too long is told once."""
    admin = home / "run" / "admin.sock"
    relative = not text.startswith("unix:/")
    if len(bytes(admin)) > UNIX_PATH_MAX:
        text = f"the admin socket's path {admin} has {len(bytes(admin))} bytes, a unix socket takes {UNIX_PATH_MAX}"
        notes.say(f"{text}; move the home to a shorter path, or reach it by a symbolic link", "home")
        if relative:
            return
    if not isinstance(dispatch, UnixAddress):
        return
    if len(bytes(dispatch.path)) > UNIX_PATH_MAX:
        text = f"the path {dispatch.path} has {len(bytes(dispatch.path))} bytes, a unix socket takes {UNIX_PATH_MAX}"
        notes.say(f"{text}; choose a shorter one", "dispatch")
    elif dispatch.path == admin:
        notes.say("is the admin socket's path; choose another", "dispatch")


def _server_names(texts: list[str], notes: Notes) -> tuple[str, ...]:
    names: list[str] = []
    for index, text in enumerate(texts):
        try:
            names.append(ip_address(text.removeprefix("[").removesuffix("]")).compressed)
            continue
        except ValueError:
            pass
        name = _checked(parse_dns_name, text.lower(), notes, "server_names", index)
        if name is not None:
            names.append(name)
    return tuple(dict.fromkeys(names))
