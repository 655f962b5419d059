"""PostgreSQL that goes silent: every wait has an end, and another connection is tried."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from support.postgres import postgres, server_folder

from gateway.state.database import StateUnavailable, create_schema, open_state, read_version

PATIENCE = 0.5


class Way:
    """A way to the server over loopback that can be made to swallow what comes; new connections pass all the same."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = os.pipe()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._deaf: set[socket.socket] = set()
        self.port = self._listener.getsockname()[1]
        self.opened = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fall_silent(self) -> None:
        """Whatever is open now is answered by nobody any more, and not closed."""
        self._deaf |= {end for pair in self._pairs for end in pair}

    def close(self) -> None:
        os.close(self._stopped)
        self._thread.join(10)
        os.close(self._stop)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _run(self) -> None:
        other: dict[socket.socket, socket.socket] = {}
        while True:
            ready, _, _ = select.select([self._stop, self._listener, *other], [], [], 10)
            for one in ready:
                if one == self._stop:
                    return
                if one is self._listener:
                    near, _ = self._listener.accept()
                    far = socket.socket(socket.AF_UNIX)
                    far.connect(self._target)
                    self.opened += 1
                    self._pairs.append((near, far))
                    other[near], other[far] = far, near
                    continue
                assert isinstance(one, socket.socket)
                data = one.recv(65536)
                if not data:
                    other.pop(one)
                elif one not in self._deaf:
                    self._pass(one, data)

    def _pass(self, one: socket.socket, data: bytes) -> None:
        for near, far in self._pairs:
            if one in (near, far):
                (far if one is near else near).sendall(data)


@pytest.fixture(scope="module")
def new_database() -> Iterator[Callable[[], str]]:
    programs = server_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres(programs) as make:
        yield make


@pytest.fixture
def way(new_database: Callable[[], str], tmp_path: object) -> Iterator[tuple[Way, str]]:
    """A way to a database with our schema, and the database's URL by that way."""
    url = new_database()
    engine = open_state(tmp_path, url)  # type: ignore[arg-type]
    create_schema(engine)
    engine.dispose()
    parts = urlsplit(url)
    made = Way(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
    yield made, f"postgresql+psycopg://rhttp@127.0.0.1:{made.port}{parts.path}?sslmode=disable&gssencmode=disable"
    made.close()


@pytest.fixture
def engine(way: tuple[Way, str], tmp_path: object) -> Iterator[Engine]:
    made = open_state(tmp_path, way[1], patience=PATIENCE)  # type: ignore[arg-type]
    yield made
    made.dispose()


def test_connection_that_went_silent_is_replaced_at_its_next_use(way: tuple[Way, str], engine: Engine) -> None:
    """Nobody else has to notice: the state is read over another one."""
    version = read_version(engine)
    assert read_version(engine) == version
    assert way[0].opened == 1
    way[0].fall_silent()
    assert read_version(engine) == version
    assert way[0].opened == 2


def test_answer_that_does_not_come_ends_the_statement(way: tuple[Way, str], engine: Engine) -> None:
    """In the middle of a transaction there is nothing to replace: it fails, in one clear line, and nothing hangs."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        way[0].fall_silent()
        with pytest.raises(OperationalError, match=r"no answer within 0\.5 s"):
            connection.execute(text("SELECT 2"))
    assert read_version(engine) >= 0


def test_server_gives_up_before_we_do(engine: Engine) -> None:
    """What we said was not done is not done later."""
    with engine.connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "450ms"
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "400ms"
        with pytest.raises(OperationalError, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(60)"))
        connection.rollback()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1  # the connection itself is well


def test_server_that_takes_connections_and_says_nothing_is_given_up(tmp_path: object) -> None:
    """A new connection has an end as well; what the URL says about it stays."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"postgresql+psycopg://rhttp@127.0.0.1:{deaf.getsockname()[1]}/x?connect_timeout=2"
        engine = open_state(tmp_path, url)  # type: ignore[arg-type]
        try:
            with pytest.raises(StateUnavailable, match="cannot be reached in time"):
                read_version(engine)
        finally:
            engine.dispose()


def test_connections_are_watched_by_tcp(engine: Engine) -> None:
    """A server whose host is gone is noticed while nobody asks."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        fd = os.dup(driver.pgconn.socket)
        with socket.socket(fileno=fd) as seen:
            assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == PATIENCE * 1000


def test_url_of_a_password_is_in_no_error(tmp_path: object) -> None:
    """The driver's texts are quoted, its parameters are not."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = make_url(f"postgresql+psycopg://rhttp:{quote('hunter2')}@127.0.0.1:{port}/x")
    engine = open_state(tmp_path, url.render_as_string(hide_password=False))  # type: ignore[arg-type]
    try:
        with pytest.raises(StateUnavailable) as caught:
            read_version(engine)
        assert "hunter2" not in str(caught.value)
    finally:
        engine.dispose()
