"""The routes that the tests of requests share: every allowance that a route can have, and a policy without Digest."""

from __future__ import annotations

from support.origins import Origin, Request

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{port}"]
[masters.inner]
urls = ["http://127.0.0.1:{port}"]
host = "inner.example:81"
[[routes]]
path = "/jobs/*"
master = "jobs"
[[routes]]
name = "deep"
path = "/jobs/deep/*"
master = "inner"
[[routes]]
name = "exact"
path = "/exact"
master = "inner"
[[routes]]
name = "slashes"
path = "/slashes/*"
master = "jobs"
allow_empty_segments = true
[[routes]]
name = "encoded"
path = "/encoded/*"
master = "jobs"
allow_encoded_slash = true
[[routes]]
name = "cross"
path = "/cross/*"
master = "jobs"
allow_cross_site = true
[pools.render]
[audit]
fold_after = 100000
"""
OPEN = """
@id("all") permit (principal is Client, action, resource);
@id("local") permit (principal is Master, action, resource);
"""


def arrived(origin: Origin) -> Request:
    """The one request that the master has."""
    (recorded,) = [bytes(wire.received) for wire in origin.wires]
    head, mark, content = recorded.partition(b"\r\n\r\n")
    return Request(head + mark, content, ())
