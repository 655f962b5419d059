"""``gateway.toml``: all that is wrong is told at once, each with its key and the mend; what passes is complete."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.limits import Limits
from gateway.config.models import TABLES, TopTable, keys_of
from gateway.config.template import build_config
from gateway.config.toml import NO_OVERRIDES, load_config, parse_config
from gateway.config.values import (
    AuditConfig,
    Config,
    ConfigInvalid,
    ConfigProblem,
    DigestConfig,
    MasterConfig,
    MasterUrl,
    MetricsConfig,
    PkiConfig,
    PoolConfig,
    RouteConfig,
    StateConfig,
    TcpAddress,
    ToMaster,
    ToPool,
    UnixAddress,
    carry,
)

HOME = Path("/srv/home")
MINIMAL = 'trust_domain = "example.internal"\n'
REALM = '[digest]\nrealm = "example"\n'
FULL = """\
trust_domain = "example.internal"
listen = "127.0.0.1:8443"
dispatch = "unix:run/dispatch.sock"
server_names = ["GW.example.com", "192.0.2.1", "[2001:DB8::0:1]"]
client_cert_field = true
processes = 2
[digest]
realm = "Example realm"
nonce_lifetime = 60
[groups]
ops = ["client/alice", "worker/w1", "master/m1", "client/alice"]
[masters.jobs]
urls = ["http://127.0.0.1:9000", "http://[::1]:9000/", "HTTP://Jobs.example"]
host = "jobs.internal:80"
[[routes]]
path = "/jobs/*"
master = "jobs"
[[routes]]
name = "exact"
path = "/one"
master = "jobs"
allow_cross_site = true
[pools.render]
queue = 5
[pools.far]
mode = "relay"
master = "jobs"
[limits]
head_timeout = 2
connections = 100
[audit]
keep = 3
[state]
url = "postgresql+psycopg://u:geheim@h/d"
[metrics]
listen = "127.0.0.1:9464"
"""


def parsed(text: str, overrides: Mapping[str, object] = NO_OVERRIDES) -> Config:
    return parse_config(text, home=HOME, overrides=overrides)


def problems(text: str, overrides: Mapping[str, object] = NO_OVERRIDES) -> dict[str, str]:
    with pytest.raises(ConfigInvalid) as caught:
        parsed(text, overrides)
    return {problem.path: problem.message for problem in caught.value.problems}


def outcome(text: str) -> Config | tuple[ConfigProblem, ...]:
    """What a user gets: a configuration, or problems."""
    try:
        return parsed(text)
    except ConfigInvalid as error:
        return error.problems


def problem(top: str = "", tables: str = "", overrides: Mapping[str, object] = NO_OVERRIDES) -> tuple[str, str]:
    """The one problem of a file that is right but for what is added to it."""
    found = problems(MINIMAL + top + "\n" + REALM + tables, overrides)
    assert len(found) == 1, found
    return next(iter(found.items()))


def test_config_minimal_has_every_default() -> None:
    """Trust domain and realm are all that must be said."""
    assert parsed(MINIMAL + REALM) == Config(
        home=HOME,
        trust_domain="example.internal",
        listen=TcpAddress(host="127.0.0.1", port=8443),
        dispatch=UnixAddress(path=HOME / "run/dispatch.sock"),
        digest=DigestConfig(realm="example"),
        policy=HOME / "policy.cedar",
    )


def test_config_full_is_read_into_values() -> None:
    """Every table ends up in its value; names take their defaults; relative paths are under the home."""
    config = parsed(FULL)
    jobs = MasterConfig(
        name="jobs",
        host="jobs.internal:80",
        urls=(
            MasterUrl(scheme="http", host="127.0.0.1", port=9000, authority=b"127.0.0.1:9000"),
            MasterUrl(scheme="http", host="::1", port=9000, authority=b"[::1]:9000"),
            MasterUrl(scheme="http", host="jobs.example", port=80, authority=b"jobs.example:80"),
        ),
    )
    assert config.server_names == ("gw.example.com", "192.0.2.1", "2001:db8::1")
    assert config.client_cert_field
    assert config.processes == 2
    assert config.digest == DigestConfig(realm="Example realm", nonce_lifetime=60.0)
    assert config.groups == {"ops": ("client/alice", "worker/w1", "master/m1")}
    assert config.masters == {"jobs": jobs}
    assert config.routes == (
        RouteConfig(name="jobs", path="/jobs/*", to=ToMaster("jobs")),
        RouteConfig(name="exact", path="/one", to=ToMaster("jobs"), allow_cross_site=True),
    )
    assert config.pools == {
        "render": PoolConfig(name="render", queue=5),
        "far": PoolConfig(name="far", mode="relay", master="jobs", path="/-/reverse/far"),
    }
    assert config.limits == Limits(head_timeout=2.0, connections=100, handshakes=100)
    assert config.audit == AuditConfig(keep=3)
    assert config.state == StateConfig(url="postgresql+psycopg://u:geheim@h/d")
    assert config.metrics == MetricsConfig(listen=TcpAddress(host="127.0.0.1", port=9464))


def test_config_repr_hides_the_password_of_the_state() -> None:
    """A database URL may hold a password, so neither value nor error repeats it."""
    assert "geheim" not in repr(parsed(FULL))
    path, message = problem(tables='[state]\nurl = "mysql://u:geheim@h/d"\n')
    assert path == "state.url"
    assert "geheim" not in message


def test_config_command_line_wins_over_the_file() -> None:
    """--listen, --dispatch and --processes replace what the file says, also when that is wrong."""
    text = FULL.replace('listen = "127.0.0.1:8443"', 'listen = "nonsense"')
    config = parsed(text, {"listen": "127.0.0.1:0", "dispatch": "[::1]:0", "processes": 3})
    assert config.listen == TcpAddress(host="127.0.0.1", port=0)
    assert config.dispatch == TcpAddress(host="::1", port=0)
    assert config.processes == 3


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ({"listen": "nowhere"}, "--listen"),
        ({"dispatch": "192.0.2.1:80"}, "--dispatch"),
        ({"processes": 0}, "--processes"),
    ],
)
def test_config_problem_of_an_option_names_the_option(overrides: Mapping[str, object], option: str) -> None:
    """What came from the command line is mended there, so the problem says --option instead of a key."""
    assert problem(overrides=overrides)[0] == option


def test_config_tells_all_problems_at_once_by_key_in_file_order() -> None:
    """Unknown keys, wrong types, bounds, names, references and collisions are told together, none hides another."""
    found = problems(
        """\
dispatch = "127.0.0.1:8443"
bogus = 1
[digest]
algorithms = ["MD5"]
[groups]
ops = ["alice", 3]
[masters.jobs]
urls = ["https://h:1", "http://localhost:8443", 3]
[[routes]]
path = "/-/x"
[[routes]]
path = "/y/*"
master = "nope"
naem = "y"
[pools.render]
mode = "hostd"
queue = "8"
[pools.far]
mode = "relay"
[limits]
head_bytes = 1
linger = true
[metrics]
listen = "192.0.2.1:1"
[enroll]
listen = "127.0.0.1:1:1"
gateway = "gw"
"""
    )
    assert list(found) == [
        "trust_domain",
        "dispatch",
        "bogus",
        "digest.realm",
        "digest.algorithms[0]",
        "groups.ops[1]",
        "groups.ops[0]",
        "masters.jobs.urls[2]",
        "masters.jobs.urls[0]",
        "masters.jobs.urls[1]",
        "routes[1].naem",
        "routes[0].path",
        "routes[0].master",
        "routes[1].master",
        "pools.render.mode",
        "pools.render.queue",
        "pools.far.master",
        "limits.head_bytes",
        "limits.linger",
        "metrics.listen",
        "enroll.listen",
        "enroll.gateway",
    ]


@pytest.mark.parametrize(
    ("tables", "path", "words"),
    [
        ("[digest.x]", "digest.x", "unknown key"),
        ("[limits]\nhead_tiemout = 1", "limits.head_tiemout", "did you mean 'head_timeout'?"),
        ('[limits]\nfields = "5"', "limits.fields", 'a whole number from 8 to 1000, is the text "5"'),
        ("[limits]\nfields = 5.0", "limits.fields", "is 5.0"),
        ("[limits]\nfields = true", "limits.fields", "is true"),
        ("[limits]\nfields = 1979-05-27", "limits.fields", "is a date"),
        ("[limits]\nhead_timeout = 0", "limits.head_timeout", "above 0 up to 300 (seconds), is 0"),
        ("[limits]\nhead_timeout = nan", "limits.head_timeout", "is nan"),
        ("[limits]\nhead_timeout = inf", "limits.head_timeout", "is inf"),
        ("[limits]\nhead_timeout = -1", "limits.head_timeout", "is -1"),
        ("[limits]\nhead_bytes = 99999999999", "limits.head_bytes", "to 1048576 (bytes)"),
        ("[limits]\nrequest_line_bytes = 40000", "limits.request_line_bytes", "limits.head_bytes (32768, its default)"),
        ("[limits]\nhandshakes = 9\nconnections = 8", "limits.handshakes", "limits.connections (8)"),
        ('[audit]\nwhen_full = "x"', "audit.when_full", 'must be "refuse" or "continue", is the text "x"'),
        ("[audit]\nmax_bytes = 1", "audit.max_bytes", "(bytes), is 1"),
        ("[masters]\njobs = 3", "masters.jobs", "must be a table, is 3"),
        ("[masters.jobs]", "masters.jobs.urls", "is missing"),
        ("[masters.jobs]\nurls = []", "masters.jobs.urls", "must not be empty"),
        ('[masters.jobs]\nurls = "http://h"', "masters.jobs.urls", "must be a list of texts"),
        ('[masters.jobs]\nurls = ["http://h", "http://h:80"]', "masters.jobs.urls[1]", "listed twice"),
        ('[masters.jobs]\nurls = ["http://h"]\nhost = "a b"', "masters.jobs.host", "must be a host"),
        ('[masters.jobs]\nurls = ["http://h"]\nhost = "é"', "masters.jobs.host", "must be a host"),
        ('[masters.Jobs]\nurls = ["http://h"]', "masters.Jobs", "is no name"),
        ('[masters."a b"]\nurls = ["http://h"]', 'masters."a b"', "is no name"),
        ('[masters.""]\nurls = ["http://h"]', 'masters.""', "is no name"),
        ("[pools.R]", "pools.R", "is no name"),
        ("[pools.r]\nqueue = -1", "pools.r.queue", "is -1"),
        ('[pools.r]\nmaster = "x"', "pools.r.master", 'belongs to mode "relay"'),
        ('[pools.r]\npath = "/x"', "pools.r.path", 'belongs to mode "relay"'),
        ('[pools.r]\nmode = "relay"', "pools.r.master", "is missing"),
        ('[pools.r]\nmode = "relay"\nmaster = "x"', "pools.r.master", "there is no master 'x'"),
        ('[groups]\nOps = ["client/a"]', "groups.Ops", "is no name"),
        ('[groups]\nops = ["client/"]', "groups.ops[0]", "is no name"),
        ('[groups]\nops = ["client/A"]', "groups.ops[0]", "is no name"),
        ('[groups]\nops = ["worker/render/w1"]', "groups.ops[0]", "is no name"),
        ('[groups]\nops = ["server/s"]', "groups.ops[0]", "write 'client/NAME'"),
        ('[groups]\nops = "client/a"', "groups.ops", "must be a list"),
        ('[state]\nurl = "sqlite://"', "state.url", "must name a file"),
        ('[state]\nurl = "sqlite:///:memory:"', "state.url", "must name a file"),
        ('[state]\nurl = "postgresql://h/d"', "state.url", "must name the driver"),
        ('[metrics]\nlisten = "0.0.0.0:9464"', "metrics.listen", "allow_remote"),
        ('[pki]\nlisten = "0.0.0.0:80"', "pki.listen", "pki.allow_remote"),
        ('[pki]\nlisten = "127.0.0.1:8443"', "pki.listen", "overlaps with listen"),
        ("[pki]\nocsp = true", "pki.ocsp", "set pki.listen"),
        ('[pki]\nurl = "https://pki.example.com"', "pki.url", "with http"),
        ("[pki]\nlist_lifetime = 59", "pki.list_lifetime", "from 60 to 31622400 (seconds), is 59"),
        ('[metrics]\nlisten = "9464"', "metrics.listen", "port, as in"),
        ('[metrics]\nlisten = "127.0.0.1:8443"', "metrics.listen", "overlaps with listen"),
        ("[enroll]\nlisten = 1", "enroll.listen", "must be text"),
    ],
)
def test_config_table_with_one_fault_is_one_problem_with_its_mend(tables: str, path: str, words: str) -> None:
    """The key path is as typed, the message says what is the matter and what would be right."""
    found, message = problem(tables=tables)
    assert found == path
    assert words in message


@pytest.mark.parametrize(
    ("top", "path", "words"),
    [
        ('listen = "8443"', "listen", "port, as in"),
        ("listen = 8443", "listen", "must be text, is 8443"),
        ('listen = "127.0.0.1:70000"', "listen", "0 to 65535"),
        ('dispatch = "localhost:8080"', "dispatch", "loopback address as a literal"),
        ('dispatch = "0.0.0.0:8080"', "dispatch", "loopback address as a literal"),
        ('dispatch = "192.0.2.1:8080"', "dispatch", "loopback address as a literal"),
        ('dispatch = "[::ffff:127.0.0.1]:8080"', "dispatch", "loopback address as a literal"),
        ('dispatch = "127.0.0.1:8443"', "dispatch", "overlaps with listen"),
        ('listen = "0.0.0.0:8080"\ndispatch = "127.0.0.1:8080"', "dispatch", "overlaps with listen"),
        ('listen = "localhost:8080"\ndispatch = "[::1]:8080"', "dispatch", "overlaps with listen"),
        ('dispatch = "unix:"', "dispatch", "must name a file"),
        ('dispatch = "unix:run/"', "dispatch", "must name a file"),
        ('dispatch = "unix:run/admin.sock"', "dispatch", "admin socket"),
        ('server_names = ["a b"]', "server_names[0]", "no DNS name"),
        ('server_names = ["ok.example", "*.example"]', "server_names[1]", "no DNS name"),
        ('server_names = ["h:8443"]', "server_names[0]", "no DNS name"),
        ('server_names = [""]', "server_names[0]", "no DNS name"),
        ("server_names = [1]", "server_names[0]", "must be text"),
        ("processes = 0", "processes", "from 1 to 256"),
        ("client_cert_field = 1", "client_cert_field", "must be true or false, is 1"),
        ("groups = 3", "groups", "must be a table"),
        ("masters = 3", "masters", "must be a table"),
        ("limits = []", "limits", "must be a table, is a list"),
        ("routes = {}", "routes", "[[routes]]"),
        ("limit = {}", "limit", "did you mean 'limits'?"),
    ],
)
def test_config_top_key_with_one_fault_is_one_problem_with_its_mend(top: str, path: str, words: str) -> None:
    """The same for the keys before the first table."""
    found, message = problem(top)
    assert found == path
    assert words in message


@pytest.mark.parametrize(
    ("realm", "fine"),
    [(realm, True) for realm in ("a", "A b!#[]~", "x" * 128)]
    + [(realm, False) for realm in ("", "x" * 129, "é", "a\tb", 'a"b', "a\\b", "a\x7f", "a\n")],
)
def test_config_realm_is_printable_ascii_without_quotes(realm: str, fine: bool) -> None:
    """The realm stands in a quoted string of every challenge and in every stored credential."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in realm)
    text = f'{MINIMAL}[digest]\nrealm = "{escaped}"\n'
    if fine:
        assert parsed(text).digest.realm == realm
    else:
        assert list(problems(text)) == ["digest.realm"]


@pytest.mark.parametrize("name", ["", "Example", "a_b", "a.", "-a", "192.0.2.1", "a" * 254, "spiffe://a", "é"])
def test_config_trust_domain_is_a_lower_case_dns_name(name: str) -> None:
    """Certificates carry the trust domain in their SPIFFE ID, byte for byte."""
    assert list(problems(f'trust_domain = "{name}"\n{REALM}')) == ["trust_domain"]


ROUTES = (
    '[masters.a]\nurls = ["http://h:1"]\n[masters.b]\nurls = ["http://h:2"]\n'
    '[pools.p]\n[pools.q]\n[pools.r]\nmode = "relay"\nmaster = "a"\n'
)


@pytest.mark.parametrize(
    ("routes", "path", "words"),
    [
        ('[[routes]]\npath = "/-/x"\nmaster = "a"', "routes[0].path", "gateway's own"),
        ('[[routes]]\npath = "/%41"\nmaster = "a"', "routes[0].path", "'/A'"),
        ('[[routes]]\npath = "/x"\nmaster = "c"', "routes[0].master", "known: a, b"),
        ('[[routes]]\npath = "/x"\nmaster = "a"\nname = ""', "routes[0].name", "is no name"),
        ('[[routes]]\npath = "/x"\nmaster = "a"\nname = "A"', "routes[0].name", "is no name"),
        ('[[routes]]\npath = "/x"\nmaster = "a"\n[[routes]]\npath = "/x"\nmaster = "b"', "routes[1].path", "routes[0]"),
        (
            '[[routes]]\npath = "/x"\nmaster = "a"\n[[routes]]\npath = "/y"\nmaster = "b"\nname = "a"',
            "routes[1].name",
            "rename one",
        ),
        (
            '[[routes]]\npath = "/x"\nmaster = "a"\nallow_encoded_slash = true',
            "routes[0].allow_encoded_slash",
            "exact path",
        ),
        ('[[routes]]\npath = "/x"\nmaster = "a"\nallow_empty_segments = 1', "routes[0].allow_empty_segments", "is 1"),
        ('[[routes]]\npath = "/x"', "routes[0].master", "name a master, or a pool"),
        ('[[routes]]\npath = "/x"\nmaster = 1', "routes[0].master", "is 1"),
        ('[[routes]]\npath = "/x"\nmaster = ""', "routes[0].master", "known: a, b"),
        ('[[routes]]\npath = "/x"\npool = 1', "routes[0].pool", "is 1"),
        ('[[routes]]\npath = "/x"\nmaster = "a"\npool = "p"', "routes[0].pool", "remove one"),
        ('[[routes]]\npath = "/x"\npool = "no"', "routes[0].pool", "known: p, q, r"),
        ('[[routes]]\npath = "/x"\npool = "r"', "routes[0].pool", "name that master"),
        (
            '[[routes]]\npath = "/x"\npool = "p"\n[[routes]]\npath = "/y"\npool = "q"\nname = "p"',
            "routes[1].name",
            "leads elsewhere",
        ),
        (
            '[[routes]]\npath = "/x"\nmaster = "a"\n[[routes]]\npath = "/y"\npool = "p"\nname = "a"',
            "routes[1].name",
            "leads elsewhere",
        ),
        ('[[routes]]\npath = "/x"\npool = "p"\nstrip_prefix = true', "routes[0].strip_prefix", "exact path"),
        ('[[routes]]\npath = "/*"\npool = "p"\nstrip_prefix = true', "routes[0].strip_prefix", "nothing to strip"),
    ],
)
def test_config_route_with_one_fault_is_one_problem_with_its_mend(routes: str, path: str, words: str) -> None:
    """Routes are checked against each other and against the masters."""
    found, message = problem(tables=ROUTES + routes)
    assert found == path
    assert words in message


def test_config_route_leads_to_a_pool_and_takes_its_name() -> None:
    """Beside routes to masters, with or without its prefix."""
    text = (
        '[[routes]]\npath = "/p/*"\npool = "p"\nstrip_prefix = true\n[[routes]]\npath = "/q"\npool = "q"\nname = "n"\n'
    )
    assert parsed(MINIMAL + REALM + ROUTES + text).routes == (
        RouteConfig(name="p", path="/p/*", to=ToPool("p"), strip_prefix=True),
        RouteConfig(name="n", path="/q", to=ToPool("q")),
    )


def test_config_routes_of_one_master_may_share_its_name() -> None:
    """Two paths of one master are one resource for policies."""
    text = (
        '[[routes]]\npath = "/x"\nmaster = "a"\n[[routes]]\npath = "/y/*"\nmaster = "a"\nallow_encoded_slash = true\n'
    )
    assert [route.name for route in parsed(MINIMAL + REALM + ROUTES + text).routes] == ["a", "a"]


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8443", "http://127.0.0.1:8443"),
        ("127.0.0.1:8443", "http://localhost:8443/"),
        ("127.0.0.1:8443", "http://LOCALHOST.:8443"),
        ("[::1]:8443", "http://localhost:8443"),
        ("localhost:8443", "http://[::1]:8443"),
        ("0.0.0.0:8443", "http://127.9.9.9:8443"),
        ("[::]:8443", "http://[0:0::1]:8443"),
        ("127.0.0.1:8443", "http://[::ffff:127.0.0.1]:8443"),
        ("127.0.0.1:8443", "http://0.0.0.0:8443"),
        ("192.0.2.7:8443", "http://192.0.2.7:8443"),
        ("gw.example:8443", "http://GW.example:8443"),
        ("127.0.0.1:80", "http://localhost"),
    ],
)
def test_config_master_that_is_the_gateway_itself_is_a_problem(listen: str, url: str) -> None:
    """A request must not come in by the door it left by, whatever the spelling of the address."""
    path, message = problem(f'listen = "{listen}"', f'[masters.m]\nurls = ["http://h:1", "{url}"]')
    assert path == "masters.m.urls[1]"
    assert "gateway's own listen" in message


def test_config_master_at_the_dispatch_or_metrics_listener_is_a_problem() -> None:
    """Every listener of ours counts."""
    text = MINIMAL + 'dispatch = "127.0.0.1:8080"\n' + REALM + '[metrics]\nlisten = "127.0.0.1:9464"\n'
    found = problems(text + '[masters.m]\nurls = ["http://localhost:8080", "http://localhost:9464"]')
    assert list(found) == ["masters.m.urls[0]", "masters.m.urls[1]"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8444", "http://127.0.0.2:8443", "http://[::1]:8443", "http://gw:8443"]
)
def test_config_master_beside_the_gateway_is_fine(url: str) -> None:
    """Another port or another address is another server."""
    assert parsed(MINIMAL + REALM + f'[masters.m]\nurls = ["{url}"]\n').masters["m"].urls


def test_config_unix_path_is_fine_up_to_107_bytes() -> None:
    """A unix socket takes 107 bytes, counted as bytes and not as characters."""
    fits = "/" + "é" * 52 + "/s"
    assert len(fits.encode()) == 107
    assert parsed(MINIMAL + f'dispatch = "unix:{fits}"\n' + REALM).dispatch == UnixAddress(path=Path(fits))
    path, message = problem(f'dispatch = "unix:{fits}x"')
    assert path == "dispatch"
    assert "has 108 bytes" in message


def test_config_home_too_long_for_its_sockets_is_one_problem() -> None:
    """Both sockets of a long home would fail; it is told once."""
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(MINIMAL + REALM, home=Path("/" + "h" * 100))
    assert [problem.path for problem in caught.value.problems] == ["home"]
    with pytest.raises(ConfigInvalid) as caught:
        parse_config(MINIMAL + REALM, home=Path("/" + "h" * 90))
    assert [problem.path for problem in caught.value.problems] == ["dispatch"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('a = 1\nb = "x\n', "line 2, column 7"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ("a =", "line 1, column 4"),
        ("[a\n", "line 1, column 3"),
        ("a = 1\n[b]\nc = [1,", "line 3, column 8"),
    ],
)
def test_config_syntax_error_has_line_and_column(text: str, path: str) -> None:
    """TOML that cannot be read is one problem at a place in the file, its end included."""
    (found,) = problems(text).items()
    assert found[0] == path
    assert "not TOML" in found[1]


def test_config_nested_beyond_measure_is_a_problem_not_a_crash() -> None:
    """A file of brackets ends in a problem too."""
    assert problems("a = " + "[" * 100_000)


def test_config_written_by_init_is_read_with_and_without_its_examples() -> None:
    """The file of a new home means the defaults, and each of its commented lines may be taken into use as it is."""
    text = build_config(trust_domain="example.internal", realm="example", listen="127.0.0.1:8443").decode()
    assert parsed(text) == parsed(MINIMAL + REALM)
    everything = parsed(re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE))
    assert everything.limits == Limits()
    assert everything.audit == AuditConfig()
    assert everything.digest == DigestConfig(realm="example")
    assert everything.masters
    assert everything.pools
    assert everything.metrics.listen
    assert everything.pki == PkiConfig(
        listen=TcpAddress(host="127.0.0.1", port=8088), url="http://pki.example.com:8088"
    )


@given(st.text(alphabet='ab=[]{}".,#\n1-\\é ', max_size=60))
def test_config_of_any_text_is_a_config_or_problems(text: str) -> None:
    """Whatever the text, the answer is a configuration or a list of problems, never another error."""
    assert outcome(text)


VALUES = st.recursive(
    st.one_of(
        st.none().map(lambda _: '"127.0.0.1:8443"'),
        st.sampled_from(['""', '"x"', '"relay"', '"/x/*"', '"http://localhost:8443"', "0", "-1", "5", "1.5", "nan"]),
        st.sampled_from(["true", "1979-05-27", "99999999999999999999", '"client/a"', '"SHA-256"']),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]"),
    max_leaves=4,
)
KEYS = st.sampled_from(
    sorted(
        {key.name for _, table in TABLES.values() for key in keys_of(table)} | {key.name for key in keys_of(TopTable)}
    )
)
HEADS = st.sampled_from(
    [
        "[digest]",
        "[groups]",
        "[masters.m]",
        "[[routes]]",
        "[pools.p]",
        "[limits]",
        "[audit]",
        "[state]",
        "[metrics]",
        "[pki]",
    ]
)


@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.lists(st.tuples(HEADS, st.dictionaries(KEYS, VALUES, max_size=4)), max_size=4),
)
def test_config_of_any_tables_is_a_config_or_problems(
    top: dict[str, str], tables: list[tuple[str, dict[str, str]]]
) -> None:
    """Any mixture of known keys and odd values is a configuration or problems, never another error."""
    lines = [f"{key} = {value}" for key, value in top.items()]
    for head, keys in tables:
        lines += [head, *(f"{key} = {value}" for key, value in keys.items())]
    assert outcome("\n".join(lines))


def test_config_file_problems_come_with_the_others(tmp_path: Path) -> None:
    """Files that the configuration names must be there; told beside everything else that is wrong."""
    file = tmp_path / "gateway.toml"
    file.write_text(MINIMAL + 'dispatch = "unix:nowhere/d.sock"\npolicy = "p.cedar"\nbogus = 1\n' + REALM)
    with pytest.raises(ConfigInvalid) as caught:
        load_config(file)
    assert [problem.path for problem in caught.value.problems] == ["dispatch", "policy", "bogus"]
    file.write_text(MINIMAL + 'dispatch = "unix:nowhere/d.sock"\npolicy = "p.cedar"\n' + REALM)
    (tmp_path / "p.cedar").touch()
    with pytest.raises(ConfigInvalid) as caught:
        load_config(file)
    assert [problem.path for problem in caught.value.problems] == ["dispatch"]
    (tmp_path / "nowhere").mkdir()
    config = load_config(file)
    assert config.home == tmp_path
    assert config.policy == tmp_path / "p.cedar"


def test_config_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    """Missing, not UTF-8 or too long: one clear problem."""
    file = tmp_path / "gateway.toml"
    with pytest.raises(ConfigInvalid, match="No such file"):
        load_config(file)
    file.write_bytes(b'trust_domain = "\xff"')
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load_config(file)
    file.write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigInvalid, match="more than"):
        load_config(file)


def test_config_limits_keep_their_published_defaults() -> None:
    """The defaults that users rely on do not move unseen."""
    assert dataclasses.asdict(Limits()) == {
        "head_bytes": 32768,
        "request_line_bytes": 8192,
        "fields": 100,
        "trailer_bytes": 8192,
        "interim_answers": 100,
        "interim_bytes": 65536,
        "handshake_timeout": 10,
        "head_timeout": 10,
        "keep_alive_timeout": 75,
        "content_timeout": 60,
        "answer_timeout": 300,
        "master_connect_timeout": 5,
        "master_idle_connections": 64,
        "master_idle_timeout": 30,
        "master_connections": 1024,
        "connections": 16000,
        "handshakes": 512,
        "dispatch_connections": 2048,
        "metrics_connections": 32,
        "pki_connections": 64,
        "ocsp_signatures": 500,
        "enroll_connections": 512,
        "admin_connections": 32,
        "connections_per_client": 256,
        "connections_per_worker": 64,
        "pipelined_bytes": 65536,
        "retained_content": 65536,
        "refused_content": 1048576,
        "refused_timeout": 5,
        "linger": 2,
        "linger_time": 30,
        "upgrade_retry_timeout": 5,
        "buffer_bytes": 65536,
        "slots_per_connection": 100,
        "wait_max": 60,
        "event_streams": 256,
        "event_queue": 1000,
        "liveness_idle": 30,
        "liveness_interval": 10,
        "liveness_count": 3,
        "liveness_timeout": 75,
        "lame_duck": 1,
        "drain_timeout": 30,
        "state_stale": 10,
    }


@pytest.mark.parametrize(
    ("text", "nonces"),
    [
        ("", 256),
        ("[limits]\nconnections_per_client = 256", 256),
        ("[limits]\nconnections_per_client = 257", 257),
        ("[limits]\nconnections_per_worker = 300", 300),
        ("[limits]\nconnections_per_client = 10000", 4096),
    ],
)
def test_config_nonces_rise_with_the_connections_of_an_identity(text: str, nonces: int) -> None:
    """Each connection can keep a nonce of its own, up to what memory is for."""
    assert parsed(MINIMAL + REALM + text).digest.nonces_per_identity == nonces


def test_config_nonces_that_were_set_stay_as_they_are() -> None:
    """Connections need not use Digest: the operator may know better."""
    text = MINIMAL + REALM + "nonces_per_identity = 2\n[limits]\nconnections_per_client = 300"
    assert parsed(text).digest.nonces_per_identity == 2


def test_config_limit_defaults_give_way_to_what_is_set() -> None:
    """Setting one limit low needs no second one to be set as well."""
    limits = parsed(MINIMAL + REALM + "[limits]\nhead_bytes = 4096\nconnections = 10\nmaster_connections = 1").limits
    assert (limits.request_line_bytes, limits.handshakes, limits.master_idle_connections) == (4096, 10, 1)


@pytest.mark.parametrize("table", [TopTable, *(table for _, table in TABLES.values())])
def test_config_key_has_a_description_and_a_default_of_its_type(table: type) -> None:
    """The reference is made from the keys, so each says what it is for."""
    for key in keys_of(table):
        assert key.description.endswith((".", ")")), key
        assert key.expects
        assert key.default is not None or key.required or key.expects == "text"


@dataclasses.dataclass
class Written:
    names: list[str]
    host: str
    more: int = 1


@dataclasses.dataclass
class Used:
    names: tuple[str, ...]
    host: str


def test_carry_takes_what_both_declare_alike_and_leaves_the_rest() -> None:
    """A key that is used as it stands is declared in its table and in its value, and nowhere else."""
    assert carry(Used, Written(["a"], "b"), names=("c",)) == Used(("c",), "b")


def test_carry_of_another_type_is_refused() -> None:
    """A text that a check has to make something of never gets into the configuration unchecked."""
    with pytest.raises(TypeError, match=r"Used\.names"):
        carry(Used, Written(["a"], "b"))
