"""Files that an editor saved with a byte order mark, or as UTF-16: read as they were meant, or named with the mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.homes import new_home, refused, run_cli

from gateway.home.layout import Home
from rhttp.digest.formula import Algorithm, ha1
from rhttp.worker.bundle import BundleInvalid, load_bundle

REALM = "rhttp@example.internal"
MARK = b"\xef\xbb\xbf"


def in_utf16(path: Path) -> None:
    path.write_bytes(path.read_text().encode("utf-16"))


def marked(path: Path) -> None:
    path.write_bytes(MARK + path.read_bytes())


def test_password_file_with_a_mark_is_the_password_as_typed(home: Home, tmp_path: Path) -> None:
    """The stored hash is that of the password without the mark."""
    for name, content in (("plain", b"correct horse\n"), ("marked", MARK + b"correct horse\r\n")):
        (tmp_path / name).write_bytes(content)
        assert run_cli(home, "user add", name, "--password-file", tmp_path / name).exit_code == 0
    exported = run_cli(home, "user export-htdigest", "--out", "-").stdout.splitlines()
    right = {name: ha1(name, REALM, "correct horse", Algorithm.SHA_256) for name in ("plain", "marked")}
    assert sorted(exported) == sorted(f"{name}:{REALM}:{value}" for name, value in right.items())
    (tmp_path / "wide").write_bytes("correct horse".encode("utf-16"))
    refused(run_cli(home, "user passwd", "plain", "--password-file", tmp_path / "wide"), "is UTF-16; save it as UTF-8")


def test_passphrase_file_with_a_mark_opens_what_was_sealed_without(tmp_path: Path) -> None:
    """Keys are sealed with the phrase, whoever saved the file. It is held to the rule of a key."""
    home, file = new_home(tmp_path / "sealed", passphrase=b"phrase"), tmp_path / "phrase"
    file.write_bytes(MARK + b"phrase\r\n")
    file.chmod(0o600)
    assert run_cli(home, "crl", "--role", "client", "--passphrase-file", file).exit_code == 0
    file.chmod(0o644)
    refused(run_cli(home, "crl", "--role", "client", "--passphrase-file", file), f"chmod 600 {file}")
    file.chmod(0o600)
    file.write_bytes("phrase".encode("utf-16"))
    refused(run_cli(home, "crl", "--role", "client", "--passphrase-file", file), "is UTF-16; save it as UTF-8")


def test_configuration_and_policy_with_marks_are_taken(home: Home) -> None:
    """Commands, the check and the policy's check read them as they were meant; UTF-16 is named."""
    marked(home.config)
    marked(home.policy)
    for command in ("gateway --check", "policy check", "list", "issue-client alice"):
        result = run_cli(home, command)
        assert result.exit_code == 0, (command, result.output)
    in_utf16(home.policy)
    assert "is UTF-16; save it as UTF-8" in run_cli(home, "gateway --check").stderr
    refused(run_cli(home, "policy check"), "is UTF-16; save it as UTF-8")
    in_utf16(home.config)
    for command in ("list", "issue-client bob"):
        refused(run_cli(home, command), "is UTF-16; save it as UTF-8")
    assert "is UTF-16; save it as UTF-8" in run_cli(home, "gateway --check").stderr


def test_bundle_with_marks_is_read(home: Home) -> None:
    """A worker's settings and password as an editor saved them."""
    assert run_cli(home, "issue-worker", "w1", "--pool", "render").exit_code == 0
    place = home.bundles / "w1"
    right = load_bundle(place).password
    marked(place / "rhttp.toml")
    marked(place / "password")
    assert load_bundle(place).password == right
    for name in ("password", "rhttp.toml"):
        in_utf16(place / name)
        with pytest.raises(BundleInvalid, match=f"{name} is UTF-16; save it as UTF-8"):
            load_bundle(place)


def test_password_with_a_mark_inside_is_refused(home: Home, tmp_path: Path) -> None:
    """U+FEFF anywhere else cannot be typed either (RFC 8265 section 4.2)."""
    (tmp_path / "password").write_bytes(b"correct" + MARK + b"horse\n")
    refused(run_cli(home, "user add", "alice", "--password-file", tmp_path / "password"), "U+FEFF")
