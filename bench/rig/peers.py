"""The peers: real servers that demand mutual TLS, hold a rule on the role, and proxy; what each is and how it starts.

Each runs from a folder of its own on loopback ports, never as the system's service, and writes one log line for each
request, as the gateway does. Their configurations lie in `conf/`; a word between two `@` stands for a value of the run.
HAProxy has a second front, on another port, that ends TLS for reversed connections and passes bytes to a master.
"""

from __future__ import annotations

import hashlib
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rig.builds import run
from rig.home import BenchHome
from rig.processes import BenchFailed, Server, accepts, free_port, need, start
from rig.programs import Program, debian_program, envoy_program, installed

CONF = Path(__file__).resolve().parent / "conf"
ADMISSION_PATH = "/admission"
REALM = "bench"
NO_DIGEST = "none: it has no HTTP Digest"
OURS = {"digest": "SHA-256, nonce bound to the certificate, nc spent once", "role_rule": "policy on verified identity"}


def apache_program(_: Path) -> Program:
    """Debian's Apache httpd: `apache2-bin` has the programs alone, the package apache2 would start a service."""
    if not installed("apache2"):
        need(None, "apache2-bin")
    need(installed("openssl"), "openssl")
    return installed("apache2") or Program(Path("apache2"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer: where its program is, how it is called, and what is said of it beside its numbers."""

    name: str
    program: Callable[[Path], Program]
    conf: str
    arguments: str
    version: tuple[str, ...]
    role_rule: str
    digest: str = NO_DIGEST

    def build(self, build: Path) -> str:
        """As it says of itself: `nginx/1.22.1, OpenSSL 3.0.22`."""
        option, *patterns = self.version
        told = self.program(build).says(option)
        found = [re.findall(pattern, told) for pattern in patterns]
        return ", ".join(" ".join(one[-1]) if isinstance(one[-1], tuple) else one[-1] for one in found if one)

    def start(self, home: BenchHome, build: Path, origin: int, folder: Path, master: int) -> Server:
        """Start it on the server core with the home's certificates, one worker thread; ready on return."""
        program = self.program(build)
        port, relay = free_port(), free_port()
        ports = {"port": port, "relay": relay, "origin": origin, "master": master}
        values = {**prepared(home, folder), **{name: str(number) for name, number in ports.items()}}
        file = folder / self.conf
        template = (CONF / self.conf).read_text()
        file.write_text(filled(template, values))
        command: list[str | Path] = [program.path, *filled(self.arguments, {**values, "conf": str(file)}).split()]
        server = start(self.name, command, port=port, folder=folder, environment=program.environment())
        server.relay_port = relay if "@relay@" in template else port
        server.wait_until(lambda: accepts(port) and accepts(server.relay_port))
        return server


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with the values of the run."""
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)


def prepared(home: BenchHome, folder: Path) -> dict[str, str]:
    """Make the folder with what peers read, where their unprivileged user can; the values that say what is in it."""
    folder.mkdir(mode=0o755)
    (folder / "www").mkdir()
    (folder / "www" / ADMISSION_PATH[1:]).write_text("admitted: 16 b.")
    a1 = f"{home.client.name}:{REALM}:{home.client.password}".encode()
    secret = hashlib.md5(a1, usedforsecurity=False).hexdigest()
    (folder / "users").write_text(f"{home.client.name}:{REALM}:{secret}\n")
    anchors = [home.certificate(name).read_bytes() for name in ("client-ca", "worker-ca", "root")]
    (folder / "anchors.pem").write_bytes(b"".join(anchors))
    user = unprivileged()
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    pem = folder / "server.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(home.certificate("server").read_bytes() + home.server_key.read_bytes())
    client, worker = issuer_name(home, "client-ca"), issuer_name(home, "worker-ca")
    names = {"client_issuer": client, "client_cn": common_name(client), "worker_cn": common_name(worker)}
    return {"folder": str(folder), "user": user.pw_name, "group": f"#{user.pw_gid}", **names}


def issuer_name(home: BenchHome, authority: str) -> str:
    """A CA's subject as Apache and nginx write the issuer of a leaf (RFC 2253)."""
    asked = ("openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", home.certificate(authority))
    name = run(*asked, what="openssl does not read a certificate of ours").strip().removeprefix("subject=")
    if set("'\"$") & set(name):
        raise BenchFailed(f"the CA's name cannot stand in a peer's configuration: {name}")
    return name


def common_name(name: str) -> str:
    """The CN in a name as RFC 2253 writes it."""
    found = re.search(r"CN=([^,]+)", name)
    return found[1] if found else name


def unprivileged() -> pwd.struct_passwd:
    """The user that Debian's packages make for web servers, or else nobody."""
    try:
        return pwd.getpwnam("www-data")
    except KeyError:
        return pwd.getpwnam("nobody")


_PEERS = (
    Peer(
        name="apache",
        program=apache_program,
        conf="apache.conf",
        arguments="-d @folder@ -f @conf@ -DFOREGROUND",
        version=("-v", r"version: (.*)"),
        digest="MD5, nc not checked",
        role_rule="issuing CA's name",
    ),
    Peer(
        name="nginx",
        program=partial(debian_program, name="nginx", packages=["nginx"]),
        conf="nginx.conf",
        arguments="-p @folder@ -e stderr -c @conf@",
        version=("-V", r"nginx version: (\S+)", r"(?:built|running) with (OpenSSL \S+)"),
        role_rule="issuing CA's name",
    ),
    Peer(
        name="haproxy",
        program=partial(
            debian_program,
            name="haproxy",
            packages=["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
        ),
        conf="haproxy.cfg",
        arguments="-db -f @conf@",
        version=("-vv", r"(HAProxy) version (\S+)", r"Running on OpenSSL version : (OpenSSL \S+)"),
        role_rule="issuing CA's CN",
    ),
    Peer(
        name="envoy",
        program=envoy_program,
        conf="envoy.yaml",
        arguments="-c @conf@ --concurrency 1 --disable-hot-restart --use-dynamic-base-id --log-level warning",
        # commit/version/state/kind/TLS library
        version=("--version", r"(envoy)\s+version: \w+/([\d.]+)/\w+/(\w+)", r"/(\w+)\s*$"),
        role_rule="prefix of the URI name",
    ),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _PEERS}


def chosen_peers(text: str) -> tuple[str, ...]:
    """Names from a list with commas, in the order that they have here; empty text is none.

    Raises:
        BenchFailed: a name is not known.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - set(PEERS):
        raise BenchFailed(f"unknown peers: {', '.join(sorted(unknown))}; known: {', '.join(PEERS)}")
    return tuple(name for name in PEERS if name in names)
