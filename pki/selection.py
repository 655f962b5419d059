"""Which certificates a command means: one name, one serial number, or all of a role, a pool, labels.

Pure: it makes conditions for a query and judges records; the inventory asks the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_

from pki.names import Role
from pki.tables import certificates

__all__ = ["Selection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Certificates by `name`, or by `serial` (lower-case hex), or by any of `role`, `pool` and `labels`, all of which
    must hold then.

    ValueError when it selects nothing or mixes these three.
    """

    name: str | None = None
    serial: str | None = None
    role: Role | None = None
    pool: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.name is not None) + (self.serial is not None) + self.is_wide != 1:
            raise ValueError("a name, a serial, or a role, pool and labels: one of them")

    @property
    def is_wide(self) -> bool:
        """Whether it may mean the certificates of many."""
        return self.role is not None or self.pool is not None or bool(self.labels)

    def condition(self) -> ColumnElement[bool]:
        """What the database can tell. `has_labels` tells the rest: labels are one text there."""
        columns = certificates.c
        wanted = {columns.name: self.name, columns.serial: self.serial, columns.pool: self.pool}
        if self.role is not None:
            wanted[columns.role] = self.role.value
        return and_(True, *(column == value for column, value in wanted.items() if value is not None))

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        """Whether a certificate with these labels is meant, as far as labels go."""
        return self.labels.items() <= labels.items()

    def __str__(self) -> str:
        if self.name is not None:
            return f"name {self.name}"
        if self.serial is not None:
            return f"serial {self.serial}"
        parts = [f"role {self.role.value}"] if self.role is not None else []
        parts += [f"pool {self.pool}"] if self.pool is not None else []
        return ", ".join([*parts, *(f"label {key}={value}" for key, value in sorted(self.labels.items()))])
