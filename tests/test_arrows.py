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
    "auth": {
        "rhttp": frozenset(
            {
                "digest.authorization_cache",
                "digest.formula",
                "errors",
                "http1.fields",
                "http1.head",
                "http1.target",
                "memo",
                "reversal.upgrade",
            }
        )
    },
    "gateway": {"pki": None, "auth": None, "rhttp": None},
}

# Inside a package: what the modules of each room may import of the other rooms. "" is what lies at its top.
ROOMS: dict[str, dict[str, str]] = {
    "gateway": {
        "config": "",
        "state": "",
        "admin": "",
        "audit": "config",
        "control": "config state",
        "core": "config audit state",
        "admission": "core audit",
        "http": "core admission config",
        "exchange": "core admission http config",
        "pools": "core admission http exchange config",
        "cluster": "core pools exchange control",
        "enrolment": "core http",
        "ingress": "core admission http exchange pools enrolment control config audit admin",
        "dataplane": "core admission http exchange pools cluster enrolment ingress control config audit state",
        "home": "config state audit admin",
        "issuer": "config state audit home control",
        "supervisor": "config control state audit admin home",
        "cli": "home supervisor admin audit state config",
    },
    "rhttp": {
        "": "",
        "digest": "",
        "http1": "",
        "tls": "http1",
        "reversal": "http1 tls",
        "worker": "http1 tls digest reversal",
    },
}

NEUTRAL = ("gateway/exchange/", "gateway/pools/", "gateway/http/")
"""Rooms that know heads, content and ends as values, and no version of HTTP."""
ENDS = frozenset(
    {f"rhttp.http1.{name}" for name in ("answer", "client", "closing", "content", "head", "request", "server")}
)
DIALECTS = frozenset({"gateway/pools/dialects.py"})

MENDED_NEXT: tuple[str, ...] = ()

# `import rhttp` shows names of the SDK, each loaded when it is first asked for.
FACADES = frozenset({"rhttp/__init__.py"})

# Modules that may open sockets and files and ask for time and randomness: the edge. Everything else is pure, a new file
# too until it is written down here.
EDGE = frozenset(
    {
        "auth/sharedledger.py",
        "auth/store.py",
        "gateway/admin/client.py",
        "gateway/admin/holder.py",
        "gateway/admin/server.py",
        "gateway/admission/request_record.py",
        "gateway/audit/anchor.py",
        "gateway/audit/checkpoint_log.py",
        "gateway/audit/cli_stream.py",
        "gateway/audit/files.py",
        "gateway/audit/proofs.py",
        "gateway/audit/retention.py",
        "gateway/audit/stream.py",
        "gateway/audit/stream_end.py",
        "gateway/audit/supervisor_log.py",
        "gateway/audit/verify.py",
        "gateway/audit/writer.py",
        "gateway/cluster/outgoing.py",
        "gateway/cluster/peers.py",
        "gateway/cluster/sockets.py",
        "gateway/control/channel.py",
        "gateway/core/context.py",
        "gateway/control/descriptors.py",
        "gateway/control/process.py",
        "gateway/dataplane/draining.py",
        "gateway/dataplane/main.py",
        "gateway/dataplane/plane.py",
        "gateway/enrolment/issuance.py",
        "gateway/exchange/masters.py",
        "gateway/home/create.py",
        "gateway/home/export.py",
        "gateway/home/issue.py",
        "gateway/home/layout.py",
        "gateway/home/list_source.py",
        "gateway/home/locks.py",
        "gateway/home/renew.py",
        "gateway/home/revocation_lists.py",
        "gateway/ingress/acceptor.py",
        "gateway/ingress/event_stream.py",
        "gateway/ingress/listener.py",
        "gateway/ingress/metrics_handler.py",
        "gateway/ingress/pki_handler.py",
        "gateway/ingress/queues.py",
        "gateway/issuer/main.py",
        "gateway/issuer/signing.py",
        "gateway/issuer/works.py",
        "gateway/pools/relay.py",
        "gateway/pools/tcp_keepalive.py",
        "gateway/state/database.py",
        "gateway/state/postgres.py",
        "gateway/state/snapshot_query.py",
        "gateway/state/watch.py",
        "gateway/supervisor/child.py",
        "gateway/supervisor/fleet.py",
        "gateway/supervisor/fleet_drain.py",
        "gateway/supervisor/issuer.py",
        "gateway/supervisor/launcher.py",
        "gateway/supervisor/list_publisher.py",
        "gateway/supervisor/load.py",
        "gateway/supervisor/main.py",
        "gateway/supervisor/server_renewal.py",
        "gateway/supervisor/signer.py",
        "gateway/supervisor/sockets.py",
        "gateway/supervisor/supervisor.py",
        "pki/files.py",
        "pki/keys.py",
        "rhttp/clock.py",
        "rhttp/reversal/upgrade_client.py",
        "rhttp/tls/link.py",
        "rhttp/tls/plain.py",
        "rhttp/tls/tls_link.py",
        "rhttp/worker/agent.py",
        "rhttp/worker/asgi.py",
        "rhttp/worker/auto_renewal.py",
        "rhttp/worker/bundle_watch.py",
        "rhttp/worker/command.py",
        "rhttp/worker/connect.py",
        "rhttp/worker/dial.py",
        "rhttp/worker/digest_post.py",
        "rhttp/worker/enroll_command.py",
        "rhttp/worker/enrolment.py",
        "rhttp/worker/est_renewal.py",
        "rhttp/worker/forwarder.py",
        "rhttp/worker/fresh_bundle.py",
        "rhttp/worker/https.py",
        "rhttp/worker/lifespan.py",
        "rhttp/worker/output.py",
        "rhttp/worker/renew_command.py",
        "rhttp/worker/renewal_child.py",
        "rhttp/worker/renewal_daemon.py",
        "rhttp/worker/secret_file.py",
        "rhttp/worker/versions.py",
        "rhttp/worker/worker.py",
    }
)
EDGE_FOLDERS = ("gateway/cli/", "gateway/state/migrations/")

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
            inner = rest if rest in (allowed or ()) else ".".join(filter(None, (rest, what)))
            if allowed is not None and inner not in allowed:
                found.append(f"{name}:{line}: {package} may not import {top}.{inner}")
    return found


def room_of(path: str) -> str:
    """The room of a module: the folder below its package, empty for what lies at the package's top."""
    folders = path.split("/")[1:-1]
    return folders[0] if folders else ""


def wrong_doors(name: str, source: str) -> list[str]:
    """The imports in one file of rooms of its own package that no arrow allows, late and type-only ones included."""
    package, room = name.split("/", 1)[0], room_of(name)
    rooms = ROOMS.get(package)
    if rooms is None or name in FACADES or name == f"{package}/__init__.py":
        return []
    if room not in rooms:
        return [f"{name}: {package}/{room} is no room of the house"]
    found = []
    for line, module, what in imports(ast.parse(source)):
        top, _, rest = module.partition(".")
        if top != package:
            continue
        other = rest.split(".")[0] or what or ""
        other = other if other in rooms else ""
        if other not in ("", room) and other not in rooms[room].split():
            found.append(f"{name}:{line}: {package}/{room or '(top)'} may not import {package}/{other}")
    return found


def wire_contacts(source: str) -> list[str]:
    """Where one file names an end of HTTP/1.1, or writes its text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, bytes) else b""
        if b"\r\n" in text or b"HTTP/1" in text:
            found.append(f"{node.lineno}: {text!r}")
    for line, module, what in imports(ast.parse(source)):
        if module in ENDS or f"{module}.{what}" in ENDS:
            found.append(f"{line}: imports {module}")
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


def test_rooms_import_only_the_rooms_that_the_house_allows() -> None:
    """Inside `gateway/` and `rhttp/` arrows go one way, too: docs/architecture.md draws them."""
    wrong = [door for name in modules() for door in wrong_doors(name, (ROOT / name).read_text())]
    assert [door for door in wrong if door.split(":")[0] not in MENDED_NEXT] == []
    assert {door.split(":")[0] for door in wrong} == set(MENDED_NEXT)


def test_only_ends_know_how_a_version_of_http_looks_on_the_wire() -> None:
    """Exchange, pools and what the gateway says itself hold values; one table says who speaks a worker's dialect."""
    wrong = {
        name: contacts
        for name in modules()
        if name.startswith(NEUTRAL) and name not in DIALECTS and (contacts := wire_contacts((ROOT / name).read_text()))
    }
    assert wrong == {}


def test_arrows_between_rooms_make_no_circle() -> None:
    """The table of rooms itself has an order: following its arrows never comes back."""
    for rooms in ROOMS.values():
        above: set[str] = set()
        while len(above) < len(rooms):
            ready = {room for room in rooms if room not in above and set(rooms[room].split()) <= above}
            assert ready, f"a circle among {sorted(set(rooms) - above)}"
            above |= ready


def test_rooms_each_say_in_one_sentence_what_they_are_for() -> None:
    """`__init__.py` of a room is one sentence and nothing else, so that a listing of folders can be read."""
    for package, rooms in ROOMS.items():
        for room in filter(None, rooms):
            body = ast.parse((ROOT / package / room / "__init__.py").read_text()).body
            assert len(body) == 1, f"{package}/{room}"
            assert (ast.get_docstring(ast.Module(body, [])) or "").count("\n") == 0, f"{package}/{room}"


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
        ("pki/names.py", "from rhttp.http1.fields import parse"),
        ("rhttp/http1/head.py", "import auth"),
        ("rhttp/http1/head.py", "def late() -> None:\n    from gateway import config\n"),
        ("auth/verifier.py", "from rhttp.worker.agent import Agent"),
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
        ("auth/verifier.py", "from rhttp.digest.formula import ha1\nfrom rhttp.digest import formula\n"),
        ("auth/verifier.py", "import auth.errors"),
        ("gateway/server.py", "import rhttp.tls.tls_link\nfrom auth.store import UserStore\nfrom pki import verify\n"),
        ("pki/verify.py", "from pki.names import Role\nimport pkix\n"),
    ],
)
def test_right_arrow_passes(name: str, source: str) -> None:
    """The rule lets through what the arrows allow, and names that only begin like ours."""
    assert wrong_arrows(name, source) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gateway/config/check.py", "import gateway.http.routes"),
        ("gateway/http/routes.py", "def late() -> None:\n    from gateway.ingress import connection\n"),
        ("gateway/pools/relay.py", "if TYPE_CHECKING:\n    from gateway.ingress.connection import Connection\n"),
        ("gateway/dataplane/plane.py", "from gateway.supervisor.fleet import Fleet"),
        ("gateway/supervisor/fleet.py", "from gateway.ingress.connection import Connection"),
        ("gateway/home/layout.py", "from gateway.dataplane import generation"),
        ("gateway/exchange/masters.py", "from gateway.home.layout import Home"),
        ("gateway/attic/new.py", "import os"),
        ("rhttp/http1/server.py", "from rhttp.worker.agent import Agent"),
        ("rhttp/tls/link.py", "import rhttp.reversal.upgrade"),
        ("rhttp/errors.py", "from rhttp.http1 import head"),
    ],
)
def test_wrong_door_is_found(name: str, source: str) -> None:
    """The rule sees an import of a room that is not allowed to it, however it is written, and a room that is none."""
    assert len(wrong_doors(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gateway/ingress/connection.py", "from gateway.pools.hosted import HostedPool"),
        ("gateway/ingress/connection.py", "from gateway.ingress import acceptor"),
        ("gateway/cli/run.py", "from gateway.supervisor.main import serve\nfrom gateway.cli.common import fail\n"),
        ("rhttp/__init__.py", "from rhttp.worker.worker import run"),
        ("rhttp/worker/agent.py", "from rhttp.timers import TimerWheel\nfrom rhttp import errors\n"),
    ],
)
def test_right_door_passes(name: str, source: str) -> None:
    """A room may import itself, what the table allows it, and what lies at the top of its package."""
    assert wrong_doors(name, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "from rhttp.http1.client import ClientEnd",
        "import rhttp.http1.server",
        "def late() -> None:\n    from rhttp.http1 import server\n",
        "line = b'Via: %b\\r\\n'",
        "block = b'%b %b HTTP/1.1' % (method, target)",
    ],
)
def test_wire_contact_is_found(source: str) -> None:
    """The rule sees an end of HTTP/1.1 that is imported, and text that is written."""
    assert len(wire_contacts(source)) == 1


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
    assert len(world_contacts("rhttp/http1/head.py", source)) == 1


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
    assert world_contacts("rhttp/http1/head.py", source) == []
