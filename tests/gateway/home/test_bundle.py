"""What lies in a bundle: texts, and that curl understands them."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import ssl
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.homes import new_home, run_cli

from gateway.config.address import gateway_url
from gateway.home.layout import Home
from pki.names import Role
from rhttp.toml_text import toml_text
from rhttp.worker.bundle_texts import build_curl_conf, build_settings


@pytest.mark.parametrize(
    ("listen", "names", "url"),
    [
        ("127.0.0.1:8443", [], "https://127.0.0.1:8443"),
        ("gw.example.com:443", [], "https://gw.example.com:443"),
        ("[::1]:8443", [], "https://[::1]:8443"),
        ("0.0.0.0:8443", [], "https://localhost:8443"),
        ("0.0.0.0:8443", ["localhost", "gw.example.com"], "https://gw.example.com:8443"),
        ("[::]:8443", ["gw.example.com"], "https://gw.example.com:8443"),
        (":8443", ["gw.example.com"], "https://gw.example.com:8443"),
    ],
)
def test_gateway_url_is_one_that_the_server_certificate_names(listen: str, names: list[str], url: str) -> None:
    """A wildcard address is no address to dial: a name of the certificate stands for it."""
    assert gateway_url(listen, names) == url


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_toml_text_survives_any_content(text: str) -> None:
    """Whatever is in a path or name, TOML reads it back."""
    assert tomllib.loads(f"x = {toml_text(text)}") == {"x": text}


@pytest.mark.parametrize("pool", [None, "render"])
@pytest.mark.parametrize("has_user", [True, False])
def test_settings_hold_what_there_is(pool: str | None, has_user: bool) -> None:
    """Keys without a value are left out, and no path is in it: the files lie beside it."""
    role = Role.WORKER if pool else Role.CLIENT
    text = build_settings(gateway="https://g:1", pool=pool, name="n1", role=role.value, has_user=has_user)
    found = tomllib.loads(text.decode())
    expected = {"gateway": "https://g:1", "name": "n1", "role": role.value}
    if pool:
        expected["pool"] = pool
    if has_user:
        expected["user"] = "n1"
    assert found == expected


def test_curl_conf_without_password_has_curl_ask(tmp_path: Path) -> None:
    """A user whose password is not known here is named alone; a key that is elsewhere is left to fill in."""
    text = build_curl_conf(tmp_path, user="alice", password=None, has_key=False).decode()
    assert '\nuser = "alice"\n' in text
    assert re.search(r"^# key = ", text, re.MULTILINE)


class Digest(http.server.BaseHTTPRequestHandler):
    """Demands Digest with SHA-256 and answers who asked; its own few lines, so that nothing of ours judges itself."""

    password = ""
    realm = "rhttp@example.internal"

    def do_GET(self) -> None:
        """Challenge, or check the response by the formula of RFC 7616 section 3.4.1."""
        field = self.headers.get("Authorization", "")
        values = dict(re.findall(r'(\w+)="?([^",]*)"?', field))
        if not values:
            self.send_response(401)
            challenge = f'Digest realm="{self.realm}", nonce="abc", qop="auth", algorithm=SHA-256'
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return

        def hashed(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        a1 = hashed(f"{values['username']}:{self.realm}:{self.password}")
        a2 = hashed(f"GET:{values['uri']}")
        expected = hashed(f"{a1}:abc:{values['nc']}:{values['cnonce']}:auth:{a2}")
        certificate = self.connection.getpeercert()  # type: ignore[attr-defined]
        names = [value for kind, value in certificate["subjectAltName"] if kind == "URI"]
        content = f"{values['response'] == expected} {values['username']} {names[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a client."""
    made = new_home(tmp_path / "home")
    assert run_cli(made, "issue-client", "alice").exit_code == 0
    return made


@pytest.fixture
def server(home: Home) -> Iterator[int]:
    """A TLS server with the home's server certificate that demands one of its client certificates."""
    Digest.password = (home.bundles / "alice" / "password").read_text().strip()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_cert, home.server_key)
    context.load_verify_locations(home.root_cert)
    context.load_verify_locations(home.ca_cert(Role.CLIENT))
    context.verify_mode = ssl.CERT_REQUIRED
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Digest)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield listener.server_address[1]
    listener.shutdown()
    thread.join(60)
    listener.server_close()


def curl(conf: Path, url: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["curl", "-q", "-sS", "--noproxy", "*", "-K", str(conf), url]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the curl command")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_curl_conf_lets_curl_in_from_any_directory(home: Home, server: int, tmp_path: Path, host: str) -> None:
    """`curl -K curl.conf` trusts the server, shows the certificate and answers the challenge with the password."""
    done = curl(home.bundles / "alice" / "curl.conf", f"https://{host}:{server}/x", tmp_path)
    assert (done.returncode, done.stdout) == (0, "True alice spiffe://example.internal/client/alice"), done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the curl command")
@pytest.mark.parametrize(
    "name",
    [
        "two words",
        " # no comment ",
        "with \"quotes\" and 'others'",
        "back\\slash\\",
        "back\\\\twice\\:x",
        "co:lon",
        "one\\:colon",
        "a = b",
        "tab\tand\nnew line\r",
        "\v{{x}}$HOME%41",
        "büro \U0001f511",
        os.fsdecode(b"no \xff utf-8"),
    ],
)
def test_curl_conf_holds_for_any_path(home: Home, server: int, tmp_path: Path, name: str) -> None:
    """Spaces, quotes, backslashes, `#`, colons, control letters, whatever a path may hold: curl finds the files."""
    place = tmp_path / name / "bundle"
    assert run_cli(home, "issue-client", "alice", "--out", place).exit_code == 0
    shutil.copy(home.bundles / "alice" / "password", place / "password")
    lines = (place / "curl.conf").read_bytes().splitlines(keepends=True)
    user = next(line for line in lines if line.startswith(b"user = "))
    assert user == b'user = "alice"\n'  # the user was there before: its password is in the other bundle
    first = (home.bundles / "alice" / "curl.conf").read_bytes().splitlines(keepends=True)
    known = next(line for line in first if line.startswith(b"user = "))
    (place / "curl.conf").write_bytes(b"".join(known if line == user else line for line in lines))
    done = curl(place / "curl.conf", f"https://localhost:{server}/x", tmp_path)
    assert (done.returncode, done.stdout) == (0, "True alice spiffe://example.internal/client/alice"), done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the curl command")
def test_curl_conf_trusts_our_root_only(home: Home, server: int, tmp_path: Path) -> None:
    """A server of another PKI is not talked to."""
    other = new_home(tmp_path / "other")
    conf = home.bundles / "alice" / "curl.conf"
    (home.bundles / "alice" / "trust.pem").write_bytes(other.root_cert.read_bytes())
    done = curl(conf, f"https://localhost:{server}/x", tmp_path)
    assert (done.returncode, done.stdout) == (60, "")
