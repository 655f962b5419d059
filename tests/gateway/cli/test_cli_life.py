"""`renew`, `revoke`, `issue-server`: the certificate's life, and the running gateway that hears of it."""

from __future__ import annotations

import json
import os
import types
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from support.homes import leaf_of, listed, mode_of, new_home, plain_copy, refused, run_cli, snapshot_of, uri_of

from gateway.admin import client
from gateway.cli.revocation import _REASONS
from gateway.home.layout import Home
from pki.pem import read_certificates
from pki.revocation import RevocationReason
from rhttp.worker import versions

BUNDLE = {"cert.pem", "key.pem", "leaf.pem", "trust.pem", "password", "curl.conf", "rhttp.toml"}


# -- renew -------------------------------------------------------------------------------------------------------------


def test_renew_replaces_key_and_certificate_and_keeps_the_rest(home: Home) -> None:
    """A new key and certificate for the same identity, labels, kind of key and lifetime; password and paths stay."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "a=b", "--ttl", "3h", "--key-type", "p384")
    assert run_cli(home, *arguments).exit_code == 0
    bundle = home.bundles / "w1"
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    old = leaf_of(bundle)
    assert run_cli(home, "renew", bundle).exit_code == 0
    after = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    new = leaf_of(bundle)
    assert {name for name in BUNDLE if before[name] != after[name]} == {"key.pem", "cert.pem", "leaf.pem"}
    assert set(after) == BUNDLE
    assert uri_of(new) == uri_of(old)
    assert new.public_key() != old.public_key()
    assert load_pem_private_key(after["key.pem"], None).public_key() == new.public_key()
    assert isinstance(new.public_key(), ec.EllipticCurvePublicKey)
    assert abs(new.not_valid_after_utc - datetime.now(UTC) - timedelta(hours=3)) < timedelta(minutes=1)
    assert mode_of(bundle / "key.pem") == 0o600
    entries = listed(home)
    assert [entry["labels"] for entry in entries] == [{"a": "b"}] * 2
    assert [entry["status"] for entry in entries] == ["valid"] * 2


@pytest.mark.parametrize("failing", ["mkdir", "symlink", "rename", "fsync"])
def test_renew_failing_leaves_the_old_pair_whole(home: Home, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Whatever fails, key and certificate are the old ones, what was signed is revoked, and the next renewal works."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    bundle = home.bundles / "alice"
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    # The audit log and the database sync by themselves, before; `mkdir` and the rest are the bundle's alone.
    with monkeypatch.context() as patch:
        patch.setattr(versions, "os", types.SimpleNamespace(**{**vars(os), failing: fail}))
        result = run_cli(home, "renew", bundle)
    refused(result, "No space left on device")
    assert str(bundle) in result.stderr
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()} == before
    assert sorted(str(entry["status"]) for entry in listed(home)) == ["revoked", "valid"]
    assert run_cli(home, "renew", bundle).exit_code == 0
    assert (bundle / "cert.pem").read_bytes() != before["cert.pem"]


def test_renew_of_a_bundle_of_plain_files_gives_it_versions(home: Home) -> None:
    """A bundle that an earlier release made is renewed like any other, its paths stay, and `leaf.pem` comes to it."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    bundle = plain_copy(home.bundles / "alice", home.path / "plain")
    (bundle / "leaf.pem").unlink()
    assert run_cli(home, "renew", bundle).exit_code == 0
    assert {path.name for path in bundle.iterdir()} == BUNDLE | {"versions"}
    assert {path.name for path in bundle.iterdir() if path.is_symlink()} == {
        "cert.pem",
        "key.pem",
        "leaf.pem",
        "trust.pem",
    }
    assert load_pem_private_key((bundle / "key.pem").read_bytes(), None).public_key() == leaf_of(bundle).public_key()
    assert (bundle / "cert.pem").read_bytes().startswith((bundle / "leaf.pem").read_bytes())


def test_renew_brings_the_root_of_today(home: Home) -> None:
    """Whatever the bundle trusted, after its renewal it trusts what the home says."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    trust = home.bundles / "alice" / "trust.pem"
    trust.write_text("an older one")
    assert run_cli(home, "renew", trust.parent).exit_code == 0
    assert trust.read_bytes() == home.root_cert.read_bytes()


def test_renew_with_a_request_certifies_its_key(home: Home, tmp_path: Path) -> None:
    """The key of a bundle that was issued by a request lies elsewhere: so does the new one, or the same again."""
    new, old = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    for name, key in (("old", old), ("new", new)):
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        (tmp_path / name).write_bytes(request.public_bytes(Encoding.PEM))
    assert run_cli(home, "issue-client", "alice", "--csr", tmp_path / "old").exit_code == 0
    bundle = home.bundles / "alice"
    for name, key in (("old", old), ("new", new)):
        serial = leaf_of(bundle).serial_number
        assert run_cli(home, "renew", bundle, "--csr", tmp_path / name).exit_code == 0
        assert (leaf_of(bundle).public_key(), leaf_of(bundle).serial_number == serial) == (key.public_key(), False)
        assert not os.path.lexists(bundle / "key.pem")
    (bundle / "key.pem").touch()
    refused(run_cli(home, "renew", bundle, "--csr", tmp_path / "old"), "the request is for another key")
    assert run_cli(home, "renew", bundle, "--csr", tmp_path / "new").exit_code == 0
    assert (bundle / "key.pem").read_bytes() == b""


def test_renew_of_what_is_no_bundle_of_ours_is_refused(home: Home, tmp_path: Path) -> None:
    """Another home's bundle, a directory without certificate, a broken certificate: one line each."""
    other = new_home(tmp_path / "other")
    assert run_cli(other, "issue-client", "alice").exit_code == 0
    refused(run_cli(home, "renew", other.bundles / "alice"), "was not issued by this home")
    refused(run_cli(home, "renew", tmp_path), "is no bundle")
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    refused(run_cli(home, "renew", tmp_path), "cert.pem")


def test_renew_of_a_revoked_certificate_is_refused(home: Home) -> None:
    """Who was revoked does not come back by renewing."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert run_cli(home, "revoke", "alice").exit_code == 0
    refused(run_cli(home, "renew", home.bundles / "alice"), "was revoked")


# -- issue-server ------------------------------------------------------------------------------------------------------


def test_issue_server_keeps_the_names_unless_told(home: Home) -> None:
    """A renewal names what the old one did; with --san it names localhost and those."""

    def names() -> list[str]:
        leaf = read_certificates(home.server_cert.read_bytes())[0]
        assert load_pem_private_key(home.server_key.read_bytes(), None).public_key() == leaf.public_key()
        sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return sans.get_values_for_type(x509.DNSName)

    before = home.server_cert.read_bytes()
    assert run_cli(home, "issue-server").exit_code == 0
    assert home.server_cert.read_bytes() != before
    assert names() == ["localhost", "gw.example.com"]
    assert run_cli(home, "issue-server", "--san", "DNS:other.example.com").exit_code == 0
    assert names() == ["localhost", "other.example.com"]


@pytest.mark.parametrize("spoilt", [None, b"", b"junk"])
def test_issue_server_mends_a_home_whose_server_certificate_is_lost(home: Home, spoilt: bytes | None) -> None:
    """What the check advises helps: the names are those of the newest certificate that was issued."""
    for path in (home.server_cert, home.server_key):
        path.unlink()
        if spoilt is not None and path == home.server_cert:
            path.write_bytes(spoilt)
    check = run_cli(home, "gateway --check")
    assert (check.exit_code, "rhttp-pki issue-server" in check.stderr) == (1, True)
    assert run_cli(home, "issue-server").exit_code == 0
    sans = read_certificates(home.server_cert.read_bytes())[0].extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "gw.example.com" in sans.value.get_values_for_type(x509.DNSName)
    assert run_cli(home, "gateway --check").exit_code == 0


# -- revoke and the running gateway ------------------------------------------------------------------------------------


class Calls(list[tuple[str, str]]):
    """A running gateway that notes what it was asked, and what the state said at that moment."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.home = home
        self.failure: Exception | None = None
        self.revoked: frozenset[str] = frozenset()

    def __call__(self, home: Path, method: str, path: str, body: object = None) -> dict[str, object]:
        assert home == self.home.path
        self.append((method, path))
        self.revoked = snapshot_of(self.home).revoked
        if self.failure is not None:
            raise self.failure
        return {"version": 1, "cut": 3, "processes": 1}


@pytest.fixture
def gateway(home: Home, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A gateway behind the admin socket."""
    calls = Calls(home)
    monkeypatch.setattr(client, "call", calls)
    return calls


def test_revoke_writes_first_then_tells_the_gateway(home: Home, gateway: Calls) -> None:
    """When the gateway hears of it, the revocation is in the state; the answer says what was cut."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    (entry,) = listed(home)
    result = run_cli(home, "revoke", "alice", "--reason", "keycompromise")
    assert result.exit_code == 0, result.stderr
    assert gateway[-1] == ("POST", "/revoke")
    assert gateway.revoked == {entry["serial"]}
    assert "1 certificate(s) revoked" in result.stdout
    assert "cut 3 connection(s)" in result.stdout
    (entry,) = listed(home)
    assert (entry["status"], entry["reason"]) == ("revoked", "keyCompromise")


def test_revoke_when_the_gateway_fails_says_that_it_is_written(home: Home, gateway: Calls) -> None:
    """The revocation holds, the exit status is 1, and a second try tells the gateway again."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    gateway.failure = client.AdminFailed("no answer")
    refused(run_cli(home, "revoke", "alice"), "the change is written, but the running gateway did not confirm it")
    assert [entry["status"] for entry in listed(home)] == ["revoked"]
    gateway.failure = None
    result = run_cli(home, "revoke", "alice")
    assert (result.exit_code, gateway[-1]) == (0, ("POST", "/revoke"))
    assert "nothing left to revoke" in result.stdout


def test_revoke_without_a_gateway_is_done(home: Home) -> None:
    """No gateway needs to run."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    result = run_cli(home, "revoke", "alice")
    assert (result.exit_code, "no gateway runs" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    "form", [str, str.upper, lambda text: ":".join(text[i : i + 2] for i in range(0, len(text), 2))]
)
def test_revoke_serial_is_taken_in_any_form_of_hex(home: Home, form: object) -> None:
    """Lower, upper, with colons: the same serial; only that certificate is revoked."""
    assert callable(form)
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert run_cli(home, "issue-client", "bob").exit_code == 0
    serial = next(str(entry["serial"]) for entry in listed(home) if entry["name"] == "alice")
    assert run_cli(home, "revoke", "--serial", form(serial)).exit_code == 0
    assert {entry["name"]: entry["status"] for entry in listed(home)} == {"alice": "revoked", "bob": "valid"}


def test_revoke_of_nobody_is_refused(home: Home) -> None:
    """A name or serial that was never issued is a mistake and said to be one."""
    refused(run_cli(home, "revoke", "nobody"), "no certificate with the name nobody")
    refused(run_cli(home, "revoke", "--serial", "0abc"), "no certificate with the serial 0abc")


@pytest.mark.parametrize(
    "arguments", [[], ["alice", "--serial", "0a"], ["--serial", "xyz"], ["a", "--reason", "because"]]
)
def test_revoke_unclear_is_wrong_usage(home: Home, arguments: list[str]) -> None:
    """NAME or --serial, one of them; a serial in hex; a reason that there is."""
    assert run_cli(home, "revoke", *arguments).exit_code == 2


def test_revoke_reasons_are_those_of_the_library() -> None:
    """The command offers exactly what revocation lists can say."""
    assert set(_REASONS) == {reason.value for reason in RevocationReason}


def test_issue_and_renew_tell_the_gateway_and_go_on_without(home: Home, gateway: Calls) -> None:
    """A new user can sign in at once; when the gateway does not answer, it finds out by itself: a note, no failure."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert gateway[-1] == ("POST", "/refresh")
    gateway.failure = client.AdminFailed("no answer")
    result = run_cli(home, "renew", home.bundles / "alice")
    assert (result.exit_code, "note:" in result.stderr) == (0, True)


def test_issue_server_has_the_gateway_reload(home: Home, gateway: Calls) -> None:
    """The new certificate is taken up without a restart."""
    assert run_cli(home, "issue-server").exit_code == 0
    assert gateway == [("POST", "/reload")]


def test_every_change_is_in_the_audit_log(home: Home) -> None:
    """Issuing, renewing and revoking leave one line each, with identity, serial and outcome."""
    for command in (["issue-worker", "w1", "--pool", "p"], ["renew", str(home.bundles / "w1")], ["revoke", "w1"]):
        assert run_cli(home, *command).exit_code == 0
    lines = [
        json.loads(line) for file in sorted(home.audit.glob("cli-*.jsonl")) for line in file.read_text().splitlines()
    ]
    seen = [(line["event"], line["identity"], line["outcome"]) for line in lines if line["identity"] == "worker/w1"]
    assert seen == [(f"pki.{event}", "worker/w1", "done") for event in ("issued", "renewed", "revoked", "revoked")]
    assert {line["serial"] for line in lines} >= {str(entry["serial"]) for entry in listed(home)}
