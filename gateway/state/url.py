"""Where state is kept when the configuration does not say."""

from __future__ import annotations

from typing import Final

DEFAULT_STATE_URL: Final = "sqlite:///state.db"
