"""Loading a home: what passes starts, what does not is told at once and in full."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.runhomes import PASSPHRASE, append, copy_home, set_key

from gateway.cli.main import cli
from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.config.values import LoadFailed
from gateway.control.descriptors import parse_arguments
from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home
from gateway.state.database import StateUnavailable, bump, open_state
from gateway.supervisor.load import Loaded, load
from pki.keys import generate_key, private_key_pem
from pki.names import Role


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return copy_home(tmp_path / "home")


def load_home(place: Path, passphrase: bytes | None = None, **overrides: object) -> Loaded:
    return load(place, overrides=overrides, passphrase=passphrase)


def problems_of(place: Path, passphrase: bytes | None = None, **overrides: object) -> dict[str, str]:
    """The problems by key path."""
    with pytest.raises(LoadFailed) as caught:
        load_home(place, passphrase, **overrides)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_home_fresh_loads_and_its_material_parses(home: Path) -> None:
    """What `init` makes can be run as it is."""
    loaded = load_home(home)
    inputs = loaded.inputs("p0", snapshot=loaded.snapshot, nonce_key=b"n" * 32)
    assert inputs.config() == loaded.config
    assert (inputs.stream, inputs.home) == ("p0", str(home))
    assert inputs.server_key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert set(inputs.trust) == {"root", "client", "worker", "master", "server"}


def test_home_sealed_loads_with_its_passphrase_only(tmp_path: Path) -> None:
    """The server's key reaches the processes unsealed, and nothing else opens it."""
    home = copy_home(tmp_path / "home", sealed=True)
    assert load_home(home, PASSPHRASE).shared.server_key.startswith(b"-----BEGIN PRIVATE KEY-----")
    wrong, absent = problems_of(home, b"wrong"), problems_of(home)
    assert set(wrong) == set(absent) == {"keys/server.key", "keys/checkpoint.key", "keys/state.key"}
    assert "passphrase does not open" in wrong["keys/server.key"]
    assert "--passphrase-file" in absent["keys/server.key"]


def test_home_opens_no_ca_key(home: Path) -> None:
    """The gateway runs without the keys that could make identities."""
    for role in Role:
        (home / "keys" / f"{role.value}-ca.key").unlink()
    (home / "keys" / "root.key").unlink()
    load_home(home)


def test_loaded_shows_no_key(home: Path) -> None:
    """A loaded home in a log gives nothing away."""
    loaded = load_home(home)
    assert repr(loaded) == f"Loaded(home={loaded.home!r}, state={loaded.snapshot.version}, <keys withheld>)"


def test_problems_of_all_kinds_are_told_together(home: Path) -> None:
    """One run of --check shows the whole of what is to be mended."""
    set_key(home, "listen", '"nowhere"')
    append(home, '[pools.render]\nmode = "magic"')
    (home / "policy.cedar").write_text("permit (principal, action, resource)")
    (home / "keys" / "server.key").unlink()
    (home / "certs" / "client-ca.pem").write_text("nonsense")
    found = problems_of(home, processes=2)
    assert set(found) >= {"listen", "pools.render.mode", "policy", "keys/server.key", "certs"}


def remove(name: str) -> Callable[[Path], object]:
    return lambda home: (home / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda home: (home / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "path", "message"),
    [
        pytest.param(write("gateway.toml", "= 1"), "gateway.toml, line 1, column 1", "not TOML", id="config syntax"),
        pytest.param(remove("policy.cedar"), "policy", "", id="policy missing"),
        pytest.param(write("policy.cedar", "permit (principal);"), "policy", "policy.cedar:1", id="policy syntax"),
        pytest.param(remove("certs/root.pem"), "certs/root.pem", "is missing", id="root missing"),
        pytest.param(remove("certs/server.pem"), "certs/server.pem", "is missing", id="server certificate missing"),
        pytest.param(write("certs/server.pem", "x"), "certs/server.pem", "no PEM", id="server certificate broken"),
        pytest.param(write("keys/server.key", "x"), "keys/server.key", "", id="server key broken"),
        pytest.param(remove("keys/checkpoint.key"), "keys/checkpoint.key", "is missing", id="checkpoint key missing"),
        pytest.param(remove("keys/state.key"), "keys/state.key", "is missing", id="state key missing"),
        pytest.param(remove("state.db"), "state", "", id="state missing"),
        pytest.param(write("state.db", "x" * 4096), "state", "not a database", id="state broken"),
        pytest.param(lambda home: home.chmod(0o755), "", "chmod 700", id="home open to others"),
        pytest.param(
            lambda home: (home / "keys" / "server.key").chmod(0o644), "keys/server.key", "chmod 600", id="key open"
        ),
    ],
)
def test_home_with_one_fault_names_it_alone(
    home: Path, spoil: Callable[[Path], object], path: str, message: str
) -> None:
    """Each fault has its key path or file and says what is wrong, and nothing else is blamed."""
    spoil(home)
    found = problems_of(home)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize("processes", [1, 2, 256])
def test_processes_may_be_many(home: Path, processes: int) -> None:
    """As many as the command line and the processes themselves take."""
    assert load_home(home, processes=processes).config.processes == processes
    parse_arguments(["control=3", f"index={processes - 1}", f"processes={processes}"])
    options = ["--home", str(home), "--check", "--processes", str(processes)]
    assert CliRunner().invoke(cli, ["gateway", *options]).exit_code == 0


def test_processes_beyond_the_bound_are_refused(home: Path) -> None:
    """The same bound everywhere."""
    assert "256" in problems_of(home, processes=257)["--processes"]
    assert CliRunner().invoke(cli, ["gateway", "--home", str(home), "--processes", "257"]).exit_code == 2


def test_server_key_of_another_certificate_is_refused(home: Path) -> None:
    """A pair that does not belong together is told before any client meets it."""
    (home / "keys" / "server.key").write_bytes(private_key_pem(generate_key()))
    assert "does not belong" in problems_of(home)["certs/server.pem"]


def test_server_certificate_of_another_home_is_refused(home: Path, tmp_path: Path) -> None:
    """A certificate that no peer of this home would accept does not start."""
    other = Home(tmp_path / "other")
    make_home(other, HomePlan(trust_domain="test.internal", realm="x"), at=datetime.now(UTC))
    shutil.copy(other.server_cert, home / "certs" / "server.pem")
    shutil.copy(other.server_key, home / "keys" / "server.key")
    assert "not signed by" in problems_of(home)["certs/server.pem"]


@pytest.mark.parametrize("days", [-60, 60])
def test_server_certificate_outside_its_time_is_refused(home: Path, days: int) -> None:
    """An expired certificate, or one for later, is told with its times and the mend."""
    made = Home(home.parent / "made")
    make_home(made, HomePlan(trust_domain="test.internal", realm="x"), at=datetime.now(UTC) + timedelta(days=days))
    for name in ("certs", "keys"):
        shutil.rmtree(home / name)
        shutil.copytree(made.path / name, home / name)
    found = problems_of(home)
    assert "issue-server" in found["certs/server.pem"]
    assert "not now" in found["certs/server.pem"]


def test_state_of_an_earlier_load_is_used_again(home: Path) -> None:
    """A reload opens no second database, and sees what was written meanwhile."""
    first = load_home(home)
    engine = open_state(home, DEFAULT_STATE_URL)
    with engine.begin() as connection:
        bump(connection)
    engine.dispose()
    again = load(home, overrides={}, passphrase=None, state=first.state)
    assert again.state is first.state
    assert again.snapshot.version == first.snapshot.version + 1
    assert again.config == first.config


def test_state_file_replaced_is_read_anew(home: Path) -> None:
    """A restored backup is what counts, not the file that is still open."""
    loaded = load_home(home)
    backup = home / "backup.db"
    shutil.copy(home / "state.db", backup)
    engine = open_state(home, "sqlite:///backup.db")
    with engine.begin() as connection:
        bump(connection)
    engine.dispose()
    backup.rename(home / "state.db")
    assert loaded.state.read_version() == loaded.snapshot.version + 1
    assert loaded.state.load().version == loaded.snapshot.version + 1


def test_state_file_removed_is_unreadable(home: Path) -> None:
    """A file that is gone is no source of state, however long it stays open."""
    loaded = load_home(home)
    (home / "state.db").rename(home / "elsewhere.db")
    with pytest.raises(StateUnavailable):
        loaded.state.read_version()
    with pytest.raises(StateUnavailable):
        loaded.state.load()
    (home / "elsewhere.db").rename(home / "state.db")
    assert loaded.state.read_version() == loaded.snapshot.version
