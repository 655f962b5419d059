"""``list``, ``show``, ``verify``: commands that look at certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

import click

from gateway.cli.common import Settings, common_options, fail
from gateway.cli.listing import certificate_entry, expiring_within, print_certificates
from gateway.cli.options import INSTANT, LIFETIME, NAME, ROLE, json_option, print_json

_MAX_FILE = 64 << 20
_UNREADABLE = 2


@click.command("list")
@common_options
@click.option("--role", type=ROLE, help="Only certificates of this role.")
@click.option("--all", "with_expired", is_flag=True, help="Expired ones too.")
@click.option(
    "--expiring", type=LIFETIME, help="Only what expires within this time and was not replaced, soonest first."
)
@json_option
def list_certificates(
    settings: Settings, role: str | None, with_expired: bool, expiring: timedelta | None, as_json: bool
) -> None:
    """List the certificates that were issued and have not expired, revoked ones included.

    With --expiring: those that need a renewal, so neither revoked ones nor those of a name that has one which lives
    longer.
    """
    from gateway.home.layout import Home
    from gateway.home.session import HomeSession
    from pki.names import Role

    now = int(datetime.now(UTC).timestamp())
    with HomeSession(Home(settings.home), None) as session:
        found = session.inventory.certificates(
            role=Role(role) if role else None, valid_at=None if with_expired else now
        )
    if expiring is not None:
        found = expiring_within(found, now + int(expiring.total_seconds()))
    if as_json:
        print_json({"certificates": [certificate_entry(record, now) for record in found]})
    else:
        print_certificates(found, now)


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
        print_json({**table, "certificates": [certificate_entry(record, now) for record in found]})
        return
    state = "none" if user is None else f"{'enabled' if user.enabled else 'disabled'} ({', '.join(user.algorithms)})"
    click.echo(f"{identity}; Digest user: {state}")
    print_certificates(found, now)


@click.command()
@common_options
@click.option("--role", type=ROLE, required=True, help="What the certificate must be good for.")
@click.option("--trust", type=click.Path(path_type=Path), required=True, help="PEM file: each certificate an anchor.")
@click.option(
    "--crl", "crl_file", type=click.Path(path_type=Path), help="File of revocation lists: PEM, or one in DER."
)
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
