"""Debian's HAProxy as a peer: mutual TLS, a rule on the issuing CA, a keep-alive proxy; no HTTP Digest.

A second front on another port ends TLS for reversed connections and hands them to a master as bytes: the relay that
ours is compared with. There the rule is on the worker CA, and nothing reads HTTP.
"""

from __future__ import annotations

import re
from pathlib import Path

from rig.apache import ADMISSION_PATH, issuer_name
from rig.home import BenchHome
from rig.processes import Server, accepts, free_port, start
from rig.programs import Program, debian_program

PACKAGES = ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"]

CONFIG = """\
global
    nbthread 1
    no strict-limits
    maxconn 12000
    tune.ssl.cachesize 0
    tune.ssl.lifetime 1
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    log stdout format raw local0
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout tunnel 600s
    log global
    option httplog
    option http-keep-alive
    http-reuse always
frontend clients
    bind 127.0.0.1:{port} backlog 4096 ssl crt {pem} ca-file {anchors} verify required
    http-request deny unless {{ ssl_c_i_dn(CN) -m str "{client_ca}" }}
    http-request return status 200 content-type text/plain string "admitted: 16 b." if {{ path {admission} }}
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin}
frontend workers
    mode tcp
    option tcplog
    bind 127.0.0.1:{relay} backlog 4096 ssl crt {pem} ca-file {anchors} verify required
    tcp-request session reject unless {{ ssl_c_i_dn(CN) -m str "{worker_ca}" }}
    default_backend master
backend master
    mode tcp
    server master 127.0.0.1:{master}
"""


def haproxy(build: Path) -> Program:
    """The program, found or fetched."""
    return debian_program(build, "haproxy", PACKAGES)


def common_name(name: str) -> str:
    """The CN in a name as RFC 2253 writes it."""
    found = re.search(r"CN=([^,]+)", name)
    return found[1] if found else name


def start_haproxy(home: BenchHome, *, build: Path, origin: int, folder: Path, master: int = 9) -> Server:
    """Start one thread of HAProxy on the server core; `relay_port` of the result is the front for workers."""
    folder.mkdir(mode=0o755)
    pem, anchors = folder / "server.pem", folder / "anchors.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(home.server_certificate.read_bytes() + home.server_key.read_bytes())
    anchors.write_bytes(home.client_ca.read_bytes() + home.worker_ca.read_bytes() + home.root.read_bytes())
    port, relay = free_port(), free_port()
    (folder / "haproxy.cfg").write_text(
        CONFIG.format(
            port=port,
            relay=relay,
            pem=pem,
            anchors=anchors,
            client_ca=common_name(issuer_name(home)),
            worker_ca=common_name(issuer_name(home, home.worker_ca)),
            admission=ADMISSION_PATH,
            origin=origin,
            master=master,
        )
    )
    program = haproxy(build)
    command: list[str | Path] = [program.path, "-db", "-f", folder / "haproxy.cfg"]
    server = start("haproxy", command, port=port, folder=folder, environment=program.environment())
    server.relay_port = relay
    server.wait_until(lambda: accepts(port) and accepts(relay))
    return server


def haproxy_build(build: Path) -> str:
    """`HAProxy 2.6.12-1+deb12u4, OpenSSL 3.0.19`, as it says of itself."""
    told = haproxy(build).says("-vv")
    version = re.search(r"HAProxy version (\S+)", told)
    tls = re.search(r"Running on (OpenSSL) version : OpenSSL (\S+)", told)
    return f"HAProxy {version[1] if version else '?'}, {f'{tls[1]} {tls[2]}' if tls else 'TLS library unknown'}"
