"""Bundles that are renewed while they are used: a worker under load, and a client as the documentation has it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.homes import leaf_of, run_cli
from support.runhomes import append
from support.serving import Served
from support.standin import worker_home
from support.workers import dispatch

import rhttp
from pki.issue import serial_hex
from rhttp.worker import agent, turnover

SLOTS = 3


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = worker_home(tmp_path / "home")
    append(place, "[pools.render]")
    return place


@pytest.fixture
def gateway(home: Path) -> Iterator[Served]:
    with Served(home) as served:
        yield served


async def test_worker_renewed_under_load_loses_no_request(
    gateway: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that may not be repeated go on through three renewals, never more at a time than there are slots."""
    monkeypatch.setattr(agent, "LOOK", 0.2)
    monkeypatch.setattr(turnover, "PATIENCE", 600.0)  # idle ones wait for their last request, however slow the machine
    bundle = home / "bundles" / "w1"
    running = most = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal running, most
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        running += 1
        most = max(most, running)
        while (await receive())["more_body"]:
            pass
        await asyncio.sleep(0.005)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        running -= 1
        await send({"type": "http.response.body", "body": b"done"})

    answers: list[tuple[int, bytes]] = []
    is_over = False

    async def ask() -> None:
        while not is_over:
            target = "/-/pools/render/any/job"
            fields = {"Prefer": "wait=60"}
            answers.append(await asyncio.to_thread(dispatch, home, target, method="POST", content=b"x", fields=fields))

    def serials() -> set[str]:
        return {one.session.bundle.serial for one in worker._agent._open}

    async with rhttp.Worker(app, bundle, gateway=gateway.listeners["tls"], slots=SLOTS) as worker:
        await asyncio.wait_for(worker.connected(), 30)
        asking = [asyncio.create_task(ask()) for _ in range(SLOTS)]
        for _ in range(3):
            assert (await asyncio.to_thread(run_cli, home, "renew", bundle)).exit_code == 0
            async with asyncio.timeout(60):
                while serials() != {serial_hex(leaf_of(bundle).serial_number)}:
                    await asyncio.sleep(0.05)
        is_over = True
        await asyncio.gather(*asking)
        assert worker.status().problem is None
    assert len(answers) > 100
    assert set(answers) == {(200, b"done")}
    assert most <= SLOTS
    assert len(json.loads(run_cli(home, "show", "w1", "--json").stdout)["certificates"]) == 4


def test_client_of_the_documentation_goes_on_with_a_renewed_certificate(
    gateway: Served, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of `docs/worker.md`, as they stand: the old certificate is revoked, and the new one lets it in."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    text = (Path(__file__).parents[2] / "docs" / "worker.md").read_text()
    block = text[text.index("import ssl\n") :]
    code, line = block[: block.index("```")], block[block.index("`if (bundle") + 1 :]
    line = line[: line.index("`")]
    os.symlink(home, home.parent / "rhttp-home")
    monkeypatch.chdir(home.parent)
    names: dict[str, Any] = {}
    exec(code, names)
    with names["client"] as client:
        url = f"{gateway.listeners['tls']}/-/pools"
        assert client.get(url).status_code == 200
        old = f"{leaf_of(names['bundle']).serial_number:x}"
        assert run_cli(home, "renew", names["bundle"]).exit_code == 0
        exec(line, names)
        assert run_cli(home, "revoke", "--serial", old).exit_code == 0
        assert client.get(url).status_code == 200
