"""A throw-away home with a client and workers, made for measuring with the commands that users have."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.builds import interpreter
from rig.processes import SERVER_CORE, BenchFailed, Server, free_port, start

CLIENT, WORKER, POOL = "bench-client", "bench-worker", "bench"
RELAY_WORKER, RELAY_POOL = "relay-worker", "relay"
TRUST_DOMAIN = "bench.internal"
NONCES_PER_IDENTITY = 1024  # all connections of a run are one identity's; the default is for one client's few

ROOM = 2048  # a quarter of so many handshakes may be idle ones of one source: more than a storm has under way

MANY_ORDERS = """\
import contextlib, io, json, sys
from gateway.cli.main import cli
for name, *more in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()):
        cli([name, "--home", sys.argv[1], *more], standalone_mode=False)
"""
CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{origin}"]
[masters.relay]
urls = ["http://127.0.0.1:{master}"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[pools.{relay_pool}]
mode = "relay"
master = "relay"
[limits]
connections = {room}
connections_per_client = {room}
connections_per_worker = {room}
dispatch_connections = {room}
master_connections = {room}
handshakes = {handshakes}
"""


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
    """The home directory (unsealed keys: it lives for minutes) and what is in it."""

    folder: Path
    command: Path

    def bundle(self, name: str) -> Bundle:
        return Bundle(name, self.folder / "bundles" / name)

    @property
    def client(self) -> Bundle:
        return self.bundle(CLIENT)

    @property
    def worker(self) -> Bundle:
        return self.bundle(WORKER)

    @property
    def relay_worker(self) -> Bundle:
        return self.bundle(RELAY_WORKER)

    def certificate(self, name: str) -> Path:
        """`root`, `client-ca`, `worker-ca` or `server`."""
        return self.folder / "certs" / f"{name}.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "keys" / "server.key"

    def order(self, *orders: Sequence[str]) -> None:
        """Commands (its name, then its arguments) in one process: a start takes half a second.

        Raises:
            BenchFailed: one failed, with what it said.
        """
        told = subprocess.run(
            [interpreter(self.command), "-P", "-c", MANY_ORDERS, self.folder],
            input=json.dumps([list(order) for order in orders]),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if told.returncode:
            said = " ".join(told.stderr.split())[-300:]
            raise BenchFailed(f"rhttp-pki {orders[0][0]} and {len(orders) - 1} more failed: {said}")

    def identities_file(self, orders: Mapping[str, tuple[Sequence[str], str]]) -> Path:
        """Identities, each with the command that makes it (its name comes second) and the path that it asks for.

        The result is the rig's list of them (`--identities`).
        """
        self.order(*((command[0], name, *command[1:]) for name, (command, _) in orders.items()))
        file = self.folder / "identities"
        bundles = [(self.bundle(name), path) for name, (_, path) in orders.items()]
        file.write_text(
            "".join(f"{b.folder}/cert.pem {b.folder}/key.pem {b.name} {b.folder}/password {at}\n" for b, at in bundles)
        )
        return file

    def status(self) -> dict[str, Any]:
        """What `rhttp-pki status --json` prints, asked on the admin socket.

        Raises:
            BenchFailed: no answer.
        """
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(10)
            try:
                admin.connect(str(self.folder / "run" / "admin.sock"))
                admin.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = http.client.HTTPResponse(admin)
                answer.begin()
                told: dict[str, Any] = json.loads(answer.read())
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise BenchFailed(f"the gateway tells no status: {error!r}") from None
        return told

    def data_processes(self) -> list[int]:
        """The process ids of the gateway's data processes, p0 first."""
        return [int(one["pid"]) for one in self.status()["processes"]]

    def counted(self, group: str, name: str) -> list[int]:
        """One number of each data process, p0 first: of its `connections` or its `counters`."""
        return [int(one.get(group, {}).get(name, 0)) for one in self.status()["processes"]]


def pool_name(number: int) -> str:
    """The name of one of many pools; `{}` in a path of the rig becomes its number."""
    return f"pool-{number}"


def make_home(
    command: Path,
    folder: Path,
    *,
    origin: int,
    workers: int,
    master: int = 9,
    pools: int = 0,
    ahead: str | None = None,
    key_type: str = "p256",
    home_key_type: str = "p256",
    clients: Sequence[str] = (),
) -> BenchHome:
    """`init`, clients and two workers, then limits that let one identity hold all the bench's connections.

    `master` is the port of the master that relayed workers are handed to; `pools` more hosted pools have a name each.
    `ahead` is the key of `[audit]`, the default without it; `key_type` that of the workers, and
    `home_key_type` that of the gateway's own certificate, the root and all issuing CAs.
    """
    home = BenchHome(folder, command)
    key = ("--key-type", key_type)
    # An earlier build knows no such options, and has no other homes.
    of_home = () if home_key_type == "p256" else ("--key-type", home_key_type, "--ca-key-type", home_key_type)
    home.order(
        ("init", "--trust-domain", TRUST_DOMAIN, *of_home),
        *(("issue-client", name) for name in (CLIENT, *clients)),
        ("issue-worker", WORKER, "--pool", POOL, *key),
        ("issue-worker", RELAY_WORKER, "--pool", RELAY_POOL, *key),
    )
    file = folder / "gateway.toml"
    # What `init` wrote has the digest table and comments; the rest is ours.
    text = file.read_text().replace("[digest]\n", f"[digest]\nnonces_per_identity = {NONCES_PER_IDENTITY}\n", 1)
    text += CONFIG.format(origin=origin, master=master, relay_pool=RELAY_POOL, room=workers + ROOM, handshakes=ROOM)
    for name in (POOL, *map(pool_name, range(pools))):
        text += f'[pools.{name}]\nmode = "hosted"\n'
    file.write_text(text + (f'[audit]\nahead = "{ahead}"\n' if ahead else ""))
    return home


def start_gateway(
    home: BenchHome,
    *,
    folder: Path,
    dispatch: int,
    processes: int = 1,
    name: str = "gateway",
    core: int | None = SERVER_CORE,
    asks_tls: bool = True,
) -> Server:
    """Start the gateway on the server core (None: on any); ready on return, as `/-/health` says.

    Masters are served on the loopback port `dispatch`. `name` is its log's. Without `asks_tls` health is asked for
    there, since this Python's OpenSSL need not know the home's type of key.
    """
    port = free_port()
    places = ["--listen", f"127.0.0.1:{port}", "--dispatch", f"127.0.0.1:{dispatch}"]
    command: list[str | Path] = [home.command, "gateway", "--home", home.folder, *places, "--processes", str(processes)]
    server = start(name, command, port=port, folder=folder, core=core)
    context = ssl.create_default_context()
    if asks_tls:
        context.load_verify_locations(cafile=str(home.client.folder / "trust.pem"))
        context.load_cert_chain(home.client.folder / "cert.pem", home.client.folder / "key.pem")

    def is_healthy() -> bool:
        connection: http.client.HTTPConnection
        if asks_tls:
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=2)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", dispatch, timeout=2)
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
