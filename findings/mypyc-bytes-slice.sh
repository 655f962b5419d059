#!/usr/bin/env bash
# mypyc 2.4.1: a slice of bytes that ends before it begins raises SystemError; of text and of lists it is empty, as ever.
#
# Source: mypy 2.4.1 (with mypyc) and setuptools 84.2.1 from PyPI, CPython 3.11 or newer, any C compiler. No report of it found.
# One would guess: `data[4:2]` is empty for every sequence (Python's reference, "Slicings": out of order is empty), compiled or not.
# What happens: text and lists are empty. For a value whose type is `bytes` mypyc calls a function of its own that subtracts the one
#   from the other and asks for so many bytes: "SystemError: Negative size passed to PyBytes_FromStringAndSize". A parser that
#   slices between two `find`s meets it when the second one is missing (-1, or in front of the first), which only bad input shows.
# What to do: compare the two ends before the slice; run the tests of a parser against its compiled module, too.
#
# Run it: bash findings/mypyc-bytes-slice.sh. It needs Python 3.11 or newer with venv and headers, a C compiler, and PyPI: half a
# minute. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input mypy==2.4.1 setuptools==84.2.1
cd "$place"
cat >slices.py <<'PYTHON'
def of_bytes(data: bytes, begin: int, end: int) -> bytes:
    return data[begin:end]


def of_text(data: str, begin: int, end: int) -> str:
    return data[begin:end]


def of_list(data: list[int], begin: int, end: int) -> list[int]:
    return data[begin:end]
PYTHON
cat >look.py <<'PYTHON'
import sys

import slices


def told(function, data):
    """What the slice gives, or raises."""
    try:
        return repr(function(data, 4, 2))
    except BaseException as error:
        return type(error).__name__


answers = [
    told(slices.of_bytes, b"abcdef"),
    told(slices.of_text, "abcdef"),
    told(slices.of_list, [1, 2, 3, 4, 5, 6]),
]
compiled = sys.argv[1:] == ["compiled"]
print("compiled:" if compiled else "interpreted:", answers)
sys.exit(0 if answers == ["SystemError" if compiled else "b''", "''", "[]"] else "this has changed")
PYTHON
"$place/venv/bin/python" look.py
"$place/venv/bin/mypyc" slices.py >mypyc.log 2>&1 || {
    cat mypyc.log
    exit 1
}
"$place/venv/bin/python" look.py compiled
echo "as described"
