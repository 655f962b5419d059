"""From the text's tables to typed tables, telling everything that is wrong on the way, not only the first.

A key that is wrong is told and left out, and the checks go on with the rest; so one look at the answer mends the file.

Trust: pure; trusts the operator to mean well.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.limits import Limits
from gateway.config.models import (
    TABLES,
    EnrollTable,
    MasterTable,
    MetricsTable,
    PkiTable,
    PoolTable,
    RouteTable,
    TopTable,
    keys_of,
)
from gateway.config.values import AuditConfig, ConfigProblem, DigestConfig, StateConfig

T = TypeVar("T")
Part = str | int

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_KEY_END: Final = re.compile(r"[.\[]")
_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def key_path(parts: Iterable[Part]) -> str:
    """The key as the user would type it: ``pools.render.mode``, ``routes[0].path``, ``masters."my host".urls``."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if _BARE_KEY.fullmatch(part) else orjson.dumps(part).decode()
            text += f".{bare}" if text else bare
    return text


def show(value: object) -> str:
    """A value of the file for a message: short, and a table or list by its kind only."""
    match value:
        case str():
            return f"the text {orjson.dumps(value[:40]).decode()}{'…' if len(value) > 40 else ''}"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)[:40]
        case datetime() | date() | time():
            return "a date or time"
        case list():
            return "a list"
        case _:
            return "a table"


@dataclass(slots=True)
class Notes:
    """What was found so far: problems, and the files and folders that must be there (for who may look).

    `aliases` names top-level keys that came from the command line, `order` holds those of the file.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    problems: list[ConfigProblem] = field(default_factory=list)
    files: list[tuple[str, Path]] = field(default_factory=list)
    folders: list[tuple[str, Path]] = field(default_factory=list)

    def say(self, message: str, *parts: Part) -> None:
        """Note a problem with the key at `parts`."""
        path = key_path(parts)
        self.problems.append(ConfigProblem(path=self.aliases.get(path, path), message=message))

    def has(self, *parts: Part) -> bool:
        """Whether a problem with the key at `parts` was noted."""
        return any(problem.path == key_path(parts) for problem in self.problems)

    def told(self) -> tuple[ConfigProblem, ...]:
        """The problems table by table, in the order of the file; first those with what is not in it."""
        places = {key: place for place, key in enumerate(self.order)}
        return tuple(sorted(self.problems, key=lambda one: places.get(_KEY_END.split(one.path.lstrip("-"))[0], -1)))


_TYPES: Final[tuple[type[Any], ...]] = (TopTable, *(table for _, table in TABLES.values()))
_ADAPTERS: Final[Mapping[type[Any], TypeAdapter[Any]]] = {table: TypeAdapter(table) for table in _TYPES}


def read_table(table: type[T], data: object, notes: Notes, *parts: Part, tables: Iterable[str] = ()) -> T | None:
    """The table with its keys' types and bounds checked; None when it is no table at all.

    A key that is wrong is noted and counts as absent; one that must be there and is not, or is empty, is noted and is
    empty in the answer. `tables` are further keys to offer in place of an unknown one.
    """
    if not isinstance(data, dict):
        notes.say(f"must be a table, is {show(data)}", *parts)
        return None
    keys = {key.name: key for key in keys_of(table)}
    adapter: TypeAdapter[T] = _ADAPTERS[table]
    wrong: list[ErrorDetails] = []
    try:
        adapter.validate_python(data)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
    for one in wrong:
        name, *inner = one["loc"]
        if one["type"] in _UNKNOWN:
            notes.say(_unknown(str(name), [*keys, *tables]), *parts, name)
        elif one["type"] == "missing":
            notes.say(f"is missing; it must be {keys[str(name)].expects}", *parts, name)
        elif inner:
            notes.say(f"must be text, is {show(one['input'])}", *parts, name, *inner)
        else:
            notes.say(f"must be {keys[str(name)].expects}, is {show(one['input'])}", *parts, name)
    blank: dict[str, Any] = {key.name: key.blank for key in keys.values() if key.required}
    for name in blank:
        if data.get(name) in ("", []):
            notes.say(f"must not be empty; it must be {keys[name].expects}", *parts, name)
    return adapter.validate_python(blank | _without(data, wrong))


def _without(data: dict[str, Any], wrong: list[ErrorDetails]) -> dict[str, Any]:
    """The table without what is wrong in it; of a list what stands before its first fault, so the places still hold."""
    kept = dict(data)
    for one in wrong:
        name, *inner = (*one["loc"],)
        if inner and isinstance(inner[0], int) and name in kept:
            kept[str(name)] = kept[str(name)][: inner[0]]
        else:
            kept.pop(str(name), None)
    return kept


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; remove it (known: {', '.join(known)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The file in typed tables; what could not be read is None or not among the entries.

    `given` has the keys that each table of the file has, readable or not.
    """

    top: TopTable | None
    digest: DigestConfig | None
    groups: Mapping[str, list[str]]
    masters: Mapping[str, MasterTable]
    routes: tuple[tuple[int, RouteTable], ...]
    pools: Mapping[str, PoolTable]
    limits: Limits | None
    audit: AuditConfig | None
    state: StateConfig | None
    metrics: MetricsTable | None
    pki: PkiTable | None
    enroll: EnrollTable | None
    given: Mapping[str, frozenset[str]]


def read_tables(data: Mapping[str, Any], notes: Notes) -> Tables:
    """Check keys, types and bounds of the whole file."""
    others = [*TABLES, "groups"]
    top = {key: value for key, value in data.items() if key not in others}
    return Tables(
        top=read_table(TopTable, top, notes, tables=others),
        digest=read_table(DigestConfig, data.get("digest", {}), notes, "digest"),
        groups=_read_groups(data.get("groups", {}), notes),
        masters=_read_named(MasterTable, data.get("masters", {}), notes, "masters"),
        routes=tuple(_read_list(RouteTable, data.get("routes", []), notes, "routes")),
        pools=_read_named(PoolTable, data.get("pools", {}), notes, "pools"),
        limits=read_table(Limits, data.get("limits", {}), notes, "limits"),
        audit=read_table(AuditConfig, data.get("audit", {}), notes, "audit"),
        state=read_table(StateConfig, data.get("state", {}), notes, "state"),
        metrics=read_table(MetricsTable, data.get("metrics", {}), notes, "metrics"),
        pki=read_table(PkiTable, data.get("pki", {}), notes, "pki"),
        enroll=read_table(EnrollTable, data.get("enroll", {}), notes, "enroll"),
        given={name: frozenset(table) for name, table in data.items() if isinstance(table, dict)},
    )


def _read_list(table: type[T], data: object, notes: Notes, name: str) -> Iterable[tuple[int, T]]:
    if not isinstance(data, list):
        notes.say(f"must be a list of tables, each headed [[{name}]]; is {show(data)}", name)
        return
    for index, item in enumerate(data):
        value = read_table(table, item, notes, name, index)
        if value is not None:
            yield index, value


def _read_named(table: type[T], data: object, notes: Notes, name: str) -> dict[str, T]:
    if not isinstance(data, dict):
        notes.say(f"must be a table of tables, each headed [{name}.NAME]; is {show(data)}", name)
        return {}
    found = {}
    for key, item in data.items():
        value = read_table(table, item, notes, name, key)
        if value is not None:
            found[key] = value
    return found


def _read_groups(data: object, notes: Notes) -> dict[str, list[str]]:
    if not isinstance(data, dict):
        notes.say(f'must be a table of lists, as in ops = ["client/alice"]; is {show(data)}', "groups")
        return {}
    found: dict[str, list[str]] = {}
    for key, members in data.items():
        if not isinstance(members, list):
            notes.say(f"must be a list of texts, is {show(members)}", "groups", key)
            continue
        found[key] = []
        for index, member in enumerate(members):
            if isinstance(member, str):
                found[key].append(member)
            else:
                notes.say(f"must be text, is {show(member)}", "groups", key, index)
    return found
