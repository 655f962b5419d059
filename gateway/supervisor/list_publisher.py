"""The supervisor's work on revocation lists: have them signed in time, and give them to every data process.

Signing opens keys of CAs, which takes a while, so it has a thread; what goes wrong is told once, and the lists that are
there stay. Without ``[pki] listen`` nothing is signed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol

from gateway.config.values import PkiConfig
from gateway.control.channel import Message, PublishLists
from gateway.home.list_source import Renewed
from gateway.state.lists import PublishedLists
from pki.issue import serial_hex, stamp


class SignLists(Protocol):
    """Signs what is due for lists of this lifetime; blocks. See `gateway.home.list_source.ListSource.renew`."""

    def __call__(self, lifetime: timedelta, /, *, ocsp: bool) -> Renewed: ...


PAUSE: Final = 1.0
"""Seconds between two rounds of signing at least: many revocations in a row make one list."""
LOOK: Final = 60.0
"""Seconds between two looks at most: the clock may be set, a CA's file be replaced, a key come back."""

FIRST: Final = 10.0
"""Seconds that a start waits for the first lists, so that whoever reads of it finds them there."""


class ListPublisher:
    """Keeps the lists of one gateway in force for as long as it runs."""

    def __init__(
        self,
        sign: SignLists | None,
        config: Callable[[], PkiConfig],
        *,
        send: Callable[[Message], None],
        record: Callable[..., Awaitable[bool]],
        log: Callable[[str], None],
    ) -> None:
        """``send`` tells every data process, ``record`` writes an audit line. Without ``sign`` nothing is ever done."""
        self._sign = sign
        self._config = config
        self._send = send
        self._record = record
        self._log = log
        self._due = asyncio.Event()
        self._told: Sequence[str] = ()
        self._begun = asyncio.Event()
        self.published: PublishedLists | None = None
        """What the data processes have, and a new one gets; None: nothing was signed yet."""

    def changed(self) -> None:
        """Something may have been revoked, or configured in another way."""
        self._due.set()

    async def begun(self) -> None:
        """Wait for the first round of `run`, whatever comes of it, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST):
                await self._begun.wait()

    async def run(self) -> None:
        """Sign for ever: at once, when something was revoked, and in time."""
        while True:
            try:
                await self.renew()
            finally:
                self._begun.set()
            await asyncio.sleep(PAUSE)
            lifetime = self._config().list_lifetime
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, lifetime / 8)):
                    await self._due.wait()
            self._due.clear()

    async def renew(self) -> None:
        """Sign what is due, and give it out."""
        config = self._config()
        if self._sign is None or config.listen is None:
            return
        renewed = await asyncio.to_thread(self._sign, timedelta(seconds=config.list_lifetime), ocsp=config.ocsp)
        for line in renewed.problems:
            if line not in self._told:
                self._log(line)
        self._told = renewed.problems
        if renewed.published.version == (0 if self.published is None else self.published.version):
            return
        for one in renewed.signed:
            await self._record("pki.list_signed", name=one.name, version=one.number, count=one.revoked)
        for name, lent in renewed.lent.items():
            expires = stamp(lent.not_valid_after_utc)
            await self._record(
                "pki.responder_issued", name=name, serial=serial_hex(lent.serial_number), expires=expires
            )
        self.published = renewed.published
        self._send(PublishLists(lists=renewed.published.to_text()))
