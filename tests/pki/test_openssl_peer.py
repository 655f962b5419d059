"""The `openssl` command as a second judge: it takes what we issue, and refuses what our constraints forbid."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from support.certs import (
    AT,
    CLIENT_AUTH,
    LEAF_USAGE,
    Pair,
    authority,
    entropy,
    forge,
    peer,
    pem,
    root,
    server,
)

from pki.csr import parse_request
from pki.errors import CertificateInvalid, PathReason, RequestInvalid
from pki.issue import issue_leaf
from pki.keys import KeyType, key_type
from pki.names import PEER_ROLES, Role, parse_spiffe_id
from pki.profiles import CA_PROFILES
from pki.revocation import RevokedEntry, build_crl
from pki.verify import verify_file

OPENSSL = shutil.which("openssl") or ""
pytestmark = pytest.mark.skipif(not OPENSSL, reason="the openssl command is not installed")

ROLES = sorted(PEER_ROLES)
SERVER_AUTH = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)


def openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [OPENSSL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=check)


def verify(
    folder: Path,
    leaf: x509.Certificate,
    *others: x509.Certificate,
    purpose: str = "sslclient",
    anchor: x509.Certificate | None = None,
    options: tuple[str | Path, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """`openssl verify` in its strict mode, at the tests' moment."""
    for name, data in (
        ("anchor.pem", pem(anchor or root().certificate)),
        ("others.pem", pem(*others)),
        ("leaf.pem", pem(leaf)),
    ):
        (folder / name).write_bytes(data)
    untrusted = ("-untrusted", folder / "others.pem") if others else ()
    return openssl(
        "verify",
        *("-x509_strict", "-check_ss_sig", "-purpose", purpose, "-attime", str(int(AT.timestamp()))),
        *("-CAfile", folder / "anchor.pem", *untrusted, *options),
        folder / "leaf.pem",
        check=False,
    )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", [kind for kind in KeyType if not kind.startswith("mldsa")])
def test_peer_certificate_of_each_role_and_key_verifies(role: Role, kind: KeyType, tmp_path: Path) -> None:
    """Critical constraints that exclude every host do not stand in a SPIFFE ID's way."""
    result = verify(tmp_path, peer(role, kind=kind), authority(role).certificate)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_server_certificate_verifies_for_each_of_its_names(name: str, tmp_path: Path) -> None:
    option = "-verify_hostname" if name == "localhost" else "-verify_ip"
    ca = authority(Role.SERVER).certificate
    assert verify(tmp_path, server(), ca, purpose="sslserver", options=(option, name)).returncode == 0
    assert verify(tmp_path, server(), ca, purpose="sslserver", options=(option, "10.9.9.9")).returncode != 0


def test_peer_certificate_is_no_servers_and_the_reverse(tmp_path: Path) -> None:
    """Purposes do not cross, for OpenSSL either."""
    assert verify(tmp_path, peer(), authority(Role.WORKER).certificate, purpose="sslserver").returncode != 0
    assert verify(tmp_path, server(), authority(Role.SERVER).certificate, purpose="sslclient").returncode != 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["DNS", "IPv4", "IPv6"])
def test_stolen_peer_ca_makes_no_server_certificate(role: Role, name: str, tmp_path: Path) -> None:
    """With the CA's key in hand one can sign anything: no client believes the hosts in it, ours included."""
    hosts: dict[str, x509.GeneralName] = {
        "DNS": x509.DNSName("bank.example"),
        "IPv4": x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        "IPv6": x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    }
    ca = authority(role)
    stolen = Pair(certificate=ca.certificate, key=ca.key)
    san = (x509.SubjectAlternativeName([hosts[name]]), False)
    for purpose, usage in (("sslserver", SERVER_AUTH), ("sslclient", CLIENT_AUTH)):
        forged = forge("bank.example", stolen, extensions=[san, usage, LEAF_USAGE])
        result = verify(tmp_path, forged.certificate, ca.certificate, purpose=purpose)
        assert result.returncode != 0
        if purpose == "sslclient":
            assert "excluded subtree violation" in result.stderr
            with pytest.raises(VerificationError):
                _library_verifies(forged.certificate, ca.certificate)
            with pytest.raises(CertificateInvalid) as caught:
                verify_file(pem(forged), pem(ca.certificate), role=role, at=AT, profile="rfc5280")
            assert caught.value.reason is PathReason.NAME


@pytest.mark.parametrize("role", ROLES)
def test_peer_certificate_passes_the_librarys_default_verifier(role: Role) -> None:
    """`cryptography` alone, without our policies, takes it as well."""
    _library_verifies(peer(role), authority(role).certificate)


def _library_verifies(leaf: x509.Certificate, ca: x509.Certificate) -> None:
    verifier = PolicyBuilder().store(Store([root().certificate])).time(AT).build_client_verifier()
    verifier.verify(leaf, [ca])


def test_stolen_peer_ca_makes_no_further_ca(tmp_path: Path) -> None:
    """Path length 0."""
    ca = authority(Role.WORKER)
    below = forge("below", Pair(certificate=ca.certificate, key=ca.key), ca=True, path_length=0)
    who = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example.internal/worker/render/w1")])
    leaf = forge("w1", below, extensions=[(who, False)])
    assert verify(tmp_path, leaf.certificate, below.certificate, ca.certificate).returncode != 0
    with pytest.raises(CertificateInvalid):
        verify_file(
            pem(leaf, below, ca.certificate), pem(root().certificate), role=Role.WORKER, at=AT, profile="rfc5280"
        )


def test_built_list_is_read_and_obeyed(tmp_path: Path) -> None:
    """`openssl verify -crl_check` takes our list and refuses what is on it."""
    leaf, kept, ca = peer(), peer(name="w2"), authority(Role.WORKER)
    made = build_crl(ca, [RevokedEntry(serial=leaf.serial_number, revoked_at=AT)], number=1, at=AT)
    (tmp_path / "list.pem").write_bytes(made.public_bytes(Encoding.PEM))
    options = ("-crl_check", "-CRLfile", tmp_path / "list.pem")
    assert verify(tmp_path, kept, ca.certificate, options=options).returncode == 0
    refused = verify(tmp_path, leaf, ca.certificate, options=options)
    assert refused.returncode != 0
    assert "certificate revoked" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), KeyType.P256),
        (("ec", "-pkeyopt", "ec_paramgen_curve:P-384"), KeyType.P384),
        (("ed25519",), KeyType.ED25519),
        (("rsa", "-pkeyopt", "rsa_keygen_bits:3072"), KeyType.RSA3072),
    ],
    ids=str,
)
def test_request_made_by_openssl_is_certified(arguments: tuple[str, ...], kind: KeyType, tmp_path: Path) -> None:
    """A key that never left its machine gets a certificate; the names in the request do not matter."""
    openssl("genpkey", "-algorithm", *arguments, "-out", tmp_path / "key.pem")
    openssl("req", "-new", "-key", tmp_path / "key.pem", "-subj", "/CN=root/O=x", "-out", tmp_path / "csr.pem")
    key = parse_request((tmp_path / "csr.pem").read_bytes())
    assert key_type(key) is kind
    who = parse_spiffe_id("spiffe://example.internal/worker/render/w1")
    made = issue_leaf(who, issuer=authority(Role.WORKER), public_key=key, at=AT, entropy=entropy())
    assert made.subject.rfc4514_string() == "CN=w1"
    assert verify(tmp_path, made, authority(Role.WORKER).certificate).returncode == 0


EXTENSIONS = """[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
subjectAltName = DNS:peer.example.com
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def test_request_with_a_curve_that_is_spelt_out_is_refused(tmp_path: Path) -> None:
    """RFC 5480 section 2.1.1: a curve is named. The same request with the curve's name, and its text, is taken."""
    arguments = ("-new", "-nodes", "-subj", "/CN=x", "-text", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    for encoding in ("named_curve", "explicit"):
        made = ("-keyout", tmp_path / "key.pem", "-out", tmp_path / encoding)
        openssl("req", *arguments, "-pkeyopt", f"ec_param_enc:{encoding}", *made)
    assert key_type(parse_request((tmp_path / "named_curve").read_bytes())) is KeyType.P256
    with pytest.raises(RequestInvalid, match="not named"):
        parse_request((tmp_path / "explicit").read_bytes())


def test_request_for_an_rsa_key_that_is_bound_to_pss_is_refused(tmp_path: Path) -> None:
    """RFC 4055 section 1.2: what such a key is bound to would be lost in our certificate."""
    made = ("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:3072", "-keyout", tmp_path / "key.pem")
    openssl("req", "-new", "-nodes", "-subj", "/CN=x", *made, "-out", tmp_path / "csr.pem")
    with pytest.raises(RequestInvalid, match="none of"):
        parse_request((tmp_path / "csr.pem").read_bytes())


@pytest.mark.parametrize(("digest", "expected"), [("sha1", PathReason.ALGORITHM), ("sha256", None)])
@pytest.mark.parametrize("algorithm", ["rsa", "ec"])
def test_path_made_by_openssl_counts_unless_its_digest_is_weak(
    digest: str, expected: PathReason | None, algorithm: str, tmp_path: Path
) -> None:
    """A SHA-1 signature is refused for its algorithm; the same path with SHA-256 is valid."""
    config = tmp_path / "x.cnf"
    config.write_text("[req]\ndistinguished_name = dn\n[dn]\n" + EXTENSIONS)
    kind = (
        ("rsa", "-pkeyopt", "rsa_keygen_bits:2048")
        if algorithm == "rsa"
        else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    )
    for name in ("root", "leaf"):
        openssl("genpkey", "-algorithm", *kind, "-out", tmp_path / f"{name}.key")
    common = ("-config", config, f"-{digest}")
    openssl(
        *("req", "-x509", "-new", *common, "-key", tmp_path / "root.key", "-subj", "/CN=root", "-extensions", "ca"),
        *("-days", "2", "-out", tmp_path / "root.pem"),
    )
    openssl("req", "-new", *common, "-key", tmp_path / "leaf.key", "-subj", "/CN=leaf", "-out", tmp_path / "leaf.csr")
    openssl(
        *("x509", "-req", "-in", tmp_path / "leaf.csr", "-CA", tmp_path / "root.pem", "-CAkey", tmp_path / "root.key"),
        *("-extfile", config, "-extensions", "leaf", f"-{digest}", "-days", "2", "-out", tmp_path / "leaf.pem"),
    )
    leaf = (tmp_path / "leaf.pem").read_bytes()
    at = x509.load_pem_x509_certificate(leaf).not_valid_before_utc
    judge = lambda: verify_file(leaf, (tmp_path / "root.pem").read_bytes(), role=Role.CLIENT, at=at, profile="rfc5280")  # noqa: E731
    if expected is None:
        judge()
        return
    with pytest.raises(CertificateInvalid) as caught:
        judge()
    assert caught.value.reason is expected


def test_every_peer_profile_has_its_constraints() -> None:
    """The tests above walk all peer roles; this one fails when a role is added without constraints."""
    assert {role for role, profile in CA_PROFILES.items() if profile.no_hosts} == PEER_ROLES
