"""The next server certificate of a running gateway (I/O): of the same names, key type and lifetime, in the home.

The key of the server's CA is read, unsealed and used for one certificate, and kept no longer.

Trust: the operator is trusted. Nothing that a stranger sent comes here.
"""

from __future__ import annotations

from datetime import timedelta

from gateway.home.issue import issue_server, read_path
from gateway.home.layout import Home
from gateway.home.session import HomeSession
from pki.inventory import CertificateRecord
from pki.issue import serial_hex

__all__ = ["renew_server"]


def renew_server(home: Home, passphrase: bytes | None) -> CertificateRecord:
    """Issue it and put it where a reload finds it; blocks.

    Raises:
        HomeInvalid, PkiError, StateUnavailable, AuditUnavailable, OSError: it cannot be; the present one stays.
    """
    with HomeSession(home, passphrase) as session:
        present = session.inventory.by_serial(serial_hex(read_path(home.server_cert)[0].serial_number))
        lifetime = None if present is None else timedelta(seconds=present.not_after - present.issued_at)
        return issue_server(session, (), lifetime)
