"""`policy check` and `policy explain`: exit status, what they print, and the shapes of their JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import insert

from auth.policy import ACTIONS
from gateway.cli.main import cli
from gateway.cli.policy import _ACTIONS, _WHY
from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home
from gateway.state.database import bump, open_state
from pki.inventory import Inventory
from pki.tables import certificates, identities

DOCS = Path(__file__).parents[3] / "docs" / "policies.md"
RESOURCES = """
[masters.m]
urls = ["http://127.0.0.1:9"]
[[routes]]
path = "/jobs/*"
master = "m"
name = "jobs"
[[routes]]
path = "/reports/*"
master = "m"
name = "reports"
[pools.render]
[pools.gpu]
[pools.other]
"""
DIGEST = ("--context", "digest=SHA-256")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with worker w1 in pool render: an older certificate, the present one with labels, a revoked newer one."""
    place = tmp_path_factory.mktemp("policy") / "home"
    home = Home(place)
    make_home(home, HomePlan(trust_domain="t.example", realm="rhttp@t.example"), at=datetime.now(UTC))
    home.config.write_text(home.config.read_text() + RESOURCES)
    engine = open_state(home, DEFAULT_STATE_URL)
    issuer = next(each for each in Inventory(engine, on_write=bump).authorities() if each.role == "worker")
    rows: list[tuple[int, dict[str, str], int | None]] = [
        (1, {"gpu": "old"}, None),
        (2, {"gpu": "a100", "zone": "b"}, None),
        (3, {"gpu": "stolen"}, 9),
    ]
    with engine.begin() as connection:
        bump(connection)
        connection.execute(insert(identities).values(name="w1", role="worker", pool="render", created_at=1))
        connection.execute(insert(identities).values(name="alice", role="client", created_at=1))
        for at, labels, revoked in rows:
            connection.execute(
                insert(certificates).values(
                    serial=f"0{at}",
                    name="w1",
                    role="worker",
                    pool="render",
                    labels=json.dumps(labels),
                    fingerprint=f"{at:064x}",
                    issuer=issuer.fingerprint,
                    not_before=at,
                    not_after=4_000_000_000,
                    pem="-",
                    issued_at=at,
                    revoked_at=revoked,
                    reason=None if revoked is None else "keyCompromise",
                )
            )
    engine.dispose()
    return place


@pytest.fixture
def home(made: Path) -> Any:
    """The home, its configuration and policy put back afterwards."""
    kept = {name: (made / name).read_bytes() for name in ("gateway.toml", "policy.cedar")}
    yield Home(made)
    for name, content in kept.items():
        (made / name).write_bytes(content)


def run(home: Home, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["policy", *arguments, "--home", str(home.path)])


def explain(home: Home, who: str, action: str, on: str, *more: str) -> Result:
    return run(home, "explain", "--as", who, "--action", action, "--on", on, *more)


def add_groups(home: Home, line: str) -> None:
    """Put a group into gateway.toml, behind everything else."""
    home.config.write_text(home.config.read_text() + f"\n[groups]\n{line}\n")


# check ------------------------------------------------------------------------------------------------------------


def test_check_new_home_passes(home: Home) -> None:
    """The policy that init writes has no problem."""
    result = run(home, "check")
    assert (result.exit_code, result.stdout) == (0, "policy.cedar: 9 policies, no problem\n")


def test_check_tells_every_problem_with_its_line(home: Home) -> None:
    """All problems on stdout, one line each; one line on stderr; status 1."""
    home.policy.write_text('permit (principal, action, resource);\n\n@id("x") permit (principal) ;\n')
    result = run(home, "check")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert [line.split(": ", 1)[0] for line in lines] == ["policy.cedar:1", "policy.cedar:3"]
    assert result.stderr == "Error: policy.cedar cannot be used: 2 problems, listed above\n"


def test_check_blames_the_file_that_is_wrong(home: Home) -> None:
    """A slip in gateway.toml is not the policy's."""
    with home.config.open("a") as file:
        file.write("[oops\n")
    result = run(home, "check")
    assert (result.exit_code, "gateway.toml cannot be used: 1 problem" in result.stderr) == (1, True)


def test_check_json_valid_lists_policies(home: Home) -> None:
    """The shape when all is well: every policy with id, effect and line, no problems."""
    home.policy.write_text('\n@id("only") forbid (principal, action, resource);\n')
    result = run(home, "check", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "valid": True,
        "policies": [{"id": "only", "effect": "forbid", "line": 2}],
        "problems": [],
        "warnings": [],
    }


def test_check_json_invalid_lists_problems(home: Home) -> None:
    """The shape when something is wrong, and nothing but JSON on stdout."""
    home.policy.write_text('@id("a")\npermit (principal, action, resource) whem { true };')
    result = run(home, "check", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "valid": False,
        "policies": [],
        "problems": [{"file": "policy.cedar", "line": 2, "message": "invalid policy condition: whem"}],
        "warnings": [],
    }


def test_check_knows_the_groups_of_the_home(home: Home) -> None:
    """A group is known once gateway.toml has it."""
    home.policy.write_text('@id("a") permit (principal in Group::"ops", action, resource);')
    assert 'Group::"ops" is not in [groups]' in run(home, "check").stdout
    add_groups(home, 'ops = ["client/alice"]')
    assert run(home, "check").exit_code == 0


def test_check_tells_configuration_problems_too(home: Home) -> None:
    """With a bad gateway.toml both files' problems are told, and its groups are still known."""
    add_groups(home, 'ops = ["client/alice"]\n[nonsense]\nx = 1')
    home.policy.write_text('@id("a") permit (principal in Group::"ops", action, resource);\n;')
    result = run(home, "check", "--json")
    files = [problem["file"] for problem in json.loads(result.stdout)["problems"]]
    assert (result.exit_code, set(files), files[-1]) == (1, {"gateway.toml", "policy.cedar"}, "policy.cedar")
    assert "Group" not in result.stdout


def test_check_missing_policy_is_one_line(home: Home) -> None:
    """A policy file that is not there is said with the mend."""
    home.policy.unlink()
    result = run(home, "check")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "cannot read the policy" in result.stderr


def test_check_missing_home_is_one_line(tmp_path: Path) -> None:
    """Without a home there is one line that says how to get one."""
    result = run(Home(tmp_path / "none"), "check")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ('resource == Route::"job"', "Route::\"job\" is not in [[routes]] of gateway.toml; did you mean 'jobs'?"),
        ('resource == Pool::"rendr"', "Pool::\"rendr\" is not in [pools] of gateway.toml; did you mean 'render'?"),
        ('resource == Pool::"zz"', 'Pool::"zz" is not in [pools] of gateway.toml; add it there'),
    ],
)
def test_check_name_that_the_configuration_lacks_is_a_problem(home: Home, named: str, message: str) -> None:
    """A forbid on a misspelt route or pool would never apply: it is refused as a misspelt group is."""
    action = "request" if "Route" in named else "dispatch"
    home.policy.write_text(f'\n@id("a") forbid (principal, action == Action::"{action}", {named});')
    result = run(home, "check")
    assert result.exit_code == 1
    assert f"policy.cedar:2: {message}" in result.stdout


def test_check_names_in_conditions_are_looked_at_too(home: Home) -> None:
    """Not only in the scope of a policy."""
    home.policy.write_text('@id("a") forbid (principal is Worker, action, resource) when { resource == Pool::"zz" };')
    assert 'Pool::"zz" is not in [pools]' in run(home, "check").stdout


@pytest.mark.parametrize(
    ("principal", "warning"),
    [
        ('Client::"alcie"', "a: there is no client alcie in this home yet"),
        ('Client::"w1"', "a: w1 is a worker here, so no client of this name can come"),
        ('Client::"alice"', None),
        ('Master::"local"', None),
    ],
)
def test_check_principal_that_nobody_is_is_a_warning(home: Home, principal: str, warning: str | None) -> None:
    """Whoever a policy names may come later, so it is told and refuses nothing."""
    home.policy.write_text(f'\n@id("a") forbid (principal == {principal}, action, resource);')
    result = run(home, "check")
    assert result.exit_code == 0
    assert (f"policy.cedar:2: warning: {warning}" in result.stderr) if warning else not result.stderr
    told = json.loads(run(home, "check", "--json").stdout)
    assert (told["valid"], len(told["warnings"])) == (True, 1 if warning else 0)


@pytest.mark.parametrize(
    ("who", "on", "said"),
    [
        ("client/alice", "route/job", "there is no route job in [[routes]] of gateway.toml; did you mean jobs?"),
        ("client/alice", "route/zz", "known: jobs, reports"),
        ("client/w1", "route/jobs", "w1 is a worker here"),
        ("master/alice", "pool/render", "ask with --as client/alice"),
    ],
)
def test_explain_of_nobody_or_nothing_is_refused(home: Home, who: str, on: str, said: str) -> None:
    """No decision about what there is not: an allow would be read as one."""
    action = "request" if on.startswith("route") else "dispatch"
    result = explain(home, who, action, on)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (1, "deny")
    assert said in result.stdout
    told = json.loads(explain(home, who, action, on, "--json").stdout)
    assert (told["decision"], told["reason"], told["policies"]) == ("deny", "unknown_name", [])
    assert said in told["hint"]


def test_explain_of_who_may_come_later_warns(home: Home) -> None:
    """The decision stands, and the warning beside it, not in it."""
    result = explain(home, "client/later", "request", "route/jobs")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "allow")
    assert "warning: there is no client later in this home yet" in result.stderr


# explain ----------------------------------------------------------------------------------------------------------


def test_explain_allow_names_the_policy(home: Home) -> None:
    """Status 0, the word allow, and the @id of what allows it; pool and labels come from the inventory."""
    result = explain(home, "worker/w1", "reverse", "pool/render", *DIGEST)
    lines = result.stdout.splitlines()
    assert (result.exit_code, lines[0]) == (0, "allow")
    assert lines[1].startswith("policy: workers-reverse-into-own-pool (permit, policy.cedar:")
    assert {"pool: render", "labels: gpu=a100 zone=b"} <= set(lines)


@pytest.mark.parametrize(
    ("who", "action", "on", "more", "status"),
    [
        ("worker/w1", "reverse", "pool/other", DIGEST, 1),
        ("worker/w1", "reverse", "pool/other", (*DIGEST, "--context", "pool=other"), 0),
        ("worker/w1", "reverse", "pool/render", (), 0),
        ("worker/w1", "reverse", "pool/render", ("--context", "digest="), 1),
        ("worker/w1", "reverse", "pool/render", (*DIGEST, "--context", "digest="), 2),
        ("worker/new", "reverse", "pool/render", (*DIGEST, "--context", "pool=render"), 0),
        ("client/alice", "request", "route/jobs", DIGEST, 0),
        ("client/alice", "request", "route/jobs", ("--context", "digest="), 1),
        ("client/alice", "dispatch", "pool/render", DIGEST, 1),
        ("client/nobody-yet", "inspect", "pool/render", DIGEST, 0),
        ("master/local", "dispatch", "pool/render", (), 0),
        ("master/local", "dispatch", "pool/render", ("--context", "listener=tls"), 1),
        ("master/m1", "dispatch", "pool/render", ("--context", "digest="), 1),
        ("master/m1", "dispatch", "pool/render", DIGEST, 0),
    ],
)
def test_explain_status_is_the_decision(
    home: Home, who: str, action: str, on: str, more: tuple[str, ...], status: int
) -> None:
    """0 for allow, 1 for deny, the first line of stdout says the same."""
    result = explain(home, who, action, on, *more)
    assert (result.exit_code, result.stdout.split("\n")[0]) == (status, {0: "allow", 1: "deny", 2: ""}[status])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--action", "request", "--on", "route/jobs"),
        ("--as", "alice", "--action", "request", "--on", "route/jobs"),
        ("--as", "server/alice", "--action", "request", "--on", "route/jobs"),
        ("--as", "client/Alice", "--action", "request", "--on", "route/jobs"),
        ("--as", "client/alice", "--action", "become", "--on", "route/jobs"),
        ("--as", "client/alice", "--action", "request", "--on", "jobs"),
        ("--as", "client/alice", "--action", "request", "--on", "route/"),
        *(
            ("--as", "client/alice", "--action", "request", "--on", "route/jobs", "--context", pair)
            for pair in ("digest", "color=red", "now=yesterday", "now=2027-01-01", "source=here", "listener=", "pool=p")
        ),
        ("--as", "worker/w1", "--action", "reverse", "--on", "pool/p", "--context", "label=x"),
        ("--as", "worker/w1", "--action", "reverse", "--on", "pool/p", "--context", "pool=p", "--context", "pool=q"),
    ],
)
def test_explain_wrong_usage_is_status_2(home: Home, arguments: tuple[str, ...]) -> None:
    """What is no question is wrong usage, never a denial."""
    result = run(home, "explain", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_explain_json_shape(home: Home) -> None:
    """The whole shape, as the documentation shows it."""
    more = (*DIGEST, "--context", "now=2027-01-31T13:00:59.5+01:00", "--context", "source=::ffff:10.0.0.1", "--json")
    told = json.loads(explain(home, "worker/w1", "reverse", "pool/render", *more).stdout)
    line = told["policies"][0].pop("line")
    assert '@id("workers-reverse-into-own-pool")' in home.policy.read_text().splitlines()[line - 1]
    assert told == {
        "decision": "allow",
        "reason": None,
        "policies": [{"id": "workers-reverse-into-own-pool", "effect": "permit"}],
        "errors": [],
        "principal": {
            "kind": "worker",
            "name": "w1",
            "pool": "render",
            "labels": {"gpu": "a100", "zone": "b"},
            "groups": [],
        },
        "action": "reverse",
        "resource": {"kind": "pool", "name": "render"},
        "context": {
            "listener": "tls",
            "protocol": "http/1.1",
            "digest": "SHA-256",
            "source": "10.0.0.1",
            "now": "2027-01-31T12:00:00Z",
        },
        "reads": ["digest"],
        "hint": None,
    }


def test_explain_deny_json_says_reason_and_hint(home: Home) -> None:
    """A denial carries its slug; where only Digest is missing, the hint says so."""
    told = json.loads(explain(home, "client/alice", "request", "route/jobs", "--json", "--context", "digest=").stdout)
    assert (told["decision"], told["reason"], told["policies"]) == ("deny", "not_permitted", [])
    assert told["hint"] == "with Digest credentials it is allowed: leave out --context digest="


def test_explain_forbid_is_named(home: Home) -> None:
    """A denial by policy names the forbid, with its line."""
    lines = home.policy.read_text().count("\n")
    home.policy.write_text(
        home.policy.read_text() + '@id("not-bob") forbid (principal == Client::"bob", action, resource);\n'
    )
    result = explain(home, "client/bob", "request", "route/jobs", *DIGEST)
    assert result.exit_code == 1
    assert f"deny\nreason: forbidden by policy\npolicy: not-bob (forbid, policy.cedar:{lines + 1})\n" in result.stdout


def test_explain_uses_groups_labels_and_time(home: Home) -> None:
    """Groups of gateway.toml, labels by --context and the given time all reach the policy."""
    add_groups(home, 'ops = ["worker/w1"]')
    home.policy.write_text(
        '@id("x") permit (principal in Group::"ops", action == Action::"reverse", resource) when {'
        ' principal.labels.contains("zone=c") && context has now && context.now < datetime("2027-01-01") };'
    )

    def status(*pairs: str) -> int:
        options = [piece for pair in pairs for piece in ("--context", pair)]
        return explain(home, "worker/w1", "reverse", "pool/render", *options).exit_code

    assert status("label=zone=c", "now=2026-12-31T23:59:59Z") == 0
    assert status("label=zone=c", "now=2027-01-01T00:00:00Z") == 1
    assert status("label=zone=c", "now=") == 1
    assert status("now=2026-12-31T23:59:59Z") == 1


def test_explain_unknown_worker_asks_for_its_pool(home: Home) -> None:
    """A worker that was never issued has no pool: one line that says how to go on, no decision."""
    result = explain(home, "worker/ghost", "reverse", "pool/render", *DIGEST)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "--context pool=P" in result.stderr


def test_explain_unreadable_state_still_answers_with_a_pool(home: Home) -> None:
    """Without the database the pool must be said, and then the question is answered."""
    aside = (home.path / "state.db").rename(home.path / "aside.db")
    try:
        without = explain(home, "worker/w1", "reverse", "pool/render", *DIGEST)
        given = explain(home, "worker/w1", "reverse", "pool/render", *DIGEST, "--context", "pool=render")
    finally:
        aside.rename(home.path / "state.db")
    assert (without.exit_code, without.stdout, given.exit_code) == (1, "", 0)
    assert "--context pool=P" in without.stderr


def test_explain_bad_policy_is_one_line(home: Home) -> None:
    """A policy with problems decides nothing; the first is told, with the command that tells them all."""
    home.policy.write_text(";\n;")
    result = explain(home, "client/alice", "request", "route/jobs", *DIGEST)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert re.search(r"policy\.cedar:1: .* \(and 1 more\); `rhttp-pki policy check`", result.stderr)


def test_explain_shows_a_failing_policy(home: Home) -> None:
    """A policy that fails to evaluate is named, with the engine's words."""
    text = '@id("a") permit (principal, action, resource);\n'
    home.policy.write_text(text + text.replace('"a"', '"b"').replace(";", " when { 9223372036854775807 + 1 > 0 };"))
    result = explain(home, "client/alice", "request", "route/jobs")
    assert result.exit_code == 1
    assert "policy: b (permit, policy.cedar:2)" in result.stdout
    assert "integer overflow" in result.stdout


def test_actions_and_reasons_of_the_command_are_those_of_the_engine() -> None:
    """The command's own lists, kept apart so that --help is quick, are complete."""
    from auth.policy import DenyReason

    assert _ACTIONS == ACTIONS
    assert set(_WHY) == {reason.value for reason in DenyReason}


# the page ---------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def examples() -> list[tuple[str, list[str]]]:
    """Each example of the page: the whole policy, and its decisions as lines."""
    found = re.findall(r"```cedar\n(.*?)```\n\n```decisions\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return [(policy, decisions.splitlines()) for policy, decisions in found]


@pytest.mark.parametrize(("policy", "decisions"), examples(), ids=lambda value: str(value)[:40])
def test_documented_example_decides_as_it_says(home: Home, policy: str, decisions: list[str]) -> None:
    """Every policy that the page shows loads as it stands, alone, and decides what stands below it."""
    (groups,) = blocks("toml")
    home.config.write_text(f"{home.config.read_text()}\n{groups}")
    home.policy.write_text(policy)
    assert run(home, "check").exit_code == 0
    for line in decisions:
        decision, who, action, on, *context = line.split()
        pairs = [word for pair in context for word in ("--context", pair)]
        told = explain(home, who, action, on, *pairs)
        assert told.stdout.splitlines()[:1] == [decision], f"{line}: {told.output}"


def test_documented_examples_are_all_decided() -> None:
    """No policy on the page stands without its decisions."""
    assert len(examples()) == len(blocks("cedar")) == 5


def test_documented_json_has_the_real_keys(home: Home) -> None:
    """The page's JSON has the keys that the commands print."""
    checked, explained = (json.loads(block) for block in blocks("json"))
    home_told = json.loads(explain(home, "worker/w1", "reverse", "pool/render", *DIGEST, "--json").stdout)
    assert list(explained) == list(home_told)
    assert list(explained["principal"]) == list(home_told["principal"])
    assert list(checked) == list(json.loads(run(home, "check", "--json").stdout))


def test_documented_tables_name_every_key_and_reason() -> None:
    """The page knows every action, context key and reason."""
    page = DOCS.read_text(encoding="utf-8")
    assert [word for word in (*ACTIONS, *_WHY) if f"`{word}`" not in page] == []
