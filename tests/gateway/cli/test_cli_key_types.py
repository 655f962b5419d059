"""`--key-type` and `--ca-key-type`: what they take, what they make, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from support.certs import a_key, common_name
from support.homes import leaf_of, new_home, refused, run_cli

from gateway.cli.options import KEY_TYPE
from gateway.home.layout import Home
from pki.keys import KeyType, key_type
from pki.names import Role
from pki.pem import read_certificates


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "home")


def kind_of(path: Path) -> KeyType | None:
    """The type of the first certificate's key."""
    return key_type(read_certificates(path.read_bytes())[0].public_key())


def test_options_offer_every_type_of_key() -> None:
    """They are written down apart from `pki`, whose libraries take long to load."""
    assert list(KEY_TYPE.choices) == list(KeyType)


@pytest.mark.parametrize("kind", KeyType)
def test_bundle_has_the_type_of_key_that_was_asked_for_and_keeps_it_when_renewed(home: Home, kind: KeyType) -> None:
    """`issue-master --key-type`, then `renew`; the audit log says the type both times."""
    assert run_cli(home, "issue-master", "m1", "--key-type", kind).exit_code == 0
    bundle = home.bundles / "m1"
    assert key_type(leaf_of(bundle).public_key()) is kind
    assert run_cli(home, "renew", bundle).exit_code == 0
    assert key_type(leaf_of(bundle).public_key()) is kind
    lines = [json.loads(line) for line in run_cli(home, "audit tail", "--json").stdout.splitlines()]
    told = [line["detail"]["key_type"] for line in lines if line.get("identity") == "master/m1"]
    assert told == [kind, kind]


@pytest.mark.parametrize("kind", [KeyType.RSA3072, KeyType.MLDSA44, KeyType.MLDSA87])
def test_request_for_a_key_of_the_type_is_certified(home: Home, kind: KeyType, tmp_path: Path) -> None:
    """`--csr` takes what `--key-type` makes."""
    key = a_key(kind)
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("x"))
    request = builder.sign(key, hashes.SHA256() if kind is KeyType.RSA3072 else None)
    (tmp_path / "csr.pem").write_bytes(request.public_bytes(Encoding.PEM))
    assert run_cli(home, "issue-client", "alice", "--csr", tmp_path / "csr.pem").exit_code == 0
    assert leaf_of(home.bundles / "alice").public_key() == key.public_key()


def test_request_for_an_rsa_key_of_another_size_is_refused_with_the_types_that_there_are(
    home: Home, tmp_path: Path
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("x"))
    request = builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
    (tmp_path / "csr.pem").write_bytes(request.public_bytes(Encoding.PEM))
    refused(run_cli(home, "issue-client", "alice", "--csr", tmp_path / "csr.pem"), "rsa3072")


def test_init_makes_each_ca_of_its_type(tmp_path: Path) -> None:
    """One type for all, others for some, and one for the gateway's own certificate."""
    home = Home(tmp_path / "home")
    arguments = ("--ca-key-type", "mldsa65", "--ca-key-type", "root=mldsa87", "--ca-key-type", "server=p384")
    assert run_cli(home, "init", *arguments, "--key-type", "ed25519").exit_code == 0
    assert kind_of(home.root_cert) is KeyType.MLDSA87
    assert {role: kind_of(home.ca_cert(role)) for role in Role} == {
        Role.SERVER: KeyType.P384,
        Role.CLIENT: KeyType.MLDSA65,
        Role.WORKER: KeyType.MLDSA65,
        Role.MASTER: KeyType.MLDSA65,
    }
    assert kind_of(home.server_cert) is KeyType.ED25519


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rsa2048"], "is no type of key"),
        (["workers=p256"], "worker="),
        (["=p256"], "is no type of key"),
        (["worker="], "is no type of key"),
        (["root=worker=p256"], "is no type of key"),
        (["p256", "p384"], "given twice"),
        (["root=p256", "root=p256"], "given twice"),
    ],
    ids=str,
)
def test_init_with_a_type_or_ca_that_there_is_not_makes_nothing(tmp_path: Path, given: list[str], said: str) -> None:
    """Wrong usage, status 2."""
    options = [word for value in given for word in ("--ca-key-type", value)]
    result = run_cli(tmp_path / "home", "init", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "home").exists()


def test_issue_server_keeps_the_type_unless_told(home: Home) -> None:
    """As it keeps the names."""
    assert run_cli(home, "issue-server", "--key-type", "rsa3072").exit_code == 0
    assert kind_of(home.server_cert) is KeyType.RSA3072
    assert run_cli(home, "issue-server").exit_code == 0
    assert kind_of(home.server_cert) is KeyType.RSA3072
    assert run_cli(home, "issue-server", "--key-type", "p256").exit_code == 0
    assert kind_of(home.server_cert) is KeyType.P256
