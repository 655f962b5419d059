"""After every test: no gateway that runs has written a traceback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.rig import LIVE


@pytest.fixture(autouse=True)
def _no_tracebacks() -> Iterator[None]:
    """Whatever came in, it was answered by rule."""
    yield
    for rig in tuple(LIVE):
        rig.check_stderr()
