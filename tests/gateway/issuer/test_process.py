"""The issuer as a process: a sealed home, many orders, and its end in the middle of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.homes import new_home, run_cli
from support.orders import credentials, enroll, key_info, make_token
from support.supervised import until

from gateway.control.channel import Done, Issue, Message
from gateway.home.layout import Home
from gateway.home.session import HomeSession
from gateway.supervisor.issuer import IssuerKeeper
from pki.names import Role

PASSPHRASE = b"correct horse \xff battery"


class Orderer:
    """A data process that remembers its answers."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}

    def send(self, message: Message) -> None:
        assert isinstance(message, Done)
        self.answers[message.id] = dict(message.value)


async def refreshed() -> None:
    """No process has to know of what was written."""


async def give(keeper: IssuerKeeper, orders: list[dict[str, object]]) -> list[dict[str, Any]]:
    """What becomes of these, given at once."""
    orderer = Orderer()
    for number, order in enumerate(orders):
        keeper.take(orderer, Issue(id=number, order=order))
    await until(lambda: len(orderer.answers) == len(orders))
    return [orderer.answers[number] for number in range(len(orders))]


def keep(home: Home, passphrase: bytes | None, log: Callable[[str], None] = print) -> IssuerKeeper:
    """The supervisor's side of the home's issuer."""
    url = home.basics().state_url
    return IssuerKeeper(str(home.path), url, passphrase, log, wanted=True, refresh=refreshed)


def issued(home: Home) -> set[str]:
    """The serials that the log says were issued to workers."""
    texts = [text for file in sorted(home.audit.glob("cli-*.jsonl")) for text in file.read_text().splitlines()]
    return {
        line["serial"]
        for line in map(json.loads, texts)
        if line["event"] == "pki.issued" and line["identity"].startswith("worker/")
    }


async def test_issuer_of_a_sealed_home_signs_and_reads_strange_orders(tmp_path: Path) -> None:
    """The passphrase opens its keys, whatever bytes it is of; an order that is none ends nothing."""
    home = new_home(tmp_path / "home", passphrase=PASSPHRASE)
    with HomeSession(home, PASSPHRASE) as session:
        token = make_token(session, name="w1")
        keeper = IssuerKeeper(
            str(home.path), session.basics.state_url, PASSPHRASE, print, wanted=True, refresh=refreshed
        )
        assert await keeper.start() == ()
        try:
            (strange,) = await give(keeper, [{"kind": "sign everything"}])
            assert strange == {"unavailable": "malformed order"}
            (made,) = await give(keeper, [enroll(token, key_info())])
            (user,) = await give(keeper, [credentials(made["serial"])])
            assert (made["name"], user["user"]) == ("w1", "w1")
            status = keeper.status()
            assert status is not None
            command = Path(f"/proc/{status['pid']}/cmdline").read_bytes()
            assert b"gateway.issuer.main" in command
            assert b"correct horse" not in command
        finally:
            await keeper.stop()


async def test_issuer_of_a_sealed_home_does_not_start_without_the_passphrase(tmp_path: Path) -> None:
    """One line that says what to give."""
    home = new_home(tmp_path / "home", passphrase=PASSPHRASE)
    keeper = keep(home, None)
    ((where, message),) = await keeper.start()
    await keeper.stop()
    assert where == "issuer"
    assert "is sealed; give the passphrase with --passphrase-file" in message


async def test_issuer_that_is_killed_leaves_nothing_half_made(tmp_path: Path) -> None:
    """Whenever that is, what is in the state is in the log, uses are as many as certificates, and the rest can be had.

    Whoever asks again with the same key gets one certificate, the same if there was one.
    """
    home = new_home(tmp_path / "home")
    with HomeSession(home, None) as session:
        token = make_token(session, name_prefix="w-", uses=1000)
        log: list[str] = []
        keeper = IssuerKeeper(
            str(home.path), session.basics.state_url, None, log.append, wanted=True, refresh=refreshed
        )
        assert await keeper.start() == ()
        try:
            orders = [enroll(token, key_info()) for _ in range(120)]
            answers: list[dict[str, Any]] = []
            for pause in (0.05, 0.2):
                status = keeper.status()
                assert status is not None
                giving = asyncio.create_task(give(keeper, orders))
                await asyncio.sleep(pause)  # anywhere in the middle, or not: it holds wherever
                os.kill(int(str(status["pid"])), signal.SIGKILL)
                answers += await giving
                await until(lambda old=status["pid"]: (now := keeper.status()) is not None and now["pid"] != old)  # type: ignore[misc]
                known = {record.serial for record in session.inventory.certificates(role=Role.WORKER)}
                assert {answer["serial"] for answer in answers if "chain" in answer} <= known <= issued(home)
                assert session.tokens().list()[0].used == len(known)
            again = await give(keeper, orders)
            assert all("chain" in answer for answer in again), again
            known = {record.serial for record in session.inventory.certificates(role=Role.WORKER)}
            assert {answer["serial"] for answer in again} == known
            assert len(known) == session.tokens().list()[0].used == 120
        finally:
            await keeper.stop()
    assert run_cli(home, "audit verify").exit_code == 0
