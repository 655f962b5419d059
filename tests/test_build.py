"""The build: when it compiles, what it asks for, and that what comes out says which kind it is and why."""

from __future__ import annotations

import ast
import importlib.util
import os
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from gateway.cli.main import cli
from rhttp import build
from rhttp.worker.command import worker_command

ROOT = Path(__file__).resolve().parent.parent
NO_COMPILER = ("no C compiler", "install gcc and python3-dev")


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    """`hatch_build.py`, which is no part of what is installed."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(place: Path, name: str, script: str) -> Path:
    """An executable of the test's own."""
    path = place / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# -- the decision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, ""])
def test_decision_unforced_compiles_where_nothing_is_in_the_way(backend: ModuleType, choice: str | None) -> None:
    """Unset: compiled where it can be, otherwise interpreted with what was missing and the mend."""
    assert backend.decide(choice, lambda: None) == ""
    assert backend.decide(choice, lambda: NO_COMPILER) == (
        "no C compiler when it was built; install gcc and python3-dev, then pip install again"
    )


def test_decision_forced_off_asks_nothing(backend: ModuleType) -> None:
    """RHTTP_PKI_COMPILE=0: interpreted, whatever the machine has, without a look at it."""
    assert backend.decide("0", lambda: pytest.fail("looked")) == "RHTTP_PKI_COMPILE=0 when it was built"


def test_decision_forced_on_fails_in_one_line(backend: ModuleType) -> None:
    """RHTTP_PKI_COMPILE=1: a slow gateway by accident would be the worse surprise."""
    assert backend.decide("1", lambda: None) == ""
    with pytest.raises(SystemExit) as failed:
        backend.decide("1", lambda: NO_COMPILER)
    assert failed.value.code == (
        "rhttp-pki: RHTTP_PKI_COMPILE=1 demands a compiled build: no C compiler; install gcc and python3-dev"
    )


@pytest.mark.parametrize("choice", ["yes", "2", " 1", "00"])
def test_decision_of_another_value_is_refused(backend: ModuleType, choice: str) -> None:
    """Who writes `yes` learns what can be written."""
    with pytest.raises(SystemExit, match=r"0 .interpreted., 1 .compiled. and unset"):
        backend.decide(choice, lambda: None)


# -- what is in the way ------------------------------------------------------------------------------------------------


def test_obstacle_without_a_compiler_names_gcc(backend: ModuleType, tmp_path: Path) -> None:
    """No usual compiler on the PATH, or the one of CC is not there."""
    assert backend.find_obstacle({"PATH": str(tmp_path)}) == NO_COMPILER
    what, _ = backend.find_obstacle({"PATH": os.environ["PATH"], "CC": "no-such-cc -m64"})
    assert what == "no C compiler CC=no-such-cc -m64"


def test_obstacle_without_headers_names_those_of_this_python(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler without Python.h: the file that is missing, and Debian's package of exactly this version."""
    program(tmp_path, "cc", "exit 0")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "include"))
    what, mend = backend.find_obstacle({"PATH": str(tmp_path), "CC": "cc"})
    assert what == f"no {tmp_path}/include/Python.h"
    assert mend == f"install the headers of this Python (Debian: python{sys.version_info[0]}.{sys.version_info[1]}-dev)"


def test_obstacle_of_a_broken_compiler_is_its_own_first_error(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcc without the C library's headers is found out before a minute of work is done in vain."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    broken = program(tmp_path, "broken", "echo 'In file included' >&2; echo 'fatal error: stdlib.h: gone' >&2; exit 1")
    what, mend = backend.find_obstacle({"PATH": os.environ["PATH"], "CC": str(broken)})
    assert (what, mend) == (f"{broken} does not work (fatal error: stdlib.h: gone)", "install libc6-dev")
    fine = program(tmp_path, "fine", 'while [ "$1" != -o ]; do shift; done; cp /bin/sh "$2"')
    assert backend.find_obstacle({"PATH": os.environ["PATH"], "CC": str(fine)}) is None


def test_obstacle_of_a_compiler_that_does_not_start_names_it(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose interpreter is missing, a file that is no program, a quotation without an end: each is told."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for text in ("#!/no/such/interpreter\n", "no program\n"):
        (tmp_path / "cc").write_text(text)
        (tmp_path / "cc").chmod(0o700)
        what, mend = backend.find_obstacle({"PATH": os.environ["PATH"], "CC": str(tmp_path / "cc")})
        assert what.startswith(f"{tmp_path / 'cc'} does not start (")
        assert mend == "name another compiler in CC, or none"
    assert backend.find_obstacle({"PATH": os.environ["PATH"], "CC": "gcc '"})[0] == "no C compiler CC=gcc '"


def test_obstacle_of_a_compiler_for_another_machine_is_told(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cross compiler makes would be installed, and would not load."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    start = bytearray(Path("/bin/sh").read_bytes()[:20])
    start[18] ^= 0xFF  # e_machine
    (tmp_path / "made").write_bytes(start)
    cross = program(tmp_path, "cross", f'while [ "$1" != -o ]; do shift; done; cp {tmp_path}/made "$2"')
    what, mend = backend.find_obstacle({"PATH": os.environ["PATH"], "CC": str(cross)})
    assert (what, mend) == (f"{cross} compiles for another machine", "leave CC unset")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo 'm.c:1: error: no' >&2; exit 1", "status 1"),
        ("kill -9 $$", "killed by signal 9"),
    ],
)
def test_failure_of_the_compiler_in_the_midst_is_told_in_short(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    """The line that is told with the version says how it ended, not the whole command."""
    pytest.importorskip("mypyc")
    (tmp_path / "one.py").write_text("def one(a: int) -> int:\n    return a\n")
    monkeypatch.setattr(backend, "sources", lambda: ["one.py"])
    broken = program(tmp_path, "broken", f'for a; do if [ "$a" = -c ]; then {does}; fi; done')
    monkeypatch.setenv("CC", str(broken))
    what, mend = backend.compile_hot(tmp_path, tmp_path / "work")
    assert (what, mend) == (
        f"mypyc or {broken} failed ({said})",
        "look at pip install -v (it takes more than 1 GiB of memory)",
    )


def test_failure_without_an_end_is_told_in_part(backend: ModuleType) -> None:
    """Whatever fails, it is one line of bounded length."""
    assert backend.in_short(ValueError("a\nb")) == "a b"
    assert backend.in_short(ValueError("x" * 201)) == "x" * 200 + "…"


def test_compiler_is_a_usual_one_when_that_of_this_python_is_absent(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that was made with clang compiles with gcc, when that is what the machine has."""
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "no-such-clang -pthread")
    program(tmp_path, "gcc", "exit 0")
    assert backend.find_compiler({"PATH": str(tmp_path)}) == ["gcc"]
    assert backend.find_compiler({"PATH": str(tmp_path), "CC": "no-such-cc"}) is None


def test_build_without_isolation_names_what_is_not_installed(backend: ModuleType) -> None:
    """Without isolation nothing is installed for the build, so it looks."""
    names = backend.compile_needs()
    assert backend.find_missing(names, lambda name: True) is None
    what, mend = backend.find_missing(names, lambda name: name not in {"mypy", "orjson"})
    assert (what, mend) == ("without isolation and without mypy, orjson", "install requirements-dev.lock")


# -- what is asked for -------------------------------------------------------------------------------------------------


def test_requirements_are_mypyc_and_all_types_at_the_tested_versions(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mypyc compiles by the types that it finds, so it finds those that the tests ran with."""
    monkeypatch.setenv("RHTTP_PKI_COMPILE", "1")
    monkeypatch.setattr(backend, "find_obstacle", lambda environment: None)
    monkeypatch.chdir(ROOT)
    asked = backend.get_requires_for_build_wheel()
    assert {"mypy", "setuptools", "cryptography", "pyopenssl", "pydantic", "uvloop"} <= {
        line.partition("==")[0] for line in asked
    }
    lock = (ROOT / "requirements-dev.lock").read_text()
    assert [line for line in asked if f"\n{line} " not in lock] == []


@pytest.mark.parametrize("choice", ["0", None])
def test_requirements_of_an_interpreted_build_are_none(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str | None
) -> None:
    """Who cannot compile, or does not want to, waits for no compiler to be fetched; nor does an editable install."""
    monkeypatch.delenv("RHTTP_PKI_COMPILE", raising=False)
    if choice is not None:
        monkeypatch.setenv("RHTTP_PKI_COMPILE", choice)
    monkeypatch.setattr(backend, "find_obstacle", lambda environment: NO_COMPILER)
    monkeypatch.chdir(ROOT)
    assert backend.get_requires_for_build_wheel() == []
    assert not any("mypy" in line for line in backend.get_requires_for_build_editable())


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_description_is_the_kind_and_the_reason_that_the_build_left(tmp_path: Path) -> None:
    """One line, whatever is in the file; the kind alone where nobody built a wheel."""
    reason = tmp_path / "interpreted.txt"
    assert build.describe("interpreted", reason) == "interpreted"
    reason.write_text("no C compiler\nwhen it was built\n")
    assert build.describe("interpreted", reason) == "interpreted: no C compiler when it was built"
    assert build.describe("compiled", reason) == "compiled"
    reason.write_bytes(b"\xff")
    assert build.describe("interpreted", reason) == "interpreted"


def test_kind_is_that_of_the_modules_that_are_loaded() -> None:
    """Told by a hot module's file, so that no flag can say otherwise."""
    assert (build.KIND == "compiled") == (os.environ.get("RHTTP_PKI_COMPILED") == "1")


def test_clash_of_both_distributions_in_one_environment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They own the same files, so whichever came last wrote over the other, and removing one breaks the other."""
    assert build.find_clash() is None
    metadata = tmp_path / "rhttp-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rhttp\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in (["gateway", "--check"], ["worker", str(tmp_path), "--forward", "http://127.0.0.1:1"]):
        result = CliRunner().invoke(cli, ["--home", str(tmp_path), *command])
        assert result.exit_code == 1
        assert "and rhttp 9.9 are installed in one environment" in result.stderr
        assert "uninstall both, then install one" in result.stderr


def test_worker_distribution_depends_on_a_part_of_ours() -> None:
    """Its dependencies, with their bounds, are some of those of the whole: one place decides what we rely on."""
    whole, part = (tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"] for name in ("", "rhttp"))
    assert set(part["dependencies"]) < set(whole["dependencies"])
    assert part["requires-python"] == whole["requires-python"]


def test_worker_distribution_depends_on_all_that_its_modules_import() -> None:
    """What `rhttp` imports of others comes with it, also what is imported late."""
    found = set()
    for path in (ROOT / "rhttp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    others = {name.replace("OpenSSL", "pyopenssl") for name in found - sys.stdlib_module_names - {"rhttp", "_typeshed"}}
    project = tomllib.loads((ROOT / "rhttp" / "pyproject.toml").read_text())["project"]
    assert others == {line.partition(">=")[0] for line in project["dependencies"]}


def test_worker_command_takes_the_options_of_ours() -> None:
    """`rhttp-worker` is `rhttp-pki worker` without what concerns a home."""
    ours = cli.get_command(click.Context(cli), "worker")
    assert ours is not None
    common = {"home", "passphrase_file"}
    assert [option.to_info_dict() for option in ours.params if option.name not in common] == [
        option.to_info_dict() for option in worker_command.params if option.name != "version"
    ]
    assert ours.help == worker_command.help


def install(place: Path, *options: str, **environment: str) -> Path:
    """`pip install` of the checkout into a new environment, which has the dependencies from here; its `bin`."""
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
    (packages,) = place.glob("lib/*/site-packages")
    (packages / "here.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "RHTTP_PKI_COMPILE", "PYTHONPATH")}
    command = [place / "bin" / "python", "-m", "pip", "install", "--no-input", "--no-deps", *options, str(ROOT)]
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "bin"


def test_install_without_a_compiler_is_interpreted_and_says_so(tmp_path: Path) -> None:
    """`pip install .` on a machine without gcc: the same gateway, which says what to install for the faster one."""
    programs = install(tmp_path / "venv", PATH=str(tmp_path))
    told = subprocess.run([programs / "rhttp-pki", "--version"], capture_output=True, text=True, timeout=60)
    assert told.stdout.endswith(
        " (interpreted: no C compiler when it was built; install gcc and python3-dev, then pip install again)\n"
    ), told
    assert list((tmp_path / "venv").rglob("*mypyc*")) == []


def test_install_that_must_compile_without_a_compiler_fails_in_one_line(tmp_path: Path) -> None:
    """RHTTP_PKI_COMPILE=1: no wheel, no traceback, the cause and the mend."""
    environment = os.environ | {"PATH": str(tmp_path), "RHTTP_PKI_COMPILE": "1"}
    environment.pop("CC", None)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-input", "--wheel-dir", str(tmp_path / "w")]
    done = subprocess.run([*command, str(ROOT)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "rhttp-pki: RHTTP_PKI_COMPILE=1 demands a compiled build: no C compiler; install gcc and python3-dev" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("w/*.whl"))


def test_archive_of_the_sources_builds_as_the_checkout_does(tmp_path: Path) -> None:
    """An sdist has all that a wheel is made of, the lock included, from which compiled builds take their versions."""
    make = [sys.executable, "-c", "import sys, hatch_build; print(hatch_build.build_sdist(sys.argv[1]))"]
    made = subprocess.run([*make, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    archive = tmp_path / made.stdout.splitlines()[-1]
    with tarfile.open(archive) as files:
        assert any(name.endswith("/requirements-dev.lock") for name in files.getnames())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--wheel-dir", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(archive)],
        env=os.environ | {"RHTTP_PKI_COMPILE": "0"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert files.read("rhttp/interpreted.txt") == b"RHTTP_PKI_COMPILE=0 when it was built\n"


@pytest.mark.long
def test_install_with_a_compiler_is_compiled(tmp_path: Path) -> None:
    """`pip install .` on Debian with gcc and Python's headers: the compiled gateway, for everybody."""
    programs = install(tmp_path / "venv")
    told = subprocess.run([programs / "rhttp-pki", "--version"], capture_output=True, text=True, timeout=60)
    assert told.stdout.endswith(" (compiled)\n"), told
