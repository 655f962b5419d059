"""The worker SDK: serve an application, or a local server, to whoever may dispatch to your pool (I/O).

>>> import rhttp
>>> async def app(scope, receive, send):
...     await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
...     await send({"type": "http.response.body", "body": b"hello from behind the NAT\\n"})
>>> rhttp.run(app, "bundles/w1", slots=4)                 # doctest: +SKIP

Trust: I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, Unpack

from rhttp.reversal.upgrade import PTTH_1_0, VARIANTS, UpgradeVariant
from rhttp.worker.agent import Agent
from rhttp.worker.asgi import AsgiHandler
from rhttp.worker.asgi_messages import Application
from rhttp.worker.bundle import Bundle
from rhttp.worker.forwarder import Forwarder
from rhttp.worker.handler import Handler
from rhttp.worker.reversed import Status
from rhttp.worker.slots import Slots

__all__ = ["Worker", "find_variant", "run", "run_worker", "serve"]


def find_variant(name: str) -> UpgradeVariant:
    """The way to switch roles of this name.

    Raises:
        ValueError: there is none; the text names those that there are.
    """
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    raise ValueError(f"{name!r} is no protocol of ours; there is {', '.join(variant.name for variant in VARIANTS)}")


class Worker:
    """A worker inside your program: connected between ``start`` and ``stop``, or inside ``async with``.

    >>> async with rhttp.Worker(app, "bundles/w1", slots=4) as worker:        # doctest: +SKIP
    ...     await worker.connected()
    ...     print(worker.status().open, "slots connected")
    ...     await asyncio.Event().wait()

    Args:
        app: an ASGI 3 application, a URL to forward to (see `rhttp.worker.forwarder.Forwarder`), or a handler of your
        own. bundle: the directory that ``rhttp-pki issue-worker`` made. It is read again when its files change.
        gateway, pool: in place of what the bundle says.
        slots: how many requests at a time: a number; a callable that gives the number of connections, busy ones
            included, and is asked a few times a second; or a `rhttp.Slots` that you set.
        protocol: how to switch roles; ``ptth/1.0``.
        drain_timeout: seconds that requests under way have when the worker stops.
        keep_host: when forwarding, leave ``Host`` as it came.
        renew: have the gateway renew the bundle in time; also ``renew = false`` in ``rhttp.toml`` turns that off.
        on_status: called with a `rhttp.Status` when slots came or went, or trouble began or ended.

    Raises:
        ValueError: the URL or the protocol is none that we know.
    """

    def __init__(
        self,
        app: Application | Handler | str,
        bundle: Path | str,
        *,
        gateway: str | None = None,
        pool: str | None = None,
        slots: int | Callable[[], int] | Slots = 1,
        protocol: str = PTTH_1_0.name,
        drain_timeout: float = 30.0,
        keep_host: bool = False,
        renew: bool = True,
        on_status: Callable[[Status], None] | None = None,
    ) -> None:
        self._handler: Handler
        if isinstance(app, str):
            self._handler = Forwarder(app, keep_host=keep_host)
        elif isinstance(app, Handler):
            self._handler = app
        else:
            self._handler = AsgiHandler(app)
        self._agent = Agent(
            self._handler,
            bundle,
            gateway=gateway,
            pool=pool,
            slots=slots,
            variant=find_variant(protocol),
            drain_timeout=drain_timeout,
            renew=renew,
            on_status=on_status,
        )

    async def start(self) -> None:
        """Read the bundle, start the application, begin to dial; returns without waiting for the gateway.

        Raises:
            BundleInvalid: the bundle cannot be used; the text names the file and the mend.
            DialFailed: OpenSSL does not take the bundle's certificate or key.
            LifespanFailed: the application says that it cannot start.
        """
        self._agent.prepare()
        await self._handler.start()
        await self._agent.start()

    async def stop(self) -> None:
        """Close idle connections, let requests under way finish within ``drain_timeout``, stop the application."""
        try:
            await self._agent.stop()
        finally:
            await self._handler.stop()

    async def connected(self) -> None:
        """Wait until every slot is connected; for ever, while the gateway refuses or cannot be reached."""
        await self._agent.connected()

    def status(self) -> Status:
        """Slots, connections and trouble now."""
        return self._agent.status()

    @property
    def bundle(self) -> Bundle:
        """The bundle in use; only after `start`."""
        return self._agent.bundle

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class Options(TypedDict, total=False):
    """What `serve` and `run` pass on to `Worker`, which says what it means."""

    gateway: str | None
    pool: str | None
    slots: int | Callable[[], int] | Slots
    protocol: str
    drain_timeout: float
    keep_host: bool
    renew: bool
    on_status: Callable[[Status], None] | None


async def serve(
    app: Application | Handler | str,
    bundle: Path | str,
    *,
    until: asyncio.Event | None = None,
    **options: Unpack[Options],
) -> None:
    """Serve ``app`` until the task is cancelled or ``until`` is set, then drain. The arguments are `Worker`'s.

    >>> await rhttp.serve(app, "bundles/w1", slots=lambda: 8 - jobs_of_others())       # doctest: +SKIP

    Raises:
        BundleInvalid, DialFailed, LifespanFailed, ValueError: it cannot start; see `Worker`. No trouble with the
            gateway ends it.
    """
    async with Worker(app, bundle, **options):
        await (until if until is not None else asyncio.Event()).wait()


def run(app: Application | Handler | str, bundle: Path | str, **options: Unpack[Options]) -> None:
    """Serve ``app`` in an event loop of its own (uvloop) until SIGTERM or SIGINT, then drain; a second one ends now.

    The arguments are `Worker`'s.

    >>> rhttp.run(app, "bundles/w1", slots=4)             # doctest: +SKIP
    >>> rhttp.run("http://127.0.0.1:8000", "bundles/w1")  # doctest: +SKIP
    """
    run_worker(Worker(app, bundle, **options))


def run_worker(worker: Worker) -> None:
    """`run` with a worker that was made before. It cannot be started twice."""
    import uvloop

    async def main() -> None:
        until = asyncio.Event()
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if until.is_set() and task is not None:
                task.cancel()
            until.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        async with worker:
            await until.wait()

    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(main())
