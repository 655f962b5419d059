"""A throw-away home with a client and a worker, made for measuring with the commands that users have."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.processes import SERVER_CORE, BenchFailed, Server, free_port, start

CLIENT, WORKER, POOL = "bench-client", "bench-worker", "bench"
RELAY_WORKER, RELAY_POOL = "relay-worker", "relay"
TRUST_DOMAIN = "bench.internal"
NONCES_PER_IDENTITY = 1024  # all connections of a run are one identity's; the default of 64 is for one client's few


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an `issue-*` command wrote for one identity."""

    name: str
    folder: Path

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text().splitlines()[0]

    def rig_arguments(self, port: int, path: str) -> list[str | Path]:
        """The load rig's options to come as this identity and to insist on our server certificate."""
        return [
            *("--port", str(port), "--path", path, "--ca", self.folder / "trust.pem"),
            *("--cert", self.folder / "cert.pem", "--key", self.folder / "key.pem"),
            *("--user", self.name, "--password-file", self.folder / "password"),
        ]


@dataclass(frozen=True, slots=True)
class BenchHome:
    """The home directory (unsealed keys: it lives for minutes) and its two bundles."""

    folder: Path
    command: Path
    client: Bundle
    worker: Bundle
    relay_worker: Bundle

    @property
    def root(self) -> Path:
        return self.folder / "certs" / "root.pem"

    @property
    def client_ca(self) -> Path:
        return self.folder / "certs" / "client-ca.pem"

    @property
    def worker_ca(self) -> Path:
        return self.folder / "certs" / "worker-ca.pem"

    @property
    def server_certificate(self) -> Path:
        return self.folder / "certs" / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "keys" / "server.key"


def make_compiled(root: Path) -> Path | None:
    """The command of the compiled build, made or refreshed by `make_compiled_venv`; None where that cannot be done."""
    script = '. "$1/scripts/lib.sh"; make_compiled_venv >&2'
    made = subprocess.run(["bash", "-c", script, "bench", str(root)], stdin=subprocess.DEVNULL, check=False)
    return root / ".build" / "compiled" / "bin" / "rhttp-pki" if made.returncode == 0 else None


def find_command(root: Path, *, interpreted: bool = False) -> Path:
    """`rhttp-pki`: named by RHTTP_PKI, the compiled build, in .build/venv, beside this Python, or on the PATH."""
    places = [root / ".build" / "venv" / "bin" / "rhttp-pki", Path(sys.executable).parent / "rhttp-pki"]
    if named := os.environ.get("RHTTP_PKI"):
        places.insert(0, Path(named))
    elif not interpreted and (compiled := make_compiled(root)):
        places.insert(0, compiled)
    for place in places:
        if place.exists():
            return place
    if on_path := shutil.which("rhttp-pki"):
        return Path(on_path)
    raise BenchFailed("rhttp-pki is not installed: run scripts/test once, or name the command in RHTTP_PKI")


def run_command(command: Path, folder: Path, *arguments: str) -> None:
    """One of our commands on the home in `folder`.

    Raises:
        BenchFailed: it failed, with what it said.
    """
    told = subprocess.run(
        [command, arguments[0], "--home", str(folder), *arguments[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if told.returncode:
        raise BenchFailed(f"rhttp-pki {' '.join(arguments)} failed: {' '.join(told.stderr.split())}")


def issue_worker(command: Path, folder: Path, name: str, pool: str = POOL) -> Bundle:
    """A new worker of a pool of the home."""
    run_command(command, folder, "issue-worker", name, "--pool", pool)
    return Bundle(name, folder / "bundles" / name)


def interpreter(command: Path) -> Path:
    """The Python of the environment that a command was installed into: its script's first line names it."""
    return Path(command.read_bytes().split(b"\n", 1)[0].decode(errors="replace").removeprefix("#!").strip())


def issue_many(command: Path, folder: Path, orders: Sequence[Sequence[str]]) -> None:
    """Many `issue-*` commands (name of the command, then its arguments) in one process: a start takes half a second.

    Raises:
        BenchFailed: one failed, with what it said.
    """
    script = (
        "import json, sys\n"
        "from gateway.cli.main import cli\n"
        "for order in json.load(sys.stdin):\n"
        "    cli([order[0], '--home', sys.argv[1], *order[1:]], standalone_mode=False)\n"
    )
    told = subprocess.run(
        [interpreter(command), "-P", "-c", script, folder],
        input=json.dumps([list(order) for order in orders]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if told.returncode:
        raise BenchFailed(f"{len(orders)} certificates could not be issued: {' '.join(told.stderr.split())[-300:]}")


def pool_name(number: int) -> str:
    """The name of one of many pools; `{}` in a path of the rig becomes its number."""
    return f"pool-{number}"


def identities_file(home: BenchHome, pools: int) -> Path:
    """A worker certificate for each of many pools, and the rig's list of them (`--identities`)."""
    names = [pool_name(number) for number in range(pools)]
    issue_many(home.command, home.folder, [("issue-worker", f"worker-{name}", "--pool", name) for name in names])
    file = home.folder / "identities"
    bundles = [(Bundle(f"worker-{name}", home.folder / "bundles" / f"worker-{name}"), name) for name in names]
    file.write_text(
        "".join(
            f"{one.folder}/cert.pem {one.folder}/key.pem {one.name} {one.folder}/password /-/reverse/{pool}\n"
            for one, pool in bundles
        )
    )
    return file


def client_identities_file(home: BenchHome, count: int, path: str) -> Path:
    """Several clients and the rig's list of them: one identity may hold only so many nonces at a time."""
    names = [f"client-{number}" for number in range(count)]
    issue_many(home.command, home.folder, [("issue-client", name) for name in names])
    file = home.folder / "clients"
    folders = {name: home.folder / "bundles" / name for name in names}
    file.write_text("".join(f"{f}/cert.pem {f}/key.pem {name} {f}/password {path}\n" for name, f in folders.items()))
    return file


def gateway_status(home: BenchHome) -> dict[str, Any]:
    """What `rhttp-pki status --json` prints, asked on the admin socket.

    Raises:
        BenchFailed: no answer.
    """
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        try:
            admin.connect(str(home.folder / "run" / "admin.sock"))
            admin.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = http.client.HTTPResponse(admin)
            answer.begin()
            told: dict[str, Any] = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise BenchFailed(f"the gateway tells no status: {error!r}") from None
    return told


def data_processes(home: BenchHome) -> list[int]:
    """The process ids of the gateway's data processes, p0 first.

    Raises:
        BenchFailed: no answer.
    """
    return [int(one["pid"]) for one in gateway_status(home)["processes"]]


def make_home(
    command: Path, folder: Path, *, origin: int, workers: int, master: int = 9, pools: int = 0, ahead: str | None = None
) -> BenchHome:
    """`init`, a client and two workers, then limits that let one identity hold all the bench's connections.

    `master` is the port of the master that relayed workers are handed to; `pools` more hosted pools have a name each.
    `ahead` is the key of `[audit]`; the default without it.
    """
    run_command(command, folder, "init", "--trust-domain", TRUST_DOMAIN)
    run_command(command, folder, "issue-client", CLIENT)
    worker = issue_worker(command, folder, WORKER)
    relay_worker = issue_worker(command, folder, RELAY_WORKER, RELAY_POOL)
    file = folder / "gateway.toml"
    settings: dict[str, Any] = tomllib.loads(file.read_text())
    settings["masters"] = {
        "jobs": {"urls": [f"http://127.0.0.1:{origin}"]},
        "relay": {"urls": [f"http://127.0.0.1:{master}"]},
    }
    settings["routes"] = [{"path": "/jobs/*", "master": "jobs"}]
    settings["pools"] = {
        POOL: {"mode": "hosted"},
        RELAY_POOL: {"mode": "relay", "master": "relay"},
        **{pool_name(number): {"mode": "hosted"} for number in range(pools)},
    }
    settings["digest"] = {**settings.get("digest", {}), "nonces_per_identity": NONCES_PER_IDENTITY}
    room = workers + 1000
    limits = {
        "connections": room,
        "connections_per_client": room,
        "connections_per_worker": room,
        "master_connections": room,
    }
    settings["limits"] = {**settings.get("limits", {}), **limits}
    if ahead is not None:
        settings["audit"] = {"ahead": ahead}
    file.write_text(toml(settings))
    bundles = folder / "bundles"
    return BenchHome(folder, command, Bundle(CLIENT, bundles / CLIENT), worker, relay_worker)


def start_gateway(
    home: BenchHome,
    *,
    folder: Path,
    dispatch: int | None = None,
    processes: int = 1,
    name: str = "gateway",
    core: int | None = SERVER_CORE,
) -> Server:
    """Start the gateway on the server core (None: on any); ready on return, as `/-/health` says.

    With `dispatch` masters are served on that loopback port instead of the socket in the home. `name` is its log's.
    """
    port = free_port()
    command: list[str | Path] = [home.command, "gateway", "--home", home.folder, "--listen", f"127.0.0.1:{port}"]
    if dispatch is not None:
        command += ["--dispatch", f"127.0.0.1:{dispatch}"]
    if processes > 1:
        command += ["--processes", str(processes)]
    server = start(name, command, port=port, folder=folder, core=core)
    context = ssl.create_default_context(cafile=str(home.client.folder / "trust.pem"))
    context.load_cert_chain(home.client.folder / "cert.pem", home.client.folder / "key.pem")

    def is_healthy() -> bool:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=2)
        try:
            connection.request("GET", "/-/health")
            # 401: health asks for Digest like every path; whoever answers that is up.
            return connection.getresponse().status in {200, 401}
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    server.wait_until(is_healthy)
    return server


def toml(settings: Mapping[str, Any], path: str = "") -> str:
    """The settings as TOML: tables, arrays of tables, strings, numbers, booleans and lists of these."""
    plain, tables = [], []
    for key, value in settings.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping):
            tables.append(f"\n[{name}]\n{toml(value, name + '.')}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables.extend(f"\n[[{name}]]\n{toml(item, name + '.')}" for item in value)
        else:
            plain.append(f"{key} = {literal(value)}\n")
    return "".join(plain + tables)


def literal(value: object) -> str:
    """One TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
