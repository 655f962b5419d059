"""Elapsed time: the one clock by which the gateway tells how long ago something was.

The time of day may be set, back or forth, at any moment. It is for what is shown, what a certificate says (RFC 5280
section 4.1.2.5) and what a policy asks; everything that counts seconds takes this clock.
"""

from __future__ import annotations

import time


def elapsed() -> float:
    """Seconds since the host was started, its sleep included (clock_gettime(2), ``CLOCK_BOOTTIME``).

    Never goes back, cannot be set, and is the same in all processes of a host.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
