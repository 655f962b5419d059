"""Reading a worker's bundle: each fault is one clear line that names the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.homes import plain_copy, run_cli
from support.standin import worker_home

from rhttp.worker import bundle as bundle_module
from rhttp.worker.bundle import BundleInvalid, bundle_stamp, load_bundle, parse_gateway


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return worker_home(tmp_path / "home")


@pytest.fixture
def place(home: Path) -> Path:
    return home / "bundles" / "w1"


def fault(place: Path, **options: str) -> str:
    with pytest.raises(BundleInvalid) as caught:
        load_bundle(place, **options)
    return str(caught.value)


def test_bundle_of_issue_worker_is_read(place: Path) -> None:
    """What the command makes is what the agent takes."""
    bundle = load_bundle(place)
    assert (bundle.name, bundle.pool, bundle.user) == ("w1", "render", "w1")
    assert bundle.password == (place / "password").read_text().rstrip("\n")
    assert bundle.expires - bundle.not_before > 80000
    assert len(bundle.trust) == 1


def test_bundle_serial_is_written_as_the_home_has_it(home: Path, place: Path) -> None:
    """What an agent's log says can be looked for in `list`: a digit of zero in front is there, too."""
    serials = set()
    for _ in range(40):  # one in sixteen begins with a zero
        assert run_cli(home, "renew", place).exit_code == 0
        serials.add(load_bundle(place).serial)
    found = json.loads(run_cli(home, "show", "w1", "--json").stdout)["certificates"]
    assert serials < {entry["serial"] for entry in found}


def test_bundle_repr_has_no_secret(place: Path) -> None:
    """A bundle in a log line gives nothing away."""
    bundle = load_bundle(place)
    assert bundle.password is not None
    assert bundle.password not in repr(bundle)
    assert "PRIVATE" not in repr(bundle)


def test_options_take_the_place_of_the_file(place: Path) -> None:
    """`--gateway` and `--pool` win over rhttp.toml."""
    bundle = load_bundle(place, gateway="https://gw.example:4433", pool="other")
    assert (str(bundle.gateway), bundle.pool) == ("https://gw.example:4433", "other")


def test_bundle_of_a_client_is_refused(home: Path) -> None:
    """A client's bundle is told apart before the gateway does it."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    assert "bundle of a client" in fault(home / "bundles" / "alice")


@pytest.mark.parametrize("name", ["rhttp.toml", "cert.pem", "key.pem", "trust.pem", "password"])
def test_missing_file_is_named(place: Path, name: str) -> None:
    """Each file that is not there is named with its path."""
    (place / name).unlink()
    assert f"{place / name} is missing" in fault(place)


def test_password_that_is_missing_is_told_where_to_get_one(place: Path) -> None:
    """A bundle that was issued to a name with a user has none: its mend is another one than for other files."""
    (place / "password").unlink()
    assert f"rhttp-pki user passwd NAME --generate --out {place / 'password'}" in fault(place)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "trust.pem", "rhttp.toml"])
def test_malformed_file_is_named_and_not_quoted(place: Path, name: str) -> None:
    """Rubbish in a file is told by the file's name; its bytes stay out of the message."""
    (place / name).write_bytes(b"rubbish-4711\xff")
    message = fault(place)
    assert str(place / name) in message
    assert "4711" not in message


@pytest.mark.parametrize("name", ["key.pem", "password"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_secret_that_others_can_use_is_refused(place: Path, name: str, mode: int) -> None:
    """Key and password are for their owner alone; the message has the command that mends it."""
    (place / name).chmod(mode)
    assert f"chmod 600 {place / name}" in fault(place)


def test_key_of_another_certificate_is_refused(place: Path, home: Path) -> None:
    """Half of a renewal is noticed here, not by a refused handshake."""
    assert run_cli(home, "issue-worker", "w2", "--pool", "render").exit_code == 0
    shutil.copy(home / "bundles" / "w2" / "key.pem", place / "key.pem")
    assert "is not the key of" in fault(place)


def test_empty_password_is_refused(place: Path) -> None:
    """An empty first line is a mistake, not a password."""
    (place / "password").write_bytes(b"\n")
    assert "empty line" in fault(place)


def test_bundle_without_user_needs_no_password(place: Path) -> None:
    """`issue-worker --no-user`: no Digest, no password file."""
    settings = place / "rhttp.toml"
    settings.write_text("".join(line for line in settings.read_text().splitlines(True) if line[:4] != "user"))
    (place / "password").unlink()
    assert load_bundle(place).password is None


@pytest.mark.parametrize(
    "url",
    ["http://h:1", "https://", "h:1", "https://u@h", "https://h/x", "https://h?x", "https://h:0", "https://h:99999"],
)
def test_gateway_of_another_form_is_refused(place: Path, url: str) -> None:
    """Only https://HOST[:PORT] names a gateway."""
    assert fault(place, gateway=url).startswith("--gateway is not of the form https://HOST[:PORT]")


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("https://gw.example", "gw.example", 443, b"gw.example"),
        ("https://gw.example:443/", "gw.example", 443, b"gw.example"),
        ("https://[::1]:8443", "::1", 8443, b"[::1]:8443"),
    ],
)
def test_gateway_is_taken_apart(url: str, host: str, port: int, authority: bytes) -> None:
    """Brackets and the default port stand only where they belong."""
    address = parse_gateway(url)
    assert (address.host, address.port, address.authority) == (host, port, authority)


@pytest.mark.parametrize("pool", ["", "Render", "a/b", "-a", "a" * 64])
def test_pool_that_is_no_name_is_refused(place: Path, pool: str) -> None:
    """A pool goes into a request line, so its name is held to the grammar."""
    assert "--pool is no pool's name" in fault(place, pool=pool)


def test_bundle_that_was_copied_without_its_versions_says_how(place: Path, tmp_path: Path) -> None:
    """Links that lead nowhere are told apart from files that are missing, with the mend."""
    shutil.rmtree(place / "versions")
    assert "cert.pem leads nowhere; copy the bundle whole" in fault(place)


def test_bundle_of_plain_files_is_read(place: Path, tmp_path: Path) -> None:
    """What an earlier release made, or what a copy is that followed the links, loads as it is."""
    assert load_bundle(plain_copy(place, tmp_path / "plain")).serial == load_bundle(place).serial


def test_bundle_that_is_renewed_while_it_is_read_is_no_mixture(
    place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal between two files has the bundle read again: certificate and key are of one version."""
    real, renewals = bundle_module._read, iter([True])

    def read(path: Path, *, is_secret: bool = False) -> bytes:
        data = real(path, is_secret=is_secret)
        if path.name == "cert.pem" and next(renewals, False):
            assert run_cli(home, "renew", place).exit_code == 0
        return data

    before = load_bundle(place)
    monkeypatch.setattr(bundle_module, "_read", read)
    bundle = load_bundle(place)
    assert bundle.serial != before.serial
    assert (bundle.chain, bundle.key) == ((place / "cert.pem").read_bytes(), (place / "key.pem").read_bytes())


def test_bundle_that_changes_at_every_reading_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read for ever."""
    stamps = iter(range(1000))
    monkeypatch.setattr(bundle_module, "bundle_stamp", lambda _: ((next(stamps), 0, 0),))
    assert "changes all the time" in fault(place)


def test_stamp_changes_with_any_file(place: Path) -> None:
    """A renewed certificate, a new password, a file that went away: the stamp tells."""
    stamps = [bundle_stamp(place)]
    for name in ("cert.pem", "password"):
        (place / "new").write_bytes((place / name).read_bytes())
        os.replace(place / "new", place / name)
        stamps.append(bundle_stamp(place))
    (place / "trust.pem").unlink()
    stamps.append(bundle_stamp(place))
    assert len(set(stamps)) == 4
