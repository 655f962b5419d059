"""Verifying files: the same judgement as at the door, and what is unreadable told from what is invalid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from support.certs import (
    AT,
    authority,
    forge,
    peer,
    peer_template,
    pem,
    root,
    server,
    sign_unlinted,
    with_field,
)

from pki.errors import REASON_TEXTS, CertificateInvalid, InputUnreadable, PathReason
from pki.names import Role
from pki.revocation import RevokedEntry, build_crl
from pki.verify import ValidatedPath, VerifiedPeer, verify_file

DAY = timedelta(days=1)


def refusal(action: Callable[[], object]) -> PathReason:
    with pytest.raises(CertificateInvalid) as caught:
        action()
    return caught.value.reason


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("profile", ["rhttp", "rfc5280"])
@pytest.mark.parametrize("anchor", ["root", "ca", "both"])
def test_file_of_a_bundle_verifies_under_root_or_ca(role: Role, profile: str, anchor: str) -> None:
    """Every anchor in the trust file counts, a root or the issuing CA itself."""
    leaf = server() if role is Role.SERVER else peer(role)
    ca = authority(role).certificate
    anchors = {"root": [root().certificate], "ca": [ca], "both": [ca, root().certificate]}[anchor]
    answer = verify_file(pem(leaf, ca), pem(*anchors), role=role, at=AT, profile=profile)  # type: ignore[arg-type]
    assert isinstance(answer, VerifiedPeer if profile == "rhttp" else ValidatedPath)
    assert answer.fingerprint == leaf.fingerprint(hashes.SHA256())


@pytest.mark.parametrize("profile", ["rhttp", "rfc5280"])
def test_file_with_its_ca_missing_is_untrusted(profile: str) -> None:
    action = lambda: verify_file(pem(peer()), pem(root().certificate), role=Role.WORKER, at=AT, profile=profile)  # type: ignore[arg-type]  # noqa: E731
    assert refusal(action) is PathReason.UNTRUSTED


@pytest.mark.parametrize("profile", ["rhttp", "rfc5280"])
def test_file_with_other_certificates_in_any_order_verifies(profile: str) -> None:
    """The leaf comes first; what is of no use is left alone."""
    others = [
        root().certificate,
        peer(name="w9"),
        authority(Role.CLIENT).certificate,
        authority(Role.WORKER).certificate,
    ]
    chain = b"some text\n" + pem(peer(), *others)
    answer = verify_file(chain, pem(root().certificate), role=Role.WORKER, at=AT, profile=profile)  # type: ignore[arg-type]
    assert answer.serial_hex


def test_file_of_another_role_is_refused() -> None:
    """A worker's bundle is no client's, whatever the anchor counts for."""
    chain, anchors = pem(peer(), authority(Role.WORKER).certificate), pem(root().certificate)
    assert refusal(lambda: verify_file(chain, anchors, role=Role.CLIENT, at=AT)) is PathReason.ROLE
    assert refusal(lambda: verify_file(chain, anchors, role=Role.SERVER, at=AT)) is PathReason.PURPOSE
    strict = lambda: verify_file(chain, anchors, role=Role.SERVER, at=AT, profile="rfc5280")  # noqa: E731
    assert refusal(strict) is PathReason.PURPOSE


JUNK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        pem(peer())[:-30],
        pem(peer()) + b"-----BEGIN CERTIFICATE-----\n",
    ],
    ids=["empty", "text", "begin", "base64", "alphabet", "cut", "second-cut"],
)
@pytest.mark.parametrize("which", ["chain", "trust", "crl"])
def test_file_that_is_no_pem_is_unreadable(data: bytes, which: str) -> None:
    """Unreadable is another answer than invalid."""
    files = {"chain": pem(peer(), authority(Role.WORKER).certificate), "trust": pem(root().certificate), "crl": None}
    files[which] = data
    with pytest.raises(InputUnreadable):
        verify_file(files["chain"] or b"", files["trust"] or b"", role=Role.WORKER, at=AT, crls_pem=files["crl"])


def test_file_in_der_is_unreadable_but_for_a_list() -> None:
    """Lists are fetched in DER; one that is cut decides nothing."""
    chain, anchors, cut = pem(peer(), authority(Role.WORKER).certificate), pem(root().certificate), b"\x30\x82\x01\x00"
    for files in ((cut, anchors), (chain, cut)):
        with pytest.raises(InputUnreadable):
            verify_file(*files, role=Role.WORKER, at=AT)
    listed = lambda: verify_file(chain, anchors, role=Role.WORKER, at=AT, crls_pem=cut)  # noqa: E731
    assert refusal(listed) is PathReason.STALE_CRL


def test_file_whose_block_is_no_certificate_is_malformed() -> None:
    """What the certificate is, is a judgement on it; what the trust file is, is not."""
    good = pem(peer(), authority(Role.WORKER).certificate)
    assert refusal(lambda: verify_file(JUNK, pem(root().certificate), role=Role.WORKER, at=AT)) is PathReason.MALFORMED
    with pytest.raises(InputUnreadable, match="trust file"):
        verify_file(good, JUNK, role=Role.WORKER, at=AT)


def test_file_with_lists_needs_one_that_decides_on_the_leaf() -> None:
    """Without a list that speaks of it, whether it is revoked cannot be told, unless it says that there is none."""
    leaf, ca = peer(lifetime=2 * DAY), authority(Role.WORKER)
    chain, anchors = pem(leaf, ca.certificate), pem(root().certificate)

    def judged(*crls: x509.CertificateRevocationList) -> object:
        data = b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)
        return verify_file(chain, anchors, role=Role.WORKER, at=AT, crls_pem=data)

    mine = build_crl(ca, [RevokedEntry(serial=leaf.serial_number, revoked_at=AT)], number=1, at=AT)
    other = build_crl(ca, [RevokedEntry(serial=5, revoked_at=AT)], number=1, at=AT)
    client = build_crl(authority(Role.CLIENT), [], number=1, at=AT)
    old = build_crl(ca, [], number=1, at=AT - 9 * DAY)
    above = build_crl(root(), [RevokedEntry(serial=ca.certificate.serial_number, revoked_at=AT)], number=1, at=AT)
    assert isinstance(judged(other), VerifiedPeer)
    assert isinstance(judged(other, client, old), VerifiedPeer)
    assert refusal(lambda: judged(mine)) is PathReason.REVOKED
    assert refusal(lambda: judged(other, mine)) is PathReason.REVOKED
    assert refusal(lambda: judged(client)) is PathReason.STALE_CRL
    short = pem(peer(), ca.certificate)
    lists = client.public_bytes(Encoding.PEM)
    assert isinstance(verify_file(short, anchors, role=Role.WORKER, at=AT, crls_pem=lists), VerifiedPeer)
    assert refusal(lambda: judged(old)) is PathReason.STALE_CRL
    assert refusal(lambda: judged(other, above)) is PathReason.REVOKED


def test_file_under_rfc5280_with_lists_needs_one_for_every_ca() -> None:
    ca = authority(Role.WORKER)
    chain, anchors = pem(peer(), ca.certificate), pem(root().certificate)
    leafs = build_crl(ca, [], number=1, at=AT).public_bytes(Encoding.PEM)
    roots = build_crl(root(), [], number=1, at=AT).public_bytes(Encoding.PEM)
    strict = lambda crls: verify_file(chain, anchors, role=Role.WORKER, at=AT, profile="rfc5280", crls_pem=crls)  # noqa: E731
    assert refusal(lambda: strict(leafs)) is PathReason.STALE_CRL
    assert isinstance(strict(leafs + roots), ValidatedPath)


def test_file_takes_no_naive_time() -> None:
    with pytest.raises(ValueError, match="aware"):
        verify_file(pem(peer()), pem(root().certificate), role=Role.WORKER, at=AT.replace(tzinfo=None))


def test_file_with_an_issuing_ca_that_breaks_its_profile_is_refused() -> None:
    """A foreign CA without the name constraints of a worker CA makes no worker here, even as an anchor."""
    lax = forge("lax CA", ca=True, path_length=0)
    leaf = sign_unlinted(
        with_field(issuer=lax.certificate.subject)(peer_template()),
        lax.key,  # type: ignore[arg-type]
    )
    assert refusal(lambda: verify_file(pem(leaf), pem(lax), role=Role.WORKER, at=AT)) is PathReason.PURPOSE


def test_reasons_are_those_that_were_published() -> None:
    """`verify` prints them and the audit log keeps them: none is renamed, and each is told of in the reference."""
    published = "untrusted expired not_yet_valid purpose name revoked stale_crl malformed role profile algorithm"
    assert [reason.value for reason in PathReason] == published.split()
    assert list(REASON_TEXTS) == list(PathReason)
