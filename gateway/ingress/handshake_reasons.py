"""Why a TLS handshake was refused, in the words of the audit log."""

from __future__ import annotations

from typing import Final

_OPENSSL: Final = {
    2: "untrusted",  # issuer not found
    7: "untrusted",  # signature
    9: "not_yet_valid",
    10: "expired",
    18: "untrusted",  # signed by itself
    19: "untrusted",  # a root that is not ours
    20: "untrusted",  # no issuer in reach
    21: "untrusted",
    24: "profile",  # an issuer that is no CA
    25: "profile",  # path length
    26: "purpose",
    47: "profile",  # name constraints
    48: "profile",
}
"""What OpenSSL refuses by number, in the words that our own verification uses for the same."""


def reason_of(failure: str) -> str:
    """The reason for the audit log, given what `rhttp.tls.tls_link.TlsLink` calls the failure."""
    number = failure.removeprefix("openssl_")
    return _OPENSSL.get(int(number), failure) if number != failure and number.isdigit() else failure
