"""Our build backend: hatchling, and mypyc for the hot modules where a C compiler and this Python's headers are.

The hot modules are one group, since calls between compiled modules are then C calls, and that is where the gain is.

RHTTP_PKI_COMPILE=1 demands the compiled wheel: what is missing fails the build in one line. =0 makes the interpreted
one. Unset, it is compiled where that can be done; else the wheel is interpreted and holds a line that says why
(`rhttp.build` tells it wherever the product tells its version, because pip shows nobody what a build says).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hatchling.build
from hatchling.build import *  # noqa: F403 - a backend's hooks; one is our own
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent

HOT = {
    "auth": "cedar credentials ledgerlocks ledgertable nonces policy sharedledger verifier",
    "gateway.admin": "status",
    "gateway.admission": "checks passed_line request_record",
    "gateway.audit": "folding line stream writer",
    "gateway.cluster": "directory frames hop incoming outgoing remote_process remote_slots reservations",
    "gateway.config": "route_paths",
    "gateway.control": "frames",
    "gateway.core": "context counters peer registry",
    "gateway.exchange": "account ends exchange masters passed",
    "gateway.http": "fields hosts problems responses routes",
    "gateway.ingress": "acceptor connection endpoints field_section forwarding gather handlers listener metrics_handler"
    " outcomes queues resolve serving",
    "gateway.pools": "dialects hosted least_busy queue relayed remote_slots slots switch_request tcp_keepalive",
    "gateway.state": "snapshot",
    "rhttp.digest": "authorization_cache formula grammar",
    "rhttp.http1": "answer client closing content fields head head_cache limits request server status target",
    "rhttp": "ends joint memo message places timers",
    "rhttp.tls": "binding handshake link outbox plain record tls_link",
    "rhttp.worker": "forwarding",
}
GROUP = "rhttp_pki"
MOST_SAID = 200
"""Characters of what a failure says of itself."""

Obstacle = tuple[str, str]
"""What stands in the way of compiling, and what to do about it."""


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What a wheel needs (PEP 517); only when it will be compiled, mypyc and what it reads types of."""
    needs: list[str] = hatchling.build.get_requires_for_build_wheel(config_settings)
    why = decide(os.environ.get("RHTTP_PKI_COMPILE"), lambda: find_obstacle(os.environ))
    return needs if why else [*needs, *pinned(compile_needs())]


class MypycBuildHook(BuildHookInterface[Any]):
    """Puts the compiled modules beside their sources into a wheel, or the line that says why there are none.

    Nothing compiled ever lies in the source tree, where it would win over a source that was edited since; so an
    editable install is always interpreted.
    """

    PLUGIN_NAME = "custom"
    _work: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is put together."""
        if self.target_name != "wheel" or version == "editable":
            return
        self._work = tempfile.TemporaryDirectory(prefix="rhttp-pki-build-")
        work = Path(self._work.name)
        choice = os.environ.get("RHTTP_PKI_COMPILE")
        why = decide(choice, lambda: find_obstacle(os.environ) or find_missing(compile_needs(), installed))
        if not why:
            why = decide(choice, lambda: compile_hot(Path(self.root), work))
        if why:
            self.app.display_warning(f"rhttp-pki: interpreted: {why}")
            (work / "interpreted.txt").write_text(f"{why}\n", encoding="utf-8")
            build_data["force_include"][str(work / "interpreted.txt")] = "rhttp/interpreted.txt"
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        built = work / "lib"
        build_data["force_include"] |= {str(path): str(path.relative_to(built)) for path in built.rglob("*.so")}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is there."""
        if self._work is not None:
            self._work.cleanup()


def decide(choice: str | None, look: Callable[[], Obstacle | None]) -> str:
    """Whether to compile: "" says yes, anything else is why not. `look` is asked only when it matters.

    Raises:
        SystemExit: compiling is demanded and cannot be done, or the choice is none; the text is one line.
    """
    if choice == "0":
        return "RHTTP_PKI_COMPILE=0 when it was built"
    if choice not in (None, "", "1"):
        raise SystemExit(f"rhttp-pki: RHTTP_PKI_COMPILE={choice!r} is none of 0 (interpreted), 1 (compiled) and unset")
    obstacle = look()
    if obstacle is None:
        return ""
    what, mend = obstacle
    if choice == "1":
        raise SystemExit(f"rhttp-pki: RHTTP_PKI_COMPILE=1 demands a compiled build: {what}; {mend}")
    return f"{what} when it was built; {mend}, then pip install again"


def find_obstacle(environment: Mapping[str, str]) -> Obstacle | None:
    """What this machine lacks for compiling, found out by compiling a line of C; None when it lacks nothing."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} cannot load it", "use CPython"
    compiler = find_compiler(environment)
    if compiler is None:
        named = environment.get("CC")
        return f"no C compiler{f' CC={named}' if named else ''}", "install gcc and python3-dev"
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        series = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return f"no {header}", f"install the headers of this Python (Debian: {series}-dev)"
    with tempfile.TemporaryDirectory(prefix="rhttp-pki-try-") as place:
        source = Path(place, "try.c")
        source.write_text("#include <Python.h>\nint tried(void) { return 0; }\n", encoding="utf-8")
        command = [*compiler, "-shared", "-fPIC", *(f"-I{folder}" for folder in sorted(folders))]
        try:
            tried = subprocess.run(  # noqa: S603 - the compiler that its user names
                [*command, "-o", str(source.with_suffix(".so")), str(source)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:  # no program of this machine, or a script whose interpreter is missing
            return f"{compiler[0]} does not start ({error.strerror})", "name another compiler in CC, or none"
        if tried.returncode == 0:
            is_ours = machine_of(source.with_suffix(".so")) == machine_of(Path("/proc/self/exe"))
            return None if is_ours else (f"{compiler[0]} compiles for another machine", "leave CC unset")
    said = next((line for line in tried.stderr.splitlines() if "error" in line), f"status {tried.returncode}")
    return f"{compiler[0]} does not work ({said.strip()})", "install libc6-dev"


def machine_of(program: Path) -> bytes:
    """Word size, byte order and processor of an ELF file; nothing when it is none.

    It is read, not loaded: where temporary files lie, execution is often forbidden.
    """
    try:
        with program.open("rb") as file:
            start = file.read(20)
    except OSError:
        return b""
    return start[4:6] + start[18:20] if start[:4] == b"\x7fELF" else b""


def find_compiler(environment: Mapping[str, str]) -> list[str] | None:
    """The command of the C compiler: CC, else the one that this Python was made with, else a usual one."""
    if named := environment.get("CC"):
        candidates = [named]
    else:
        candidates = [str(sysconfig.get_config_var("CC") or "cc"), "cc", "gcc", "clang"]
    for candidate in candidates:
        try:
            words = shlex.split(candidate)
        except ValueError:  # a quotation without an end
            continue
        if words and shutil.which(words[0], path=environment.get("PATH")):
            return words
    return None


def find_missing(names: list[str], is_installed: Callable[[str], bool]) -> Obstacle | None:
    """What a build without isolation, which installs nothing, did not find."""
    missing = [name for name in names if not is_installed(name)]
    if not missing:
        return None
    return f"without isolation and without {', '.join(missing)}", "install requirements-dev.lock"


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def compile_needs() -> list[str]:
    """The distributions that mypyc needs: itself, and everything that our own modules import, for its types."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return ["mypy", "setuptools", *(re.split(r"[^A-Za-z0-9-]", line)[0] for line in project["dependencies"])]


def pinned(names: list[str]) -> list[str]:
    """The lines ``name==version`` of the lock: the versions that the tests ran with."""
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))
    return [f"{name}=={versions[name]}" for name in names]


def sources() -> list[str]:
    """The modules that are compiled, as paths in the checkout."""
    return [f"{package.replace('.', '/')}/{name}.py" for package, names in HOT.items() for name in names.split()]


def compile_hot(root: Path, work: Path) -> Obstacle | None:
    """Run mypyc and the C compiler, a minute or two on one core; what they make lies in ``work/lib``."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    here = Path.cwd()
    os.chdir(root)
    try:
        os.environ["CC"] = shlex.join(find_compiler(os.environ) or ["cc"])
        extensions = mypycify(sources(), opt_level="3", debug_level="0", group_name=GROUP, target_dir=str(work / "c"))
        distribution = Distribution({"name": GROUP, "ext_modules": extensions})
        distribution.script_name = "hatch_build.py"
        command = distribution.get_command_obj("build_ext")
        command.build_lib = str(work / "lib")
        command.build_temp = str(work / "objects")
        distribution.run_command("build_ext")
    except (Exception, SystemExit) as error:  # mypyc exits when it finds something wrong, having told it
        return (
            f"mypyc or {os.environ['CC']} failed ({in_short(error)})",
            "look at pip install -v (it takes more than 1 GiB of memory)",
        )
    finally:
        os.chdir(here)
    return None


def in_short(error: BaseException) -> str:
    """What went wrong, in a few words: it is told with the version; the whole command stands in what the build says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, subprocess.CalledProcessError):
            code = cause.returncode
            return f"status {code}" if code >= 0 else f"killed by signal {-code}"
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    return text if len(text) <= MOST_SAID else text[:MOST_SAID] + "…"
