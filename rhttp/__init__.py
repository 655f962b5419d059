"""HTTP/1.1 and Reverse HTTP: heads, codecs, Digest formula, the worker side. Imports no other package of ours.

The worker SDK, loaded when it is first used:

    import rhttp

    rhttp.run(app, "bundles/w1", slots=4)           # blocks, ends by SIGTERM
    await rhttp.serve(app, "bundles/w1")            # inside your own loop
    async with rhttp.Worker(app, "bundles/w1"): ... # started and stopped by your program
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhttp.worker.bundle import Bundle, BundleInvalid, load_bundle
    from rhttp.worker.dial import DialFailed
    from rhttp.worker.lifespan import LifespanFailed
    from rhttp.worker.reversed import Status
    from rhttp.worker.slots import FreeSlots, Slots
    from rhttp.worker.worker import Worker, run, serve

__all__ = [
    "Bundle",
    "BundleInvalid",
    "DialFailed",
    "FreeSlots",
    "LifespanFailed",
    "Slots",
    "Status",
    "Worker",
    "load_bundle",
    "run",
    "serve",
]

_HOMES = {
    "Bundle": "worker.bundle",
    "BundleInvalid": "worker.bundle",
    "DialFailed": "worker.dial",
    "FreeSlots": "worker.slots",
    "LifespanFailed": "worker.lifespan",
    "Slots": "worker.slots",
    "Status": "worker.reversed",
    "Worker": "worker.worker",
    "load_bundle": "worker.bundle",
    "run": "worker.worker",
    "serve": "worker.worker",
}


def __getattr__(name: str) -> Any:
    """Load a name of the SDK when it is asked for: the gateway needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rhttp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rhttp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
