"""``gateway``, ``status``, ``reload`` and ``drain`` as an operator meets them: texts, exit statuses, real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from support.runhomes import PASSPHRASE, append, copy_home, set_key
from support.serving import FAKE, Served

from gateway.audit.checkpoints import read_public_key
from gateway.audit.line import parse_line
from gateway.audit.verify import verify_directory
from gateway.cli.main import cli


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return copy_home(tmp_path / "home")


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    with Served(home, command=FAKE) as gateway:
        yield gateway


def run(home: Path, *arguments: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(cli, [arguments[0], "--home", str(home), *arguments[1:]])


def start(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`gateway` in a process of its own, for starts that are refused."""
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "gateway", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# -- gateway -----------------------------------------------------------------------------------------------------------


def test_check_of_a_sound_home_is_0_and_touches_nothing(home: Path) -> None:
    """--check says yes, and leaves neither lock nor socket."""
    result = run(home, "gateway", "--check")
    assert (result.exit_code, result.stdout) == (0, "gateway: everything is in order\n")
    assert list((home / "run").iterdir()) == []


def test_check_of_a_spoilt_home_is_1_with_every_problem_on_stderr(home: Path) -> None:
    """Each problem is one line with its key path, all of them at once."""
    set_key(home, "listen", '"nowhere"')
    append(home, '[pools.render]\nmode = "magic"')
    (home / "policy.cedar").write_text("permit (principal);")
    result = run(home, "gateway", "--check")
    assert (result.exit_code, result.stdout) == (1, "")
    paths = [line.split(": ")[1] for line in result.stderr.splitlines()]
    assert paths == ["listen", "pools.render.mode", "policy"]


def test_check_tells_whom_the_policy_names_and_nobody_is(home: Path) -> None:
    """What `policy check` warns of, the check of the whole warns of too; it is no problem."""
    with (home / "policy.cedar").open("a") as file:
        file.write('\n@id("later") forbid (principal == Client::"nobody", action, resource);\n')
    result = run(home, "gateway", "--check")
    assert (result.exit_code, result.stdout) == (0, "gateway: everything is in order\n")
    assert ": warning: later: there is no client nobody in this home yet" in result.stderr


def test_check_beside_a_running_gateway_is_allowed(served: Served, home: Path) -> None:
    """Who checks a new file need not stop the old gateway."""
    assert run(home, "gateway", "--check").exit_code == 0


def test_start_refused_tells_what_check_tells(home: Path) -> None:
    """A start and a check are refused by the same words."""
    set_key(home, "listen", '"nowhere"')
    started = start(home)
    assert (started.returncode, started.stdout) == (1, "")
    assert started.stderr == run(home, "gateway", "--check").stderr
    assert [path.name for path in (home / "run").iterdir()] == ["gateway.lock"]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_start_on_a_port_in_use_is_refused_and_leaves_nothing(home: Path, processes: str) -> None:
    """The address is named, and no other listener is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = start(home, "--listen", address, "--processes", processes)
    assert (started.returncode, started.stdout) == (1, "")
    assert f"cannot listen on {address}" in started.stderr
    assert [path.name for path in (home / "run").iterdir()] == ["gateway.lock"]


def test_start_with_wrong_usage_is_2(home: Path) -> None:
    """Nonsense on the command line is not a failure of the gateway."""
    assert run(home, "gateway", "--processes", "0").exit_code == 2


def test_second_gateway_of_a_home_names_the_first(served: Served, home: Path) -> None:
    """One gateway a home: the second one says who is there, and the first one runs on."""
    started = start(home)
    assert (started.returncode, started.stdout) == (1, "")
    assert f"a gateway with pid {served.pid} already runs" in started.stderr
    assert run(home, "status").exit_code == 0


def test_gateway_killed_leaves_a_home_that_starts_again(home: Path) -> None:
    """Sockets and lock of a gateway that was killed stand in nobody's way."""
    with Served(home, command=FAKE) as first:
        first.signal(signal.SIGKILL)
        first.ended()
    assert (home / "run" / "admin.sock").exists()
    with Served(home, command=FAKE) as second:
        assert set(second.listeners) == {"tls", "dispatch"}


def test_gateway_sealed_opens_with_its_passphrase_and_shows_it_nowhere(tmp_path: Path) -> None:
    """The passphrase reaches the supervisor by a file, and no process shows it."""
    home = copy_home(tmp_path / "home", sealed=True)
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    with Served(home, str(secret), command=FAKE) as gateway:
        (process,) = json.loads(run(home, "status", "--json").stdout)["processes"]
        for pid in (gateway.pid, process["pid"]):
            for name in ("cmdline", "environ"):
                assert PASSPHRASE not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert PASSPHRASE.decode() not in gateway.errors()


def test_gateway_makes_sockets_and_files_for_the_owner_only(served: Served, home: Path) -> None:
    """What a gateway makes in its home is nobody else's, save that the group may reach the dispatch socket."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / "run").iterdir()}
    assert modes == {"admin.sock": 0o600, "dispatch.sock": 0o660, "gateway.lock": 0o600, "gateway.json": 0o600}


def test_gateway_with_several_processes_is_one_to_its_operator(home: Path) -> None:
    """One line a listener, sockets between the processes for the owner only, and all of it gone afterwards."""
    set_key(home, "processes", "2")
    with Served(home, command=FAKE) as served:
        assert len(served.lines) == 3
        assert [path.stat().st_mode & 0o777 for path in sorted((home / "run").glob("p?.sock"))] == [0o600] * 2
        shown = run(home, "status").stdout
        assert "p0 pid" in shown
        assert "p1 pid" in shown
        assert run(home, "drain").exit_code == 0
        assert served.ended() == 0
    assert [path.name for path in (home / "run").iterdir()] == ["gateway.lock"]


def test_gateway_raises_its_soft_limit_on_files(served: Served) -> None:
    """The soft limit that a login shell gives is not what a gateway can do with."""
    (line,) = (text for text in Path(f"/proc/{served.pid}/limits").read_text().splitlines() if "open files" in text)
    assert line.split()[3] == line.split()[4]


@pytest.mark.parametrize(("processes", "needed"), [(1, 1002592), (2, 1002600)])
def test_gateway_short_of_files_says_so_and_starts(home: Path, processes: int, needed: int) -> None:
    """A limit that does not suffice is told with both numbers."""
    append(home, "[limits]\nconnections = 1000000")
    set_key(home, "processes", str(processes))
    with Served(home, command=FAKE) as gateway:
        assert f"limits.connections = 1000000 needs {needed}" in gateway.errors()


# -- status, reload, drain ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "reload", "drain"])
def test_command_without_a_gateway_is_1_with_one_line(home: Path, command: str) -> None:
    """What can only be asked of a running gateway says that none runs, and how to start it."""
    result = run(home, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "no gateway runs" in result.stderr


def test_status_json_has_its_documented_shape(served: Served, home: Path) -> None:
    """Programs find the same keys in every version."""
    status = json.loads(run(home, "status", "--json").stdout)
    keys = "version pid home started draining listeners config state notices audit processes issuer connections pools"
    assert set(status) == set(keys.split())
    assert status["pid"] == served.pid
    assert status["listeners"]["tls"]["url"] == served.listeners["tls"]
    assert set(status["state"]) == {"version", "readable", "fresh_at"}
    assert set(status["config"]) == {"generation", "since"}


def test_status_text_names_listeners_processes_and_pools(served: Served, home: Path) -> None:
    """A person sees where it listens, who runs and what is free."""
    shown = run(home, "status").stdout
    assert served.listeners["tls"] in shown
    assert f"{home}/run/dispatch.sock" in shown
    assert "p0 pid" in shown
    assert "render" in shown


def test_reload_takes_up_a_new_policy(served: Served, home: Path) -> None:
    """A good change is taken up and counted."""
    (home / "policy.cedar").write_text((home / "policy.cedar").read_text() + "\n// changed\n")
    result = run(home, "reload")
    assert (result.exit_code, result.stdout) == (0, "reloaded; generation 2\n")
    (process,) = json.loads(run(home, "status", "--json").stdout)["processes"]
    assert process["policy"].endswith("// changed\n")


def test_reload_of_a_bad_file_is_1_with_every_problem_and_changes_nothing(served: Served, home: Path) -> None:
    """A bad change is refused in full, and the old configuration stays."""
    append(home, '[pools.render]\nmode = "magic"')
    (home / "policy.cedar").write_text("permit (principal);")
    result = run(home, "reload")
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["pools.render.mode", "policy", "Error"]
    assert json.loads(run(home, "status", "--json").stdout)["config"]["generation"] == 1


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("listen", '"127.0.0.1:1"', "cannot change while the gateway runs"),
        ("dispatch", '"127.0.0.1:2"', "cannot change while the gateway runs"),
        ("trust_domain", '"other.internal"', "this home was made for 'test.internal'"),
    ],
)
def test_reload_of_a_fixed_key_names_it(served: Served, home: Path, key: str, value: str, why: str) -> None:
    """What cannot change while it runs, or ever, is refused by name."""
    set_key(home, key, value)
    result = run(home, "reload")
    assert result.exit_code == 1
    assert f"{key}: {why}" in result.stderr


def test_server_certificate_that_was_revoked_is_told_by_the_running_gateway(served: Served, home: Path) -> None:
    """Status says it with the mend, a reload is refused for it, and `issue-server` is the mend."""
    assert json.loads(run(home, "status", "--json").stdout)["notices"] == []
    leaf = x509.load_pem_x509_certificate((home / "certs" / "server.pem").read_bytes())
    revoked = run(home, "revoke", "--serial", f"{leaf.serial_number:x}")
    assert (revoked.exit_code, "rhttp-pki issue-server" in revoked.stderr) == (0, True)
    said = "certs/server.pem: was revoked; make a new one with `rhttp-pki issue-server`"
    assert said in run(home, "status").stdout
    refused = run(home, "reload")
    assert (refused.exit_code, said in refused.stderr) == (1, True)
    assert run(home, "issue-server").exit_code == 0
    assert json.loads(run(home, "status", "--json").stdout)["notices"] == []
    assert run(home, "reload").stderr == ""


def test_drain_returns_when_the_gateway_has_ended_with_0(served: Served, home: Path) -> None:
    """After `drain` there is no gateway, no socket and no note; its lines are signed."""
    result = run(home, "drain")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "drained"
    assert served.ended() == 0
    assert [path.name for path in (home / "run").iterdir()] == ["gateway.lock"]


@pytest.mark.parametrize(
    ("word", "said", "status"),
    [
        ("cut-in-drain", "cut when its time was up: 2 requests, 1 connection", 0),
        ("no-line", "p0 ends without its gateway.stop", 1),
    ],
)
def test_drain_that_was_no_orderly_one_is_1_and_says_why(home: Path, word: str, said: str, status: int) -> None:
    """What was cut, by kind, or what the log does not know; the gateway's own status tells of the second."""
    with (home / "policy.cedar").open("a") as policy:
        policy.write(f"\n// {word}\n")
    with Served(home, command=FAKE) as gateway:
        result = run(home, "drain")
        assert (result.exit_code, said in result.stderr) == (1, True)
        assert gateway.ended() == status
        assert f"drain: {said}" in gateway.errors()


def test_acts_of_the_operator_are_in_the_audit_log_and_signed(served: Served, home: Path) -> None:
    """Reloads and drains are lines of the `cli` stream, under the gateway's signature."""
    assert run(home, "reload").exit_code == 0
    assert run(home, "drain").exit_code == 0
    assert served.ended() == 0
    lines = (home / "audit" / "cli-000001.jsonl").read_bytes().splitlines()
    events = [parsed.event for line in lines if (parsed := parse_line(line)) is not None]
    assert events[-2:] == ["admin.reload", "admin.drain"]
    report = verify_directory(home / "audit", read_public_key(home / "certs" / "checkpoint.pub"))
    assert [stream.uncovered for stream in report.streams if stream.stream == "cli"] == [0]


def test_signal_to_the_whole_group_still_drains(home: Path) -> None:
    """A service manager that signals every process gets an orderly end all the same."""
    with Served(home, command=FAKE) as gateway:
        (process,) = json.loads(run(home, "status", "--json").stdout)["processes"]
        for pid in (process["pid"], gateway.pid):
            os.kill(pid, signal.SIGTERM)
        assert gateway.ended() == 0
