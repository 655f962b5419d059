"""Fields from outside: what is stripped and what is set, in both directions, in heads and trailers."""

from __future__ import annotations

import pytest
from support.origins import Origin, read_request, response
from support.rig import Rig
from support.routing import arrived
from support.wire import Wire, chunked, request

pytestmark = pytest.mark.usefixtures("fresh")


# ---- fields ---------------------------------------------------------------------------------------------------------

STRIPPED = """Connection: X-Named, x_alias, close-ish
X-Named: 1
X_Named: 2
x-alias: 3
Close-Ish: 4
Keep-Alive: timeout=5
Proxy-Connection: keep-alive
Proxy-Authorization: Basic eDp5
Proxy-Whatever: 1
TE: trailers
Trailer: X
Forwarded: for=6.6.6.6
X-Forwarded-For: 6.6.6.6
X-Forwarded-Proto: gopher
x_forwarded_host: evil
X-Forwarded_Port: 1
X-Real-IP: 6.6.6.6
X_Real_IP: 6.6.6.6
Client-Cert: :AAAA:
Client-Cert-Chain: :AAAA:
client_cert: :AAAA:
Rhttp-Identity: client/root
rhttp_identity: client/root
Rhttp_Identity: client/root
RHTTP-Request-Id: mine
Rhttp-Anything: x
Rhttp: y""".splitlines()
KEPT = [
    "Accept: */*",
    "X-Real: ok",
    "Cookie: a=b; c",
    "Authorization-X: ok",
    "X-Odd: caf\xe9 \t ok",
    "Forwarded-By: ok",
]


def test_fields_that_are_ours_to_set_are_stripped_with_every_alias(rig: Rig, origin: Origin, wire: Wire) -> None:
    """What a master reads there is from us alone; everything else passes as it is."""
    answer = wire.ask("/jobs/x", "GET", *STRIPPED[:-1], *KEPT)
    assert answer.status == 200
    taken = arrived(origin)
    expected = [line.partition(":")[0].lower() for line in KEPT]
    ours = ["host", "forwarded", "via", "rhttp-identity", "rhttp-request-id"]
    assert sorted(taken.names) == sorted(expected + ours)
    for line in KEPT:
        name, _, value = line.partition(":")
        assert taken[name.lower()] == value.strip()
    assert taken["rhttp-identity"] == "client/alice"
    assert taken["rhttp-request-id"] == answer["rhttp-request-id"] == rig.line_of(answer)["request_id"]
    assert taken["forwarded"] == 'for=127.0.0.1;proto=https;host="localhost"'
    assert taken["via"].startswith("1.1 rhttp-")


def test_content_fields_under_an_alias_do_not_pass(origin: Origin, wire: Wire) -> None:
    """A server that reads `_` as `-` finds no second length."""
    answer = wire.ask(
        "/jobs/x", "POST", "Content_Length: 3", "Transfer_Encoding: chunked", "Host_: x", content=b"12345"
    )
    assert answer.json["length"] == 5
    assert b"_" not in origin.raw.partition(b"\r\n\r\n")[0].replace(b"host_", b"")


def test_trailers_are_stripped_like_heads(origin: Origin, wire: Wire) -> None:
    """Ours to set, or named by Connection: neither passes behind the content."""
    trailers = ["Rhttp-Identity: client/root", "X-Forwarded-For: 6.6.6.6", "x_real_ip: 1", "Client-Cert: :AA:"]
    trailers += ["Forwarded: for=1", "X-Named: 1", "X-Sum: ok"]
    wire.send(request("/jobs/x", "POST", "Transfer-Encoding: chunked", "Connection: X-Named"))
    wire.send(chunked(b"x", trailers=trailers))
    assert wire.answer().status == 200
    end = origin.raw.lower().partition(b"\r\n0\r\n")[2]
    assert end == b"x-sum: ok\r\n\r\n"


@pytest.mark.parametrize(
    "line", ["Content-Length: 3", "Host: x", "Transfer-Encoding: chunked", "Authorization: x", "X: \x00"]
)
def test_trailers_that_frame_or_route_are_refused(origin: Origin, rig: Rig, wire: Wire, line: str) -> None:
    """The exchange ends: no whole request reaches the master."""
    wire.send(request("/jobs/x", "POST", "Transfer-Encoding: chunked") + chunked(b"x", trailers=[line]))
    answer = wire.answer()
    assert answer.status == 400
    assert wire.rest() == b""
    assert b"0\r\n" not in origin.raw.partition(b"\r\n\r\n")[2]


def test_via_is_appended_and_a_loop_is_508(origin: Origin, wire: Wire) -> None:
    """A request that has passed this gateway before does not pass it again."""
    assert wire.ask("/jobs/x", "GET", "Via: 1.0 fred, 1.1 p.example (x)").status == 200
    via = arrived(origin)["via"]
    assert via.startswith("1.0 fred, 1.1 p.example (x), 1.1 rhttp-")
    origin.clear()
    for line in (f"Via: {via}", f"Via: 1.1 x, {via.rpartition(', ')[2].upper()}"):
        answer = wire.ask("/jobs/x", "GET", "Via: 1.1 other", line)
        assert (answer.status, answer.problem) == (508, "loop-detected")
    assert origin.raw == b""


def test_answer_fields_are_stripped_and_ours_set(origin: Origin, wire: Wire) -> None:
    """Hop-by-hop fields, Rhttp-*, Proxy-*, Alt-Svc and a master's own challenges do not reach the client."""
    lines = ["Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Rhttp-Worker: evil", "rhttp_x: 1"]
    lines += ["Proxy-Authenticate: Basic", "Proxy-X: 1", "Alt-Svc: h3=:1", "alt_svc: h3=:1", "Upgrade: h2c"]
    lines += ["WWW-Authenticate: Basic realm=x", "Authentication-Info: a=b", "Rhttp-Request-Id: forged", "Trailer: X"]
    lines += ["X-Ok: 1", "Set-Cookie: a=1", "Set-Cookie: b=2", "Server: origin"]

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"x", "207 Odd Words", *lines))

    with origin.scripted(script):
        answer = wire.ask("/jobs/x")
    names = [name for name, _ in answer.fields]
    assert sorted(names) == sorted(
        ["x-ok", "set-cookie", "set-cookie", "server", "rhttp-request-id", "date", "content-length"]
    )
    assert answer["rhttp-request-id"] != "forged"
    assert answer.all("set-cookie") == ["a=1", "b=2"]


def test_answer_trailers_are_stripped(origin: Origin, wire: Wire) -> None:
    """Behind the content the same rule holds."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n\r\n")
        peer.send(chunked(b"x", trailers=["Rhttp-Worker: evil", "Alt-Svc: h3", "Proxy-X: 1", "X-Hop: 1", "X-Ok: 1"]))

    with origin.scripted(script):
        assert wire.ask("/jobs/x").trailers == (("x-ok", "1"),)


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required"])
def test_master_that_asks_for_credentials_is_502(origin: Origin, wire: Wire, status: str) -> None:
    """No client shall ever type its password for somebody behind us."""

    def script(peer: Wire) -> None:
        read_request(peer)
        peer.send(response(b"x", status, "WWW-Authenticate: Basic realm=x"))

    with origin.scripted(script):
        answer = wire.ask("/jobs/x")
    assert (answer.status, answer.problem) == (502, "master-asked-credentials")
    assert not answer.challenges
    assert wire.ask("/-/health").status == 200
