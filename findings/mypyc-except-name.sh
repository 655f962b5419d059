#!/usr/bin/env bash
# mypyc 2.4.1: two handlers of one function that bind the same name raise TypeError, where both exceptions are compiled.
#
# Source: mypy 2.4.1 (with mypyc) and setuptools 84.2.1 from PyPI, CPython 3.11 or newer, any C compiler. Reported as
#   https://github.com/mypyc/mypyc/issues/620 in 2019, open.
# One would guess: `except A as error` and, further down, `except B as error` are independent, as they are in Python, which
#   deletes the name at the end of each handler. mypy accepts them, and compiling says nothing.
# What happens: mypyc keeps one variable for the name, of the type that it saw first. With exceptions of the standard library
#   nothing is to be seen. With two classes of the compiled module the first handler works; in the second the exception that
#   was caught is lost, and `TypeError: lookup.TooLong object expected; got lookup.NotFound` is raised in its place: an error that
#   the function handles reaches its caller as another one. Tests of the interpreted module pass.
# What to do: give each handler of a function a name of its own; have a test look for it in what is compiled.
#
# Run it: bash findings/mypyc-except-name.sh. It needs Python 3.11 or newer with venv and headers, a C compiler, and PyPI: half a
# minute. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input mypy==2.4.1 setuptools==84.2.1
cd "$place"
cat >lookup.py <<'PYTHON'
class TooLong(Exception):
    pass


class NotFound(Exception):
    pass


def length(name: str) -> int:
    if len(name) > 8:
        raise TooLong(name)
    return len(name)


def find(name: str) -> str:
    if name != "alice":
        raise NotFound(name)
    return name


def lookup(name: str) -> str:
    try:
        length(name)
    except TooLong as error:
        return f"too long: {error}"
    try:
        return find(name)
    except NotFound as error:
        return f"not found: {error}"
PYTHON
cat >look.py <<'PYTHON'
import sys

import lookup


def told(name):
    """What the function answers, or what it raises."""
    try:
        return lookup.lookup(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


answers = [told(name) for name in ("alice", "someone else", "bob")]
print("compiled:" if lookup.__file__.endswith(".so") else "interpreted:", answers)
surprise = "TypeError: lookup.TooLong object expected; got lookup.NotFound"
last = surprise if lookup.__file__.endswith(".so") else "not found: bob"
sys.exit(0 if answers == ["alice", "too long: someone else", last] else "this has changed")
PYTHON
"$place/venv/bin/python" look.py
"$place/venv/bin/mypyc" lookup.py >mypyc.log 2>&1 || {
    cat mypyc.log
    exit 1
}
"$place/venv/bin/python" look.py
echo "as described"
