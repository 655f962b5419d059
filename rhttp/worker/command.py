"""The command of a worker: ``rhttp-worker`` where `rhttp` is installed alone, ``rhttp-pki worker`` beside the gateway.

Both are this module, so what one takes and tells, the other does. It needs its bundle only. The password and the key
stay in the bundle's files; nothing secret is in the arguments or in what is written.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rhttp import build
from rhttp.worker.output import fail, run_program, version_option

if TYPE_CHECKING:
    from rhttp.worker.reversed import Status
    from rhttp.worker.worker import Worker

__all__ = ["HELP", "main", "serve_bundle", "worker_options"]

F = TypeVar("F", bound=Callable[..., Any])

HELP = """Run a worker with the BUNDLE that `rhttp-pki issue-worker` made.

It dials the gateway, authenticates, switches roles and serves; it dials again for ever, whatever happens. Tells on
stdout when all slots are connected, everything else on stderr. SIGTERM and SIGINT let requests under way finish and
end with status 0; a second one ends at once.
"""

_LEVELS = {logging.DEBUG: "debug: ", logging.INFO: "", logging.WARNING: "warning: ", logging.ERROR: "error: "}

_OPTIONS = (
    click.argument("bundle", type=click.Path(path_type=Path, file_okay=False)),
    click.option(
        "--forward", metavar="URL", help="Forward to a local server: http://HOST:PORT[/PREFIX] or unix:/PATH."
    ),
    click.option("--app", "application", metavar="MODULE:ATTR", help="Serve an ASGI application of this Python."),
    click.option("--gateway", metavar="URL", help="The gateway, https://HOST[:PORT], instead of the bundle's."),
    click.option("--pool", metavar="POOL", help="The pool, instead of the bundle's."),
    click.option("--slots", type=click.IntRange(1, 4096), default=1, show_default=True, help="Requests at a time."),
    click.option("--protocol", default="ptth/1.0", show_default=True, help="How to ask for the switch of roles."),
    click.option("--keep-host", is_flag=True, help="With --forward: leave the Host field as it came."),
    click.option(
        "--drain-timeout",
        type=click.FloatRange(0, 86400),
        default=30.0,
        show_default=True,
        help="Seconds that requests under way have after SIGTERM.",
    ),
    click.option("--no-renew", is_flag=True, help="Leave it to others to renew the bundle."),
    click.option("--verbose", is_flag=True, help="Tell every try."),
)


def worker_options(command: F) -> F:
    """Add the argument and the options of a worker: the parameters of `serve_bundle`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def serve_bundle(
    *,
    bundle: Path,
    forward: str | None,
    application: str | None,
    gateway: str | None,
    pool: str | None,
    slots: int,
    protocol: str,
    keep_host: bool,
    drain_timeout: float,
    no_renew: bool,
    verbose: bool,
) -> None:
    """Be a worker until a signal ends it.

    Raises:
        click.UsageError: the options contradict each other, or one cannot be read.
        click.ClickException: the bundle cannot be used, or the application does not start.
    """
    if (forward is None) == (application is None):
        raise click.UsageError("give either --forward URL or --app MODULE:ATTR")
    if clash := build.find_clash():
        fail(clash)
    # Here, not above: whoever asks for help needs none of it.
    from rhttp.worker.asgi import AsgiHandler
    from rhttp.worker.bundle import BundleInvalid
    from rhttp.worker.dial import DialFailed
    from rhttp.worker.forwarder import Forwarder
    from rhttp.worker.handler import Handler
    from rhttp.worker.lifespan import LifespanFailed
    from rhttp.worker.worker import Worker, find_variant, run_worker

    _log_to_stderr(verbose)
    handler: Handler
    try:
        find_variant(protocol)
        handler = (
            Forwarder(forward, keep_host=keep_host) if forward is not None else AsgiHandler(_load(application or ""))
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    teller = _StatusPrinter()
    worker = Worker(
        handler,
        bundle,
        gateway=gateway,
        pool=pool,
        slots=slots,
        protocol=protocol,
        drain_timeout=drain_timeout,
        renew=not no_renew,
        on_status=teller.status,
    )
    teller.worker = worker
    try:
        run_worker(worker)
    except (BundleInvalid, DialFailed, LifespanFailed) as error:
        fail(str(error))


def _load(name: str) -> Any:
    """The application ``module:attribute``, looked for in the current directory too."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise click.UsageError(f"{name!r}: an application is given as MODULE:ATTR, like jobs:app")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        fail(f"cannot import {module}: there is no module {error.name}; start from its directory, or install it")
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        fail(f"{module} has no application {attribute}; name the attribute that holds it")
    return found


class _StatusPrinter:
    """Tells on stdout when all slots are connected: at first, and again when all were lost or trouble was told.

    One connection that is replaced by another, as when a certificate was renewed, is nobody's news.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._is_due = True

    def status(self, status: Status) -> None:
        """Called when something changed."""
        if not status.open or status.problem is not None:
            self._is_due = True
        elif self._is_due and status.open >= status.wanted and self.worker is not None and not status.draining:
            self._is_due = False
            bundle = self.worker.bundle
            count = f"{status.open} slot{'' if status.open == 1 else 's'}"
            click.echo(f"worker {bundle.name}: {count} connected to {bundle.gateway} pool {bundle.pool}")  # flushes


class _Lines(logging.Formatter):
    """One line a record: ``worker: warning: …``; tracebacks of the application follow their line."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"worker: {_LEVELS.get(record.levelno, '')}{' '.join(record.getMessage().split())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    log = logging.getLogger("rhttp")
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


@click.command("rhttp-worker", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("rhttp-worker")
@worker_options
def worker_command(**given: Any) -> None:
    serve_bundle(**given)


def main() -> None:
    """The entry point of ``rhttp-worker``."""
    run_program(worker_command, "rhttp-worker")


if __name__ == "__main__":
    main()
