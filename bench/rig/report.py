"""What a measurement says: a table for people, JSON for machines, with what else the machine was doing."""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rig import builds

facts = functools.cache(builds.facts)


def machine() -> dict[str, str]:
    """The processor (its model's name, or else the architecture), kernel and OpenSSL of the system."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpu if line.startswith("model name")]
    openssl = builds.run("openssl", "version", what="openssl is missing").partition(" (")[0].strip()
    return {
        "system_openssl": openssl,
        "kernel": platform.release(),
        "processor": models[0] if models else platform.machine(),
    }


class Report:
    """Collects the rows of one measurement and prints them as they come."""

    def __init__(
        self,
        title: str,
        commands: Mapping[str, Path],
        settings: Mapping[str, Any],
        peers: Mapping[str, Mapping[str, str]],
    ) -> None:
        ours = {name: facts(command) for name, command in commands.items()}
        self.data: dict[str, Any] = {
            "measurement": title,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "settings": dict(settings),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg(),
            "versions": {**next(iter(ours.values())), **machine()},
            "builds": ours,
            "peers": {name: dict(facts) for name, facts in peers.items()},
            "rows": [],
        }
        print(f"\n{title}  ({', '.join(f'{key} {value}' for key, value in settings.items())})")

    def row(self, *, hidden: Collection[str] = (), **values: Any) -> None:
        """Add one measured row and print it, save for what is `hidden`; the first row brings the heading."""
        rows = self.data["rows"]
        printed = {name: value for name, value in values.items() if name not in hidden}
        if not rows:
            print("  ".join(f"{name:>16}" for name in printed))
        rows.append(values)
        print("  ".join(f"{shown(value):>{max(16, len(name))}}" for name, value in printed.items()), flush=True)

    def column(self, name: str) -> list[float]:
        """One column of the rows so far."""
        return [row[name] for row in self.data["rows"]]

    def finish(self, **results: Any) -> dict[str, Any]:
        """Add the results, print them with the load averages and versions; the whole as JSON-ready data."""
        self.data["load_after"] = os.getloadavg()
        self.data["results"] = results
        for name, value in results.items():
            print(f"{name}: {shown(value)}")
        load = [" ".join(f"{value:.2f}" for value in self.data[when]) for when in ("load_before", "load_after")]
        print(f"load averages: {load[0]} before, {load[1]} after")
        print(f"versions: {listed(self.data['versions'])}")
        for name, build in list(self.data["builds"].items())[1:]:
            print(f"{name}: {listed(build)}")
        for name, facts in self.data["peers"].items():
            print(f"{name}: {facts['build']}; Digest: {facts['digest']}; role rule: {facts['role_rule']}")
        return self.data


def listed(values: Mapping[str, Any]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def shown(value: Any) -> str:
    """A number with as many digits as it deserves."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def save(path: Path | None, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write all reports of this run as one JSON document to a file, or to stdout's end when none was named."""
    if path is None:
        print(f"\n{json.dumps({'reports': list(reports)})}")
    else:
        path.write_text(json.dumps({"reports": list(reports)}, indent=2) + "\n")
        print(f"JSON: {path}", file=sys.stderr)
