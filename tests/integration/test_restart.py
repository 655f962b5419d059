"""A restart under load: what was sent before the port closed is answered, by either gateway."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loads import Load
from support.origins import Origin
from support.rig import JOBS, Rig, wait_for
from support.runhomes import set_key

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl command")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def free_port() -> int:
    """A port that nobody has now; a gateway that is started again must find the same one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("processes", [1, 2])
def test_restart_under_load_loses_no_request_that_was_sent(
    tmp_path: Path, origin: Origin, processes: int, long_run: bool
) -> None:
    """``drain`` and start again, new connections and kept ones all the while: each is answered, or found the port
    closed before it had sent a byte."""
    config = JOBS.format(port=origin.port)
    rig = Rig(tmp_path, config, peers=("issue-client alice",), processes=processes)
    set_key(rig.home, "listen", f'"127.0.0.1:{free_port()}"')
    until = time.monotonic() + (60.0 if long_run else 0.0)
    restarts = 0
    with rig, Load(rig, "alice", "/jobs/x") as load:
        while not restarts or time.monotonic() < until:
            seen = load.outcomes["curl"] + 10
            wait_for(lambda seen=seen: load.outcomes["curl"], lambda count, seen=seen: count >= seen)  # type: ignore[misc]
            said = rig.run("drain")
            assert said.endswith("drained\n")
            assert rig.served.ended() == 0
            rig.start()
            restarts += 1
        seen = load.outcomes["kept"] + 10
        wait_for(lambda: load.outcomes["kept"], lambda count: count >= seen)
    print(f"{restarts} restarts, {dict(load.outcomes)}, refused for at most {load.longest_gap():.2f} s")
    assert load.faults == []
    answered = [line for line in rig.audit() if line["event"] == "request" and line.get("status") == 200]
    assert len(answered) == load.outcomes["curl"] + load.outcomes["kept"]
