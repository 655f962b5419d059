"""Which keys and signatures count, whether one verifies, and how ours are made. What is not listed is refused.

Accepted: RSA of 2,048 to 8,192 bits in whole octets and an odd public exponent from 3 to under 2^256, with PKCS #1 v1.5
or PSS (whose mask has the same digest), ECDSA on P-256, P-384, P-521 (all with SHA-256, -384 or -512), Ed25519, Ed448,
ML-DSA. So no SHA-1, MD5, DSA, short RSA, odd curves or explicit curve parameters. Of our own CAs `pki.keys.KeyType`
asks for more.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from pki.der import is_plain_key
from pki.keys import PrivateKey

__all__ = [
    "PureKey",
    "certificate_key",
    "is_signed_by",
    "is_strong_key",
    "is_strong_signature",
    "sign_certificate",
    "sign_list",
    "signing_parameters",
]

Signed = x509.Certificate | x509.CertificateRevocationList | x509.CertificateSigningRequest

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
# Schemes that hash for themselves (RFC 8410, RFC 9881): no parameters, no digest to judge.
_PURE = frozenset(
    {
        x509.SignatureAlgorithmOID.ED25519,
        x509.SignatureAlgorithmOID.ED448,
        x509.SignatureAlgorithmOID.ML_DSA_44,
        x509.SignatureAlgorithmOID.ML_DSA_65,
        x509.SignatureAlgorithmOID.ML_DSA_87,
    }
)
PureKey = (
    ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192  # verification cost grows with the square; nobody asked for more
# RFC 8017 §3.1: odd, from 3. FIPS 186-5 §5.4: under 2^256, else verifying costs as much as signing.
_MIN_RSA_EXPONENT, _MAX_RSA_EXPONENT = 3, (1 << 256) - 1
_PSS_SHA256 = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)


def certificate_key(signed: x509.Certificate | x509.CertificateSigningRequest) -> object | None:
    """The subject's public key, None when it cannot be read (unknown algorithm, a point off the curve, …), is on an
    elliptic curve that is not named or in a hybrid form (RFC 5480 §2.1.1, §2.2), or an RSA key that is bound to PSS
    (RFC 4055 §1.2)."""
    try:
        return signed.public_key() if is_plain_key(signed) else None
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm):
        return None


def is_strong_key(key: object) -> bool:
    """Whether the public key is of a kind and size that is accepted anywhere in a path."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            return (
                _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS
                and key.key_size % 8 == 0
                and _MIN_RSA_EXPONENT <= exponent <= _MAX_RSA_EXPONENT
                and exponent % 2 == 1
            )
        case ec.EllipticCurvePublicKey():
            return isinstance(key.curve, _CURVES)
        case _:
            return isinstance(key, PureKey)


def is_strong_signature(signed: Signed) -> bool:
    """Whether the signature's algorithm is accepted; says nothing about the signature itself."""
    if signed.signature_algorithm_oid in _PURE:
        return True
    try:
        parameters = signed.signature_algorithm_parameters
        digest = signed.signature_hash_algorithm
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if isinstance(parameters, padding.PSS) and not _has_mask_of(parameters, digest):
        return False
    return isinstance(parameters, padding.PKCS1v15 | padding.PSS | ec.ECDSA) and isinstance(digest, _HASHES)


def _has_mask_of(parameters: padding.PSS, digest: hashes.HashAlgorithm | None) -> bool:
    """Whether the mask of a PSS signature has the signature's digest (RFC 4055 §3.1 recommends it)."""
    mask = parameters.mgf
    return isinstance(mask, padding.MGF1) and digest is not None and mask._algorithm.name == digest.name


def is_signed_by(signed: Signed, key: object) -> bool:
    """Whether the signature verifies under the key, both of accepted kinds. Never raises; names are not looked at."""
    if not is_strong_key(key) or not is_strong_signature(signed):
        return False
    try:
        _verify(signed, key)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _verify(signed: Signed, key: object) -> None:
    match signed:
        case x509.Certificate():
            data = signed.tbs_certificate_bytes
        case x509.CertificateRevocationList():
            data = signed.tbs_certlist_bytes
        case _:
            data = signed.tbs_certrequest_bytes
    digest, parameters = signed.signature_hash_algorithm, signed.signature_algorithm_parameters
    match key, parameters:
        case rsa.RSAPublicKey(), (padding.PKCS1v15() | padding.PSS()) if digest is not None:
            key.verify(signed.signature, data, parameters, digest)
        case ec.EllipticCurvePublicKey(), ec.ECDSA():
            key.verify(signed.signature, data, parameters)
        case _, None if isinstance(key, PureKey):
            key.verify(signed.signature, data)
        case _:
            raise InvalidSignature


def signing_parameters(key: PrivateKey) -> tuple[hashes.SHA256 | hashes.SHA384 | None, padding.PSS | None]:
    """Digest and RSA padding of what a key of ours signs; None where the scheme has its own.

    They are those of the TLS signature schemes that a home offers (RFC 8446 §4.2.3), so that one list tells a peer what
    a leaf signs in the handshake and what our CAs signed: RSA signs with PSS, and P-384 with SHA-384.
    """
    match key:
        case rsa.RSAPrivateKey():
            return hashes.SHA256(), _PSS_SHA256
        case ec.EllipticCurvePrivateKey():
            return hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256(), None
        case _:
            return None, None


def sign_certificate(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    digest, rsa_padding = signing_parameters(key)
    return builder.sign(key, digest, rsa_padding=rsa_padding)


def sign_list(builder: x509.CertificateRevocationListBuilder, key: PrivateKey) -> x509.CertificateRevocationList:
    digest, rsa_padding = signing_parameters(key)
    return builder.sign(key, digest, rsa_padding=rsa_padding)
