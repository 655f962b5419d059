"""The commands of the README and of the quick start, typed one after the other, do what the pages say.

Only what belongs to a machine is replaced: ports by free ones, the folder for the site, and the installation by the one
that the tests run in.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSTALL = re.compile(r"^(?:python3 -m venv|pip install) .*\n", re.MULTILINE)
_PATIENCE = 180


def free_port() -> int:
    """A port that nobody listens on now; the pages name theirs, so 0 will not do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def typed(page: Path, place: Path) -> str:
    """What a reader would type, on this machine."""
    text = _INSTALL.sub("", "".join(_BLOCK.findall(page.read_text(encoding="utf-8"))))
    gateway, site = free_port(), free_port()
    listen = f"rhttp-pki init\nsed -i 's/^listen = .*/listen = \"127.0.0.1:{gateway}\"/' rhttp-home/gateway.toml\n"
    assert text.count("rhttp-pki init\n") == 1
    text = text.replace("rhttp-pki init\n", listen)
    return text.replace("8443", str(gateway)).replace("9000", str(site)).replace("/tmp/site", str(place / "site"))


def type_in(commands: str, place: Path) -> str:
    """Run the commands in a shell of their own; what came on stdout and stderr. Nothing that they started stays."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RHTTP_PKI_")}
    shell = subprocess.Popen(
        ["bash", "-c", commands],
        cwd=place,
        env=kept | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=_PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the shell's own session, and what it left behind in it
        shell.wait(60)
    return said


def test_readme_commands_typed_in_turn_do_what_it_says(tmp_path: Path) -> None:
    """From `init` to `drain`: a client and a master get their answer, the worker is cut, the log is sound."""
    said = type_in(typed(ROOT / "README.md", tmp_path), tmp_path)
    assert said.count("hello\n") == 2, said
    assert "gateway: ready" in said
    assert "w1: 1 certificate(s) revoked; the gateway cut 1 connection(s)" in said
    assert "sound: 2 streams" in said
    assert said.index("draining for at most 30 s") < said.index("drained")
    assert "Traceback" not in said


@pytest.mark.long
def test_quick_start_commands_typed_in_turn_do_what_it_says(tmp_path: Path) -> None:
    """The longer one, with what is refused, a policy that is changed, and a worker of one's own."""
    said = type_in(typed(ROOT / "docs" / "quickstart.md", tmp_path), tmp_path)
    for promise in (
        "gateway: everything is in order",
        "worker w1: 2 slots connected",
        "HTTP/1.1 401 Unauthorized",
        "Rhttp-Worker: w1",
        'data: {"pool":"render","total":2,"free":2}',
        "alert certificate required",
        "urn:rhttp:problem:forbidden",
        "policy.cedar: 10 policies, no problem",
        "policy: alice-only-reads (forbid, policy.cedar:27)",
        "reloaded; generation 2",
        "w1: 1 certificate(s) revoked; the gateway cut 2 connection(s)",
        "user alice is enabled",
        "sound: 2 streams",
        "hello from behind the NAT",
        "drained",
    ):
        assert promise in said, said
    assert re.findall(r"^(\d{3})$", said, re.MULTILINE) == ["401", "403", "403", "401"]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
