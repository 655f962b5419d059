"""The command that renews over EST: ``rhttp-renew`` where `rhttp` is installed alone, and what ``rhttp-pki renew`` does
where there is no home.

It needs the bundles only. Nothing secret is in the arguments or in what is written.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rhttp import build
from rhttp.worker.output import fail, run_program, stop_on_sigterm, version_option

if TYPE_CHECKING:
    from rhttp.worker.bundle import Bundle

__all__ = ["HELP", "est_options", "main", "renew_bundles"]

F = TypeVar("F", bound=Callable[..., Any])

HELP = """Have the gateway renew each BUNDLE, from wherever it lies.

A new key is made here, and certified by the gateway upon the present certificate and the password (EST, RFC 7030). The
two take the place of the old ones at one moment. A certificate that expired or was revoked is not renewed: enrol again.

--expiring is for a timer: it renews what is due, tells what cannot be renewed, goes on with the others, and then exits
1. --daemon stays, and renews each at two thirds of its life.
"""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value))
        if found is None or (seconds := int(found[1]) * _SECONDS[found[2]]) > 730 * 86400:
            self.fail(f"{value!r} is no duration up to 730d; write 90s, 15m, 24h or 30d", param, ctx)
        return timedelta(seconds=seconds)


_OPTIONS = (
    click.option("--gateway", metavar="URL", help="The gateway, https://HOST[:PORT], instead of the bundle's."),
    click.option("--daemon", is_flag=True, help="Stay, and renew each at two thirds of its life, until SIGTERM."),
)


def est_options(command: F) -> F:
    """Add the options that only a renewal over EST has."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def renew_bundles(
    bundles: Sequence[Path], *, expiring: timedelta | None = None, gateway: str | None = None, daemon: bool = False
) -> None:
    """Renew them over EST, and say what came of it.

    Args:
        expiring: only those whose certificates end within this time.
        gateway: in place of what they say.
        daemon: go on for ever.

    Raises:
        click.UsageError: the options contradict each other, or one cannot be read.
        click.ClickException: not all could be renewed.
    """
    if daemon and expiring is not None:
        raise click.UsageError("--daemon knows by itself when to renew; leave --expiring out")
    if clash := build.find_clash():
        fail(clash)
    # Here, not above: whoever asks for help needs none of it.
    from rhttp.worker.bundle import BundleInvalid, parse_gateway
    from rhttp.worker.enrolment_failure import EnrolmentFailed
    from rhttp.worker.est_renewal import try_renewal
    from rhttp.worker.renewal_daemon import keep_renewed

    if gateway is not None:
        try:
            parse_gateway(gateway, "--gateway")
        except BundleInvalid as error:
            raise click.UsageError(str(error)) from None
    places = [Path(os.path.abspath(bundle)) for bundle in bundles]
    if daemon:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ended)
        keep_renewed(places, gateway=gateway, tell=_say, warn=_warn)

    def is_due(bundle: Bundle) -> bool:
        return expiring is None or bundle.expires <= time.time() + expiring.total_seconds()

    renewed = later = 0
    failures: list[str] = []
    for place in places:
        try:
            found = try_renewal(place, gateway=gateway, is_due=is_due)
        except EnrolmentFailed as error:
            failures.append(str(error))
            if len(places) > 1 or expiring is not None:
                click.echo(f"not renewed: {' '.join(str(error).split())}", err=True)
        else:
            if found is None:
                later += 1
            else:
                renewed += 1
                _say(found)
    if expiring is not None:
        click.echo(f"{renewed} renewed, {later} not due")
    if failures and len(places) == 1 and expiring is None:
        fail(failures[0])
    if failures:
        fail(f"{len(failures)} of {len(places)} bundle(s) could not be renewed; the lines above say why")


def _say(bundle: Bundle) -> None:
    pool = f" of pool {bundle.pool}" if bundle.pool else ""
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(bundle.expires))
    place = click.format_filename(bundle.place)
    click.echo(f"{bundle.role} {bundle.name}{pool}: renewed at {bundle.gateway} until {until}, in {place}")


def _warn(line: str) -> None:
    click.echo(f"renew: {' '.join(line.split())}", err=True)


def _ended(_signal: int, _frame: object) -> None:
    # As an exception, so that what is half made is cleaned up.
    raise SystemExit(0)


@click.command("rhttp-renew", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("rhttp-renew")
@click.argument(
    "bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--expiring", type=_Duration(), help="What expires within this time: 90s, 15m, 24h, 30d.")
@est_options
def renew_command(bundles: tuple[Path, ...], **given: Any) -> None:
    renew_bundles(bundles, **given)


def main() -> None:
    """The entry point of ``rhttp-renew``."""
    stop_on_sigterm()
    run_program(renew_command, "rhttp-renew")


if __name__ == "__main__":
    main()
