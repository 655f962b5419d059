"""Private keys: kinds, PKCS#8 PEM, and sealing under a passphrase.

A sealed envelope is::

    magic "RHTTPSEAL" | version 1 | log2 N | r | p | salt (16) | nonce (12) | AES-256-GCM(secret) with its tag (16)

The AES key is scrypt(passphrase, salt, N, r, p) (RFC 7914); everything before the ciphertext is the additional data of
the AEAD, so neither version nor cost can be changed unseen. PEM's own encryption is not used: `cryptography` derives
its key with PBKDF2 of 2,048 rounds. Costs are bounded on reading: a forged envelope cannot ask for all the memory.

`generate_key`, `seal` draw from the system's randomness unless `entropy` is given; nothing here reads or writes files.
Not promised: that secrets are wiped from memory (Python cannot).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from enum import StrEnum

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pki.errors import InputUnreadable, KeyUnavailable

__all__ = [
    "KEY_TYPES",
    "KeyType",
    "PrivateKey",
    "PublicKey",
    "generate_key",
    "is_sealed",
    "key_type",
    "load_private_key",
    "private_key_pem",
    "public_key_pem",
    "seal",
    "unseal",
]

MlDsaPrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
MlDsaPublicKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | MlDsaPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey | MlDsaPublicKey

_MAGIC = b"RHTTPSEAL"
_VERSION = 1
_HEADER = struct.Struct(">9sBBBB16s12s")
_TAG_BYTES = 16
_MAX_SEALED = 1 << 20
# 64 MiB and 0.2 s on the machines that we build on: an unattended start pays it once, a guesser every time.
_LOG2_N = 16
_MIN_LOG2_N, _MAX_LOG2_N = 15, 18
_R = 8
_P = 1


class KeyType(StrEnum):
    """The kinds of key that this PKI makes and certifies, for CAs as for leaves."""

    P256 = "p256"
    P384 = "p384"
    ED25519 = "ed25519"
    RSA3072 = "rsa3072"
    """RSA of 3,072 bits exactly (RFC 8017); the public exponent is 65537 in what we make."""
    MLDSA44 = "mldsa44"
    """ML-DSA (FIPS 204, RFC 9881): signatures that a quantum computer does not forge; TLS 1.3 alone has them."""
    MLDSA65 = "mldsa65"
    MLDSA87 = "mldsa87"


KEY_TYPES = ", ".join(KeyType)
"""All of them, as messages name them."""

_RSA_BITS = 3072
_RSA_EXPONENT = 65537
_MAX_RSA_EXPONENT = 1 << 256


def generate_key(kind: KeyType = KeyType.P256) -> PrivateKey:
    """A new private key (draws from the system's randomness)."""
    match kind:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case KeyType.RSA3072:
            return rsa.generate_private_key(_RSA_EXPONENT, _RSA_BITS)
        case KeyType.MLDSA44:
            return mldsa.MLDSA44PrivateKey.generate()
        case KeyType.MLDSA65:
            return mldsa.MLDSA65PrivateKey.generate()
        case KeyType.MLDSA87:
            return mldsa.MLDSA87PrivateKey.generate()


def key_type(key: object) -> KeyType | None:
    """The kind of a public or private key, None when it is not one of ours.

    An RSA key is ours with 3,072 bits and an odd public exponent over 2^16 and under 2^256 (FIPS 186-5 §5.4): others
    than 65537 come with signing requests.
    """
    match key:
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return KeyType.ED25519
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            match key.curve:
                case ec.SECP256R1():
                    return KeyType.P256
                case ec.SECP384R1():
                    return KeyType.P384
        case rsa.RSAPrivateKey():
            return key_type(key.public_key())
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            if key.key_size == _RSA_BITS and exponent % 2 and _RSA_EXPONENT <= exponent < _MAX_RSA_EXPONENT:
                return KeyType.RSA3072
        case mldsa.MLDSA44PrivateKey() | mldsa.MLDSA44PublicKey():
            return KeyType.MLDSA44
        case mldsa.MLDSA65PrivateKey() | mldsa.MLDSA65PublicKey():
            return KeyType.MLDSA65
        case mldsa.MLDSA87PrivateKey() | mldsa.MLDSA87PublicKey():
            return KeyType.MLDSA87
    return None


def private_key_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM in the clear: for a 0600 file or for `seal`."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private_key(data: bytes) -> PrivateKey:
    """The key in a PEM file; what is sealed is opened before, by `unseal`.

    Raises:
        InputUnreadable: no private key of our kinds.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause may quote the input: not chained.
        raise InputUnreadable("no private key in PKCS#8 PEM") from None
    if isinstance(key, PrivateKey) and key_type(key) is not None:
        return key
    raise InputUnreadable(f"the key is none of {KEY_TYPES}")


def is_sealed(data: bytes) -> bool:
    """Whether the data is an envelope of `seal` (of any version), not whether it can be opened."""
    return data.startswith(_MAGIC)


def seal(secret: bytes, passphrase: bytes, *, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """The secret under the passphrase. Two calls never give the same envelope. An empty passphrase is a ValueError."""
    if not passphrase:
        raise ValueError("an empty passphrase seals nothing")
    if len(secret) > _MAX_SEALED:
        raise ValueError("too much to seal")
    salt, nonce = entropy(16), entropy(12)
    header = _HEADER.pack(_MAGIC, _VERSION, _LOG2_N, _R, _P, salt, nonce)
    return header + AESGCM(_derive(passphrase, salt, _LOG2_N)).encrypt(nonce, secret, header)


def unseal(data: bytes, passphrase: bytes) -> bytes:
    """What `seal` put in.

    Raises:
        KeyUnavailable: the passphrase is wrong or the envelope was changed (the two cannot be told apart).
        InputUnreadable: not an envelope of a version and cost that we read.
    """
    if not is_sealed(data) or not _HEADER.size + _TAG_BYTES <= len(data) <= _HEADER.size + _TAG_BYTES + _MAX_SEALED:
        raise InputUnreadable("not a sealed key")
    header = data[: _HEADER.size]
    _, version, log2_n, r, p, salt, nonce = _HEADER.unpack(header)
    if version != _VERSION or not _MIN_LOG2_N <= log2_n <= _MAX_LOG2_N or (r, p) != (_R, _P):
        raise InputUnreadable("sealed by a version that this one does not read")
    try:
        return AESGCM(_derive(passphrase, salt, log2_n)).decrypt(nonce, data[_HEADER.size :], header)
    except InvalidTag:
        raise KeyUnavailable("the passphrase is wrong, or the sealed key was changed") from None


def _derive(passphrase: bytes, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=_R, p=_P).derive(passphrase)
