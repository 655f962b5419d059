"""The last call: nobody comes any more, and nobody who came is lost."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gateway.config.values import TcpAddress
from gateway.supervisor.fleet_drain import last_call
from gateway.supervisor.sockets import bind_tcp, bind_unix


def inherited(sock: socket.socket) -> socket.socket:
    """The same listening socket as a data process has it."""
    return socket.socket(fileno=socket.dup(sock.fileno()))


@pytest.mark.skipif(sys.platform != "linux", reason="a socket filter of Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("count", [1, 2])
def test_last_call_drops_newcomers_and_keeps_who_is_in_the_queue(host: str, count: int) -> None:
    """A connection from before is accepted and carries bytes both ways; a new one gets no answer, not even a refusal,
    until the last handle is closed."""
    listener = bind_tcp(TcpAddress(host=host, port=0), "tls", count=count)
    address = listener.sock.getsockname()
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(inherited(one.sock))) for one in (listener, *listener.more)]
        waiting = stack.enter_context(closing(socket.create_connection(address[:2], timeout=20)))
        waiting.sendall(b"asked")
        last_call([listener])
        with closing(socket.socket(waiting.family)) as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(address)
        for sock in sockets:
            sock.setblocking(False)
            try:
                taken, _ = sock.accept()
            except BlockingIOError:
                continue
            with taken:
                taken.settimeout(20)
                assert taken.recv(5) == b"asked"
                taken.sendall(b"told")
            assert waiting.recv(5) == b"told"
            break
        else:
            pytest.fail("the connection that waited is in no queue")
    with closing(socket.socket(waiting.family)) as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(address)


def test_last_call_takes_the_file_of_a_unix_socket_away(tmp_path: Path) -> None:
    """Who came before is in the queue still."""
    path = tmp_path / "d.sock"
    listener = bind_unix(path, "dispatch", mode=0o600)
    with closing(inherited(listener.sock)) as ours, closing(socket.socket(socket.AF_UNIX)) as waiting:
        waiting.connect(str(path))
        last_call([listener])
        assert not path.exists()
        ours.accept()[0].close()
