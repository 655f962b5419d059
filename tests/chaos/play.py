"""One play: the stand, twenty workers, eight clients, a dispatching master, and troubles for so many minutes."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos.books import Books
from chaos.clients import ClientDial, MasterDial, Requester
from chaos.master import Master, ScriptedWorker
from chaos.reconcile import Discrepancy, reconcile
from chaos.stand import POOL, Stand
from chaos.troubles import Troubles
from chaos.workers import WorkerProcess

CLIENTS: Final = 8
OURS: Final = 6
SCRIPTED: Final = 14
MASTERS: Final = 2
SLOTS: Final = 2
PAUSE: Final = 0.06
"""Mean seconds between two requests of one requester."""
WEIGHTS: Final[Mapping[str, int]] = {
    "kill-process": 3,
    "stop-process": 3,
    "kill-gateway": 1,
    "restart": 1,
    "revoke": 3,
    "disable": 2,
    "reload": 3,
    "bad-reload": 2,
    "full-disk": 2,
    "flood": 2,
    "kill-worker": 4,
    "stop-worker": 3,
}
ALONE: Final = frozenset({"kill-gateway", "restart"})
"""Troubles that need the gateway's command line and process for themselves."""
CALM: Final = 60.0
"""Seconds in which everything must stand again when the troubles are over."""


@dataclass(kw_only=True)
class Outcome:
    """What came of a play."""

    seconds: float
    seed: int
    discrepancies: list[Discrepancy]
    faults: list[str]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether everything agreed."""
        return not self.discrepancies and not self.faults


class Play:
    """Builds everything in ``place``, runs for so many seconds, reconciles."""

    def __init__(self, place: Path, binaries: Path, seed: int, say: Callable[[str], None]) -> None:
        self._place = place
        self._seed = seed
        self._say = say
        self.books = Books(began=time.monotonic())
        self._stop = threading.Event()
        """Nobody asks any more."""
        self._over = threading.Event()
        """Workers do not come back any more."""
        self.master = Master(self.books, seed)
        self.stand = Stand(place, binaries, master=self.master.port)
        clients = [f"c{number}" for number in range(1, CLIENTS + 1)]
        ours = [f"ours{number}" for number in range(1, OURS + 1)]
        scripted = [f"scripted{number}" for number in range(1, SCRIPTED + 1)]
        self.worker_names = frozenset(ours + scripted)
        self.revocable = [*clients[-3:], *ours[-2:], *scripted[-3:]]
        roles = [("client", name) for name in clients] + [("worker", name) for name in (*ours, *scripted)]
        bundles = self.stand.issue_all(roles)
        self.workers = [WorkerProcess(name, bundles[name], binaries, place, slots=SLOTS) for name in ours]
        self.scripted = [
            ScriptedWorker(
                name, bundles[name], self.books, self._over, port=self.stand.port, pool=POOL, seed=seed + number
            )
            for number, name in enumerate(scripted)
        ]
        self._dials = {name: ClientDial(self.stand.port, name, bundles[name]) for name in clients}
        self.requesters = [
            Requester(name, dial, self.books, self._stop, prefix="/jobs/", seed=seed + number, pause=PAUSE)
            for number, (name, dial) in enumerate(self._dials.items())
        ]
        self.requesters += [
            Requester(
                f"master{number}",
                MasterDial(self.stand.dispatch),
                self.books,
                self._stop,
                prefix=f"/-/pools/{POOL}/any/",
                seed=seed + 100 + number,
                pause=PAUSE,
            )
            for number in range(1, MASTERS + 1)
        ]

    def take_bundle(self, name: str, bundle: Path) -> None:
        """Hand a fresh bundle to whoever has this name."""
        if name in self._dials:
            self._dials[name].take(bundle)
        for scripted in self.scripted:
            if scripted.name == name:
                scripted.take(bundle)
        for worker in self.workers:
            if worker.name == name:
                worker.kill()
                worker.bundle = bundle
                worker.start()

    # ---- the play ----

    def run(self, seconds: float) -> Outcome:
        """All of it."""
        faults: list[str] = []
        try:
            self.stand.start()
            for worker in self.workers:
                worker.start()
            for thread in (*self.scripted, *self.requesters):
                thread.start()
            self._until_whole("before the troubles")
            self._say(f"{CLIENTS} clients, {MASTERS} masters, {OURS + SCRIPTED} workers; troubles for {seconds:g} s")
            self._trouble(seconds, faults)
            try:
                self._until_whole("after the troubles")
            except AssertionError as error:
                faults.append(str(error))
            self._stop.set()
            for requester in self.requesters:
                requester.join(30)
                if requester.is_alive() or requester.fault is not None:
                    faults.append(f"{requester.who} did not end well: {requester.fault!r}")
            faults += self._leaks()
            status = self.stand.end()
            if status != 0:
                faults.append(f"the gateway ended with {status}")
            faults += self._sound()
        finally:
            self._stop.set()
            self._over.set()
            for worker in self.workers:
                worker.close()
                worker.write_down(self.books)
            self.master.close()
            self.stand.close()
        lines = self.stand.audit()
        outcome = Outcome(seconds=seconds, seed=self._seed, discrepancies=reconcile(self.books, lines), faults=faults)
        outcome.figures = self._figures(lines)
        return outcome

    def _trouble(self, seconds: float, faults: list[str]) -> None:
        dice = random.Random(self._seed)
        troubles = Troubles(self, self._seed)
        names = list(WEIGHTS)
        ends = time.monotonic() + seconds
        due = list(names)  # each once, then by weight
        dice.shuffle(due)
        while time.monotonic() < ends:
            name = due.pop() if due else dice.choices(names, [WEIGHTS[name] for name in names])[0]
            second = dice.choice(["kill-worker", "stop-worker", "flood"]) if name not in ALONE else None
            began = time.monotonic()
            with ThreadPoolExecutor(2) as crew:
                waits = [crew.submit(troubles.happen, one) for one in (name, second) if one is not None]
                for one in waits:
                    try:
                        one.result()
                    except Exception as error:
                        faults.append(f"{name}: {type(error).__name__}: {error}")
            self._say(f"{began - self.books.began:7.1f} s  {name}{'' if second is None else f' and {second}'}")
            if not self.stand.is_running():
                faults.append(f"after {name} the gateway does not run")
                self.stand.start()
            time.sleep(dice.uniform(0.5, 2.5))

    # ---- what must be so at the end ----

    def _until_whole(self, when: str) -> None:
        """Every worker is connected and every requester gets through."""
        ends = time.monotonic() + CALM
        wanted = OURS * SLOTS + SCRIPTED
        while True:
            pools = {pool["pool"]: pool for pool in self.stand.status().get("pools", [])}
            total = pools.get(POOL, {}).get("slots", {}).get("total", 0)
            since = time.monotonic() - 2.0
            served = {sent.who for sent in self.books.sent[-2000:] if sent.status == 200 and sent.ended > since}
            missing = sorted({one.who for one in self.requesters} - served)
            if total == wanted and not missing:
                return
            if time.monotonic() > ends:
                present = {worker["name"] for worker in pools.get(POOL, {}).get("workers", [])}
                absent = sorted(self.worker_names - present)
                raise AssertionError(
                    f"{when}: {total} of {wanted} slots, without {absent}; no answer of late: {missing}"
                )
            time.sleep(0.5)

    def _leaks(self) -> list[str]:
        """With all requesters gone only the workers' connections are left, and nothing is under way."""
        ends = time.monotonic() + 20.0
        wanted = OURS * SLOTS + SCRIPTED
        while True:
            processes = self.stand.status().get("processes", [])
            listed = sum(process["connections"]["total"] for process in processes if process["answers"])
            counted = sum(process["counters"]["connections"] for process in processes if process["answers"])
            under_way = sum(process["exchanges"] for process in processes if process["answers"])
            if (listed, counted, under_way) == (wanted, wanted, 0):
                return []
            if time.monotonic() > ends:
                return [f"{wanted} should be connected, {listed} are listed, {counted} counted; {under_way} under way"]
            time.sleep(0.5)

    def _sound(self) -> list[str]:
        found = []
        said = self.stand.cli("audit", "verify", statuses=(0, 1, 2))
        with contextlib.suppress(IndexError):
            self._say(f"audit verify: {said.strip().splitlines()[-1]}")
        try:
            self.stand.cli("audit", "verify")
        except Exception as error:
            found.append(str(error))
        errors = self.stand.errors()
        for word in ("Traceback", "Exception"):
            if word in errors:
                at = errors.index(word)
                found.append(f"stderr: {errors[max(0, at - 200) : at + 1500]}")
                break
        return found

    def _figures(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        sent = self.books.sent
        return {
            "requests": len(sent),
            "answers": dict(sorted(Counter(str(one.status) for one in sent if one.status).items())),
            "without an answer": dict(Counter(one.how for one in sent if one.status is None).most_common()),
            "ran": len(self.books.ran),
            "audit lines": len(lines),
            "events": dict(Counter(str(line["event"]) for line in lines).most_common()),
            "troubles": dict(Counter(one.name for one in self.books.troubles).most_common()),
            "restarts of data processes": sum(line["event"] == "gateway.start" for line in lines),
        }
