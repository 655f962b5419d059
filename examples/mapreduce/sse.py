"""Server-sent events (WHATWG HTML, section 9.2), as much of them as a gateway sends. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MAX_PENDING = 64 * 1024


class EventsInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """What came is no stream of events, or an event of it is larger than any that a gateway sends."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: str


class EventParser:
    """Bytes in, events out, however the bytes are cut. At most 64 KiB wait for the end of an event."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete now; raises `EventsInvalid`."""
        *blocks, self._pending = (self._pending + data.replace(b"\r", b"")).split(b"\n\n")
        if len(self._pending) > _MAX_PENDING:
            raise EventsInvalid("an event without an end")
        for block in blocks:
            event = _parse(block)
            if event is not None:
                yield event


def _parse(block: bytes) -> Event | None:
    name, data = "message", []
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError:
        raise EventsInvalid("not UTF-8") from None
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return Event(name, "\n".join(data)) if data else None
