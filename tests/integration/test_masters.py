"""Masters from outside: answers out of the rules, deaths, and what is tried again."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from support.origins import Origin, read_request, response, serve_forever
from support.pooling import SURPLUS
from support.rig import Rig, wait_for
from support.routing import CONFIG, OPEN
from support.wire import Answer, Wire, request

pytestmark = pytest.mark.usefixtures("fresh")


# ---- masters that misbehave -----------------------------------------------------------------------------------------

BAD_ANSWERS: dict[str, bytes] = {
    "junk": b"junk\r\n\r\n",
    "0.9": b"hello world\r\n\r\n",
    "2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 x\r\n\r\n",
    "status 999": b"HTTP/1.1 999 x\r\n\r\n",
    "status 20": b"HTTP/1.1 20 x\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "101 nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000,
    "interim with content": b"HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\nhello",
    "chunk without size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
    "another protocol": b"220 mail.example ESMTP",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "LF behind a field": b"HTTP/1.1 200 OK\r\nX: a\n",
    "LF behind a chunk's size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
    "LF in trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\n",
    "interim answers": b"HTTP/1.1 103 x\r\n\r\n" * 101,
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_answer_outside_of_the_grammar_is_502(rig: Rig, origin: Origin, wire: Wire, name: str) -> None:
    """A master's answers are untrusted; the client's own connection goes on."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(BAD_ANSWERS[name])
        peer.rest()

    with origin.scripted(script):
        answer = wire.ask("/jobs/x", "POST", content=b"x")
    assert (answer.status, answer.problem) == (502, "master-invalid")
    assert rig.line_of(answer)["outcome"] == "failed"
    assert wire.ask("/jobs/x").status == 200


def test_bytes_behind_a_whole_answer_never_become_the_next_one(origin: Origin, wire: Wire) -> None:
    """They come later than the answer, before the next request: the connection to the master is dropped."""
    sent = threading.Event()

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"first"))
        peer.send(response(b"poison"))
        sent.set()
        peer.rest()

    with origin.scripted(script):
        assert wire.ask("/jobs/x").content == b"first"
        assert sent.wait(10)  # what comes after the next request has left nobody could tell from its answer
        origin.script = serve_forever
        for _ in range(3):
            assert wire.ask("/jobs/y").json["target"] == "/jobs/y"


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("name", SURPLUS)
def test_bytes_behind_a_masters_answer_leave_it_as_it_is(
    rig: Rig, origin: Origin, wire: Wire, name: str, gap: bool
) -> None:
    """In one read with it or in the next: the answer stands, the connection is dropped, and the audit log says so."""
    whole, size = SURPLUS[name], {200: -1, 204: 0, 304: 0}
    answered = threading.Event()

    def script(peer: Wire) -> None:
        read_request(peer)
        if gap:
            end = whole.find(b"\r\n\r\n") + 4 - size[int(whole[9:12])]
            peer.send(whole[:end])
            assert answered.wait(10)
            peer.send(whole[end:])
        else:
            peer.send(whole)
        assert peer.rest() == b""

    with origin.scripted(script):
        answer = wire.ask("/jobs/x", "POST", content=b"x")
        answered.set()
        assert answer.status == int(whole[9:12])
        assert answer.content == (b"x" if answer.status == 200 else b"")
        line = rig.wait_line(event="connection.cut", request_id=answer["rhttp-request-id"])
    assert (line["reason"], line["detail"], line["source"]) == (
        "surplus",
        {"name": "jobs"},
        f"127.0.0.1:{origin.port}",
    )
    assert rig.line_of(answer, "request")["status"] == answer.status
    assert wire.ask("/jobs/y").json["target"] == "/jobs/y"


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"])
def test_master_that_dies_before_content_is_502_for_post(rig: Rig, origin: Origin, wire: Wire, cut: bytes) -> None:
    """Never sent twice: the master sees it once."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(cut)

    with origin.scripted(script):
        answer: Answer = wire.ask("/jobs/x", "POST", content=b"x")
        assert (answer.status, answer.problem) == (502, "master-lost")
        assert len(origin.wires) == 1
    assert wire.ask("/-/health").status == 200


def test_master_that_dies_in_mid_content_cuts_the_client_too(rig: Rig, origin: Origin, wire: Wire) -> None:
    """A half answer must not look whole: no close_notify, no last chunk."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        time.sleep(0.1)  # so that the first bytes are on their way to the client

    with origin.scripted(script):
        wire.send(request("/jobs/x"))
        rest = wire.rest()
        assert rest.startswith(b"HTTP/1.1 200")
        assert not rest.endswith(b"0\r\n\r\n")
        assert wire.ended != "notify"
    line = wait_for(lambda: [x for x in rig.audit() if x.get("outcome") == "failed"][-1:], bool)[0]
    assert "status" not in line


def test_get_on_a_kept_connection_that_the_master_closed_is_tried_again(origin: Origin, wire: Wire) -> None:
    """An idle connection that dies with the request on it costs nobody anything when the method is idempotent."""
    count = [0]

    def script(peer: Wire) -> None:
        read_request(peer)
        count[0] += 1
        if count[0] == 2:
            return
        peer.send(response(b"%d" % count[0]))
        read_request(peer)
        count[0] += 1

    with origin.scripted(script):
        assert wire.ask("/jobs/x").content == b"1"
        assert wire.ask("/jobs/x").content == b"3"


def test_master_that_is_not_there_is_502(rig: Rig, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody listens; the answer says so and the connection goes on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = CONFIG.format(port=taken.getsockname()[1])
        place = tmp_path_factory.mktemp("dead")
        with Rig(place, config, policy=OPEN, peers=("issue-client alice",)) as dead, dead.connect("alice") as one:
            answer = one.ask("/jobs/x", "POST", content=b"x")
            assert (answer.status, answer.problem) == (502, "master-unreachable")
            assert one.ask("/-/health").status == 200
