"""``rhttp-pki gateway``, ``status``, ``reload``, ``drain``: running the gateway, and talking to the one that runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway.admin.status import cut_in_words
from gateway.cli.common import Settings, common_options, fail
from gateway.cli.options import print_json
from gateway.cli.policy_names import warn_of_unknown_principals
from gateway.config.defaults import MAX_PROCESSES
from gateway.supervisor.launcher import Child, start_ahead
from rhttp import build

if TYPE_CHECKING:
    from gateway.admin.client import AdminFailed

_POLL = 0.2
_DRAIN_SLACK = 15.0
_STATUS_TIMEOUT = 5.0
"""Seconds for `status`, which the supervisor answers within one."""


@click.command("gateway")
@common_options
@click.option("--listen", metavar="HOST:PORT", help="The TLS listener, instead of `listen` in gateway.toml.")
@click.option("--dispatch", metavar="HOST:PORT|unix:PATH", help="The dispatch listener, instead of `dispatch`.")
@click.option("--processes", type=click.IntRange(1, MAX_PROCESSES), help="Data processes, instead of `processes`.")
@click.option("--check", is_flag=True, help="Load and check everything, start nothing.")
def gateway_command(
    settings: Settings, listen: str | None, dispatch: str | None, processes: int | None, check: bool
) -> None:
    """Run the gateway of the home in the foreground.

    Tells each listener and then `gateway: ready` on stdout, everything else on stderr. SIGHUP reloads; SIGTERM and
    SIGINT drain and end with status 0, a second one ends at once.
    """
    given = {"listen": listen, "dispatch": dispatch, "processes": processes}
    overrides = {key: value for key, value in given.items() if value is not None}
    if clash := build.find_clash():
        fail(clash)
    passphrase = settings.passphrase()
    ahead = [] if check else start_ahead(settings.home, processes)
    try:
        status = _run(settings, overrides, passphrase, ahead, check=check)
    finally:
        for child in ahead:
            child.discard()
    raise SystemExit(status)


def _run(
    settings: Settings, overrides: Mapping[str, object], passphrase: bytes | None, ahead: list[Child], *, check: bool
) -> int:
    # Here, not above: `status` and the like need none of what the gateway needs, and while we load our code the data
    # processes load theirs.
    from gateway.config.values import LoadFailed

    try:
        if not check:
            from gateway.supervisor.main import serve

            return serve(settings.home, overrides=overrides, passphrase=passphrase, say=_say, log=_log, ahead=ahead)
        from gateway.supervisor.load import load

        loaded = load(settings.home, overrides=overrides, passphrase=passphrase)
        _note(loaded.notices())
        warn_of_unknown_principals(loaded.home, loaded.config, loaded.policies)
    except LoadFailed as error:
        for problem in error.problems:
            _log(str(problem))
        # What stood on the command line is wrong usage.
        return 2 if all(problem.path.startswith("--") for problem in error.problems) else 1
    click.echo("gateway: everything is in order")
    return 0


def _say(line: str) -> None:
    click.echo(f"gateway: {line}")  # click.echo flushes


def _log(line: str) -> None:
    with contextlib.suppress(OSError):  # a log that nobody reads any more ends no gateway
        click.echo(f"gateway: {' '.join(line.split())}", err=True)


@click.command("status")
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_command(settings: Settings, as_json: bool) -> None:
    """Show what is connected to the running gateway now."""
    status = _ask(settings.home, "GET", "/status", timeout=_STATUS_TIMEOUT)
    if as_json:
        print_json(status)
    else:
        _show(status)


@click.command("reload")
@common_options
def reload_command(settings: Settings) -> None:
    """Have the running gateway take up its configuration, policy and certificates, all of it or nothing."""
    answer = _ask(settings.home, "POST", "/reload", timeout=300.0)
    click.echo(f"reloaded; generation {answer.get('generation')}")
    _note(answer.get("notices", ()))


@click.command("drain")
@common_options
@click.option("--no-wait", is_flag=True, help="Return when draining has begun.")
def drain_command(settings: Settings, no_wait: bool) -> None:
    """Have the running gateway finish what runs and end; returns when it has ended.

    As a lame duck it serves on for `[limits] lame_duck`, with health at 503; then it takes nothing new. Exit status 1
    when something had to be cut, or was not recorded.
    """
    answer = _ask(settings.home, "POST", "/drain", body={"wait": not no_wait})
    timeout = float(answer.get("timeout", 0.0))
    click.echo(f"draining for at most {timeout:g} s")
    if no_wait:
        return
    ends = time.monotonic() + timeout + _DRAIN_SLACK
    told = _ask(settings.home, "GET", "/drain", timeout=timeout + _DRAIN_SLACK)
    while _runs(settings.home):
        if time.monotonic() > ends:
            fail("the gateway still runs after its drain; look at its log, or end it with a second SIGTERM")
        time.sleep(_POLL)
    faults = [*cut_in_words(told.get("cut")), *map(str, told.get("problems", ()))]
    if faults:
        fail("drained, but not in order: " + "; ".join(faults))
    click.echo("drained")


def _runs(home: Path) -> bool:
    from gateway.admin.client import AdminFailed, call

    try:
        return call(home, "GET", "/status", timeout=10.0) is not None
    except AdminFailed:
        return True  # it ended while answering, or is slow: the next look tells


def _ask(
    home: Path, method: str, path: str, timeout: float = 30.0, body: Mapping[str, object] | None = None
) -> dict[str, Any]:
    from gateway.admin.client import AdminFailed, call

    try:
        answer = call(home, method, path, body or {} if method == "POST" else None, timeout)
    except AdminFailed as error:
        _refused(error)
    if answer is None:
        fail(f"no gateway runs for the home {home}; start it with `rhttp-pki gateway`, or name another with --home")
    return answer


def _refused(error: AdminFailed) -> NoReturn:
    for path, message in error.problems:
        click.echo(f"{path}: {message}" if path else message, err=True)
    fail(str(error))


def _note(notices: Iterable[Mapping[str, Any]]) -> None:
    for notice in notices:
        click.echo(f"note: {notice.get('path')}: {notice.get('message')}", err=True)


_STATES = {"restarting": "DOWN, being started again", "starting": "DOWN, starting", "silent": "DOES NOT ANSWER"}


def _process(one: dict[str, Any]) -> str:
    state, restarts = str(one.get("state")), one.get("restarts", 0)
    words = [str(one.get("stream"))]
    if one.get("pid") is not None:
        words.append(f"pid {one['pid']}")
    words.append(_STATES.get(state, state))
    if restarts:
        words.append(f"({restarts} restart{'' if restarts == 1 else 's'})")
    return " ".join(words)


def _issuer(one: dict[str, Any]) -> str:
    return f"pid {one.get('pid')}, {one.get('issued')} issued, {one.get('refused')} refused"


def _gateway(status: dict[str, Any]) -> str:
    """What it does as a whole: who has no process that answers serves nobody."""
    processes = status.get("processes", ())
    answering = sum(bool(one.get("answers")) for one in processes)
    if not answering:
        return "NOT SERVING: no data process answers"
    does = "draining" if status.get("draining") else "serving"
    return does if answering == len(processes) else f"{does}, by {answering} of {len(processes)} processes"


def _audit(told: dict[str, Any]) -> str:
    return "healthy" if told.get("healthy") else f"NOT HEALTHY: {'; '.join(map(str, told.get('faults', ())))}"


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    state = status.get("state", {})
    facts = (
        ("gateway", f"{_gateway(status)}, version {status.get('version')}"),
        ("pid", status.get("pid")),
        ("started", status.get("started")),
        *((name, one.get("url")) for name, one in status.get("listeners", {}).items()),
        ("configuration", f"generation {status.get('config', {}).get('generation')}"),
        ("state", f"version {state.get('version')}{'' if state.get('readable') else ', unreadable now'}"),
        ("audit log", _audit(status.get("audit", {}))),
        ("connections", ", ".join(f"{name} {count}" for name, count in status.get("connections", {}).items())),
        *(("process", _process(one)) for one in status.get("processes", ())),
        *(("issuer", _issuer(one)) for one in (status.get("issuer"),) if one),
    )
    for name, value in facts:
        click.echo(f"{name:<14} {value}")
    for notice in status.get("notices", ()):
        click.echo(f"{'note':<14} {notice.get('path')}: {notice.get('message')}")
    pools = Table("pool", "mode", "free", "total", "waiting", "workers")
    for pool in status.get("pools", ()):
        slots = pool.get("slots", {})
        free = slots.get("free")
        cells = (
            pool.get("pool"),
            pool.get("mode"),
            "-" if free is None else free,
            slots.get("total"),
            pool.get("waiting", 0),
            len(pool.get("workers", ())),
        )
        pools.add_row(*(Text(str(cell)) for cell in cells))  # Text: nothing that comes from outside is markup
    if pools.row_count:
        Console(highlight=False).print(pools)
