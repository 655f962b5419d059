"""Many refusals of one kind become one line a second: the table behind it.

Trust: untrusted client + untrusted worker (a stranger chooses how many sources there are). Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_KINDS: Final = 1024  # (source, reason) pairs in one second; what comes on top shares one entry for each reason
_MAX_REASONS: Final = 64
_KEPT: Final = ("source", "listener", "outcome", "reason", "status", "process")

Entry = tuple[str, dict[str, object]]  # event, fields


class _Kind:
    """What happened with one (source, reason) in one second; plain slots, it is made under attack."""

    __slots__ = ("event", "fields", "folded", "seen")

    def __init__(self, event: str, fields: dict[str, object]) -> None:
        self.event = event
        self.fields = fields
        self.seen = 0
        self.folded = 0


def fold_source(source: str) -> str:
    """The address of ``host:port``, ``[v6]:port`` or an address alone: ports do not make another source."""
    if source.startswith("["):
        return source[1:].partition("]")[0]
    host, colon, port = source.rpartition(":")
    return host if colon and ":" not in host and port.isdigit() else source


class RefusalFolder:
    """Lets the first ``fold_after`` refusals of a (source, reason) in a second through, counts the others.

    The counted ones come out of `due` (or of the next second's first refusal) as one line whose ``count`` says how many
    it stands for; the lines that went through are not counted again. Memory is bounded by `MAX_KINDS`.
    """

    def __init__(self, fold_after: int = 10) -> None:
        self._fold_after = fold_after
        self._second = -1
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def configure(self, fold_after: int) -> None:
        """Let another number of refusals a second through."""
        self._fold_after = fold_after

    def refuse(self, event: str, fields: Mapping[str, object], now: float) -> list[Entry]:
        """What to write now: older counted lines when a new second began, then this refusal unless it was counted.

        ``now`` is in seconds, of any clock that does not jump back far.
        """
        entries = self.due(now)
        reason = str(fields.get("reason", ""))
        key = (fold_source(str(fields.get("source", ""))), f"{event} {reason}")
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._admit(key, event, fields)
        kind.seen += 1
        if kind.seen <= self._fold_after:
            entries.append((event, dict(fields)))
        else:
            kind.folded += 1
        return entries

    def due(self, now: float) -> list[Entry]:
        """The counted lines of seconds that are over; call it once a second."""
        second = int(now)
        if second == self._second:
            return []
        self._second = second
        return self.flush()

    def flush(self) -> list[Entry]:
        """Every counted line there is, the running second's too: for the end of a process."""
        entries: list[Entry] = [
            (kind.event, {**kind.fields, "count": kind.folded}) for kind in self._kinds.values() if kind.folded
        ]
        self._kinds.clear()
        return entries

    def _admit(self, key: tuple[str, str], event: str, fields: Mapping[str, object]) -> _Kind:
        kept: dict[str, object] = {name: fields[name] for name in _KEPT if name in fields}
        if "source" in kept:
            kept["source"] = key[0]
        if len(self._kinds) >= MAX_KINDS:
            kept.pop("source", None)
            key = ("", key[1])
            if len(self._kinds) >= MAX_KINDS + _MAX_REASONS and key not in self._kinds:
                key = ("", "")
                kept = {"reason": "many"}
            shared = self._kinds.get(key)
            if shared is not None:
                return shared
        kind = self._kinds[key] = _Kind(event, kept)
        return kind
