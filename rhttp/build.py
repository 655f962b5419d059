"""How this installation was made: its hot modules compiled by mypyc, or interpreted.

The answer comes from what is loaded, never from what a build was asked for. Both kinds behave alike; the compiled one
needs half the processor time for a request.
"""

from __future__ import annotations

import functools
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final, Literal

from rhttp import timers

__all__ = ["KIND", "describe", "find_clash", "version"]

KIND: Final[Literal["compiled", "interpreted"]] = (
    "compiled" if str(timers.__file__).endswith(tuple(EXTENSION_SUFFIXES)) else "interpreted"
)

_REASON = Path(__file__).with_name("interpreted.txt")
"""What a build that did not compile left in its wheel: one line."""


def describe(kind: str = KIND, reason: Path = _REASON) -> str:
    """``compiled``, ``interpreted: why, and the mend``, or ``interpreted`` where nobody built a wheel."""
    if kind == "compiled":
        return kind
    try:
        why = " ".join(reason.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        why = ""
    return f"{kind}: {why}" if why else kind


@functools.cache
def version() -> str:
    """The installed version, ``0`` in a tree that is not installed."""
    for distribution in ("rhttp-pki", "rhttp"):
        try:
            return version_of(distribution)
        except PackageNotFoundError:
            continue
    return "0"


def find_clash() -> str | None:
    """Why nothing runs here: two distributions own this package, and the one installed last wrote over the other."""
    try:
        found = [version_of(distribution) for distribution in ("rhttp-pki", "rhttp")]
    except PackageNotFoundError:
        return None
    return (
        f"rhttp-pki {found[0]} and rhttp {found[1]} are installed in one environment, where each wrote over the other;"
        " uninstall both, then install one: rhttp-pki has the worker in it"
    )
