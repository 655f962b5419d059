"""`renew --expiring`, `list --expiring`: what ends soon, and what a timer does about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from support.homes import leaf_of, listed, run_cli

from gateway.home.layout import Home

TTL = {"w1": "1h", "w2": "3h", "w3": "30d"}


@pytest.fixture
def home(home: Home) -> Home:
    """A home with three workers: two of them end within a day."""
    for name, ttl in TTL.items():
        assert run_cli(home, "issue-worker", name, "--pool", "p", "--ttl", ttl).exit_code == 0
    return home


def serials(home: Home) -> dict[str, int]:
    return {name: leaf_of(home.bundles / name).serial_number for name in TTL}


def names(home: Home, *arguments: str) -> list[object]:
    return [entry["name"] for entry in listed(home, *arguments)]


def test_renew_expiring_renews_what_is_due(home: Home) -> None:
    """All in `bundles` that end within the time, and no other; their lifetimes stay."""
    before = serials(home)
    result = run_cli(home, "renew", "--expiring", "1d")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "2 renewed, 1 not due, 0 passed over"
    after = serials(home)
    assert {name for name in TTL if before[name] != after[name]} == {"w1", "w2"}
    assert run_cli(home, "renew", "--expiring", "30m").stdout == "0 renewed, 3 not due, 0 passed over\n"


def test_renew_expiring_of_named_bundles_looks_at_these(home: Home, tmp_path: Path) -> None:
    """A bundle that lies elsewhere is named; with a name the others are left alone."""
    out = tmp_path / "elsewhere"
    assert run_cli(home, "issue-worker", "w4", "--pool", "p", "--ttl", "1h", "--out", out).exit_code == 0
    before = serials(home)
    result = run_cli(home, "renew", out, home.bundles / "w3", "--expiring", "1d", "--ttl", "2d")
    assert result.stdout.splitlines()[-1] == "1 renewed, 1 not due, 0 passed over"
    assert serials(home) == before
    assert run_cli(home, "renew", "--expiring", "1d").stdout.splitlines()[-1] == "2 renewed, 1 not due, 0 passed over"


def test_renew_expiring_passes_over_what_was_ended_and_tells_what_it_cannot(home: Home, tmp_path: Path) -> None:
    """A revoked bundle that still lies there fails no timer; one that needs somebody does, and keeps no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    (tmp_path / "r.csr").write_bytes(request.public_bytes(Encoding.PEM))
    assert run_cli(home, "issue-worker", "a", "--pool", "p", "--csr", tmp_path / "r.csr").exit_code == 0
    assert run_cli(home, "revoke", "w1").exit_code == 0
    (home.bundles / "stray").mkdir()
    before = serials(home)
    result = run_cli(home, "renew", "--expiring", "1d")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 renewed, 1 not due, 1 passed over"
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"not renewed: {home.bundles / 'a'} holds no key.pem")
    assert lines[1].startswith(f"note: passed over: the certificate in {home.bundles / 'w1'} was revoked")
    assert lines[2:] == ["Error: 1 of 4 bundle(s) could not be renewed; the lines above say why"]
    assert {name for name in TTL if before[name] != serials(home)[name]} == {"w2"}


def test_renew_of_several_bundles_renews_each(home: Home) -> None:
    """Without --expiring what is named is renewed, due or not."""
    before = serials(home)
    assert run_cli(home, "renew", home.bundles / "w1", home.bundles / "w3").exit_code == 0
    assert {name for name in TTL if before[name] != serials(home)[name]} == {"w1", "w3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a BUNDLE, or give --expiring"),
        (["BUNDLES/w1", "BUNDLES/w2", "--csr", "BUNDLES/w1/cert.pem"], "--csr is for one BUNDLE"),
        (["--expiring", "1d", "--csr", "BUNDLES/w1/cert.pem"], "--csr is for one BUNDLE"),
        (["--expiring", "7"], "is no duration"),
        (["--expiring", "800d"], "is out of range"),
    ],
)
def test_renew_with_wrong_arguments_is_wrong_usage(home: Home, arguments: list[str], said: str) -> None:
    """Exit status 2, and nothing is renewed."""
    before = serials(home)
    result = run_cli(home, "renew", *(text.replace("BUNDLES", str(home.bundles)) for text in arguments))
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert serials(home) == before


def test_list_expiring_shows_what_needs_a_renewal(home: Home) -> None:
    """Soonest first; what was revoked, or replaced by one that lives longer, needs none."""
    assert names(home, "--expiring", "1d") == ["w1", "w2"]
    assert names(home, "--expiring", "30d") == ["w1", "w2", "w3"]
    assert names(home, "--expiring", "30m") == []
    assert run_cli(home, "renew", home.bundles / "w1", "--ttl", "2d").exit_code == 0
    assert run_cli(home, "revoke", "w3").exit_code == 0
    assert names(home, "--expiring", "1d") == ["w2"]
    assert names(home, "--expiring", "30d") == ["w2", "w1"]
    text = run_cli(home, "list", "--role", "worker", "--expiring", "1d").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["NAME", "w2"]
