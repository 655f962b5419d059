"""``python -m mapreduce``: the master, served over plain HTTP on a loopback address for the gateway in front of it.

python -m mapreduce --dispatch unix:HOME/run/dispatch.sock --pool text --listen 127.0.0.1:9000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

import rhttp
from mapreduce.api import Api
from mapreduce.door import Door
from mapreduce.master import MasterEngine, SlotFollower

_KEEP_ALIVE = 60
"""Seconds: longer than the gateway keeps an idle connection (30), so that it is the gateway who closes it."""
_SHUTDOWN = 5


class _Server(uvicorn.Server):
    """Leaves signals alone: they are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _loopback(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise argparse.ArgumentTypeError("must be ADDRESS:PORT, like 127.0.0.1:9000") from None
    if not colon or not address.is_loopback or not 0 <= number < 65536:
        # It believes Rhttp-Identity and asks for no credentials: both are the gateway's work.
        raise argparse.ArgumentTypeError("must be a loopback address; the world reaches the master through the gateway")
    return str(address), number


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 64):
        raise argparse.ArgumentTypeError("must be a number from 1 to 64")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mapreduce", description="A master of map and reduce.")
    parser.add_argument("--dispatch", required=True, metavar="unix:PATH|URL", help="The gateway's dispatch listener.")
    parser.add_argument("--pool", required=True, help="The pool whose workers do the work.")
    parser.add_argument(
        "--listen", type=_loopback, default="127.0.0.1:9000", metavar="ADDRESS:PORT", help="(%(default)s)"
    )
    parser.add_argument("--join", type=Path, metavar="BUNDLE", help="Join a higher gateway as a worker.")
    parser.add_argument("--units-per-slot", type=_number, default=1, metavar="N", help="(%(default)s)")
    return parser


async def _run(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    host, port = options.listen
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    async with Door(options.dispatch, options.pool) as door:
        engine = MasterEngine(door, units_per_slot=options.units_per_slot)
        follower = SlotFollower(door, on_change=engine.slots_changed)
        api = Api(engine)
        config = uvicorn.Config(
            api,
            log_level="warning",
            access_log=False,
            lifespan="on",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_SHUTDOWN,
        )
        server = _Server(config)
        parts = [asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(follower.run())]
        if options.join is not None:
            parts.append(asyncio.create_task(_join(api, follower, options.join)))
        shown = f"[{host}]" if ":" in host else host
        print(f"master: listening on http://{shown}:{listener.getsockname()[1]}", flush=True)
        stopped = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await api.close()
        for task in (stopped, *parts[1:]):
            task.cancel()
        results = await asyncio.gather(*parts, return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        for error in errors:
            print(f"master: {error}", file=sys.stderr)
        return 1 if errors or stopped not in ended else 0


async def _join(api: Api, follower: SlotFollower, bundle: Path) -> None:
    """Be a worker of the gateway that the bundle is for, with as many free slots as this master has behind it."""
    slots = rhttp.FreeSlots(lambda: follower.slots.free)
    await rhttp.serve(api, bundle, slots=slots, drain_timeout=_SHUTDOWN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal; the exit status."""
    return asyncio.run(_run(_parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
