"""An agent that renews its own bundle: at a gateway that sends requests all the while, over real TLS."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.agents import running
from support.enrolments import order
from support.estserver import EstServer, Reply, Seen, est_server, problem
from support.homes import leaf_of
from support.standin import SWITCH

from pki.issue import serial_hex
from rhttp.worker import agent, renewal_schedule, turnover
from rhttp.worker.enrolment import enroll


class Dispatcher:
    """The gateway's side of reversed connections: on each, requests, as fast as they are answered."""

    def __init__(self) -> None:
        self.answered = 0
        self.serials: list[str] = []
        self.faults: list[str] = []
        self.is_over = threading.Event()
        self._lock = threading.Lock()

    def switch(self, seen: Seen) -> Reply:
        serial = seen.peer["serialNumber"].lower()
        return Reply(taken=lambda sock, reader: self._drive(sock, reader, serial))

    def _drive(self, sock: Any, reader: Any, serial: str) -> None:
        sock.sendall(SWITCH)
        with self._lock:
            self.serials.append(serial)
        while not self.is_over.is_set():
            try:
                sock.sendall(b"GET /x HTTP/1.1\r\nHost: w1.render.example.internal\r\n\r\n")
                status = reader.readline()
                fields = {}
                while line := reader.readline().strip():
                    name, _, value = line.partition(b":")
                    fields[name.lower()] = value.strip().lower()
                content = reader.read(int(fields.get(b"content-length", 0)))
            except (OSError, ValueError) as error:
                status, content, fields = repr(error).encode(), b"", {}
            if (status[:12], content) != (b"HTTP/1.1 200", b"/x"):
                if not self.is_over.is_set():
                    self.faults.append(repr((status, content)))
                return
            with self._lock:
                self.answered += 1
            if fields.get(b"connection") == b"close":
                return


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        made.acts["simplereenroll"] = made.simplereenroll
        yield made


@pytest.fixture
def dispatcher(server: EstServer) -> Iterator[Dispatcher]:
    made = Dispatcher()
    server.acts["render"] = made.switch
    yield made
    made.is_over.set()


@pytest.fixture
def place(server: EstServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's bundle whose certificate is due at once, as all that follow are."""
    monkeypatch.setattr(agent, "LOOK", 0.2)
    monkeypatch.setattr(turnover, "PATIENCE", 600.0)  # idle ones wait for their last request, however slow the machine
    monkeypatch.setattr(renewal_schedule, "SHORT", 1)
    return enroll(order(server, tmp_path)).place


async def until(is_so: Any) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.02)


async def test_agent_that_renews_itself_loses_no_request(
    server: EstServer, dispatcher: Dispatcher, place: Path
) -> None:
    """Certificates that live for a minute, two renewals and more: connections of the new ones take over, none fails."""
    server.lifetime = timedelta(minutes=1)
    first = serial_hex(leaf_of(place).serial_number)
    async with running(place, server.gateway_url, slots=2) as (_, told):
        await told.until(lambda status: status.open == 2)
        await until(lambda: len(set(dispatcher.serials)) >= 3)
        answered = dispatcher.answered
        await until(lambda: dispatcher.answered > answered + 20)
        dispatcher.is_over.set()
    assert dispatcher.serials[0] == first
    assert dispatcher.faults == []


async def test_agent_asks_a_gateway_again_that_was_away(
    server: EstServer,
    dispatcher: Dispatcher,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes on serving meanwhile, and the trouble is told once."""
    monkeypatch.setattr(renewal_schedule, "_TROUBLE", (0.5, 0.5))
    server.replies["simplereenroll"] = [problem(503)] * 3
    first = leaf_of(place).serial_number
    with caplog.at_level(logging.WARNING, "rhttp"):
        async with running(place, server.gateway_url) as (_, told):
            await told.until(lambda status: status.open == 1)
            await until(lambda: leaf_of(place).serial_number != first)
            dispatcher.is_over.set()
    assert dispatcher.faults == []
    (line,) = [record.getMessage() for record in caplog.records if "was not renewed" in record.getMessage()]
    assert "cannot issue at the moment" in line


async def test_agent_tells_once_that_a_gateway_renews_nothing(
    server: EstServer,
    dispatcher: Dispatcher,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However often it asked."""
    monkeypatch.setattr(renewal_schedule, "_REFUSAL", (0.5, 0.5))
    server.acts["simplereenroll"] = lambda _: problem(404)
    with caplog.at_level(logging.WARNING, "rhttp"):
        async with running(place, server.gateway_url) as (_, told):
            await told.until(lambda status: status.open == 1)
            await until(lambda: server.steps().count("simplereenroll") >= 3)
            dispatcher.is_over.set()
    (line,) = [record.getMessage() for record in caplog.records if "was not renewed" in record.getMessage()]
    assert "renews nothing" in line


@pytest.mark.parametrize("how", ["argument", "bundle"])
async def test_agent_that_is_told_not_to_renews_nothing(
    how: str, server: EstServer, dispatcher: Dispatcher, place: Path
) -> None:
    """By the argument, or by `renew = false` in `rhttp.toml`: due certificates are left to others."""
    if how == "bundle":
        with (place / "rhttp.toml").open("a") as file:
            file.write("renew = false\n")
    options = {"renew": False} if how == "argument" else {}
    async with running(place, server.gateway_url, **options) as (made, told):
        await told.until(lambda status: status.open == 1)
        looked = made._look_at
        await until(lambda: made._look_at > looked + 0.5)  # a few looks later
        dispatcher.is_over.set()
    assert "simplereenroll" not in server.steps()


async def test_agent_stops_while_a_gateway_does_not_answer(
    server: EstServer, dispatcher: Dispatcher, place: Path
) -> None:
    """A renewal under way holds up neither what is served nor the end."""
    go_on = threading.Event()

    def wait(seen: Seen) -> Reply:
        assert go_on.wait(60)
        return server.simplereenroll(seen)

    server.acts["simplereenroll"] = wait
    try:
        async with running(place, server.gateway_url) as (_, told):
            await told.until(lambda status: status.open == 1)
            await until(lambda: "simplereenroll" in server.steps())
            answered = dispatcher.answered
            await until(lambda: dispatcher.answered > answered + 5)
            assert server.steps().count("simplereenroll") == 1
            dispatcher.is_over.set()
    finally:
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "renewal":
                await asyncio.to_thread(thread.join, 60)
