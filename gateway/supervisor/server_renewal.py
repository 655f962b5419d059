"""The supervisor's care for the server certificate: at two thirds of its life the next one is issued and taken up.

Issuing opens the key of the server's CA, which takes a while, so it has a thread. What goes wrong is told, once for
each text, and tried again; near the end `gateway.home.certificate_health` speaks of it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from pki.profiles import CLOCK_CUSHION

LOOK: Final = 3600.0
"""Seconds between two looks at most: the clock may be set, or somebody else bring a new certificate."""
AGAIN: Final = 300.0
"""Seconds until the next try at most; a twentieth of what is left when that is less, and a second at least."""


class ServerRenewal:
    """Keeps one gateway's server certificate from expiring for as long as it runs."""

    def __init__(
        self,
        renew: Callable[[], object] | None,
        served: Callable[[], bytes],
        reload: Callable[[], Awaitable[object]],
        log: Callable[[str], None],
    ) -> None:
        """``renew`` blocks and raises what is wrong; None: somebody else cares. ``served`` is the PEM in force."""
        self._renew = renew
        self._served = served
        self._reload = reload
        self._log = log
        self._told = ""

    async def run(self) -> None:
        """Look after it until cancelled."""
        while self._renew is not None:
            until_due, until_end = times_left(self._served(), datetime.now(UTC))
            if until_due > 0:
                await asyncio.sleep(min(until_due, LOOK))
                continue
            if await self._succeeds(self._renew):
                await self._reload()
            await asyncio.sleep(max(1.0, min(AGAIN, until_end / 20)))

    async def _succeeds(self, renew: Callable[[], object]) -> bool:
        try:
            await asyncio.to_thread(renew)
        except Exception as error:  # whatever it is, the present one serves on, and another try is all that can be done
            text = f"the server certificate could not be renewed: {error}"
            if text != self._told:
                self._log(f"{text}; it is tried again, or make one with `rhttp-pki issue-server`")
            self._told = text
            return False
        self._told = ""
        self._log("the server certificate was renewed")
        return True


def times_left(chain: bytes, at: datetime) -> tuple[float, float]:
    """Seconds until two thirds of the life of a PEM's first certificate are over, and until all of it is."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    begins, ends = leaf.not_valid_before_utc + CLOCK_CUSHION, leaf.not_valid_after_utc
    due: datetime = begins + (ends - begins) * 2 / 3
    second = timedelta(seconds=1)
    return (due - at) / second, (ends - at) / second
