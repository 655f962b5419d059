"""Certificates for tests: a small home that is made once, and a forger that signs what issuing would refuse."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.issue import IssuerKey, certificate_pem, issue_ca, issue_leaf, issue_root, serial_hex
from pki.keys import KeyType, PrivateKey, generate_key
from pki.names import Role, SpiffeId, parse_san
from pki.profiles import LEAF_PROFILES, key_usage
from pki.signatures import sign_certificate
from pki.template import CertificateTemplate, build_template, peer_subject
from pki.verify import TrustStore

AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DOMAIN = "example.internal"


class RevokedSerials:
    """A view of revocations over serial numbers in the inventory's hex form."""

    def __init__(self, serials: frozenset[str]) -> None:
        self._serials = serials

    def is_revoked(self, serial: int) -> bool:
        return serial_hex(serial) in self._serials


NOTHING_REVOKED = RevokedSerials(frozenset())

_numbers = itertools.count()


def entropy() -> bytes:
    """Twenty bytes that differ from call to call."""
    return hashlib.sha256(b"test entropy %d" % next(_numbers)).digest()[:20]


@functools.cache
def a_key(kind: KeyType = KeyType.P256, number: int = 0) -> PrivateKey:
    """A key that is made once a run; `number` tells several apart."""
    return generate_key(kind)


@functools.cache
def root() -> IssuerKey:
    key = generate_key()
    return IssuerKey(certificate=issue_root(key=key, trust_domain=DOMAIN, at=AT, entropy=entropy()), key=key)


@functools.cache
def authority(role: Role) -> IssuerKey:
    key = generate_key()
    certificate = issue_ca(
        role, root=root(), public_key=key.public_key(), trust_domain=DOMAIN, at=AT, entropy=entropy()
    )
    return IssuerKey(certificate=certificate, key=key)


@functools.cache
def trust() -> TrustStore:
    cas = {role: certificate_pem(authority(role).certificate) for role in Role}
    return TrustStore.from_pem(certificate_pem(root().certificate), cas, trust_domain=DOMAIN)


def identity(role: Role = Role.WORKER, name: str = "w1") -> SpiffeId:
    return SpiffeId(trust_domain=DOMAIN, role=role, name=name, pool="render" if role is Role.WORKER else None)


def peer(
    role: Role = Role.WORKER,
    name: str = "w1",
    *,
    kind: KeyType = KeyType.P256,
    at: datetime = AT,
    lifetime: timedelta | None = None,
) -> x509.Certificate:
    """A certificate as `issue-client`, `issue-worker`, `issue-master` make it."""
    return issue_leaf(
        identity(role, name),
        issuer=authority(role),
        public_key=a_key(kind).public_key(),
        at=at,
        entropy=entropy(),
        lifetime=lifetime,
    )


def server(*names: str) -> x509.Certificate:
    return issue_leaf(
        [parse_san(name) for name in names or ("DNS:localhost", "IP:127.0.0.1", "IP:::1")],
        issuer=authority(Role.SERVER),
        public_key=a_key().public_key(),
        at=AT,
        entropy=entropy(),
    )


# --- forging against our own profiles ------------------------------------------------------------------------------


def peer_template(role: Role = Role.WORKER, issuer: IssuerKey | None = None) -> CertificateTemplate:
    """The template of a valid peer certificate, to be broken in one place."""
    who = identity(role)
    return build_template(
        LEAF_PROFILES[role],
        subject=peer_subject(who),
        public_key=a_key().public_key(),
        names=[x509.UniformResourceIdentifier(str(who))],
        issuer=(issuer or authority(role)).certificate,
        at=AT,
        entropy=entropy(),
    )


def with_extension(
    value: x509.ExtensionType, *, critical: bool
) -> Callable[[CertificateTemplate], CertificateTemplate]:
    """A mutation: this extension instead of the one of the same kind, or in addition."""

    def mutate(template: CertificateTemplate) -> CertificateTemplate:
        kept = [extension for extension in template.extensions if extension.oid != value.oid]
        return dataclasses.replace(
            template, extensions=x509.Extensions([*kept, x509.Extension(value.oid, critical, value)])
        )

    return mutate


def without_extension(kind: type[x509.ExtensionType]) -> Callable[[CertificateTemplate], CertificateTemplate]:
    def mutate(template: CertificateTemplate) -> CertificateTemplate:
        kept = [extension for extension in template.extensions if not isinstance(extension.value, kind)]
        return dataclasses.replace(template, extensions=x509.Extensions(kept))

    return mutate


def toggled_criticality(kind: type[x509.ExtensionType]) -> Callable[[CertificateTemplate], CertificateTemplate]:
    def mutate(template: CertificateTemplate) -> CertificateTemplate:
        changed = [
            x509.Extension(extension.oid, extension.critical ^ isinstance(extension.value, kind), extension.value)
            for extension in template.extensions
        ]
        return dataclasses.replace(template, extensions=x509.Extensions(changed))

    return mutate


def with_field(**changes: object) -> Callable[[CertificateTemplate], CertificateTemplate]:
    return lambda template: dataclasses.replace(template, **changes)  # type: ignore[arg-type]


def sign_unlinted(template: CertificateTemplate, key: PrivateKey) -> x509.Certificate:
    """What `issue` does, without its refusals."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(template.public_key)
        .serial_number(template.serial_number)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return sign_certificate(builder, key)


# --- forging any path ----------------------------------------------------------------------------------------------

Extension = tuple[x509.ExtensionType, bool]
AnyKey = PrivateKey

CA_USAGE = (key_usage(frozenset({"key_cert_sign", "crl_sign"})), True)
LEAF_USAGE = (key_usage(frozenset({"digital_signature"})), True)
CLIENT_AUTH = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: AnyKey


def forge(
    name: str | x509.Name,
    issuer: Pair | None = None,
    *,
    key: AnyKey | None = None,
    extensions: Sequence[Extension] = (),
    drop: Sequence[type[x509.ExtensionType]] = (),
    ca: bool = False,
    path_length: int | None = None,
    serial: int | None = None,
    not_before: datetime = AT - timedelta(days=1),
    not_after: datetime = AT + timedelta(days=1),
    issuer_name: x509.Name | None = None,
    digest: hashes.HashAlgorithm | None = None,
    rsa_padding: padding.PSS | None = None,
) -> Pair:
    """A certificate with the usual extensions of a CA or client; `extensions` replace or add, `drop` removes."""
    subject = common_name(name) if isinstance(name, str) else name
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = key if issuer is None else issuer.key
    above_name = subject if issuer is None else issuer.certificate.subject
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usual: list[Extension] = [
        (x509.BasicConstraints(ca=ca, path_length=path_length), True),
        CA_USAGE if ca else LEAF_USAGE,
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (above, False),
    ]
    if not ca:
        usual += [CLIENT_AUTH, (x509.SubjectAlternativeName([x509.DNSName("peer.example.com")]), False)]
    replaced = {value.oid for value, _ in extensions}
    chosen = [item for item in usual if item[0].oid not in replaced and not isinstance(item[0], tuple(drop))]
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=above_name if issuer_name is None else issuer_name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number() if serial is None else serial,
        not_valid_before=not_before,
        not_valid_after=not_after,
    )
    for value, critical in (*chosen, *extensions):
        builder = builder.add_extension(value, critical)
    pure = not isinstance(signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    signed = builder.sign(signer, None if pure else digest or hashes.SHA256(), rsa_padding=rsa_padding)
    return Pair(certificate=signed, key=key)


def patched(pair: Pair, issuer: Pair, old: bytes, new: bytes) -> Pair:
    """The certificate with bytes of its signed part exchanged (same length) and signed anew: encodings that no builder
    makes. The issuer's key is on P-256."""
    if len(old) != len(new):
        raise ValueError("lengths differ")
    tbs = pair.certificate.tbs_certificate_bytes
    if tbs.count(old) != 1:
        raise ValueError(f"{tbs.count(old)} places to patch")
    tbs = tbs.replace(old, new)
    der = pair.certificate.public_bytes(Encoding.DER)
    start = der.index(pair.certificate.tbs_certificate_bytes)
    algorithm_end = start + len(tbs) + 2 + der[start + len(tbs) + 1]
    algorithm = der[start + len(tbs) : algorithm_end]
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = b"\0" + issuer.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    body = tbs + algorithm + b"\x03" + bytes([len(signature)]) + signature
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some encodings are on the library's list of what it will refuse one day
        certificate = x509.load_der_x509_certificate(b"\x30\x82" + len(body).to_bytes(2) + body)
    return Pair(certificate=certificate, key=pair.key)


def pem(*items: Pair | x509.Certificate) -> bytes:
    return certificate_pem(*(item.certificate if isinstance(item, Pair) else item for item in items))


def requested(
    key: ec.EllipticCurvePrivateKey,
    name: str | None = None,
    *extensions: x509.ExtensionType,
    others: tuple[str, ...] = (),
) -> bytes:
    """DER of a PKCS #10 request, signed with SHA-256; without a name its subject is empty."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, each) for each in ((name, *others) if name else ())]
    builder = x509.CertificateSigningRequestBuilder(x509.Name(names))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
