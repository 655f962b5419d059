"""Routes: the longest match wins, and what one route allows never opens another one or the gateway's own paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.route_paths import is_reserved, route_path_problem
from gateway.config.values import RouteConfig, ToMaster
from gateway.http.routes import RouteTable
from rhttp.http1.target import BadTarget, TargetFault, readings


def route(path: str, *, empty: bool = False, slash: bool = False) -> RouteConfig:
    to = ToMaster("m")
    return RouteConfig(name="r" + path, path=path, to=to, allow_empty_segments=empty, allow_encoded_slash=slash)


def found(table: RouteTable, path: bytes) -> str | None:
    match = table.match(path)
    return None if match is None else match.path


TABLE = RouteTable([route(p) for p in ("/x/*", "/x/y/*", "/x/y", "/x/y/z", "/one", "/t/", "/t/*", "/x/yy/*")])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/x", None),
        (b"/x/", "/x/*"),
        (b"/x/a", "/x/*"),
        (b"/x/y", "/x/y"),
        (b"/x/y/", "/x/y/*"),
        (b"/x/y/a/b/c", "/x/y/*"),
        (b"/x/y/z", "/x/y/z"),
        (b"/x/y/z/", "/x/y/*"),
        (b"/x/yy", "/x/*"),
        (b"/x/yy/", "/x/yy/*"),
        (b"/x/yyy/", "/x/*"),
        (b"/one", "/one"),
        (b"/one/", None),
        (b"/one/two", None),
        (b"/t/", "/t/"),
        (b"/t/a", "/t/*"),
        (b"/", None),
        (b"/X/", None),
        (b"*", None),
    ],
)
def test_route_longest_match_wins(path: bytes, expected: str | None) -> None:
    """A star matches the folder and below, an exact path itself; the longest match wins, between equals the exact."""
    assert found(TABLE, path) == expected


def test_route_of_the_root_takes_everything_but_reserved_paths() -> None:
    """``/*`` matches every path; ``/-`` and below stays the gateway's own; ``/-x`` is an ordinary path."""
    table = RouteTable([route("/*"), route("/-x/*")])
    assert [found(table, p) for p in (b"/", b"/a", b"/a/b", b"/--", b"/-a")] == ["/*"] * 5
    assert found(table, b"/-x/a") == "/-x/*"
    assert [found(table, p) for p in (b"/-", b"/-/", b"/-/pools", b"/-/unknown", b"*", b"")] == [None] * 6
    assert [is_reserved(p) for p in (b"/-", b"/-/", b"/-/a", b"/-a", b"/", b"/a/-/b")] == [True] * 3 + [False] * 3


def test_route_table_without_routes_matches_nothing() -> None:
    """An empty table answers None for every path."""
    assert RouteTable([]).match(b"/a/b") is None


def test_route_table_with_one_path_twice_is_refused() -> None:
    """Two routes with one path cannot both be meant."""
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([route("/x/*"), route("/x/*")])


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=5)


@given(st.lists(st.tuples(SEGMENTS, st.booleans()), max_size=8), SEGMENTS)
def test_route_match_agrees_with_trying_every_route(
    patterns: list[tuple[list[str], bool]], segments: list[str]
) -> None:
    """The table answers what the plain reading of the rule answers."""
    paths = {"/" + "/".join(p) + ("/*" if star and p and p[-1] else "") for p, star in patterns}
    table = RouteTable([route(p) for p in sorted(paths)])
    path = "/" + "/".join(segments)
    matching = [
        (len(p.removesuffix("*")), not p.endswith("/*"), p)
        for p in paths
        if p == path or (p.endswith("/*") and path.startswith(p[:-1]))
    ]
    assert found(table, path.encode()) == (max(matching)[2] if matching else None)


def resolved(table: RouteTable, raw: bytes) -> tuple[bytes, str | None] | TargetFault:
    answer = table.resolve(raw, method=b"GET")
    if isinstance(answer, BadTarget):
        return answer.fault
    return answer[0].path, None if answer[1] is None else answer[1].path


LAX = RouteTable(
    [
        route("/lax/*", empty=True, slash=True),
        route("/lax/admin/*"),
        route("/lax/exact"),
        route("/empty/*", empty=True),
        route("/empty/"),
        route("/slash/*", slash=True),
        route("/slash/a/b"),
        route("/strict/*"),
    ]
)
EMPTY, SLASH, DOTS = TargetFault.EMPTY_SEGMENT, TargetFault.ENCODED_SLASH, TargetFault.DOT_SEGMENT


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/lax/a", (b"/lax/a", "/lax/*")),
        (b"/lax/a//b%2fc?d", (b"/lax/a//b%2Fc", "/lax/*")),
        (b"/lax//", (b"/lax//", "/lax/*")),
        (b"/l%61x/a%2F", (b"/lax/a%2F", "/lax/*")),
        (b"/empty/a//b", (b"/empty/a//b", "/empty/*")),
        # An exact route for the folder itself does not stand for what is below it, and keeps its own readings.
        (b"/empty//b", (b"/empty//b", "/empty/*")),
        (b"/empty//", EMPTY),
        (b"/slash/a%2Fc", (b"/slash/a%2Fc", "/slash/*")),
        (b"/nowhere", (b"/nowhere", None)),
        # One allowance is not the other.
        (b"/empty/a%2Fb", SLASH),
        (b"/slash/a//b", EMPTY),
        # Strict routes and paths without a route.
        (b"/strict/a//b", EMPTY),
        (b"/strict/a%2Fb", SLASH),
        (b"/nowhere//a", EMPTY),
        # Before the route's own part of the path nothing is allowed.
        (b"//lax/a", EMPTY),
        (b"/lax%2Fa", SLASH),
        (b"/%2Flax/a", SLASH),
        # Some server would read these as a path of another route.
        (b"/lax//admin/a", EMPTY),
        (b"/lax/admin%2Fa", SLASH),
        (b"/lax/%2Fadmin%2fa", SLASH),
        (b"/lax///admin//a", EMPTY),
        (b"/lax/admin//a", EMPTY),
        (b"/lax/admin/a%2fb", SLASH),
        (b"/lax//exact", EMPTY),
        (b"/slash/a%2Fb", SLASH),
        # No allowance touches dots.
        (b"/lax/..%2fstrict/a", DOTS),
        (b"/lax//../strict/a", DOTS),
        (b"/lax/a%2f%2e%2e%2f%2e%2e%2fstrict", DOTS),
    ],
)
def test_route_allowance_reaches_its_own_route_only(
    raw: bytes, expected: tuple[bytes, str | None] | TargetFault
) -> None:
    """An allowance counts when every reading of the path leads to the route that has it, else the strict refusal."""
    assert resolved(LAX, raw) == expected


@pytest.mark.parametrize(
    "raw", [b"//-/pools", b"/%2F-/pools", b"/-%2Fpools", b"/-//pools", b"///-", b"/%2f-", b"/-/pools%2Fa", b"/-/%2F"]
)
def test_route_allowance_at_the_root_never_opens_reserved_paths(raw: bytes) -> None:
    """Even ``/*`` with everything allowed takes no path that some server reads as the gateway's own."""
    table = RouteTable([route("/*", empty=True, slash=True)])
    assert isinstance(table.resolve(raw, method=b"GET"), BadTarget)
    assert resolved(table, b"/a//-/b%2F-") == (b"/a//-/b%2F-", "/*")


PIECES = st.sampled_from(["/", "//", "%2F", "%2f", "lax", "admin", "-", "a", "exact", "strict", "..", "%2e"])


@given(st.lists(PIECES, max_size=10).map(lambda pieces: ("/" + "".join(pieces)).encode()), st.booleans())
def test_route_resolved_path_belongs_to_one_route_in_every_reading(raw: bytes, with_root: bool) -> None:
    """Whatever is accepted, no merging or decoding of slashes moves it to another route or a reserved path."""
    routes = [route("/lax/*", empty=True, slash=True), route("/lax/admin/*"), route("/lax/exact"), route("/strict/*")]
    table = RouteTable([*routes, route("/*", empty=True, slash=True)] if with_root else routes)
    answer = table.resolve(raw, method=b"GET")
    if isinstance(answer, BadTarget):
        return
    target, match = answer
    every = readings(target.path)
    assert {table.match(path) for path in every} == {match}
    assert len(every) == 1 or not any(is_reserved(path) for path in every)


@pytest.mark.parametrize(
    "path", ["/", "/*", "/jobs", "/jobs/*", "/a/b/c/", "/-x/*", "/caf%C3%A9/*", "/a%20b", "/.well-known/x"]
)
def test_route_path_in_normal_form_is_accepted(path: str) -> None:
    """What a request can have as normal path may be a route."""
    assert route_path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "begin with a slash"),
        ("jobs/*", "'/jobs/*'"),
        ("*", "begin with a slash"),
        ("/jobs*", "star"),
        ("/jo*bs", "star"),
        ("/*/jobs", "star"),
        ("/**", "star"),
        ("/jobs?x", "leave out '?'"),
        ("/-", "gateway's own"),
        ("/-/", "gateway's own"),
        ("/-/*", "gateway's own"),
        ("/-/pools/*", "gateway's own"),
        ("/%2D/x", "gateway's own"),
        ("/a//b", "empty-segment"),
        ("//*", "empty-segment"),
        ("/a/../b", "dot-segment"),
        ("/%2e%2e/*", "dot-segment"),
        ("/-/..", "dot-segment"),
        ("/a%2Fb", "encoded-slash"),
        ("/a b", "character"),
        ("/a%", "percent-encoding"),
        ("/%41/*", "'/A/*'"),
        ("/caf%c3%a9/*", "'/caf%C3%A9/*'"),
        ("/café/*", "'/caf%C3%A9/*'"),
        ("/a[1]", "'/a%5B1%5D'"),
    ],
)
def test_route_path_that_no_request_has_is_a_problem_with_its_mend(path: str, words: str) -> None:
    """A route that could never match, or would take the gateway's own paths, is told with what to write instead."""
    problem = route_path_problem(path)
    assert problem is not None
    assert words in problem
