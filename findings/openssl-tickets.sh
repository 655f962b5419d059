#!/usr/bin/env bash
# OpenSSL 4.0 through pyOpenSSL 26.4.0: with tickets and the session cache off, each TLS 1.3 client is still sent two tickets.
#
# Source: pyOpenSSL 26.4.0 and cryptography 50.0.2 (whose wheel brings OpenSSL 4.0.3) from PyPI.
# One would guess: SSL_OP_NO_TICKET and SSL_SESS_CACHE_OFF leave nothing that could be resumed, so nothing is sent for it.
# What happens: with TLS 1.3 SSL_OP_NO_TICKET means *stateful* tickets. Right after the handshake the server writes two
#   NewSessionTicket messages, each in a record of its own, that name sessions which it has not kept: two writes, and for the
#   client two reads, that no setting of pyOpenSSL stops, since the bindings lack SSL_CTX_set_num_tickets. What stops them is
#   `NumTickets = 0` in a configuration file that OPENSSL_CONF names, in the environment before the process starts.
# What to do: start the process with such a file, and count the records in a test.
#
# Run it: bash findings/openssl-tickets.sh. It needs Python 3.11 or newer with venv, openssl for a certificate, and PyPI. It fails
# when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input pyopenssl==26.4.0 cryptography==50.0.2
cd "$place"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>req.log
cat >no-tickets.cnf <<'CONF'
openssl_conf = all
[all]
ssl_conf = contexts
[contexts]
system_default = every
[every]
NumTickets = 0
CONF
cat >tickets.py <<'PYTHON'
import contextlib
import os
import ssl
import sys

from cryptography.hazmat.backends.openssl import backend
from OpenSSL import SSL


def records_after_the_handshake():
    """How many TLS records a server writes, unasked, when the client's last flight of a TLS 1.3 handshake is there."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file("cert.pem")
    context.use_privatekey_file("key.pem")
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    theirs = ssl.create_default_context(cafile="cert.pem")
    theirs.minimum_version = ssl.TLSVersion.TLSv1_3
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    server.bio_write(outgoing.read())
    with contextlib.suppress(SSL.WantReadError):
        server.do_handshake()
    incoming.write(server.bio_read(65536))
    client.do_handshake()
    server.bio_write(outgoing.read())
    server.do_handshake()
    written = b""
    with contextlib.suppress(SSL.WantReadError):
        written = server.bio_read(65536)
    count = 0
    while written:
        written = written[5 + int.from_bytes(written[3:5], "big") :]
        count += 1
    return count


setter = hasattr(SSL._lib, "SSL_CTX_set_num_tickets")
configured = "OPENSSL_CONF" in os.environ
found = records_after_the_handshake()
print(backend.openssl_version_text(), "with NumTickets = 0:" if configured else "without a configuration:", found, "records")
print("SSL_CTX_set_num_tickets in the bindings:", setter)
sys.exit(0 if found == (0 if configured else 2) and not setter else "this has changed")
PYTHON
env -u OPENSSL_CONF venv/bin/python tickets.py
OPENSSL_CONF="$place/no-tickets.cnf" venv/bin/python tickets.py
echo "as described"
