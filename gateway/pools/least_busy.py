"""Which worker comes first: workers with a free slot, by how busy they are and how long they have been idle.

They stand in *levels* by how many requests they serve, and within a level in the order in which they came there; so the
least busy worker is first, then the longest idle.

Trust: pure.
"""

from __future__ import annotations

from typing import Protocol

from gateway.exchange.ends import Addressee
from rhttp.ends import ResponseEnd

Label = tuple[str, str]


class SlotSource(Protocol):
    """A worker's connection: it opens response ends, as many at a time as it has slots."""

    def open(self) -> ResponseEnd:
        """An end for the request that a slot was leased for."""


class Slot:
    """One place for one request. Plain class with slots: there is one for every idle connection."""

    __slots__ = ("busy", "gone", "instance", "retired", "serving", "source", "worker")

    def __init__(self, worker: Worker, source: SlotSource, instance: str | None) -> None:
        self.worker = worker
        self.source = source
        self.instance = instance
        self.busy = False
        self.gone = False
        self.retired = False
        """Superseded: it serves what it has and takes nothing new."""
        self.serving = False
        """Its request is under way."""

    def open(self) -> ResponseEnd:
        """An end for the request that it was leased for."""
        self.serving = True
        return self.source.open()

    @property
    def addressee(self) -> Addressee:
        """Its worker."""
        worker = self.worker
        known = worker.addressee
        if known is None:
            known = worker.addressee = Addressee(worker.name, worker.suffix)
        return known


class Place:
    """Where one worker stands in a ring of workers, or a ring's own end."""

    __slots__ = ("after", "before", "worker")

    def __init__(self, worker: Worker | None) -> None:
        self.worker = worker
        self.after: Place | None = None
        self.before: Place | None = None


class Worker:
    """A worker's slots in one pool."""

    __slots__ = (
        "addressee",
        "busy",
        "idle",
        "instances",
        "label_places",
        "labels",
        "level",
        "name",
        "place",
        "protocol",
        "since",
        "slots",
        "suffix",
    )

    def __init__(self, name: str, labels: tuple[Label, ...], protocol: str, since: float, suffix: bytes) -> None:
        self.name = name
        self.suffix = suffix
        """What follows its name in its authority."""
        self.addressee: Addressee | None = None
        """Made for its first request."""
        self.labels = labels
        self.protocol = protocol
        self.since = since
        """Epoch seconds of its first present connection."""
        # Lists, since a worker has few and an empty deque or set costs more than all the rest of it.
        self.slots: list[Slot] = []
        self.idle: list[Slot] = []
        """Longest idle first."""
        self.busy = 0
        self.level: int | None = None
        """Where it stands; None: nowhere, since no slot of it is free."""
        self.instances: dict[str, float] = {}
        """Those that have a connection here, and the second of `rhttp.clock` at which each was first seen."""
        self.place = Place(self)
        self.label_places = tuple([Place(self) for _ in labels])


class Levels:
    """Workers with a free slot, by how busy they are: a ring for each number of requests.

    Rings of their own rather than ordered dictionaries: a dispatch to one of ten thousand workers then touches the
    worker and its two neighbours, and nothing that grows with the pool.
    """

    __slots__ = ("_low", "_rings")

    def __init__(self) -> None:
        self._rings: list[Place] = []
        self._low = 0

    def add(self, place: Place, level: int) -> None:
        """Put a worker, which stands nowhere, at the end of a level."""
        rings = self._rings
        while len(rings) <= level:
            end = Place(None)
            end.after = end.before = end
            rings.append(end)
        end = rings[level]
        last = end.before
        assert last is not None
        place.before = last
        place.after = end
        last.after = end.before = place
        if level < self._low:
            self._low = level

    @staticmethod
    def discard(place: Place) -> None:
        """Take a worker out of the level that it stands in."""
        before, after = place.before, place.after
        if before is not None and after is not None:
            before.after = after
            after.before = before
            place.before = place.after = None

    def first(self, not_again: str | None = None) -> Worker | None:
        """The least busy worker, longest in its level; None when no slot is free but perhaps one of ``not_again``."""
        rings = self._rings
        count = len(rings)
        low = self._low
        while low < count and rings[low].after is rings[low]:
            low += 1
        self._low = low if low < count else 0
        while low < count:
            place = rings[low].after
            while place is not None and (worker := place.worker) is not None:
                if worker.name != not_again:
                    return worker
                place = place.after
            low += 1
        return None
