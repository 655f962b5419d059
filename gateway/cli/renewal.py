"""``renew``: one bundle, or all whose certificates end soon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.common import Settings, common_options, fail, open_session, tell_gateway
from gateway.cli.issued import read_request, say_issued
from gateway.cli.options import LIFETIME, absolute
from rhttp.worker.output import describe_failure
from rhttp.worker.renew_command import est_options, renew_bundles

if TYPE_CHECKING:
    from gateway.home.session import HomeSession


@click.command()
@common_options
@click.argument(
    "bundles", metavar="[BUNDLE]...", nargs=-1, type=click.Path(path_type=Path, file_okay=False, exists=True)
)
@click.option(
    "--expiring", type=LIFETIME, help="What expires within this time; without BUNDLE, of all in HOME/bundles."
)
@click.option("--ttl", type=LIFETIME, help="Lifetime, at most 730d (default: that of the certificate renewed).")
@click.option(
    "--csr",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
    help="Certify the key of this signing request: for a bundle whose key is kept elsewhere.",
)
@click.option("--est", is_flag=True, help="Have the gateway renew it, as where there is no home.")
@est_options
def renew(
    settings: Settings,
    bundles: tuple[Path, ...],
    expiring: timedelta | None,
    ttl: timedelta | None,
    csr: Path | None,
    est: bool,
    gateway: str | None,
    daemon: bool,
) -> None:
    """Put a new key and certificate for the same identity into BUNDLE, and the root as it is now.

    All at one moment: whoever reads the bundle finds the old files or the new ones. Password, labels and pool stay.
    The old certificate is valid until it expires; if it must not be, revoke its serial.

    --expiring is for a timer: it renews what is due, passes over what was revoked, tells what cannot be renewed, goes
    on with the others, and then exits 1.

    Where there is no home, and with --est, --gateway or --daemon, the gateway is asked (EST): the present certificate
    and the password in BUNDLE are enough, and nothing of the home is needed. --daemon stays, and renews each BUNDLE at
    two thirds of its life.
    """
    is_homeless = "home" not in settings.given and settings.home == Settings().home and not settings.home.exists()
    if est or daemon or gateway is not None or is_homeless:
        _renew_over_est(bundles, expiring, ttl, csr, gateway, daemon)
        return
    if not bundles and expiring is None:
        raise click.UsageError("name a BUNDLE, or give --expiring for all bundles of the home that are due")
    if csr is not None and (len(bundles) != 1 or expiring is not None):
        raise click.UsageError("--csr is for one BUNDLE")
    from gateway.home.renew import bundles_of, renew_bundle

    request = read_request(csr)
    with open_session(settings) as session:
        if expiring is not None:
            named = [absolute(bundle) for bundle in bundles]
            _renew_due(session, named or bundles_of(session), expiring, ttl)
            return
        for bundle in bundles:
            issued = renew_bundle(session, absolute(bundle), ttl, request)
            say_issued(session, issued.record, f"in {click.format_filename(issued.place)}")
        tell_gateway(session, "/refresh", must=False)


def _renew_over_est(
    bundles: tuple[Path, ...],
    expiring: timedelta | None,
    ttl: timedelta | None,
    csr: Path | None,
    gateway: str | None,
    daemon: bool,
) -> None:
    if not bundles:
        raise click.UsageError("name a BUNDLE: without a home it is not known where they lie")
    if ttl is not None:
        raise click.UsageError("--ttl is for the home: over EST the certificate lives as long as the one before")
    if csr is not None:
        raise click.UsageError(
            "--csr is for the home: over EST the gateway wants to see the present certificate, with its key in BUNDLE"
        )
    renew_bundles(bundles, expiring=expiring, gateway=gateway, daemon=daemon)


def _renew_due(session: HomeSession, bundles: list[Path], within: timedelta, ttl: timedelta | None) -> None:
    """Renew those whose certificates end within this time; what cannot be renewed does not keep the others."""
    from gateway.home.renew import BundleEnded, BundleInvalid, bundle_end, renew_bundle
    from pki.errors import PkiError
    from rhttp.errors import RhttpError

    renewed = later = ended = failed = 0
    due = datetime.now(UTC).timestamp() + within.total_seconds()
    for bundle in bundles:
        try:
            if bundle_end(session, bundle) > due:
                later += 1
                continue
            issued = renew_bundle(session, bundle, ttl)
        except BundleEnded as error:
            ended += 1
            click.echo(f"note: passed over: {' '.join(str(error).split())}", err=True)
        except (BundleInvalid, PkiError, RhttpError, OSError) as error:
            failed += 1
            text = describe_failure(error, install="rhttp-pki") if isinstance(error, OSError) else str(error)
            click.echo(f"not renewed: {' '.join(text.split())}", err=True)
        else:
            renewed += 1
            say_issued(session, issued.record, f"in {click.format_filename(issued.place)}")
    if renewed:
        tell_gateway(session, "/refresh", must=False)
    click.echo(f"{renewed} renewed, {later} not due, {ended} passed over")
    if failed:
        fail(f"{failed} of {len(bundles)} bundle(s) could not be renewed; the lines above say why")
