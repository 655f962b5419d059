"""From a home to a running gateway: the lock, the sockets, then the supervisor; all of it or nothing.

Over a stop and a start a port is refused until it is bound again, and most of a start is loading code. So sockets are
bound as soon as the configuration is known; who connects waits in the kernel's queue while the rest is loaded and
looked at. What that needs is imported where it is needed, behind that.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.config.toml import load_config
from gateway.config.values import Config, ConfigInvalid, ConfigProblem, LoadFailed
from gateway.home.layout import Home, HomeInvalid
from gateway.home.locks import AlreadyRunning, GatewayLock, RunFolderUnsafe, require_private
from gateway.supervisor.launcher import COMMAND, Child
from gateway.supervisor.sockets import ADMIN_MODE, Listener, ListenFailed, Purpose, bind_all, bind_unix, close_all
from rhttp import build

if TYPE_CHECKING:
    from gateway.supervisor.list_publisher import SignLists
    from gateway.supervisor.load import Loaded

SPARE_DESCRIPTORS: Final = 512
"""Beside clients' connections: sockets, logs, the database, and a first few connections to masters."""

_OF_EACH_OTHER: Final = 4
"""Descriptors that a data process has of each: its listening sockets, and two connections with it."""


def raise_descriptor_limit(config: Config) -> str | None:
    """Raise the soft limit on open files to the hard one (data processes inherit it); a warning when it is short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = config.limits
    needed = limits.connections + limits.dispatch_connections + limits.metrics_connections + SPARE_DESCRIPTORS
    if config.pki.listen is not None:
        needed += limits.pki_connections
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
    overrides: Mapping[str, object],
    passphrase: bytes | None,
    say: Callable[[str], None],
    log: Callable[[str], None],
    command: Sequence[str] = COMMAND,
    ahead: list[Child] | None = None,
) -> int:
    """Run the gateway of this home until it ends; returns the exit status.

    ``say`` gets a line for each listener and ``ready``, ``log`` everything else. ``ahead`` holds data processes that
    were started by ``command`` already; none is left in the end.

    Raises:
        LoadFailed: it cannot start; every reason that is known, and nothing was started.
    """
    os.umask(0o077)
    home = Home(place)
    try:
        home.require()
        require_private(home.run)
        lock = GatewayLock(home.lock, home.path)
    except (HomeInvalid, RunFolderUnsafe, AlreadyRunning) as error:
        raise _failure(str(error)) from None
    except OSError as error:
        raise _failure(f"cannot take the lock {home.lock}: {error.strerror}") from None
    bound = _Bound()
    try:
        early = _early_config(home, overrides)
        if early is not None:
            bound.bind_early(early)
        from gateway.home.list_source import ListSource
        from gateway.supervisor.load import load

        loaded = load(place, overrides=overrides, passphrase=passphrase)
        home.remember(loaded.config.state.url)
        warning = raise_descriptor_limit(loaded.config)
        if warning is not None:
            log(warning)
        for notice in loaded.notices():
            log(f"note: {notice['path']}: {notice['message']}")

        def load_again() -> Loaded:
            return load(place, overrides=overrides, passphrase=passphrase, state=loaded.state)

        bound.bind(loaded.config, home.admin_socket)
        sign = ListSource(loaded.home, passphrase).renew
        return _serve(
            loaded, load_again, bound, sign, say=say, log=log, command=command, ahead=ahead, passphrase=passphrase
        )
    finally:
        bound.close()
        lock.release()


def _early_config(home: Home, overrides: Mapping[str, object]) -> Config | None:
    """The configuration before anything else was looked at; None: it cannot be used, `load` will say why."""
    try:
        return load_config(home.config, overrides)
    except ConfigInvalid:
        return None


class _Bound:
    """The sockets of a gateway on its way up."""

    def __init__(self) -> None:
        self.listeners: dict[Purpose, Listener] = {}
        self.admin: Listener | None = None
        self._config: Config | None = None

    def bind_early(self, config: Config) -> None:
        """Bind ahead of time what a configuration names; what cannot be bound now is told by `bind`."""
        with contextlib.suppress(ListenFailed):
            self.listeners = bind_all(config)
            self._config = config

    def bind(self, config: Config, admin: Path) -> None:
        """Have everything bound, by this configuration.

        Raises:
            LoadFailed: it cannot be.
        """
        try:
            if config != self._config:  # the file was changed meanwhile
                self.close()
                self.listeners = bind_all(config)
            self.admin = bind_unix(admin, "admin", mode=ADMIN_MODE)
        except ListenFailed as error:
            raise _failure(str(error)) from None

    def close(self) -> None:
        """Close all that was bound."""
        close_all(self.listeners)
        self.listeners = {}
        if self.admin is not None:
            self.admin.close()


def _serve(
    loaded: Loaded,
    load_again: Callable[[], Loaded],
    bound: _Bound,
    sign: SignLists,
    *,
    say: Callable[[str], None],
    log: Callable[[str], None],
    command: Sequence[str],
    ahead: list[Child] | None,
    passphrase: bytes | None,
) -> int:
    import asyncio

    from gateway.audit.supervisor_log import SupervisorLog
    from gateway.home.server_renewal import renew_server
    from gateway.supervisor.supervisor import Supervisor

    assert bound.admin is not None
    ledger = None
    try:
        ledger = make_ledger(loaded.config)
        supervisor_log = SupervisorLog(loaded.home.path, loaded.config.audit, loaded.checkpoint_key)
        supervisor = Supervisor(
            loaded,
            load_again,
            bound.listeners,
            bound.admin,
            supervisor_log,
            sign_lists=sign,
            renew_server=partial(renew_server, loaded.home, passphrase),
            say=say,
            log=log,
            version=build.version(),
            command=command,
            ahead=ahead,
            ledger=ledger,
            with_issuer=loaded.config.enroll.enabled,
            passphrase=passphrase,
        )
        return asyncio.run(supervisor.run())
    finally:
        if ledger is not None:
            os.close(ledger)


def _failure(message: str) -> LoadFailed:

    return LoadFailed((ConfigProblem(path="", message=message),))
