"""The rig between its rounds: storms, paced requests, churn, many paths; and the shares of a core."""

from __future__ import annotations

import http.server
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509
from OpenSSL import SSL

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig.builds import find_command  # noqa: E402
from rig.dispatch import standing_master  # noqa: E402
from rig.home import BenchHome, make_home  # noqa: E402
from rig.processes import BenchFailed, Rig, cpu_by_process, cpu_since, free_port  # noqa: E402
from rig.shares import bandwidth_root, limited  # noqa: E402


@pytest.fixture(scope="module")
def rig() -> Rig:
    """The load rig, built from source."""
    if shutil.which("gcc") is None or not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("gcc or OpenSSL's headers are not installed")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("the bench needs two cores")
    return Rig(BENCH)


def test_standing_client_serves_rounds_over_the_same_connections(rig: Rig) -> None:
    """Connections stay between the rounds, and each round counts for itself."""
    with rig.origin() as origin:
        arguments = ["--plain", "--port", str(origin.port), "--conns", "4", "--rounds"]
        with rig.standing("client", arguments, seconds=0.2) as standing:
            rounds = [standing.round(0.2) for _ in range(3)]
    assert all(counts["done"] > 100 for counts in rounds)
    assert {counts["tls"] for counts in rounds} == {4}


def test_standing_client_paced_asks_at_the_rate_whatever_it_could_do(rig: Rig) -> None:
    """Requests come when they are due, not when the last answer did."""
    with rig.origin() as origin:
        arguments = ["--plain", "--port", str(origin.port), "--conns", "8", "--rounds", "--rate", "300"]
        with rig.standing("client", arguments, seconds=0.5) as standing:
            done = [standing.round(0.5)["done"] for _ in range(4)]
    assert 4 * 150 * 0.6 < sum(done) < 4 * 150 * 1.4


def test_standing_client_that_is_refused_says_so(rig: Rig) -> None:
    """A master that gets no good answer is no measurement, and does not wait for one."""
    port = free_port()
    with (
        standing_master(rig, port=port, conns=2, seconds=0.1),
        pytest.raises(BenchFailed, match="first bad status 101"),
        rig.standing("client", ["--plain", "--port", str(port), "--conns", "1", "--rounds"], seconds=0.1),
    ):
        pass


def test_standing_storm_cuts_all_and_counts_until_all_are_back(rig: Rig) -> None:
    """Each storm is all of them, and takes the time that it took this time."""
    with rig.origin() as origin:
        arguments = ["--plain", "--port", str(origin.port), "--conns", "50", "--upgrade", "none", "--method", "GET"]
        with rig.standing("idle", [*arguments, "--dials", "8", "--rounds"], seconds=60) as standing:
            storms = [standing.round(10) for _ in range(2)]
    for counts in storms:
        assert counts["upgraded"] == 50
        assert 0 < counts["ready_s"] < 5


def test_standing_workers_churn_when_told(rig: Rig) -> None:
    """Workers leave and join at the rate asked for while that is on, and stay while it is off."""
    port = free_port()
    arguments = ["--plain", "--port", str(port), "--conns", "20", "--churn", "100"]
    with (
        standing_master(rig, port=port, conns=40, seconds=0.4) as master,
        rig.standing("worker", arguments, seconds=60) as workers,
    ):
        workers.process.send_signal(signal.SIGUSR2)
        workers.round(0.4)
        assert master.round(0.4)["done"] > 100
        assert workers.round(0.4)["left"] == 0
        workers.process.send_signal(signal.SIGUSR2)
        select.select([], [], [], 0.4)
        moved = workers.round(0.4)
    assert 10 <= moved["left"] <= 80


def test_rig_dials_no_more_at_a_time_than_told(rig: Rig) -> None:
    """A crowd is bounded on its way in, however long the other end takes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        port = server.getsockname()[1]
        arguments = [rig.binary, "idle", "--plain", "--port", str(port), "--conns", "20", "--dials", "3"]
        with subprocess.Popen([*arguments, "--seconds", "20"], stdout=subprocess.DEVNULL) as process:
            try:
                accepted = [server.accept()[0] for _ in range(3)]
                assert select.select([server], [], [], 0.3)[0] == []
            finally:
                process.kill()
            for one in accepted:
                one.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> BenchHome:
    """A home as the bench makes it, by the interpreted build."""
    command = find_command(BENCH.parent, interpreted=True)
    return make_home(command, tmp_path_factory.mktemp("bench") / "home", origin=9, workers=1, key_type="ed25519")


@pytest.mark.parametrize(("names_it", "chain", "sent"), [(True, "named", 0), (False, "named", 1), (True, "whole", 1)])
def test_rig_sends_the_issuing_ca_as_it_is_told(
    rig: Rig, home: BenchHome, names_it: bool, chain: str, sent: int
) -> None:
    """Workers of the rig present themselves as our agents do: the leaf alone, if the server names their CA."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(home.certificate("server")))
    context.use_privatekey_file(str(home.server_key))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    authority = x509.load_pem_x509_certificate(home.certificate("worker-ca" if names_it else "client-ca").read_bytes())
    context.add_client_ca(authority)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = home.worker.rig_arguments(listener.getsockname()[1], "/")
        command = [rig.binary, "idle", *arguments, "--bare", "--conns", "1", "--chain", chain, "--seconds", "30"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                accepted = listener.accept()[0]
                connection = SSL.Connection(context, accepted)
                connection.set_accept_state()
                connection.do_handshake()
                assert len(connection.get_peer_cert_chain() or []) == sent
            finally:
                process.kill()
                accepted.close()


class Noting(http.server.BaseHTTPRequestHandler):
    """Notes each path, and answers nothing much."""

    protocol_version = "HTTP/1.1"
    paths: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.paths[self.path] += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def noting() -> Iterator[int]:
    """A server that notes paths; its port."""
    Noting.paths.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(60)


def test_rig_paths_takes_each_in_turn(rig: Rig, noting: int) -> None:
    """Dispatches go over all pools alike."""
    rig.run(
        "client", ["--plain", "--port", str(noting), "--conns", "2", "--path", "/p-{}/x", "--paths", "3"], seconds=0.3
    )
    assert set(Noting.paths) == {"/p-0/x", "/p-1/x", "/p-2/x"}
    assert max(Noting.paths.values()) - min(Noting.paths.values()) <= 1


def test_cpu_since_counts_a_process_that_came_later_from_its_start() -> None:
    """A data process that was replaced did work too."""
    pid = os.getpid()
    used = cpu_by_process(pid)
    assert cpu_since(pid, {}) >= sum(used.values())
    assert cpu_since(pid, used) < 5


@pytest.mark.parametrize(("version", "file", "text"), [(1, "cpu.cfs_quota_us", "2500"), (2, "cpu.max", "2500 10000")])
def test_limited_writes_the_share_for_each_version_of_control_groups(
    tmp_path: Path, version: int, file: str, text: str
) -> None:
    """A quarter of a core is a quarter of each period; the process is in the group and on its core."""
    root = tmp_path / "cpu" if version == 1 else tmp_path
    root.mkdir(exist_ok=True)
    (root / "cgroup.procs").touch()
    if version == 2:
        (root / "cgroup.subtree_control").write_text("cpu memory")
    assert bandwidth_root(tmp_path) == (root, version)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with limited([process.pid], 0.25, groups=tmp_path):
            group = root / f"rhttp-bench-{process.pid}"
            assert (group / file).read_text() == text
            assert (group / "cgroup.procs").read_text() == str(process.pid)
            assert os.sched_getaffinity(process.pid) == {0}
        assert (root / "cgroup.procs").read_text() == str(process.pid)  # back where it was
        process.communicate(b"\n")


def test_bandwidth_root_without_control_groups_is_refused(tmp_path: Path) -> None:
    """Where a share cannot be given, nothing is measured that would need one."""
    with pytest.raises(BenchFailed, match="control group"):
        bandwidth_root(tmp_path)
