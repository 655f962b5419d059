"""Revocation lists: what we build, and which lists decide."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.certs import AT, Pair, authority, common_name, forge, peer

from pki.errors import CertificateInvalid, PathReason
from pki.extensions import NO_REV_AVAIL
from pki.names import Role
from pki.profiles import key_usage
from pki.revocation import (
    CrlView,
    RevocationReason,
    RevokedEntry,
    build_crl,
    check_revocation,
)

DAY = timedelta(days=1)
CA = forge("ca", ca=True)
LEAF = forge("leaf", CA, serial=77)
Path = tuple[x509.Certificate, ...]
PATH: Path = (LEAF.certificate, CA.certificate)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
URI = x509.UniformResourceIdentifier


def crl(
    *entries: x509.RevokedCertificate,
    signer: Pair = CA,
    issuer: x509.Name | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    number: bool = True,
    begin: datetime = AT - DAY,
    end: datetime = AT + DAY,
    digest: hashes.HashAlgorithm | None = None,
) -> x509.CertificateRevocationList:
    """A list as any CA might sign it."""
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer or signer.certificate.subject, last_update=begin, next_update=end
    )
    if number and not any(isinstance(value, x509.CRLNumber) for value, _ in extensions):
        builder = builder.add_extension(x509.CRLNumber(1), False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer.key, digest or hashes.SHA256())


def entry(serial: int = 5, *extensions: tuple[x509.ExtensionType, bool], at: datetime = AT) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.build()


def scope(**fields: Any) -> tuple[x509.ExtensionType, bool]:
    usual: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**(usual | fields)), True


def judge(*crls: x509.CertificateRevocationList, path: Path = PATH, at: datetime = AT, every: bool = True) -> str:
    try:
        check_revocation(path, crls, at=at, every=every)
    except CertificateInvalid as error:
        return error.reason.value
    return "good"


OTHER = forge("other", ca=True)
IMPOSTOR = Pair(certificate=CA.certificate, key=OTHER.key)

ROWS: dict[str, tuple[Callable[[], x509.CertificateRevocationList], str]] = {
    "empty": (crl, "good"),
    "others": (lambda: crl(entry(5), entry(6)), "good"),
    "revoked": (lambda: crl(entry(5), entry(77)), "revoked"),
    "revoked-in-future": (lambda: crl(entry(77, at=AT + 9 * DAY)), "revoked"),
    "revoked-with-reason": (lambda: crl(entry(77, (x509.CRLReason(x509.ReasonFlags.superseded), False))), "revoked"),
    "on-hold": (lambda: crl(entry(77, (x509.CRLReason(x509.ReasonFlags.certificate_hold), False))), "revoked"),
    "ends-now": (lambda: crl(end=AT), "good"),
    "begins-now": (lambda: crl(begin=AT), "good"),
    "ended": (lambda: crl(end=AT - timedelta(seconds=1)), "stale_crl"),
    "not-begun": (lambda: crl(begin=AT + timedelta(seconds=1)), "stale_crl"),
    "revoked-but-ended": (lambda: crl(entry(77), end=AT - timedelta(seconds=1)), "stale_crl"),
    "wrong-key": (lambda: crl(signer=IMPOSTOR), "stale_crl"),
    "other-issuer": (lambda: crl(entry(77), signer=OTHER), "stale_crl"),
    "other-name": (lambda: crl(issuer=common_name("nobody")), "stale_crl"),
    "aki-of-other": (
        lambda: crl(extensions=((x509.AuthorityKeyIdentifier(b"x" * 20, None, None), False),)),
        "stale_crl",
    ),
    "weak-digest": (lambda: crl(digest=hashes.SHA224()), "stale_crl"),
    "no-number": (lambda: crl(number=False), "stale_crl"),
    "number-critical": (lambda: crl(extensions=((x509.CRLNumber(2), True),)), "stale_crl"),
    "delta": (lambda: crl(extensions=((x509.DeltaCRLIndicator(1), True),)), "stale_crl"),
    "unknown-critical": (lambda: crl(extensions=((UNKNOWN, True),)), "stale_crl"),
    "unknown": (lambda: crl(extensions=((UNKNOWN, False),)), "good"),
    "entry-unknown-critical": (lambda: crl(entry(5, (UNKNOWN, True))), "stale_crl"),
    "entry-unknown": (lambda: crl(entry(77, (UNKNOWN, False))), "revoked"),
    "entry-of-other-issuer": (
        lambda: crl(entry(5, (x509.CertificateIssuer([x509.DirectoryName(common_name("x"))]), True))),
        "stale_crl",
    ),
    "entry-removed": (lambda: crl(entry(77, (x509.CRLReason(x509.ReasonFlags.remove_from_crl), False))), "stale_crl"),
    "entry-twice": (lambda: crl(entry(5), entry(5)), "stale_crl"),
    "indirect": (lambda: crl(extensions=(scope(indirect_crl=True),)), "stale_crl"),
    "some-reasons": (
        lambda: crl(extensions=(scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),)),
        "stale_crl",
    ),
    "attributes": (lambda: crl(extensions=(scope(only_contains_attribute_certs=True),)), "stale_crl"),
    "users-only": (lambda: crl(extensions=(scope(only_contains_user_certs=True),)), "good"),
    "cas-only": (lambda: crl(extensions=(scope(only_contains_ca_certs=True),)), "stale_crl"),
    "point-of-nobody": (lambda: crl(extensions=(scope(full_name=[URI("http://a.example/1")]),)), "stale_crl"),
    "relative-point": (
        lambda: crl(
            extensions=(
                scope(
                    relative_name=x509.RelativeDistinguishedName([x509.NameAttribute(x509.NameOID.COMMON_NAME, "part")])
                ),
            )
        ),
        "stale_crl",
    ),
}


@pytest.mark.parametrize(("make", "expected"), ROWS.values(), ids=ROWS.keys())
def test_list_decides_only_when_it_is_whole_current_and_the_issuers(
    make: Callable[[], x509.CertificateRevocationList], expected: str
) -> None:
    """What cannot be judged is refused as stale, never taken as good."""
    assert expected == judge(make())


def test_no_list_at_all_cannot_be_told() -> None:
    assert judge() == "stale_crl"


def test_one_list_that_decides_is_enough_and_one_that_revokes_wins() -> None:
    bad, good, revoking = crl(end=AT - DAY / 2), crl(), crl(entry(77))
    assert judge(bad, good) == judge(good, bad) == "good"
    assert judge(good, revoking) == judge(revoking, bad) == "revoked"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (None, "good"),
        (lambda: crl(signer=OTHER), "good"),
        (crl, "good"),
        (lambda: crl(entry(77)), "revoked"),
        (lambda: crl(end=AT - DAY / 2), "stale_crl"),
    ],
    ids=["none", "of-another", "good", "revoked", "stale"],
)
def test_leaf_that_says_that_there_is_no_list_is_judged_by_one_all_the_same(
    make: Callable[[], x509.CertificateRevocationList] | None, expected: str
) -> None:
    """noRevAvail (RFC 9608): no list of the issuer is missed. One that is given decides, and a stale one refuses."""
    leaf = forge("leaf", CA, serial=77, extensions=[(NO_REV_AVAIL, False)])
    assert judge(*([] if make is None else [make()]), path=(leaf.certificate, CA.certificate)) == expected


@pytest.mark.parametrize("where", ["beside-a-list", "beside-ocsp", "critical", "ca", "not-null"])
def test_no_rev_avail_that_does_not_count_needs_a_list(where: str) -> None:
    """In the wrong place it excuses nothing: beside a place to ask, critical, in a CA, with a value of its own."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [(NO_REV_AVAIL, where == "critical")]
    if where == "beside-a-list":
        point = x509.DistributionPoint([URI("http://a.example/1")], None, None, None)
        extensions.append((x509.CRLDistributionPoints([point]), False))
    if where == "beside-ocsp":
        ocsp = x509.AccessDescription(x509.AuthorityInformationAccessOID.OCSP, URI("http://a.example/"))
        extensions.append((x509.AuthorityInformationAccess([ocsp]), False))
    if where == "not-null":
        extensions = [(x509.UnrecognizedExtension(NO_REV_AVAIL.oid, b"\x04\x00"), False)]
    leaf = forge("leaf", CA, ca=where == "ca", extensions=extensions)
    assert judge(path=(leaf.certificate, CA.certificate)) == "stale_crl"


@pytest.mark.parametrize(
    ("cdp", "idp", "expected"),
    [
        (["http://a.example/1"], ["http://a.example/1"], "good"),
        (["http://a.example/1"], ["http://a.example/2"], "stale_crl"),
        (["http://a.example/%31"], ["http://a.example/1"], "stale_crl"),
        (["http://a.example/1", "http://b.example/1"], ["http://b.example/1"], "good"),
    ],
)
def test_list_of_one_distribution_point_counts_for_its_certificates(
    cdp: list[str], idp: list[str], expected: str
) -> None:
    """§6.3.3 (b)(2): names are compared as they are written."""
    point = x509.DistributionPoint([URI(text) for text in cdp], None, None, None)
    leaf = forge("leaf", CA, extensions=[(x509.CRLDistributionPoints([point]), False)])
    part = crl(extensions=(scope(full_name=[URI(text) for text in idp]),))
    assert expected == judge(part, path=(leaf.certificate, CA.certificate))


RDN = x509.RelativeDistinguishedName([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "part")])
WHOLE = x509.DirectoryName(x509.Name([*CA.certificate.subject.rdns, RDN]))
UPPER = x509.DirectoryName(x509.Name([*CA.certificate.subject.rdns, *common_name("PART").rdns]))


@pytest.mark.parametrize("point", [{"full_name": [WHOLE]}, {"full_name": None, "relative_name": RDN}])
@pytest.mark.parametrize(
    ("list_s", "expected"),
    [
        ({"full_name": [WHOLE]}, "good"),
        ({"full_name": [URI("http://a.example/1"), UPPER]}, "good"),
        ({"relative_name": RDN}, "good"),
        ({"full_name": [x509.DirectoryName(common_name("part"))]}, "stale_crl"),
        ({"full_name": [URI("http://a.example/1")]}, "stale_crl"),
    ],
)
def test_list_of_a_distribution_point_that_is_a_directory_name_counts_for_it(
    point: dict[str, Any], list_s: dict[str, Any], expected: str
) -> None:
    """§4.2.1.13: names are compared as names, and one that is relative begins with that of the list's issuer."""
    usual = {"full_name": None, "relative_name": None, "reasons": None, "crl_issuer": None}
    points = x509.CRLDistributionPoints([x509.DistributionPoint(**(usual | point))])
    leaf = forge("leaf", CA, extensions=[(points, False)])
    assert expected == judge(crl(extensions=(scope(**list_s),)), path=(leaf.certificate, CA.certificate))


@pytest.mark.parametrize(
    ("bits", "expected"), [({"key_cert_sign"}, "stale_crl"), ({"key_cert_sign", "crl_sign"}, "good"), (None, "good")]
)
def test_issuer_must_be_allowed_to_sign_lists(bits: set[str] | None, expected: str) -> None:
    """§6.3.3 (f): when key usage is there, cRLSign must be in it."""
    drop = [x509.KeyUsage] if bits is None else []
    usage = [] if bits is None else [(key_usage(frozenset(bits)), True)]
    ca = forge("ca", ca=True, extensions=usage, drop=drop)
    leaf = forge("leaf", ca)
    assert expected == judge(crl(signer=ca), path=(leaf.certificate, ca.certificate))


def test_cas_below_the_anchor_are_judged_too() -> None:
    """With `every` each needs a list; without, only those whose issuer has one."""
    middle = forge("middle", CA, ca=True)
    path = (forge("leaf", middle).certificate, middle.certificate, CA.certificate)
    below, above = crl(signer=middle), crl()
    assert judge(below, above, path=path) == "good"
    assert judge(below, path=path) == "stale_crl"
    assert judge(below, path=path, every=False) == "good"
    assert judge(above, path=path, every=False) == "stale_crl"
    revoking = crl(entry(middle.certificate.serial_number))
    assert judge(below, revoking, path=path, every=False) == "revoked"
    users = crl(extensions=(scope(only_contains_user_certs=True),))
    assert judge(below, users, path=path) == "stale_crl"


def test_delta_list_revokes_and_decides_nothing_else() -> None:
    """What it takes back stays revoked by the complete list: it is left to its issuer to make a new one."""
    delta = (x509.DeltaCRLIndicator(1), True)
    removed = entry(77, (x509.CRLReason(x509.ReasonFlags.remove_from_crl), False))
    adding, taking = crl(entry(77), extensions=(delta,)), crl(removed, extensions=(delta,))
    assert judge(crl(extensions=(delta,))) == "stale_crl"
    assert judge(crl(), crl(extensions=(delta,))) == "good"
    assert judge(crl(), adding) == judge(adding, crl()) == judge(adding) == "revoked"
    assert judge(crl(entry(77)), taking) == judge(taking, crl(entry(77))) == "revoked"
    assert judge(crl(), taking) == "good"
    assert judge(crl(), crl(entry(77), extensions=(delta,), end=AT - DAY / 2)) == "good"
    with pytest.raises(CertificateInvalid, match="delta"):
        CrlView(adding, CA.certificate, at=AT)


def rolled() -> tuple[Pair, Pair, Path]:
    """root -> CA with its old key -> the same CA with its new key -> leaf; the two CAs and the path."""
    root = forge("root", ca=True)
    old = forge("roll", root, ca=True, serial=20)
    new = forge("roll", old, ca=True, serial=21)
    leaf = forge("leaf", new, serial=77)
    path = tuple(pair.certificate for pair in (leaf, new, old, root))
    return old, new, path


def test_list_signed_with_the_ca_s_other_key_on_the_path_decides() -> None:
    """RFC 5280 section 6.3.3 (f): a list's issuer has the CA's name and a valid path to the same anchor. Only upwards:
    the new key does not say of itself that it was not revoked."""
    old, new, path = rolled()
    assert judge(crl(signer=old), path=path, every=False) == "good"
    assert judge(crl(entry(77), signer=old), path=path, every=False) == "revoked"
    assert judge(crl(entry(21), signer=old), path=path, every=False) == "revoked"
    assert judge(crl(signer=new), path=path, every=False) == "stale_crl"
    assert judge(crl(signer=new), crl(signer=old), path=path, every=False) == "good"
    assert judge(crl(entry(77), signer=new), crl(signer=old), path=path, every=False) == "revoked"
    stranger = forge("roll", forge("root", ca=True), ca=True)
    assert judge(crl(signer=stranger), path=path, every=False) == "stale_crl"


def test_built_list_decides_and_carries_number_reason_and_key() -> None:
    """Our own list passes our own checks."""
    issuer, leaf = authority(Role.WORKER), peer()
    entries = [
        RevokedEntry(serial=leaf.serial_number, revoked_at=AT, reason=RevocationReason.KEY_COMPROMISE),
        RevokedEntry(serial=9, revoked_at=AT),
    ]
    made = build_crl(issuer, entries, number=41, at=AT + timedelta(microseconds=5))
    view = CrlView(made, issuer.certificate, at=AT)
    assert view.is_revoked(leaf.serial_number)
    assert view.is_revoked(9)
    assert not view.is_revoked(10)
    assert made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 41
    first = made.get_revoked_certificate_by_serial_number(leaf.serial_number)
    second = made.get_revoked_certificate_by_serial_number(9)
    assert first is not None
    assert second is not None
    assert first.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise
    assert len(second.extensions) == 0
    assert made.next_update_utc == AT + DAY
    assert made.last_update_utc == AT - timedelta(minutes=5)  # as notBefore: peers' clocks run late


@pytest.mark.parametrize("reason", RevocationReason)
def test_every_reason_that_revoke_takes_can_be_listed(reason: RevocationReason) -> None:
    made = build_crl(authority(Role.WORKER), [RevokedEntry(serial=1, revoked_at=AT, reason=reason)], number=1, at=AT)
    assert CrlView(made, authority(Role.WORKER).certificate, at=AT).is_revoked(1)


def test_build_of_a_list_that_could_not_be_used_is_refused() -> None:
    issuer, one = authority(Role.WORKER), RevokedEntry(serial=1, revoked_at=AT)
    with pytest.raises(ValueError, match="twice"):
        build_crl(issuer, [one, one], number=1, at=AT)
    with pytest.raises(ValueError, match="aware"):
        build_crl(issuer, [], number=1, at=AT.replace(tzinfo=None))
    with pytest.raises(ValueError, match="positive"):
        build_crl(issuer, [], number=1, at=AT, lifetime=timedelta(0))


def test_view_becomes_stale_with_its_list() -> None:
    """A view is for one moment; later it must be built again, and then refuses."""
    issuer = authority(Role.WORKER)
    made = build_crl(issuer, [], number=1, at=AT)
    with pytest.raises(CertificateInvalid) as caught:
        CrlView(made, issuer.certificate, at=AT + DAY + timedelta(seconds=1))
    assert caught.value.reason is PathReason.STALE_CRL


def test_list_of_ten_thousand_entries_decides() -> None:
    made = crl(*[entry(1000 + number) for number in range(10_000)], entry(77))
    assert judge(made) == "revoked"


def test_list_signed_on_another_curve_counts() -> None:
    ca = forge("ca", ca=True, key=ec.generate_private_key(ec.SECP384R1()))
    leaf = forge("leaf", ca)
    assert judge(crl(signer=ca, digest=hashes.SHA384()), path=(leaf.certificate, ca.certificate)) == "good"
