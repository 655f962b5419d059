"""What a gateway's life begins with, before any process does."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.fakegateway import FakeState, make_loaded

import auth.sharedledger
from gateway.config.values import Config, LoadFailed, TcpAddress
from gateway.supervisor.main import _Bound, make_ledger


def config(place: Path, processes: int) -> Config:
    loaded = make_loaded(place, FakeState(), processes=processes).config
    return dataclasses.replace(loaded, digest=dataclasses.replace(loaded.digest, window=64, nonces_per_identity=2))


def test_ledger_of_one_process_is_its_own(tmp_path: Path) -> None:
    """Nothing is shared with nobody."""
    assert make_ledger(config(tmp_path, 1)) is None


def test_ledger_of_several_is_a_table_with_the_configured_bounds(tmp_path: Path) -> None:
    """The processes map it by its descriptor, which no program gets that is not one of them."""
    fd = make_ledger(config(tmp_path, 2))
    assert fd is not None
    assert not os.get_inheritable(fd)
    ledger = auth.sharedledger.SharedLedger(fd)
    assert (ledger.window, ledger.per_identity) == (64, 2)
    ledger.close()


def test_ledger_without_memory_is_one_clear_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway does not start with several processes that could each spend a counter."""

    def create(**_bounds: int) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(auth.sharedledger, "create", create)
    with pytest.raises(LoadFailed, match="table of spent counters: Cannot allocate memory"):
        make_ledger(config(tmp_path, 2))


_ORDER = """
import sys
from pathlib import Path
import gateway.supervisor.sockets

class Bound(Exception):
    pass

def bind_all(config):
    heavy = {"sqlalchemy", "cedarpy", "asyncio", "OpenSSL"} & sys.modules.keys()
    raise Bound(" ".join(sorted(heavy)) or "nothing")

gateway.supervisor.sockets.bind_all = bind_all
from gateway.cli.main import cli
try:
    cli(["--home", sys.argv[1], "gateway"], standalone_mode=False)
except Exception as error:
    print(error)
"""


def test_port_is_bound_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    """Over a restart a port is refused until then, and loading code is most of a start."""
    home = tmp_path / "home"
    environment = os.environ | {"RHTTP_PKI_HOME": str(home), "RHTTP_PKI_DEBUG": "1"}
    subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "init"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=60,
    )
    told = subprocess.run(
        [sys.executable, "-c", _ORDER, str(home)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert told.stdout == "nothing\n", told.stderr


def test_start_with_a_changed_configuration_binds_what_it_says_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is edited between the two looks leaves no socket of its first text."""
    first, then = config(tmp_path, 1), config(tmp_path, 2)
    bound = _Bound()
    (tmp_path / "run").mkdir(mode=0o700)
    bound.bind_early(first)
    before = bound.listeners["tls"].sock
    assert "mesh" not in bound.listeners
    bound.bind(then, tmp_path / "run" / "admin.sock")
    assert before.fileno() == -1
    assert "mesh" in bound.listeners
    assert bound.admin is not None
    bound.close()
    assert bound.listeners == {}


def test_start_on_a_port_in_use_is_told_when_all_was_looked_at(tmp_path: Path) -> None:
    """Binding ahead of time fails in silence; in the end it is one clear refusal."""
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = dataclasses.replace(
            config(tmp_path, 1), listen=TcpAddress(host="127.0.0.1", port=taken.getsockname()[1])
        )
        bound = _Bound()
        bound.bind_early(wanted)
        assert bound.listeners == {}
        with pytest.raises(LoadFailed, match="in use"):
            bound.bind(wanted, tmp_path / "run" / "admin.sock")
        bound.close()
