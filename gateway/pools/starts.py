"""Starts of one worker, told apart by the instance that each names: which is newer, and which was superseded.

Two running workers with one bundle would throw each other off for ever if whoever dials last were the newest. So the
order in which instances were first seen is kept for workers that have more than one, also while an instance has no
connection: the older start stays the older, is refused while the newer one that took over is there, and may come back
when that has been gone for a while.

Trust: pure. Times are seconds of `rhttp.clock`, and arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

ABSENCE: Final = 30.0
"""Seconds for which a start that took over may be without a connection before an older one may come back."""
KEPT: Final = 3600.0
"""Seconds for which the order of a worker's starts is kept while nothing is heard of any of them."""
MAX_WORKERS: Final = 16384
"""Workers of a pool whose order is kept; beyond it the one that was not heard of for longest is forgotten."""
MAX_STARTS: Final = 64
"""Starts of one worker that are remembered, beside those that have connections."""
_NEVER: Final = float("inf")


class Order:
    """The starts of one worker."""

    __slots__ = ("current", "gone", "seen", "touched")

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        """When each was first seen."""
        self.current: str | None = None
        """The newest that was seen serving: it supersedes all that are older."""
        self.gone = _NEVER
        """Since when the current one has no connection."""
        self.touched = 0.0

    def note(self, instance: str, since: float) -> None:
        """An instance was seen then; the earliest time counts, since processes see it at different ones."""
        self.seen[instance] = min(since, self.seen.get(instance, since))

    def is_older(self, instance: str) -> bool:
        """Whether the current one supersedes it."""
        current = self.current
        if current is None or instance == current or instance not in self.seen:
            return False
        # By name when the times are the same, so that all processes say the same.
        return (self.seen[instance], instance) < (self.seen[current], current)

    def trim(self, present: Mapping[str, float]) -> None:
        """Forget the oldest ones without a connection beyond the bound."""
        if len(self.seen) > MAX_STARTS:
            absent = [one for one in self.seen if one not in present and one != self.current]
            for instance in sorted(absent, key=self.seen.__getitem__)[: len(self.seen) - MAX_STARTS]:
                del self.seen[instance]


class Starts:
    """The order of starts for the workers of one pool that have more than one.

    ``present`` is always: the instances of the worker that have a connection, in any process, and when each was first
    seen.
    """

    __slots__ = ("_orders",)

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def came(self, worker: str, instance: str, since: float, present: Mapping[str, float], now: float) -> float:
        """An instance has its first connection in a process; answer when it was first seen."""
        order = self._order(worker, instance, present, now)
        if order is None:
            return min(since, present.get(instance, since))
        order.note(instance, since)
        if instance == order.current:
            order.gone = _NEVER
        return order.seen[instance]

    def left(self, worker: str, instance: str, present: Mapping[str, float], now: float) -> None:
        """An instance had its last connection in a process."""
        order = self._orders.get(worker)
        if order is not None and instance == order.current and instance not in present:
            order.gone = now

    def served(self, worker: str, instance: str, since: float, present: Mapping[str, float], now: float) -> None:
        """An instance, first seen at ``since``, was seen serving: it supersedes the older ones."""
        order = self._order(worker, instance, present, now)
        if order is None:
            return
        order.note(instance, since)
        if not order.is_older(instance):
            order.current = instance
            order.gone = _NEVER if instance in present else now

    def is_older(self, worker: str, instance: str) -> bool:
        """Whether an instance was superseded."""
        order = self._orders.get(worker)
        return order is not None and order.is_older(instance)

    def newer(self, worker: str, instance: str, now: float) -> str | None:
        """An instance dials: the one that superseded it, for which it has to stay away; None: it may come."""
        order = self._orders.get(worker)
        if order is None or not order.is_older(instance):
            return None
        self._touch(worker, order, now)
        if now - order.gone < ABSENCE:
            return order.current
        if order.current is not None:
            del order.seen[order.current]  # whatever comes under its name is a new start
            order.current, order.gone = None, _NEVER
        return None

    def orders(self) -> Iterator[tuple[str, str | None, Mapping[str, float]]]:
        """Each worker, its current instance, and when each was first seen: for a process that knows nothing yet."""
        for worker, order in self._orders.items():
            yield worker, order.current, order.seen

    def learn(
        self, worker: str, current: str | None, seen: Mapping[str, float], present: Mapping[str, float], now: float
    ) -> None:
        """What another process remembers."""
        for instance, since in seen.items():
            self.came(worker, instance, since, {**present, **seen}, now)
        if current is not None and current in seen:
            self.served(worker, current, seen[current], present, now)

    def _order(self, worker: str, instance: str, present: Mapping[str, float], now: float) -> Order | None:
        """The order of a worker's starts; None while it has one only: then there is nothing to remember."""
        order = self._orders.get(worker)
        if order is None:
            if not any(other != instance for other in present):
                return None
            order = Order()
        for other, since in present.items():
            order.note(other, since)
        order.trim(present)
        self._touch(worker, order, now)
        return order

    def _touch(self, worker: str, order: Order, now: float) -> None:
        """Put it at the end, and forget from the front."""
        orders = self._orders
        orders.pop(worker, None)
        orders[worker] = order
        order.touched = now
        while True:
            first = next(iter(orders))
            if len(orders) <= MAX_WORKERS and orders[first].touched >= now - KEPT:
                return
            del orders[first]
