"""What commands that issue share: reading a signing request, and telling what was issued."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.common import fail
from gateway.cli.listing import stamp

if TYPE_CHECKING:
    from gateway.home.session import HomeSession
    from pki.inventory import CertificateRecord

__all__ = ["read_request", "say_issued"]

_MAX_CSR = 1 << 16


def read_request(path: Path | None) -> bytes | None:
    """The content of a signing request's file, None without one."""
    if path is None:
        return None
    with path.open("rb") as file:
        data = file.read(_MAX_CSR + 1)
    if len(data) > _MAX_CSR:
        fail(f"{path} is too large for a signing request")
    return data


def say_issued(session: HomeSession, record: CertificateRecord, where: str) -> None:
    """One line, and a note when the CA that issued it ends soon."""
    who = record.role.value if record.name is None else f"{record.role.value} {record.name}"
    click.echo(f"{who}: certificate {record.serial}, valid until {stamp(record.not_after)}, {where}")
    ending = session.ending_authority(record.role, datetime.now(UTC))
    if ending is not None:
        click.echo(f"note: {ending}", err=True)
