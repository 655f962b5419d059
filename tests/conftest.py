"""Rules for the whole suite: what runs, and that nothing is left out in silence.

* Tests marked ``long`` run only with ``RHTTP_PKI_LONG=1`` (``scripts/test --long`` sets it).
* Skipped tests are counted by reason at the end; with ``CI=true`` a single skip fails the run.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

# A shared machine stalls; a slow example is no fault of the code under test.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

LONG = os.environ.get("RHTTP_PKI_LONG") == "1"
IN_CI = os.environ.get("CI", "").lower() == "true"


@pytest.fixture(scope="session")
def long_run() -> bool:
    """True when tests should use the sizes that we claim, False for sizes that fit the everyday run."""
    return LONG


def pytest_configure(config: pytest.Config) -> None:
    """Signals mean what they mean in a terminal, also in a background job, whose shell has SIGINT ignored.

    Processes that tests start would inherit that and wait for a signal that never comes. SIGTERM, which ends a run that
    takes too long, leaves no fixture behind.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", returncode=143))


def pytest_report_header() -> list[str]:
    """Say at the top which sizes run and what a skip means."""
    sizes = "full (--long)" if LONG else "reduced; scripts/test --long runs the full ones"
    skips = "a failure (CI)" if IN_CI else "counted at the end"
    return [f"sizes: {sizes}", f"skipped tests: {skips}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked ``long`` unless they were asked for."""
    if LONG:
        return
    chosen = [item for item in items if item.get_closest_marker("long") is None]
    if len(chosen) != len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def _skips(config: pytest.Config) -> Counter[str]:
    """The skipped tests of this run (modules skipped at import count as one), by reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reasons: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []) if reporter else []:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    return reasons


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test means that a machine lacks something: fail instead of passing with less."""
    if IN_CI and session.exitstatus == pytest.ExitCode.OK and _skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Count the skipped tests by reason."""
    reasons = _skips(config)
    if not reasons:
        return
    verdict = "which fails the run in CI" if IN_CI else "CI would fail"
    terminalreporter.section(f"{sum(reasons.values())} skipped, {verdict}")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")
