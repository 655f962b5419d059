"""Every size, count and timeout of a gateway: one value a name, its default, its unit and the bounds it may be set to.

The key of ``[limits]`` in ``gateway.toml`` is the attribute's name. The defaults are the safe ones for a gateway at the
edge; the bounds keep a slip of the finger (a timeout of 30,000, a buffer of 4 GiB) from becoming a configuration.
Whether two limits fit each other is looked at in `gateway.config.check`.

Trust: data only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# TOML has types, so a number in quotes or a boolean is a mistake. (A strict *table* would refuse a mapping too.)
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]


def size(low: int, high: int, text: str) -> Any:
    """A number of bytes, from `low` to `high`."""
    return Field(ge=low, le=high, description=text, json_schema_extra={"unit": "bytes"})


def count(low: int, high: int, text: str) -> Any:
    """A number of things, from `low` to `high`."""
    return Field(ge=low, le=high, description=text)


def seconds(high: float, text: str, *, low: float | None = None) -> Any:
    """A duration, above zero when `low` is not given."""
    unit: dict[str, Any] = {"unit": "seconds"}
    if low is None:
        return Field(gt=0, le=high, description=text, json_schema_extra=unit)
    return Field(ge=low, le=high, description=text, json_schema_extra=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The ``[limits]`` table; immutable, shared by everything that counts or waits."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    # Message heads (RFC 9110 section 5.4 and RFC 9112 section 3 leave the numbers to us).
    head_bytes: Annotated[Int, size(1 * KIB, MIB, "One head, request line and all fields; more is 431.")] = 32 * KIB
    request_line_bytes: Annotated[Int, size(256, 64 * KIB, "The request line; more is 414.")] = 8 * KIB
    fields: Annotated[Int, count(8, 1000, "Field lines in one head; more is 431.")] = 100
    trailer_bytes: Annotated[Int, size(256, 64 * KIB, "The trailer section of one message.")] = 8 * KIB

    interim_answers: Annotated[
        Int, count(0, 10000, "Interim answers (1xx) of a master or worker to one request; then 502.")
    ] = 100
    interim_bytes: Annotated[Int, size(0, 16 * MIB, "Their heads in all; more is 502.")] = 64 * KIB

    # One connection in time.
    handshake_timeout: Annotated[Float, seconds(300, "From accepting a connection to the end of TLS.")] = 10.0
    head_timeout: Annotated[Float, seconds(300, "From a head's first byte to its last; then 408.")] = 10.0
    keep_alive_timeout: Annotated[Float, seconds(3600, "Between two requests of one connection.")] = 75.0
    content_timeout: Annotated[Float, seconds(3600, "Without a byte of progress in content.")] = 60.0
    answer_timeout: Annotated[Float, seconds(86400, "For a master's or worker's final answer; then 504.")] = 300.0

    # Connections to masters.
    master_connect_timeout: Annotated[Float, seconds(120, "For a new connection to a master; then 502.")] = 5.0
    master_idle_connections: Annotated[
        Int, count(0, 10000, "Idle connections kept to one master URL; more for a second only, none with 0.")
    ] = 64
    master_idle_timeout: Annotated[Float, seconds(3600, "An idle connection to a master is kept so long.")] = 30.0
    master_connections: Annotated[Int, count(1, 65536, "Connections to one master URL; beyond: 503.")] = 1024

    # Connections of clients, masters and workers.
    connections: Annotated[Int, count(1, 1000000, "Open connections of one process on the TLS listener.")] = 16000
    handshakes: Annotated[
        Int, count(1, 65536, "TLS handshakes under way in one process; idle ones of one source: a quarter.")
    ] = 512
    dispatch_connections: Annotated[Int, count(1, 65536, "Connections of masters on this host to one process.")] = 2048
    metrics_connections: Annotated[Int, count(1, 1024, "Connections to the metrics listener in one process.")] = 32
    pki_connections: Annotated[Int, count(1, 1024, "Connections to the listener of `[pki]` in one process.")] = 64
    ocsp_signatures: Annotated[
        Int, count(1, 100000, "OCSP answers that one process signs in a second; beyond: try later.")
    ] = 500
    enroll_connections: Annotated[
        Int,
        count(1, 65536, "Connections to the enrolment listener in one process; idle ones of a source: a quarter."),
    ] = 512
    admin_connections: Annotated[Int, count(1, 1024, "Connections to the admin socket.")] = 32
    connections_per_client: Annotated[Int, count(1, 65536, "Connections of one client or master identity.")] = 256
    connections_per_worker: Annotated[Int, count(1, 65536, "Connections of one worker identity.")] = 64

    # Buffers of one connection.
    pipelined_bytes: Annotated[
        Int, size(4 * KIB, MIB, "Bytes read ahead while a request is being served or waits for a slot.")
    ] = 64 * KIB
    retained_content: Annotated[
        Int, size(0, 16 * MIB, "Content kept while a request waits for a slot, or to send it once more.")
    ] = 64 * KIB
    buffer_bytes: Annotated[
        Int, size(4 * KIB, 16 * MIB, "Content under way in one direction before the sender is paused.")
    ] = 64 * KIB

    # After a refusal.
    refused_content: Annotated[Int, size(0, 64 * MIB, "Content of a refused request that is read and dropped.")] = MIB
    refused_timeout: Annotated[
        Float, seconds(60, "Refused content, and input after our end was shut, is read while no gap is longer.")
    ] = 5.0
    linger: Annotated[Float, seconds(30, "Input is discarded so long after our end was shut.", low=0)] = 2.0
    linger_time: Annotated[
        Float, seconds(300, "What is refused or discarded is read no longer in all, however steadily it comes.", low=0)
    ] = 30.0
    upgrade_retry_timeout: Annotated[
        Float, seconds(60, "A worker answered 401 may ask again on its connection so long.")
    ] = 5.0

    # Pools.
    slots_per_connection: Annotated[
        Int, count(1, 10000, "Slots that one HTTP/2 connection may bring; not used yet.")
    ] = 100
    wait_max: Annotated[Float, seconds(3600, "The most that Prefer: wait=N is honoured for.", low=0)] = 60.0
    event_streams: Annotated[Int, count(0, 65536, "Open event streams of one process.")] = 256
    event_queue: Annotated[Int, count(1, 100000, "Events waiting for one reader; beyond, it is cut.")] = 1000
    liveness_idle: Annotated[
        Float, seconds(7200, "Idle time after which a peer is probed (TCP), or up to a quarter less.", low=1)
    ] = 30.0
    liveness_interval: Annotated[
        Float, seconds(3600, "Between two probes of an idle peer, or up to half less.", low=1)
    ] = 10.0
    liveness_count: Annotated[
        Int, count(1, 50, "Unanswered probes after which a peer is gone; Linux asks liveness_timeout instead.")
    ] = 3
    # Linux counts a live peer that does not read as dead under TCP_USER_TIMEOUT, so this stays above content_timeout.
    liveness_timeout: Annotated[Float, seconds(3600, "Bytes and probes may stay unacknowledged so long.", low=1)] = 75.0

    # The whole gateway.
    lame_duck: Annotated[
        Float, seconds(3600, "At shutdown: still accept and serve so long, with health at 503.", low=0)
    ] = 1.0
    drain_timeout: Annotated[Float, seconds(86400, "Exchanges may take so long at shutdown.", low=0)] = 30.0
    state_stale: Annotated[
        Float, seconds(3600, "With state unread for so long, requests on the TLS listener are refused.", low=2)
    ] = 10.0
