"""The renewal of an agent's bundle by the agent itself (I/O): in a child, so that nothing it serves waits.

One at a time for all connections of the agent. It puts a new version into the bundle, which is then taken up as any
other: see `rhttp.worker.bundle_watch`. What fails is tried again, and each kind of trouble is told once for each
certificate.

Trust: see `rhttp.worker.est_renewal`. No log line has a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rhttp.worker.bundle import Bundle
from rhttp.worker.bundle_watch import span
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.renewal_child import RenewalChild
from rhttp.worker.renewal_schedule import RenewalSchedule

log = logging.getLogger("rhttp.agent")


class AutoRenewal:
    """Renews one bundle when it is time.

    Args:
        gateway: in place of what the bundle says.
        done: called in the loop, when the bundle may have changed.
        chance: uniform in [0, 1).
        clock: epoch seconds.
    """

    def __init__(
        self,
        place: Path,
        *,
        gateway: str | None,
        done: Callable[[], None],
        chance: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._gateway = gateway
        self._done = done
        self._clock = clock
        self._schedule = RenewalSchedule(chance)
        self._is_under_way = False
        self._child: RenewalChild | None = None
        self._is_over = False

    def look(self, bundle: Bundle, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a renewal when it is time for one; never waits."""
        if self._is_under_way or self._schedule.wait(bundle, date=self._clock(), elapsed=loop.time()):
            return
        self._is_under_way = True
        # The thread only waits for the child: `renewal_child` says why it does not ask itself.
        threading.Thread(target=self._run, args=(bundle, loop), name="renewal", daemon=True).start()

    def _run(self, bundle: Bundle, loop: asyncio.AbstractEventLoop) -> None:
        failure: EnrolmentFailed | None = None
        try:
            child = self._child = RenewalChild(self._place, self._gateway, bundle.serial)
            if self._is_over:
                child.end()
            child.wait()
        except EnrolmentFailed as error:
            failure = error
        except OSError as broken:
            message = f"the process that renews cannot be started: {broken.strerror}"
            failure = EnrolmentFailed("internal", message, is_passing=True)
        except Exception as fault:  # a bug must not end the renewals
            log.exception("a renewal failed")
            failure = EnrolmentFailed("internal", f"internal error ({type(fault).__name__})")
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody wants to know
            loop.call_soon_threadsafe(self._finished, bundle, loop, failure)

    def stop(self) -> None:
        """End what is under way."""
        self._is_over = True
        if (child := self._child) is not None:
            child.end()

    def _finished(self, bundle: Bundle, loop: asyncio.AbstractEventLoop, failure: EnrolmentFailed | None) -> None:
        self._is_under_way = False
        self._child = None
        if failure is None:
            self._done()
            return
        wait = self._schedule.failed(failure, bundle, date=self._clock(), elapsed=loop.time())
        if self._schedule.is_news(failure):
            log.warning("the certificate was not renewed: %s; next try in %s", failure, span(wait))
        else:
            log.debug("the certificate was not renewed: %s; next try in %s", failure, span(wait))
