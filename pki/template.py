"""From a request to a template: everything that will be signed, decided before any key is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from pki.extensions import NO_REV_AVAIL
from pki.keys import PublicKey
from pki.names import Role, SpiffeId
from pki.profiles import ALL_HOSTS, CLOCK_CUSHION, LIST_LIFETIME, Profile, SanKind, key_usage

__all__ = [
    "CertificateTemplate",
    "HostName",
    "Pointers",
    "build_template",
    "ca_subject",
    "host_subject",
    "peer_subject",
    "serial_from",
]

HostName = x509.DNSName | x509.IPAddress

SERIAL_ENTROPY = 20
_COMMON_NAME_MAX = 64  # ub-common-name, RFC 5280 appendix A.1
_SERVER_NAME = "rhttp-pki server"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateTemplate:
    """An unsigned certificate. Attribute names are those of `x509.Certificate`, so that lint reads both alike."""

    profile: Profile
    subject: x509.Name
    issuer: x509.Name
    public_key: PublicKey
    serial_number: int
    not_valid_before_utc: datetime
    not_valid_after_utc: datetime
    extensions: x509.Extensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointers:
    """URLs where others may ask whether a certificate was revoked: its CA's list, and a responder if there is one."""

    crl: str
    ocsp: str | None = None

    def extensions(self) -> list[x509.ExtensionType]:
        """What says so in a certificate."""
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl)], None, None, None)
        made: list[x509.ExtensionType] = [x509.CRLDistributionPoints([point])]
        if self.ocsp is not None:
            place = x509.UniformResourceIdentifier(self.ocsp)
            access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)
            made.append(x509.AuthorityInformationAccess([access]))
        return made


def serial_from(entropy: bytes) -> int:
    """A serial number of 159 random bits out of 20 random bytes: positive and at most 20 octets (RFC 5280 §4.1.2.2).

    ValueError when there are fewer bytes, or in the one case out of 2^159 that makes zero.
    """
    if len(entropy) != SERIAL_ENTROPY:
        raise ValueError(f"a serial number is made of {SERIAL_ENTROPY} random bytes")
    serial = int.from_bytes(entropy) >> 1
    if serial == 0:
        raise ValueError("the random bytes are all zero")
    return serial


def ca_subject(role: Role | None, trust_domain: str) -> x509.Name:
    """The name of a role's issuing CA (None: of the root): one DC for each label, as a domain may exceed a CN's 64."""
    labels = [x509.NameAttribute(NameOID.DOMAIN_COMPONENT, label) for label in reversed(trust_domain.split("."))]
    kind = "root" if role is None else role.value
    return x509.Name([*labels, x509.NameAttribute(NameOID.COMMON_NAME, f"rhttp-pki {kind} CA")])


def peer_subject(identity: SpiffeId) -> x509.Name:
    """CN=name, for people who read listings; decisions read the SPIFFE ID."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])


def host_subject(names: Sequence[HostName]) -> x509.Name:
    """CN=the first name that fits into one."""
    texts = (str(name.value) for name in names)
    common_name = next((text for text in texts if 0 < len(text) <= _COMMON_NAME_MAX), _SERVER_NAME)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def build_template(
    profile: Profile,
    *,
    subject: x509.Name,
    public_key: PublicKey,
    names: Sequence[x509.GeneralName] = (),
    issuer: x509.Certificate | None,
    at: datetime,
    entropy: bytes,
    lifetime: timedelta | None = None,
    pointers: Pointers | None = None,
) -> CertificateTemplate:
    """The template that the profile makes of a request; `issuer` None means signed by its own key (the root).

    notBefore lies five minutes back, but not before the issuer's; notAfter is `at` plus the lifetime (the profile's
    default when None), cut to the issuer's. Whole seconds, rounded down. What lives no longer than a list says that it
    needs none, and has no `pointers`. Nothing is refused here: that is lint's.
    """
    if at.tzinfo is None:
        raise ValueError("a time without a zone says nothing")
    at = at.replace(microsecond=0)
    not_before, not_after = at - CLOCK_CUSHION, at + (profile.lifetime if lifetime is None else lifetime)
    if issuer is not None:
        not_before = max(not_before, issuer.not_valid_before_utc)
        not_after = min(not_after, issuer.not_valid_after_utc)
    return CertificateTemplate(
        profile=profile,
        subject=subject,
        issuer=subject if issuer is None else issuer.subject,
        public_key=public_key,
        serial_number=serial_from(entropy),
        not_valid_before_utc=not_before,
        not_valid_after_utc=not_after.replace(microsecond=0),
        extensions=_extensions(
            profile, public_key, names, issuer, pointers, is_short=not profile.is_ca and not_after - at <= LIST_LIFETIME
        ),
    )


def _extensions(
    profile: Profile,
    public_key: PublicKey,
    names: Sequence[x509.GeneralName],
    issuer: x509.Certificate | None,
    pointers: Pointers | None,
    *,
    is_short: bool,
) -> x509.Extensions:
    own = x509.SubjectKeyIdentifier.from_public_key(public_key)
    above = own
    if issuer is not None:
        above = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    rows: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=profile.is_ca, path_length=profile.path_length), True),
        (key_usage(profile.usages), True),
    ]
    if profile.purposes:
        # Not critical: `cryptography`, after the CA/Browser Forum, refuses a critical one.
        rows.append((x509.ExtendedKeyUsage(profile.purposes), False))
    if profile.san is not SanKind.ABSENT:
        # Not critical, since the subject is never empty (RFC 5280 §4.2.1.6).
        rows.append((x509.SubjectAlternativeName(names), False))
    if profile.no_hosts:
        rows.append((x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=ALL_HOSTS), True))
    rows.append((own, False))
    rows.append((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False))
    if is_short:
        rows.append((NO_REV_AVAIL, False))
    elif pointers is not None:
        rows += [(value, False) for value in pointers.extensions()]
    return x509.Extensions([x509.Extension(value.oid, critical, value) for value, critical in rows])
