#!/usr/bin/env bash
# mypyc 2.4.1: `C.__new__(C)` runs `C.__init__`, and raises TypeError where that wants arguments.
#
# Source: mypy 2.4.1 (with mypyc) and setuptools 84.2.1 from PyPI, CPython 3.11 or newer, any C compiler. No report of it found;
#   https://github.com/python/mypy/pull/19866 names this very call as the one that works, in place of `object.__new__`.
# One would guess: `__new__` makes the object and nothing else, as in Python's data model ("object.__new__"): the usual way to make
#   a copy or to read one back without going through the constructor.
# What happens: the type's `__new__` of a compiled class calls `__init__` with the same arguments. Without arguments in `__init__`
#   it goes unseen, but for the time and for whatever `__init__` does; with them it is "__init__() missing required argument".
#   Then `C(x)` afterwards runs `__init__` once, not twice: the two ways are different code.
# What to do: copy by the constructor, or by `copy.copy`, and have the tests run against the compiled module.
#
# Run it: bash findings/mypyc-new-init.sh. It needs Python 3.11 or newer with venv and headers, a C compiler, and PyPI: half a
# minute. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input mypy==2.4.1 setuptools==84.2.1
cd "$place"
cat >made.py <<'PYTHON'
runs: list[str] = []


class Plain:
    def __init__(self) -> None:
        runs.append("Plain")


class Sized:
    def __init__(self, size: int) -> None:
        runs.append("Sized")
        self.size = size


def plain() -> Plain:
    return Plain.__new__(Plain)


def sized() -> Sized:
    return Sized.__new__(Sized)


def constructed() -> Sized:
    return Sized(3)
PYTHON
cat >look.py <<'PYTHON'
import sys

import made


def told(function):
    """How often `__init__` ran, or what was raised."""
    made.runs.clear()
    try:
        function()
    except TypeError:
        return "TypeError"
    return len(made.runs)


answers = [told(made.plain), told(made.sized), told(made.constructed)]
compiled = sys.argv[1:] == ["compiled"]
print("compiled:" if compiled else "interpreted:", "runs of __init__:", answers)
sys.exit(0 if answers == ([1, "TypeError", 1] if compiled else [0, 0, 1]) else "this has changed")
PYTHON
"$place/venv/bin/python" look.py
"$place/venv/bin/mypyc" made.py >mypyc.log 2>&1 || {
    cat mypyc.log
    exit 1
}
"$place/venv/bin/python" look.py compiled
echo "as described"
