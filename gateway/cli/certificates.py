"""``list``, ``show``, ``crl``, ``verify``: commands that look at certificates."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from gateway.cli.common import Settings, common_options, fail, open_session
from gateway.cli.listing import certificate_lines, certificate_status, stamp
from gateway.cli.options import INSTANT, LIST_LIFETIME, NAME, absolute, json_option, print_json

if TYPE_CHECKING:
    from pki.inventory import CertificateRecord

_LISTED = click.Choice(["client", "worker", "master", "server", "root", "all"])
_ROLES = click.Choice(["client", "worker", "master", "server"])
_MAX_FILE = 64 << 20
_UNREADABLE = 2
_PUBLIC = 0o644


@click.command("list")
@common_options
@click.option("--role", type=_ROLES, help="Only certificates of this role.")
@click.option("--all", "with_expired", is_flag=True, help="Expired ones too.")
@json_option
def list_certificates(settings: Settings, role: str | None, with_expired: bool, as_json: bool) -> None:
    """List the certificates that were issued and have not expired, revoked ones included."""
    from gateway.home.layout import Home
    from gateway.home.session import HomeSession
    from pki.names import Role

    now = int(datetime.now(UTC).timestamp())
    with HomeSession(Home(settings.home), None) as session:
        found = session.inventory.certificates(
            role=Role(role) if role else None, valid_at=None if with_expired else now
        )
    if as_json:
        print_json({"certificates": [_entry(record, now) for record in found]})
    else:
        _print_table(found, now)


@click.command()
@common_options
@click.argument("name", type=NAME)
@json_option
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Show whose NAME is, its Digest user, and every certificate that was issued to it."""
    from auth.store import UserStore
    from gateway.home.layout import Home
    from gateway.home.session import HomeSession
    from gateway.state.database import bump

    now = int(datetime.now(UTC).timestamp())
    with HomeSession(Home(settings.home), None) as session:
        identity = session.inventory.find(name)
        found = session.inventory.certificates(name=name)
        users = UserStore(session.engine, None, session.basics.realm, bump).list()
    user = next((user for user in users if user.name == name), None)
    if identity is None:
        fail(f"no certificate was ever issued to {name}; `rhttp-pki list` shows who has one")
    shown_user = None if user is None else {"enabled": user.enabled, "algorithms": list(user.algorithms)}
    if as_json:
        table = {"name": name, "role": identity.role.value, "pool": identity.pool, "user": shown_user}
        print_json({**table, "certificates": [_entry(record, now) for record in found]})
        return
    state = "none" if user is None else f"{'enabled' if user.enabled else 'disabled'} ({', '.join(user.algorithms)})"
    click.echo(f"{identity}; Digest user: {state}")
    _print_table(found, now)


@click.command()
@common_options
@click.option("--role", type=_LISTED, required=True, help="Whose CA signs the list; all: every CA, in one file.")
@click.option("--ttl", type=LIST_LIFETIME, default="1d", show_default=True, help="How long it is good: 6h, 7d.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here instead of standard output.")
def crl(settings: Settings, role: str, ttl: timedelta, out: Path | None) -> None:
    """Sign the revocation list of a role's issuing CA, or of the root: PEM, with a number that grows.

    Servers that look up every certificate of a path, as nginx and HAProxy do, need the list of each CA in it: `all`.
    The file of --out appears whole and may be read by everybody.
    """
    from gateway.home.revocation_lists import sign_lists
    from pki.files import write_atomic
    from pki.names import Role

    roles = (*Role, None) if role == "all" else (None,) if role == "root" else (Role(role),)
    with open_session(settings) as session:
        lists = sign_lists(session, roles, ttl)
    pem = b"".join(one.pem for one in lists)
    if out is None:
        click.echo(pem, nl=False)
        return
    write_atomic(absolute(out), pem, mode=_PUBLIC)
    for one in lists:
        whose = "root" if one.role is None else f"{one.role.value} CA"
        click.echo(f"list {one.number} of the {whose}, {one.revoked} revoked, in {out}")


@click.command()
@common_options
@click.option("--role", type=_ROLES, required=True, help="What the certificate must be good for.")
@click.option("--trust", type=click.Path(path_type=Path), required=True, help="PEM file: each certificate an anchor.")
@click.option("--crl", "crl_file", type=click.Path(path_type=Path), help="PEM file of revocation lists.")
@click.option("--time", "at", type=INSTANT, help="Judge as of this time (RFC 3339; default now).")
@click.option("--profile", type=click.Choice(["rhttp", "rfc5280"]), default="rhttp", show_default=True)
@click.argument("chain", type=click.Path(path_type=Path))
def verify(
    _settings: Settings,
    role: str,
    trust: Path,
    crl_file: Path | None,
    at: datetime | None,
    profile: str,
    chain: Path,
) -> None:
    """Validate the path in CHAIN (PEM, leaf first) as the gateway does.

    Prints `valid` and exits 0; prints a reason code (untrusted, expired, not_yet_valid, purpose, name, revoked,
    stale_crl, malformed, role, profile, algorithm) and exits 1; exits 2 when a file cannot be read. No home is needed.
    Without --crl nobody asks whether it was revoked, and a note on stderr says so.
    """
    from pki.errors import CertificateInvalid, InputUnreadable, PathReason
    from pki.names import Role
    from pki.verify import verify_file

    try:
        verify_file(
            _read(chain),
            _read(trust),
            role=Role(role),
            at=at or datetime.now(UTC),
            profile=cast(Literal["rhttp", "rfc5280"], profile),
            crls_pem=None if crl_file is None else _read(crl_file),
        )
    except CertificateInvalid as error:
        click.echo(error.reason.value)
        if error.detail:
            click.echo(" ".join(error.detail.split()), err=True)
        raise click.exceptions.Exit(1) from None
    except InputUnreadable as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(_UNREADABLE) from None
    except Exception as error:
        # Whatever a hostile file does to the parser, the answer is no.
        click.echo(PathReason.MALFORMED.value)
        click.echo(f"the certificate cannot be judged ({type(error).__name__})", err=True)
        raise click.exceptions.Exit(1) from None
    click.echo("valid")
    if crl_file is None:
        click.echo("note: revocation was not checked; give the issuing CA's list with --crl (rhttp-pki crl)", err=True)


def _read(path: Path) -> bytes:
    from pki.errors import InputUnreadable

    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InputUnreadable(f"cannot read {path}: {error.strerror}") from None


def _entry(record: CertificateRecord, now: int) -> dict[str, Any]:
    return {
        "serial": record.serial,
        "name": record.name,
        "role": record.role.value,
        "pool": record.pool,
        "labels": dict(record.labels),
        "status": certificate_status(record, now),
        "not_before": stamp(record.not_before),
        "not_after": stamp(record.not_after),
        "issued_at": stamp(record.issued_at),
        "revoked_at": None if record.revoked_at is None else stamp(record.revoked_at),
        "reason": record.reason,
        "fingerprint": record.fingerprint,
    }


def _print_table(records: Sequence[CertificateRecord], now: int) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo("\n".join(certificate_lines(records, now, width)))
