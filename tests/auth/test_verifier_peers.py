"""Digest with real clients over real sockets: what they do with our challenge, and what we do with their answer."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import httpx
import pytest
import requests
from support.digests import PASSWORD, Verification, user

from auth.verifier import Authenticated, AuthReason


class Gate(ThreadingHTTPServer):
    """Answers 200 to a proof and a challenge to everything else; `seen` are the outcomes, None for a proof."""

    daemon_threads = True

    def __init__(self, desk: Verification) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.desk = desk
        self.lock = Lock()
        self.seen: list[AuthReason | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        values = [value.encode("latin-1") for value in self.headers.get_all("Authorization", [])]
        with self.server.lock:
            outcome = self.server.desk.check(*values, method=self.command.encode(), uri=self.path.encode("latin-1"))
            is_good = isinstance(outcome, Authenticated)
            self.server.seen.append(None if isinstance(outcome, Authenticated) else outcome.reason)
            stale = not isinstance(outcome, Authenticated) and outcome.stale
            challenge = self.server.desk.challenge(stale=stale).decode()
        self.send_response(200 if is_good else 401)
        if not is_good:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET  # noqa: N815 - the name that the library calls

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate(Verification(user(password='pä ss"\\:w'), user("bob"))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(60)


def curl(tmp_path: Path, *arguments: str, password: str = 'pä ss"\\:w', name: str = "alice") -> list[str]:
    """The status of each transfer."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    # The password never is an argument, here neither; curl's configuration takes \ as an escape.
    escaped = password.replace("\\", "\\\\").replace('"', '\\"')
    config = tmp_path / "curl.conf"
    config.write_text(f'user = "{name}:{escaped}"\n')
    command = ["curl", "-sS", "-K", str(config), "--digest", "--noproxy", "*", "-m", "20", *arguments]
    command += ["-w", "%{http_code}\\n"] + [part for url in arguments if "://" in url for part in ("-o", "/dev/null")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return run.stdout.split()


def test_curl_is_let_in_after_one_challenge(gate: Gate, tmp_path: Path) -> None:
    """curl answers the challenge, with a password and a target full of special characters, and reuses the nonce."""
    urls = [f"{gate.url}/x?a=b,c&d=%22%5C", f"{gate.url}/y"]
    assert curl(tmp_path, *urls) == ["200", "200"]
    assert gate.seen[:2] == [AuthReason.ABSENT, None]
    assert gate.seen[-1] is None


def test_curl_with_content_is_let_in(gate: Gate, tmp_path: Path) -> None:
    """The method is part of the proof: a POST is a POST in it."""
    assert curl(tmp_path, "-d", "content", f"{gate.url}/x") == ["200"]
    assert gate.seen == [AuthReason.ABSENT, None]


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [("alice", "wrong", AuthReason.BAD_RESPONSE), ("bob", PASSWORD, AuthReason.USER_MISMATCH)],
)
def test_curl_with_wrong_credentials_gives_up(
    gate: Gate, tmp_path: Path, name: str, password: str, why: AuthReason
) -> None:
    """A wrong password, or another user's right one, ends in 401 after one try."""
    assert curl(tmp_path, f"{gate.url}/x", name=name, password=password) == ["401"]
    assert gate.seen == [AuthReason.ABSENT, why]


def test_requests_reuses_the_nonce(gate: Gate) -> None:
    """python-requests pays one challenge for a session."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = requests.auth.HTTPDigestAuth("alice", 'pä ss"\\:w')
        assert [session.get(f"{gate.url}/x?q={number}", timeout=20).status_code for number in range(3)] == [200] * 3
    assert gate.seen == [AuthReason.ABSENT, None, None, None]


def test_httpx_recovers_from_a_nonce_of_before_a_restart(gate: Gate) -> None:
    """A client whose nonce died with the old key is let in again after one 401, without being asked for anything."""
    with httpx.Client(auth=httpx.DigestAuth("alice", 'pä ss"\\:w'), trust_env=False) as client:
        assert client.get(f"{gate.url}/x").status_code == 200
        gate.desk = Verification(user(password='pä ss"\\:w'), key=b"n" * 32)
        assert client.get(f"{gate.url}/x").status_code == 200
    assert gate.seen == [AuthReason.ABSENT, None, AuthReason.NONCE_FORGED, None]
