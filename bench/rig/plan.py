"""Which measurements there are, and what `all` and `quick` make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rig import churn, dispatch, growth, idle, measure, polling, several, storm
from rig.testbed import Options

Measurement = Callable[[Options], dict[str, Any] | list[dict[str, Any]]]
MEASUREMENTS: Mapping[str, Measurement] = {
    "requests": measure.requests,
    "builds": measure.builds,
    "ahead": measure.ahead,
    "bulk": measure.bulk,
    "admission": measure.admission,
    "storm": storm.storm,
    "idle": idle.idle,
    "relayed": dispatch.relayed,
    "hosted": dispatch.hosted,
    "revocation": dispatch.revocation,
    "processes": several.processes,
    "cross": several.cross,
    "churn": churn.churn,
    "growth": growth.growth,
    "polling": polling.polling,
}
MEBI = 1 << 20
MANY_PATHS = 100_000
"""More than any table of what was asked before holds: no request finds its target there."""

Plan = Sequence[tuple[str, Mapping[str, Any]]]
# What each step changes of the command line. README.md says how long each takes, with four peers.
# A host that others share changes its speed by half within a second, so the servers take many short turns: of two
# copies of one build, 31 turns of 0.4 s told ratios of 0.99 to 1.00, 5 turns of 2 s ratios of 0.90 to 1.03.
TURNS: Mapping[str, Any] = {"rounds": 15, "seconds": 0.5}
ALL: Plan = (
    ("requests", {"conns": 1, "reply": 16, **TURNS}),
    ("requests", {"conns": 32, "reply": 16, **TURNS}),
    ("requests", {"conns": 32, "reply": 16, "paths": MANY_PATHS, **TURNS}),
    ("requests", {"conns": 256, "reply": 16, "seconds": 1}),
    ("requests", {"conns": 32, "reply": 16384, "seconds": 1}),
    ("requests", {"conns": 32, "reply": MEBI, "seconds": 1}),
    ("requests", {"conns": 32, "reply": 16, "body": MEBI, "seconds": 1}),
    ("builds", {"conns": 32, "reply": 16, **TURNS}),
    ("ahead", {"seconds": 1}),
    ("bulk", {"seconds": 1}),
    ("admission", TURNS),
    ("admission", {**TURNS, "key_type": "mldsa65"}),
    ("storm", {"workers": 10000}),
    ("idle", {"workers": 1000}),
    ("idle", {"workers": 10000}),
    ("idle", {"workers": 10000, "key_type": "ed25519", "peers": ()}),
    ("relayed", {"workers": 32, **TURNS}),
    ("relayed", {"workers": 1000, **TURNS}),
    ("relayed", {"workers": 4000, **TURNS}),
    ("hosted", {"workers": 32, **TURNS}),
    ("hosted", {"workers": 1000, **TURNS}),
    ("hosted", {"workers": 10000, **TURNS}),
    ("revocation", {}),
    ("processes", {}),
    ("cross", TURNS),
    ("churn", {"workers": 10000}),
    ("growth", {"workers": 10000}),
    ("polling", {"workers": 1000}),
)
# Without `polling`, which cannot be shorter than pollers are idle, and without what needs thousands of workers.
QUICK: Plan = (
    ("requests", {"conns": 32, "reply": 16}),
    ("requests", {"conns": 32, "reply": 16, "paths": MANY_PATHS}),
    ("bulk", {}),
    ("admission", {}),
    ("storm", {"workers": 500}),
    ("idle", {"workers": 500}),
    ("relayed", {"workers": 32}),
    ("hosted", {"workers": 32}),
    ("cross", {}),
    ("revocation", {}),
)
# One measurement by itself: what it takes unless the command line says otherwise.
ALONE: Mapping[str, Plan] = {
    "storm": (("storm", {"workers": 10000}),),
    "churn": (("churn", {"workers": 10000}),),
    # What a host with many cores would do follows from what a second process adds and what crossing costs.
    "growth": (("processes", {}), ("cross", {}), ("growth", {"workers": 10000})),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measurement and what it is given."""

    name: str
    measurement: Measurement
    options: Options

    def run(self) -> list[dict[str, Any]]:
        """The reports, one or more."""
        found = self.measurement(self.options)
        return found if isinstance(found, list) else [found]


def steps(what: str, options: Options, *, workers_asked: bool = False) -> list[Step]:
    """The measurements of one run, each with its own options; `workers_asked`: their number is the command line's."""
    found = []
    for name, changes in {"all": ALL, "quick": QUICK, **ALONE}.get(what, ((what, {}),)):
        values = dict(changes)
        if workers_asked and what in ALONE:
            values.pop("workers", None)
        if "seconds" in values:
            values["seconds"] = min(options.seconds, values["seconds"])
        if "rounds" in values:
            values["rounds"] = max(options.rounds, values["rounds"])
        found.append(Step(name=name, measurement=MEASUREMENTS[name], options=replace(options, **values)))
    return found
