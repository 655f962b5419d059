"""The configuration in force with all that a request may be led to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from OpenSSL import SSL

from gateway.core.context import Generation
from gateway.exchange.masters import MasterPool
from gateway.http.hosts import HostMatcher
from gateway.http.routes import RouteTable
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool


@dataclass(slots=True, kw_only=True)
class Serving(Generation):
    """A generation with its listeners' settings, routes, masters and pools."""

    context: SSL.Context
    """Settings of TLS."""
    enroll_context: SSL.Context | None
    """Those of the enrolment listener, which asks for no certificate; None: there is none."""
    ca_certs: Mapping[str, bytes]
    """By role: what EST answers to ``cacerts``."""
    routes: RouteTable
    names: Sequence[str]
    """Of the server certificate."""
    authorities: HostMatcher
    dispatch_authorities: HostMatcher | None
    """None: a unix socket, where ``Host`` means nothing."""
    masters: Mapping[str, MasterPool]
    pools: Mapping[str, HostedPool | RelayPool]


def serving_of(generation: Generation) -> Serving:
    """The same generation, with what a request may be led to: a process that accepts connections has no other kind."""
    assert isinstance(generation, Serving)
    return generation
