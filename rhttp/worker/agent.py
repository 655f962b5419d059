"""The agent: keeps a worker's reversed connections open, as many as it has slots, for ever (I/O).

No trouble is final: it dials again after a random, growing, capped pause, with the bundle's present files and a fresh
look at the gateway's address. While things fail, one dial at a time asks whether they still do.

Trust: I/O. Secrets stay in the session; log lines have none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.reversal.upgrade import PTTH_1_0, UpgradeVariant
from rhttp.timers import TimerWheel
from rhttp.tls.tls_link import TlsLink
from rhttp.worker.auto_renewal import AutoRenewal
from rhttp.worker.backoff import REFUSAL, TROUBLE, wait_before_retry
from rhttp.worker.bundle import Bundle
from rhttp.worker.bundle_watch import LOOK, BundleWatch, date
from rhttp.worker.dial import DialFailed, Dialling, Session, dial
from rhttp.worker.handler import LIMITS, Handler, answer_problem
from rhttp.worker.reversed import ReversedConnection, Status
from rhttp.worker.slots import Slots, as_slots
from rhttp.worker.turnover import Turnover

log = logging.getLogger("rhttp.agent")

_TICK: Final = 0.25
_DIALS: Final = 8
"""Dials at a time while all is well; while things fail it is one."""
_LIVED: Final = 2.0
"""Seconds after which a connection counts as good; one that served a request counts at once."""
_LOG_EVERY: Final = 60.0
"""Seconds between two lines about the same trouble."""


class Agent:
    """Keeps reversed connections to one pool of one gateway.

    >>> agent = Agent(handler, "bundles/w1", slots=4)     # doctest: +SKIP
    >>> await agent.start()                               # doctest: +SKIP
    >>> await agent.connected()                           # doctest: +SKIP
    >>> await agent.stop()                                # doctest: +SKIP

    Args:
        handler: serves the requests; the caller starts it before and stops it after the agent.
        bundle: the directory that ``rhttp-pki issue-worker`` made.
        gateway, pool: in place of what the bundle says.
        slots: how many requests at a time: a number, a callable that is asked a few times a second, or a `Slots`.
        variant: how to ask for the role switch.
        drain_timeout: seconds that `stop` gives to requests under way.
        renew: have the gateway renew the bundle at two thirds of its certificate's life, unless ``rhttp.toml`` says no.
        on_status: called when slots or troubles changed, in the loop; not for every request. With it, the log does not
            say that trouble is over.
        chance: uniform in [0, 1).
    """

    def __init__(
        self,
        handler: Handler,
        bundle: Path | str,
        *,
        gateway: str | None = None,
        pool: str | None = None,
        slots: int | Callable[[], int] | Slots = 1,
        variant: UpgradeVariant = PTTH_1_0,
        drain_timeout: float = 30.0,
        renew: bool = True,
        on_status: Callable[[Status], None] | None = None,
        limits: Http1Limits = LIMITS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._handler = handler
        self._watch = BundleWatch(Path(bundle), gateway=gateway, pool=pool)
        self._renewal: AutoRenewal | None = None
        if renew:
            self._renewal = AutoRenewal(Path(bundle), gateway=gateway, done=self._renewed, chance=chance)
        self._slots = as_slots(slots)
        self._drain_timeout = drain_timeout
        self._on_status = on_status
        self._limits = limits
        self._chance = chance
        self._variant = variant
        self._loop: asyncio.AbstractEventLoop
        self._wheel: TimerWheel
        self._dialling: Dialling
        self._is_prepared = False
        self._timer: asyncio.TimerHandle | None = None
        self._open: set[ReversedConnection] = set()
        self._turnover = Turnover(self._open)
        self._dials: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._wanted = 0
        self._served = 0
        self._failures = 0
        self._failed_at = 0.0
        self._retry_at = 0.0
        self._look_at = 0.0
        self._problem: str | None = None
        self._logged: tuple[str, float] = ("", 0.0)
        self._told: object = None
        self._is_running = False
        self._is_draining = False

    # ---- for users ----

    @property
    def bundle(self) -> Bundle:
        """The bundle in use; only after `start`."""
        return self._watch.session.bundle

    def prepare(self) -> None:
        """Read the bundle, so that a fault of it is told before anything else starts.

        Raises:
            BundleInvalid: the bundle cannot be used. Later changes that cannot be used are logged, and what was read
                before stays in use.
            DialFailed: OpenSSL does not take the bundle's certificate or key.
        """
        self._watch.read()
        self._is_prepared = True

    async def start(self) -> None:
        """Begin to dial; returns at once. The bundle is read if it was not; see `prepare`."""
        if not self._is_prepared:
            self.prepare()
        self._loop = asyncio.get_running_loop()
        self._wheel = TimerWheel(self._loop.time(), tick=_TICK)
        self._dialling = Dialling(
            wheel=self._wheel, limits=self._limits, variant=self._variant, instance=secrets.token_hex(8)
        )
        self._is_running = True
        self._slots.watch(self._adjust)
        self._tick()

    async def connected(self) -> None:
        """Wait until every slot is connected. It waits for ever while that is impossible; see `status`."""
        while self._is_running and self._count() < self._wanted:
            self._changed.clear()
            await self._changed.wait()

    async def stop(self) -> None:
        """Close idle connections, let busy ones finish, cut what is left after ``drain_timeout``. Idempotent."""
        if not self._is_running:
            return
        self._is_running, self._is_draining = False, True
        if self._renewal is not None:
            self._renewal.stop()
        for task in self._dials:
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for reversed_ in tuple(self._open):
            reversed_.retire(self._loop.time())
        self._tell()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_timeout):
                    while self._open:
                        self._changed.clear()
                        await self._changed.wait()
        finally:
            for reversed_ in tuple(self._open):
                reversed_.end.abort()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._tell()

    def status(self) -> Status:
        """What it is doing now."""
        return Status(
            wanted=self._wanted,
            open=self._count(),
            busy=sum(reversed_.is_busy for reversed_ in self._open),
            dialling=len(self._dials),
            served=self._served,
            problem=self._problem,
            draining=self._is_draining,
        )

    # ---- the beat ----

    def _count(self) -> int:
        return sum(reversed_.end.phase < Phase.LINGER for reversed_ in self._open)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._wheel.turn(now)
        for reversed_ in tuple(self._open):
            reversed_.beat(now)
        if self._failures and any(
            reversed_.opened > self._failed_at and (reversed_.served or now - reversed_.opened >= _LIVED)
            for reversed_ in self._open
        ):
            self._failures = 0
        if now >= self._look_at and self._is_running:
            self._look()
        self._adjust()

    def _beat(self) -> None:
        """Have the next tick come: soon while something is open, else when there is something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._open or self._dials or self._handler.orphans:
            self._timer = self._loop.call_later(_TICK, self._tick)
        elif self._is_running and (self._wanted or type(self._slots) is not Slots):
            wait = min(max(self._retry_at - self._loop.time(), _TICK), LOOK)
            self._timer = self._loop.call_later(wait if self._wanted else _TICK, self._tick)
        elif self._is_running and self._renewal is not None:
            self._timer = self._loop.call_later(LOOK, self._tick)  # its certificate is kept for when it serves again

    def _adjust(self) -> None:
        """Open and close connections until there are as many as there should be."""
        if self._is_running:
            busy = sum(reversed_.is_busy for reversed_ in self._open)
            try:
                self._wanted = self._slots.wanted(busy)
            except Exception:
                log.exception("the callable that gives the slots failed; %d stay", self._wanted)
            session = self._watch.session
            is_calm = not self._dials and not self._failures
            self._turnover.turn(session, self._wanted, self._loop.time(), is_calm=is_calm)
            count = self._count()
            goal = self._wanted + self._turnover.spare(session, self._wanted)
            if self._problem is not None and count >= goal:
                self._problem, self._logged = None, ("", 0.0)
                if self._on_status is None:  # else whoever hears it tells, and one line is enough
                    log.info("%d slots connected again to %s", count, session.bundle.gateway)
            missing = goal - count - len(self._dials) - self._handler.orphans
            if missing > 0:
                self._grow(missing)
            elif missing < 0:
                self._shrink(-missing)
        self._turnover.bound(self._wanted)
        self._beat()
        self._tell()

    def _grow(self, missing: int) -> None:
        now = self._loop.time()
        if now < self._retry_at:
            return
        self._look()
        # One asks whether things are still bad, and one fetches the first challenge, whose nonce serves all.
        room = (1 if self._failures or self._watch.session.is_unprimed() else _DIALS) - len(self._dials)
        self._wheel.turn(now)  # its deadlines count from its last turn
        for _ in range(min(missing, room)):
            task = self._loop.create_task(self._dial())
            self._dials.add(task)
            task.add_done_callback(self._dialled)

    def _shrink(self, surplus: int) -> None:
        """Give up dials first, then quiet connections, then busy ones after their answer, then those just used."""
        for task in tuple(self._dials)[:surplus]:
            task.cancel()
            surplus -= 1
        there = [one for one in self._open if one.end.phase < Phase.LINGER]
        surplus -= sum(one.is_retired for one in there)
        now = self._loop.time()
        # The gateway takes the longest idle slot next, so the other end of the row is the safe one to close.
        there.sort(key=lambda one: (not one.is_quiet(now), not one.is_busy, -one.used))
        for reversed_ in [one for one in there if not one.is_retired][: max(surplus, 0)]:
            reversed_.retire(now)

    # ---- dialling ----

    async def _dial(self) -> None:
        started = self._loop.time()
        session = self._watch.session
        try:
            await dial(session, self._dialling, lambda link, surplus: self._take(session, link, surplus))
        except DialFailed as error:
            self._failed(error, started)
        except Exception as error:  # a bug must not end the agent
            log.exception("dialling failed")
            self._failed(DialFailed("internal", f"internal error ({type(error).__name__})", pace=REFUSAL), started)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        if self._is_running:
            self._adjust()

    def _take(self, session: Session, link: TlsLink, surplus: bytes) -> None:
        """The gateway said 101: from here on it asks and we answer."""
        now = self._loop.time()
        reversed_ = ReversedConnection(self, session, now)
        end = reversed_.end = ServerEnd(reversed_, self._limits, self._wheel, is_patient=True)
        end.connection_made(link)  # type: ignore[arg-type]  # a Link
        self._open.add(reversed_)
        link.set_protocol(end)
        if surplus:
            end.data_received(surplus)

    def _failed(self, error: DialFailed, started: float) -> None:
        """Note a failure and when to try again. Dials that failed together are one failure."""
        now = self._loop.time()
        if error.code == "crowded" and self._count() >= self._wanted:
            self._turnover.crowd()  # it was one more than there are slots
            return
        if started >= self._failed_at:
            self._failures += 1
            self._failed_at = now
        wait = wait_before_retry(self._failures, error.pace, self._chance(), retry_after=error.retry_after)
        self._retry_at = max(self._retry_at, now + wait)
        expires = self._watch.session.bundle.expires
        message = str(error)
        if expires <= time.time() and error.code != "certificate":
            message += f"; by this machine's clock our certificate expired at {date(expires)}: rhttp-pki renew"
        self._problem = message
        if self._logged[0] != error.code or now - self._logged[1] >= _LOG_EVERY:
            self._logged = (error.code, now)
            log.warning("%s; next try in %.1f s", message, wait)
        else:
            log.debug("%s; next try in %.1f s", message, wait)

    def serve(self, reversed_: ReversedConnection, end: ServerEnd, head: RequestHead) -> None:
        """A request came."""
        self._served += 1
        reversed_.used = self._loop.time()
        if head.is_last:
            reversed_.is_retired = True  # the gateway says that it is the last
        self._turnover.bound(self._wanted)
        try:
            self._handler.handle(end, head)
        except Exception:
            log.exception("the handler failed")
            answer_problem(end, 500, "internal", "The worker failed")

    def closed(self, reversed_: ReversedConnection) -> None:
        """A reversed connection is gone: another takes its place, in a moment."""
        self._open.discard(reversed_)
        self._changed.set()
        if not self._is_running:
            return
        now = self._loop.time()
        if not reversed_.is_retired:
            if not reversed_.served and now - reversed_.opened < _LIVED:
                error = DialFailed("short-lived", "the gateway closed the connection right after the switch")
                self._failed(error, reversed_.opened)
            else:
                self._retry_at = max(self._retry_at, now + TROUBLE.first * self._chance())
        self._loop.call_soon(self._adjust)

    # ---- the bundle ----

    def _look(self) -> None:
        """Take up the bundle's files when they changed, and dial with them at once."""
        self._look_at = self._loop.time() + LOOK
        if self._watch.look():
            self._turnover.begin()
            self._retry_at = 0.0
        bundle = self._watch.session.bundle
        if self._renewal is not None and bundle.renew:
            self._renewal.look(bundle, self._loop)

    def _renewed(self) -> None:
        if self._is_running:
            self._look()
            self._adjust()

    # ---- telling ----

    def _tell(self) -> None:
        self._changed.set()
        if self._on_status is None:
            return
        now = (self._wanted, self._count(), self._problem, self._is_draining)
        if now != self._told:
            self._told = now
            try:
                self._on_status(self.status())
            except Exception:
                log.exception("the status callback failed")
