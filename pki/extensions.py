"""Looking up one extension by its type, what reading a stranger's certificate may raise, and `NO_REV_AVAIL`."""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import AuthorityInformationAccessOID

__all__ = ["NO_REV_AVAIL", "UNREADABLE", "find", "is_beyond_lists", "points_to_revocation"]

NO_REV_AVAIL = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.56"), b"\x05\x00")
"""noRevAvail (RFC 9608): nobody publishes whether this certificate was revoked. Its value is NULL."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises on fields that are malformed, or that it does not know; it parses most of them late."""

T = TypeVar("T", bound=x509.ExtensionType)


def find(extensions: x509.Extensions, kind: type[T]) -> T | None:
    """The extension's value, None when it is absent."""
    for extension in extensions:
        value = extension.value
        if type(value) is kind:  # isinstance() of the library's abstract classes costs ten times as much
            return value
    return None


def points_to_revocation(extensions: x509.Extensions) -> bool:
    """Whether it says where to ask if it was revoked: for a list, or by OCSP."""
    access = find(extensions, x509.AuthorityInformationAccess) or ()
    return (
        find(extensions, x509.CRLDistributionPoints) is not None
        or find(extensions, x509.FreshestCRL) is not None
        or any(one.access_method == AuthorityInformationAccessOID.OCSP for one in access)
    )


def is_beyond_lists(extensions: x509.Extensions) -> bool:
    """Whether noRevAvail counts: in a CA's certificate, and beside a place to ask, it has no business (RFC 9608 §3)."""
    basic = find(extensions, x509.BasicConstraints)
    return (
        any(extension.value == NO_REV_AVAIL and not extension.critical for extension in extensions)
        and not (basic is not None and basic.ca)
        and not points_to_revocation(extensions)
    )
