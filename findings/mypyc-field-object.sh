#!/usr/bin/env bash
# mypyc 2.4.1: a dataclass with a field annotated `object` compiles, and its import raises KeyError: 'object'.
#
# Source: mypy 2.4.1 (with mypyc) and setuptools 84.2.1 from PyPI, CPython 3.11 or newer, any C compiler. No report of it found; of the
#   same kind, and mended, were https://github.com/mypyc/mypyc/issues/935 (`tuple`) and 1000.
# One would guess: `object` in an annotation is the builtin, as for mypy and for CPython; `value: object` is what strict mypy
#   recommends for a value of any type that nothing is done with.
# What happens: mypyc has the types of fields at run time, for `__annotations__`. It knows some builtins (int, str, bytes, list,
#   dict, tuple, frozenset and others) and looks for every other bare name among the globals of the module: `object`, `complex`,
#   `memoryview`, `slice` and every exception are not there. Compiling says nothing; the import fails. Inside of another type, as
#   in `list[object]` or `object | None`, all is well.
# What to do: annotate such a field with `Any`; have a test look for the others in what is compiled.
#
# Run it: bash findings/mypyc-field-object.sh. It needs Python 3.11 or newer with venv and headers, a C compiler, and PyPI: half a
# minute. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input mypy==2.4.1 setuptools==84.2.1
cd "$place"
names=(number anything several)
types=(int object 'list[object]')
for i in 0 1 2; do
    cat >"${names[i]}.py" <<PYTHON
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    value: ${types[i]}
PYTHON
done
cat >look.py <<'PYTHON'
import importlib
import sys


def told(name):
    """How the import of a module ends."""
    try:
        return importlib.import_module(name).Answer.__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"


answers = [told(name) for name in ("number", "anything", "several")]
compiled = sys.argv[1:] == ["compiled"]
print("compiled:" if compiled else "interpreted:", answers)
surprise = "KeyError: 'object'" if compiled else "Answer"
sys.exit(0 if answers == ["Answer", surprise, "Answer"] else "this has changed")
PYTHON
"$place/venv/bin/python" look.py
"$place/venv/bin/mypyc" number.py anything.py several.py >mypyc.log 2>&1 || {
    cat mypyc.log
    exit 1
}
"$place/venv/bin/python" look.py compiled
echo "as described"
