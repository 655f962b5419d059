"""The worker against a whole gateway: the command in front of a real server, and the SDK with an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.homes import run_cli
from support.runhomes import append, set_key
from support.serving import Served
from support.standin import worker_home
from support.workers import WorkerProcess, dispatch, eventually

import rhttp

APP = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    path = scope["path"]
    if path == "/sleep":
        print("sleeping", flush=True)
        await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {path}".encode()})
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = worker_home(tmp_path / "home")
    append(place, "[pools.render]")
    return place


@pytest.fixture
def bundle(home: Path) -> Path:
    return home / "bundles" / "w1"


@pytest.fixture
def gateway(home: Path) -> Iterator[Served]:
    with Served(home) as served:
        yield served


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The server of `python -m http.server` over a directory; its URL."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "a.txt").write_text("from the site")
    (place / "big").write_bytes(os.urandom(3_000_000))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *given: handler(*given, directory=str(place)),  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(60)
    server.server_close()


def pool(home: Path) -> dict[str, Any]:
    return dict(json.loads(dispatch(home, "/-/pools/render")[1]))


def total(home: Path) -> int:
    return int(pool(home)["slots"]["total"])


ANY = "/-/pools/render/any"


# ---- the command ----


def test_worker_forwards_to_a_local_server(
    gateway: Served, home: Path, bundle: Path, site: str, tmp_path: Path
) -> None:
    """From `issue-worker` to a file of a site behind NAT: one command, one line, and slots that the gateway counts."""
    with WorkerProcess(bundle, gateway.listeners["tls"], "--forward", site, "--slots", "4") as worker:
        assert worker.line() == f"worker w1: 4 slots connected to {gateway.listeners['tls']} pool render"
        assert pool(home)["slots"] == {"total": 4, "free": 4}
        assert dispatch(home, f"{ANY}/a.txt") == (200, b"from the site")
        big = dispatch(home, f"{ANY}/big")[1]
        assert hashlib.sha256(big).digest() == hashlib.sha256((tmp_path / "site" / "big").read_bytes()).digest()
        assert dispatch(home, f"{ANY}/none")[0] == 404
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0
        assert worker.errors() == ""
        eventually(lambda: total(home) == 0)


def test_worker_serves_an_application_and_drains(gateway: Served, home: Path, bundle: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of a request: it is answered, then the process ends with 0."""
    (tmp_path / "jobs.py").write_text(APP)
    with WorkerProcess(bundle, gateway.listeners["tls"], "--app", "jobs:app", "--slots", "2", cwd=tmp_path) as worker:
        worker.line()
        assert dispatch(home, f"{ANY}/x") == (200, f"{worker.pid} /x".encode())
        answers: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: answers.append(dispatch(home, f"{ANY}/sleep")))
        asking.start()
        assert worker.line() == "sleeping"
        worker.signal(signal.SIGTERM)
        asking.join(60)
        assert answers == [(200, f"{worker.pid} /sleep".encode())]
        assert worker.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_comes_back_after_the_gateway_did(home: Path, bundle: Path, site: str, number: signal.Signals) -> None:
    """A gateway that is restarted on its port, in order or not, has all slots again without anyone's help."""
    with Served(home) as first:
        port = first.listeners["tls"].rpartition(":")[2]
        worker = WorkerProcess(bundle, first.listeners["tls"], "--forward", site, "--slots", "3")
        with worker:
            worker.line()
            first.signal(number)
            first.ended()
            set_key(home, "listen", f'"127.0.0.1:{port}"')
            with Served(home):
                assert worker.line().startswith("worker w1: 3 slots connected")
                assert dispatch(home, f"{ANY}/a.txt") == (200, b"from the site")
                assert "slots connected" not in worker.errors()  # told once, not once on each stream


def test_worker_that_was_stopped_for_a_while_goes_on(gateway: Served, home: Path, bundle: Path, site: str) -> None:
    """SIGSTOP and SIGCONT: a request sent meanwhile is answered afterwards."""
    with WorkerProcess(bundle, gateway.listeners["tls"], "--forward", site) as worker:
        worker.line()
        worker.signal(signal.SIGSTOP)
        answers: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: answers.append(dispatch(home, f"{ANY}/a.txt")))
        asking.start()
        eventually(lambda: pool(home)["slots"]["free"] == 0)
        worker.signal(signal.SIGCONT)
        asking.join(60)
        assert answers == [(200, b"from the site")]


def test_worker_that_is_killed_leaves_no_slot(gateway: Served, home: Path, bundle: Path, site: str) -> None:
    """The kernel closes its sockets; the gateway stops counting at once."""
    with WorkerProcess(bundle, gateway.listeners["tls"], "--forward", site, "--slots", "2") as worker:
        worker.line()
        worker.signal(signal.SIGKILL)
        worker.ended()
        eventually(lambda: total(home) == 0)


def test_worker_revoked_is_told_and_a_renewed_one_gets_in(gateway: Served, home: Path, bundle: Path, site: str) -> None:
    """Its connections are cut, it says why it stays out, and a new certificate in its bundle lets it in again."""
    with WorkerProcess(bundle, gateway.listeners["tls"], "--forward", site) as worker:
        worker.line()
        serial = json.loads(run_cli(home, "show", "w1", "--json").stdout)["certificates"][0]["serial"]
        assert run_cli(home, "revoke", "--serial", serial).exit_code == 0
        eventually(lambda: "the gateway refused the certificate" in worker.errors())
        assert "it is revoked" in worker.errors()
        assert "--pool render --out NEW" in worker.errors()
        assert run_cli(home, "issue-worker", "w1", "--pool", "render", "--out", home / "new").exit_code == 0
        for name in ("cert.pem", "key.pem", "leaf.pem"):  # the name had its password before
            shutil.copy(home / "new" / name, bundle / name)
        assert worker.line().startswith("worker w1: 1 slot connected")


def test_worker_into_a_pool_of_others_is_refused_in_words(gateway: Served, home: Path, bundle: Path, site: str) -> None:
    """The policy lets a worker into its own pool only; the worker says what to look at, without its password."""
    with WorkerProcess(bundle, gateway.listeners["tls"], "--forward", site, "--pool", "other") as worker:
        eventually(lambda: "w1 may not serve the pool other: 403" in worker.errors())
        assert (bundle / "password").read_text().strip() not in worker.errors()
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        assert (bundle / "password").read_bytes().strip() not in command


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "give either --forward URL or --app MODULE:ATTR"),
        (("--forward", "http://h", "--app", "a:b"), 2, "give either"),
        (("--forward", "https://h"), 2, "unix:/PATH"),
        (("--forward", "http://h", "--protocol", "x"), 2, "there is ptth/1.0"),
        (("--forward", "http://h", "--pool", "X"), 1, "--pool is no pool's name"),
        (("--forward", "http://h", "--gateway", "http://h"), 1, "https://HOST[:PORT]"),
        (("--app", "nosuch_module:app"), 1, "there is no module nosuch_module"),
        (("--app", "json:nosuch"), 1, "json has no application nosuch"),
        (("--app", "json"), 2, "MODULE:ATTR"),
    ],
)
def test_worker_with_wrong_arguments_ends_at_once(
    bundle: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    """One line on stderr says what is wrong; 2 for usage, 1 for what the arguments lead to."""
    result = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "worker", str(bundle), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == status, result.stderr
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


# ---- the SDK ----


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/up: the digest of what came; /down?N: N pieces of 64 KiB; else who asks, as the gateway says."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    path = scope["path"]
    headers = dict(scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/up":
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            digest.update(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.body", "body": digest.hexdigest().encode()})
    elif path == "/down":
        for _ in range(int(scope["query_string"])):
            await send({"type": "http.response.body", "body": b"d" * 65536, "more_body": True})
        await send({"type": "http.response.body"})
    else:
        await send({"type": "http.response.body", "body": headers[b"host"] + b" " + headers[b"rhttp-identity"]})


@contextlib.asynccontextmanager
async def serving(bundle: Path, gateway: Served, **options: Any) -> AsyncIterator[rhttp.Worker]:
    async with rhttp.Worker(app, bundle, gateway=gateway.listeners["tls"], **options) as worker:
        await asyncio.wait_for(worker.connected(), 30)
        yield worker


async def test_sdk_streams_both_ways(gateway: Served, home: Path, bundle: Path) -> None:
    """Megabytes up and down through gateway and worker arrive as they were sent; the request names who asks."""
    content = os.urandom(5_000_000)
    async with serving(bundle, gateway, slots=2):
        status, answer = await asyncio.to_thread(dispatch, home, f"{ANY}/up", method="POST", content=content)
        assert (status, answer.decode()) == (200, hashlib.sha256(content).hexdigest())
        pieces = (content[at : at + 100_000] for at in range(0, len(content), 100_000))
        _, answer = await asyncio.to_thread(dispatch, home, f"{ANY}/up", method="POST", content=pieces)
        assert answer.decode() == hashlib.sha256(content).hexdigest()
        assert await asyncio.to_thread(dispatch, home, f"{ANY}/down?100") == (200, b"d" * 6_553_600)
        assert await asyncio.to_thread(dispatch, home, f"{ANY}/") == (200, b"w1.render.test.internal master/local")


async def test_sdk_follows_a_callable_that_gives_its_slots(gateway: Served, home: Path, bundle: Path) -> None:
    """What the program says it can take is what the gateway counts, up and down."""
    wanted = 1
    async with serving(bundle, gateway, slots=lambda: wanted):
        for wanted in (5, 2, 0, 3):
            await asyncio.to_thread(eventually, lambda: total(home) == wanted)  # noqa: B023 - asked before it changes


async def test_sdk_serve_ends_when_it_is_told(gateway: Served, home: Path, bundle: Path) -> None:
    """`rhttp.serve` runs until its event is set or its task is cancelled, and leaves no slot behind."""
    for by_cancel in (False, True):
        until, whole = asyncio.Event(), asyncio.Event()

        def told(status: rhttp.Status, whole: asyncio.Event = whole) -> None:
            if status.open == 2:
                whole.set()

        serving = asyncio.create_task(
            rhttp.serve(
                app, bundle, gateway=gateway.listeners["tls"], slots=2, until=until, on_status=told, drain_timeout=5
            )
        )
        await asyncio.wait_for(whole.wait(), 30)
        assert await asyncio.to_thread(total, home) == 2
        if by_cancel:
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
        else:
            until.set()
            await serving
        await asyncio.to_thread(eventually, lambda: total(home) == 0)


async def test_sdk_newer_start_of_a_worker_takes_over(gateway: Served, home: Path, bundle: Path) -> None:
    """A second start with the same bundle replaces the first once it served: a hung one does not keep the slots."""
    async with serving(bundle, gateway), serving(bundle, gateway):
        await asyncio.to_thread(eventually, lambda: total(home) == 2)
        for _ in range(2):
            assert (await asyncio.to_thread(dispatch, home, f"{ANY}/"))[0] == 200


def test_sdk_import_is_light() -> None:
    """`import rhttp` alone loads neither TLS nor event loops; a name of the SDK loads what it needs."""
    code = (
        "import sys, rhttp; assert not {'OpenSSL', 'asyncio', 'uvloop'} & set(sys.modules);"
        "rhttp.Worker; rhttp.serve; rhttp.run; assert callable(rhttp.serve) and callable(rhttp.run);"
        "heavy = {'pki', 'auth', 'gateway', 'cedarpy', 'sqlalchemy', 'pydantic', 'click', 'alembic'};"
        "assert not heavy & {name.split('.')[0] for name in sys.modules}"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_sdk_names_are_all_there() -> None:
    """Every public name can be had, and nothing else is promised."""
    assert all(getattr(rhttp, name) is not None for name in rhttp.__all__)
    with pytest.raises(AttributeError):
        rhttp.nosuch  # noqa: B018 - the access is the test
