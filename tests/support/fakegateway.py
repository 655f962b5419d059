"""A supervisor over the fake data plane: real sockets, real processes, no PKI, no database.

As a script (``fakegateway.py HOME``) it runs one until it ends, for tests that kill it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config.limits import Limits
from gateway.config.values import AuditConfig, Config, DigestConfig, TcpAddress, UnixAddress
from gateway.control.process_inputs import HomeInputs
from gateway.home.layout import Home
from gateway.state.snapshot import StateSnapshot
from gateway.supervisor.list_publisher import SignLists
from gateway.supervisor.load import Loaded
from gateway.supervisor.sockets import ADMIN_MODE, bind_all, bind_unix, close_all
from gateway.supervisor.supervisor import Supervisor

COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("fakeplane.py")))


def snapshot(version: int, revoked: int = 0) -> StateSnapshot:
    """A snapshot of this version that ends so many connections of the fake data plane."""
    return StateSnapshot(
        version=version, users={}, revoked=frozenset(f"{number:x}" for number in range(revoked)), labels={}
    )


class FakeState:
    """`gateway.state.watch.StateSource` with everything in reach."""

    def __init__(self) -> None:
        self.now = snapshot(1)
        self.fault: Exception | None = None

    def read_version(self) -> int:
        return self.load().version

    def load(self) -> StateSnapshot:
        if self.fault is not None:
            raise self.fault
        return self.now


class FakeSupervisorLog:
    """`gateway.audit.supervisor_log.SupervisorLog` that remembers."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, Mapping[str, object]]] = []
        self.heads: list[Sequence[Mapping[str, object]]] = []
        self.settled = 0
        self.finished: tuple[list[Mapping[str, object]], bool] | None = None
        self.notices: tuple[str, ...] = ()
        self.fault: Exception | None = None
        self.signed: Callable[[], None] = lambda: None

    def record(self, event: str, outcome: str, detail: Mapping[str, object]) -> None:
        self.records.append((event, outcome, detail))

    def checkpoint(self, heads: Sequence[Mapping[str, object]]) -> None:
        if self.fault is not None:
            raise self.fault
        self.heads.append(heads)
        self.signed()

    def configure(self, config: AuditConfig) -> None: ...

    def settle(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.settled += 1

    def finish(self, heads: Sequence[Mapping[str, object]], *, complete: bool) -> None:
        self.finished = (list(heads), complete)

    def found(self) -> tuple[str, ...]:
        return self.notices


def make_loaded(place: Path, state: FakeState, policy: str = "", **config: Any) -> Loaded:
    """A loaded home that was never read from anywhere."""
    values: dict[str, Any] = {
        "home": place,
        "trust_domain": "test.internal",
        "listen": TcpAddress(host="127.0.0.1", port=0),
        "dispatch": UnixAddress(path=place / "run" / "dispatch.sock"),
        "digest": DigestConfig(realm="test"),
        "policy": place / "policy.cedar",
        "limits": Limits(drain_timeout=5.0),
    }
    return Loaded(
        home=Home(place),
        config=Config(**(values | config)),
        policies=(),
        shared=HomeInputs(
            config_text="",
            overrides={},
            home=str(place),
            policy_text=policy,
            trust={"root": b"root"},
            server_cert=b"certificate",
            server_key=b"the-private-key-of-the-server",
        ),
        checkpoint_key=Ed25519PrivateKey.generate(),
        state=state,
        snapshot=state.load(),
    )


class FakeGateway:
    """Sockets, supervisor and what it said; `loaded` is what the next reload reads."""

    def __init__(
        self,
        place: Path,
        policy: str = "",
        *,
        sign_lists: SignLists | None = None,
        with_issuer: bool = False,
        **config: Any,
    ) -> None:
        self.place = place
        (place / "run").mkdir(mode=0o700, exist_ok=True)
        self.state = FakeState()
        self.supervisor_log = FakeSupervisorLog()
        self.loaded = make_loaded(place, self.state, policy, **config)
        self.load_fault: Exception | None = None
        self.said: list[str] = []
        self.logged: list[str] = []
        self.changed = asyncio.Event()
        self.listeners = bind_all(self.loaded.config)
        self.admin = bind_unix(place / "run" / "admin.sock", "admin", mode=ADMIN_MODE)
        self.ledger: int | None = None
        if self.loaded.config.processes > 1:
            self.ledger = os.memfd_create("ledger")
            os.write(self.ledger, b"what all have spent")
        self.supervisor = Supervisor(
            self.loaded,
            self._load_again,
            self.listeners,
            self.admin,
            self.supervisor_log,
            sign_lists=sign_lists,
            say=lambda line: self._told(self.said, line),
            log=lambda line: self._told(self.logged, line),
            version="0",
            command=COMMAND,
            ledger=self.ledger,
            with_issuer=with_issuer,
        )

    def _told(self, lines: list[str], line: str) -> None:
        lines.append(line)
        self.changed.set()

    def _load_again(self) -> Loaded:
        if self.load_fault is not None:
            raise self.load_fault
        return self.loaded

    def change(self, *, policy: str | None = None, config: Config | None = None) -> None:
        """Change what the next reload reads."""
        if policy is not None:
            shared = dataclasses.replace(self.loaded.shared, policy_text=policy)
            self.loaded = dataclasses.replace(self.loaded, shared=shared)
        if config is not None:
            self.loaded = dataclasses.replace(self.loaded, config=config)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something that comes with a line is so."""
        async with asyncio.timeout(30):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    def is_ready(self) -> bool:
        """Whether it said so."""
        return any(line.startswith("ready") for line in self.said)

    def close(self) -> None:
        close_all(self.listeners)
        self.admin.close()
        if self.ledger is not None:
            os.close(self.ledger)


async def _main(place: Path) -> int:
    gateway = FakeGateway(place)
    running = asyncio.create_task(gateway.supervisor.run())
    await gateway.until(gateway.is_ready)
    print("ready", flush=True)
    return await running


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(Path(sys.argv[1]))))
