"""The builds of the gateway that are compared: where each is kept, how it is made, what it says of itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rig.processes import BenchFailed, pinned

MAKE_SECONDS = 1800
FACTS = """\
import json, platform, importlib.metadata as m
from cryptography.hazmat.backends.openssl import backend
built = any(file.suffix == ".so" for file in m.files("rhttp-pki") or ())
told = {"python": platform.python_version(), "openssl": backend.openssl_version_text().split()[1]}
told["build"] = "compiled" if built else "interpreted"
told.update({name: m.version(name) for name in ("rhttp-pki", "cryptography", "pyopenssl", "uvloop", "httptools")})
print(json.dumps(told))
"""


def run(*command: str | Path, what: str, env: dict[str, str] | None = None) -> str:
    """What a command says on stdout.

    Raises:
        BenchFailed: it failed; `what` begins the line, its last words end it.
    """
    try:
        told = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchFailed(f"{what}: {error}") from None
    if told.returncode:
        raise BenchFailed(f"{what}: {' '.join(told.stderr.split())[-300:]}")
    return told.stdout


def interpreter(command: Path) -> Path:
    """The Python of the environment that a command was installed into: its script's first line names it."""
    return Path(command.read_bytes().split(b"\n", 1)[0].decode(errors="replace").removeprefix("#!").strip())


def facts(command: Path) -> dict[str, str]:
    """The versions that decide about a number, and whether the build is compiled; empty when it cannot be asked."""
    try:
        told: dict[str, str] = json.loads(run(interpreter(command), "-P", "-c", FACTS, what=str(command)))
    except (BenchFailed, OSError):
        return {}
    return told


def make(root: Path, function: str, place: str) -> Path | None:
    """The command in `.build/PLACE` of a checkout, made or refreshed by its own `lib.sh`; None where that fails."""
    script = f'. "$1/scripts/lib.sh"; {function} >&2'
    command = pinned(None, ["bash", "-c", script, "bench", root])  # the bench itself stays on the rig core
    made = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    return root / ".build" / place / "bin" / "rhttp-pki" if made.returncode == 0 else None


def make_compiled(root: Path) -> Path | None:
    """The command of the compiled build."""
    return make(root, "make_compiled_venv", "compiled")


def command_interpreted(root: Path) -> Path:
    """The command of the interpreted build.

    Raises:
        BenchFailed: it could not be made.
    """
    if (made := make(root, "make_venv", "venv")) is None:
        raise BenchFailed("no interpreted build; what it lacks stands above")
    return made


def find_command(root: Path, *, interpreted: bool = False) -> Path:
    """`rhttp-pki`: named by RHTTP_PKI, the compiled build, in .build/venv, beside this Python, or on the PATH.

    Raises:
        BenchFailed: there is none.
    """
    places = [root / ".build" / "venv" / "bin" / "rhttp-pki", Path(sys.executable).parent / "rhttp-pki"]
    if named := os.environ.get("RHTTP_PKI"):
        places.insert(0, Path(named))
    elif not interpreted and (compiled := make_compiled(root)):
        places.insert(0, compiled)
    if on_path := shutil.which("rhttp-pki"):
        places.append(Path(on_path))
    for place in places:
        if place.exists():
            return place
    raise BenchFailed("rhttp-pki is not installed: run scripts/test once, or name the command in RHTTP_PKI")


def command_before(root: Path, build: Path, ref: str) -> Path:
    """The command of an earlier build: the folder of a virtual environment, or a commit.

    A commit is unpacked below `bench/build/before` and compiled there as its own scripts do it, once.

    Raises:
        BenchFailed: it is neither, or it could not be compiled.
    """
    if (command := Path(ref) / "bin" / "rhttp-pki").exists():
        return command.absolute()
    asked = ("git", "-C", root, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    commit = run(*asked, what=f"{ref} is neither a commit nor a virtual environment with rhttp-pki").strip()
    source = build / "before" / commit[:12]
    if not source.exists():
        made = source.with_suffix(f".{os.getpid()}")
        made.mkdir(parents=True)
        unpack = 'set -o pipefail; git -C "$1" archive "$2" | tar -x -C "$3"'
        run("bash", "-c", unpack, "bench", root, commit, made, what=f"{ref} could not be unpacked")
        made.rename(source)
    if (compiled := make_compiled(source)) is None:
        raise BenchFailed(f"{ref} could not be compiled; what it lacks stands above")
    return compiled


def command_plain(root: Path, build: Path) -> Path:
    """The command that `pip install .` gives in a fresh environment to whoever asks for nothing more.

    It is made anew when a source has changed.

    Raises:
        BenchFailed: pip failed.
    """
    place, stamp = build / "plain", build / "plain" / ".made-from"
    files = [root / "pyproject.toml", root / "hatch_build.py"]
    files += [file for name in ("pki", "auth", "rhttp", "gateway") for file in sorted((root / name).rglob("*.py"))]
    wanted = hashlib.sha256(b"".join(b"%s\0%s\0" % (bytes(file), file.read_bytes()) for file in files)).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        print("bench: pip install . in a fresh environment", file=sys.stderr)
        run(sys.executable, "-m", "venv", place, what="no virtual environment")
        pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
        asked = {name: value for name, value in os.environ.items() if name != "RHTTP_PKI_COMPILE"}
        run(*pinned(None, [*pip, root]), what="pip install . failed", env=asked)
        stamp.write_text(wanted)
    return place / "bin" / "rhttp-pki"
