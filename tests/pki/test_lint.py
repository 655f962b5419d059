"""Lint: one valid template or certificate, one thing broken in each row, the rule that finds it."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from support.certs import (
    AT,
    a_key,
    authority,
    common_name,
    entropy,
    peer_template,
    server,
    sign_unlinted,
    toggled_criticality,
    with_extension,
    with_field,
    without_extension,
)

from pki.errors import PathReason
from pki.extensions import NO_REV_AVAIL
from pki.keys import KeyType
from pki.lint import lint
from pki.names import Role
from pki.profiles import CA_PROFILES, LEAF_PROFILES, key_usage
from pki.template import CertificateTemplate, build_template, host_subject

URI = x509.UniformResourceIdentifier
CLIENT_AUTH, SERVER_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ME = URI("spiffe://example.internal/worker/render/w1")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")

Mutation = Callable[[CertificateTemplate], CertificateTemplate]


def san(*names: x509.GeneralName) -> Mutation:
    return with_extension(x509.SubjectAlternativeName(names), critical=False)


def eku(*purposes: x509.ObjectIdentifier) -> Mutation:
    return with_extension(x509.ExtendedKeyUsage(purposes), critical=False)


ROWS: list[tuple[str, Mutation, str, PathReason]] = [
    ("ca", with_extension(x509.BasicConstraints(True, None), critical=True), "basic-constraints", PathReason.PROFILE),
    ("no-bc", without_extension(x509.BasicConstraints), "extension-missing", PathReason.PROFILE),
    ("bc-not-critical", toggled_criticality(x509.BasicConstraints), "criticality", PathReason.PROFILE),
    ("no-ku", without_extension(x509.KeyUsage), "extension-missing", PathReason.PROFILE),
    ("ku-not-critical", toggled_criticality(x509.KeyUsage), "criticality", PathReason.PROFILE),
    (
        "ku-extra",
        with_extension(key_usage(frozenset({"digital_signature", "key_cert_sign"})), critical=True),
        "key-usage",
        PathReason.PROFILE,
    ),
    ("ku-other", with_extension(key_usage(frozenset({"crl_sign"})), critical=True), "key-usage", PathReason.PROFILE),
    ("no-eku", without_extension(x509.ExtendedKeyUsage), "extension-missing", PathReason.PURPOSE),
    ("eku-both", eku(CLIENT_AUTH, SERVER_AUTH), "extended-key-usage", PathReason.PURPOSE),
    ("eku-server", eku(SERVER_AUTH), "extended-key-usage", PathReason.PURPOSE),
    ("eku-any", eku(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "extended-key-usage", PathReason.PURPOSE),
    ("eku-critical", toggled_criticality(x509.ExtendedKeyUsage), "criticality", PathReason.PROFILE),
    ("no-san", without_extension(x509.SubjectAlternativeName), "extension-missing", PathReason.NAME),
    ("san-critical", toggled_criticality(x509.SubjectAlternativeName), "criticality", PathReason.PROFILE),
    ("san-two-uris", san(ME, URI("spiffe://example.internal/worker/render/w2")), "spiffe-id", PathReason.NAME),
    ("san-twice", san(ME, ME), "spiffe-id", PathReason.NAME),
    ("san-dns", san(x509.DNSName("w1")), "spiffe-id", PathReason.NAME),
    ("san-uri-and-dns", san(ME, x509.DNSName("w1.example")), "spiffe-id", PathReason.NAME),
    ("san-other", san(x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")), "spiffe-id", PathReason.NAME),
    ("san-dirname", san(x509.DirectoryName(common_name("w1"))), "spiffe-id", PathReason.NAME),
    ("san-not-spiffe", san(URI("https://example.internal/worker/render/w1")), "spiffe-id", PathReason.NAME),
    ("san-no-pool", san(URI("spiffe://example.internal/worker/w1")), "spiffe-id", PathReason.NAME),
    ("san-client", san(URI("spiffe://example.internal/client/w1")), "role", PathReason.ROLE),
    ("san-other-name", san(URI("spiffe://example.internal/worker/render/w2")), "subject", PathReason.NAME),
    ("subject-other", with_field(subject=common_name("w2")), "subject", PathReason.NAME),
    ("subject-empty", with_field(subject=x509.Name([])), "empty-name", PathReason.NAME),
    ("no-ski", without_extension(x509.SubjectKeyIdentifier), "extension-missing", PathReason.PROFILE),
    ("no-aki", without_extension(x509.AuthorityKeyIdentifier), "extension-missing", PathReason.PROFILE),
    (
        "aki-other",
        with_extension(x509.AuthorityKeyIdentifier(b"x" * 20, None, None), critical=False),
        "authority-key",
        PathReason.PROFILE,
    ),
    (
        "aki-by-name",
        with_extension(x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(common_name("x"))], 5), critical=False),
        "authority-key",
        PathReason.PROFILE,
    ),
    (
        "name-constraints",
        with_extension(x509.NameConstraints([x509.DNSName("a.example")], None), critical=True),
        "extension-unexpected",
        PathReason.PROFILE,
    ),
    ("unknown-critical", with_extension(UNKNOWN, critical=True), "extension-unexpected", PathReason.PROFILE),
    ("unknown", with_extension(UNKNOWN, critical=False), "extension-unexpected", PathReason.PROFILE),
    (
        "key-p521",
        with_field(public_key=rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()),
        "key",
        PathReason.ALGORITHM,
    ),
    ("no-rev-avail-critical", with_extension(NO_REV_AVAIL, critical=True), "criticality", PathReason.PROFILE),
    (
        "no-rev-avail-and-a-list",
        with_extension(
            x509.CRLDistributionPoints([x509.DistributionPoint([URI("http://a.example/")], None, None, None)]),
            critical=False,
        ),
        "no-rev-avail",
        PathReason.PROFILE,
    ),
    (
        "no-rev-avail-and-ocsp",
        with_extension(
            x509.AuthorityInformationAccess(
                [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URI("http://a.example/"))]
            ),
            critical=False,
        ),
        "no-rev-avail",
        PathReason.PROFILE,
    ),
    (
        "no-rev-avail-of-something",
        with_extension(x509.UnrecognizedExtension(NO_REV_AVAIL.oid, b"\x01\x01\xff"), critical=False),
        "no-rev-avail",
        PathReason.MALFORMED,
    ),
    (
        "no-rev-avail-outlives-a-list",
        with_field(not_valid_after_utc=AT + timedelta(days=1, seconds=1)),
        "no-rev-avail",
        PathReason.PROFILE,
    ),
    ("serial-zero", with_field(serial_number=0), "serial", PathReason.MALFORMED),
    ("serial-long", with_field(serial_number=1 << 159), "serial", PathReason.MALFORMED),
    ("backwards", with_field(not_valid_after_utc=AT - timedelta(days=1)), "validity", PathReason.PROFILE),
    ("outlives", with_field(not_valid_after_utc=AT + timedelta(days=731)), "outlives-issuer", PathReason.PROFILE),
    ("too-long", with_field(not_valid_after_utc=AT + timedelta(days=800)), "lifetime", PathReason.PROFILE),
    ("predates", with_field(not_valid_before_utc=AT - timedelta(days=9)), "predates-issuer", PathReason.PROFILE),
    ("issuer-other", with_field(issuer=common_name("rhttp-pki worker CA")), "issuer", PathReason.NAME),
]


@pytest.mark.parametrize(("mutate", "rule", "reason"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_template_with_one_thing_broken_is_found(mutate: Mutation, rule: str, reason: PathReason) -> None:
    """Each laxity has its finding before anything is signed."""
    found = lint(mutate(peer_template()), LEAF_PROFILES[Role.WORKER], issuer=authority(Role.WORKER).certificate)
    assert (rule, reason) in {(finding.rule, finding.reason) for finding in found}


SIGNABLE = [row for row in ROWS if row[0] not in {"serial-zero", "serial-long", "backwards", "predates"}]


@pytest.mark.parametrize(("mutate", "rule", "reason"), [row[1:] for row in SIGNABLE], ids=[row[0] for row in SIGNABLE])
def test_certificate_with_one_thing_broken_is_found(mutate: Mutation, rule: str, reason: PathReason) -> None:
    """The same findings in what somebody else signed with the CA's key."""
    certificate = sign_unlinted(mutate(peer_template()), authority(Role.WORKER).key)
    found = lint(certificate, LEAF_PROFILES[Role.WORKER], issuer=authority(Role.WORKER).certificate)
    assert (rule, reason) in {(finding.rule, finding.reason) for finding in found}


def test_template_and_certificate_as_they_should_be_have_no_finding() -> None:
    """The rows above start from something valid."""
    template = peer_template()
    ca = authority(Role.WORKER)
    assert lint(template, template.profile, issuer=ca.certificate) == ()
    assert lint(sign_unlinted(template, ca.key), template.profile, issuer=ca.certificate) == ()


def test_short_certificate_without_no_rev_avail_is_allowed() -> None:
    """What was issued before there was such a thing stays good; a CA has no use for it."""
    template = without_extension(x509.UnrecognizedExtension)(peer_template())
    assert lint(template, template.profile) == ()
    ca = authority(Role.WORKER).certificate
    marked = dataclasses.replace(
        template, extensions=x509.Extensions([*ca.extensions, x509.Extension(NO_REV_AVAIL.oid, False, NO_REV_AVAIL)])
    )
    found = lint(marked, CA_PROFILES[Role.WORKER])
    assert ("extension-unexpected", "extension 2.5.29.56") in {(one.rule, one.where) for one in found}


def test_pointers_to_revocation_data_are_allowed() -> None:
    """Distribution points may stand in a leaf; they decide nothing."""
    point = x509.DistributionPoint([URI("http://pki.example/worker.crl")], None, None, None)
    bare = without_extension(x509.UnrecognizedExtension)(peer_template())
    template = with_extension(x509.CRLDistributionPoints([point]), critical=False)(bare)
    assert lint(template, template.profile) == ()
    critical = with_extension(x509.CRLDistributionPoints([point]), critical=True)(bare)
    assert {finding.rule for finding in lint(critical, critical.profile)} == {"criticality"}


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName("*.example.com")],
        [x509.DNSName("Example.com")],
        [x509.DNSName("a..b")],
        [x509.DNSName("127.0.0.1")],
        [x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))],
        [x509.DNSName("a.example"), x509.RFC822Name("a@example.com")],
        [x509.DNSName("a.example"), ME],
        [x509.DNSName(f"a{number}.example") for number in range(101)],
    ],
    ids=["wildcard", "case", "empty-label", "address-as-name", "network", "mail", "uri", "too-many"],
)
def test_server_names_outside_the_profile_are_found(names: list[x509.GeneralName]) -> None:
    """A server certificate names hosts exactly: no wildcard, no network, no other kind of name."""
    hosts = [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    template = build_template(
        LEAF_PROFILES[Role.SERVER],
        subject=host_subject(hosts),
        public_key=a_key().public_key(),
        names=names,
        issuer=authority(Role.SERVER).certificate,
        at=AT,
        entropy=entropy(),
    )
    assert "hosts" in {finding.rule for finding in lint(template, template.profile)}
    assert lint(server(), template.profile) == ()


def test_certificate_with_unreadable_extension_is_one_malformed_finding() -> None:
    """A SAN that is no DER does not raise, and is not skipped."""
    bad = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"example.com")
    certificate = sign_unlinted(with_extension(bad, critical=False)(peer_template()), authority(Role.WORKER).key)
    assert [finding.reason for finding in lint(certificate, LEAF_PROFILES[Role.WORKER])] == [PathReason.MALFORMED]


def test_finding_reads_as_a_sentence_with_its_clause() -> None:
    """Operators see where, what and by which clause."""
    found = lint(eku(SERVER_AUTH)(peer_template()), LEAF_PROFILES[Role.WORKER])
    assert str(found[0]) == "extendedKeyUsage: not exactly that of the profile (RFC 5280 §4.2.1.12)"
    assert dataclasses.asdict(found[0])["rule"] == "extended-key-usage"


@pytest.mark.parametrize("kind", KeyType)
def test_every_kind_of_leaf_key_is_in_the_profile(kind: KeyType) -> None:
    template = dataclasses.replace(
        peer_template(),
        public_key=a_key(kind).public_key(),
    )
    rules = {finding.rule for finding in lint(template, template.profile)}
    assert "key" not in rules
