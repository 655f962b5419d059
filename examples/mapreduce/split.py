"""From texts and slots to units: how many, cut where, and with which wish for a place.

Units are neighbours: their texts, put together in order, are the texts of the job. So results can be joined in order,
whatever each worker takes. A job is not cut at once: `Rest` gives units for the slots that are free, each the share of
one slot of all, and what is left is cut when more slots come free. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from mapreduce.texts import Text

MAX_UNITS = 256
MIN_UNIT = 4096
"""Characters that are worth a unit of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSlots:
    """A worker as the gateway shows it."""

    name: str
    free: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Free slots of one place. `label` is ``key=value`` of the workers there, None for anywhere."""

    label: str | None
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One part of a job, for one request to a worker."""

    index: int
    texts: tuple[Text, ...]
    label: str | None = None


class Rest:
    """What of a job is not yet cut into units."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts = tuple(texts)
        self._whole = self._size = size_of(texts)
        self._made = 0

    @property
    def is_empty(self) -> bool:
        """Whether all of it was taken. A job without a character has one unit all the same."""
        return self._made > 0 and self._size == 0

    def take(self, lanes: Sequence[Lane], *, slots: int, total: int) -> tuple[Unit, ...]:
        """Units for so many free slots of `total`; the last ones are smaller, but none is smaller than a quarter share.

        Small units at the end let all slots end at about the same time, whatever slots come and go meanwhile; the
        bound keeps their number below some five for each slot, and below `MAX_UNITS` in any case.
        """
        room = MAX_UNITS - self._made
        share = max(-(-self._size // max(total, slots)), -(-self._whole // (4 * max(total, slots))), MIN_UNIT)
        if slots >= room:  # the last units there may be: they are all that is left
            slots, wanted = max(1, room), self._size
        else:
            wanted = min(self._size, share * slots)
        part, self._texts = _cut_at(self._texts, wanted)
        self._size = size_of(self._texts)
        units = split(part, lanes, slots=slots)
        first, self._made = self._made, self._made + len(units)
        return tuple(replace(unit, index=first + unit.index) for unit in units)


def size_of(texts: Sequence[Text]) -> int:
    """Characters."""
    return sum(len(text.text) for text in texts)


def _cut_at(texts: tuple[Text, ...], size: int) -> tuple[tuple[Text, ...], tuple[Text, ...]]:
    """The first so many characters, up to the end of their last line, and what follows."""
    for index, text in enumerate(texts):
        if len(text.text) < size:
            size -= len(text.text)
            continue
        head, tail = text.cut(_line_end(text.text, size)) if size else (text, Text(name=text.name, text=""))
        rest = texts[index + 1 :]
        return (*texts[:index], head), ((tail, *rest) if tail.text else rest)
    return texts, ()


def find_lanes(workers: Sequence[WorkerSlots], spread: Sequence[str], slots: int) -> tuple[Lane, ...]:
    """The places that a job is spread over: by the first label of `spread` that any worker here has.

    `slots` is what a job without places may use; it is never less than one, so that a job waits for a slot when there
    is none now.
    """
    for key in spread:
        free: dict[str | None, int] = {}
        for worker in workers:
            if worker.free:
                label = f"{key}={worker.labels[key]}" if key in worker.labels else None
                free[label] = free.get(label, 0) + worker.free
        if any(label is not None for label in free):
            ranked = sorted(free.items(), key=lambda entry: (entry[0] is None, entry[0] or ""))
            return tuple(Lane(label=label, slots=count) for label, count in ranked)
    return (Lane(label=None, slots=max(1, slots)),)


def split(texts: Sequence[Text], lanes: Sequence[Lane], *, slots: int, max_units: int = MAX_UNITS) -> tuple[Unit, ...]:
    """Cut texts into about `slots` units of about equal size, each lane getting its share of neighbours.

    Text is cut behind the end of a line only, so a long line may make a unit larger and leave fewer of them. There is
    always one unit at least, and never one without text, unless no text has a character.
    """
    size = size_of(texts)
    wanted = max(1, min(slots, max_units, -(-size // MIN_UNIT)))
    parts = [part for part in _cut(texts, size, wanted) if part] or [tuple(texts)]
    bounds = list(accumulate(lane.slots for lane in lanes))
    return tuple(
        Unit(index=index, texts=part, label=lanes[_lane(bounds, index, len(parts))].label)
        for index, part in enumerate(parts)
    )


def _lane(bounds: Sequence[int], index: int, count: int) -> int:
    """The lane of the unit: where its middle falls when all lanes lie behind each other."""
    return min(bisect_right(bounds, (2 * index + 1) * bounds[-1] / (2 * count)), len(bounds) - 1)


def _cut(texts: Sequence[Text], size: int, wanted: int) -> Iterator[tuple[Text, ...]]:
    part: list[Text] = []
    passed, made = 0, 1  # characters before the text in hand; parts begun
    for text in texts:
        while True:
            goal = -(-size * made // wanted) - passed  # where in this text the part in hand should end
            if made == wanted or goal > len(text.text):
                break
            if goal <= 0:  # a long line went past it
                made += 1
                continue
            end = _line_end(text.text, goal)
            head, text = text.cut(end)
            passed += end
            yield tuple([*part, head] if head.text else part)
            part = []
            made += 1
        if text.text:
            part.append(text)
            passed += len(text.text)
    yield tuple(part)


def _line_end(text: str, at: int) -> int:
    """The first place at or behind `at` where a line ends; the text's own end at the last."""
    return text.find("\n", at - 1) + 1 or len(text)
