"""`export --p12`: one file for browsers, phones and Java, read by those who will."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from support.homes import leaf_of, mode_of, refused, run_cli

from gateway.audit import cli_stream
from gateway.home.layout import Home
from pki.issue import serial_hex
from pki.pem import read_certificates

PASSWORD = "correct horse battery"


@pytest.fixture
def home(home: Home) -> Home:
    """A home with a client."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    return home


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    place = tmp_path / "password"
    place.write_text(f"{PASSWORD}\n")
    place.chmod(0o600)
    return place


@pytest.fixture
def export(home: Home, tmp_path: Path, password_file: Path) -> Callable[..., Path]:
    """Export alice, with further arguments; the file."""

    def made(*arguments: str | Path) -> Path:
        out = tmp_path / "alice.p12"
        result = run_cli(home, "export", "alice", "--p12", out, "--password-file", password_file, *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        assert PASSWORD not in result.stdout
        return out

    return made


def run(*command: str | Path) -> str:
    """What a tool prints on both streams; it must take the file."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["--legacy"]])
def test_export_holds_key_leaf_and_issuing_ca(home: Home, export: Callable[..., Path], arguments: list[str]) -> None:
    """The file is its owner's alone and holds the bundle's key and path, under the name; the root is not in it."""
    out, bundle = export(*arguments), home.bundles / "alice"
    assert mode_of(out) == 0o600
    found = load_pkcs12(out.read_bytes(), PASSWORD.encode())
    leaf, issuer = read_certificates((bundle / "cert.pem").read_bytes())
    key = load_pem_private_key((bundle / "key.pem").read_bytes(), None)
    assert found.cert is not None
    assert (found.cert.certificate, found.cert.friendly_name) == (leaf, b"alice")
    assert [one.certificate for one in found.additional_certs] == [issuer]
    assert found.key is not None
    assert found.key.public_key() == key.public_key()


def test_export_is_in_the_audit_log(home: Home, export: Callable[..., Path]) -> None:
    """Who got a key in a file can be told afterwards; the password cannot."""
    export()
    lines = b"".join(path.read_bytes() for path in sorted(home.audit.glob("cli-*.jsonl"))).splitlines()
    (line,) = [line for line in lines if b'"event":"pki.exported"' in line]
    assert f'"serial":"{serial_hex(leaf_of(home.bundles / "alice").serial_number)}"'.encode() in line
    assert b'"identity":"client/alice"' in line
    assert PASSWORD.encode() not in b"".join(lines)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    ("arguments", "cipher", "mac"),
    [([], "AES-256-CBC, Iteration", "sha256"), (["--legacy"], "pbeWithSHA1And3-KeyTripleDES-CBC, Iteration", "sha1")],
)
def test_export_is_read_by_openssl(
    export: Callable[..., Path], password_file: Path, arguments: list[str], cipher: str, mac: str
) -> None:
    """OpenSSL finds one key and two certificates, under the encryption that was meant."""
    said = run("openssl", "pkcs12", "-in", export(*arguments), "-passin", f"file:{password_file}", "-info", "-nodes")
    assert said.count("BEGIN CERTIFICATE") == 2
    assert said.count("BEGIN PRIVATE KEY") == 1
    assert said.count(cipher) == 2
    assert f"MAC: {mac}, " in said


@pytest.mark.skipif(shutil.which("pk12util") is None, reason="needs the pk12util command (NSS)")
@pytest.mark.parametrize("arguments", [[], ["--legacy"]])
def test_export_is_read_by_nss(
    export: Callable[..., Path], password_file: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """The library of Firefox, and of Chrome on Linux, takes key and certificates into its database."""
    database = f"sql:{tmp_path}"
    run("certutil", "-N", "-d", database, "--empty-password")
    run("pk12util", "-i", export(*arguments), "-d", database, "-w", password_file)
    (line,) = [line for line in run("certutil", "-L", "-d", database).splitlines() if line.startswith("alice ")]
    assert line.split()[-1] == "u,u,u"  # there is a key for it


@pytest.mark.skipif(shutil.which("keytool") is None, reason="needs the keytool command (Java)")
@pytest.mark.parametrize("arguments", [[], ["--legacy"]])
def test_export_is_read_by_java(export: Callable[..., Path], password_file: Path, arguments: list[str]) -> None:
    """Java takes it as a key store, with the key's path in it."""
    store = ("-keystore", export(*arguments), "-storetype", "PKCS12", "-storepass:file", password_file)
    said = run("keytool", "-J-Duser.language=en", "-list", "-v", *store)
    assert "Alias name: alice" in said
    assert "Entry type: PrivateKeyEntry" in said
    assert "Certificate chain length: 2" in said


def test_export_overwrites_nothing(home: Home, tmp_path: Path, password_file: Path) -> None:
    """What is there stays, and nothing is written to the log."""
    out = tmp_path / "mine"
    out.write_text("mine")
    before = [path.read_bytes() for path in home.audit.glob("cli-*.jsonl")]
    refused(run_cli(home, "export", "alice", "--p12", out, "--password-file", password_file), "nothing is overwritten")
    assert out.read_text() == "mine"
    assert [path.read_bytes() for path in home.audit.glob("cli-*.jsonl")] == before


def test_export_without_its_audit_line_leaves_no_file(
    home: Home, tmp_path: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that leaves without a line does not leave."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_stream, "append_cli", fail)
    out = tmp_path / "alice.p12"
    refused(run_cli(home, "export", "alice", "--p12", out, "--password-file", password_file), "No space left")
    assert not out.exists()


@pytest.mark.parametrize("password", ["", "elevenchars", "a" * 129, "tab\tin the middle", "pässword of twelve"])
def test_export_with_a_password_that_is_none_is_refused(
    home: Home, tmp_path: Path, password_file: Path, password: str
) -> None:
    """Too short, too long, or with letters that programs read in different ways; it is not quoted."""
    password_file.write_text(password)
    result = run_cli(home, "export", "alice", "--p12", tmp_path / "x", "--password-file", password_file)
    refused(result, "12 to 128 printable ASCII characters")
    assert not password or password not in result.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("length", [12, 128])
def test_export_with_a_password_at_the_bounds_is_made(
    home: Home, tmp_path: Path, password_file: Path, length: int
) -> None:
    """12 and 128 characters are enough, and not too many."""
    password_file.write_text("x" * length)
    out = tmp_path / "x"
    assert run_cli(home, "export", "alice", "--p12", out, "--password-file", password_file).exit_code == 0
    assert load_pkcs12(out.read_bytes(), b"x" * length).key is not None


def test_export_with_a_password_file_that_others_may_read_is_refused(
    home: Home, tmp_path: Path, password_file: Path
) -> None:
    """It is held to the rule of every file with a secret."""
    password_file.chmod(0o644)
    result = run_cli(home, "export", "alice", "--p12", tmp_path / "x", "--password-file", password_file)
    refused(result, "is open to others")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda home, bundle: (bundle / "key.pem").unlink(), "its key is kept elsewhere"),
        (lambda home, bundle: (bundle / "key.pem").chmod(0o644), "is open to others"),
        (lambda home, bundle: (bundle / "key.pem").write_text("rubbish"), "holds no plain PEM private key"),
        (lambda home, bundle: shutil.copy(home.bundles / "bob" / "key.pem", bundle / "key.pem"), "is not the key of"),
        (lambda home, bundle: run_cli(home, "revoke", "alice"), "was revoked"),
        (lambda home, bundle: shutil.rmtree(bundle), "is no bundle"),
        (lambda home, bundle: (shutil.rmtree(bundle), os.rename(home.bundles / "bob", bundle)), "is not one of alice"),
    ],
)
def test_export_of_a_bundle_that_is_none_is_refused(
    home: Home, tmp_path: Path, password_file: Path, spoil: Callable[[Home, Path], object], said: str
) -> None:
    """No key, another's, one that others could read, an ended certificate, another name: one line each, and no file."""
    assert run_cli(home, "issue-client", "bob").exit_code == 0
    spoil(home, home.bundles / "alice")
    result = run_cli(home, "export", "alice", "--p12", tmp_path / "x", "--password-file", password_file)
    refused(result, said)
    assert not (tmp_path / "x").exists()


def test_export_of_a_bundle_elsewhere_names_it(home: Home, tmp_path: Path, export: Callable[..., Path]) -> None:
    """`--bundle` takes the place of HOME/bundles/NAME."""
    os.rename(home.bundles / "alice", tmp_path / "elsewhere")
    assert export("--bundle", tmp_path / "elsewhere").exists()
