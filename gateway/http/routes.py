"""Which route a path takes.

``/x/*`` matches ``/x/`` and everything below, not ``/x``; a path without the star matches itself; the longest match
wins, between equals the exact one. ``/-`` and everything under ``/-/`` is the gateway's own and matches nothing here.

Trust: untrusted client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.config.route_paths import is_reserved
from gateway.config.values import RouteConfig
from rhttp.http1.target import BadTarget, Target, parse_target, readings
from rhttp.memo import Memo

_KNOWN_TARGETS: Final = 4096
"""Targets remembered with their route: most requests ask for what was asked for before."""
_KNOWN_BYTES: Final = 256


class RouteTable:
    """The routes of one configuration, immutable. Routes are as `gateway.config.check` lets them through."""

    __slots__ = ("_exact", "_known", "_longest", "_prefixes")

    def __init__(self, routes: Sequence[RouteConfig]) -> None:
        self._exact: dict[bytes, RouteConfig] = {}
        self._prefixes: dict[bytes, RouteConfig] = {}
        for route in routes:
            path = route.path.encode("ascii")
            table, key = (self._prefixes, path[:-1]) if path.endswith(b"/*") else (self._exact, path)
            if key in table:
                raise ValueError(f"two routes have the path {route.path}")
            table[key] = route
        self._known: Memo[bytes, tuple[Target, RouteConfig | None]] = Memo(_KNOWN_TARGETS)
        self._longest = max(map(len, self._prefixes), default=0)

    def match(self, path: bytes) -> RouteConfig | None:
        """The route of a normal path; None when there is none, also for reserved paths and ``*``.

        Costs one dictionary look-up for each slash within the length of the longest prefix, so a path of thousands of
        segments costs no more than one of a few.
        """
        if path.startswith((b"/-", b"/.w")) and is_reserved(path):
            return None
        return self._exact.get(path) or self._match_prefix(path)

    def _match_prefix(self, path: bytes) -> RouteConfig | None:
        end = path.rfind(b"/", 0, self._longest)
        while end >= 0:
            route = self._prefixes.get(path[: end + 1])
            if route is not None:
                return route
            end = path.rfind(b"/", 0, end)
        return None

    def resolve(self, raw: bytes, *, method: bytes) -> tuple[Target, RouteConfig | None] | BadTarget:
        """Read a request target and find its route, honouring what single routes allow beyond the strict reading.

        A path with empty segments or encoded slashes is accepted only when the route of its literal prefix allows them
        *and* every reading of it (see `readings`) leads to that same route: servers behind us that merge slashes or
        decode ``%2F`` then find nothing that another route, or the gateway itself, was to guard. Such a path never
        reaches a reserved one.
        """
        known = self._known.get(raw)
        if known is not None:
            return known
        target = parse_target(raw, method=method)
        if isinstance(target, Target):
            found = target, self.match(target.path)
            if len(raw) <= _KNOWN_BYTES and not target.asterisk:
                self._known.remember(raw, found)
            return found
        if target.literal_prefix is None:
            return target
        route = self._match_prefix(target.literal_prefix)
        if route is None:
            return target
        allowed = parse_target(
            raw,
            method=method,
            allow_empty_segments=route.allow_empty_segments,
            allow_encoded_slash=route.allow_encoded_slash,
        )
        if isinstance(allowed, BadTarget) or any(self.match(path) is not route for path in readings(allowed.path)):
            return target
        return allowed, route
