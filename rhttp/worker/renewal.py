"""Renewing what lies in a bundle: a new key, a request for it, and what was certified, put there at one moment (I/O).

Who certifies is an argument, `Obtain`: the CA of a home, or a server that is asked over the network. Everything else of
a renewal is the same wherever the bundle lies.

Trust: the bundle is its owner's; what was obtained is not put there unless it belongs to the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rhttp.worker.bundle import BundleInvalid
from rhttp.worker.bundle_texts import build_certificate_files
from rhttp.worker.versions import KEY, TRUST, write_version

__all__ = ["Certified", "Obtain", "renew_files"]

_EXPONENT: Final = 65537


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What came of a request."""

    path: tuple[x509.Certificate, ...]
    """The leaf first, then its issuing CAs."""
    trust: bytes | None = None
    """PEM: the anchors to trust from now on; None: those that are in the bundle."""


Obtain = Callable[[bytes], Certified]
"""Has the key of a signing request (PKCS #10, DER) certified for the identity that the bundle has. The request repeats
subject and names of the present certificate, as RFC 7030 section 4.2.2 wants it of a renewal. What this raises ends the
renewal, with the bundle as it was."""


def renew_files(place: Path, present: x509.Certificate, obtain: Obtain, *, request: bytes | None = None) -> None:
    """Put a new key, of the kind that `present` has, and what `obtain` has of it into a bundle, at one moment.

    `present` is the leaf that lies there now. With a `request` no key is made: its key lies elsewhere, or in the bundle
    already, and the caller has looked.

    Raises:
        BundleInvalid: its key is of a kind that we do not make, or what was obtained is for another key.
        OSError: it could not be written, and everything is as it was.
    """
    files: dict[str, bytes] = {}
    if request is not None:
        certified = obtain(request)
    else:
        key = _key_like(place, present.public_key())
        certified = obtain(_request(present, key))
        if certified.path[0].public_key() != key.public_key():
            raise BundleInvalid(f"what was issued for {place} is for another key than the one that was made; try again")
        files[KEY] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files |= build_certificate_files(certified.path, certified.trust or b"")
    if certified.trust is None:
        del files[TRUST]
    write_version(place, files)


def _key_like(place: Path, public: CertificatePublicKeyTypes) -> CertificateIssuerPrivateKeyTypes:
    """A new key of the same kind (draws from the system's randomness)."""
    match public:
        case ec.EllipticCurvePublicKey():
            return ec.generate_private_key(public.curve)
        case rsa.RSAPublicKey():
            return rsa.generate_private_key(_EXPONENT, public.key_size)
        case ed25519.Ed25519PublicKey():
            return ed25519.Ed25519PrivateKey.generate()
        case mldsa.MLDSA44PublicKey():
            return mldsa.MLDSA44PrivateKey.generate()
        case mldsa.MLDSA65PublicKey():
            return mldsa.MLDSA65PrivateKey.generate()
        case mldsa.MLDSA87PublicKey():
            return mldsa.MLDSA87PrivateKey.generate()
        case _:
            raise BundleInvalid(f"the key in {place} is of a kind that is not made here; issue a new bundle")


def _request(present: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(present.subject)
    for extension in present.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            builder = builder.add_extension(extension.value, extension.critical)
    digest = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    return builder.sign(key, digest).public_bytes(Encoding.DER)
