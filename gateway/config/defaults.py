"""Bounds and defaults that commands need too: apart, since what starts processes loads next to nothing."""

from __future__ import annotations

from typing import Final

MAX_PROCESSES: Final = 256
"""Data processes of one gateway, as the configuration allows."""
DEFAULT_LISTEN: Final = "127.0.0.1:8443"
DEFAULT_STATE_URL: Final = "sqlite:///state.db"
