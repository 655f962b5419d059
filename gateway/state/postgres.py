"""Connections to PostgreSQL that never wait for ever (I/O): a server, or the way to it, may go silent at any moment.

TCP tells of a peer that is gone, by keepalives and unacknowledged bytes, but not of one whose bytes are taken and
answered by nobody (a failover behind a balancer, a firewall that lost its state, a server that hangs). So every wait of
the driver for an answer has an end; the connection is closed then, its pool with it, and the next use opens another.

Trust: trusts the database's owner.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.waiting import Ready, Wait
from sqlalchemy import Engine, create_engine, event

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from sqlalchemy.engine import URL

CONNECT_TIMEOUT = 5
"""Seconds for a new connection (libpq: for each address of the host)."""
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2}
_EVENTS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}

RV = TypeVar("RV")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends after `patience` seconds, and which is closed by that."""

    patience = 30.0

    def wait(self, gen: PQGen[RV], *_: object, **__: object) -> RV:
        """Drive one exchange with the server to its end; see `psycopg.Connection.wait`.

        Raises:
            psycopg.OperationalError: no answer in time; the connection is closed.
        """
        ends = time.monotonic() + self.patience
        poll = select.poll()
        descriptor = self.pgconn.socket
        try:
            wanted = next(gen)
            poll.register(descriptor, _EVENTS[Wait(wanted)])
            while True:
                left = ends - time.monotonic()
                found = poll.poll(left * 1000) if left > 0 else []
                if not found:
                    self.pgconn.finish()  # what comes on it later is no answer to anything
                    raise psycopg.OperationalError(f"no answer within {self.patience:g} s")
                # An error of the socket counts as both: the driver reads or writes, and says what it is.
                is_broken = found[0][1] & ~(select.POLLIN | select.POLLOUT)
                is_readable = is_broken or found[0][1] & select.POLLIN
                is_writable = is_broken or found[0][1] & select.POLLOUT
                wanted = gen.send(Ready((Ready.R if is_readable else 0) | (Ready.W if is_writable else 0)))
                poll.modify(descriptor, _EVENTS[Wait(wanted)])
        except StopIteration as stop:
            value: RV = stop.value
            return value
        except KeyboardInterrupt:
            self.pgconn.finish()
            raise


def open_engine(url: URL, patience: float) -> Engine:
    """An engine whose connections wait for `patience` seconds at most; what the URL itself sets stays.

    A connection is asked whether it is alive before each use, so one that went silent is replaced on the way.

    Raises:
        ImportError: there is no driver.
    """
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, pool_timeout=patience)
    kind: type[BoundedConnection] = type("BoundedConnection", (BoundedConnection,), {"patience": patience})
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": int(patience * 1000),
        **_KEEPALIVE,
    }

    def connect(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> Any:
        return kind.connect(*arguments, **(defaults | named))

    def connected(connection: BoundedConnection, _record: object) -> None:
        # By statement, not by `options` at the start: poolers in between refuse those. The server gives up before we
        # do, so that nothing of ours is done there after we said that it was not.
        with connection.cursor() as cursor:
            for name, seconds in (("statement_timeout", 0.9 * patience), ("lock_timeout", 0.8 * patience)):
                cursor.execute("SELECT set_config(%s, %s, false)", (name, str(int(seconds * 1000))))
        connection.commit()

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", connected)
    return engine
