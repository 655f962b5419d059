"""The data attributes of slotted classes, interpreted or compiled (compiled ones have no ``__slots__``)."""

from __future__ import annotations

import inspect


def attributes(kind: type) -> list[str]:
    """The names of the attributes that every instance of the class has."""
    found = inspect.getmembers(
        kind, lambda member: inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member)
    )
    return [name for name, _ in found if not name.startswith("__")]
