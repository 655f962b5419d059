"""The paths that a route may have, and those that are the gateway's own.

These are ``/-`` and ``/.well-known/est`` (RFC 7030), and everything under them.

Trust: the operator means well.
"""

from __future__ import annotations

from rhttp.http1.target import BadTarget, parse_target


def is_reserved(path: bytes) -> bool:
    """Is the path the gateway's own? `path` is normal."""
    return path.startswith((b"/-/", b"/.well-known/est/")) or path in (b"/-", b"/.well-known/est")


def route_path_problem(path: str) -> str | None:
    """What is wrong with the path of a route, and the mend; None when it can stand in a `RouteTable`."""
    if not path.startswith("/"):
        return f"must begin with a slash; write {'/' + path!r}"
    star = path.endswith("/*")
    literal = path[:-1] if star else path
    if "*" in literal:
        return "a star may stand only at the end, after a slash, as in '/jobs/*'"
    if "?" in literal:
        return "a route looks at the path only; leave out '?' and what follows"
    encoded = "".join(c if c.isascii() else "".join(f"%{octet:02X}" for octet in c.encode()) for c in literal)
    target = parse_target(encoded.encode("ascii"), method=b"GET")
    if isinstance(target, BadTarget):
        return f"no request can have this path ({target.fault.value}); write it without"
    if is_reserved(target.path):
        return "/- and /.well-known/est, and everything under them, are the gateway's own; choose another path"
    normal = target.path.decode("ascii")
    if normal != literal:
        return f"is not in normal form, so no request would match it; write {normal + ('*' if star else '')!r}"
    return None
