"""What is, or soon will be, wrong with the gateway's own certificates: told by the check, at start, reload and status.

Pure. Each warning is a file of the home and a message that ends in the mend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from cryptography import x509

from pki.issue import serial_hex, stamp

__all__ = ["ENDING_CA", "ENDING_SERVER", "authority_warning", "certificate_warnings", "server_fault"]

ENDING_CA = timedelta(days=90)
"""From how long before its end a CA is spoken of: a new home takes a while to move to."""
ENDING_SERVER = timedelta(days=5)
"""The same of the server certificate, which one command makes anew."""

_NEW_HOME = "make a new home with `rhttp-pki init` and move over to it"
_NEW_SERVER = "make a new one with `rhttp-pki issue-server`"


def certificate_warnings(
    trust: Mapping[str, bytes], server_cert: bytes, revoked: Collection[str], at: datetime
) -> tuple[tuple[str, str], ...]:
    """(file, message) of each certificate in the home that has ended or will soon; `at` is aware.

    `trust` has PEM by role, ``root`` among them; `revoked` holds serial numbers in lower-case hex.
    """
    found = [
        (f"certs/{role}.pem" if role == "root" else f"certs/{role}-ca.pem", authority_warning(role, certificate, at))
        for role, pem in trust.items()
        for certificate in _certificates(pem)
    ]
    for leaf in _certificates(server_cert)[:1]:
        server = server_fault(leaf, revoked, at)
        ends = leaf.not_valid_after_utc
        if server is None and ends - at <= ENDING_SERVER:
            server = f"ends on {stamp(ends)}, in {_span(ends - at)}; {_NEW_SERVER}"
        found.append(("certs/server.pem", server))
    return tuple((path, message) for path, message in found if message is not None)


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """None of what is no certificate: whoever loads the files says so."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def server_fault(leaf: x509.Certificate, revoked: Collection[str], at: datetime) -> str | None:
    """Why a server certificate is not to be served now; None when it may be."""
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not begins <= at < ends:
        return f"is valid from {stamp(begins)} to {stamp(ends)}, not now; {_NEW_SERVER}"
    if serial_hex(leaf.serial_number) in revoked:
        return f"was revoked; {_NEW_SERVER}"
    return None


def authority_warning(role: str, certificate: x509.Certificate, at: datetime) -> str | None:
    """What is to be said of a CA that ends within `ENDING_CA`, or has ended; `role` may be ``root``."""
    ends = certificate.not_valid_after_utc
    whose = "the root" if role == "root" else f"the {role} CA"
    if ends < at:
        return f"{whose} ended on {stamp(ends)}, and with it all that it issued; {_NEW_HOME}"
    if ends - at > ENDING_CA:
        return None
    return f"{whose} ends on {stamp(ends)}, in {_span(ends - at)}, and nothing that it issues outlives it; {_NEW_HOME}"


def _span(left: timedelta) -> str:
    """Whole days, or hours or minutes when there are none."""
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour")):
        if left >= unit:
            return f"{left // unit} {name}{'' if left // unit == 1 else 's'}"
    minutes = left // timedelta(minutes=1)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
