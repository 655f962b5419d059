"""`list`, `show`, `crl`, `verify`."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from support.homes import new_home, run_cli

from gateway.cli.main import cli
from gateway.home.layout import Home
from pki import verify as pki_verify
from pki.names import Role
from pki.pem import read_certificates, read_crls

ENTRY = {
    "serial",
    "name",
    "role",
    "pool",
    "labels",
    "status",
    "not_before",
    "not_after",
    "issued_at",
    "revoked_at",
    "reason",
    "fingerprint",
}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a client, and a worker that was revoked."""
    home = new_home(tmp_path_factory.mktemp("pattern") / "home")
    for command in (
        ["issue-client", "alice"],
        ["issue-worker", "w1", "--pool", "render", "--label", "gpu=a100", "--no-user"],
        ["revoke", "w1", "--reason", "keyCompromise"],
    ):
        assert run_cli(home, *command).exit_code == 0
    return home.path


@pytest.fixture
def home(pattern: Path, tmp_path: Path) -> Home:
    """A copy of one's own."""
    shutil.copytree(pattern, tmp_path / "home")
    return Home(tmp_path / "home")


def verify(*arguments: str | Path) -> Result:
    """`verify` needs no home."""
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


# -- list, show --------------------------------------------------------------------------------------------------------


def test_list_json_has_its_documented_shape(home: Home) -> None:
    """One object with `certificates`; every entry has the same keys, times are RFC 3339 in UTC."""
    value = json.loads(run_cli(home, "list", "--json").stdout)
    assert set(value) == {"certificates"}
    assert [set(entry) for entry in value["certificates"]] == [ENTRY] * 3
    server, alice, worker = value["certificates"]
    assert (server["name"], server["role"], server["pool"]) == (None, "server", None)
    assert (alice["name"], alice["status"], alice["revoked_at"], alice["reason"]) == ("alice", "valid", None, None)
    assert (worker["pool"], worker["labels"], worker["status"]) == ("render", {"gpu": "a100"}, "revoked")
    assert worker["reason"] == "keyCompromise"
    leaf = read_certificates((home.bundles / "alice" / "cert.pem").read_bytes())[0]
    assert datetime.fromisoformat(alice["not_after"]) == leaf.not_valid_after_utc
    assert int(alice["serial"], 16) == leaf.serial_number


def test_list_role_shows_only_that_role(home: Home) -> None:
    """`--role` leaves the others out."""
    value = json.loads(run_cli(home, "list", "--json", "--role", "client").stdout)
    assert [entry["name"] for entry in value["certificates"]] == ["alice"]


def test_list_leaves_out_the_expired_unless_asked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What expired is shown with `--all` only, and said to be."""
    from gateway.cli import certificates

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2100, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(certificates, "datetime", Later)
    assert json.loads(run_cli(home, "list", "--json").stdout) == {"certificates": []}
    entries = json.loads(run_cli(home, "list", "--json", "--all").stdout)["certificates"]
    assert [entry["status"] for entry in entries] == ["expired", "expired", "revoked"]


def test_list_table_is_never_cut_when_piped(home: Home) -> None:
    """A program that reads the table sees whole serials."""
    text = run_cli(home, "list").stdout
    serials = [entry["serial"] for entry in json.loads(run_cli(home, "list", "--json").stdout)["certificates"]]
    assert all(serial in text for serial in serials)
    assert len(text.splitlines()) == 4
    assert "gpu=a100" in text


def test_show_json_has_its_documented_shape(home: Home) -> None:
    """Whose the name is, its user, its certificates."""
    value = json.loads(run_cli(home, "show", "alice", "--json").stdout)
    assert set(value) == {"name", "role", "pool", "user", "certificates"}
    assert (value["name"], value["role"], value["pool"]) == ("alice", "client", None)
    assert value["user"] == {"enabled": True, "algorithms": ["SHA-256"]}
    assert [set(entry) for entry in value["certificates"]] == [ENTRY]
    assert json.loads(run_cli(home, "show", "w1", "--json").stdout)["user"] is None


def test_show_text_says_it_too(home: Home) -> None:
    """People read the same."""
    text = run_cli(home, "show", "w1").stdout
    assert "worker/render/w1" in text
    assert "Digest user: none" in text
    assert "revoked (keyCompromise)" in text


def test_show_unknown_name_is_refused(home: Home) -> None:
    """A name that nobody has is one line on stderr, exit status 1."""
    result = run_cli(home, "show", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no certificate was ever issued to nobody" in result.stderr


# -- crl ---------------------------------------------------------------------------------------------------------------


def test_crl_names_the_revoked_and_grows(home: Home, tmp_path: Path) -> None:
    """The role's CA signs which of its certificates are revoked and why; each list has a higher number."""
    serial = next(
        entry["serial"]
        for entry in json.loads(run_cli(home, "list", "--json").stdout)["certificates"]
        if entry["name"] == "w1"
    )
    result = run_cli(home, "crl", "--role", "worker")
    assert result.exit_code == 0, result.stderr
    (first,) = read_crls(result.stdout.encode())
    assert [f"{entry.serial_number:x}".zfill(len(serial)) for entry in first] == [serial]
    (reason,) = next(iter(first)).extensions
    assert reason.value == x509.CRLReason(x509.ReasonFlags.key_compromise)
    out = tmp_path / "worker.crl"
    assert run_cli(home, "crl", "--role", "worker", "--out", out).exit_code == 0
    (second,) = read_crls(out.read_bytes())
    numbers = [one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in (first, second)]
    assert numbers == [1, 2]
    issuer = x509.load_pem_x509_certificate(home.ca_cert(Role.WORKER).read_bytes())
    assert second.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]


def test_crl_of_another_role_is_empty(home: Home) -> None:
    """A CA's list has only its own certificates."""
    (found,) = read_crls(run_cli(home, "crl", "--role", "client").stdout.encode())
    assert list(found) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_crl_and_bundle_are_understood_by_openssl(home: Home, tmp_path: Path) -> None:
    """Another implementation accepts the bundle's path and refuses the revoked one by the list."""
    out = tmp_path / "crl.pem"
    assert run_cli(home, "crl", "--role", "worker", "--out", out).exit_code == 0
    bundle = home.bundles / "w1"
    command = ["openssl", "verify", "-purpose", "sslclient", "-CAfile", str(bundle / "trust.pem")]
    command += ["-untrusted", str(bundle / "cert.pem")]
    good = subprocess.run([*command, str(bundle / "cert.pem")], capture_output=True, text=True, timeout=60)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run(
        [*command, "-crl_check", "-CRLfile", str(out), str(bundle / "cert.pem")], capture_output=True, timeout=60
    )
    assert b"certificate revoked" in bad.stderr + bad.stdout


# -- verify ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["rhttp", "rfc5280"])
def test_verify_good_bundle_is_valid(home: Home, profile: str) -> None:
    """A bundle verifies under its own trust file, in both profiles."""
    bundle = home.bundles / "alice"
    result = verify("--role", "client", "--trust", bundle / "trust.pem", "--profile", profile, bundle / "cert.pem")
    assert (result.exit_code, result.stdout) == (0, "valid\n"), result.output
    assert "revocation was not checked" in result.stderr
    lists = home.path / "lists.pem"
    lists.write_text("".join(run_cli(home, "crl", "--role", role).stdout for role in ("client", "root")))
    arguments = ("--role", "client", "--trust", bundle / "trust.pem", "--crl", lists, "--profile", profile)
    checked = verify(*arguments, bundle / "cert.pem")
    assert (checked.exit_code, checked.stdout, checked.stderr) == (0, "valid\n", ""), checked.output


def test_verify_refusals_print_their_reason(home: Home, tmp_path: Path) -> None:
    """The reason code alone stands on stdout, exit status 1; the detail on stderr."""
    bundle = home.bundles / "alice"
    chain, trust = bundle / "cert.pem", bundle / "trust.pem"
    other = new_home(tmp_path / "other")
    later = (datetime.now(UTC) + timedelta(days=31)).isoformat()
    crl = tmp_path / "crl.pem"
    assert run_cli(home, "crl", "--role", "worker", "--out", crl).exit_code == 0
    revoked = home.bundles / "w1" / "cert.pem"
    cases: list[tuple[str, list[str | Path]]] = [
        ("untrusted", ["--role", "client", "--trust", other.root_cert, chain]),
        ("expired", ["--role", "client", "--trust", trust, "--time", later, chain]),
        ("not_yet_valid", ["--role", "client", "--trust", trust, "--time", "2020-01-01T00:00:00Z", chain]),
        ("purpose", ["--role", "server", "--trust", trust, "--profile", "rfc5280", chain]),
        ("revoked", ["--role", "worker", "--trust", trust, "--crl", crl, revoked]),
        ("stale_crl", ["--role", "client", "--trust", trust, "--crl", crl, chain]),
    ]
    for reason, arguments in cases:
        result = verify(*arguments)
        assert (result.exit_code, result.stdout) == (1, f"{reason}\n"), result.output


def test_verify_worker_as_client_is_refused(home: Home) -> None:
    """A certificate is good for its own role only."""
    bundle = home.bundles / "alice"
    result = verify("--role", "master", "--trust", bundle / "trust.pem", bundle / "cert.pem")
    assert result.exit_code == 1


@pytest.mark.parametrize("which", ["chain", "trust", "crl"])
@pytest.mark.parametrize("content", [None, b"", b"no PEM here"])
def test_verify_unreadable_file_is_exit_status_2(home: Home, tmp_path: Path, which: str, content: bytes | None) -> None:
    """A file that is missing or holds nothing of the kind is neither valid nor invalid."""
    bundle = home.bundles / "alice"
    crl = tmp_path / "crl.pem"
    assert run_cli(home, "crl", "--role", "client", "--out", crl).exit_code == 0
    places = {"chain": bundle / "cert.pem", "trust": bundle / "trust.pem", "crl": crl}
    places[which] = tmp_path / "bad"
    if content is not None:
        places[which].write_bytes(content)
    result = verify("--role", "client", "--trust", places["trust"], "--crl", places["crl"], places["chain"])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01", "2026-01-01T00:00:00"])
def test_verify_time_without_zone_is_wrong_usage(home: Home, at: str) -> None:
    """A time that means something else elsewhere is not taken."""
    bundle = home.bundles / "alice"
    trust = bundle / "trust.pem"
    assert verify("--role", "client", "--trust", trust, "--time", at, bundle / "cert.pem").exit_code == 2


def test_verify_unforeseen_failure_is_a_refusal(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a hostile file does to the code, the answer is no."""

    def fail(*_: object, **__: object) -> None:
        raise RecursionError("deep")

    monkeypatch.setattr(pki_verify, "verify_file", fail)
    bundle = home.bundles / "alice"
    result = verify("--role", "client", "--trust", bundle / "trust.pem", bundle / "cert.pem")
    assert (result.exit_code, result.stdout) == (1, "malformed\n")
