"""The private parts of pyOpenSSL: one table of them, used in one place, and one clear line when one is gone."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.runhomes import copy_home
from support.supervised import is_gone

from gateway.control.descriptors import Inherited
from gateway.supervisor.launcher import Child
from rhttp.tls.binding import KNOWN_GOOD, PARTS

ROOT = Path(__file__).resolve().parent.parent
BINDING = ROOT / "rhttp" / "tls" / "binding.py"
OURS = ("auth", "bench", "gateway", "pki", "rhttp", "scripts")

# What takes a part away, before anything of ours is loaded, and how the part is named.
BREAKS = {
    "OpenSSL.SSL.Connection._raise_ssl_error": "del SSL.Connection._raise_ssl_error",
    "OpenSSL.SSL.Context._verify_helper": (
        "class C(SSL.Connection):\n"
        "    def __init__(self, *given): pass\n"
        "SSL.Connection = C\n"
        "SSL.Context = lambda method: None"
    ),
    "OpenSSL.crypto.X509._from_raw_x509_ptr": "del crypto.X509._from_raw_x509_ptr",
    "OpenSSL._util.lib.SSL_read": (
        "class L:\n"
        "    def __getattr__(self, name, lib=_util.lib):\n"
        "        if name == 'SSL_read': raise AttributeError(name)\n"
        "        return getattr(lib, name)\n"
        "_util.lib = L()"
    ),
    "OpenSSL._util.ffi.unpack": "del _util.ffi",
}
BREAK_ONE = "from OpenSSL import SSL, _util, crypto\ndel SSL.Connection._raise_ssl_error\n"


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, without a traceback to spare it."""
    return subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def trees() -> list[tuple[Path, ast.Module]]:
    return [(file, ast.parse(file.read_text())) for top in OURS for file in sorted((ROOT / top).rglob("*.py"))]


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def is_foreign(name: str) -> bool:
    """Is it a private part of a library for TLS?"""
    top, _, rest = name.partition(".")
    return top in ("_cffi_backend", "cffi") or (
        top in ("OpenSSL", "cryptography") and (is_private(rest) or "bindings" in rest)
    )


def test_parts_are_what_is_used_and_no_more() -> None:
    """What is used and not looked for would end in a traceback; what is looked for and not used, refuse in vain."""
    used = {"ffi": set[str](), "lib": set[str]()}
    for file in (ROOT / "rhttp" / "tls").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in used:
                used[node.value.id].add(node.attr)
    for name, found in used.items():
        assert sorted(found) == PARTS[f"OpenSSL._util.{name}"].split()
    attributes = {node.attr for node in ast.walk(ast.parse(BINDING.read_text())) if isinstance(node, ast.Attribute)}
    objects = " ".join(names for place, names in PARTS.items() if not place.startswith("OpenSSL._util."))
    assert {name for name in attributes if is_private(name)} == set(objects.split())


def test_private_parts_of_libraries_are_used_in_the_binding_alone() -> None:
    """What a library does not promise is named in one table, so nothing else of ours may reach for it."""
    private = {name for names in PARTS.values() for name in names.split() if is_private(name)}
    found = []
    for file, tree in trees():
        if file == BINDING:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in private:
                if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                    found.append(f"{file}:{node.lineno}: .{node.attr}")
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [f"{file}:{node.lineno}: {name}" for name in names if is_foreign(name)]
            elif isinstance(node, ast.Import):
                found += [f"{file}:{node.lineno}: {alias.name}" for alias in node.names if is_foreign(alias.name)]
    assert found == []


def test_known_good_versions_are_those_of_the_lock() -> None:
    """What the refusal recommends is what the tests ran with."""
    lock = (ROOT / "requirements-dev.lock").read_text()
    locked = {name: re.search(rf"^{name.lower()}==(\S+)", lock, re.MULTILINE) for name in KNOWN_GOOD}
    assert {name: found and found[1] for name, found in locked.items()} == KNOWN_GOOD


@pytest.mark.parametrize("part", BREAKS)
def test_binding_without_a_part_is_not_loaded_and_says_which(part: str) -> None:
    """It names the part, what is installed, and what is known to be good."""
    code = f"from OpenSSL import SSL, _util, crypto\n{BREAKS[part]}\ntry:\n    import rhttp\n    rhttp.Worker\n"
    done = run_python(code + "except Exception as error:\n    print(type(error).__name__, error)")
    assert done.stdout.startswith("UnfitLibrary the installed pyOpenSSL "), done
    told, good = done.stdout.strip().split("; known to be good: ")
    assert part in told
    assert good == " with ".join(f"{name} {version}" for name, version in KNOWN_GOOD.items())


@pytest.mark.parametrize("command", ["gateway --check", "gateway", "worker bundle --forward http://127.0.0.1:1"])
def test_command_without_a_part_refuses_in_one_line(tmp_path: Path, command: str) -> None:
    """A gateway does not start, `--check` says so as well, and a worker does not dial."""
    home = copy_home(tmp_path / "home")
    name, *rest = command.split()
    code = BREAK_ONE + "from gateway.cli.main import main\nmain()"
    done = run_python(code, name, "--home", str(home), *rest)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "lacks what TLS needs here: OpenSSL.SSL.Connection._raise_ssl_error; known to be good: pyOpenSSL" in line


async def test_data_process_without_a_part_says_so_and_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """The library was replaced while the gateway ran: whoever reads the log sees why no process comes back."""
    child = Child((sys.executable, "-P", "-c", BREAK_ONE + "from gateway.dataplane.main import main\nmain()"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child.inherit(Inherited(control=theirs.fileno()))
        assert await child.wait() == 70
    assert is_gone(child.pid)
    (line,) = capfd.readouterr().err.splitlines()
    assert "lacks what TLS needs here" in line
