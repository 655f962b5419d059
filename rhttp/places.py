"""Who goes when a listener's places are short: the oldest and most silent first, never one that waits for us.

A place is held by a connection that has not shown yet what it came for: on the TLS listener until its handshake is
done, on the others as long as it lives. Anybody may take one, so whoever takes many must lose his own first. A source
is an IPv4 address, or an IPv6 network of 64 bits, since a subscriber has a whole one.

Trust: pure; meets what strangers do.
"""

from __future__ import annotations

import enum
import ipaddress
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

KNOWN: Final = 4096
"""Sources that are remembered because a valid certificate came from there."""
PATIENCE: Final = 2.0
"""Seconds that a holder which owes us the next step may take for it when others want its place."""
HURRY: Final = 0.5
"""The same where its source holds more than its share: a round trip around the world, and then some."""


class Stage(enum.IntEnum):
    """How much a holder has shown; the lower, the sooner it goes."""

    LEAVING = 0
    """Refused already; it lingers so that it can read why."""
    SILENT = 1
    """Not a byte came."""
    BEGUN = 2
    """Its first message has begun and is not whole."""
    IDLE = 3
    """It was answered and has asked nothing more."""
    OWING = 4
    """It was answered in the middle of a handshake and owes the next step."""
    SERVED = 5
    """It is being served, or its bytes wait for us: never given up."""


class _Place:
    __slots__ = ("holder", "since", "source")

    def __init__(self, holder: Any, source: str, since: float) -> None:
        self.holder = holder
        self.source = source
        self.since = since


class Places:
    """The places of one listener. Their holders are hashable; what stage one has reached is asked when it matters."""

    __slots__ = ("_by_source", "_known", "_places", "_stage_of")

    def __init__(self, stage_of: Callable[[Any], int]) -> None:
        self._stage_of = stage_of
        self._places: dict[Any, _Place] = {}
        """In the order in which they came."""
        self._by_source: dict[str, dict[Any, _Place]] = {}
        self._known: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, holder: Any) -> bool:
        return holder in self._places

    def holders(self) -> list[Any]:
        """All that hold a place, in the order in which they came."""
        return list(self._places)

    def take(self, holder: Any, source: str, now: float) -> None:
        """It came, and holds a place from now on."""
        place = self._places[holder] = _Place(holder, source, now)
        own = self._by_source.get(source)
        if own is None:
            self._by_source[source] = {holder: place}
        else:
            own[holder] = place

    def leave(self, holder: Any) -> None:
        """It went, or needs no place any more."""
        place = self._places.pop(holder, None)
        if place is not None:
            own = self._by_source[place.source]
            del own[holder]
            if not own:
                del self._by_source[place.source]

    def know(self, holder: Any) -> None:
        """Remember where a holder came from: it has shown a valid certificate."""
        place = self._places.get(holder)
        if place is not None:
            known, source = self._known, place.source
            known.pop(source, None)
            known[source] = None
            if len(known) > KNOWN:
                del known[next(iter(known))]

    def dispensable_of(self, source: str, share: int, now: float) -> Any:
        """The holder that a source must give up for holding more than its share; None: it may have them all."""
        own = self._by_source.get(source)
        if own is None or len(own) <= share:
            return None
        found = self._ranked(own.values(), share, now)
        return found[0].holder if found else None

    def dispensable(self, most: int, share: int, now: float) -> list[Any]:
        """Up to so many holders that go when all places are taken, the first to go first.

        Those of a source with more than its share, then those of sources that nobody knows; among them the least far,
        and then the oldest. Whoever owes a step is left in peace for a moment, and who waits for us altogether.
        """
        return [place.holder for place in self._ranked(self._places.values(), share, now)[:most]]

    def _ranked(self, places: Iterable[_Place], share: int, now: float) -> list[_Place]:
        found: list[tuple[tuple[bool, bool, int, bool, float], _Place]] = []
        for place in places:
            stage = self._stage_of(place.holder)
            greedy = len(self._by_source[place.source]) > share
            if stage >= Stage.SERVED or (stage == Stage.OWING and now - place.since < (HURRY if greedy else PATIENCE)):
                continue
            rank = (stage != Stage.LEAVING, not greedy, stage, place.source in self._known, place.since)
            found.append((rank, place))
        found.sort(key=_rank_of)  # stable: of one age, who came first goes first
        return [place for _, place in found]


def _rank_of(entry: tuple[tuple[bool, bool, int, bool, float], _Place]) -> tuple[bool, bool, int, bool, float]:
    return entry[0]


def source_of(host: str) -> str:
    """The peer's address as the audit log has it: IPv4 that is mapped into IPv6 unmapped, without a zone."""
    if ":" not in host:
        return sys.intern(host)  # IPv4, as the kernel has it written; one text for all that come from there
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def network_of(source: str) -> str:
    """Whose places they are: an IPv4 address, or the first 64 bits of an IPv6 one. ``source`` as `source_of` gives."""
    if ":" not in source:
        return source
    return format(int(ipaddress.IPv6Address(source)) >> 64, "x") + "::/64"
