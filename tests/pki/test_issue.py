"""Issuing: each kind of certificate as the contract has it, and what is refused before and after signing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from support.certs import (
    AT,
    DOMAIN,
    a_key,
    authority,
    entropy,
    identity,
    peer,
    peer_template,
    root,
    server,
    with_extension,
    without_extension,
)

from pki.authority import Authority
from pki.errors import ProfileViolation, StoreError
from pki.issue import (
    IssuerKey,
    certificate_pem,
    issue,
    issue_ca,
    issue_leaf,
    issue_root,
    serial_from,
    serial_hex,
)
from pki.keys import KeyType, generate_key
from pki.lint import lint
from pki.names import PEER_ROLES, Role, parse_san
from pki.profiles import CA_PROFILES, LEAF_PROFILES, PROFILES, Profile, ProfileName
from pki.template import CertificateTemplate, Pointers, build_template, ca_subject

DAY = timedelta(days=1)
ROLES = sorted(PEER_ROLES)


def extension(certificate: x509.Certificate, kind: type) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("role", Role)
def test_issuing_ca_of_each_role_is_bounded_to_it(role: Role) -> None:
    """Path length 0, signing only, the purpose of its role; all but the server CA exclude every host name."""
    ca = authority(role).certificate
    basic = extension(ca, x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(ca, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if role is Role.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    assert list(extension(ca, x509.ExtendedKeyUsage).value) == [purpose]
    if role is Role.SERVER:
        with pytest.raises(x509.ExtensionNotFound):
            extension(ca, x509.NameConstraints)
        return
    names = extension(ca, x509.NameConstraints)
    assert names.critical
    assert names.value.permitted_subtrees is None
    excluded = [str(base.value) for base in names.value.excluded_subtrees or ()]
    assert excluded == ["", "0.0.0.0/0", "::/0"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KeyType)
def test_peer_certificate_holds_its_identity_and_purpose(role: Role, kind: KeyType) -> None:
    """One URI, CN=name, digitalSignature, clientAuth, for every kind of key."""
    certificate = peer(role, kind=kind)
    assert [str(name.value) for name in extension(certificate, x509.SubjectAlternativeName).value] == [
        str(identity(role))
    ]
    assert not extension(certificate, x509.SubjectAlternativeName).critical
    assert certificate.subject.rfc4514_string() == "CN=w1"
    assert extension(certificate, x509.KeyUsage).value.digital_signature
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    above = extension(authority(role).certificate, x509.SubjectKeyIdentifier).value
    assert extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == above.digest
    certificate.verify_directly_issued_by(authority(role).certificate)


def test_server_certificate_holds_its_names_once() -> None:
    """DNS names and addresses in their order, without repetition; the first one is the CN."""
    certificate = server("DNS:a.example", "IP:::1", "DNS:a.example", "IP:10.0.0.1")
    names = [str(name.value) for name in extension(certificate, x509.SubjectAlternativeName).value]
    assert names == ["a.example", "::1", "10.0.0.1"]
    assert certificate.subject.rfc4514_string() == "CN=a.example"
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_server_certificate_with_only_long_names_has_a_common_name_that_fits() -> None:
    """A CN holds 64 characters; a longer DNS name stands in the SAN only."""
    long = ".".join(["a" * 60, "b" * 60, "example"])
    assert server(f"DNS:{long}").subject.rfc4514_string() == "CN=rhttp-pki server"
    assert server(f"DNS:{long}", "DNS:short.example").subject.rfc4514_string() == "CN=short.example"


def test_server_certificate_without_names_is_refused() -> None:
    with pytest.raises(ProfileViolation):
        issue_leaf([], issuer=authority(Role.SERVER), public_key=a_key().public_key(), at=AT, entropy=entropy())


@pytest.mark.parametrize(
    ("role", "days"), [(Role.CLIENT, 30), (Role.MASTER, 30), (Role.WORKER, 1)], ids=["client", "master", "worker"]
)
def test_lifetime_by_default_is_that_of_the_contract(role: Role, days: int) -> None:
    certificate = peer(role, at=AT + DAY)
    assert certificate.not_valid_after_utc == AT + DAY + days * DAY


def test_lifetimes_of_authorities_by_default_are_those_of_the_contract() -> None:
    """Issuing CAs 2 years, the root 10."""
    assert authority(Role.CLIENT).certificate.not_valid_after_utc == AT + 730 * DAY
    assert root().certificate.not_valid_after_utc == AT + 3650 * DAY


@pytest.mark.parametrize(("seconds", "said"), [(0, True), (1, False)])
def test_leaf_that_no_list_outlives_says_that_there_is_none(seconds: int, said: bool) -> None:
    """noRevAvail (RFC 9608) is in what lives for a day and less, not critical; no CA has it."""
    lifetime = timedelta(days=1, seconds=seconds)
    for made in (peer(lifetime=lifetime), peer(Role.CLIENT, lifetime=lifetime)):
        found = [extension for extension in made.extensions if extension.oid.dotted_string == "2.5.29.56"]
        assert [(one.critical, one.value.public_bytes()) for one in found] == [(False, b"\x05\x00")] * said
    for certificate in (root().certificate, *(authority(role).certificate for role in Role)):
        assert all(extension.oid.dotted_string != "2.5.29.56" for extension in certificate.extensions)


@pytest.mark.parametrize("ocsp", [None, "http://pki.example/ocsp"])
def test_leaf_that_outlives_a_list_says_where_to_ask(ocsp: str | None) -> None:
    """The list's place, and the responder's if there is one, not critical; what is short-lived says neither."""
    pointers = Pointers(crl="http://pki.example/worker.crl", ocsp=ocsp)
    working = Authority(role=Role.WORKER, issuer=authority(Role.WORKER), pointers=pointers)

    def made(lifetime: timedelta) -> x509.Certificate:
        key = a_key().public_key()
        return working.issue(identity(), public_key=key, at=AT, entropy=lambda _: entropy(), lifetime=lifetime)[0]

    long = made(2 * DAY)
    (point,) = extension(long, x509.CRLDistributionPoints).value
    assert [name.value for name in point.full_name] == ["http://pki.example/worker.crl"]
    assert not extension(long, x509.CRLDistributionPoints).critical
    kinds = {type(one.value) for one in long.extensions}
    assert (x509.AuthorityInformationAccess in kinds) == (ocsp is not None)
    if ocsp is not None:
        (access,) = extension(long, x509.AuthorityInformationAccess).value
        assert (access.access_method, access.access_location.value) == (x509.AuthorityInformationAccessOID.OCSP, ocsp)
    assert lint(long, LEAF_PROFILES[Role.WORKER], issuer=working.issuer.certificate) == ()
    assert {type(one.value) for one in made(DAY).extensions}.isdisjoint(
        {x509.CRLDistributionPoints, x509.AuthorityInformationAccess}
    )


def test_not_before_lies_five_minutes_back_but_never_before_the_issuer() -> None:
    """A peer whose clock is late by less than five minutes accepts a new certificate."""
    late = AT + DAY
    assert peer(at=late).not_valid_before_utc == late - timedelta(minutes=5)
    early = peer(at=AT - timedelta(minutes=2))
    assert early.not_valid_before_utc == authority(Role.WORKER).certificate.not_valid_before_utc


def test_lifetime_past_the_issuer_is_cut_to_the_issuer() -> None:
    """Nothing outlives what signed it."""
    end = authority(Role.WORKER).certificate.not_valid_after_utc
    assert peer(at=end - DAY, lifetime=30 * DAY).not_valid_after_utc == end


@pytest.mark.parametrize("lifetime", [-timedelta(minutes=5), -DAY])
def test_lifetime_that_is_none_is_refused(lifetime: timedelta) -> None:
    """A window that ends where it begins, or before, is never signed."""
    with pytest.raises(ProfileViolation):
        peer(lifetime=lifetime)


def test_issuing_after_the_issuer_expired_is_refused() -> None:
    with pytest.raises(ProfileViolation):
        peer(at=authority(Role.WORKER).certificate.not_valid_after_utc + DAY)


def test_times_with_fractions_are_cut_to_seconds_and_naive_ones_refused() -> None:
    certificate = peer(at=AT + timedelta(days=1, microseconds=999_999))
    assert certificate.not_valid_after_utc == AT + 2 * DAY
    with pytest.raises(ValueError, match="zone"):
        peer(at=AT.replace(tzinfo=None))


@pytest.mark.parametrize("role", ROLES)
def test_peer_under_another_roles_ca_is_refused(role: Role) -> None:
    """The server CA cannot sign a client, by our own hand."""
    with pytest.raises(ProfileViolation):
        issue_leaf(
            identity(role),
            issuer=authority(Role.SERVER),
            public_key=a_key().public_key(),
            at=AT,
            entropy=entropy(),
        )


def test_ca_with_a_key_of_none_of_our_types_is_refused() -> None:
    """P-521 and RSA of another size are accepted in foreign paths only."""
    for key in (ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(ProfileViolation) as caught:
            issue_ca(
                Role.CLIENT,
                root=root(),
                public_key=key.public_key(),
                trust_domain=DOMAIN,
                at=AT,
                entropy=entropy(),
            )
        assert "key" in {finding.rule for finding in caught.value.findings}


def test_issue_refuses_a_template_that_breaks_its_profile_and_names_every_finding() -> None:
    """All findings at once, not the first only."""
    broken = without_extension(x509.SubjectAlternativeName)(
        with_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)(peer_template())
    )
    with pytest.raises(ProfileViolation) as caught:
        issue(broken, authority(Role.WORKER))
    assert {finding.rule for finding in caught.value.findings} == {"basic-constraints", "extension-missing"}


def test_issue_refuses_a_template_of_another_issuer() -> None:
    with pytest.raises(ProfileViolation) as caught:
        issue(peer_template(Role.WORKER), authority(Role.CLIENT))
    assert "issuer" in {finding.rule for finding in caught.value.findings}


def test_root_signed_with_a_foreign_key_is_refused_after_signing() -> None:
    """The last look is at the signature itself."""
    template = _root_template()
    with pytest.raises(ProfileViolation, match="verify"):
        issue(template, generate_key())


def _root_template() -> CertificateTemplate:
    return build_template(
        PROFILES[ProfileName.ROOT],
        subject=ca_subject(None, DOMAIN),
        public_key=root().key.public_key(),
        issuer=None,
        at=AT,
        entropy=entropy(),
    )


def test_issuer_key_that_is_not_the_certificates_is_refused() -> None:
    with pytest.raises(StoreError):
        IssuerKey(certificate=root().certificate, key=generate_key())


@given(st.binary(min_size=20, max_size=20).filter(any))
def test_serial_is_positive_and_fits_twenty_octets(data: bytes) -> None:
    """159 bits: DER adds no sign octet, and none of the first 159 bits is lost."""
    if int.from_bytes(data) < 2:
        return
    serial = serial_from(data)
    assert 0 < serial < 1 << 159
    assert serial == int.from_bytes(data) >> 1


@pytest.mark.parametrize("data", [b"", bytes(19), bytes(21), bytes(20)])
def test_serial_from_too_little_entropy_is_a_mistake(data: bytes) -> None:
    with pytest.raises(ValueError, match="random"):
        serial_from(data)


@given(st.integers(min_value=1, max_value=(1 << 159) - 1))
def test_serial_hex_is_even_lower_case_and_reads_back(serial: int) -> None:
    text = serial_hex(serial)
    assert len(text) % 2 == 0
    assert text == text.lower()
    assert int(text, 16) == serial


def test_trust_domain_of_any_length_fits_the_ca_names() -> None:
    """A domain may have 253 characters, a CN 64: labels stand one by one."""
    domain = ".".join(["x" * 63, "y" * 63, "z" * 63, "example"])
    key = generate_key()
    certificate = issue_root(key=key, trust_domain=domain, at=AT, entropy=entropy())
    assert "DC=" + "x" * 63 in certificate.subject.rfc4514_string()


def test_certificate_pem_keeps_the_order() -> None:
    leaf, ca = peer(), authority(Role.WORKER).certificate
    assert x509.load_pem_x509_certificates(certificate_pem(leaf, ca)) == [leaf, ca]


@pytest.mark.parametrize("profile", [*LEAF_PROFILES.values(), *CA_PROFILES.values()], ids=lambda p: p.name.value)
def test_issued_certificates_pass_their_own_lint_and_no_other(profile: Profile) -> None:
    """Each kind is told from each other kind by lint alone."""
    made = {LEAF_PROFILES[role].name: peer(role) for role in ROLES}
    made[ProfileName.SERVER] = server()
    made |= {CA_PROFILES[role].name: authority(role).certificate for role in Role}
    made[ProfileName.ROOT] = root().certificate
    same = {ProfileName.CLIENT_CA, ProfileName.WORKER_CA, ProfileName.MASTER_CA}
    for name, certificate in made.items():
        is_clean = lint(certificate, profile) == ()
        kind = profile.name
        assert is_clean == (name == kind or {name, kind} <= same)


def test_san_parsed_from_text_is_what_the_server_certificate_holds() -> None:
    assert parse_san("DNS:localhost") in list(extension(server(), x509.SubjectAlternativeName).value)
