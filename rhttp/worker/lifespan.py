"""The ASGI lifespan protocol: once for an agent, around all of its connections (I/O: a task).

Trust: talks to our own application only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from rhttp.errors import RhttpError
from rhttp.worker.asgi_messages import VERSIONS, Application, Message

log = logging.getLogger("rhttp.asgi")


class LifespanFailed(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """The application answered its startup with ``lifespan.startup.failed``; ``detail`` is what it said."""

    def __init__(self, message: str) -> None:
        super().__init__("lifespan", message)

    def __str__(self) -> str:
        return f"the application cannot start: {self.detail or 'it gave no reason'}"


class Lifespan:
    """Startup and shutdown of one application; one that does not know the protocol is served all the same."""

    def __init__(self, app: Application, *, shutdown_timeout: float = 10.0) -> None:
        self._app = app
        self._shutdown_timeout = shutdown_timeout
        self._task: asyncio.Task[None] | None = None
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._failure: str | None = None
        self.state: dict[str, Any] = {}
        """What the application put there at startup; every request gets a copy."""

    async def startup(self) -> None:
        """Start the application.

        Raises:
            LifespanFailed: it says that it cannot start.
        """
        self._to_app.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._started.wait()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._failure is not None:
            await self._join(self._task)
            raise LifespanFailed(self._failure)

    async def shutdown(self) -> None:
        """Have the application end; what it does wrong then is logged. One that does not end is cancelled."""
        task, self._task = self._task, None
        if task is None:
            return
        if not task.done():
            self._to_app.put_nowait({"type": "lifespan.shutdown"})
        await self._join(task)

    async def _join(self, task: asyncio.Task[None]) -> None:
        done, _ = await asyncio.wait((task,), timeout=self._shutdown_timeout)
        if not done:
            log.error("the application's shutdown takes longer than %g s and is cut", self._shutdown_timeout)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSIONS, "state": self.state}
        try:
            await self._app(scope, self._to_app.get, self._send)
        except Exception as error:
            if self._started.is_set():
                log.exception("the application's lifespan failed")
            else:
                # The specification: an application that raises here does not know the protocol.
                log.info("the application has no lifespan (%s)", type(error).__name__)
        finally:
            self._started.set()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._started.set()
            case "lifespan.startup.failed":
                self._failure = str(message.get("message", ""))
                self._started.set()
            case "lifespan.shutdown.complete":
                pass  # it returns now
            case "lifespan.shutdown.failed":
                log.error("the application's shutdown failed: %s", message.get("message", ""))
            case kind:
                raise RuntimeError(f"ASGI message {kind!r} out of turn")
