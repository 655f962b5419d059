"""What a data process is started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.supervisor.launcher import environment

_SHAKE = """
from support.tlspeers import accept, leaf, listening_context, plain_context
from OpenSSL import SSL
from rhttp.tls.handshake import CURRENT, Handshake

server = SSL.Connection(listening_context(accept), None)
CURRENT.handshake = Handshake()
server.set_accept_state()
client = SSL.Connection(plain_context(leaf("w1"), version=SSL.TLS1_3_VERSION), None)
client.set_connect_state()

def step(end, other):
    try:
        end.do_handshake()
    except SSL.WantReadError:
        pass
    try:
        sent = end.bio_read(65536)
    except SSL.WantReadError:
        return 0
    other.bio_write(sent)
    return len(sent)

step(client, server), step(server, client), step(client, server)
print(step(server, client))
"""


def bytes_after_the_handshake(given: dict[str, str]) -> int:
    """What a server of ours sends when the client's last flight has come, in a process with this environment."""
    tests = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", _SHAKE],
        env={**given, "PYTHONPATH": os.pathsep.join((str(tests), str(tests.parent)))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(told.stdout)


def test_process_sends_no_ticket_that_nobody_could_use() -> None:
    """RFC 8446 section 4.6.1 leaves tickets to the server; without our settings OpenSSL sends two."""
    plain = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    assert bytes_after_the_handshake(environment(plain)) == 0
    assert bytes_after_the_handshake(plain) > 0


def test_environment_keeps_the_settings_that_an_operator_named() -> None:
    """Somebody who has OpenSSL read a file of his own has a reason."""
    assert environment({"OPENSSL_CONF": "/etc/own.cnf", "HOME": "/x"}) == {"OPENSSL_CONF": "/etc/own.cnf", "HOME": "/x"}
