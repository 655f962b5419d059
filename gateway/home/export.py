"""Exporting a bundle as one PKCS #12 file, for browsers, phones and Java (I/O).

AES-256 in CBC mode under PBKDF2 with HMAC-SHA-256, and a MAC with SHA-256, are what OpenSSL 3, Java 17, NSS, Windows
11, iOS 16 and Android 14 read. What is older reads 3DES under the derivation of RFC 7292 with SHA-1 only.

The MAC is derived in 2,048 rounds, as OpenSSL has it, whatever number the library is asked for; so that is what a guess
costs, and the password has to be one that nobody guesses.

Trust: the operator is trusted; the files of the bundle are not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import PrivateFormat, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import PBES, serialize_key_and_certificates

from gateway.home.renew import BundleInvalid, present_in
from gateway.home.session import HomeSession
from pki.inventory import CertificateRecord
from rhttp.worker.secret_file import exposure
from rhttp.worker.versions import KEY

__all__ = ["build_p12"]

_Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_READINGS = 3
_MAX_KEY = 1 << 16


def build_p12(
    session: HomeSession, name: str, bundle: Path, password: bytes, *, legacy: bool
) -> tuple[bytes, CertificateRecord]:
    """The file's content, with key, certificate and issuing CA of NAME in it, and whose it is.

    Raises:
        BundleInvalid: it is no bundle of this home and name, holds no key, or one that such files cannot hold; or its
            certificate has expired or was revoked.
    """
    for _ in range(_READINGS):  # a renewal may have come between certificate and key
        path, record = present_in(session, bundle)
        key = _read_key(bundle)
        if key.public_key() == path[0].public_key():
            break
    else:
        raise BundleInvalid(f"{bundle / KEY} is not the key of the certificate there; renew the bundle")
    if record.name != name:
        raise BundleInvalid(f"the certificate in {bundle} is not one of {name}; name the bundle with --bundle")
    if record.revoked_at is not None:
        raise BundleInvalid(f"the certificate in {bundle} was revoked ({record.reason}); issue a new bundle")
    if record.not_after < datetime.now(UTC).timestamp():
        raise BundleInvalid(f"the certificate in {bundle} has expired; run: rhttp-pki renew {bundle}")
    builder = PrivateFormat.PKCS12.encryption_builder()
    if legacy:
        builder = builder.key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(SHA1())  # noqa: S303
    else:
        builder = builder.key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC).hmac_hash(SHA256())
    data = serialize_key_and_certificates(name.encode("ascii"), key, path[0], path[1:], builder.build(password))
    return data, record


def _read_key(bundle: Path) -> _Key:
    place = bundle / KEY
    try:
        with place.open("rb") as file:
            exposed = exposure(place, file.fileno())
            data = file.read(_MAX_KEY)
    except FileNotFoundError:
        raise BundleInvalid(
            f"{bundle} holds no {KEY}: its key is kept elsewhere; put the file together there: openssl pkcs12 -export"
        ) from None
    if exposed is not None:
        raise BundleInvalid(exposed)
    try:
        key = load_pem_private_key(data, None)
    except (TypeError, ValueError):
        # The cause may quote the input: not chained.
        raise BundleInvalid(f"{place} holds no plain PEM private key; renew the bundle") from None
    if not isinstance(key, _Key):
        raise BundleInvalid(f"{place} is of a kind that PKCS #12 files cannot hold; use p256, p384 or rsa3072")
    return key
