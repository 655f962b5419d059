"""Revocation: building the lists of our CAs, and judging certificates by lists (RFC 5280 §5, §6.3).

Only complete, direct lists count: signed by the issuing CA itself, for all reasons. A list that is out of date, of
another scope, or holds anything critical that is not understood decides nothing, and a certificate on which nothing
decides is refused (`stale_crl`). A delta may revoke, and says of nothing that it was not revoked. Online status (OCSP)
and fetching are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import product
from typing import Protocol

from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from pki.constraints import normal_name
from pki.encoding import list_fault
from pki.errors import CertificateInvalid, PathReason
from pki.extensions import UNREADABLE, find, is_beyond_lists
from pki.issue import IssuerKey, serial_hex
from pki.profiles import CLOCK_CUSHION, LIST_LIFETIME
from pki.signatures import certificate_key, is_signed_by, sign_list

__all__ = [
    "CrlView",
    "RevocationReason",
    "RevocationView",
    "RevokedEntry",
    "build_crl",
    "check_revocation",
]

_MAX_ENTRIES = 1_000_000
_LIST_EXTENSIONS = frozenset({ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR})
_ENTRY_EXTENSIONS = frozenset({CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE})


class RevocationView(Protocol):
    """What verification asks. An answer that cannot be given is `CertificateInvalid` (stale_crl), never False."""

    def is_revoked(self, serial: int) -> bool: ...


class RevocationReason(StrEnum):
    """The reasons that `revoke` takes. No hold and no removal: here revocation is for ever."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedEntry:
    """One line of a list. `revoked_at` is aware."""

    serial: int
    revoked_at: datetime
    reason: RevocationReason = RevocationReason.UNSPECIFIED


def build_crl(
    issuer: IssuerKey,
    entries: Iterable[RevokedEntry],
    *,
    number: int,
    at: datetime,
    lifetime: timedelta = LIST_LIFETIME,
) -> x509.CertificateRevocationList:
    """A complete list of the issuer, good for `lifetime` from `at`; `number` must grow from list to list (§5.2.3).

    thisUpdate lies five minutes back, as notBefore of a certificate does.

    ValueError for a naive time, a serial number that is listed twice, or a lifetime that is not positive.
    """
    if at.tzinfo is None or lifetime <= timedelta(0):
        raise ValueError("a list needs an aware time and a positive lifetime")
    at = at.replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(at - CLOCK_CUSHION)
        .next_update((at + lifetime).replace(microsecond=0))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority(issuer.certificate), critical=False)
    )
    seen: set[int] = set()
    for entry in entries:
        if entry.serial in seen:
            raise ValueError("a serial number is listed twice")
        seen.add(entry.serial)
        builder = builder.add_revoked_certificate(_entry(entry))
    return sign_list(builder, issuer.key)


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _entry(entry: RevokedEntry) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.revoked_at)
    if entry.reason is not RevocationReason.UNSPECIFIED:  # §5.3.1: absent rather than unspecified
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(entry.reason.value)), critical=False)
    return builder.build()


class CrlView:
    """One list of one CA at one moment. Building it checks the list as a whole; `is_revoked` is then a look-up.

    Raises:
        CertificateInvalid: stale_crl, with the cause in the detail.
    """

    __slots__ = ("_issuer", "_revoked", "_scope", "is_delta")

    def __init__(
        self, crl: x509.CertificateRevocationList, issuer: x509.Certificate, *, at: datetime, may_be_delta: bool = False
    ) -> None:
        try:
            self.is_delta = any(one.oid == ExtensionOID.DELTA_CRL_INDICATOR for one in crl.extensions)
            if self.is_delta and not may_be_delta:
                raise _stale("a delta list")
            self._scope = _check_list(crl, issuer, at.replace(microsecond=0))
            self._issuer = crl.issuer
            self._revoked = _serials(crl, is_delta=self.is_delta)
        except UNREADABLE as error:
            raise _stale(f"the list cannot be read: {error}") from None

    def is_revoked(self, serial: int) -> bool:
        return serial in self._revoked

    def covers(self, certificate: x509.Certificate) -> bool:
        """Whether the list's scope (§5.2.5) takes in the certificate; its issuer has been matched by the caller."""
        scope = self._scope
        if scope is None:
            return True
        basic = find(certificate.extensions, x509.BasicConstraints)
        is_ca = basic is not None and basic.ca
        if (scope.only_contains_ca_certs and not is_ca) or (scope.only_contains_user_certs and is_ca):
            return False
        names = _point_names(scope, self._issuer)
        if not names:
            return True
        points = find(certificate.extensions, x509.CRLDistributionPoints) or ()
        return any(_is_point(point, names, certificate.issuer) for point in points)


def check_revocation(
    path: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    *,
    at: datetime,
    every: bool,
) -> None:
    """Judge a validated path (leaf first, anchor last) by the lists; `CertificateInvalid` revoked or stale_crl.

    The leaf needs a list that decides on it. So does each CA below the anchor with `every`; without it only those
    whose issuer has a list among `crls`, and so is a leaf judged that says that there is none (noRevAvail, RFC 9608).

    A CA that changed its key may sign the list with another key than the certificate: the one of its certificate
    further up this path, which leads to the same anchor and is judged itself (§6.3.3 (f)).
    """
    for index, certificate in enumerate(path[:-1]):
        issuer = path[index + 1]
        name = normal_name(issuer.subject)
        signers = [issuer, *(above for above in path[index + 2 :] if normal_name(above.subject) == name)]
        own = [crl for crl in crls if normal_name(crl.issuer) == name]
        is_wanted = not is_beyond_lists(certificate.extensions) if index == 0 else every
        if own or is_wanted:
            _check_one(certificate, signers, own, at)


def _check_one(
    certificate: x509.Certificate,
    signers: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    at: datetime,
) -> None:
    decided, failure = False, _stale("no revocation list of the issuer")
    for signer, crl in product(signers, crls):
        try:
            view = CrlView(crl, signer, at=at, may_be_delta=True)
        except CertificateInvalid as error:
            failure = error
            continue
        if not view.covers(certificate):
            failure = _stale("the revocation list does not cover the certificate")
        elif view.is_revoked(certificate.serial_number):
            raise CertificateInvalid(PathReason.REVOKED, f"serial {serial_hex(certificate.serial_number)}")
        elif view.is_delta:
            failure = _stale("a delta list, which revokes and decides nothing else")
        else:
            decided = True
    if not decided:
        raise failure


def _check_list(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, at: datetime
) -> x509.IssuingDistributionPoint | None:
    key = certificate_key(issuer)
    usage = find(issuer.extensions, x509.KeyUsage)
    authority = find(crl.extensions, x509.AuthorityKeyIdentifier)
    own = find(issuer.extensions, x509.SubjectKeyIdentifier)
    names_other = (
        authority is not None
        and authority.key_identifier is not None
        and own is not None
        and authority.key_identifier != own.digest
    )
    if normal_name(crl.issuer) != normal_name(issuer.subject) or names_other:
        raise _stale("the list is of another issuer")
    if usage is not None and not usage.crl_sign:
        raise _stale("the issuer may not sign lists")
    if not is_signed_by(crl, key) or not crl.is_signature_valid(key):  # type: ignore[arg-type]  # any strong key fits
        raise _stale("the list's signature does not verify")
    fault = list_fault(crl)
    if fault is not None:
        raise _stale(fault)
    if at < crl.last_update_utc:
        raise _stale("the list is not yet in force")
    if crl.next_update_utc is None or at > crl.next_update_utc:
        raise _stale("the list is out of date")
    if find(crl.extensions, x509.CRLNumber) is None:
        raise _stale("the list has no number")
    scope = None
    for extension in crl.extensions:
        if extension.critical and extension.oid not in _LIST_EXTENSIONS:
            raise _stale(f"the list's extension {extension.oid.dotted_string} may not be critical")
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            scope = extension.value
    if scope is not None and (
        scope.indirect_crl or scope.only_some_reasons is not None or scope.only_contains_attribute_certs
    ):
        raise _stale("an indirect list, or one of a scope that is not handled")
    return scope


def _serials(crl: x509.CertificateRevocationList, *, is_delta: bool) -> frozenset[int]:
    """The serial numbers that it revokes; what a delta takes back is left out."""
    if len(crl) > _MAX_ENTRIES:
        raise _stale("the list is too long")
    serials: set[int] = set()
    for entry in crl:
        is_removed = False
        for extension in entry.extensions:
            if extension.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER:
                raise _stale("an entry of an indirect list")
            if extension.critical and extension.oid not in _ENTRY_EXTENSIONS:
                raise _stale(f"an entry's extension {extension.oid.dotted_string} is critical and not understood")
            if (
                isinstance(extension.value, x509.CRLReason)
                and extension.value.reason is x509.ReasonFlags.remove_from_crl
            ):
                is_removed = True
        if is_removed and not is_delta:
            raise _stale("an entry of a delta list")
        if entry.serial_number in serials:
            raise _stale("a serial number is listed twice")
        if not is_removed:
            serials.add(entry.serial_number)
    return frozenset(serials)


def _is_point(point: x509.DistributionPoint, names: Sequence[x509.GeneralName], issuer: x509.Name) -> bool:
    """Whether the certificate's distribution point is the list's (§6.3.3 (b)(2)): they share a name."""
    own = _point_names(point, issuer)
    return (
        point.crl_issuer is None
        and point.reasons is None
        and any(_is_same_name(one, other) for one in own for other in names)
    )


def _point_names(
    point: x509.DistributionPoint | x509.IssuingDistributionPoint, issuer: x509.Name
) -> Sequence[x509.GeneralName]:
    """The names of a distribution point; one that is relative to the list's issuer is made whole (§4.2.1.13)."""
    if point.relative_name is not None:
        return [x509.DirectoryName(x509.Name([*issuer.rdns, point.relative_name]))]
    return point.full_name or ()


def _is_same_name(one: x509.GeneralName, other: x509.GeneralName) -> bool:
    if isinstance(one, x509.DirectoryName) and isinstance(other, x509.DirectoryName):
        return normal_name(one.value) == normal_name(other.value)
    return one == other


def _stale(detail: str) -> CertificateInvalid:
    return CertificateInvalid(PathReason.STALE_CRL, detail)
