"""Which keys and signatures count, and whether one signature verifies. Everything not listed is refused.

Accepted: RSA of 2,048 to 8,192 bits with PKCS #1 v1.5 or PSS, ECDSA on P-256, P-384, P-521 (all with SHA-256, -384 or
-512), Ed25519, Ed448, ML-DSA. So no SHA-1, MD5, DSA, short RSA, odd curves or explicit curve parameters.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from pki.der import has_named_curve

__all__ = ["PureKey", "certificate_key", "is_signed_by", "is_strong_key", "is_strong_signature"]

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


def certificate_key(signed: x509.Certificate | x509.CertificateSigningRequest) -> object | None:
    """The subject's public key, None when it cannot be read (unknown algorithm, a point off the curve, …), or is on an
    elliptic curve that is not named (RFC 5480 §2.1.1)."""
    try:
        return signed.public_key() if has_named_curve(signed) else None
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm):
        return None


def is_strong_key(key: object) -> bool:
    """Whether the public key is of a kind and size that is accepted anywhere in a path."""
    match key:
        case rsa.RSAPublicKey():
            return _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS
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
    return isinstance(parameters, padding.PKCS1v15 | padding.PSS | ec.ECDSA) and isinstance(digest, _HASHES)


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
