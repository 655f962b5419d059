"""`init`: a whole home or none, and what a passphrase does."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.homes import mode_of, new_home, refused, run_cli, start_cli

from gateway.home.layout import Home
from pki import files
from pki.keys import is_sealed
from pki.names import Role
from pki.pem import read_certificates
from pki.verify import verify_file

REALM = "rhttp@example.internal"


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Home, Path]:
    """A home whose keys are sealed, and the file with its passphrase."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    file.chmod(0o600)
    return new_home(tmp_path / "sealed", passphrase=b"correct horse"), file


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_complete_private_home(tmp_path: Path) -> None:
    """Directory, configuration, policy, keys, certificates, database are there, and only the owner may look."""
    home = Home(tmp_path / "a" / "home")
    result = run_cli(home, "init", "--trust-domain", "example.internal")
    assert result.exit_code == 0, result.stderr
    home.require()
    keys = {"root", "server-ca", "client-ca", "worker-ca", "master-ca", "server", "state", "checkpoint"}
    kept = {"audit-cli.json", "audit-checkpoint.jsonl", "state.json"}
    assert {path.name for path in home.keys.iterdir()} == {f"{name}.key" for name in keys} | kept
    assert {mode_of(path) for path in home.keys.iterdir()} == {0o600}
    assert {mode_of(path) for path in (home.path, home.keys, home.run, home.bundles)} == {0o700}
    for path in (
        home.policy,
        (home.path / "policy.cedarschema"),
        (home.path / "state.db"),
        home.checkpoint_pub,
        home.ca_cert(Role.MASTER),
    ):
        assert path.is_file()


def test_init_server_certificate_names_localhost_and_the_sans(tmp_path: Path) -> None:
    """localhost, 127.0.0.1, ::1 always, and every --san; it verifies under the root."""
    home = Home(tmp_path / "home")
    assert run_cli(home, "init", "--san", "DNS:gw.example.com", "--san", "IP:192.0.2.7").exit_code == 0
    leaf, issuer = read_certificates(home.server_cert.read_bytes())
    sans = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["localhost", "gw.example.com"]
    assert [str(ip) for ip in sans.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.7"]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=31)
    assert issuer.public_bytes(Encoding.PEM) == home.ca_cert(Role.SERVER).read_bytes()
    verify_file(home.server_cert.read_bytes(), home.root_cert.read_bytes(), role=Role.SERVER, at=datetime.now(UTC))


def test_init_configuration_can_be_appended_to(home: Home) -> None:
    """Only what must be said is active, so tables of one's own can follow, and every example is valid TOML."""
    text = home.config.read_text()
    assert tomllib.loads(text) == {
        "trust_domain": "example.internal",
        "listen": "127.0.0.1:8443",
        "dispatch": "unix:run/dispatch.sock",
        "digest": {"realm": REALM},
    }
    assert tomllib.loads(text + '[pools.render]\nmode = "hosted"\n')["pools"] == {"render": {"mode": "hosted"}}
    examples = tomllib.loads("\n".join(line.removeprefix("# ") for line in text.splitlines()[3:]))
    assert {"groups", "masters", "routes", "pools", "audit", "state", "metrics", "limits"} <= set(examples)


@pytest.mark.parametrize("with_examples", [False, True])
def test_init_configuration_is_accepted_by_the_gateway(home: Home, with_examples: bool) -> None:
    """The gateway takes the file as written, and with every example switched on."""
    from gateway.config.toml import load_config

    if with_examples:
        lines = home.config.read_text().splitlines()
        home.config.write_text("\n".join([*lines[:2], *(line.removeprefix("# ") for line in lines[2:])]) + "\n")
    config = load_config(home.config)
    assert (config.trust_domain, config.digest.realm) == ("example.internal", REALM)
    if with_examples:
        assert (tuple(config.pools), config.limits) == (("render",), type(config.limits)())


def test_init_in_an_empty_directory_is_done(tmp_path: Path) -> None:
    """An existing empty directory becomes the home, and private."""
    (tmp_path / "home").mkdir(mode=0o755)
    assert run_cli(tmp_path / "home", "init").exit_code == 0
    Home.open(tmp_path / "home")


@pytest.mark.parametrize("kind", ["home", "other files", "file", "dangling link"])
def test_init_never_overwrites(tmp_path: Path, pattern: Path, kind: str) -> None:
    """Whatever is at the place stays as it is."""
    place = tmp_path / "home"
    match kind:
        case "home":
            shutil.copytree(pattern, place)
        case "other files":
            place.mkdir()
            (place / "mine").write_text("x")
        case "file":
            place.write_text("x")
        case "dangling link":
            place.symlink_to(tmp_path / "gone")
    before = {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))}
    if kind == "file":
        assert run_cli(place, "init").exit_code == 2
    else:
        refused(run_cli(place, "init"), "nothing is overwritten")
    assert {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))} == before


def test_init_below_a_file_is_one_line(tmp_path: Path) -> None:
    """A path that leads through a file is no place for a home, and is said to be that."""
    (tmp_path / "file").touch()
    refused(run_cli(tmp_path / "file" / "home", "init"), "Not a directory")


def test_init_failing_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle leaves neither a home nor pieces beside its place."""
    calls = iter(range(100))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if next(calls) == 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    refused(run_cli(tmp_path / "home", "init"), "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_init_broken_off_by_a_kill_leaves_no_half_home(tmp_path: Path) -> None:
    """When the process dies just before the last step, nothing is at the place, and init can be run again."""
    place = tmp_path / "home"
    child = os.fork()
    if child == 0:
        files.os.rename = lambda *_: os._exit(9)  # type: ignore[assignment]
        try:
            new_home(place)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not place.exists()
    new_home(place).require()


def test_init_told_to_end_cleans_up(tmp_path: Path) -> None:
    """SIGTERM in the middle leaves neither a home nor pieces of one."""
    (tmp_path / "passphrase").write_text("x\n")
    (tmp_path / "passphrase").chmod(0o600)
    place = tmp_path / "homes" / "home"
    process = start_cli(place, "init", "--passphrase-file", tmp_path / "passphrase")
    # Sealing eight keys takes a while after the first piece is to be seen.
    while process.poll() is None and not any(tmp_path.glob("homes/.home.*/keys/root.key")):
        os.sched_yield()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert [path.name for path in tmp_path.iterdir()] == ["passphrase"]


def test_init_of_two_at_once_makes_one_home(tmp_path: Path) -> None:
    """Of two processes that make the same home one succeeds, the other is refused, and the home works."""
    running = [start_cli(tmp_path / "home", "init") for _ in range(2)]
    outcomes = [process.communicate(timeout=60) for process in running]
    assert sorted(process.returncode for process in running) == [0, 1], outcomes
    assert run_cli(tmp_path / "home", "issue-client", "alice").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("domain", ["Example.org", "a/b", "a..b", "", "spiffe://a", "a.b:1", "x" * 254, "a b"])
def test_init_trust_domain_that_is_none_is_wrong_usage(tmp_path: Path, domain: str) -> None:
    """The trust domain follows SPIFFE: lower case, no port, no path."""
    result = run_cli(tmp_path / "home", "init", "--trust-domain", domain)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "san", ["gw", "DNS:*.example.com", "DNS:GW", "IP:300.1.1.1", "IP:fe80::1%eth0", "URI:x", "DNS:"]
)
def test_init_san_that_is_none_is_wrong_usage(tmp_path: Path, san: str) -> None:
    """Only plain DNS names and IP addresses are names of a gateway."""
    assert run_cli(tmp_path / "home", "init", "--san", san).exit_code == 2


# -- passphrase --------------------------------------------------------------------------------------------------------


def test_passphrase_seals_every_key(sealed: tuple[Home, Path]) -> None:
    """No key of a home with a passphrase is in the clear."""
    assert all(is_sealed(path.read_bytes()) for path in sealed[0].keys.glob("*.key"))


def uncovered_of(home: Home) -> int:
    """Lines of the audit log that no checkpoint covers."""
    result = run_cli(home, "audit verify", "--json")
    assert result.exit_code == 0, result.output
    return int(json.loads(result.stdout)["streams"][0]["uncovered"])


def test_passphrase_given_signs_the_audit_line_at_once(sealed: tuple[Home, Path]) -> None:
    """`init` and every command that was given it; without it the line waits for whoever holds the key."""
    home, file = sealed
    assert uncovered_of(home) == 0
    for command in (["issue-client", "alice"], ["user disable", "alice"], ["revoke", "alice"], ["issue-server"]):
        assert run_cli(home, command[0], "--passphrase-file", file, *command[1:]).exit_code == 0
        assert uncovered_of(home) == 0
    assert run_cli(home, "user enable", "alice").exit_code == 0
    assert uncovered_of(home) == 1
    assert run_cli(home, "user disable", "alice", "--passphrase-file", file).exit_code == 0
    assert uncovered_of(home) == 0


def test_passphrase_missing_or_wrong_is_one_line(sealed: tuple[Home, Path], tmp_path: Path) -> None:
    """Without the right passphrase nothing is issued, nothing is left, and no passphrase is shown."""
    home, file = sealed
    refused(run_cli(home, "issue-client", "alice"), "give the passphrase")
    wrong = tmp_path / "wrong"
    wrong.write_text("incorrect-donkey\n")
    wrong.chmod(0o600)
    result = run_cli(home, "issue-client", "alice", "--passphrase-file", wrong)
    refused(result, "does not open")
    assert "incorrect-donkey" not in result.output
    refused(
        run_cli(home, "issue-client", "alice", "--passphrase-file", tmp_path / "none"), "cannot read the passphrase"
    )
    assert list(home.bundles.iterdir()) == []
    assert run_cli(home, "issue-client", "alice", "--passphrase-file", file).exit_code == 0


def test_passphrase_right_does_everything_and_keeps_keys_sealed(sealed: tuple[Home, Path]) -> None:
    """All commands work on a sealed home; a new server key is sealed like the old one; looking needs no passphrase."""
    home, file = sealed
    for command in (
        ["issue-worker", "w1", "--pool", "p"],
        ["issue-server"],
        ["renew", str(home.bundles / "w1")],
        ["crl", "--role", "worker"],
    ):
        result = run_cli(home, command[0], "--passphrase-file", file, *command[1:])
        assert result.exit_code == 0, result.stderr
    assert is_sealed(home.server_key.read_bytes())
    for command in (["list"], ["show", "w1"], ["revoke", "w1"]):
        assert run_cli(home, *command).exit_code == 0
