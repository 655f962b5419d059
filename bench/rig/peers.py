"""The peers by name: how each is started and what is said of it beside its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rig.apache import apache_version, start_apache
from rig.envoy import envoy_build, start_envoy
from rig.haproxy import haproxy_build, start_haproxy
from rig.nginx import nginx_build, start_nginx
from rig.processes import BenchFailed, Server

NO_DIGEST = "none: it has no HTTP Digest"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer. `start` takes the home, the folder for what was built, the origin's port, and a folder to make."""

    start: Callable[..., Server]
    build: Callable[[Path], str]
    digest: str
    role_rule: str


PEERS: Mapping[str, Peer] = {
    "apache": Peer(
        start=lambda home, build, origin, folder: start_apache(home, origin=origin, folder=folder),
        build=lambda build: apache_version(),
        digest="MD5, nc not checked",
        role_rule="issuing CA's name",
    ),
    "nginx": Peer(
        start=lambda home, build, origin, folder: start_nginx(home, build=build, origin=origin, folder=folder),
        build=nginx_build,
        digest=NO_DIGEST,
        role_rule="issuing CA's name",
    ),
    "haproxy": Peer(
        start=lambda home, build, origin, folder, **extra: start_haproxy(
            home, build=build, origin=origin, folder=folder, **extra
        ),
        build=haproxy_build,
        digest=NO_DIGEST,
        role_rule="issuing CA's CN",
    ),
    "envoy": Peer(
        start=lambda home, build, origin, folder: start_envoy(home, build=build, origin=origin, folder=folder),
        build=envoy_build,
        digest=NO_DIGEST,
        role_rule="prefix of the URI name",
    ),
}
OURS = {"digest": "SHA-256, nonce bound to the certificate, nc spent once", "role_rule": "policy on verified identity"}


def chosen_peers(text: str) -> tuple[str, ...]:
    """Names from a list with commas, in the order that they have here; empty text is none.

    Raises:
        BenchFailed: a name is not known.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - set(PEERS):
        raise BenchFailed(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    return tuple(name for name in PEERS if name in names)


def facts(names: tuple[str, ...], build: Path) -> dict[str, dict[str, str]]:
    """Build, Digest algorithm and role rule of each peer."""
    return {
        name: {"build": PEERS[name].build(build), "digest": PEERS[name].digest, "role_rule": PEERS[name].role_rule}
        for name in names
    }
