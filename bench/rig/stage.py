"""What stands while a measurement runs, and how servers take turns."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.home import POOL, RELAY_POOL, BenchHome, make_home, start_gateway
from rig.peers import PEERS, facts
from rig.processes import SERVER_CORE, BenchFailed, Rig, Server, free_port
from rig.report import Report, median

OURS = "gateway"
REVERSE_PATH = f"/-/reverse/{POOL}"
RELAY_PATH = f"/-/reverse/{RELAY_POOL}"
WARM_UP_SECONDS = 1.0
RAMP_PER_SECOND, DIALS = 800, 64
CROWD = ("--ramp", str(RAMP_PER_SECOND), "--dials", str(DIALS))
"""How the rig's crowds come: so many a second at most, and never more than so many on their way, as fast as they are
admitted. A crowd that outran the server would meet its handshake timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of everything: the command line of `bench/run`."""

    bench: Path
    command: Path
    rounds: int
    seconds: float
    conns: int
    reply: int
    workers: int
    body: int = 0
    paths: int = 1
    peers: tuple[str, ...] = ("apache",)

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
class Stage:
    """Everything started for one measurement."""

    rig: Rig
    home: BenchHome
    gateway: Server
    peers: Mapping[str, Server]
    dispatch: int
    masters: Mapping[str, int]
    folder: Path
    origin: int

    def servers(self) -> dict[str, Server]:
        """Ours first, then the peers in their order."""
        return {OURS: self.gateway, **self.peers}


@contextlib.contextmanager
def stage(options: Options, *, peers: tuple[str, ...], workers: int | None = None) -> Iterator[Stage]:
    """A fresh home, the origin, the gateway and the peers; all gone afterwards, whatever happened.

    `masters` has a free port for each relay's master: nothing listens there until a measurement starts one.
    """
    options.build.mkdir(exist_ok=True)
    rig = Rig(options.bench)
    with tempfile.TemporaryDirectory(prefix="rhttp-bench-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # a peer's unprivileged user has to get through; the home inside is 0700
        origin = running.enter_context(rig.origin(reply=16, folder=folder))
        masters = {OURS: free_port(), "haproxy": free_port()}
        home = make_home(
            options.command, folder / "home", origin=origin, workers=workers or options.workers, master=masters[OURS]
        )
        dispatch = free_port()
        gateway = start_gateway(home, folder=folder, dispatch=dispatch)
        running.callback(gateway.stop)
        standing: dict[str, Server] = {}
        for peer in peers:
            extra = {"master": masters["haproxy"]} if peer == "haproxy" else {}
            standing[peer] = PEERS[peer].start(home, options.build, origin, folder / peer, **extra)
            running.callback(standing[peer].stop)
        yield Stage(
            rig=rig,
            home=home,
            gateway=gateway,
            peers=standing,
            dispatch=dispatch,
            masters=masters,
            folder=folder,
            origin=origin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One of several gateways on one stage: each has a home of its own."""

    home: BenchHome
    server: Server
    dispatch: int
    master: int


@contextlib.contextmanager
def another(
    options: Options,
    *,
    folder: Path,
    origin: int,
    name: str,
    workers: int,
    processes: int = 1,
    pools: int = 0,
    ahead: str | None = None,
    core: int | None = SERVER_CORE,
) -> Iterator[Gateway]:
    """A gateway more, with a fresh home below `folder`; gone afterwards."""
    master, dispatch = free_port(), free_port()
    home = make_home(
        options.command,
        folder / f"home-{name}",
        origin=origin,
        workers=workers,
        master=master,
        pools=pools,
        ahead=ahead,
    )
    server = start_gateway(home, folder=folder, dispatch=dispatch, processes=processes, name=name, core=core)
    try:
        yield Gateway(home=home, server=server, dispatch=dispatch, master=master)
    finally:
        server.stop()


@contextlib.contextmanager
def bare_stage(options: Options) -> Iterator[tuple[Rig, Path, int]]:
    """The rig, a temporary folder and an origin's port, for measurements that start gateways with `another`."""
    options.build.mkdir(exist_ok=True)
    rig = Rig(options.bench)
    with tempfile.TemporaryDirectory(prefix="rhttp-bench-") as name, rig.origin(reply=16, folder=Path(name)) as origin:
        yield rig, Path(name), origin


def new_report(title: str, options: Options, settings: Mapping[str, Any], peers: tuple[str, ...]) -> Report:
    """A report that names our build and the peers'."""
    told = {"rounds": options.rounds, "seconds": options.seconds, **settings}
    return Report(title, options.command, told, facts(peers, options.build))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A comparison with each of the others: `of` is the column; over 1 is in favour of the first, by `less` or more."""

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


def take_turns(
    report: Report,
    turns: Mapping[str, Turn],
    options: Options,
    *,
    ratios: tuple[Ratio, ...] = (SPEED, CPU),
    warm_up: bool = True,
) -> dict[str, Any]:
    """Every server once for warming up, then round after round each in turn; medians of all columns and ratios.

    The first of `turns` is compared with each of the others, within one round.
    """
    for turn in turns.values() if warm_up else ():
        turn(min(WARM_UP_SECONDS, options.seconds))
    first, *others = turns
    columns: dict[str, None] = {}
    for number in range(1, options.rounds + 1):
        row: dict[str, Any] = {"round": number}
        for name, turn in turns.items():
            row.update({f"{name}_{what}": value for what, value in turn(options.seconds).items()})
        for ratio in ratios:
            for other in others:
                row[f"{ratio.name}_{other}"] = ratio.value(row[f"{first}_{ratio.of}"], row[f"{other}_{ratio.of}"])
        columns = dict.fromkeys(name for name in row if name != "round")
        wanted = {"round", *(f"{name}_{ratios[0].of}" for name in turns)}
        wanted |= {f"{ratio.name}_{other}" for ratio in ratios for other in others}
        report.row(hidden=set(row) - wanted, **row)
    return {(name if "ratio" in name else f"median_{name}"): median(report.column(name)) for name in columns}
