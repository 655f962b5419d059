"""Listening sockets: bound or clearly refused, and no file removed that another process uses."""

from __future__ import annotations

import dataclasses
import socket
import stat
from pathlib import Path

import pytest
from support.fakegateway import FakeState, make_loaded

from gateway.config.values import MetricsConfig, TcpAddress
from gateway.supervisor.sockets import (
    DISPATCH_MODE,
    MESH_MODE,
    Listener,
    ListenFailed,
    bind_all,
    bind_mesh,
    bind_tcp,
    bind_unix,
    close_all,
)
from rhttp.http1.limits import UNIX_PATH_MAX

ANY_PORT = TcpAddress(host="127.0.0.1", port=0)


def port_of(listener: Listener) -> int:
    return int(listener.sock.getsockname()[1])


def test_tcp_port_0_tells_the_real_port_and_accepts() -> None:
    """Who reads the URL can connect to it."""
    listener = bind_tcp(ANY_PORT, "tls")
    assert listener.url == f"https://127.0.0.1:{port_of(listener)}"
    assert listener.facts() == {"url": listener.url, "host": "127.0.0.1", "port": port_of(listener)}
    socket.create_connection(("127.0.0.1", port_of(listener)), timeout=5).close()
    listener.close()


def test_tcp_ipv6_is_written_in_brackets() -> None:
    """The URL of an IPv6 listener is one that clients take."""
    listener = bind_tcp(TcpAddress(host="::1", port=0), "dispatch")
    assert listener.url == f"http://[::1]:{port_of(listener)}"
    listener.close()


def test_tcp_port_in_use_is_refused_with_the_address() -> None:
    """Two gateways on one port are one clear error."""
    first = bind_tcp(ANY_PORT, "tls")
    with pytest.raises(ListenFailed, match=f"127.0.0.1:{port_of(first)} .*in use"):
        bind_tcp(TcpAddress(host="127.0.0.1", port=port_of(first)), "tls")
    first.close()


def test_tcp_port_of_an_ended_gateway_is_free_at_once() -> None:
    """A restart does not wait for connections in TIME_WAIT."""
    first = bind_tcp(ANY_PORT, "tls")
    port = port_of(first)
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    first.sock.setblocking(True)
    served, _address = first.sock.accept()
    served.close()
    client.close()
    first.close()
    bind_tcp(TcpAddress(host="127.0.0.1", port=port), "tls").close()


LOCAL, EVERY = "127.0.0.1", "0.0.0.0"


@pytest.mark.parametrize("host", [LOCAL, EVERY, "::1"])
def test_tcp_port_is_shared_evenly_by_the_sockets_of_several_processes(host: str) -> None:
    """Each process has its own queue, and the kernel fills all of them alike."""
    listener = bind_tcp(TcpAddress(host=host, port=0), "tls", count=4)
    socks = [listener.sock, *(other.sock for other in listener.more)]
    assert listener.numbers() == tuple(sock.fileno() for sock in socks)
    assert len({sock.getsockname() for sock in socks}) == 1
    clients = [socket.create_connection((host, port_of(listener)), timeout=5) for _ in range(200)]
    counts = [accept_all(sock) for sock in socks]
    assert sum(counts) == 200
    assert min(counts) > 20  # of 50; less is a matter of luck for once in some hundred million runs
    for client in clients:
        client.close()
    listener.close()
    assert all(sock.fileno() < 0 for sock in socks)


def accept_all(sock: socket.socket) -> int:
    """How many connections wait in this queue."""
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("host", [LOCAL, EVERY])
@pytest.mark.parametrize("other", [LOCAL, EVERY])
@pytest.mark.parametrize(("held", "wanted"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_tcp_port_of_another_gateway_is_never_shared(host: str, other: str, held: int, wanted: int) -> None:
    """Sockets that share a port share it among the processes of one gateway, not with the same user's next one."""
    first = bind_tcp(TcpAddress(host=host, port=0), "tls", count=held)
    with pytest.raises(ListenFailed, match=f"{other}:{port_of(first)} .*in use"):
        bind_tcp(TcpAddress(host=other, port=port_of(first)), "tls", count=wanted)
    with socket.create_connection((LOCAL, port_of(first)), timeout=5):
        assert accept_all(first.sock) + sum(accept_all(more.sock) for more in first.more) == 1
    first.close()


def test_tcp_port_of_an_ended_gateway_with_several_processes_is_free_at_once() -> None:
    """Connections that live on in somebody's hands, or in TIME_WAIT, lock nobody out, however many processes follow."""
    first = bind_tcp(ANY_PORT, "tls", count=2)
    address = TcpAddress(host="127.0.0.1", port=port_of(first))
    clients = [socket.create_connection(("127.0.0.1", address.port), timeout=5) for _ in range(16)]
    served = []
    for sock in (first.sock, first.more[0].sock):
        while True:
            try:
                served.append(sock.accept()[0])
            except BlockingIOError:
                break
    for sock in served[:8]:
        sock.close()
    first.close()
    for count in (1, 2, 1):
        bind_tcp(address, "tls", count=count).close()
    for sock in (*clients, *served):
        sock.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_tcp_address_that_is_not_ours_is_refused(host: str) -> None:
    """An address of no interface, and a name of nobody, say so."""
    with pytest.raises(ListenFailed, match=host):
        bind_tcp(TcpAddress(host=host, port=0), "tls")


def test_unix_socket_has_its_mode_and_goes_when_closed(tmp_path: Path) -> None:
    """Who may connect is decided by the mode that was asked for, whatever the umask."""
    path = tmp_path / "dispatch.sock"
    listener = bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert listener.facts() == {"url": f"unix:{path}", "path": str(path)}
    listener.close()
    assert not path.exists()


def test_unix_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """A gateway that was killed does not lock the next one out."""
    path = tmp_path / "dispatch.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bind_unix(path, "dispatch", mode=DISPATCH_MODE).close()


def test_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    """Another process's socket is not taken from it."""
    path = tmp_path / "dispatch.sock"
    first = bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    with pytest.raises(ListenFailed, match="another process listens"):
        bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_unix_path_with_another_file_is_left_alone(tmp_path: Path) -> None:
    """A file, or a link to one, is never removed for a socket."""
    path = tmp_path / "dispatch.sock"
    path.write_text("precious")
    with pytest.raises(ListenFailed, match="no socket"):
        bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    assert path.read_text() == "precious"


def test_unix_socket_replaced_by_another_is_not_removed_at_close(tmp_path: Path) -> None:
    """Closing removes what this listener made, not what stands there by now."""
    path = tmp_path / "dispatch.sock"
    first = bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    path.rename(tmp_path / "moved")
    second = bind_unix(path, "dispatch", mode=DISPATCH_MODE)
    first.close()
    assert path.exists()
    second.close()


def test_unix_path_at_the_limit_binds_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    """The kernel's limit is told in words, before it is met."""
    path = tmp_path / ("x" * (UNIX_PATH_MAX - len(bytes(tmp_path)) - 1))
    bind_unix(path, "dispatch", mode=DISPATCH_MODE).close()
    with pytest.raises(ListenFailed, match="over 107 bytes"):
        bind_unix(path.with_name(path.name + "x"), "dispatch", mode=DISPATCH_MODE)


def test_unix_folder_missing_is_refused(tmp_path: Path) -> None:
    """A socket in a folder that is not there names the mend."""
    with pytest.raises(ListenFailed, match="folder does not exist"):
        bind_unix(tmp_path / "none" / "x.sock", "dispatch", mode=DISPATCH_MODE)


def test_all_binds_everything_or_nothing(tmp_path: Path) -> None:
    """When the last listener fails, the first ones are closed again."""
    (tmp_path / "run").mkdir()
    config = make_loaded(tmp_path, FakeState()).config
    taken = bind_tcp(ANY_PORT, "metrics")
    address = TcpAddress(host="127.0.0.1", port=port_of(taken))
    with pytest.raises(ListenFailed, match="metrics"):
        bind_all(dataclasses.replace(config, metrics=MetricsConfig(listen=address)))
    assert not (tmp_path / "run" / "dispatch.sock").exists()
    taken.close()
    made = bind_all(dataclasses.replace(config, dispatch=ANY_PORT))
    assert sorted(made) == ["dispatch", "tls"]
    close_all(made)


def test_all_of_several_processes_has_a_socket_for_each_but_one_where_files_are(tmp_path: Path) -> None:
    """TCP ports are shared by the kernel; masters' files and the metrics are one queue; each process can be reached."""
    (tmp_path / "run").mkdir()
    config = dataclasses.replace(
        make_loaded(tmp_path, FakeState()).config, processes=3, metrics=MetricsConfig(listen=ANY_PORT)
    )
    made = bind_all(config)
    assert {purpose: len(listener.numbers()) for purpose, listener in made.items()} == {
        "tls": 3,
        "dispatch": 1,
        "metrics": 1,
        "mesh": 3,
    }
    paths = [made["mesh"].path, *(other.path for other in made["mesh"].more)]
    assert paths == [tmp_path / "run" / f"p{number}.sock" for number in range(3)]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths if path] == [0o600] * 3
    close_all(made)
    assert list((tmp_path / "run").iterdir()) == []
    tcp = bind_all(dataclasses.replace(config, dispatch=ANY_PORT))
    assert len(tcp["dispatch"].numbers()) == 3
    close_all(tcp)


def test_all_with_one_mesh_socket_in_use_leaves_nothing(tmp_path: Path) -> None:
    """The sockets before it are gone again, and so is everything else."""
    (tmp_path / "run").mkdir()
    taken = bind_unix(tmp_path / "run" / "p2.sock", "mesh", mode=MESH_MODE)
    config = dataclasses.replace(make_loaded(tmp_path, FakeState()).config, processes=3)
    with pytest.raises(ListenFailed, match="another process listens"):
        bind_all(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["p2.sock"]
    taken.close()


def test_mesh_socket_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    """In the words that every unix socket has for it."""
    with pytest.raises(ListenFailed, match=r"the mesh socket's path .* over 107 bytes"):
        bind_mesh(tmp_path / ("x" * UNIX_PATH_MAX), 2)
