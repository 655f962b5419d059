"""``user``: Digest credentials. Passwords come from a prompt or a file and are never arguments.

What lets somebody in (add, passwd, enable) is only committed once its audit line is on disk; what locks somebody out is
committed first, so that a full disk cannot prevent it. A running gateway is told at the end and has cut the user's
connections when the command returns.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gateway.cli.common import Settings, common_options, open_session
from gateway.cli.listing import stamp
from gateway.cli.options import NAME, json_option
from gateway.cli.secret_files import new_file, read_password, told_once

if TYPE_CHECKING:
    from auth.store import StoredUser, UserStore
    from gateway.home.session import HomeSession

__all__ = ["user"]

F = TypeVar("F", bound=Callable[..., Any])

_ALGORITHMS: Final = ("SHA-256", "SHA-512-256", "MD5")


@click.group()
def user() -> None:
    """Manage Digest credentials."""


def _password_options(command: F) -> F:
    for option in (
        click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="With --generate: write it here."),
        click.option("--generate", is_flag=True, help="Make a password of 32 characters and print it."),
        click.option(
            "--password-file",
            type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
            help="A file whose first line is the password; - is standard input.",
        ),
    ):
        command = option(command)
    return command


@user.command()
@click.argument("name", type=NAME)
@_password_options
@common_options
def add(settings: Settings, name: str, **source: Any) -> None:
    """Make the user NAME, which should be the NAME of a certificate. Asks for the password."""
    with _open(settings, with_key=True) as (session, store):
        with _password(**source) as password, session.engine.begin() as connection:
            store.add(name, password, connection=connection)
            _audit(session, "user.added", name)
        _tell(session, name, "is added", err=source["generate"])


@user.command()
@click.argument("name", type=NAME)
@_password_options
@common_options
def passwd(settings: Settings, name: str, **source: Any) -> None:
    """Give the user NAME a new password. Its connections are cut. Asks for the password."""
    with _open(settings, with_key=True) as (session, store):
        with _password(**source) as password, session.engine.begin() as connection:
            store.passwd(name, password, connection=connection)
            _audit(session, "user.password", name)
        _tell(session, name, "has a new password", err=source["generate"])


@user.command()
@click.argument("name", type=NAME)
@common_options
def enable(settings: Settings, name: str) -> None:
    """Let the user NAME in again, with the password of before."""
    with _open(settings) as (session, store):
        with session.engine.begin() as connection:
            if store.enable(name, connection=connection):
                _audit(session, "user.enabled", name)
        _tell(session, name, "is enabled")


@user.command()
@click.argument("name", type=NAME)
@common_options
def disable(settings: Settings, name: str) -> None:
    """Lock the user NAME out and cut its connections; `user enable` undoes it."""
    with _open(settings, locks_out=True) as (session, store):
        event = "user.disabled" if store.disable(name) else None
        _lock_out(session, event, name, "is disabled")


@user.command()
@click.argument("name", type=NAME)
@common_options
def remove(settings: Settings, name: str) -> None:
    """Forget the user NAME and its password, and cut its connections. Certificates stay; see `revoke`."""
    with _open(settings, locks_out=True) as (session, store):
        store.remove(name)
        _lock_out(session, "user.removed", name, "is removed")


@user.command("list")
@json_option
@common_options
def list_users(settings: Settings, as_json: bool) -> None:
    """List the users: state, role, algorithms, last change. Shows no credentials."""
    from gateway.state.database import reading

    with _open(settings) as (session, store), reading(session.engine) as connection:
        found = [_shown(one) for one in store.list(connection=connection)]
    if as_json:
        click.echo(json.dumps({"users": found}))
        return
    for one in found:
        state = "enabled" if one["enabled"] else "disabled"
        algorithms = ",".join(one["algorithms"]) or "no-password"
        click.echo(f"{one['name']}  {state}  {one['role'] or '-'}  {algorithms}  {one['changed']}")


@user.command("export-htdigest")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    required=True,
    help="A new file (0600), or - for standard output.",
)
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), default="SHA-256", show_default=True)
@common_options
def export_htdigest(settings: Settings, out: Path, algorithm: str) -> None:
    """Write ``user:realm:HA1`` lines of the enabled users. They are worth as much as the passwords.

    The file has the form of htdigest; only with MD5 do other servers read it.
    """
    from gateway.state.database import reading

    with _open(settings, with_key=True) as (session, store):
        with reading(session.engine) as connection:
            lines = store.export(algorithm, connection=connection)
            left_out = len(store.list(connection=connection)) - len(lines)
        text = "".join(f"{line}\n" for line in lines)
        if str(out) == "-":
            _audit(session, "user.exported", None, algorithm=algorithm, count=len(lines))
            click.echo(text, nl=False)
        else:
            with new_file(out) as file:
                _audit(session, "user.exported", None, algorithm=algorithm, count=len(lines))
                file.write(text.encode())
    click.echo(f"{len(lines)} users exported, {left_out} left out (disabled, or no {algorithm} password)", err=True)


# --- What the commands share -----------------------------------------------------------------------------------------


@contextmanager
def _open(
    settings: Settings, *, with_key: bool = False, locks_out: bool = False
) -> Iterator[tuple[HomeSession, UserStore]]:
    with open_session(settings, locks_out=locks_out) as session:
        yield session, session.users(with_key=with_key)  # locking somebody out needs no passphrase


def _audit(session: HomeSession, event: str, name: str | None, **detail: object) -> None:
    from gateway.audit.cli_stream import append_cli

    detail = detail if name is None else {"user": name, **detail}
    append_cli(session.home.path, event, key=session.checkpoint_key(), outcome="done", detail=detail)


def _lock_out(session: HomeSession, event: str | None, name: str, what: str) -> None:
    """Audit and tell the gateway what is committed already; the gateway hears of it whatever becomes of the line."""
    try:
        if event is not None:
            _audit(session, event, name)
    finally:
        _tell(session, name, what)


def _tell(session: HomeSession, name: str, what: str, *, err: bool = False) -> None:
    # To stderr where standard output is the password alone.
    cut = session.tell_gateway("/refresh")
    told = "no gateway runs" if cut is None else f"the gateway cut {cut} connection(s)"
    click.echo(f"user {name} {what}; {told}", err=err)


def _shown(one: StoredUser) -> dict[str, Any]:
    return {
        "name": one.name,
        "role": one.role,
        "enabled": one.enabled,
        "algorithms": list(one.algorithms),
        "created": stamp(one.created_at),
        "changed": stamp(one.changed_at),
    }


# --- Where a password comes from, and where a made one goes ----------------------------------------------------------


@contextmanager
def _password(password_file: Path | None, generate: bool, out: Path | None) -> Iterator[str]:
    """The password for the block; a made one is shown only if the block went well."""
    if generate and password_file is not None:
        raise click.UsageError("give --password-file or --generate, not both")
    if out is not None and not generate:
        raise click.UsageError("--out is for a password that --generate makes")
    if generate:
        yield from _generated(out)
    elif password_file is not None:
        yield read_password(password_file)
    elif not _is_interactive():
        raise click.UsageError("no terminal to ask for the password; give --password-file FILE or --generate")
    else:
        yield click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)


def _generated(out: Path | None) -> Iterator[str]:
    from auth.passwords import GENERATED_ENTROPY, build_password

    password = build_password(os.urandom(GENERATED_ENTROPY))
    with told_once(password, out):
        yield password


def _is_interactive() -> bool:
    return sys.stdin.isatty()
