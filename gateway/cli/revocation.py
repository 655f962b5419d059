"""``revoke``, ``crl``: commands that end certificates, and tell others of it.

Libraries are imported inside the commands: a command that is refused by its options must not wait for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli.common import Settings, common_options, fail, open_session, tell_gateway
from gateway.cli.listing import certificate_entry, print_certificates
from gateway.cli.options import LABEL, LIST_LIFETIME, NAME, ROLE, SERIAL, absolute, json_option, label_map, print_json

if TYPE_CHECKING:
    from gateway.home.session import HomeSession
    from pki.inventory import CertificateRecord
    from pki.selection import Selection

# RFC 5280 §5.3.1, without those that make no sense for good (certificateHold, removeFromCRL) or are a CA's.
_REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
_LISTED = click.Choice([*ROLE.choices, "root", "all"])
_PUBLIC: Final = 0o644
_ALL: Final = "all.pem"


@click.command()
@common_options
@click.argument("name", type=NAME, required=False)
@click.option("--serial", type=SERIAL, help="Revoke one certificate, by its serial in hex.")
@click.option("--role", type=ROLE, help="Revoke every certificate of this role.")
@click.option("--pool", type=NAME, help="Revoke every certificate of this pool.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="Revoke every certificate with key=value.")
@click.option("--reason", type=click.Choice(_REASONS, case_sensitive=False), default="unspecified", show_default=True)
@click.option("--dry-run", is_flag=True, help="Revoke nothing; list what would be revoked.")
@click.option("--yes", is_flag=True, help="Do not ask, with --role, --pool or --label.")
@json_option
def revoke(
    settings: Settings,
    name: str | None,
    serial: str | None,
    role: str | None,
    pool: str | None,
    labels: tuple[tuple[str, str], ...],
    reason: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Revoke every certificate of NAME, the one with --serial, or all of a role, pool, labels; cut their connections.

    Of --role, --pool and --label (once for each label) all that are given must hold. They ask before they revoke,
    unless --yes is given. All are revoked together, or none is.

    Returns when the running gateway, in every process, has cut them. The Digest users stay; see `rhttp-pki user`.
    """
    label_table = label_map(labels)
    if (name is not None) + (serial is not None) + (role is not None or pool is not None or bool(labels)) != 1:
        raise click.UsageError("give NAME, or --serial HEX, or any of --role, --pool and --label")
    from pki.names import Role
    from pki.selection import Selection

    selection = Selection(name=name, serial=serial, role=Role(role) if role else None, pool=pool, labels=label_table)
    with open_session(settings, locks_out=True) as session:
        at = int(datetime.now(UTC).timestamp())
        if dry_run:
            _show(session.inventory.affected(selection, at=at), at, as_json)
            return
        if selection.is_wide and not yes:
            _confirm(len(session.inventory.affected(selection, at=at)), selection)
        _revoke(session, selection, reason, at, as_json)


def _show(records: Sequence[CertificateRecord], at: int, as_json: bool) -> None:
    if as_json:
        print_json({"certificates": [certificate_entry(record, at) for record in records], "cut": None})
    else:
        print_certificates(records, at)


def _confirm(count: int, selection: Selection) -> None:
    if not count:
        return  # nothing left to revoke, but the gateway is told once more
    if not _is_interactive():
        fail(f"{count} certificate(s) with the {selection} would be revoked; look with --dry-run, then add --yes")
    click.confirm(f"revoke {count} certificate(s) with the {selection}, for good?", abort=True, err=True)


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _revoke(session: HomeSession, selection: Selection, reason: str, at: int, as_json: bool) -> None:
    records = session.inventory.revoke(selection, reason=reason, at=at)
    unlogged: Exception | None = None
    try:
        session.audit_revoked(records, reason)
    except Exception as error:
        # The gateway must hear of it all the same.
        unlogged = error
    # Also when nothing was left to revoke: the command may be a second try after the gateway was not reached.
    cut = tell_gateway(session, "/revoke", must=True)
    if unlogged is not None:
        raise unlogged
    if as_json:
        revoked = [certificate_entry(replace(record, revoked_at=at, reason=reason), at) for record in records]
        print_json({"certificates": revoked, "cut": cut})
    else:
        what = (
            f"{len(records)} certificate(s) revoked"
            if records
            else "nothing left to revoke (it was revoked or expired before)"
        )
        told = "no gateway runs" if cut is None else f"the gateway cut {cut} connection(s)"
        click.echo(f"{selection.name or selection.serial or selection}: {what}; {told}")
    if any(record.serial == session.served_serial() for record in records):
        click.echo("note: that is the certificate which the gateway serves; run: rhttp-pki issue-server", err=True)


@click.command()
@common_options
@click.option("--role", type=_LISTED, help="Whose CA signs the list; all: every CA, in one file.")
@click.option("--all", "everything", is_flag=True, help="The lists of every CA, into the files of a folder.")
@click.option("--ttl", type=LIST_LIFETIME, default="1d", show_default=True, help="How long it is good: 6h, 7d.")
@click.option("--der", is_flag=True, help="DER instead of PEM; of one CA only.")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of standard output; --all: a folder.")
def crl(settings: Settings, role: str | None, everything: bool, ttl: timedelta, der: bool, out: Path | None) -> None:
    """Sign the revocation list of a role's issuing CA, or of the root: PEM, with a number that grows.

    Servers that look up every certificate of a path, as nginx and HAProxy do, need the list of each CA in it: `--role
    all`. With --all --out DIR there are ROLE.crl (DER) and ROLE.pem of every CA in DIR, root included, and all.pem
    with all of them; the old ones stay until every new one is there. What is written may be read by everybody.
    """
    if everything == (role is not None):
        raise click.UsageError("give --role ROLE, or --all --out DIR")
    if everything and (out is None or der):
        raise click.UsageError("--all writes DER and PEM; name the folder for them with --out DIR")
    if der and role == "all":
        raise click.UsageError("--der is for the list of one CA; take --all --out DIR")
    if out is not None and not everything and out.is_dir():
        raise click.UsageError(f"{out} is a folder; name a file, or take --all")
    from gateway.home.revocation_lists import sign_lists
    from pki.files import replace_files
    from pki.names import Role

    roles = (*Role, None) if role is None or role == "all" else (None,) if role == "root" else (Role(role),)
    with open_session(settings) as session:
        lists = sign_lists(session, roles, ttl)
    pem = b"".join(one.pem for one in lists)
    if out is None:
        click.echo(lists[0].der if der else pem, nl=False)
        return
    out = absolute(out)
    if everything:
        _make_folder(out)
        files = {out / f"{one.name}.crl": one.der for one in lists}
        files |= {out / f"{one.name}.pem": one.pem for one in lists} | {out / _ALL: pem}
    else:
        files = {out: lists[0].der if der else pem}
    replace_files({path: (content, _PUBLIC) for path, content in files.items()})
    for one in lists:
        whose = "root" if one.role is None else f"{one.role.value} CA"
        click.echo(f"list {one.number} of the {whose}, {one.revoked} revoked, in {out}")


def _make_folder(path: Path) -> None:
    """Make the folder for what is public, unless it is there."""
    try:
        path.mkdir()
        path.chmod(0o755)  # whatever the umask
    except FileExistsError:
        if not path.is_dir():
            fail(f"{path} is no folder; name one with --out")
    except OSError as error:
        fail(f"cannot make the folder {path}: {error.strerror}; name another with --out")
