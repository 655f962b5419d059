"""Who speaks with a worker once it has switched roles, by the dialect in which it asked.

Trust: data.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.exchange.ends import Speak
from rhttp.http1.client import speak_http1
from rhttp.reversal.upgrade import PTTH_1_0

DIALECTS: Final[Mapping[str, Speak]] = MappingProxyType({PTTH_1_0.name: speak_http1})
"""By the name of the variant: see `rhttp.reversal.upgrade`."""
