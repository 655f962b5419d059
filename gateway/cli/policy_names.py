"""Whether the names in a policy, or in a question about it, are somebody's: by configuration and inventory."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from auth.errors import PolicyProblem
    from auth.policytext import Policy
    from gateway.config.values import Config
    from gateway.home.layout import Home
    from pki.inventory import Inventory

LOCAL = "local"
"""The master on the dispatch listener; it has no certificate."""
_RESOURCES = {"route": ("Route", "[[routes]]"), "pool": ("Pool", "[pools]")}


@contextmanager
def _inventory(home: Home, config: Config) -> Iterator[Inventory]:
    from gateway.state.database import bump, check_schema, open_state
    from pki.inventory import Inventory

    engine = open_state(home, config.state.url)
    try:
        check_schema(engine)
        yield Inventory(engine, on_write=bump)
    finally:
        engine.dispose()


def _owners(home: Home, config: Config, names: Iterable[str]) -> dict[str, str | None] | str:
    """The role that each name has, None: nobody has it; or why the state cannot be read."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.state.database import StateUnavailable, unavailable

    try:
        with _inventory(home, config) as inventory:
            found = {name: inventory.find(name) for name in names}
    except (StateUnavailable, SQLAlchemyError) as error:
        return str(error if isinstance(error, StateUnavailable) else unavailable(error))
    return {name: owner.role.value if owner is not None else None for name, owner in found.items()}


def unknown_principals(home: Home, config: Config, policies: Sequence[Policy]) -> list[PolicyProblem]:
    """A warning for each client, worker or master that a policy names and that has no certificate in this role."""
    from auth.errors import PolicyProblem

    asked = [
        (policy, kind.lower(), name)
        for policy in policies
        for kind, name in sorted(policy.facts.named)
        if kind in ("Client", "Worker", "Master") and (kind, name) != ("Master", LOCAL)
    ]
    owners = _owners(home, config, {name for _, _, name in asked}) if asked else {}
    file = config.policy.name
    if isinstance(owners, str):
        return [PolicyProblem(file=file, line=None, message=f"names cannot be looked up: {owners}")]
    return [
        PolicyProblem(file=file, line=policy.line, message=f"{policy.id}: {_unknown_text(kind, name, owners[name])}")
        for policy, kind, name in asked
        if owners[name] != kind
    ]


def warn_of_unknown_principals(home: Home, config: Config, policies: Sequence[Policy]) -> list[PolicyProblem]:
    """Tell the `unknown_principals` on stderr; they may come later, so nothing fails."""
    found = unknown_principals(home, config, policies)
    for warning in found:
        place = warning.file if warning.line is None else f"{warning.file}:{warning.line}"
        click.echo(f"{place}: warning: {warning.message}", err=True)
    return found


def _unknown_text(kind: str, name: str, role: str | None) -> str:
    if role is not None:
        return f"{name} is a {role} here, so no {kind} of this name can come"
    return f"there is no {kind} {name} in this home yet; `rhttp-pki issue-{kind} {name}` makes it, or mend the name"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What came of looking up the names of a question: why there is no asking, and what may come later."""

    refusal: str | None = None
    warnings: tuple[str, ...] = ()


def look_up(home: Home, config: Config, who: tuple[str, str], on: tuple[str, str]) -> Lookup:
    """Whether a question is about somebody and something."""
    kind, place = _RESOURCES[on[0]]
    known = config.resources()[kind]
    if on[1] not in known:
        near = difflib.get_close_matches(on[1], known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
        return Lookup(f"there is no {on[0]} {on[1]} in {place} of {home.config.name}; {mend}")
    if who == ("master", LOCAL):
        return Lookup()
    owners = _owners(home, config, [who[1]])
    if isinstance(owners, str):
        return Lookup(warnings=(f"whether there is a {who[0]} {who[1]} is not known: {owners}",))
    role = owners[who[1]]
    if role is not None and role != who[0]:
        return Lookup(f"{_unknown_text(who[0], who[1], role)}; ask with --as {role}/{who[1]}")
    # Workers that are not there are told where their pool is looked for.
    return Lookup(warnings=(_unknown_text(who[0], who[1], None),) if role is None and who[0] != "worker" else ())


def worker_in_inventory(home: Home, config: Config, name: str) -> tuple[str, dict[str, str]] | str:
    """Pool and labels of the worker's newest certificate that is not revoked; or why there are none."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.state.database import StateUnavailable, unavailable
    from pki.names import Role

    try:
        with _inventory(home, config) as inventory:
            owner = inventory.find(name)
            records = inventory.certificates(name=name, role=Role.WORKER)
    except (StateUnavailable, SQLAlchemyError) as error:
        return str(error if isinstance(error, StateUnavailable) else unavailable(error))
    if owner is None or owner.role is not Role.WORKER or owner.pool is None:
        return f"there is no worker {name} in this home: issue one with `rhttp-pki issue-worker`"
    valid = next((record for record in records if record.revoked_at is None), None)
    return owner.pool, dict(valid.labels) if valid is not None else {}
