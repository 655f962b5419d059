"""The supervisor's side of the issuer: kept alive, bounded, and nobody's hindrance."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import fakeissuer
from support.supervised import is_gone, running, until

from gateway.control.channel import Done, Issue, Message, StartIssuer
from gateway.supervisor import issuer as module
from gateway.supervisor.issuer import MAX_OF_PROCESS, MAX_ORDERS, MAX_SIZE, IssuerKeeper

COMMAND = (sys.executable, "-P", str(Path(fakeissuer.__file__)))


class Orderer:
    """A data process that remembers what it was answered, by the number of its order."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}

    def send(self, message: Message) -> None:
        assert isinstance(message, Done)
        assert message.id not in self.answers
        self.answers[message.id] = dict(message.value)


async def refreshed() -> None:
    """Nothing was written that a process has to know."""


@asynccontextmanager
async def kept(home: str = "/home", *, wanted: bool = True) -> AsyncIterator[tuple[IssuerKeeper, list[str]]]:
    """An issuer that was started, and what the gateway's log says of it."""
    log: list[str] = []
    keeper = IssuerKeeper(
        home, "sqlite:///state.db", b"\xffsecret", log.append, wanted=wanted, refresh=refreshed, command=COMMAND
    )
    try:
        assert await keeper.start() == ()
        yield keeper, log
    finally:
        await keeper.stop()


def pid_of(keeper: IssuerKeeper) -> int:
    status = keeper.status()
    assert status is not None
    assert isinstance(status["pid"], int)
    return status["pid"]


async def ask(keeper: IssuerKeeper, what: str, **more: object) -> dict[str, Any]:
    """What one order is answered."""
    orderer = Orderer()
    keeper.take(orderer, Issue(id=1, order={"do": what, **more}))
    await until(lambda: 1 in orderer.answers)
    return orderer.answers[1]


async def test_order_is_passed_on_and_its_answer_back_untouched() -> None:
    """With the number that the data process gave it, whatever the supervisor's own is."""
    async with kept() as (keeper, _):
        orderers = [Orderer(), Orderer()]
        for number in (7, 3):
            for orderer in orderers:
                keeper.take(orderer, Issue(id=number, order={"do": "echo", "n": [number, {"deep": None}]}))
        await until(lambda: all(len(orderer.answers) == 2 for orderer in orderers))
        for orderer in orderers:
            assert orderer.answers == {n: {"do": "echo", "n": [n, {"deep": None}]} for n in (7, 3)}


async def test_status_counts_what_was_issued_and_refused() -> None:
    """A certificate that is told again was not issued again."""
    async with kept() as (keeper, _):
        await ask(keeper, "echo", chain=["leaf"], repeated=False)
        await ask(keeper, "echo", chain=["leaf"], repeated=True)
        await ask(keeper, "echo", refused="used_up")
        await ask(keeper, "echo", unavailable="state")
        status = keeper.status()
        assert status is not None
        assert (status["issued"], status["refused"], status.keys()) == (1, 1, {"pid", "since", "issued", "refused"})


async def test_orders_beyond_what_one_process_may_have_are_answered_at_once() -> None:
    """A process in strange hands takes no place from another one's."""
    async with kept() as (keeper, _):
        greedy = Orderer()
        for number in range(MAX_OF_PROCESS + 1):
            keeper.take(greedy, Issue(id=number, order={"do": "hang"}))
        assert greedy.answers == {MAX_OF_PROCESS: {"unavailable": "busy"}}
        assert await ask(keeper, "echo") == {"do": "echo"}


async def test_orders_beyond_what_all_may_have_are_answered_at_once() -> None:
    """However many processes there are."""
    async with kept() as (keeper, _):
        orderers = [Orderer() for _ in range(MAX_ORDERS // MAX_OF_PROCESS)]
        for orderer in orderers:
            for number in range(MAX_OF_PROCESS):
                keeper.take(orderer, Issue(id=number, order={"do": "hang"}))
        assert all(orderer.answers == {} for orderer in orderers)
        assert await ask(keeper, "echo") == {"unavailable": "busy"}


async def test_order_that_is_too_long_is_not_passed_on() -> None:
    """At the bound it is, beyond it is not."""
    async with kept() as (keeper, _):
        base = len(b'{"do":"echo","x":""}')
        assert "x" in await ask(keeper, "echo", x="y" * (MAX_SIZE - base))
        assert await ask(keeper, "echo", x="y" * (MAX_SIZE - base + 1)) == {"unavailable": "too long"}
        assert await ask(keeper, "count") == {"count": 2}


async def test_issuer_that_ends_is_restarted_and_the_log_says_so() -> None:
    """What was under way is answered that nothing is known of it; the next one takes orders again."""
    async with kept() as (keeper, log):
        old = pid_of(keeper)
        assert await ask(keeper, "die") == {"unavailable": "the issuer ended"}
        await until(lambda: keeper.status() is not None and pid_of(keeper) != old)
        assert await ask(keeper, "echo") == {"do": "echo"}
        assert log[0] == f"the issuer (pid {old}) ended with status 3; another starts in 0.1 s"
        assert log[1] == f"the issuer runs again with pid {pid_of(keeper)}"


async def test_issuer_that_is_wedged_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nothing at all for as long as one order may take."""
    async with kept() as (keeper, log):
        monkeypatch.setattr(module, "ORDER_TIMEOUT", 0.05)
        old = pid_of(keeper)
        assert await ask(keeper, "hang") == {"unavailable": "no answer in time"}
        await until(lambda: keeper.status() is not None and pid_of(keeper) != old)
        assert is_gone(old)
        assert log[0] == f"the issuer (pid {old}) is killed: no answer within 0.05 seconds"


async def test_without_an_issuer_orders_are_answered_at_once() -> None:
    """Not wanted: none is started, nothing is held for it, and nobody waits."""
    async with kept(wanted=False) as (keeper, _):
        assert keeper.status() is None
        assert await ask(keeper, "echo") == {"unavailable": "no issuer runs"}
        assert keeper._passphrase is None


async def test_issuer_that_cannot_open_its_home_is_a_problem_of_the_start() -> None:
    """It says why, and none is left."""
    keeper = IssuerKeeper("/broken", "", None, print, wanted=True, refresh=refreshed, command=COMMAND)
    assert await keeper.start() == (("issuer", "the home is broken"),)
    assert keeper.status() is None
    await keeper.stop()


def test_passphrase_is_in_no_text() -> None:
    """Neither of the keeper nor of the message that carries it."""
    keeper = IssuerKeeper("/home", "", b"\xffsecret", print, wanted=True, refresh=refreshed)
    message = StartIssuer(id=1, home="/home", state_url="", passphrase="\xffsecret")
    assert "secret" not in f"{keeper!r} {keeper} {message!r} {message}"


async def test_gateway_passes_orders_of_its_processes_and_ends_the_issuer_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a data process's order to its answer; killed, the issuer comes back and serving goes on."""
    monkeypatch.setattr(module.IssuerKeeper.__init__, "__kwdefaults__", {"command": COMMAND})
    async with running(tmp_path, "orders", with_issuer=True) as run:

        async def order(what: str) -> bytes:
            port = run.gateway.listeners["tls"].sock.getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b'{"do":"%b"}\n' % what.encode())
                return await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()

        assert await order("echo") == b'{"do":"echo"}\n'
        old = (await run.ask("GET", "/status"))["issuer"]["pid"]
        os.kill(old, signal.SIGKILL)
        await run.gateway.until(lambda: any("the issuer runs again" in line for line in run.gateway.logged))
        assert await order("echo") == b'{"do":"echo"}\n'
        new = (await run.ask("GET", "/status"))["issuer"]["pid"]
        assert new != old
        assert await run.terminate() == 0
        assert is_gone(new)
