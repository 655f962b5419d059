"""From a home to a running gateway: the lock, the sockets, then the supervisor; all of it or nothing."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from gateway.config import Config, ConfigProblem
from gateway.home import Home, HomeInvalid
from gateway.listeners import ADMIN_MODE, ListenFailed, bind_all, bind_unix, close_all
from gateway.loader import Loaded, LoadFailed, load
from gateway.member import COMMAND
from gateway.runfiles import AlreadyRunning, GatewayLock, RunFolderUnsafe, require_private
from gateway.supervisor import Supervisor
from gateway.trail import HomeTrail

SPARE_DESCRIPTORS: Final = 512
"""Beside clients' connections: sockets, logs, the database, and a first few connections to masters."""

_OF_EACH_OTHER: Final = 4
"""Descriptors that a data process has of each: its listening sockets, and two connections with it."""


def product_version() -> str:
    """The installed version, ``0`` in a tree that is not installed."""
    try:
        return version("rhttp-pki")
    except PackageNotFoundError:
        return "0"


def raise_descriptor_limit(config: Config) -> str | None:
    """Raise the soft limit on open files to the hard one (data processes inherit it); a warning when it is short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = config.limits
    needed = limits.connections + limits.dispatch_connections + limits.metrics_connections + SPARE_DESCRIPTORS
    if config.processes > 1:
        needed += _OF_EACH_OTHER * config.processes
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return None
    return (
        f"warning: a process may open {hard} files, limits.connections = {limits.connections} needs {needed}; "
        "raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower limits.connections"
    )


def make_ledger(config: Config) -> int | None:
    """The descriptor of the table in which several data processes spend counters; None for one, which has its own.

    It belongs to the gateway's life as the key of its nonces does: a process that is restarted knows what was spent.

    Raises:
        LoadFailed: there is no memory for it.
    """
    if config.processes == 1:
        return None
    from auth.sharedledger import create  # here: one process needs none of it

    try:
        return create(window=config.digest.window, per_identity=config.digest.nonces_per_identity)
    except OSError as error:
        raise _failure(f"cannot make the table of spent counters: {error.strerror}") from None


def serve(
    place: Path,
    *,
    overrides: Mapping[str, str],
    passphrase: bytes | None,
    say: Callable[[str], None],
    log: Callable[[str], None],
    command: Sequence[str] = COMMAND,
) -> int:
    """Run the gateway of this home until it ends; returns the exit status.

    ``say`` gets a line for each listener and ``ready``, ``log`` everything else.

    Raises:
        LoadFailed: it cannot start; every reason that is known, and nothing was started.
    """
    os.umask(0o077)
    home = Home(place)
    try:
        home.require()
        require_private(home.run)
        lock = GatewayLock(home.lock)
    except (HomeInvalid, RunFolderUnsafe, AlreadyRunning) as error:
        raise _failure(str(error)) from None
    except OSError as error:
        raise _failure(f"cannot take the lock {home.lock}: {error.strerror}") from None
    try:
        loaded = load(place, overrides=overrides, passphrase=passphrase)
        warning = raise_descriptor_limit(loaded.config)
        if warning is not None:
            log(warning)

        def load_again() -> Loaded:
            return load(place, overrides=overrides, passphrase=passphrase, state=loaded.state)

        return _serve(loaded, load_again, say=say, log=log, command=command)
    finally:
        lock.release()


def _serve(
    loaded: Loaded,
    load_again: Callable[[], Loaded],
    *,
    say: Callable[[str], None],
    log: Callable[[str], None],
    command: Sequence[str],
) -> int:
    try:
        listeners = bind_all(loaded.config)
    except ListenFailed as error:
        raise _failure(str(error)) from None
    try:
        admin = bind_unix(loaded.home.admin_socket, "admin", mode=ADMIN_MODE)
    except ListenFailed as error:
        close_all(listeners)
        raise _failure(str(error)) from None
    ledger = None
    try:
        ledger = make_ledger(loaded.config)
        trail = HomeTrail(loaded.home.path, loaded.config.audit, loaded.checkpoint_key)
        supervisor = Supervisor(
            loaded,
            load_again,
            listeners,
            admin,
            trail,
            say=say,
            log=log,
            version=product_version(),
            command=command,
            ledger=ledger,
        )
        return asyncio.run(supervisor.run())
    finally:
        if ledger is not None:
            os.close(ledger)
        close_all(listeners)
        admin.close()


def _failure(message: str) -> LoadFailed:
    return LoadFailed((ConfigProblem(path="", message=message),))
