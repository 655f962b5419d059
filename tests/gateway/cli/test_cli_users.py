"""`rhttp-pki user`: what each command does, what it refuses, and that passwords go nowhere but where they should."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gateway.cli.users
from gateway.audit.line import AuditUnavailable
from gateway.cli.main import cli
from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home
from gateway.state.database import open_state
from gateway.state.snapshot_query import load_snapshot
from rhttp.digest.formula import Algorithm, ha1

REALM = "rhttp@example.internal"
PASSPHRASE = b"open sesame"


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, Path]:
    """One plain home and one that is sealed; to be copied."""
    base = tmp_path_factory.mktemp("homes")
    for is_sealed in (False, True):
        plan = HomePlan(trust_domain="example.internal", realm=REALM, passphrase=PASSPHRASE if is_sealed else None)
        make_home(Home(base / str(is_sealed)), plan, at=datetime.now(UTC))
    return {is_sealed: base / str(is_sealed) for is_sealed in (False, True)}


class Bench:
    """A home, and the commands on it."""

    def __init__(self, home: Path, passphrase_file: Path | None = None) -> None:
        self.home = home
        self.common = ["--home", str(home)]
        self.passphrase_file = passphrase_file

    def run(self, *arguments: str, given: str | bytes | None = None, sealed: bool = True) -> Result:
        extra = ["--passphrase-file", str(self.passphrase_file)] if self.passphrase_file and sealed else []
        return CliRunner().invoke(cli, ["user", *arguments, *self.common, *extra], input=given)

    def done(self, *arguments: str, given: str | bytes | None = None, sealed: bool = True) -> Result:
        result = self.run(*arguments, given=given, sealed=sealed)
        assert result.exit_code == 0, result.output
        return result

    def refused(self, *arguments: str, given: str | bytes | None = None, status: int = 1, sealed: bool = True) -> str:
        result = self.run(*arguments, given=given, sealed=sealed)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        return result.stderr

    def add(self, name: str, password: str = "pw") -> None:
        self.done("add", name, "--password-file", "-", given=password + "\n")

    def known(self) -> dict[str, tuple[bool, dict[str, str]]]:
        home = Home(self.home)
        key = home.read_secret(home.state_key, PASSPHRASE if self.passphrase_file else None)
        engine = open_state(home, DEFAULT_STATE_URL)
        try:
            users = load_snapshot(engine, key).users
        finally:
            engine.dispose()
        return {name: (user.enabled, dict(user.ha1)) for name, user in users.items()}

    def audited(self) -> list[dict[str, Any]]:
        """The lines about users; making the home writes others."""
        files = sorted((self.home / "audit").glob("cli-*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if line["event"].startswith("user.")]


@pytest.fixture
def bench(homes: Mapping[bool, Path], tmp_path: Path) -> Bench:
    shutil.copytree(homes[False], tmp_path / "home")
    return Bench(tmp_path / "home")


@pytest.fixture
def sealed(homes: Mapping[bool, Path], tmp_path: Path) -> Bench:
    shutil.copytree(homes[True], tmp_path / "sealed")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "passphrase").chmod(0o600)
    return Bench(tmp_path / "sealed", tmp_path / "passphrase")


def right(name: str, password: str, *algorithms: Algorithm) -> dict[str, str]:
    return {one.value: ha1(name, REALM, password, one) for one in algorithms or (Algorithm.SHA_256,)}


# --- Where passwords come from and go to -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret\n", "secret"),
        (b"secret", "secret"),
        (b"secret\r\nsecond line", "secret"),
        (b"  two words \n", "  two words "),
        ("pa\u0308ss\n".encode(), "päss"),
    ],
)
def test_add_takes_the_first_line_of_a_file(bench: Bench, tmp_path: Path, content: bytes, password: str) -> None:
    """The line without its end, spaces kept, in NFC."""
    (tmp_path / "pw").write_bytes(content)
    bench.done("add", "alice", "--password-file", str(tmp_path / "pw"))
    assert bench.known() == {"alice": (True, right("alice", password))}


def test_add_takes_standard_input(bench: Bench) -> None:
    """``--password-file -`` is for pipes."""
    result = bench.done("add", "alice", "--password-file", "-", given="secret\n")
    assert bench.known() == {"alice": (True, right("alice", "secret"))}
    assert "secret" not in result.output


def test_add_asks_twice_on_a_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the password is asked for, unseen, until both answers agree."""
    monkeypatch.setattr(gateway.cli.users, "_is_interactive", lambda: True)
    result = bench.done("add", "alice", given="one\ntwo\nsecret\nsecret\n")
    assert bench.known() == {"alice": (True, right("alice", "secret"))}
    assert not any(word in result.output for word in ("one\n", "two\n", "secret"))


def test_add_generates_a_password_and_prints_it_alone(bench: Bench) -> None:
    """32 URL-safe characters, alone on standard output, good for the user."""
    result = bench.done("add", "alice", "--generate")
    password = result.stdout.removesuffix("\n")
    assert len(password) == 32
    assert bench.known() == {"alice": (True, right("alice", password))}
    assert "alice" in result.stderr


def test_add_generates_a_password_into_a_new_private_file(bench: Bench, tmp_path: Path) -> None:
    """With --out nothing is printed; the file is the owner's alone."""
    out = tmp_path / "password"
    result = bench.done("add", "alice", "--generate", "--out", str(out))
    password = out.read_text().removesuffix("\n")
    assert bench.known() == {"alice": (True, right("alice", password))}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert password not in result.output


def test_generated_file_is_never_an_old_one_and_does_not_stay_after_a_failure(bench: Bench, tmp_path: Path) -> None:
    """An existing file is left alone; a password that was not set does not lie about."""
    (tmp_path / "old").write_text("keep")
    assert "exists" in bench.refused("add", "alice", "--generate", "--out", str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "keep"
    assert bench.known() == {}
    bench.add("bob")
    bench.refused("add", "bob", "--generate", "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"", b"\nsecret\n", b"a\x00b\n", b"\xff\n", b"a" * 1025])
def test_add_of_a_bad_password_is_refused_without_showing_it(bench: Bench, content: bytes) -> None:
    """Empty, with controls, not UTF-8, too long: one line says so, and nobody is added."""
    said = bench.refused("add", "alice", "--password-file", "-", given=content)
    assert len(said.splitlines()) == 1
    assert "aaa" not in said
    assert bench.known() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "alice"),
        ("add", "alice", "--generate", "--password-file", "-"),
        ("add", "alice", "--password-file", "-", "--out", "x"),
        ("add", "Alice", "--generate"),
        ("add", "--generate"),
        ("add", "alice", "secret"),
        ("passwd", "alice", "--password", "secret"),
        ("export-htdigest",),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_told_with_status_2(bench: Bench, arguments: tuple[str, ...]) -> None:
    """No terminal and no file, two sources, a bad name, a password as an argument: wrong usage, nothing done."""
    assert bench.refused(*arguments, status=2)
    assert bench.known() == {}


def test_missing_password_file_is_told_in_one_line(bench: Bench, tmp_path: Path) -> None:
    """The line names the file and the mend."""
    said = bench.refused("add", "alice", "--password-file", str(tmp_path / "nowhere"))
    assert "nowhere" in said
    assert len(said.splitlines()) == 1


# --- What the commands do --------------------------------------------------------------------------------------------


def test_life_of_a_user_is_kept_and_audited(bench: Bench) -> None:
    """Added, given a new password, disabled, enabled, removed: each once in the state and once in the log."""
    bench.add("alice", "first-secret")
    bench.done("passwd", "alice", "--password-file", "-", given="second-secret\n")
    assert bench.known() == {"alice": (True, right("alice", "second-secret"))}
    for _ in range(2):
        bench.done("disable", "alice")
        assert bench.known()["alice"][0] is False
    for _ in range(2):
        bench.done("enable", "alice")
        assert bench.known() == {"alice": (True, right("alice", "second-secret"))}
    bench.done("remove", "alice")
    assert bench.known() == {}
    events = ["user.added", "user.password", "user.disabled", "user.enabled", "user.removed"]
    assert [(line["event"], line["detail"]["user"], line["outcome"]) for line in bench.audited()] == [
        (event, "alice", "done") for event in events
    ]
    written = b"".join(file.read_bytes() for file in bench.home.rglob("*") if file.is_file())
    assert b"first-secret" not in written
    assert b"second-secret" not in written
    for secret in (*right("alice", "first-secret").values(), *right("alice", "second-secret").values()):
        assert secret.encode() not in written


@pytest.mark.parametrize("act", ["passwd", "disable", "enable", "remove"])
def test_nobody_cannot_be_changed(bench: Bench, act: str) -> None:
    """One line, status 1, nothing audited."""
    options = ["--password-file", "-"] if act == "passwd" else []
    assert "ghost" in bench.refused(act, "ghost", *options, given="pw\n")
    assert bench.audited() == []


def test_add_of_an_existing_user_is_refused(bench: Bench) -> None:
    """The old password stays; the line names `user passwd`."""
    bench.add("alice", "old")
    assert "user passwd alice" in bench.refused("add", "alice", "--password-file", "-", given="new\n")
    assert bench.known() == {"alice": (True, right("alice", "old"))}


def test_list_shows_users_without_credentials(bench: Bench) -> None:
    """For people a line each; as JSON the documented shape."""
    for name in ("bob", "alice"):
        bench.add(name)
    bench.done("disable", "bob")
    lines = bench.done("list").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["alice", "enabled", "-", "SHA-256"],
        ["bob", "disabled", "-", "SHA-256"],
    ]
    shown = json.loads(bench.done("list", "--json").stdout)
    assert list(shown) == ["users"]
    alice, bob = shown["users"]
    assert list(alice) == ["name", "role", "enabled", "algorithms", "created", "changed"]
    assert (alice["name"], alice["role"], alice["enabled"], alice["algorithms"]) == ("alice", None, True, ["SHA-256"])
    assert bob["enabled"] is False
    assert datetime.fromisoformat(alice["created"]).tzinfo is not None


def test_list_of_nobody_is_empty(bench: Bench) -> None:
    """No users is not a failure."""
    assert bench.done("list").stdout == ""
    assert json.loads(bench.done("list", "--json").stdout) == {"users": []}


def test_algorithms_of_the_configuration_are_stored(bench: Bench) -> None:
    """What `[digest] algorithms` offers is what a password is kept for."""
    config = bench.home / "gateway.toml"
    config.write_text(
        f'trust_domain = "example.internal"\n[digest]\nrealm = "{REALM}"\nalgorithms = ["SHA-256", "MD5"]\n'
    )
    bench.add("alice")
    assert bench.known() == {"alice": (True, right("alice", "pw", Algorithm.SHA_256, Algorithm.MD5))}
    config.write_text(config.read_text().replace("MD5", "ROT13"))
    assert "digest.algorithms" in bench.refused("add", "bob", "--password-file", "-", given="pw\n")


# --- Export ----------------------------------------------------------------------------------------------------------


def test_export_writes_a_private_file_and_says_what_was_left_out(bench: Bench, tmp_path: Path) -> None:
    """``user:realm:HA1`` of the enabled users, 0600, never over an old file, and audited."""
    for name in ("bob", "alice"):
        bench.add(name)
    bench.done("disable", "bob")
    out = tmp_path / "htdigest"
    result = bench.done("export-htdigest", "--out", str(out))
    assert out.read_text() == f"alice:{REALM}:{right('alice', 'pw')['SHA-256']}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "1 users exported, 1 left out" in result.stderr
    assert (bench.audited()[-1]["event"], bench.audited()[-1]["detail"]["count"]) == ("user.exported", 1)
    assert "exists" in bench.refused("export-htdigest", "--out", str(out))


def test_export_to_standard_output_is_the_lines_alone(bench: Bench) -> None:
    """``--out -`` for pipes; an algorithm that nobody has gives no lines."""
    bench.add("alice")
    assert bench.done("export-htdigest", "--out", "-").stdout == f"alice:{REALM}:{right('alice', 'pw')['SHA-256']}\n"
    assert bench.done("export-htdigest", "--out", "-", "--algorithm", "MD5").stdout == ""


# --- A sealed home ---------------------------------------------------------------------------------------------------


def test_sealed_home_needs_the_passphrase_for_passwords_only(sealed: Bench) -> None:
    """Setting and exporting passwords need the state key; locking somebody out must not."""
    sealed.add("alice")
    assert sealed.known() == {"alice": (True, right("alice", "pw"))}
    for arguments in (
        ("add", "bob", "--generate"),
        ("passwd", "alice", "--generate"),
        ("export-htdigest", "--out", "-"),
    ):
        assert "passphrase" in sealed.refused(*arguments, sealed=False)
    sealed.done("disable", "alice", sealed=False)
    sealed.done("list", sealed=False)
    sealed.done("remove", "alice", sealed=False)
    assert sealed.known() == {}


# --- A running gateway, a failing log --------------------------------------------------------------------------------


def test_running_gateway_is_told_after_every_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked to refresh once what it will read is there; how many connections it cut is told."""
    seen: list[tuple[str, str, dict[str, bool]]] = []

    def call(_home: Path, method: str, path: str, *_: object, **__: object) -> dict[str, Any]:
        seen.append((method, path, {name: enabled for name, (enabled, _) in bench.known().items()}))
        return {"version": 1, "cut": 3, "processes": 1}

    monkeypatch.setattr("gateway.admin.client.call", call)
    bench.add("alice")
    assert "cut 3 connection" in bench.done("disable", "alice").stdout
    bench.done("enable", "alice")
    bench.done("passwd", "alice", "--generate")
    bench.done("remove", "alice")
    states = [{"alice": True}, {"alice": False}, {"alice": True}, {"alice": True}, {}]
    assert seen == [("POST", "/refresh", state) for state in states]


def test_without_an_audit_line_nobody_is_let_in(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adding, a new password and enabling are taken back when the log cannot be written."""
    bench.add("alice", "old")
    bench.done("disable", "alice")
    _break_the_log(monkeypatch)
    bench.refused("add", "bob", "--generate", "--out", str(tmp_path / "pw"))
    bench.refused("passwd", "alice", "--password-file", "-", given="new\n")
    bench.refused("enable", "alice")
    assert bench.known() == {"alice": (False, right("alice", "old"))}
    assert not (tmp_path / "pw").exists()


@pytest.mark.parametrize(("act", "left"), [("disable", {"alice": False}), ("remove", {})])
def test_without_an_audit_line_people_are_still_locked_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, act: str, left: dict[str, bool]
) -> None:
    """A full disk must not keep an intruder in: it is done, the gateway is told, and the failure is told too."""
    bench.add("alice")
    told: list[str] = []
    monkeypatch.setattr("gateway.home.session.HomeSession.tell_gateway", lambda _session, path: told.append(path))
    _break_the_log(monkeypatch)
    result = bench.run(act, "alice")
    assert result.exit_code == 1
    assert "disk full" in result.stderr
    assert told == ["/refresh"]
    assert {name: enabled for name, (enabled, _) in bench.known().items()} == left


def _break_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AuditUnavailable("disk full")

    monkeypatch.setattr("gateway.audit.cli_stream.append_cli", broken)
