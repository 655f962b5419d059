"""Which measurements there are, and what `all` and `quick` make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rig import dispatch, idle, measure, polling, storm
from rig.stage import Options

Measurement = Callable[[Options], dict[str, Any]]
MEASUREMENTS: Mapping[str, Measurement] = {
    "requests": measure.requests,
    "bulk": measure.bulk,
    "admission": measure.admission,
    "storm": storm.storm,
    "idle": idle.idle,
    "relayed": dispatch.relayed,
    "hosted": dispatch.hosted,
    "revocation": dispatch.revocation,
    "polling": polling.polling,
}
MEBI = 1 << 20

# What each step changes of the command line. About 20 minutes with 5 rounds of 3 s and four peers.
ALL: tuple[tuple[str, Mapping[str, int]], ...] = (
    ("requests", {"conns": 1, "reply": 16}),
    ("requests", {"conns": 32, "reply": 16}),
    ("requests", {"conns": 256, "reply": 16}),
    ("requests", {"conns": 32, "reply": 16384}),
    ("requests", {"conns": 32, "reply": MEBI}),
    ("requests", {"conns": 32, "reply": 16, "body": MEBI}),
    ("bulk", {}),
    ("admission", {}),
    ("storm", {"workers": 10000}),
    ("idle", {"workers": 1000}),
    ("idle", {"workers": 10000}),
    ("relayed", {"workers": 32}),
    ("relayed", {"workers": 1000}),
    ("relayed", {"workers": 4000}),
    ("hosted", {"workers": 32}),
    ("hosted", {"workers": 1000}),
    ("hosted", {"workers": 10000}),
    ("revocation", {}),
    ("polling", {"workers": 1000}),
)
# Without `polling`, which cannot be shorter than pollers are idle.
QUICK: tuple[tuple[str, Mapping[str, int]], ...] = (
    ("requests", {"conns": 32, "reply": 16}),
    ("bulk", {}),
    ("admission", {}),
    ("storm", {"workers": 500}),
    ("idle", {"workers": 500}),
    ("relayed", {"workers": 32}),
    ("hosted", {"workers": 32}),
    ("revocation", {}),
)


def steps(what: str, options: Options) -> list[tuple[Measurement, Options]]:
    """The measurements of one run, each with its own options."""
    plan = {"all": ALL, "quick": QUICK}.get(what, ((what, {}),))
    found = []
    for name, changes in plan:
        values: dict[str, Any] = dict(changes)
        found.append((MEASUREMENTS[name], replace(options, **values)))
    return found
