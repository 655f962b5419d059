"""The home directory: its layout, and the one clear error of one that may not be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.home.layout import Home, HomeInvalid
from pki.keys import seal
from pki.names import Role
from pki.template import Pointers

CONFIG = 'trust_domain = "example.internal"\n[digest]\nrealm = "rhttp@example.internal"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The least that counts as a home."""
    place = Home(tmp_path / "home")
    for directory in (place.path, place.keys):
        directory.mkdir(mode=0o700)
    place.config.write_text(CONFIG)
    return place


def test_home_complete_opens(home: Home) -> None:
    """A directory of ours with gateway.toml and keys is a home."""
    assert Home.open(home.path).path == home.path


def test_home_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home is told by its absolute path, wherever the command runs."""
    monkeypatch.chdir(tmp_path)
    assert Home(Path("x/../home")).path == tmp_path / "home"


def test_home_layout_is_the_documented_one(home: Home) -> None:
    """Files lie where the documentation says."""
    assert home.ca_key(Role.WORKER) == home.path / "keys" / "worker-ca.key"
    assert home.ca_cert(Role.CLIENT) == home.path / "certs" / "client-ca.pem"
    assert home.admin_socket == home.path / "run" / "admin.sock"


def test_home_behind_symlink_opens_and_keeps_the_short_path(home: Home, tmp_path: Path) -> None:
    """A symbolic link to a home is a home, and its paths stay short (unix sockets need that)."""
    link = tmp_path / "link"
    link.symlink_to(home.path)
    assert Home.open(link).admin_socket == link / "run" / "admin.sock"


def test_home_missing_names_init(tmp_path: Path) -> None:
    """A home that is not there is one line with the command that makes it."""
    with pytest.raises(HomeInvalid, match=r"does not exist; make it with `rhttp-pki init`"):
        Home.open(tmp_path / "nowhere")


def test_home_dangling_symlink_is_said_so(tmp_path: Path) -> None:
    """A link to nothing is not reported as a missing directory."""
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(HomeInvalid, match="symbolic link to nothing"):
        Home.open(tmp_path / "link")


def test_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file is not a home."""
    (tmp_path / "file").touch()
    with pytest.raises(HomeInvalid, match="not a directory"):
        Home.open(tmp_path / "file")


def test_home_below_a_file_is_refused(tmp_path: Path) -> None:
    """A path that leads through a file is an error of one line."""
    (tmp_path / "file").touch()
    with pytest.raises(HomeInvalid, match="cannot look at"):
        Home.open(tmp_path / "file" / "home")


def test_home_without_configuration_is_refused(home: Home) -> None:
    """A private directory alone is not a home."""
    home.config.unlink()
    with pytest.raises(HomeInvalid, match="not a home"):
        home.require()


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o704, 0o770])
@pytest.mark.parametrize("part", ["path", "keys"])
def test_home_open_to_others_is_refused(home: Home, part: str, mode: int) -> None:
    """Any permission for group or others, on the home or its keys, is refused with the chmod that mends it."""
    os.chmod(getattr(home, part), mode)
    with pytest.raises(HomeInvalid, match=f"mode {mode:04o}.*chmod 700"):
        home.require()


def test_home_without_keys_is_refused(home: Home) -> None:
    """A home whose keys are gone says so."""
    home.keys.rmdir()
    with pytest.raises(HomeInvalid, match="keys is missing; restore"):
        home.require()


def test_home_of_another_user_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's home is refused, for root too: what root makes in it would lock its owner out."""
    monkeypatch.setattr(os, "geteuid", lambda: home.path.stat().st_uid + 1)
    with pytest.raises(HomeInvalid, match="belongs to user"):
        home.require()


def test_secret_plain_is_read_as_it_is(home: Home) -> None:
    """A key that is not sealed needs no passphrase."""
    home.state_key.touch(mode=0o600)
    home.state_key.write_bytes(b"k" * 32)
    assert home.read_secret(home.state_key, None) == b"k" * 32
    assert not home.is_sealed()


def test_secret_sealed_opens_only_with_its_passphrase(home: Home) -> None:
    """A sealed key opens with its passphrase; without or with a wrong one it is one line that says which."""
    home.state_key.touch(mode=0o600)
    home.state_key.write_bytes(seal(b"k" * 32, b"right"))
    assert home.is_sealed()
    assert home.read_secret(home.state_key, b"right") == b"k" * 32
    with pytest.raises(HomeInvalid, match="is sealed; give the passphrase"):
        home.read_secret(home.state_key, None)
    with pytest.raises(HomeInvalid, match="does not open") as caught:
        home.read_secret(home.state_key, b"wrong-secret")
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"RHTTPSEAL", b"RHTTPSEAL\x09" + b"x" * 80])
def test_secret_broken_is_refused(home: Home, content: bytes) -> None:
    """An empty or cut key file asks for the backup."""
    home.state_key.touch(mode=0o600)
    home.state_key.write_bytes(content)
    with pytest.raises(HomeInvalid, match="restore it from a backup"):
        home.read_secret(home.state_key, b"any")


def test_secret_readable_by_others_is_refused(home: Home) -> None:
    """A key that others can read is not used."""
    home.state_key.write_bytes(b"k" * 32)
    home.state_key.chmod(0o640)
    with pytest.raises(HomeInvalid, match="chmod 600"):
        home.read_secret(home.state_key, None)


def test_secret_missing_is_refused(home: Home) -> None:
    """A missing key is named."""
    with pytest.raises(HomeInvalid, match=r"state\.key is missing"):
        home.read_secret(home.state_key, None)


def test_basics_are_read_with_defaults(home: Home) -> None:
    """Trust domain and realm must be there; address and database have defaults."""
    basics = home.basics()
    assert (basics.trust_domain, basics.realm) == ("example.internal", "rhttp@example.internal")
    assert (basics.listen, basics.state_url) == ("127.0.0.1:8443", "sqlite:///state.db")


def test_basics_tell_where_to_ask_about_revocation(home: Home) -> None:
    """Nowhere without a URL; the list of the role's CA behind it, and the responder when there is OCSP."""
    assert home.basics().pointers(Role.CLIENT) is None
    home.config.write_text(CONFIG + '[pki]\nurl = "http://a.example/x"\n')
    assert home.basics().pointers(Role.CLIENT) == Pointers(crl="http://a.example/x/-/pki/client.crl")
    home.config.write_text(CONFIG + '[pki]\nurl = "http://a.example"\nocsp = true\n')
    pointers = Pointers(crl="http://a.example/-/pki/server.crl", ocsp="http://a.example/-/pki/ocsp")
    assert home.basics().pointers(Role.SERVER) == pointers


def test_basics_repr_hides_the_database_url(home: Home) -> None:
    """A database URL may hold a password, so no repr shows it."""
    home.config.write_text(CONFIG + '[state]\nurl = "postgresql+psycopg://u:hunter2@db/x"\n')
    assert "hunter2" not in repr(home.basics())
    assert "hunter2" in home.basics().state_url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trust_domain = ", "is not TOML"),
        ("\x00", "holds NUL bytes"),
        ('trust_domain = "a.b"', r"`digest\.realm` must be text"),
        ("digest = 3", "`trust_domain` must be text"),
        (CONFIG + "[state]\nurl = 3", r"`state\.url` must be text"),
        ("listen = 5\n" + CONFIG, "`listen` must be text"),
        (CONFIG + "algorithms = []", r"`digest\.algorithms` must list"),
        (CONFIG + 'algorithms = "MD5"', r"`digest\.algorithms` must list"),
        (CONFIG + 'algorithms = ["SHA-1"]', r"`digest\.algorithms` must list"),
        (CONFIG + "algorithms = [[]]", r"`digest\.algorithms` must list"),
        (CONFIG + "[pki]\nurl = 5", r"`pki\.url` must be a URL"),
        (CONFIG + '[pki]\nurl = "https://a.example"', r"`pki\.url` must be a URL with http"),
    ],
)
def test_basics_broken_configuration_is_refused(home: Home, text: str, said: str) -> None:
    """A gateway.toml that cannot be used says which key."""
    home.config.write_text(text)
    with pytest.raises(HomeInvalid, match=said):
        home.basics()
