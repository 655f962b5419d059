"""Whether a peer is still there: PTTH/1.0 and relayed bytes have no ping, so the kernel asks, at no cost to the peer.

Trust: I/O on a socket's settings only.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket

from gateway.config.limits import Limits
from rhttp.ends import Link


def keep_alive(link: Link, limits: Limits) -> None:
    """Have the kernel probe an idle peer, and give up one that leaves our bytes or its probes unacknowledged.

    Each link is probed up to a quarter of ``liveness_idle`` and up to half of ``liveness_interval`` earlier than they
    say. Linux fires timers of 30 s in steps of up to 2 s, so thousands that connected together would be probed at one
    moment, again and again, and what a queue on the way drops of such a burst counts against peers that are there.
    A link that was lost in this very turn has no socket any more; its owner hears of that soon.
    """
    sock = link.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _spread(limits.liveness_idle, 0.75))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _spread(limits.liveness_interval, 0.5))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.liveness_count)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.liveness_timeout * 1000))


def _spread(seconds: float, least: float) -> int:
    """Whole seconds, at least 1, from ``least`` times the value up to it."""
    whole = max(1, int(seconds))
    return random.randint(math.ceil(whole * least), whole)  # noqa: S311 - spreads load, keeps no secret
