"""The demo: map and reduce over Python's own sources, through a gateway, and what the gateway refuses.

Run it by `scripts/demo`, which makes the environment. It reads as a story; each command is one that you could type.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import DemoFailed, Running, Testbed, require, say

POOL = "text"
SLOTS = 2
"""Of each worker."""
TOP = 10
TIMEOUT = 900
_STATUS = "\n%{http_code}"

CONFIG = """
[masters.count]
urls = ["{master}"]

[[routes]]
path = "/jobs"
master = "count"

[[routes]]
path = "/jobs/*"
master = "count"

[[routes]]
path = "/slots"
master = "count"

[pools.{pool}]
"""


@dataclass(kw_only=True)
class Tier:
    """A gateway with its home, and the master behind it."""

    home: Path
    gateway: Running
    master: Running
    url: str
    workers: dict[str, Running] = field(default_factory=dict)

    def bundle(self, name: str) -> Path:
        """Where a bundle of this home lies."""
        return self.home / "bundles" / name


# ---- what is set up ----


def make_tier(testbed: Testbed, name: str, *, join: Path | None = None) -> Tier:
    """A home, a master that waits for its gateway, and the gateway."""
    home = testbed.place / name
    testbed.run("rhttp-pki", "init", "--trust-domain", f"{name}.internal", home=home)
    dispatch = f"unix:{home}/run/dispatch.sock"
    joining = ["--join", str(join)] if join is not None else []
    python = ["python", "-m", "mapreduce", "--dispatch", dispatch, "--pool", POOL, "--listen", "127.0.0.1:0"]
    master = testbed.start(f"master of {name}", *python, *joining)
    url = master.ready(r"listening on (http://\S+)")[1]
    say(f"   {url}; and this goes into {testbed.short(str(home))}/gateway.toml:")
    tables = CONFIG.format(master=url, pool=POOL)
    say("\n".join(f"     | {line}".rstrip() for line in tables.strip().splitlines()))
    path = home / "gateway.toml"
    path.write_text(set_listen(path.read_text(), "127.0.0.1:0") + tables)
    gateway = testbed.start(f"gateway of {name}", "rhttp-pki", "gateway", home=home)
    listen = gateway.ready(r"TLS listener on https://(\S+)")[1]
    gateway.ready("gateway: ready")
    # The port is known now; bundles take the gateway's address from the file.
    path.write_text(set_listen(path.read_text(), listen))
    say(f"   it listens on https://{listen}")
    return Tier(home=home, gateway=gateway, master=master, url=f"https://{listen}")


def set_listen(text: str, address: str) -> str:
    """The configuration with another address of the TLS listener."""
    return re.sub(r"(?m)^listen = \S+", f'listen = "{address}"', text)


def start_worker(testbed: Testbed, tier: Tier, name: str, rack: str) -> None:
    """A worker gets its bundle, dials the gateway, and switches roles."""
    testbed.run("rhttp-pki", "issue-worker", name, "--pool", POOL, "--label", f"rack={rack}", home=tier.home)
    bundle = str(tier.bundle(name))
    worker = testbed.start(
        f"worker {name}", "rhttp-pki", "worker", bundle, "--app", "mapreduce.worker:app", "--slots", str(SLOTS)
    )
    worker.ready(rf"^worker {name}: {SLOTS} slots connected")
    tier.workers[name] = worker


# ---- what a client does ----


def curl(testbed: Testbed, bundle: Path, *arguments: str, quiet: bool = False) -> tuple[int, dict[str, Any]]:
    """A request with the certificate and password of a bundle: status and JSON."""
    command = ("curl", "-sS", "-K", f"{bundle}/curl.conf", *arguments)
    if not quiet:
        testbed.show(command)
    body, _, status = testbed.run(*command, "--max-time", "60", "-w", _STATUS, quiet=True).rpartition("\n")
    try:
        return int(status), json.loads(body or "{}")
    except ValueError:
        raise DemoFailed(f"curl got no JSON but {status}: {body[:200]!r}") from None


def slots(testbed: Testbed, tier: Tier, *, quiet: bool = True) -> tuple[int, int]:
    """Total and free slots as the master of a tier tells them to its client."""
    status, body = curl(testbed, tier.bundle("alice"), f"{tier.url}/slots", quiet=quiet)
    if status != 200:
        raise DemoFailed(f"GET /slots answers {status}: {body}")
    return body["slots"]["total"], body["slots"]["free"]


def count_words(testbed: Testbed, tier: Tier, order: Path) -> dict[str, Any]:
    """Submit the job, watch it, fetch all of its result."""
    alice, content = tier.bundle("alice"), ("-H", "Content-Type: application/json", "--data-binary", f"@{order}")
    status, job = curl(testbed, alice, *content, f"{tier.url}/jobs?top=0")
    if status not in (200, 202):
        raise DemoFailed(f"POST /jobs answers {status}: {job}")
    where = f"{tier.url}/jobs/{job['id']}"
    testbed.show(["curl", "-K", f"{alice}/curl.conf", "-H", "Prefer: wait=1", f"{where}?top={TOP}"])
    shown = None
    while job["status"] == "running":
        if (units := job["units"]) != shown and units["total"]:
            say(f"   {units['done']} of {units['total']} units done")
            shown = units
        status, job = curl(testbed, alice, "-H", "Prefer: wait=1", f"{where}?top={TOP}", quiet=True)
    if job["status"] != "done":
        raise DemoFailed(f"the job failed: {job}")
    return curl(testbed, alice, where, quiet=True)[1]


# ---- what is counted ----


def read_sources(most: int | None) -> list[dict[str, str]]:
    """The sources of this Python's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests"}
    files = sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))
    return [
        {"name": str(path.relative_to(root)), "text": path.read_text(errors="replace")}
        for path in files[:most]
        if path.is_file()
    ]


def write_order(testbed: Testbed, sources: list[dict[str, str]], name: str) -> Path:
    """The job as a file. It is spread over the racks of the workers, where they have any."""
    path = testbed.place / name
    path.write_text(json.dumps({"kind": "wordcount", "spread": ["rack"], "texts": sources}))
    return path


def count_alone(sources: list[dict[str, str]]) -> Counter[str]:
    """The same count in this one process, by three lines that share nothing with the example."""
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(re.findall(r"\w+", source["text"].lower()))
    return counts


def check(job: dict[str, Any], alone: Counter[str], total: int, units: int) -> None:
    """Show what came of a job, and hold it against the count of one process."""
    result, workers = job["result"], job["workers"]
    say("   top words: " + ", ".join(f"{word} {count}" for word, count in list(result["words"].items())[:TOP]))
    say("   units: " + ", ".join(f"{name} did {count}" for name, count in workers.items()))
    require(result["words"] == alone, f"all {len(alone)} words have the same count as in a single process")
    require(result["total"] == total, f"their sum is {total} in both")
    require(job["units"]["done"] == job["units"]["total"] >= 1, f"{job['units']['done']} units, each counted once")
    require(sum(workers.values()) >= units, f"and workers did at least {units}")


# ---- the story ----


def play(testbed: Testbed, tiers: int, files: int | None) -> None:
    """All of it, from nothing to a checked audit log."""
    testbed.step("A home with its certification authorities, a master, and the gateway in front of it")
    top = make_tier(testbed, "home" if tiers == 1 else "upper")
    homes = [top]

    testbed.step("A client")
    testbed.run("rhttp-pki", "issue-client", "alice", home=top.home)

    lower = top
    if tiers == 2:
        testbed.step("A second tier: another home and gateway, whose master joins the upper one as a worker")
        testbed.run("rhttp-pki", "issue-worker", "lower", "--pool", POOL, home=top.home)
        lower = make_tier(testbed, "lower", join=top.bundle("lower"))
        homes.append(lower)

    testbed.step("Three workers, which dial out")
    start_worker(testbed, lower, "w1", "a")
    start_worker(testbed, lower, "w2", "b")
    start_worker(testbed, top, "w3", "b")
    whole = 3 * SLOTS
    slots(testbed, top, quiet=False)
    where = "of both tiers, " if tiers == 2 else ""
    testbed.until(f"GET /slots at the top tells the sum {where}{whole}", lambda: slots(testbed, top) == (whole, whole))

    testbed.step("Word count over the standard library's own sources")
    sources = read_sources(files)
    order = write_order(testbed, sources, "job.json")
    say(f"   {len(sources)} files, {order.stat().st_size / 1e6:.1f} MB")
    alone = count_alone(sources)
    job = count_words(testbed, top, order)
    check(job, alone, alone.total(), 3 if files is None else 1)

    testbed.step("A client certificate does not take the reverse role")
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: PTTH/1.0", f"{top.url}/-/reverse/{POOL}")
    refused(curl(testbed, top.bundle("alice"), *upgrade), "the gateway refuses alice the reverse role")

    testbed.step("A worker certificate does not submit jobs")
    content = ("-H", "Content-Type: text/plain", "--data-binary", "a word", f"{top.url}/jobs?kind=wordcount")
    refused(curl(testbed, top.bundle("w3"), *content), "the gateway refuses w3 a job")
    status, _ = curl(testbed, top.bundle("alice"), *content)
    require(status in (200, 202), "and takes the same job from alice")

    testbed.step("A revoked worker is cut off at once, and the next job still finishes")
    said = testbed.run("rhttp-pki", "revoke", "w2", "--reason", "keyCompromise", home=lower.home)
    say(f"   {said.strip()}")
    require(
        names(testbed, lower) == connected(lower, without="w2"), "when `revoke` is back, w2 is not connected any more"
    )
    left = whole - SLOTS
    testbed.until(f"GET /slots at the top tells {left}", lambda: slots(testbed, top) == (left, left))
    job = count_words(testbed, top, order)
    check(job, alone, alone.total(), 1)
    require(not any(name.split("/")[-1] == "w2" for name in job["workers"]), "w2 had no part in it")
    lower.workers["w2"].ready("the gateway refused the certificate")
    require(names(testbed, lower) == connected(lower, without="w2"), "and is refused whenever it dials again")

    testbed.step("All of it ends in order")
    testbed.end(*(worker for tier in homes for worker in tier.workers.values()))
    testbed.end(*(tier.master for tier in reversed(homes)), *(tier.gateway for tier in reversed(homes)))

    testbed.step("The audit log proves itself, and shows one changed byte")
    for tier in homes:
        prove_log(testbed, tier)


def refused(answer: tuple[int, dict[str, Any]], promise: str) -> None:
    """It must be the gateway's own 403."""
    status, problem = answer
    require(status == 403 and problem.get("type") == "urn:rhttp:problem:forbidden", f"{promise}: {status}")


def names(testbed: Testbed, tier: Tier) -> set[str]:
    """Who is connected to a gateway now."""
    pools = json.loads(testbed.run("rhttp-pki", "status", "--json", home=tier.home))["pools"]
    return {worker["name"] for pool in pools for worker in pool["workers"]}


def connected(tier: Tier, *, without: str) -> set[str]:
    """Who should be connected to it: its workers but one."""
    return set(tier.workers) - {without}


def prove_log(testbed: Testbed, tier: Tier) -> None:
    """`audit verify` on the log, on a copy, and on the copy with one byte changed."""
    said = testbed.run("rhttp-pki", "audit", "verify", home=tier.home)
    say(f"   {said.strip().splitlines()[-1]}")
    copy = testbed.place / f"{tier.home.name}-audit"
    testbed.show(["cp", "-r", f"{tier.home}/audit", str(copy)])
    shutil.copytree(tier.home / "audit", copy)
    testbed.run("rhttp-pki", "audit", "verify", str(copy), home=tier.home)
    file = copy / "p0-000001.jsonl"
    data = bytearray(file.read_bytes())
    at = data.index(b'"outcome":"allowed"') + len(b'"outcome":"')
    data[at] ^= 0x20  # "Allowed"
    file.write_bytes(data)
    say(f"   one byte of {testbed.short(str(file))} is another one now")
    said = testbed.run("rhttp-pki", "audit", "verify", str(copy), home=tier.home, status=1)
    require("BAD" in said, said.strip().splitlines()[0])


def main() -> int:
    """Play, clean up, and say how it went."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiers", type=int, choices=(1, 2), default=1, help="gateways above each other (%(default)s)")
    parser.add_argument("--files", type=int, metavar="N", help="count over the first N source files only")
    options = parser.parse_args()
    try:
        with Testbed(timeout=TIMEOUT) as testbed:
            say(f"Everything lies in {testbed.place}, called $DEMO here, and goes away at the end.")
            say(testbed.run("rhttp-pki", "--version").strip())
            play(testbed, options.tiers, options.files)
    except (DemoFailed, BrokenPipeError):
        return 1
    except KeyboardInterrupt:
        return 130
    if testbed.place.exists():
        say(f"demo: failed: {testbed.place} is still there")
        return 1
    say("demo: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
