"""The bundle that an agent works with: read at first, looked at again, and told of when its certificate ends (I/O).

It is looked at by `stat`, which costs some microseconds and works on every file system. What cannot be used is told
once, and what was read before stays in use.

Trust: the files are the operator's. No log line has a secret.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rhttp.worker.bundle import BundleInvalid, bundle_stamp, load_bundle
from rhttp.worker.dial import DialFailed, Session
from rhttp.worker.renewal_schedule import SHORT

log = logging.getLogger("rhttp.agent")

LOOK: Final = 5.0
"""Seconds between two looks at the bundle's files."""
_SOONEST: Final = 60.0
"""Seconds between two lines about it, at least."""
_ENDED_EVERY: Final = 3600.0
"""Seconds between two lines about a certificate that has ended."""


class BundleWatch:
    """One bundle, as it was read last.

    Args:
        gateway, pool: in place of what the bundle says.
        clock: epoch seconds, which certificates are told by.
    """

    def __init__(
        self,
        place: Path,
        *,
        gateway: str | None = None,
        pool: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._gateway, self._pool = gateway, pool
        self._clock = clock
        self.session: Session
        """What connections are made with from now on; only after `read`."""
        self._refused: object = None
        self._told_of = 0.0
        """The end of the certificate that was spoken of last."""
        self._next_line = 0.0
        """Seconds before its end, negative behind it, at which it is spoken of again."""

    def read(self) -> None:
        """Read it for the first time.

        Raises:
            BundleInvalid, DialFailed: it cannot be used.
        """
        self.session = Session(load_bundle(self._place, gateway=self._gateway, pool=self._pool))

    def look(self) -> bool:
        """Take the files up when they changed; answer whether that gave another session."""
        bundle = self.session.bundle
        stamp = bundle_stamp(self._place)
        is_new = False
        if stamp not in (bundle.stamp, self._refused):
            try:
                self.session = Session(load_bundle(self._place, gateway=self._gateway, pool=self._pool))
            except (BundleInvalid, DialFailed) as error:
                self._refused = stamp
                log.warning("the bundle changed and cannot be used, the old one stays in use: %s", error)
            else:
                self._refused = None
                is_new = True
                bundle = self.session.bundle
                log.info("the bundle changed; its certificate is now %s, until %s", bundle.serial, date(bundle.expires))
        self._remind()
        return is_new

    def _remind(self) -> None:
        """Say that time is short: first at a third of the life, then whenever half of what was left has gone."""
        bundle = self.session.bundle
        left = bundle.expires - self._clock()
        if self._told_of != bundle.expires:
            self._told_of, self._next_line = bundle.expires, bundle.lifetime / SHORT
        if left > self._next_line:
            return
        if left > 0:
            half = left / 2
            self._next_line = half if half >= _SOONEST else 0.0
            log.warning(
                "the certificate in %s expires in %s, at %s: rhttp-pki renew; a new one there is taken up by itself",
                self._place,
                span(left),
                date(bundle.expires),
            )
        else:
            self._next_line = left - _ENDED_EVERY
            log.warning(
                "the certificate in %s expired at %s, and the gateway lets nobody in by it: rhttp-pki renew; "
                "a new one there is taken up by itself",
                self._place,
                date(bundle.expires),
            )


def date(seconds: float) -> str:
    """RFC 3339 in UTC, of epoch seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def span(seconds: float) -> str:
    """Some seconds, for people: ``2 d 3 h``, ``7 h 59 min``, ``59 min``, ``42 s``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{whole} s"
