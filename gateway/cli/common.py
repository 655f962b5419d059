"""What every command shares: the home and passphrase options, and how a failure is told.

Exit status: 0 done, 1 refused or failed (one clear line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from rhttp.worker.secret_file import exposure
from rhttp.worker.text_file import NotText, first_line

if TYPE_CHECKING:
    from gateway.home.session import HomeSession

R = TypeVar("R")

_MAX_PASSPHRASE_FILE = 1 << 20


@dataclass(slots=True)
class Settings:
    """Options that every command takes, wherever on the command line they stand."""

    home: Path = Path("rhttp-home")
    passphrase_file: Path | None = None
    given: set[str] = field(default_factory=set)
    """Which of the two stood on the command line."""

    def passphrase(self) -> bytes | None:
        """The passphrase: the file's first line, without its line end; None when no file was named.

        Raises:
            Failure: the file cannot be read, is open to others (`rhttp.worker.secret_file`), or its first line is
            empty.
        """
        path = self.passphrase_file
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                exposed = exposure(path, file.fileno())
                line = first_line(file.read(_MAX_PASSPHRASE_FILE))
        except OSError as error:
            fail(f"cannot read the passphrase file {path}: {error.strerror}; name a readable file")
        except NotText as error:
            fail(f"the passphrase file {path} {error}")
        if exposed is not None:
            fail(f"the passphrase file {exposed}")
        if not line:
            fail(f"the passphrase file {path} starts with an empty line; put the passphrase there")
        return line


class Failure(click.ClickException):
    """A command that was refused or failed: its one line goes to stderr, exit status 1."""

    exit_code = 1


def fail(message: str) -> NoReturn:
    """End the command with exit status 1 and one line that says what, why and the mend."""
    raise Failure(" ".join(message.split()))


def open_session(settings: Settings, *, locks_out: bool = False) -> HomeSession:
    """The home, open for a command, with what is to be said of it told."""
    passphrase = settings.passphrase()
    # Imported late: a command that is refused by its options must not wait for the libraries.
    from gateway.home.layout import Home
    from gateway.home.session import HomeSession

    session = HomeSession(Home(settings.home), passphrase, locks_out=locks_out)
    if session.warning is not None:
        click.echo(f"warning: {session.warning}", err=True)
    return session


def tell_gateway(session: HomeSession, path: str, *, must: bool) -> int | None:
    """`HomeSession.tell_gateway`; a gateway that does not confirm is a failure if it ``must``, else a note."""
    from gateway.home.session import GatewayUnreachable

    try:
        return session.tell_gateway(path)
    except GatewayUnreachable as error:
        if must:
            raise
        # It looks at the state twice a second by itself.
        click.echo(f"note: {error}", err=True)
        return None


def _set(name: str) -> Callable[[click.Context, click.Parameter, Path | None], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
        settings = context.ensure_object(Settings)
        if value is None or parameter.name is None:
            return
        source = context.get_parameter_source(parameter.name)
        if source is ParameterSource.ENVIRONMENT and name in settings.given:
            return  # the option stood before the command's name, and an option beats the environment
        if source is ParameterSource.COMMANDLINE:
            settings.given.add(name)
        setattr(settings, name, value)

    return callback


def common_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--home`` and ``--passphrase-file``; the command gets them as its first argument, a `Settings`."""

    @click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="RHTTP_PKI_HOME",
        expose_value=False,
        is_eager=True,
        callback=_set("home"),
        help="The home directory (RHTTP_PKI_HOME; default ./rhttp-home).",
    )
    @click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="RHTTP_PKI_PASSPHRASE_FILE",
        expose_value=False,
        is_eager=True,
        callback=_set("passphrase_file"),
        help="A file whose first line unseals the keys (RHTTP_PKI_PASSPHRASE_FILE).",
    )
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, /, *args: Any, **kwargs: Any) -> R:
        return command(context.ensure_object(Settings), *args, **kwargs)

    return wrapped
