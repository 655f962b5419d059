"""Probes of idle peers: what is asked of the kernel, and that not all are probed at once."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from gateway.config.limits import Limits
from gateway.pools.tcp_keepalive import keep_alive
from rhttp.ends import Link


class Bare:
    """A link of which nothing is needed but its socket."""

    def __init__(self) -> None:
        self.sock = socket.socket()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The socket."""
        return self.sock if name == "socket" else default

    def options(self) -> tuple[int, int, int, int]:
        """Idle time, interval, count, user timeout."""
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        one, two, three, four = (self.sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        return one, two, three, four


def asked(limits: Limits, times: int = 400) -> list[tuple[int, int, int, int]]:
    """What so many links ask the kernel for."""
    found = []
    for _ in range(times):
        link = Bare()
        with link.sock:
            keep_alive(cast(Link, link), limits)
            assert link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            found.append(link.options())
    return found


def test_keep_alive_many_links_are_probed_at_different_times() -> None:
    """What dropped a burst of probes once does not meet the same burst again: idle time and interval both differ."""
    found = asked(Limits())
    assert {idle for idle, *_ in found} == set(range(23, 31))
    assert {interval for _, interval, *_ in found} == set(range(5, 11))
    assert {(count, timeout) for *_, count, timeout in found} == {(3, 75_000)}


@pytest.mark.parametrize(
    ("given", "least", "most"), [(1.0, 1, 1), (1.9, 1, 1), (2.5, 2, 2), (4.0, 3, 4), (7200, 5400, 7200)]
)
def test_keep_alive_idle_time_is_never_longer_than_configured(given: float, least: int, most: int) -> None:
    """Whole seconds, as the kernel takes them; a quarter earlier at most, and never none."""
    for idle, *_ in asked(Limits(liveness_idle=given), times=50):
        assert least <= idle <= most


def test_keep_alive_lost_link_is_left_alone() -> None:
    """Its owner hears of the loss soon; nobody is troubled here."""
    link = Bare()
    link.sock.close()
    keep_alive(cast(Link, link), Limits())
    assert link.sock.fileno() == -1
