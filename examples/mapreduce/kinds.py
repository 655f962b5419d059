"""Kinds of jobs: functions that every master and worker has by name. No code ever travels.

A kind of your own is a `Kind` with its five functions, given to `register` before the master and the workers start;
all of them must know it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mapreduce.texts import Text

O = TypeVar("O")  # noqa: E741 - options
R = TypeVar("R")

Members = Mapping[str, object]
"""The members of a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[O, R]):
    """One kind of job, with options of type O and results of type R."""

    name: str
    options: Callable[[Members], O]
    """Reads the options of an order; raises `Refused`, also for members that it does not know."""
    work: Callable[[Sequence[Text], O], R]
    """Does the work over whole lines. Runs in a thread and looks at nothing but its arguments."""
    merge: Callable[[Sequence[R], O], R]
    """Joins the results of parts, in the order of the texts. What the parts' lines give together is what the whole
    gives, however they are cut; ``merge([r])`` is ``r``."""
    read: Callable[[Members], R]
    """Reads a result that somebody sent, without trust; raises `ValueError`."""
    show: Callable[[R, int | None], dict[str, object]]
    """The JSON object of a result; with a number, only so many entries of a list in it, sums staying whole."""


KINDS: dict[str, Kind[Any, Any]] = {}
"""Every registered kind by name."""


def register(kind: Kind[O, R]) -> Kind[O, R]:
    """Make a kind known; its name must be free."""
    if kind.name in KINDS:
        raise ValueError(f"there is a kind {kind.name!r} already")
    KINDS[kind.name] = kind
    return kind
