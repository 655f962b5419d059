"""Verifying peers and files: every refusal with its reason, from one valid path in which one thing is broken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.certs import (
    AT,
    DOMAIN,
    NOTHING_REVOKED,
    RevokedSerials,
    authority,
    entropy,
    forge,
    peer,
    peer_template,
    pem,
    root,
    server,
    sign_unlinted,
    toggled_criticality,
    trust,
    with_extension,
    with_field,
    without_extension,
)

from pki import verify
from pki.errors import CertificateInvalid, PathReason
from pki.issue import IssuerKey, certificate_pem, issue_ca, issue_leaf, issue_root
from pki.keys import KeyType, generate_key
from pki.names import PEER_ROLES, Role, SpiffeId
from pki.profiles import key_usage
from pki.revocation import RevocationView
from pki.template import CertificateTemplate
from pki.verify import PeerVerifier, TrustStore, VerifiedPeer, verify_file, verify_peer

DAY = timedelta(days=1)
URI = x509.UniformResourceIdentifier
ROLES = sorted(PEER_ROLES)
Mutation = Callable[[CertificateTemplate], CertificateTemplate]


def check(
    *path: x509.Certificate,
    at: datetime = AT,
    roles: frozenset[Role] = PEER_ROLES,
    revocation: RevocationView = NOTHING_REVOKED,
    store: TrustStore | None = None,
) -> VerifiedPeer:
    return verify_peer(path, trust=store or trust(), roles=roles, at=at, revocation=revocation)


def refusal(action: Callable[[], object]) -> PathReason:
    with pytest.raises(CertificateInvalid) as caught:
        action()
    return caught.value.reason


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", KeyType)
def test_peer_of_each_role_and_key_proves_its_identity(role: Role, kind: KeyType) -> None:
    """The proof carries role, name, pool, serial, fingerprint and the window of the whole path."""
    leaf = peer(role, kind=kind)
    proof = check(leaf)
    assert (proof.role, proof.name, proof.pool) == (role, "w1", "render" if role is Role.WORKER else None)
    assert proof.serial == leaf.serial_number == int(proof.serial_hex, 16)
    assert proof.fingerprint == leaf.fingerprint(hashes.SHA256())
    assert proof.expires == leaf.not_valid_after_utc.timestamp()
    assert not hasattr(proof, "__dict__")


@pytest.mark.parametrize("order", [(), (0,), (1,), (0, 1), (1, 0), (1, 0, 0)], ids=str)
def test_path_in_any_order_and_company_verifies(order: tuple[int, ...]) -> None:
    """The role CA and the root may be there, in any order, or not."""
    above = (authority(Role.WORKER).certificate, root().certificate)
    assert check(peer(), *(above[index] for index in order)).name == "w1"


def test_path_with_a_certificate_that_is_not_the_homes_is_refused() -> None:
    """Home paths are exactly root, role CA, leaf."""
    assert refusal(lambda: check(peer(), peer(name="w2"))) is PathReason.PROFILE
    assert refusal(lambda: check(peer(), forge("x", ca=True).certificate)) is PathReason.PROFILE


def test_path_that_is_empty_or_too_long_is_refused() -> None:
    assert refusal(check) is PathReason.PROFILE
    assert refusal(lambda: check(peer(), *[root().certificate] * 8)) is PathReason.PROFILE
    assert check(peer(), *[root().certificate] * 7).name == "w1"


def test_path_with_the_ca_first_is_refused() -> None:
    """A CA's certificate is nobody's identity."""
    assert refusal(lambda: check(authority(Role.WORKER).certificate, peer())) is PathReason.PROFILE
    assert refusal(lambda: check(root().certificate)) is PathReason.PROFILE


MUTATIONS: list[tuple[str, Mutation, PathReason]] = [
    ("no-eku", without_extension(x509.ExtendedKeyUsage), PathReason.PURPOSE),
    (
        "both-ekus",
        with_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        ),
        PathReason.PURPOSE,
    ),
    (
        "server-eku",
        with_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False),
        PathReason.PURPOSE,
    ),
    (
        "two-uris",
        with_extension(
            x509.SubjectAlternativeName([URI(f"spiffe://{DOMAIN}/worker/render/{name}") for name in ("w1", "w2")]),
            critical=False,
        ),
        PathReason.NAME,
    ),
    (
        "other-role",
        with_extension(x509.SubjectAlternativeName([URI(f"spiffe://{DOMAIN}/master/w1")]), critical=False),
        PathReason.ROLE,
    ),
    ("no-san", without_extension(x509.SubjectAlternativeName), PathReason.NAME),
    ("no-aki", without_extension(x509.AuthorityKeyIdentifier), PathReason.PROFILE),
    ("no-bc", without_extension(x509.BasicConstraints), PathReason.PROFILE),
    ("ca", with_extension(x509.BasicConstraints(True, 0), critical=True), PathReason.PROFILE),
    ("usage", with_extension(key_usage(frozenset({"key_agreement"})), critical=True), PathReason.PROFILE),
    ("ku-not-critical", toggled_criticality(x509.KeyUsage), PathReason.PROFILE),
    (
        "unknown-critical",
        with_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00"), critical=True
        ),
        PathReason.PROFILE,
    ),
    (
        "malformed-san",
        with_extension(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"junk"), critical=False),
        PathReason.MALFORMED,
    ),
    ("p521", with_field(public_key=ec.generate_private_key(ec.SECP521R1()).public_key()), PathReason.ALGORITHM),
    ("expired", with_field(not_valid_after_utc=AT - timedelta(seconds=1)), PathReason.EXPIRED),
    ("future", with_field(not_valid_before_utc=AT + timedelta(seconds=1)), PathReason.NOT_YET_VALID),
    ("long", with_field(not_valid_after_utc=AT + timedelta(days=731)), PathReason.PROFILE),
    ("issuer-name", with_field(issuer=root().certificate.subject), PathReason.UNTRUSTED),
]


@pytest.mark.parametrize(("mutate", "reason"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
def test_leaf_with_one_thing_broken_is_refused_with_its_reason(mutate: Mutation, reason: PathReason) -> None:
    """Signed by the right CA, and still refused: online, and from a file."""
    leaf = sign_unlinted(mutate(peer_template()), authority(Role.WORKER).key)
    assert refusal(lambda: check(leaf)) is reason
    chain = pem(leaf, authority(Role.WORKER).certificate)
    assert refusal(lambda: verify_file(chain, pem(root().certificate), role=Role.WORKER, at=AT)) is reason


def test_leaf_of_another_trust_domain_is_refused_where_the_domain_is_known() -> None:
    """A store with a trust domain takes identities of that domain only; a file knows none."""
    elsewhere = x509.SubjectAlternativeName([URI("spiffe://elsewhere.example/worker/render/w1")])
    leaf = sign_unlinted(with_extension(elsewhere, critical=False)(peer_template()), authority(Role.WORKER).key)
    assert refusal(lambda: check(leaf)) is PathReason.NAME
    chain = pem(leaf, authority(Role.WORKER).certificate)
    assert isinstance(verify_file(chain, pem(root().certificate), role=Role.WORKER, at=AT), VerifiedPeer)


def test_leaf_signed_by_the_root_is_refused() -> None:
    """The library's verifier alone takes it: path length 1 allows, but does not demand, a CA between."""
    leaf = sign_unlinted(peer_template(issuer=root()), root().key)
    assert refusal(lambda: check(leaf)) is PathReason.UNTRUSTED
    assert refusal(lambda: check(leaf, root().certificate)) is PathReason.UNTRUSTED
    file = lambda: verify_file(pem(leaf), pem(root().certificate), role=Role.WORKER, at=AT)  # noqa: E731
    assert refusal(file) is PathReason.PROFILE


def test_leaf_signed_by_a_stranger_with_the_cas_name_is_untrusted() -> None:
    """A CA is recognised by its certificate, never by its name."""
    key = generate_key()
    leaf = sign_unlinted(peer_template(), key)
    assert refusal(lambda: check(leaf)) is PathReason.UNTRUSTED


def test_leaf_of_another_home_with_equal_names_is_untrusted() -> None:
    """Two homes of the same trust domain do not trust one another."""
    other_key, ca_key = generate_key(), generate_key()
    other = IssuerKey(
        certificate=issue_root(key=other_key, trust_domain=DOMAIN, at=AT, entropy=entropy()), key=other_key
    )
    ca = IssuerKey(
        certificate=issue_ca(
            Role.WORKER, root=other, public_key=ca_key.public_key(), trust_domain=DOMAIN, at=AT, entropy=entropy()
        ),
        key=ca_key,
    )
    leaf = sign_unlinted(peer_template(issuer=ca), ca.key)
    assert refusal(lambda: check(leaf)) is PathReason.UNTRUSTED
    assert refusal(lambda: check(leaf, ca.certificate)) is PathReason.PROFILE


def test_leaf_with_a_flipped_signature_bit_is_untrusted() -> None:
    der = bytearray(peer().public_bytes(Encoding.DER))
    der[-1] ^= 1
    assert refusal(lambda: check(x509.load_der_x509_certificate(bytes(der)))) is PathReason.UNTRUSTED


@pytest.mark.parametrize("role", ROLES)
def test_role_that_is_not_asked_for_is_refused(role: Role) -> None:
    """A valid worker is no client."""
    assert refusal(lambda: check(peer(role), roles=PEER_ROLES - {role})) is PathReason.ROLE
    assert refusal(lambda: check(server())) is PathReason.ROLE
    assert check(server(), roles=frozenset({Role.SERVER})).name == "localhost"


@pytest.mark.parametrize("issuer", ROLES)
@pytest.mark.parametrize("role", ROLES)
def test_identity_counts_only_under_its_own_roles_ca(role: Role, issuer: Role) -> None:
    """Who signed it says what it may be: a stolen client CA makes no worker."""
    leaf = sign_unlinted(peer_template(role, authority(issuer)), authority(issuer).key)
    if role is issuer:
        assert check(leaf).role is role
    else:
        assert refusal(lambda: check(leaf)) is PathReason.ROLE


def test_times_are_inclusive_to_the_second_and_count_for_the_whole_path() -> None:
    """notBefore through notAfter; fractions of `at` are dropped."""
    leaf = peer()
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    assert check(leaf, at=begin).name == check(leaf, at=end).name == "w1"
    assert check(leaf, at=end + timedelta(milliseconds=999)).name == "w1"
    assert refusal(lambda: check(leaf, at=begin - timedelta(microseconds=1))) is PathReason.NOT_YET_VALID
    assert refusal(lambda: check(leaf, at=end + timedelta(seconds=1))) is PathReason.EXPIRED


def test_expired_issuing_ca_refuses_a_leaf_that_claims_longer_life() -> None:
    """The window is that of the whole path."""
    end = authority(Role.WORKER).certificate.not_valid_after_utc
    leaf = sign_unlinted(
        with_field(not_valid_before_utc=end - DAY, not_valid_after_utc=end + DAY)(peer_template()),
        authority(Role.WORKER).key,
    )
    assert refusal(lambda: check(leaf, at=end + timedelta(seconds=1))) is PathReason.EXPIRED


def test_revoked_serial_is_refused() -> None:
    leaf = peer()
    proof = check(leaf)
    assert refusal(lambda: check(leaf, revocation=RevokedSerials(frozenset({proof.serial_hex})))) is PathReason.REVOKED
    assert check(peer(), revocation=RevokedSerials(frozenset({proof.serial_hex}))).name == "w1"


def test_naive_time_or_no_role_is_the_callers_mistake() -> None:
    """The library takes naive times as UTC; we do not guess, and an empty demand is not met by everyone."""
    with pytest.raises(ValueError, match="aware"):
        check(peer(), at=AT.replace(tzinfo=None))
    with pytest.raises(ValueError, match="role"):
        check(peer(), roles=frozenset())


@pytest.mark.parametrize("role", Role)
def test_second_opinion_is_asked_and_can_refuse(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own lint switched off, the library's verifier still refuses what it knows to be wrong."""
    template = peer_template(Role.WORKER)
    leaf = sign_unlinted(without_extension(x509.ExtendedKeyUsage)(template), authority(Role.WORKER).key)
    monkeypatch.setattr(verify, "lint", lambda *_, **__: ())
    with pytest.raises(CertificateInvalid, match="library's verifier") as caught:
        check(leaf)
    assert caught.value.reason is PathReason.PROFILE
    assert check(server() if role is Role.SERVER else peer(role), roles=frozenset({role})).role is role


# --- the verifier with a memory ------------------------------------------------------------------------------------


def test_verifier_remembers_signatures_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look costs no signature; time, revocation and company are judged again."""
    verifier, leaf = PeerVerifier(trust()), peer()
    proof = verifier.verify((leaf,), at=AT, revocation=NOTHING_REVOKED)
    monkeypatch.setattr(verify, "_verify_under", lambda *_, **__: pytest.fail("verified again"))
    assert verifier.verify((leaf, root().certificate), at=AT, revocation=NOTHING_REVOKED) is proof
    revoked = RevokedSerials(frozenset({proof.serial_hex}))
    assert refusal(lambda: verifier.verify((leaf,), at=AT, revocation=revoked)) is PathReason.REVOKED
    stranger = forge("x").certificate
    assert refusal(lambda: verifier.verify((leaf, stranger), at=AT, revocation=NOTHING_REVOKED)) is PathReason.PROFILE


def sha256(*path: x509.Certificate) -> list[bytes]:
    return [certificate.fingerprint(hashes.SHA256()) for certificate in path]


def test_recall_answers_for_what_verified_before_and_for_nothing_else() -> None:
    """By digests alone: only a remembered leaf under the store's own certificates, in its time and not revoked."""
    verifier, leaf, now = PeerVerifier(trust()), peer(), AT.timestamp()
    own = (authority(Role.WORKER).certificate, root().certificate)

    def recalled(*path: x509.Certificate, at: float = now, revocation: RevocationView = NOTHING_REVOKED) -> object:
        return verifier.recall(sha256(*path), at=at, revocation=revocation)

    assert recalled(leaf, *own) is None
    proof = verifier.verify((leaf,), at=AT, revocation=NOTHING_REVOKED)
    assert recalled(leaf) is recalled(leaf, *own) is proof
    assert recalled(leaf, forge("x").certificate) is None
    assert recalled(*own) is recalled() is None
    assert recalled(leaf, *own * 4) is None
    assert recalled(leaf, at=proof.expires + 1) is recalled(leaf, at=proof.not_before - 1) is None
    assert recalled(leaf, revocation=RevokedSerials(frozenset({proof.serial_hex}))) is None


@pytest.mark.parametrize(
    ("shift", "reason"), [(DAY + timedelta(seconds=1), PathReason.EXPIRED), (-DAY, PathReason.NOT_YET_VALID)]
)
def test_verifier_looks_at_the_time_on_every_call(shift: timedelta, reason: PathReason) -> None:
    verifier, leaf = PeerVerifier(trust()), peer()
    verifier.verify((leaf,), at=AT, revocation=NOTHING_REVOKED)
    assert refusal(lambda: verifier.verify((leaf,), at=AT + shift, revocation=NOTHING_REVOKED)) is reason


def test_verifier_memory_is_bounded_and_refusals_are_not_kept() -> None:
    """The oldest goes first; a stranger's certificates take no room."""
    verifier = PeerVerifier(trust(), max_cached=2)
    leaves = [peer(name=f"w{number}") for number in range(3)]
    for leaf in leaves:
        verifier.verify((leaf,), at=AT, revocation=NOTHING_REVOKED)
    assert len(verifier._known) == 2
    assert leaves[0].fingerprint(hashes.SHA256()) not in verifier._known
    with pytest.raises(CertificateInvalid):
        verifier.verify((forge("x").certificate,), at=AT, revocation=NOTHING_REVOKED)
    assert len(verifier._known) == 2
    PeerVerifier(trust(), max_cached=0).verify((leaves[0],), at=AT, revocation=NOTHING_REVOKED)


def test_verifier_takes_peers_only() -> None:
    """A server's certificate is no client."""
    verifier = PeerVerifier(trust())
    assert refusal(lambda: verifier.verify((server(),), at=AT, revocation=NOTHING_REVOKED)) is PathReason.ROLE


class _Broken:
    def is_revoked(self, serial: int) -> bool:
        raise RuntimeError("no view")


def test_verifier_raises_nothing_but_its_own_refusal() -> None:
    """It runs in a TLS callback: a bug below is a refusal."""
    verifier = PeerVerifier(trust())
    assert refusal(lambda: verifier.verify((peer(),), at=AT, revocation=_Broken())) is PathReason.MALFORMED
    naive = AT.replace(tzinfo=None)
    assert refusal(lambda: verifier.verify((peer(),), at=naive, revocation=NOTHING_REVOKED)) is PathReason.MALFORMED
    junk = [object()]
    assert refusal(lambda: verifier.verify(junk, at=AT, revocation=NOTHING_REVOKED)) is PathReason.MALFORMED  # type: ignore[arg-type]


def test_store_with_two_cas_of_one_role_takes_both() -> None:
    """While a CA rolls over, certificates of the old and the new one verify."""
    key = generate_key()
    new = IssuerKey(
        certificate=issue_ca(
            Role.WORKER, root=root(), public_key=key.public_key(), trust_domain=DOMAIN, at=AT, entropy=entropy()
        ),
        key=key,
    )
    both = certificate_pem(authority(Role.WORKER).certificate, new.certificate)
    store = TrustStore.from_pem(certificate_pem(root().certificate), {Role.WORKER: both})
    who = SpiffeId(trust_domain=DOMAIN, role=Role.WORKER, name="w2", pool="render")
    leaf = issue_leaf(who, issuer=new, public_key=generate_key().public_key(), at=AT, entropy=entropy())
    assert check(leaf, store=store).name == "w2"
    assert check(peer(), store=store).name == "w1"
    assert refusal(lambda: check(leaf)) is PathReason.UNTRUSTED
