"""Debian's nginx as a peer: mutual TLS, a rule on the issuing CA, a keep-alive proxy. It knows no HTTP Digest."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rig.apache import ADMISSION_PATH, issuer_name, unprivileged
from rig.home import BenchHome
from rig.processes import Server, accepts, free_port, start
from rig.programs import Program, debian_program

CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 16000; }}
http {{
    log_format plain '$remote_addr "$ssl_client_s_dn" "$request" $status $request_time';
    access_log {folder}/access.log plain;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 75;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    tcp_nodelay on;
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_client_certificate {anchors};
        ssl_verify_client on;
        ssl_verify_depth 2;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache off;
        ssl_session_tickets off;
        if ($ssl_client_i_dn != "{issuer}") {{ return 403; }}
        location = {admission} {{ return 200 "admitted: 16 b."; }}
        location /jobs/ {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }}
    }}
}}
"""


def nginx(build: Path) -> Program:
    """The program, found or fetched."""
    return debian_program(build, "nginx", ["nginx"])


def start_nginx(home: BenchHome, *, build: Path, origin: int, folder: Path) -> Server:
    """Start one worker process of nginx on the server core with the home's certificates; ready on return."""
    folder.mkdir(mode=0o755)
    anchors = folder / "anchors.pem"
    anchors.write_bytes(home.client_ca.read_bytes() + home.root.read_bytes())
    port = free_port()
    (folder / "nginx.conf").write_text(
        CONFIG.format(
            folder=folder,
            user=f"user {unprivileged()};" if os.geteuid() == 0 else "",
            port=port,
            origin=origin,
            certificate=home.server_certificate,
            key=home.server_key,
            anchors=anchors,
            issuer=issuer_name(home),
            admission=ADMISSION_PATH,
        )
    )
    program = nginx(build)
    command: list[str | Path] = [program.path, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    server = start("nginx", command, port=port, folder=folder, environment=program.environment())
    server.wait_until(lambda: accepts(port))
    return server


def nginx_build(build: Path) -> str:
    """`nginx/1.22.1, OpenSSL 3.0.22`, as it says of itself."""
    told = nginx(build).says("-V")
    version = re.search(r"nginx version: (\S+)", told)
    tls = re.search(r"(?:running with |built with )(OpenSSL \S+)(?!.*running with)", told)
    return f"{version[1] if version else 'nginx'}, {tls[1] if tls else 'TLS library unknown'}"
