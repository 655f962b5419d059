"""How many data processes one gateway may have: apart, since what starts them loads next to nothing."""

from __future__ import annotations

from typing import Final

MAX_PROCESSES: Final = 256
"""Data processes of one gateway, as the configuration allows."""
