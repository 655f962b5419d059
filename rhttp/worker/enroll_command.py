"""The command that enrols: ``rhttp-enroll`` where `rhttp` is installed alone, ``rhttp-pki enroll`` beside the gateway.

Both are this module, so what one takes and tells, the other does. It needs a token's file and a fingerprint, no home.
Nothing secret is in the arguments or in what is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rhttp import build
from rhttp.worker.output import fail, run_program, stop_on_sigterm, version_option
from rhttp.worker.secret_file import exposure
from rhttp.worker.text_file import NotText, decode_text, first_line

if TYPE_CHECKING:
    from rhttp.worker.est import Token

__all__ = ["HELP", "enroll_bundle", "enroll_options", "main"]

F = TypeVar("F", bound=Callable[..., Any])

HELP = """Get this machine a bundle, with an enrolment token.

The gateway's root is taken when its fingerprint is the one given. The key is made here and never sent. What comes of it
is the same bundle that `rhttp-pki issue-worker` makes, password and all.
"""

_MAX_TOKEN_FILE = 1 << 16

_OPTIONS = (
    click.option(
        "--gateway", metavar="URL", required=True, help="The gateway's enrolment listener, https://HOST[:PORT]."
    ),
    click.option("--fingerprint", metavar="SHA256", required=True, help="Of the gateway's root certificate, in hex."),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="A file (0600) whose first line is the token.",
    ),
    click.option("--name", metavar="NAME", help="The name to ask for (default: the one of the token)."),
    click.option(
        "--role",
        type=click.Choice(["worker", "client", "master"]),
        default="worker",
        show_default=True,
        help="What to enrol as.",
    ),
    click.option(
        "--key-type",
        type=click.Choice(["p256", "p384", "ed25519", "rsa3072", "mldsa44", "mldsa65", "mldsa87"]),
        default="p256",
        show_default=True,
        help="Of the new key.",
    ),
    click.option(
        "--out",
        metavar="BUNDLE",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        help="The bundle's directory: a new one, or an empty one.",
    ),
    click.option(
        "--wait",
        type=click.FloatRange(0, 3600),
        default=60.0,
        show_default=True,
        help="Seconds for which a gateway that is away, or asks to wait, is asked again.",
    ),
)


def enroll_options(command: F) -> F:
    """Add the options of enrolling: the parameters of `enroll_bundle`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def enroll_bundle(
    *,
    gateway: str,
    fingerprint: str,
    token_file: Path,
    name: str | None,
    role: str,
    key_type: str,
    out: Path,
    wait: float,
) -> None:
    """Enrol, and say what came of it.

    Raises:
        click.UsageError: an option cannot be read.
        click.ClickException: the token's file cannot be used, or there is no bundle, or one without its password.
    """
    if clash := build.find_clash():
        fail(clash)
    # Here, not above: whoever asks for help needs none of it.
    from rhttp.worker.bundle import BundleInvalid, parse_gateway
    from rhttp.worker.enrolment import EnrolmentOrder, enroll
    from rhttp.worker.enrolment_failure import EnrolmentFailed
    from rhttp.worker.est import is_name, parse_fingerprint
    from rhttp.worker.fresh_bundle import PlaceTaken

    try:
        address = parse_gateway(gateway, "--gateway")
    except BundleInvalid as error:
        raise click.UsageError(str(error)) from None
    pinned = parse_fingerprint(fingerprint)
    if pinned is None:
        raise click.UsageError(
            "--fingerprint is no SHA-256 fingerprint: 64 hex digits, as they are or with colons between pairs"
        )
    if name is not None and not is_name(name):
        raise click.UsageError("--name is no name: 1 to 63 of a-z, 0-9 and -, neither first nor last a -")
    order = EnrolmentOrder(
        gateway=address,
        fingerprint=pinned,
        token=_read_token(token_file),
        role=role,
        name=name,
        key_type=key_type,
        out=Path(os.path.abspath(out)),
        wait=wait,
    )
    try:
        made = enroll(order, tell=lambda line: click.echo(f"enroll: {line}", err=True))
    except (EnrolmentFailed, PlaceTaken) as error:
        fail(str(error))
    pool = f" of pool {made.pool}" if made.pool is not None else ""
    place = click.format_filename(made.place)
    click.echo(
        f"{made.role} {made.name}{pool}: enrolled at {made.gateway} until {made.expires:%Y-%m-%dT%H:%M:%SZ}, in {place}"
    )


def _read_token(path: Path) -> Token:
    from rhttp.worker.est import parse_token

    try:
        with path.open("rb") as file:
            exposed = exposure(path, file.fileno())
            data = file.read(_MAX_TOKEN_FILE)
    except OSError as error:
        fail(f"cannot read the token file {path}: {error.strerror}; name a readable file")
    if exposed is not None:
        fail(f"the token file {exposed}")
    try:
        found = parse_token(decode_text(first_line(data)).strip())
    except NotText as error:
        fail(f"the token file {path} {error}")
    if found is None:
        fail(
            f"the first line of {path} is no enrolment token (et_, 16 hex digits, a dot, the secret);"
            " put the line there that `rhttp-pki token create` printed"
        )
    return found


@click.command("rhttp-enroll", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("rhttp-enroll")
@enroll_options
def enroll_command(**given: Any) -> None:
    enroll_bundle(**given)


def main() -> None:
    """The entry point of ``rhttp-enroll``."""
    stop_on_sigterm()
    run_program(enroll_command, "rhttp-enroll")


if __name__ == "__main__":
    main()
