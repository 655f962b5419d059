"""``rhttp-pki enroll``: get this machine a bundle with an enrolment token. It needs no home."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.common import Settings, common_options
from rhttp.worker.enroll_command import HELP, enroll_bundle, enroll_options


@click.command("enroll", help=HELP)
@common_options
@enroll_options
def enroll_command(_settings: Settings, **given: Any) -> None:
    enroll_bundle(**given)
