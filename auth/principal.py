"""Who asks: the principal of policies and of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PrincipalKind = Literal["Client", "Worker", "Master", "Token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified identity as policies see it. Hashable, so it can be part of a cache key.

    It proves nothing by itself: whoever builds one must hold the verified peer (or own the dispatch listener, or have
    been shown an enrolment token's secret).

    Args:
        kind: the Cedar entity type.
        name: the NAME of the certificate; of a token its id.
        pool: the pool of a worker's certificate, or that a token's workers get; None for the other kinds.
        labels: the labels of the certificate, or that a token gives, sorted by key, each key once.
        role: what a token makes, ``client``, ``worker`` or ``master``; None for the other kinds.
    """

    kind: PrincipalKind
    name: str
    pool: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    role: str | None = None

    @property
    def identity(self) -> str:
        """The form that ``[groups]``, the audit log and ``Rhttp-Identity`` use, such as ``client/alice``."""
        return f"{self.kind.lower()}/{self.name}"


LOCAL_MASTER: Final = Principal(kind="Master", name="local")
"""Whoever may open the dispatch listener."""
