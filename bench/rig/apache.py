"""The real peer: Debian's Apache httpd with mutual TLS, HTTP Digest, a rule on the issuing CA, and a proxy.

It runs from a folder of its own on a loopback port and is never the system's service. It gets what is good for it: the
event MPM, keep-alive to clients without limit, pooled keep-alive to the origin, no session tickets, no environment
variables for CGI. Digest there knows MD5 only. Like the gateway it writes one log line for each request.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from rig.home import BenchHome
from rig.processes import BenchFailed, Server, accepts, free_port, need, start

MODULES = (
    "mpm_event authn_core authn_file auth_digest authz_core authz_user ssl proxy proxy_http".split()  # noqa: SIM905
)
REALM = "bench"
ADMISSION_PATH = "/admission"

CONFIG = """\
ServerRoot "{folder}"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile "{folder}/httpd.pid"
DefaultRuntimeDir "{folder}"
Mutex file:{folder} default
{load}
{user}
ErrorLog "{folder}/error.log"
LogLevel warn
LogFormat "%h %u %t \\"%r\\" %>s %D" plain
CustomLog "{folder}/access.log" plain
DocumentRoot "{folder}/www"
ServerLimit 1
StartServers 1
ThreadLimit 320
ThreadsPerChild 320
MaxRequestWorkers 320
MinSpareThreads 1
MaxSpareThreads 320
AsyncRequestWorkerFactor 16
MaxConnectionsPerChild 0
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 75
Protocols http/1.1
SSLSessionCache none
SSLRandomSeed startup builtin
SSLEngine on
SSLProtocol -all +TLSv1.2 +TLSv1.3
SSLSessionTickets off
SSLCertificateFile "{certificate}"
SSLCertificateKeyFile "{key}"
SSLCACertificateFile "{anchors}"
SSLVerifyClient require
SSLVerifyDepth 2
<Location "/">
    AuthType Digest
    AuthName "{realm}"
    AuthDigestProvider file
    AuthDigestDomain /
    AuthUserFile "{folder}/users"
    AuthDigestNonceLifetime 3600
    <RequireAll>
        Require valid-user
        Require expr %{{SSL_CLIENT_I_DN}} == '{issuer}'
    </RequireAll>
</Location>
ProxyPass "/jobs/" "http://127.0.0.1:{origin}/jobs/" max=320 keepalive=On
"""


def httpd() -> str | None:
    """Where Apache's program is; Debian keeps it where only root looks."""
    return shutil.which("apache2", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def issuer_name(home: BenchHome, authority: Path | None = None) -> str:
    """A CA's subject (the client CA's unless told) as Apache and nginx write the issuer of a leaf (RFC 2253)."""
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", str(authority or home.client_ca)],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    ).stdout.strip()
    name = told.removeprefix("subject=")
    if set("'\"$") & set(name):
        raise BenchFailed(f"the CA's name cannot stand in a peer's configuration: {name}")
    return name


def start_apache(home: BenchHome, *, origin: int, folder: Path) -> Server:
    """Start Apache on the server core with the home's server certificate and its client's identity; ready on return."""
    need(httpd(), "apache2-bin")  # the programs alone: the package apache2 would start a service
    need(shutil.which("openssl"), "openssl")
    modules = Path("/usr/lib/apache2/modules")
    # Run by root it hands the work to an unprivileged user, who has to reach this folder.
    folder.mkdir(mode=0o755)
    (folder / "www").mkdir(mode=0o755)
    (folder / "www" / ADMISSION_PATH[1:]).write_text("admitted: 16 b.")
    name, password = home.client.name, home.client.password
    a1 = f"{name}:{REALM}:{password}".encode()
    (folder / "users").write_text(f"{name}:{REALM}:{hashlib.md5(a1, usedforsecurity=False).hexdigest()}\n")
    (folder / "anchors.pem").write_bytes(home.client_ca.read_bytes() + home.root.read_bytes())
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    port = free_port()
    (folder / "httpd.conf").write_text(
        CONFIG.format(
            folder=folder,
            port=port,
            load="\n".join(f"LoadModule {m}_module {modules}/mod_{m}.so" for m in MODULES),
            user=f"User {unprivileged()}\nGroup #{pwd.getpwnam(unprivileged()).pw_gid}" if os.geteuid() == 0 else "",
            certificate=home.server_certificate,
            key=home.server_key,
            anchors=folder / "anchors.pem",
            realm=REALM,
            issuer=issuer_name(home),
            origin=origin,
        )
    )
    server = start(
        "apache",
        [httpd() or "apache2", "-d", folder, "-f", folder / "httpd.conf", "-DFOREGROUND"],
        port=port,
        folder=folder,
    )
    server.log = folder / "error.log" if (folder / "error.log").exists() else server.log
    server.wait_until(lambda: accepts(port))
    return server


def unprivileged() -> str:
    """The user that Apache's package made for it, or else nobody."""
    try:
        return pwd.getpwnam("www-data").pw_name
    except KeyError:
        return "nobody"


def apache_version() -> str:
    """As Apache says it: `Apache/2.4.71 (Debian)`."""
    told = subprocess.run(
        [httpd() or "apache2", "-v"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return told.stdout.splitlines()[0].partition(": ")[2]
