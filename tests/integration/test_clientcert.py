"""`Client-Cert` towards masters (RFC 9440), when it is configured."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from support.origins import Origin
from support.rig import Rig
from support.runhomes import set_key

from pki.pem import read_certificates

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/*"
master = "jobs"
"""
FORGED = "Client-Cert: :AAAA:"


def _asked(tmp_path: Path, *, configured: bool) -> tuple[list[str], Path]:
    """The values of `Client-Cert` that a master gets from a client that sends one of its own, and its bundle."""
    with Origin() as origin:
        rig = Rig(tmp_path, CONFIG.format(port=origin.port), peers=("issue-client alice",))
        if configured:
            set_key(rig.home, "client_cert_field", "true")
        with rig:
            assert rig.ask("alice", "/x", "GET", FORGED).status == 200
            received = origin.raw
    head = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return [value.strip() for name, _, value in pairs if name.lower() == "client-cert"], rig.bundle("alice")


def test_master_gets_the_verified_leaf_when_it_is_configured(tmp_path: Path) -> None:
    """The field is a byte sequence (RFC 9440 section 2.2) of the very certificate that was verified, and ours alone."""
    values, bundle = _asked(tmp_path, configured=True)
    leaf = read_certificates((bundle / "cert.pem").read_bytes())[0].public_bytes(Encoding.DER)
    assert values == [f":{base64.b64encode(leaf).decode()}:"]


def test_master_gets_no_certificate_by_default(tmp_path: Path) -> None:
    """What a client sends under that name does not pass, and ours is not sent unasked."""
    values, _ = _asked(tmp_path, configured=False)
    assert values == []
