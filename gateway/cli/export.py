"""``export``: a bundle as one file, for what does not read PEM."""

from __future__ import annotations

import re
from pathlib import Path

import click

from gateway.cli.common import Settings, common_options, fail, open_session
from gateway.cli.options import NAME, absolute
from gateway.cli.secret_files import new_file, read_password
from rhttp.worker.secret_file import exposure

_PASSWORD = re.compile(r"[ -~]{12,128}")


@click.command()
@common_options
@click.argument("name", type=NAME)
@click.option("--p12", "out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A new file (0600).")
@click.option(
    "--password-file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="A file whose first line is the password of the new one, or - for standard input.",
)
@click.option("--bundle", type=click.Path(path_type=Path, file_okay=False), help="Default HOME/bundles/NAME.")
@click.option("--legacy", is_flag=True, help="3DES and SHA-1, for Android 13, iOS 15, Windows Server 2016 and older.")
def export(settings: Settings, name: str, out: Path, password_file: Path, bundle: Path | None, legacy: bool) -> None:
    """Export key, certificate and issuing CA of NAME as a PKCS #12 file, for browsers, phones and Java.

    The password is all that protects the file: 12 to 128 printable ASCII characters, since programs differ in how they
    read others, and none that could be guessed. The root is not in it: import trust.pem apart. A renewal makes another
    key: export again then.
    """
    password = _password(password_file)
    from gateway.home.export import build_p12

    with open_session(settings) as session:
        place = session.home.bundles / name if bundle is None else absolute(bundle)
        data, record = build_p12(session, name, place, password.encode("ascii"), legacy=legacy)
        with new_file(absolute(out), "--p12") as file:
            file.write(data)
            file.flush()
            session.audit("pki.exported", record)
    click.echo(f"{record.role.value} {name}: certificate {record.serial} and its key, in {click.format_filename(out)}")


def _password(path: Path) -> str:
    if str(path) != "-":
        try:
            with path.open("rb") as file:
                exposed = exposure(path, file.fileno())
        except OSError as error:
            fail(f"cannot read the password file {path}: {error.strerror}; name a readable file")
        if exposed is not None:
            fail(f"the password file {exposed}")
    password = read_password(path)
    if _PASSWORD.fullmatch(password) is None:
        fail(f"the first line of {path} is no password for such a file: write 12 to 128 printable ASCII characters")
    return password
