"""What the supervisor does about revocation lists: who gets them, when, and what is said when there are none."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.fakegateway import snapshot
from support.supervised import running, until

from gateway.config.values import PkiConfig, TcpAddress
from gateway.home.list_source import Renewed
from gateway.home.revocation_lists import SignedList
from gateway.state.lists import PublishedLists
from gateway.supervisor.list_publisher import ListPublisher
from pki.revocation import RevokedEntry

LISTEN = PkiConfig(listen=TcpAddress(host="127.0.0.1", port=0), list_lifetime=600.0)
AT = datetime(2026, 3, 1, tzinfo=UTC)
ENTRIES = (RevokedEntry(serial=1, revoked_at=AT), RevokedEntry(serial=2, revoked_at=AT))


class Signing:
    """Signs nothing, but says that it did while there is something to do."""

    def __init__(self, due: int = 1, problems: tuple[str, ...] = ()) -> None:
        self.due = due
        self.problems = problems
        self.asked: list[timedelta] = []
        self.version = 0

    def __call__(self, lifetime: timedelta, /, *, ocsp: bool) -> Renewed:
        self.asked.append(lifetime)
        if not self.due:
            return Renewed(published=PublishedLists(version=self.version), problems=self.problems)
        self.due -= 1
        self.version += 1
        one = SignedList(
            role=None, number=self.version, entries=ENTRIES, this_update=AT, next_update=AT, der=b"", pem=b""
        )
        return Renewed(signed=(one,), published=PublishedLists(version=self.version), problems=self.problems)


async def test_lists_are_signed_before_the_gateway_is_ready_and_reach_every_process(tmp_path: Path) -> None:
    """All have them when it says so; the audit log names list and number; the configured lifetime is theirs."""
    signing = Signing()
    async with running(tmp_path, processes=2, sign_lists=signing, pki=LISTEN) as run:
        assert signing.asked[0] == timedelta(seconds=600)
        assert [entry["lists"] for entry in await run.processes()] == [1, 1]
        await until(lambda: bool(run.gateway.supervisor_log.records))
        detail = {"name": "root", "version": 1, "count": 2}
        assert run.gateway.supervisor_log.records[0] == ("pki.list_signed", "done", detail)


async def test_lists_are_looked_at_when_state_changes(tmp_path: Path) -> None:
    """A revocation does not wait for the next look by the clock."""
    signing = Signing()
    async with running(tmp_path, sign_lists=signing, pki=LISTEN) as run:
        signing.due = 1
        run.gateway.state.now = snapshot(2, revoked=1)
        async with asyncio.timeout(30):
            while (await run.process())["lists"] != 2:
                await asyncio.sleep(0.02)


async def test_process_that_starts_later_gets_the_lists(tmp_path: Path) -> None:
    """Before it serves."""
    async with running(tmp_path, sign_lists=Signing(), pki=LISTEN) as run:
        before = await run.process()
        os.kill(before["pid"], signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                (entry,) = await run.processes()
                if entry["answers"] and entry["pid"] != before["pid"]:
                    break
                await asyncio.sleep(0.02)
        assert entry["lists"] == 1


async def test_nothing_is_signed_without_a_listener(tmp_path: Path) -> None:
    """No key of a CA is opened in a gateway that has no use for it."""
    signing = Signing()
    async with running(tmp_path, sign_lists=signing) as run:
        assert (await run.process())["lists"] == 0
    assert signing.asked == []


async def test_what_goes_wrong_is_told_once() -> None:
    """A key that is missing is missing at every look; only what is new is said again."""
    logged: list[str] = []
    signing = Signing(due=0, problems=("a", "b"))
    publisher = ListPublisher(
        signing, lambda: LISTEN, send=lambda _: None, record=lambda *_, **__: _recorded(), log=logged.append
    )
    await publisher.renew()
    await publisher.renew()
    assert logged == ["a", "b"]
    signing.problems = ("b", "c")
    await publisher.renew()
    signing.problems = ()
    await publisher.renew()
    signing.problems = ("b",)
    await publisher.renew()
    assert logged == ["a", "b", "c", "b"]
    assert publisher.published is None


async def _recorded() -> bool:
    return True
