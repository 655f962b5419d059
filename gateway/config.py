"""``gateway.toml``: read, checked as a whole, and turned into one immutable `Config`."""

from __future__ import annotations

from gateway.configvalues import (
    AuditConfig,
    Config,
    ConfigInvalid,
    ConfigProblem,
    DigestConfig,
    MasterConfig,
    MasterUrl,
    MetricsConfig,
    PoolConfig,
    RouteConfig,
    StateConfig,
    TcpAddress,
    UnixAddress,
)
from gateway.limits import Limits

__all__ = [
    "AuditConfig",
    "Config",
    "ConfigInvalid",
    "ConfigProblem",
    "DigestConfig",
    "Limits",
    "MasterConfig",
    "MasterUrl",
    "MetricsConfig",
    "PoolConfig",
    "RouteConfig",
    "StateConfig",
    "TcpAddress",
    "UnixAddress",
]
