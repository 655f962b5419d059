"""Certificates as text for people: a line each where the screen is wide enough, else some lines each.

Names and serial numbers are never cut or broken: they are what the next command needs.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pki.inventory import CertificateRecord

__all__ = [
    "certificate_entry",
    "certificate_lines",
    "certificate_status",
    "expiring_within",
    "print_certificates",
    "stamp",
]

_TITLES = ("NAME", "ROLE", "POOL", "STATUS", "EXPIRES", "SERIAL", "LABELS")


def certificate_lines(records: Sequence[CertificateRecord], now: int, width: int | None) -> list[str]:
    """The lines; `width` is the screen's columns, None where nothing is cut (what is piped is for programs)."""
    if not records:
        return ["no certificates"]
    rows = [_TITLES, *(_cells(record, now) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]
    if width is None or max(map(len, table)) <= width:
        return table
    return [line for record in records for line in _block(record, now, width)]


def print_certificates(records: Sequence[CertificateRecord], now: int) -> None:
    """Print them as a table, to the width of the screen if it is one."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo("\n".join(certificate_lines(records, now, width)))


def expiring_within(records: Sequence[CertificateRecord], until: int) -> tuple[CertificateRecord, ...]:
    """Those that nobody revoked and that end by then, without those of a name that has one which ends later."""
    last: dict[tuple[str, str | None], int] = {}
    alive = [record for record in records if record.revoked_at is None]
    for record in alive:
        whose = (record.role.value, record.name)
        last[whose] = max(record.not_after, last.get(whose, 0))
    found = [record for record in alive if last[record.role.value, record.name] == record.not_after <= until]
    return tuple(sorted(found, key=lambda record: record.not_after))


def certificate_entry(record: CertificateRecord, now: int) -> dict[str, Any]:
    """The JSON object of one."""
    return {
        "serial": record.serial,
        "name": record.name,
        "role": record.role.value,
        "pool": record.pool,
        "labels": dict(record.labels),
        "status": certificate_status(record, now),
        "not_before": stamp(record.not_before),
        "not_after": stamp(record.not_after),
        "issued_at": stamp(record.issued_at),
        "revoked_at": None if record.revoked_at is None else stamp(record.revoked_at),
        "reason": record.reason,
        "fingerprint": record.fingerprint,
    }


def certificate_status(record: CertificateRecord, now: int) -> str:
    """``revoked``, ``expired`` or ``valid``."""
    if record.revoked_at is not None:
        return "revoked"
    return "expired" if now > record.not_after else "valid"


def stamp(at: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cells(record: CertificateRecord, now: int) -> tuple[str, ...]:
    status = certificate_status(record, now) + (f" ({record.reason})" if record.reason else "")
    labels = " ".join(f"{key}={value}" for key, value in sorted(record.labels.items()))
    role, pool = record.role.value, record.pool or "-"
    return record.name or "-", role, pool, status, stamp(record.not_after), record.serial, labels


def _block(record: CertificateRecord, now: int, width: int) -> list[str]:
    name, role, pool, status, expires, serial, labels = _cells(record, now)
    whose = role if record.pool is None else f"{role} of pool {pool}"
    wrapped = textwrap.wrap(labels, max(width - 2, 20), break_long_words=False, break_on_hyphens=False)
    return [name, *(f"  {line}" for line in (whose, f"{status}, until {expires}", f"serial {serial}", *wrapped))]
