"""``rhttp-pki enroll`` and ``rhttp-enroll``: what they take, tell and keep to themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.estserver import PASSWORD, SECRET, TOKEN, EstServer, Reply, Seen, cas, est_server, problem

from gateway.cli.main import cli
from rhttp.worker.bundle import load_bundle
from rhttp.worker.enroll_command import enroll_command
from rhttp.worker.est import KEY_TYPES, ROLES


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text(f"{TOKEN}\n")
    made.chmod(0o600)
    return made


def arguments(server: EstServer, token: Path, *more: str) -> list[str]:
    where = ["--gateway", server.url, "--fingerprint", cas().fingerprint]
    return [*where, "--token-file", str(token), "--out", str(token.parent / "w1"), "--wait", "0", *more]


def run(server: EstServer, token: Path, *more: str) -> Result:
    result = CliRunner().invoke(cli, ["enroll", *arguments(server, token, *more)])
    assert SECRET not in result.output
    assert PASSWORD not in result.output
    return result


def told(result: Result) -> str:
    """The one line of a refusal."""
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line


def test_enroll_says_who_was_enrolled_where_and_until_when(server: EstServer, token: Path) -> None:
    """One line on stdout, and the bundle is there."""
    result = run(server, token, "--name", "w7", "--key-type", "ed25519")
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"worker w7 of pool render: enrolled at {server.gateway_url} until 20")
    assert line.endswith(f"in {token.parent / 'w1'}")
    assert load_bundle(token.parent / "w1").password == PASSWORD


def test_enroll_of_the_worker_side_alone_takes_the_same(server: EstServer, token: Path) -> None:
    """`rhttp-enroll` is for machines that have `rhttp` and not `rhttp-pki`."""
    result = CliRunner().invoke(enroll_command, arguments(server, token, "--role", "client", "--name", "alice"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("client alice: enrolled at")


def test_enroll_offers_the_roles_and_key_types_that_there_are() -> None:
    """The options are written down so that a wrong one is refused before the libraries are loaded."""
    choices = {option.name: getattr(option.type, "choices", None) for option in enroll_command.params}
    assert (tuple(choices["role"]), tuple(choices["key_type"])) == (ROLES, tuple(KEY_TYPES))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--gateway", "http://h"], "--gateway is not of the form"),
        (["--gateway", "https://h/path"], "--gateway is not of the form"),
        (["--fingerprint", "ab"], "--fingerprint is no SHA-256 fingerprint"),
        (["--name", "W1"], "--name is no name"),
        (["--role", "server"], "--role"),
        (["--key-type", "rsa512"], "--key-type"),
    ],
)
def test_enroll_with_a_wrong_option_is_wrong_usage(more: list[str], says: str, server: EstServer, token: Path) -> None:
    """Exit status 2, and nobody is asked."""
    result = run(server, token, *more)
    assert (result.exit_code, server.seen) == (2, [])
    assert says in result.stderr


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (TOKEN, 0o644, "is open to others"),
        (TOKEN, 0o620, "is open to others"),
        ("", 0o600, "is no enrolment token"),
        (SECRET, 0o600, "is no enrolment token"),
        (f"\n{TOKEN}", 0o600, "is no enrolment token"),
        (TOKEN.encode("utf-16"), 0o600, "is UTF-16"),
        (b"\xff\xfe\xfd", 0o600, "save it as UTF-8"),
        (None, 0o600, "cannot read the token file"),
    ],
)
def test_enroll_with_a_token_file_that_cannot_be_used_says_why(
    content: str | bytes | None, mode: int, says: str, server: EstServer, token: Path
) -> None:
    """Its name and the mend, nothing of what is in it; nobody is asked."""
    if content is None:
        token.unlink()
    else:
        token.write_bytes(content if isinstance(content, bytes) else content.encode())
        token.chmod(mode)
    line = told(run(server, token))
    assert says in line
    assert str(token) in line
    assert server.seen == []


@pytest.mark.parametrize("form", [f"\ufeff{TOKEN}\r\n", f"{TOKEN}", f"{TOKEN} \nmore\n"])
def test_enroll_takes_a_token_file_as_editors_write_it(form: str, server: EstServer, token: Path) -> None:
    """Byte order mark, line ends, blanks behind, further lines."""
    token.write_bytes(form.encode())
    assert run(server, token).exit_code == 0


def test_enroll_into_a_place_that_is_taken_is_refused(server: EstServer, token: Path) -> None:
    """The bundle that is there is somebody's."""
    assert run(server, token).exit_code == 0
    before = len(server.seen)
    assert "name a new directory" in told(run(server, token))
    assert len(server.seen) == before


def test_enroll_that_is_refused_is_one_line(server: EstServer, token: Path) -> None:
    """Exit status 1, the mend on stderr."""
    server.acts["simpleenroll"] = lambda _: problem(403)
    assert "audit log" in told(run(server, token))
    assert [path.name for path in token.parent.iterdir()] == ["token"]


def test_enroll_without_a_password_is_a_failure_with_the_mend(server: EstServer, token: Path) -> None:
    """The bundle stays; the exit status says that something is to be done."""
    server.acts["credentials"] = lambda _: problem(409)
    assert "rhttp-pki user passwd w1" in told(run(server, token))
    assert (token.parent / "w1" / "cert.pem").is_file()


@pytest.mark.parametrize("step", ["cacerts", "simpleenroll", "credentials", "none"])
@pytest.mark.parametrize("program", [["gateway.cli.main", "enroll"], ["rhttp.worker.enroll_command"]])
def test_enroll_shows_no_secret_wherever_it_ends(step: str, program: list[str], server: EstServer, token: Path) -> None:
    """Not in what it prints with tracebacks asked for, nor in its arguments or environment, which others can see."""
    server.acts[step] = lambda _: problem(500, "internal")
    seen: list[bytes] = []

    started = threading.Event()
    plain = server.answer

    def look(request: Seen) -> Reply:
        assert started.wait(60)
        seen.extend(Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        return plain(request)

    server.answer = look  # type: ignore[method-assign]
    command = [sys.executable, "-m", *program, *arguments(server, token)]
    environment = {**os.environ, "RHTTP_PKI_DEBUG": "1", "PYTHONWARNINGS": "default"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    started.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == (0 if step == "none" else 1), err
    shown = b"".join([out, err, *seen])
    assert len(seen) >= 2
    assert SECRET.encode() not in shown
    assert PASSWORD.encode() not in shown
    assert b"PRIVATE KEY" not in shown
    assert len(err.splitlines()) == (0 if step == "none" else 1), err
