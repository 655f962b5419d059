"""What a measurement says: a table for people, JSON for machines, with what else the machine was doing."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.home import interpreter


def versions(command: Path) -> dict[str, str]:
    """The versions that decide about a number."""
    python = interpreter(command)
    wanted = "cryptography pyopenssl uvloop httptools".split()  # noqa: SIM905
    script = (
        "import json, platform, rhttp.http1.server, importlib.metadata as m\n"
        "from cryptography.hazmat.backends.openssl import backend\n"
        "facts = {'python': platform.python_version(), 'gateway_openssl': backend.openssl_version_text()}\n"
        "facts['build'] = 'interpreted' if rhttp.http1.server.__file__.endswith('.py') else 'compiled'\n"
        f"facts.update({{name: m.version(name) for name in {['rhttp-pki', *wanted]!r}}})\n"
        "print(json.dumps(facts))\n"
    )
    ours: dict[str, str] = {"gateway": "unknown"}
    if python.exists():
        told = subprocess.run(
            [python, "-P", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        ours = json.loads(told.stdout) if told.returncode == 0 else ours
    openssl = subprocess.run(
        ["openssl", "version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return {
        **ours,
        "system_openssl": openssl.stdout.strip(),
        "kernel": platform.release(),
        "processor": processor(),
    }


def processor() -> str:
    """The processor's model name, or the architecture where /proc tells none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


class Report:
    """Collects the rows of one measurement and prints them as they come."""

    def __init__(
        self, title: str, command: Path, settings: Mapping[str, Any], peers: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.data: dict[str, Any] = {
            "measurement": title,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "settings": dict(settings),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg(),
            "versions": versions(command),
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
        print("versions: " + ", ".join(f"{name} {value}" for name, value in self.data["versions"].items()))
        for name, facts in self.data["peers"].items():
            print(f"{name}: {facts['build']}; Digest: {facts['digest']}; role rule: {facts['role_rule']}")
        return self.data


def shown(value: Any) -> str:
    """A number with as many digits as it deserves."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def save(path: Path | None, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write all reports of this run as one JSON document to a file, or to stdout's end when none was named."""
    text = json.dumps({"reports": list(reports)}, indent=2)
    if path is None:
        print(f"\n{json.dumps({'reports': list(reports)})}")
    else:
        path.write_text(text + "\n")
        print(f"JSON: {path}", file=sys.stderr)
