"""What stands while a measurement runs, and how servers take turns."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.home import POOL, RELAY_POOL, BenchHome, make_home, start_gateway
from rig.peers import PEERS
from rig.processes import SERVER_CORE, BenchFailed, Rig, Server, Standing, cpu_by_process, cpu_since, free_port
from rig.report import Report

OURS, BEFORE = "gateway", "before"
REVERSE_PATH = f"/-/reverse/{POOL}"
RELAY_PATH = f"/-/reverse/{RELAY_POOL}"
JOB_PATH = f"/-/pools/{POOL}/any/job"
WARM_UP_SECONDS = 1.0
RAMP_PER_SECOND, DIALS = 800, 64
CROWD = ("--ramp", str(RAMP_PER_SECOND), "--dials", str(DIALS))
"""How the rig's crowds come: so many a second at most, and never more than so many on their way, as fast as they are
admitted. A crowd that outran the server would meet its handshake timeout."""


KEY_TYPES = ("p256", "p384", "ed25519", "rsa3072", "mldsa44", "mldsa65", "mldsa87")
"""Of the keys of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of everything: the command line of `bench/run`. `commands` has our builds, the one to measure first."""

    bench: Path
    commands: Mapping[str, Path]
    rounds: int
    seconds: float
    conns: int = 32
    reply: int = 16
    workers: int = 1000
    body: int = 0
    paths: int = 1
    key_type: str = "p256"
    chain: str = "named"
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds <= 0 or self.conns < 1 or self.workers < 1 or self.paths < 1:
            raise BenchFailed("rounds, seconds, conns, workers and paths must be positive")
        if not 0 <= self.reply <= 1 << 20 or self.body < 0:
            raise BenchFailed("the origin answers 0 to 1048576 bytes, and a body has no negative length")

    @property
    def build(self) -> Path:
        """Where built, unpacked and installed programs are kept."""
        return self.bench / "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server under test: a gateway of ours with a home of its own, or a peer, which uses the first one's identities.

    `master` is the port that it hands relayed workers to: nothing listens there until a measurement starts a master.
    """

    name: str
    home: BenchHome
    server: Server
    master: int
    dispatch: int = 0

    @property
    def is_ours(self) -> bool:
        return bool(self.dispatch)


@dataclass(slots=True, kw_only=True)
class Testbed:
    """Everything that was started for one measurement; all of it ends with the testbed."""

    options: Options
    rig: Rig
    folder: Path
    origin: int
    running: contextlib.ExitStack
    targets: dict[str, Target] = field(default_factory=dict)

    @property
    def ours(self) -> Target:
        return self.targets[OURS]

    def gateway(
        self,
        name: str = OURS,
        *,
        build: str = OURS,
        workers: int | None = None,
        processes: int = 1,
        core: int | None = SERVER_CORE,
        **settings: Any,
    ) -> Target:
        """Start a gateway of one of our builds, with a fresh home; `settings` are `make_home`'s."""
        master, dispatch = free_port(), free_port()
        home = make_home(
            self.options.commands[build],
            self.folder / f"home-{name}",
            workers=self.options.workers if workers is None else workers,
            master=master,
            **{"origin": self.origin, "key_type": self.options.key_type, **settings},
        )
        server = start_gateway(
            home,
            folder=self.folder,
            dispatch=dispatch,
            processes=processes,
            name=name,
            core=core,
            asks_tls=not str(settings.get("home_key_type", "")).startswith("mldsa"),
        )
        self.running.callback(server.stop)
        self.targets[name] = Target(name=name, home=home, server=server, master=master, dispatch=dispatch)
        return self.targets[name]

    def builds(self, **settings: Any) -> dict[str, Target]:
        """A gateway of each of our builds, the one to measure first."""
        return {name: self.gateway(name, build=name, **settings) for name in self.options.commands}

    def start_peers(self, names: Sequence[str]) -> None:
        """Start peers."""
        home = self.ours.home
        for name in names:
            master = free_port()
            server = PEERS[name].start(home, self.options.build, self.origin, self.folder / name, master)
            self.running.callback(server.stop)
            self.targets[name] = Target(name=name, home=home, server=server, master=master)

    @contextlib.contextmanager
    def for_now(self) -> Iterator[None]:
        """What is started in the block ends with the block."""
        outer = self.running
        with contextlib.ExitStack() as inner:
            self.running = inner
            try:
                yield
            finally:
                self.running = outer

    def report(self, title: str, settings: Mapping[str, Any]) -> Report:
        """A report that names our builds and the peers'."""
        told = {"rounds": self.options.rounds, "seconds": self.options.seconds, **settings}
        peers = {
            name: {"build": peer.build(self.options.build), "digest": peer.digest, "role_rule": peer.role_rule}
            for name, peer in PEERS.items()
            if name in self.targets
        }
        return Report(title, self.options.commands, told, peers)

    def crowd(
        self, target: Target, count: int, *, core: int | None, relayed: bool = False
    ) -> contextlib.AbstractContextManager[Standing]:
        """So many workers at a server, which serve what comes down to them."""
        path, bundle = (RELAY_PATH, target.home.relay_worker) if relayed else (REVERSE_PATH, target.home.worker)
        port = target.server.relay_port if relayed else target.server.port
        return self.rig.standing(
            "worker", [*bundle.rig_arguments(port, path), "--conns", str(count), *CROWD], core=core
        )

    def masters(
        self, target: Target, conns: int, *extra: str, seconds: float, path: str = JOB_PATH, core: int | None
    ) -> contextlib.AbstractContextManager[Standing]:
        """Connections of masters to the dispatch listener, which stand between their rounds."""
        arguments = ["--plain", "--port", str(target.dispatch), "--path", path, "--conns", str(conns), "--rounds"]
        return self.rig.standing("client", [*arguments, *extra], seconds=seconds, core=core)


@contextlib.contextmanager
def open_testbed(
    options: Options, *, peers: Sequence[str] = (), bare: bool = False, **settings: Any
) -> Iterator[Testbed]:
    """A temporary folder, the origin, a gateway of each of our builds (`bare`: none) and the peers.

    All are gone afterwards, whatever happened. `settings` are of `Testbed.gateway`.
    """
    options.build.mkdir(exist_ok=True)
    rig = Rig(options.bench, chain=options.chain)
    with tempfile.TemporaryDirectory(prefix="rhttp-bench-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # a peer's unprivileged user has to get through; the homes inside are 0700
        origin = running.enter_context(rig.origin()).port
        made = Testbed(options=options, rig=rig, folder=folder, origin=origin, running=running)
        if not bare:
            made.builds(**settings)
            made.start_peers(peers)
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A comparison of a column of two servers: over 1 is in favour of the first, by `less` or more."""

    name: str
    of: str
    less_is_better: bool = False

    def value(self, first: float, other: float) -> float:
        """The ratio of one round; 0 where a time was too short to be counted."""
        above, below = (other, first) if self.less_is_better else (first, other)
        return above / below if below else 0.0


SPEED = Ratio(name="ratio", of="per_s")
CPU = Ratio(name="cpu_ratio", of="cpu_us", less_is_better=True)
MIDDLE = Ratio(name="p50_ratio", of="p50_us", less_is_better=True)
TAIL = Ratio(name="p99_ratio", of="p99_us", less_is_better=True)
Turn = Callable[[float], Mapping[str, float]]


def counted(target: Target, ask: Callable[[float], Mapping[str, Any]]) -> Turn:
    """A turn of the rig, with the processor time of the target's whole process tree for each thing that was served."""

    def once(seconds: float) -> Mapping[str, float]:
        before = cpu_by_process(target.server.pid)
        try:
            counts = ask(seconds)
        except BenchFailed as error:
            raise BenchFailed(f"{target.name}: {error}; its log ends: {target.server.complaint()}") from None
        spent = cpu_since(target.server.pid, before)
        if not counts["done"]:
            raise BenchFailed(f"{target.name} served nothing: {target.server.complaint()}")
        return {
            "per_s": counts["per_second"],
            "cpu_us": spent * 1e6 / counts["done"],
            "p50_us": counts["p50_us"],
            "p99_us": counts["p99_us"],
        }

    return once


def take_turns(
    report: Report,
    turns: Mapping[str, Turn],
    options: Options,
    *,
    ratios: Sequence[Ratio] = (SPEED, CPU),
    pairs: Sequence[tuple[str, str]] = (),
    warm_up: bool = True,
) -> dict[str, Any]:
    """Every server once for warming up, then round after round each in turn; medians of all columns and ratios.

    The first of `turns` is compared with each of the others, or `pairs` with each other, within one round:
    `ratio_OTHER`, or `FIRST_ratio_OTHER` where the first is another one.
    """
    leader = next(iter(turns))
    for turn in turns.values() if warm_up else ():
        turn(min(WARM_UP_SECONDS, options.seconds))
    compared = {
        f"{'' if first == leader else f'{first}_'}{ratio.name}_{other}": (ratio, first, other)
        for ratio in ratios
        for first, other in pairs or [(leader, other) for other in turns if other != leader]
    }
    for number in range(1, options.rounds + 1):
        row: dict[str, Any] = {"round": number}
        for name, turn in turns.items():
            row.update({f"{name}_{what}": value for what, value in turn(options.seconds).items()})
        for name, (ratio, first, other) in compared.items():
            row[name] = ratio.value(row[f"{first}_{ratio.of}"], row[f"{other}_{ratio.of}"])
        wanted = {"round", *compared, *(f"{name}_{ratios[0].of}" for name in turns)}
        report.row(hidden=set(row) - wanted, **row)
    report.data["servers"] = list(turns)
    columns = [name for name in report.data["rows"][0] if name != "round"]
    return {
        (name if name in compared else f"median_{name}"): statistics.median(report.column(name)) for name in columns
    }
