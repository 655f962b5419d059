"""``token``: enrolment tokens. A token is shown once, when it is made, and never an argument.

A token lets somebody in, so it is only committed once its audit line is on disk; an end is committed first. Then the
running gateway is told, so that a token works, or does so no more, as soon as the command is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.common import Settings, common_options, open_session, tell_gateway
from gateway.cli.listing import stamp
from gateway.cli.options import LABEL, NAME, PREFIX, TOKEN_ID, TOKEN_LIFETIME, json_option, label_map, print_json
from gateway.cli.secret_files import told_once

if TYPE_CHECKING:
    from gateway.home.session import HomeSession
    from pki.enrolment import EnrolmentToken

__all__ = ["token"]

_MOST_USES: Final = 10_000  # as `pki.enrolment.MAX_USES`, which a refused option must not wait for
_TITLES: Final = ("ID", "ROLE", "POOL", "NAMES", "USED", "STATUS", "EXPIRES", "LABELS")


@click.group()
def token() -> None:
    """Manage enrolment tokens."""


@token.command()
@click.option("--role", type=click.Choice(["client", "worker", "master"]), required=True, help="What it makes.")
@click.option("--pool", type=NAME, help="With --role worker: the only pool that the worker may reverse into.")
@click.option("--name", type=NAME, help="The only name that it is good for.")
@click.option("--name-prefix", type=PREFIX, help="What the names that it is good for begin with.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="key=value, for policies and dispatch.")
@click.option("--uses", type=click.IntRange(1, _MOST_USES), default=1, show_default=True, help="Certificates, at most.")
@click.option("--ttl", type=TOKEN_LIFETIME, default="1h", show_default=True, help="Good for so long: 15m, 1h, 7d.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this new file (0600).")
@common_options
def create(settings: Settings, labels: tuple[tuple[str, str], ...], out: Path | None, **rules: Any) -> None:
    """Make a token, with which a machine can enrol: get certificates for keys of its own. Prints it, once.

    Without --name and --name-prefix it is good for any name. A name that somebody holds a valid certificate of takes
    a token with that --name.
    """
    if (rules["role"] == "worker") != (rules["pool"] is not None):
        raise click.UsageError("--pool is for --role worker, and needed there: a worker belongs to one pool")
    if labels and rules["role"] != "worker":
        raise click.UsageError("--label is for --role worker")
    if rules["name"] is not None and rules["name_prefix"] is not None:
        raise click.UsageError("give --name or --name-prefix, not both")
    label_table = label_map(labels)
    with open_session(settings) as session:
        made = _build(session, label_table, **rules)
        state_key, store = session.state_key(), session.tokens()
        with _secret(made, out) as secret, session.engine.begin() as connection:
            store.add(made, secret, realm=session.basics.realm, state_key=state_key, connection=connection)
            _audit(session, "token.created", made.id, **_described(made))
        tell_gateway(session, "/refresh", must=False)
        click.echo(f"token {made.id}: {_summary(made)}, until {stamp(made.expires_at)}", err=True)
        click.echo(_next_step(session, made, out), err=True)
        if made.pool is not None and made.pool not in session.basics.pools:
            where = session.home.config.name
            click.echo(f"warning: {where} has no [pools.{made.pool}] yet; its workers wait for it", err=True)


@token.command("list")
@json_option
@common_options
def list_tokens(settings: Settings, as_json: bool) -> None:
    """List the tokens: what each is good for, and whether it still is. Shows no secrets.

    Those that ended are listed for up to 30 days, the newest 10,000 of them.
    """
    now = _now()
    with open_session(settings) as session:
        found = session.tokens().list()
    if as_json:
        print_json({"tokens": [_entry(one, now) for one in found]})
    elif not found:
        click.echo("no tokens")
    else:
        rows = [_TITLES, *(_cells(one, now) for one in found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            click.echo("  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip())


@token.command()
@click.argument("token_id", metavar="ID", type=TOKEN_ID)
@common_options
def revoke(settings: Settings, token_id: str) -> None:
    """End the token ID at once. The certificates that it gave stay; see `rhttp-pki revoke`."""
    with open_session(settings, locks_out=True) as session:
        if session.tokens().revoke(token_id, _now()):
            _audit(session, "token.revoked", token_id)
            tell_gateway(session, "/refresh", must=True)
            click.echo(f"token {token_id} is revoked; certificates that it gave are not")
        else:
            click.echo(f"token {token_id} was revoked before")


def _build(session: HomeSession, labels: dict[str, str], *, role: str, ttl: timedelta, **rules: Any) -> EnrolmentToken:
    from auth.principal import LOCAL_MASTER
    from pki.enrolment import ID_ENTROPY, EnrolmentToken, build_token_id
    from pki.errors import NameInvalid
    from pki.inventory import Identity
    from pki.names import Role

    now = _now()
    made = EnrolmentToken(
        id=build_token_id(os.urandom(ID_ENTROPY)),
        role=Role(role),
        labels=labels,
        created_at=now,
        expires_at=now + int(ttl.total_seconds()),
        **rules,
    )
    if made.name == LOCAL_MASTER.name:
        raise NameInvalid(f"the name {made.name} stands for whoever opens the dispatch listener; choose another")
    if made.name is not None:
        session.inventory.require_free(Identity(name=made.name, role=made.role, pool=made.pool), at=now)
    return made


@contextmanager
def _secret(made: EnrolmentToken, out: Path | None) -> Iterator[str]:
    """The secret for the block; the token is shown, or its file stays, only if the block went well."""
    from auth.passwords import GENERATED_ENTROPY, build_password

    secret = build_password(os.urandom(GENERATED_ENTROPY))
    with told_once(f"{made.id}.{secret}", out):
        yield secret


def _next_step(session: HomeSession, made: EnrolmentToken, out: Path | None) -> str:
    """The line that the other machine needs, ready to copy."""
    from gateway.config.address import gateway_url
    from gateway.home.issue import served_dns_names

    listen = session.basics.enroll_listen
    if listen is None:
        return f"note: {session.home.config.name} has no [enroll] listen, so nobody can use it yet: set one and restart"
    role = "" if made.role.value == "worker" else f" --role {made.role.value}"
    name = "" if made.name is None else f" --name {made.name}"
    file = "TOKEN-FILE" if out is None else out.name
    return (
        f"with the token in a file there: rhttp-pki enroll --gateway {gateway_url(listen, served_dns_names(session))} "
        f"--fingerprint {session.root_fingerprint()} --token-file {file}{role}{name} --out BUNDLE"
    )


def _audit(session: HomeSession, event: str, token_id: str, **detail: object) -> None:
    from gateway.audit.cli_stream import append_cli

    detail = {"token": token_id, **{key: value for key, value in detail.items() if value is not None}}
    append_cli(session.home.path, event, key=session.checkpoint_key(), outcome="done", detail=detail)


def _described(made: EnrolmentToken) -> dict[str, object]:
    return {
        "role": made.role.value,
        "pool": made.pool,
        "name": made.name,
        "prefix": made.name_prefix,
        "labels": _labels(made) or None,
        "uses": made.uses,
        "expires": stamp(made.expires_at),
    }


def _summary(made: EnrolmentToken) -> str:
    whose = made.role.value if made.pool is None else f"{made.role.value} of pool {made.pool}"
    return f"{whose}, {_names(made)}, {made.uses} use{'' if made.uses == 1 else 's'}"


def _names(one: EnrolmentToken) -> str:
    if one.name is not None:
        return f"name {one.name}"
    return "any name" if one.name_prefix is None else f"names {one.name_prefix}…"


def _labels(one: EnrolmentToken) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))


def _cells(one: EnrolmentToken, now: int) -> tuple[str, ...]:
    names = one.name or f"{one.name_prefix or ''}*"
    used = f"{one.used}/{one.uses}"
    role, pool = one.role.value, one.pool or "-"
    return one.id, role, pool, names, used, one.state(now), stamp(one.expires_at), _labels(one)


def _entry(one: EnrolmentToken, now: int) -> dict[str, Any]:
    return {
        "id": one.id,
        "role": one.role.value,
        "pool": one.pool,
        "name": one.name,
        "name_prefix": one.name_prefix,
        "labels": dict(one.labels),
        "status": one.state(now),
        "uses": one.uses,
        "used": one.used,
        "created_at": stamp(one.created_at),
        "expires_at": stamp(one.expires_at),
        "used_at": None if one.used_at is None else stamp(one.used_at),
        "revoked_at": None if one.revoked_at is None else stamp(one.revoked_at),
    }


def _now() -> int:
    return int(datetime.now(UTC).timestamp())
