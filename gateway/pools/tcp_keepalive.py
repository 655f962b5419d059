"""Whether a peer is still there: PTTH/1.0 and relayed bytes have no ping, so the kernel asks, at no cost to the peer.

Trust: I/O on a socket's settings only.
"""

from __future__ import annotations

import contextlib
import socket

from gateway.config.limits import Limits
from rhttp.ends import Link


def keep_alive(link: Link, limits: Limits) -> None:
    """Have the kernel probe an idle peer, and give up one that leaves our bytes unacknowledged.

    A link that was lost in this very turn has no socket any more; its owner hears of that soon.
    """
    sock = link.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(limits.liveness_idle)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(limits.liveness_interval)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.liveness_count)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.liveness_timeout * 1000))
