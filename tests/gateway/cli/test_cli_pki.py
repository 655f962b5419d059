"""`issue-*`: bundles that work, certificates that are known, and nothing left when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from support.homes import leaf_of, listed, mode_of, refused, run_cli, snapshot_of, start_cli, uri_of

from gateway.audit import cli_stream
from gateway.home.layout import Home
from pki import files
from pki.names import Role
from pki.pem import read_certificates
from pki.verify import verify_file
from rhttp.digest.formula import Algorithm, ha1

REALM = "rhttp@example.internal"
BUNDLE = {"cert.pem", "key.pem", "leaf.pem", "trust.pem", "password", "curl.conf", "rhttp.toml"}


@pytest.mark.parametrize(
    ("arguments", "identity", "days"),
    [
        (["issue-client", "n1"], "client/n1", 30),
        (["issue-worker", "n1", "--pool", "render"], "worker/render/n1", 1),
        (["issue-master", "n1"], "master/n1", 30),
    ],
)
def test_issue_makes_a_bundle(home: Home, arguments: list[str], identity: str, days: int) -> None:
    """The bundle is complete and private, its certificate says who it is for how long, and the gateway accepts it."""
    with home.config.open("a") as file:
        file.write('[pools.render]\nmode = "hosted"\n')
    result = run_cli(home, *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    bundle = home.bundles / "n1"
    assert {path.name for path in bundle.iterdir() if path.is_file()} == BUNDLE
    assert mode_of(bundle) == 0o700
    assert {mode_of(bundle / name) for name in ("key.pem", "password", "curl.conf")} == {0o600}
    leaf, issuer = read_certificates((bundle / "cert.pem").read_bytes())
    role = Role(identity.split("/")[0])
    assert uri_of(leaf) == f"spiffe://example.internal/{identity}"
    assert issuer.public_bytes(Encoding.PEM) == home.ca_cert(role).read_bytes()
    assert abs(leaf.not_valid_after_utc - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)
    assert (bundle / "trust.pem").read_bytes() == home.root_cert.read_bytes()
    assert load_pem_private_key((bundle / "key.pem").read_bytes(), None).public_key() == leaf.public_key()
    peer = verify_file(
        (bundle / "cert.pem").read_bytes(), (bundle / "trust.pem").read_bytes(), role=role, at=datetime.now(UTC)
    )
    assert getattr(peer, "name") == "n1"  # noqa: B009 - the type has two shapes
    settings = tomllib.loads((bundle / "rhttp.toml").read_text())
    pool = {"pool": "render"} if role is Role.WORKER else {}
    assert settings == {"gateway": "https://127.0.0.1:8443", "name": "n1", "user": "n1", "role": role.value, **pool}


def test_issue_password_is_the_users_and_nowhere_else(home: Home) -> None:
    """The password opens the stored credential; it is in `password` and `curl.conf`, and nowhere else."""
    result = run_cli(home, "issue-client", "alice")
    password = (home.bundles / "alice" / "password").read_text()
    assert password.endswith("\n")
    password = password.removesuffix("\n")
    assert len(password) >= 32
    user = snapshot_of(home).users["alice"]
    assert (user.enabled, user.ha1["SHA-256"]) == (True, ha1("alice", REALM, password, Algorithm.SHA_256))
    holders = {path.name for path in home.path.rglob("*") if path.is_file() and password.encode() in path.read_bytes()}
    assert holders == {"password", "curl.conf"}
    assert password not in result.output


def test_issue_user_has_every_algorithm_that_is_configured(home: Home) -> None:
    """Credentials are stored for what the gateway offers, since the password is not known later."""
    home.config.write_text(
        home.config.read_text().replace('# algorithms = ["SHA-256"]', 'algorithms = ["SHA-256", "MD5"]')
    )
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert set(snapshot_of(home).users["alice"].ha1) == {"SHA-256", "MD5"}


def test_issue_curl_conf_works_from_anywhere(home: Home) -> None:
    """Paths are absolute, since curl reads them relative to where it is started; quoting is curl's."""
    out = home.path.parent / 'a "b" \\c'
    assert run_cli(home, "issue-client", "alice", "--out", os.path.relpath(out)).exit_code == 0
    text = (out / "curl.conf").read_text()
    quoted = str(out).replace("\\", "\\\\").replace('"', '\\"')
    for option, name in (("cacert", "trust.pem"), ("cert", "cert.pem"), ("key", "key.pem")):
        assert f'{option} = "{quoted}/{name}"' in text
    assert "\ndigest\n" in text


def test_issue_labels_reach_the_snapshot(home: Home) -> None:
    """Labels of a worker's certificate are what policies see, by its serial."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "gpu=a100", "--label", "zone=eu-1")
    assert run_cli(home, *arguments).exit_code == 0
    (entry,) = listed(home)
    assert snapshot_of(home).labels == {entry["serial"]: {"gpu": "a100", "zone": "eu-1"}}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("p256", ec.SECP256R1), ("p384", ec.SECP384R1), ("ed25519", ed25519.Ed25519PublicKey)],
)
def test_issue_key_type_is_as_asked(home: Home, kind: str, expected: type) -> None:
    """Each kind of key that is offered can be had."""
    assert run_cli(home, "issue-client", "alice", "--key-type", kind).exit_code == 0
    key = leaf_of(home.bundles / "alice").public_key()
    assert isinstance(key.curve if isinstance(key, ec.EllipticCurvePublicKey) else key, expected)


@pytest.mark.parametrize(("ttl", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)])
def test_issue_ttl_is_as_asked(home: Home, ttl: str, seconds: int) -> None:
    """Seconds, minutes, hours and days are understood."""
    assert run_cli(home, "issue-client", "alice", "--ttl", ttl).exit_code == 0
    left = leaf_of(home.bundles / "alice").not_valid_after_utc - datetime.now(UTC)
    assert 0 <= seconds - left.total_seconds() < 60


@pytest.mark.parametrize("ttl", ["", "0s", "10", "-5m", "1.5h", "5 m", "1w", "9999999d", "٣m"])
def test_issue_ttl_that_is_none_is_wrong_usage(home: Home, ttl: str) -> None:
    """A lifetime that cannot be meant is wrong usage."""
    assert run_cli(home, "issue-client", "alice", "--ttl", ttl).exit_code == 2
    assert listed(home) == []


def test_issue_never_outlives_the_issuer(home: Home) -> None:
    """The longest lifetime ends with the issuing CA, at the latest."""
    assert run_cli(home, "issue-client", "alice", "--ttl", "730d").exit_code == 0
    leaf, issuer = read_certificates((home.bundles / "alice" / "cert.pem").read_bytes())
    assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a.b", "a/b", "../x", "x" * 64, "ä"])
def test_issue_name_that_is_none_is_wrong_usage(home: Home, name: str) -> None:
    """NAME is one lower-case label."""
    assert run_cli(home, "issue-client", "--", name).exit_code == 2


@pytest.mark.parametrize("label", ["gpu", "=x", "a=", "a= b", "a=b\nc", "a=" + "x" * 64])
def test_issue_label_that_is_none_is_wrong_usage(home: Home, label: str) -> None:
    """A label is a short key and value of plain characters."""
    assert run_cli(home, "issue-worker", "w1", "--pool", "p", "--label", label).exit_code == 2


def test_issue_label_given_twice_is_wrong_usage(home: Home) -> None:
    """Two values for one label cannot both hold."""
    arguments = ("issue-worker", "w1", "--pool", "p", "--label", "a=1", "--label", "a=2")
    assert run_cli(home, *arguments).exit_code == 2


def test_issue_worker_for_a_pool_that_is_not_configured_is_told(home: Home) -> None:
    """The pool may be added later, so the certificate is issued; a slip of the pen is seen at once."""
    result = run_cli(home, "issue-worker", "w1", "--pool", "rendr")
    assert result.exit_code == 0
    assert result.stderr == "warning: gateway.toml has no [pools.rendr] yet; w1 waits for it\n"


def test_issue_worker_without_pool_is_wrong_usage(home: Home) -> None:
    """A worker belongs to a pool."""
    assert run_cli(home, "issue-worker", "w1").exit_code == 2


def request_pem() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root-of-everything")])
    return key, x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(
        Encoding.PEM
    )


def test_issue_csr_certifies_its_key_and_nothing_else_of_it(home: Home, tmp_path: Path) -> None:
    """The bundle has no key; the subject that the request wishes for is ignored."""
    key, pem = request_pem()
    (tmp_path / "r.csr").write_bytes(pem)
    assert run_cli(home, "issue-client", "alice", "--csr", tmp_path / "r.csr").exit_code == 0
    bundle = home.bundles / "alice"
    assert {path.name for path in bundle.iterdir() if path.is_file()} == BUNDLE - {"key.pem"}
    leaf = leaf_of(bundle)
    assert leaf.public_key() == key.public_key()
    assert uri_of(leaf) == "spiffe://example.internal/client/alice"
    assert "root-of-everything" not in leaf.subject.rfc4514_string()
    assert "\nkey = " not in (bundle / "curl.conf").read_text()
    refused(run_cli(home, "renew", bundle), "its key is kept elsewhere")


def test_issue_csr_broken_is_refused_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    """A request whose signature is not its key's is refused before anything is written."""
    _, pem = request_pem()
    lines = pem.splitlines()
    (tmp_path / "r.csr").write_bytes(b"\n".join([lines[0], b"AAAA" + lines[1][4:], *lines[2:]]))
    refused(run_cli(home, "issue-client", "alice", "--csr", tmp_path / "r.csr"), "signing request")
    assert (list(home.bundles.iterdir()), listed(home)) == ([], [])


def test_issue_no_user_makes_none(home: Home) -> None:
    """Without a user the bundle has no password and curl is told none."""
    assert run_cli(home, "issue-client", "alice", "--no-user").exit_code == 0
    bundle = home.bundles / "alice"
    assert not (bundle / "password").exists()
    assert not {"user", "digest"} & {line.split()[0] for line in (bundle / "curl.conf").read_text().splitlines()}
    assert "user" not in tomllib.loads((bundle / "rhttp.toml").read_text())
    assert snapshot_of(home).users == {}


def test_issue_again_leaves_the_password_of_the_first_bundle_good(home: Home, tmp_path: Path) -> None:
    """A second certificate for a name changes no password; it says so, and where to get it."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    before = snapshot_of(home).users["alice"]
    result = run_cli(home, "issue-client", "alice", "--out", tmp_path / "second")
    assert result.exit_code == 0
    assert "no password file is written" in result.stderr
    assert snapshot_of(home).users["alice"] == before
    assert not (tmp_path / "second" / "password").exists()
    assert '\nuser = "alice"\n' in (tmp_path / "second" / "curl.conf").read_text()
    assert len(listed(home)) == 2


def test_home_that_lost_only_its_configuration_is_to_be_restored(home: Home) -> None:
    """Nobody is sent to `init` who has keys and certificates to lose."""
    home.config.unlink()
    result = run_cli(home, "issue-client", "n1")
    refused(result, "gateway.toml is missing, the rest of the home is there; restore that file")
    assert "init" not in result.stderr


def test_issue_name_for_another_role_or_pool_is_refused(home: Home) -> None:
    """A name has one role and pool, and a refusal leaves nothing."""
    assert run_cli(home, "issue-worker", "n1", "--pool", "a").exit_code == 0
    refused(run_cli(home, "issue-worker", "n1", "--pool", "b"), "belongs to worker/a/n1")
    refused(run_cli(home, "issue-client", "n1"), "belongs to worker/a/n1")
    assert len(listed(home)) == 1


def test_issue_into_a_directory_that_is_not_empty_is_refused(home: Home, tmp_path: Path) -> None:
    """No bundle is ever written over something."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    refused(run_cli(home, "issue-client", "alice", "--out", tmp_path / "out"), "is not an empty directory")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert (listed(home), snapshot_of(home).users) == ([], {})


@pytest.mark.parametrize("failing", ["file", "audit", "move"])
def test_issue_failing_after_signing_revokes_what_nobody_got(
    home: Home, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wherever it breaks off: no bundle, no user, and the certificate is known and revoked."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    match failing:
        case "file":
            monkeypatch.setattr(files.os, "fsync", fail)
        case "audit":
            monkeypatch.setattr(cli_stream, "append_cli", fail)
        case "move":
            monkeypatch.setattr(files.os, "rename", fail)
    refused(run_cli(home, "issue-client", "alice"), "Input/output error")
    monkeypatch.undo()
    assert list(home.bundles.iterdir()) == []
    assert [(entry["status"], entry["reason"]) for entry in listed(home)] == [("revoked", "cessationOfOperation")]
    assert snapshot_of(home).users == {}
    assert run_cli(home, "issue-client", "alice").exit_code == 0


def issue_meanwhile(home: Home, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that runs while another one of this process is half done; it does not wait for its turn."""
    code = "from gateway.home import locks\nlocks.PATIENCE = 0\nfrom gateway.cli.main import cli\ncli()"
    command = [sys.executable, "-c", code, "issue-client", "--home", str(home.path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_issue_of_one_new_name_twice_at_once_leaves_no_bundle_without_its_user(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that fails takes back the user that it made; no other one can have built on that user before."""
    meanwhile = []

    def fail(*_: object, **__: object) -> None:
        meanwhile.append(issue_meanwhile(home, "twin", "--out", tmp_path / "second"))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cli_stream, "append_cli", fail)
    refused(run_cli(home, "issue-client", "twin"), "Input/output error")
    monkeypatch.undo()
    assert (meanwhile[0].returncode, (tmp_path / "second").exists()) == (1, False), meanwhile
    assert "another command has been issuing for twin" in meanwhile[0].stderr
    assert snapshot_of(home).users == {}
    assert run_cli(home, "issue-client", "twin", "--out", tmp_path / "second").exit_code == 0
    assert (tmp_path / "second" / "password").exists()


def test_issue_of_two_names_into_one_directory_leaves_the_bundle_of_one(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other names do not wait; who finds the place taken takes back its own user and certificate, and no other's."""
    out = tmp_path / "out"
    append = cli_stream.append_cli

    def append_late(*arguments: Any, **fields: Any) -> object:
        assert issue_meanwhile(home, "second", "--out", out).returncode == 0
        return append(*arguments, **fields)

    monkeypatch.setattr(cli_stream, "append_cli", append_late)
    refused(run_cli(home, "issue-client", "first", "--out", out), "is not an empty directory")
    assert set(snapshot_of(home).users) == {"second"}
    assert {entry["name"]: entry["status"] for entry in listed(home)} == {"first": "revoked", "second": "valid"}
    assert uri_of(leaf_of(out)).endswith("/client/second")


def test_issue_of_many_at_once_corrupts_nothing(home: Home) -> None:
    """Processes at the same time, two of them for the same name: every certificate is known, every password works."""
    names = ["w1", "w2", "w3", "w4", "twin", "twin"]
    running = [start_cli(home, "issue-worker", name, "--pool", "p") for name in names]
    outcomes = {process.pid: process.communicate(timeout=60) for process in running}
    codes = [process.returncode for process in running]
    assert codes[:4] == [0] * 4, outcomes
    assert sorted(codes[4:]) == [0, 1], outcomes
    users = snapshot_of(home).users
    for name in {*names}:
        password = (home.bundles / name / "password").read_text().strip()
        assert users[name].ha1["SHA-256"] == ha1(name, REALM, password, Algorithm.SHA_256)
        serial = leaf_of(home.bundles / name).serial_number
        assert any(int(str(entry["serial"]), 16) == serial and entry["status"] == "valid" for entry in listed(home))
    assert {path.name for path in home.bundles.iterdir()} == {*names}
    assert run_cli(home, "audit verify").exit_code == 0
