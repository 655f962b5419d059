"""Targets, authorities and methods over routes from outside, and the dispatch listener that has none."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support.origins import Origin
from support.rig import Rig
from support.routing import CONFIG, OPEN, arrived
from support.runhomes import set_key
from support.wire import Wire, request

pytestmark = pytest.mark.usefixtures("fresh")


# ---- targets --------------------------------------------------------------------------------------------------------

GOOD_TARGETS = {
    "/jobs/": "/jobs/",
    "/jobs/a/b": "/jobs/a/b",
    "/jobs/%61%7E%2d": "/jobs/a~-",
    "/jobs/%c3%a9": "/jobs/%C3%A9",
    "/jobs/%252F": "/jobs/%252F",
    "/jobs/a;p=1,2/b=c@d:e!$&'()*+": "/jobs/a;p=1,2/b=c@d:e!$&'()*+",
    "/jobs/x?q=%2e%2E/../%5c%00": "/jobs/x?q=%2e%2E/../%5c%00",
    "/jobs/x?": "/jobs/x?",
    "/jobs/x??a=/b": "/jobs/x??a=/b",
    "/jobs/[x]|": "/jobs/%5Bx%5D%7C",
    "/jobs/...": "/jobs/...",
    "/jobs/.hidden": "/jobs/.hidden",
    "/%6Aobs/x": "/jobs/x",
    "https://localhost/jobs/x": "/jobs/x",
    "https://localhost/jobs/x?y": "/jobs/x?y",
    "/jobs/deep/x": "/jobs/deep/x",
    "/exact": "/exact",
    "/exact?x": "/exact?x",
    "/slashes//x///y": "/slashes//x///y",
    "/encoded/a%2fb": "/encoded/a%2Fb",
}


@pytest.mark.parametrize("target", GOOD_TARGETS)
def test_target_is_forwarded_in_its_normal_form(rig: Rig, origin: Origin, wire: Wire, target: str) -> None:
    """One form for routes, policy, audit and the master; the prefix stays; the query is the peer's own affair."""
    answer = wire.ask(target)
    assert answer.status == 200, answer
    assert arrived(origin).target == GOOD_TARGETS[target]
    assert rig.line_of(answer)["target"] == GOOD_TARGETS[target].partition("?")[0]


BAD_TARGETS = [
    "/jobs/.", "/jobs/..", "/jobs/../x", "/jobs/./x", "/jobs/%2e%2e/x", "/jobs/.%2E", "/jobs/%2e", "/jobs/..;a/x",
    "/jobs/a%2Fb", "/jobs/a%2fb", "/jobs/a%5Cb", "/jobs/a%5cb", "/jobs/%00", "/jobs/a\\b", "/jobs//x", "//jobs/x",
    "/jobs/x#y", "/jobs/x#", "/jobs/%", "/jobs/%4", "/jobs/%zz", "/jobs/%u0041", "/jobs/\x7f", "/jobs/\x01",
    "/jobs/\xe9", '/jobs/"', "/jobs/<x>", "/jobs/{x}", "/jobs/^", "/jobs/`", "/jobs/x?\xe9", '/jobs/x?"', "jobs/x",
    "/slashes/../jobs/x", "/slashes//../x", "/slashes/a%2Fb", "/encoded//x", "/encoded/..%2Fjobs",
    "/encoded/%2e%2e%2fx",
    "/encoded/%2F..%2F..%2F-%2Fpools", "*", "localhost:443", "ftp://localhost/jobs/x", "https:///jobs/x",
    "https://a@localhost/jobs/x", "https://localhost:x/jobs/x", "?x", "/jobs/x?%", "/-/../jobs/x", "/%2D/../jobs/x",
]  # fmt: skip


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_target_with_two_readings_is_refused(rig: Rig, origin: Origin, wire: Wire, target: str) -> None:
    """400 and no byte to any master; not repaired, not guessed."""
    answer = wire.ask(target)
    assert answer.status == 400, answer
    assert answer.problem in ("target-invalid", "bad-request")
    assert rig.line_of(answer)["outcome"] == "refused"
    assert origin.raw == b""


NOWHERE = ["/", "/jobs", "/JOBS/x", "/exact/", "/jobsx", "/-x/y"]


@pytest.mark.parametrize("target", NOWHERE)
def test_target_outside_of_every_route_is_404(origin: Origin, wire: Wire, target: str) -> None:
    """`/x/*` is `/x/` and below, an exact path itself, and case counts."""
    assert wire.ask(target).problem == "not-found"
    assert origin.raw == b""


@pytest.mark.parametrize("target", ["/%2d/pools", "/%2D/pools", "/-/%70ools", "https://localhost/-/pools"])
def test_reserved_path_in_any_spelling_is_our_own(origin: Origin, wire: Wire, target: str) -> None:
    """The test for /-/ sees the normal form."""
    assert wire.ask(target).json["pools"][0]["pool"] == "render"
    assert origin.raw == b""


def test_longest_route_wins_and_its_master_gets_its_host(origin: Origin, wire: Wire) -> None:
    """The client's own Host goes on unless the master's table says another."""
    wire.ask("/jobs/x")
    assert arrived(origin)["host"] == "localhost"
    origin.clear()
    wire.ask("/jobs/deep/x")
    assert arrived(origin)["host"] == "inner.example:81"


# ---- authority, origin, methods -------------------------------------------------------------------------------------

HOSTS = {
    "localhost": 200,
    "LOCALHOST": 200,
    "localhost:8443": 200,
    "localhost.": 200,
    "127.0.0.1": 200,
    "127.0.0.1:1": 200,
    "[::1]:443": 200,
    "[0:0:0:0:0:0:0:1]": 200,
    "elsewhere": 421,
    "localhost.evil": 421,
    "127.0.0.2": 421,
    "[::2]": 421,
    "test.internal": 421,
    "": 400,
    "localhost:": 200,
    "localhost:0": 400,
    "localhost:99999": 400,
    "localhost:x": 400,
    "a@localhost": 400,
    "local host": 400,
    "localhost,localhost": 400,
    "localhost/x": 400,
    "[::1": 400,
    "%6cocalhost": 400,
}


@pytest.mark.parametrize("host", HOSTS)
def test_host_must_be_one_of_our_names(origin: Origin, wire: Wire, host: str) -> None:
    """421 for the name of another, 400 for what is no name; neither reaches a master."""
    wire.send(request("/jobs/x", host=host))
    answer = wire.answer()
    assert answer.status == HOSTS[host], answer
    if answer.status != 200:
        assert answer.problem == ("misdirected" if answer.status == 421 else "bad-request")
        assert origin.raw == b""


def test_absolute_target_and_host_must_agree(origin: Origin, wire: Wire) -> None:
    """Two names for one request are refused."""
    wire.send(request("https://localhost/jobs/x", host="127.0.0.1"))
    assert wire.answer().status == 400
    assert wire.ask("https://elsewhere/jobs/x").status == 421
    wire.send(request("https://elsewhere/jobs/x", host="elsewhere"))
    assert wire.answer().status == 421
    assert origin.raw == b""


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("https://localhost/jobs/x", "LOCALHOST"),
        ("https://LocalHost/jobs/x", "localhost."),
        ("https://localhost:443/jobs/x", "localhost"),
        ("https://localhost/jobs/x", "localhost:443"),
        ("https://localhost:/jobs/x", "localhost"),
        ("http://localhost/jobs/x", "localhost:80"),
        ("https://[0:0::1]:443/jobs/x", "[::1]"),
    ],
)
def test_two_spellings_of_one_authority_agree(origin: Origin, wire: Wire, target: str, host: str) -> None:
    """RFC 3986 section 6.2.3: case, an empty port and the scheme's own port make no other name."""
    wire.send(request(target, host=host))
    assert wire.answer().status == 200
    wire.send(request(target, host="localhost:8444"))
    assert wire.answer().status == 400


def test_query_passes_byte_for_byte(origin: Origin, wire: Wire) -> None:
    """Masters sign queries, and read them by rules of their own: nothing is decoded, encoded or put in another case."""
    query = "a=%7e%2f%2F&b[]={x|y}^`&c=%41//..?&d="
    assert wire.ask(f"/jobs/%7ex?{query}").status == 200
    assert f"GET /jobs/~x?{query} HTTP/1.1\r\n".encode() in origin.raw
    assert wire.ask("/jobs/x?a=%4").status == 400


CROSS = {
    ("POST", "https://evil.example"): 403,
    ("POST", "null"): 403,
    ("DELETE", "https://localhost.evil"): 403,
    ("PUT", "http://localhost"): 403,
    ("PATCH", ""): 403,
    ("POST", "https://localhost"): 200,
    ("GET", "https://evil.example"): 200,
    ("HEAD", "https://evil.example"): 200,
    ("OPTIONS", "https://evil.example"): 200,
}


@pytest.mark.parametrize(("method", "site"), CROSS)
def test_origin_of_another_site_may_not_change_anything(origin: Origin, wire: Wire, method: str, site: str) -> None:
    """Unsafe methods only; a browser with the certificate installed is no confused deputy."""
    answer = wire.ask("/jobs/x", method, f"Origin: {site}")
    assert answer.status == CROSS[method, site]
    if answer.status == 403:
        assert answer.problem == "cross-site"
        assert origin.raw == b""


def test_route_may_allow_cross_site_requests(wire: Wire) -> None:
    """When its table says so."""
    assert wire.ask("/cross/x", "POST", "Origin: https://evil.example").status == 200


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "PROPFIND",
        "MKCOL",
        "M-SEARCH",
        "REPORT",
        "QUERY",
        "PURGE",
        "LINK",
    ],
)
def test_method_is_forwarded_as_it_is(origin: Origin, wire: Wire, method: str) -> None:
    """Every method of the table, without content, twice on one connection."""
    for _ in range(2):
        answer = wire.ask("/jobs/x", method)
        assert answer.status == 200
    recorded = b"".join(bytes(one.received) for one in origin.wires)
    assert recorded.count(f"{method} /jobs/x HTTP/1.1\r\n".encode()) == 2
    assert b"content-length" not in recorded.lower()
    assert b"transfer-encoding" not in recorded.lower()


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "FOO", "get", "PRI", "GETT", "DESCRIBE", "ANNOUNCE"])
def test_method_outside_of_the_table_is_501_and_closes(origin: Origin, wire: Wire, method: str) -> None:
    """Nobody can say how its message ends."""
    wire.send(request("/jobs/x", method) + request("/jobs/y"))
    answer = wire.answer()
    assert (answer.status, answer.problem) == (501, "method-not-implemented")
    assert wire.rest() == b""
    assert origin.raw == b""


# ---- the dispatch listener ------------------------------------------------------------------------------------------


def test_dispatch_socket_serves_no_routes_and_no_role_switch(rig: Rig, origin: Origin) -> None:
    """One purpose each."""
    with rig.dispatch() as wire:
        assert wire.ask("/-/health").status == 200
        assert wire.ask("/-/pools").status == 200
        assert wire.ask("/-/reverse/render", "POST").problem == "not-found"
        assert wire.ask("/jobs/x").status in (403, 404)
    assert origin.raw == b""


def test_dispatch_on_tcp_refuses_web_pages_and_foreign_names(
    tmp_path_factory: pytest.TempPathFactory, origin: Origin
) -> None:
    """No web page is a master, and DNS rebinding finds nobody."""
    place = tmp_path_factory.mktemp("tcp")
    config = CONFIG.format(port=origin.port)
    rig = Rig(place, config, policy=OPEN, peers=("issue-client alice",))
    set_key(rig.home, "dispatch", '"127.0.0.1:0"')
    with rig:
        port = int(rig.served.listeners["dispatch"].rpartition(":")[2])
        with Wire(socket.create_connection(("127.0.0.1", port))) as wire:
            for host, status in {"localhost": 200, f"127.0.0.1:{port}": 200, "evil.example": 421, "[::1]": 421}.items():
                wire.send(request("/-/pools", host=host))
                assert wire.answer().status == status, host
            for line in ("Origin: http://localhost", "Sec-Fetch-Site: same-origin", "Origin: null"):
                answer = wire.ask("/-/pools", "GET", line)
                assert (answer.status, answer.problem) == (403, "cross-site")


def test_counts_of_answers_and_audit_lines_agree(rig: Rig, wire: Wire) -> None:
    """Every answer of a request has its line: asked here with a mixture of a hundred."""
    targets: list[Any] = ["/jobs/x", "/nowhere", "/-/health", "/jobs/..", "/-/pools"]
    seen = len(rig.audit())
    answers = [wire.ask(target) for target in targets * 20]
    lines = [line for line in rig.audit()[seen:] if "request_id" in line]
    assert [line["request_id"] for line in lines] == [answer["rhttp-request-id"] for answer in answers]
    assert [line["status"] for line in lines] == [answer.status for answer in answers]
