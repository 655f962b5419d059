"""``rhttp-pki worker``: run a worker in the foreground. It needs its bundle only, no home."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.common import Settings, common_options
from rhttp.worker.command import HELP, serve_bundle, worker_options


@click.command("worker", help=HELP)
@common_options
@worker_options
def worker_command(_settings: Settings, **given: Any) -> None:
    serve_bundle(**given)
