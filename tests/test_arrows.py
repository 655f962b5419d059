"""The house rules that a reader can check by reading: who imports whom, who may touch the world, how long a file is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pki", "auth", "rhttp", "gateway")
MAX_LINES = 400

# What each package may import of ours. `None`: every module of it; a set: only these.
ARROWS: dict[str, dict[str, frozenset[str] | None]] = {
    "pki": {},
    "rhttp": {},
    "auth": {"rhttp": frozenset({"fields", "head", "digest", "target", "upgrade", "errors", "recent"})},
    "gateway": {"pki": None, "auth": None, "rhttp": None},
}

# Modules that may open sockets and files and ask for time and randomness: the edge. Everything else is pure, a new file
# too until it is written down here.
EDGE = frozenset(
    {
        "auth/sharedledger.py",
        "auth/store.py",
        "gateway/acceptor.py",
        "gateway/queues.py",
        "gateway/tlsacceptor.py",
        "gateway/admin.py",
        "gateway/adminclient.py",
        "gateway/anchor.py",
        "gateway/auditfiles.py",
        "gateway/auditlog.py",
        "gateway/auditproofs.py",
        "gateway/auditstream.py",
        "gateway/auditverify.py",
        "gateway/call.py",
        "gateway/checkpointlog.py",
        "gateway/child.py",
        "gateway/clistream.py",
        "gateway/clock.py",
        "gateway/control.py",
        "gateway/dataplane.py",
        "gateway/draining.py",
        "gateway/events.py",
        "gateway/fleet.py",
        "gateway/fleetdrain.py",
        "gateway/home.py",
        "gateway/homemaker.py",
        "gateway/inherited.py",
        "gateway/issuing.py",
        "gateway/listeners.py",
        "gateway/lines.py",
        "gateway/liveness.py",
        "gateway/loader.py",
        "gateway/masters.py",
        "gateway/member.py",
        "gateway/mesh.py",
        "gateway/metricsacceptor.py",
        "gateway/postgres.py",
        "gateway/process.py",
        "gateway/relay.py",
        "gateway/renewal.py",
        "gateway/retention.py",
        "gateway/revocationlists.py",
        "gateway/runfiles.py",
        "gateway/serve.py",
        "gateway/services.py",
        "gateway/signer.py",
        "gateway/state.py",
        "gateway/statewatch.py",
        "gateway/streamend.py",
        "gateway/supervisor.py",
        "gateway/trail.py",
        "pki/files.py",
        "pki/keys.py",
        "rhttp/agent.py",
        "rhttp/asgi.py",
        "rhttp/asking.py",
        "rhttp/connect.py",
        "rhttp/dial.py",
        "rhttp/forwarder.py",
        "rhttp/lifespan.py",
        "rhttp/link.py",
        "rhttp/plain.py",
        "rhttp/secretfile.py",
        "rhttp/tls.py",
        "rhttp/worker.py",
    }
)
EDGE_FOLDERS = ("gateway/cli/", "gateway/migrations/")

WORLD = frozenset(
    {
        "asyncio",
        "fcntl",
        "io",
        "multiprocessing",
        "os",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uvloop",
    }
)
# Parts of those modules that are types or plain functions of their arguments.
HARMLESS = {
    "asyncio": frozenset({"AbstractEventLoop", "BaseProtocol", "BaseTransport", "Protocol", "Transport"}),
    "time": frozenset({"gmtime", "strftime"}),
}
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})  # of datetime and date; gmtime() without its argument is one too


def modules() -> list[str]:
    """Every source file of ours, as a path from the checkout."""
    return sorted(str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def is_edge(name: str) -> bool:
    return name in EDGE or name.startswith(EDGE_FOLDERS)


def type_checking_only(node: ast.stmt) -> bool:
    """Is it an `if TYPE_CHECKING:` block? Its imports never run, but they still tie the packages together."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(tree: ast.AST, *, running_only: bool = False) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, imported name or None) of every import in the tree, wherever it stands."""
    for node in ast.iter_child_nodes(tree):
        if running_only and isinstance(node, ast.stmt) and type_checking_only(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name
        yield from imports(node, running_only=running_only)


def wrong_arrows(name: str, source: str) -> list[str]:
    """The imports in one file that no arrow allows, relative ones included (we write absolute imports)."""
    package = name.split("/", 1)[0]
    found = []
    for line, module, what in imports(ast.parse(source)):
        top, _, rest = module.partition(".")
        if module.startswith("."):
            found.append(f"{name}:{line}: relative import of {module}")
        elif top in PACKAGES and top != package:
            allowed = ARROWS[package].get(top, frozenset())
            inner = rest.split(".")[0] or what or ""
            if allowed is not None and inner not in allowed:
                found.append(f"{name}:{line}: {package} may not import {top}.{inner}")
    return found


def world_contacts(name: str, source: str) -> list[str]:
    """Where one file reaches for the world: a module of `WORLD`, the wall clock, or `open`."""
    tree = ast.parse(source)
    used: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    found = []
    for line, module, what in imports(tree, running_only=True):
        parts = {what} if what else used.get(module, {"(unused)"})
        if module.split(".")[0] in WORLD and not parts <= HARMLESS.get(module, frozenset()):
            found.append(f"{name}:{line}: imports {module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and (
            (node.func.attr in CLOCK_CALLS and ast.unparse(node.func.value).endswith(("datetime", "date")))
            or (node.func.attr == "gmtime" and not node.args)
        ):
            found.append(f"{name}:{node.lineno}: calls .{node.func.attr}(), time is an argument")
        elif isinstance(node.func, ast.Name) and node.func.id == "open":
            found.append(f"{name}:{node.lineno}: opens a file")
    return found


def test_arrows_every_import_goes_the_right_way() -> None:
    """gateway may import auth, pki and rhttp; auth only rhttp's pure modules; pki and rhttp none of ours."""
    assert [arrow for name in modules() for arrow in wrong_arrows(name, (ROOT / name).read_text())] == []


def test_pure_modules_touch_no_socket_clock_file_or_randomness() -> None:
    """Outside the edge, time and entropy are arguments and bytes come from the caller."""
    found = [
        contact
        for name in modules()
        if not is_edge(name)
        for contact in world_contacts(name, (ROOT / name).read_text())
    ]
    assert found == []


def test_edge_names_only_files_that_need_it() -> None:
    """A name in that list which is gone, or touches nothing, would be a hole for what is written there next."""
    here = set(modules())
    assert (
        sorted(name for name in EDGE if name not in here or not world_contacts(name, (ROOT / name).read_text())) == []
    )


def test_files_stay_within_the_length_that_a_reader_holds() -> None:
    """No source file of ours is longer than 400 lines."""
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in modules()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("pki/names.py", "from rhttp.fields import parse"),
        ("rhttp/head.py", "import auth"),
        ("rhttp/head.py", "def late() -> None:\n    from gateway import config\n"),
        ("auth/verifier.py", "from rhttp.agent import Agent"),
        ("auth/verifier.py", "from rhttp import tls"),
        ("auth/verifier.py", "import rhttp"),
        ("auth/verifier.py", "from pki.verify import VerifiedPeer"),
        ("pki/verify.py", "from .names import Role"),
        ("pki/verify.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from auth.policy import Allowed\n"),
    ],
)
def test_wrong_arrow_is_found(name: str, source: str) -> None:
    """The rule sees an import that goes the wrong way, late ones and those for types only included."""
    assert len(wrong_arrows(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("auth/verifier.py", "from rhttp.digest import ha1\nfrom rhttp import digest\nimport auth.errors\n"),
        ("gateway/server.py", "import rhttp.tls\nfrom auth.store import UserStore\nfrom pki import verify\n"),
        ("pki/verify.py", "from pki.names import Role\nimport pkix\n"),
    ],
)
def test_right_arrow_passes(name: str, source: str) -> None:
    """The rule lets through what the arrows allow, and names that only begin like ours."""
    assert wrong_arrows(name, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from time import monotonic",
        "def late() -> bytes:\n    import secrets\n    return secrets.token_bytes(8)\n",
        "from datetime import datetime\nstart = datetime.now()\n",
        "import datetime\nstart = datetime.datetime.now(datetime.UTC)\n",
        "text = open('x').read()",
        "import asyncio\nstarted = asyncio.Protocol, asyncio.create_task\n",
        "import time\nyear = time.gmtime().tm_year\n",
    ],
)
def test_world_contact_is_found(source: str) -> None:
    """The rule sees each way in which a pure module could reach out by itself."""
    assert len(world_contacts("rhttp/head.py", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio\n",
        "import asyncio\nclass End(asyncio.Protocol):\n    pass\n",
        "def late(clock: Clock) -> bool:\n    return clock.now() > 5\n",
        "import time\ndef stamp(at: int) -> str:\n    return time.strftime('%Y', time.gmtime(at))\n",
    ],
)
def test_world_contact_of_types_and_plain_functions_passes(source: str) -> None:
    """A pure module may name a type of the edge, and use the parts of `asyncio` and `time` that only compute."""
    assert world_contacts("rhttp/head.py", source) == []
