"""The policy engine: what the default policy grants, how it fails closed, and that its cache changes nothing."""

from __future__ import annotations

from unittest import mock

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.policies import ALICE, M1, OPEN, READS_ALL, TLS, W1, load, query

from auth.cedar import DEFAULT_POLICY, SCHEMA_TEXT
from auth.errors import PolicyInvalid
from auth.policy import ACTIONS, CONTEXT_KEYS, Allowed, Context, Denied, DenyReason, PolicyQuery
from auth.principal import LOCAL_MASTER, Principal

BARE = Context("tls", "http/1.1")
DISPATCH = Context("dispatch", "http/1.1")
WORKER_TOKEN = Principal(kind="Token", name="et_0123456789abcdef", pool="render", role="worker")
CLIENT_TOKEN = Principal(kind="Token", name="et_0123456789abcdef", role="client")


# The default policy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        (query(ALICE, "request", "Route/jobs"), "clients-request-routes"),
        (query(ALICE, "inspect", "Pool/render"), "clients-inspect-pools"),
        (query(W1, "reverse", "Pool/render"), "workers-reverse-into-own-pool"),
        (query(M1, "dispatch", "Pool/render"), "masters-dispatch-and-inspect"),
        (query(M1, "inspect", "Pool/render"), "masters-dispatch-and-inspect"),
        (query(LOCAL_MASTER, "dispatch", "Pool/render", DISPATCH), "local-master-dispatches-and-inspects"),
        (query(LOCAL_MASTER, "inspect", "Pool/render", DISPATCH), "local-master-dispatches-and-inspects"),
        (query(WORKER_TOKEN, "enroll", "Pool/render"), "tokens-enroll"),
        (query(CLIENT_TOKEN, "enroll", "Role/client"), "tokens-enroll"),
        (query(W1, "enroll", "Pool/render"), "workers-renew"),
        (query(ALICE, "enroll", "Role/client"), "clients-renew"),
        (query(M1, "enroll", "Role/master"), "masters-renew"),
    ],
)
def test_default_policy_grants_each_role_its_own(asked: PolicyQuery, policy: str) -> None:
    """Each role gets what it is for, and the policy that says so is named by its @id."""
    assert Allowed((policy,)) == load(DEFAULT_POLICY).decide(asked)


@pytest.mark.parametrize(
    "asked",
    [
        query(ALICE, "request", "Route/jobs", BARE),
        query(ALICE, "inspect", "Pool/render", BARE),
        query(W1, "reverse", "Pool/render", BARE),
        query(M1, "dispatch", "Pool/render", BARE),
        query(W1, "reverse", "Pool/other"),
        query(W1, "inspect", "Pool/render"),
        query(W1, "dispatch", "Pool/render"),
        query(W1, "request", "Route/jobs"),
        query(ALICE, "dispatch", "Pool/render"),
        query(ALICE, "reverse", "Pool/render"),
        query(M1, "request", "Route/jobs"),
        query(M1, "dispatch", "Pool/render", DISPATCH),
        query(LOCAL_MASTER, "dispatch", "Pool/render", BARE),
        query(W1, "enroll", "Pool/other"),
        query(W1, "enroll", "Role/worker"),
        query(W1, "enroll", "Pool/render", BARE),
        query(ALICE, "enroll", "Role/master"),
        query(ALICE, "enroll", "Pool/render"),
        query(M1, "enroll", "Role/client"),
        query(WORKER_TOKEN, "enroll", "Pool/other"),
        query(WORKER_TOKEN, "enroll", "Role/client"),
        query(WORKER_TOKEN, "enroll", "Pool/render", BARE),
        query(WORKER_TOKEN, "reverse", "Pool/render"),
        query(CLIENT_TOKEN, "enroll", "Role/master"),
        query(CLIENT_TOKEN, "enroll", "Pool/render"),
        query(CLIENT_TOKEN, "request", "Route/jobs"),
    ],
)
def test_default_policy_denies_everything_else(asked: PolicyQuery) -> None:
    """Without Digest, in another pool, in another role, or with the local master's name elsewhere: no."""
    assert isinstance(load(DEFAULT_POLICY).decide(asked), Denied)


CASES = st.builds(
    query,
    st.builds(
        Principal,
        kind=st.sampled_from(["Client", "Worker", "Master"]),
        name=st.text(min_size=1, max_size=8),
        pool=st.sampled_from(["render", None]),
    ),
    st.sampled_from([*ACTIONS, "other", ""]),
    st.sampled_from(["Route/jobs", "Pool/render", "Other/x"]),
    st.just(TLS),
)


@given(CASES)
def test_empty_policy_denies_every_question(asked: PolicyQuery) -> None:
    """Deny by default: with nothing permitted, nobody may do anything."""
    assert isinstance(EMPTY.decide(asked), Denied)


EMPTY = load("")


@pytest.mark.parametrize(
    "asked",
    [
        query(W1, "dispatch", "Pool/render"),
        query(W1, "inspect", "Pool/render"),
        query(W1, "request", "Route/jobs"),
        query(ALICE, "reverse", "Pool/render"),
        query(ALICE, "dispatch", "Pool/render"),
        query(M1, "reverse", "Pool/render"),
        query(ALICE, "request", "Pool/render"),
        query(ALICE, "become", "Pool/render"),
    ],
)
def test_open_policy_gives_no_role_more_than_its_most(asked: PolicyQuery) -> None:
    """A policy that permits everything still cannot lift a role above what the schema lets it do at all."""
    assert Denied(DenyReason.NO_DECISION) == load(OPEN).decide(asked)


# Failing closed ---------------------------------------------------------------------------------------------------

OVERFLOW = "9223372036854775807 + 1 > 0"


def test_decide_forbid_that_errors_denies() -> None:
    """Cedar skips a forbid that fails and says Allow; we say no and name the policy that failed."""
    text = OPEN + f'@id("guard") forbid (principal, action, resource) when {{ {OVERFLOW} }};'
    raw = cedarpy.is_authorized(
        {"principal": 'Client::"alice"', "action": 'Action::"request"', "resource": 'Route::"jobs"', "context": {}},
        text,
        [],
    )
    assert (cedarpy.Decision.Allow, 1) == (raw.decision, len(raw.diagnostics.errors)), "the trap is still there"
    assert Denied(DenyReason.EVALUATION_ERROR, ("guard",)) == load(text).decide(query())


def test_decide_permit_that_errors_denies_even_beside_another() -> None:
    """One policy that cannot be evaluated is enough: what it would have said is unknown."""
    text = OPEN + f'@id("broken") permit (principal, action, resource) when {{ {OVERFLOW} }};'
    assert Denied(DenyReason.EVALUATION_ERROR, ("broken",)) == load(text).decide(query())


def test_decide_forbid_outweighs_permit_and_is_named() -> None:
    """A forbid wins, and the decision names it."""
    text = OPEN + '@id("not-alice") forbid (principal == Client::"alice", action, resource);'
    assert Denied(DenyReason.FORBIDDEN, ("not-alice",)) == load(text).decide(query())


@pytest.mark.parametrize("fault", [ValueError("x"), RuntimeError("x"), RecursionError(), MemoryError()])
def test_decide_engine_exception_denies(fault: Exception) -> None:
    """Whatever Cedar raises is a no, and is not remembered."""
    engine = load(OPEN)
    with mock.patch.object(cedarpy, "is_authorized", side_effect=fault):
        assert Denied(DenyReason.ENGINE_FAULT) == engine.decide(query())
    assert Allowed(("open",)) == engine.decide(query())


def test_decide_engine_panic_denies() -> None:
    """A Rust panic arrives as a BaseException of pyo3 and is a no as well."""

    class PanicException(BaseException):
        pass

    with mock.patch.object(cedarpy, "is_authorized", side_effect=PanicException("boom")):
        engine = load(OPEN)
        assert Denied(DenyReason.ENGINE_FAULT) == engine.decide(query())
        assert engine.explain(query()).errors == ("PanicException: boom",)


def test_decide_interrupt_passes_through() -> None:
    """Ctrl-C while deciding ends the process; it is not taken for a panic."""
    with mock.patch.object(cedarpy, "is_authorized", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        load(OPEN).decide(query())


@pytest.mark.parametrize("verdict", ["Allow", "NoDecision", "Deny"])
def test_decide_verdict_without_named_policy_denies(verdict: str) -> None:
    """An Allow that names no policy is no Allow."""
    answer = cedarpy.AuthzResult({"decision": verdict, "diagnostics": {"reason": [], "errors": []}})
    with mock.patch.object(cedarpy, "is_authorized", return_value=answer):
        assert isinstance(load(OPEN).decide(query()), Denied)


@pytest.mark.parametrize("source", ["::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.1", "::1", "::ffff:192.0.2.1%7"])
def test_decide_source_in_forms_that_cedar_refuses_is_decided(source: str) -> None:
    """Mapped addresses and zones, with which Cedar gives no decision, are put right before."""
    assert Allowed(("open",)) == load(READS_ALL).decide(query(context=TLS._replace(source=source)))


def test_decide_mapped_source_matches_ipv4_rules() -> None:
    """A rule about 10/8 holds for a client that came in over a dual-stack socket."""
    denied = load(READS_ALL).decide(query(context=TLS._replace(source="::ffff:10.1.2.3")))
    assert Denied(DenyReason.FORBIDDEN, ("reads-source",)) == denied


def test_decide_time_with_microseconds_is_decided() -> None:
    """Microseconds, with which Cedar gives no decision, are cut off before."""
    assert Allowed(("open",)) == load(READS_ALL).decide(query(context=TLS._replace(now=1_700_000_000.123456)))


@pytest.mark.parametrize(
    "context",
    [
        TLS._replace(source="nonsense"),
        TLS._replace(now=float("nan")),
        TLS._replace(now=1e300),
        TLS._replace(now="soon"),
        TLS._replace(path=b"/bytes"),
        TLS._replace(path=["/list"]),
        TLS._replace(path="\ud800"),
        TLS._replace(source=7),
    ],
)
def test_decide_context_without_a_form_denies(context: Context) -> None:
    """A value that has no form in the schema is a no, never an exception."""
    assert isinstance(load(READS_ALL).decide(query(context=context)), Denied)


@pytest.mark.parametrize(
    "name", ['a"l', "a\\", "a'", "a\nb", '"::Client', 'x" || true || "', "a\x00b", "é", "::ffff:1.2.3.4%z"]
)
def test_decide_quotes_in_names_stay_names(name: str) -> None:
    """A name is data: whatever stands in it, it is the one entity of that name and no Cedar text."""
    engine = load(DEFAULT_POLICY + '@id("no") forbid (principal == Client::"alice", action, resource);')
    asked = query(Principal(kind="Client", name=name), on=f"Route/{name}")
    assert Allowed(("clients-request-routes",)) == engine.decide(asked)


@pytest.mark.parametrize("resource", ["\ud800", 'x"', "", "x" * 100_000])
def test_decide_strange_resource_never_raises(resource: str) -> None:
    """The resource's name comes from the wire; whatever it is, there is a decision."""
    assert isinstance(load(DEFAULT_POLICY).decide(query(ALICE, "dispatch", f"Pool/{resource}")), Denied)


@pytest.mark.parametrize(
    "principal",
    [
        Principal(kind="Worker", name="w1", pool=None),
        Principal(kind="Worker", name="w1", pool="render", labels=(("a=b", "c"),)),
        Principal(kind="Robot", name="r"),  # type: ignore[arg-type]
        Principal(kind="Client", name="\ud800"),
        Principal(kind="Client", name=["x"]),  # type: ignore[arg-type]
    ],
)
def test_decide_principal_without_a_form_denies(principal: Principal) -> None:
    """A worker without a pool, an ambiguous label, an unknown kind: no."""
    assert isinstance(load(OPEN).decide(query(principal, "reverse", "Pool/render")), Denied)


# What policies can say --------------------------------------------------------------------------------------------


def test_labels_are_a_set_of_texts() -> None:
    """`principal.labels` holds "k=v" for each label of the certificate."""
    engine = load(
        '@id("gpu") permit (principal is Worker, action, resource) when { principal.labels.contains("gpu=a100") };'
    )
    plain = Principal(kind="Worker", name="w2", pool="render", labels=(("gpu", "none"),))
    assert Allowed(("gpu",)) == engine.decide(query(W1, "reverse", "Pool/render"))
    assert Denied(DenyReason.NOT_PERMITTED) == engine.decide(query(plain, "reverse", "Pool/render"))


def test_groups_hold_members_of_every_kind() -> None:
    """`principal in Group` is membership by kind and name: the same name in another kind is someone else."""
    groups = {"ops": ["client/alice", "worker/w1", "master/local"], "empty": []}
    engine = load('@id("ops") permit (principal in Group::"ops", action, resource);', groups)
    members = [query(), query(W1, "reverse", "Pool/p"), query(LOCAL_MASTER, "inspect", "Pool/p", DISPATCH)]
    assert [Allowed(("ops",))] * 3 == [engine.decide(member) for member in members]
    assert Denied(DenyReason.NOT_PERMITTED) == engine.decide(query(Principal(kind="Client", name="w1")))


def test_unknown_group_in_policy_is_refused_at_load() -> None:
    """A forbid on a misspelt group would never apply, so a group must be there, if empty."""
    with pytest.raises(PolicyInvalid, match=r'policy\.cedar:1: Group::"opps" is not in \[groups\]'):
        load('@id("x") forbid (principal in Group::"opps", action, resource);', {"ops": []})


@pytest.mark.parametrize(
    "member", ["alice", "Client/alice", "client/", "client/a/b", "server/x", "client/Alice", "client/a "]
)
def test_group_member_that_is_nobody_is_refused_at_load(member: str) -> None:
    """A member that no principal can be is a slip of the pen."""
    with pytest.raises(PolicyInvalid, match=r"gateway\.toml: groups\.ops: .* is not KIND/NAME"):
        load(OPEN, {"ops": [member]})


# Explaining and loading -------------------------------------------------------------------------------------------


def test_explain_names_policies_with_effect_and_line() -> None:
    """The explanation is the decision plus where the policies that made it stand."""
    engine = load("\n\n" + OPEN + '@id("no") forbid (principal, action, resource);')
    told = engine.explain(query())
    assert Denied(DenyReason.FORBIDDEN, ("no",)) == told.decision
    assert [(policy.id, policy.effect, policy.line) for policy in told.policies] == [("no", "forbid", 4)]


def test_explain_tells_what_cedar_said() -> None:
    """A policy that fails is shown with the engine's own words."""
    told = load(OPEN + f'@id("bad") forbid (principal, action, resource) when {{ {OVERFLOW} }};').explain(query())
    assert "integer overflow" in told.errors[0]
    assert "bad" in [policy.id for policy in told.policies]


def test_schema_names_the_context_that_we_fill() -> None:
    """The schema and `Context` have the same keys, and the same actions as `ACTIONS`."""
    assert [key for key in CONTEXT_KEYS if f" {key}: " not in SCHEMA_TEXT and f" {key}?: " not in SCHEMA_TEXT] == []
    assert [action for action in ACTIONS if f"\naction {action} " not in SCHEMA_TEXT] == []
    assert SCHEMA_TEXT.count("\naction ") == len(ACTIONS)


def test_load_engine_that_disagrees_about_numbers_is_refused() -> None:
    """Diagnostics name policies by number: were Cedar to number them otherwise, names in the audit log would lie."""
    plain = cedarpy.policies_to_json_str

    def renumbered(text: str) -> str:
        return plain(text).replace('"policy1"', '"policy7"')

    with (
        mock.patch.object(cedarpy, "policies_to_json_str", renumbered),
        pytest.raises(PolicyInvalid, match="other policies"),
    ):
        load(OPEN + '@id("second") ' + OPEN.partition(")")[2])


def test_load_engine_panic_is_a_problem() -> None:
    """A panic while loading refuses the policies; the process lives."""

    class PanicException(BaseException):
        pass

    panic = mock.patch.object(cedarpy, "validate_policies", side_effect=PanicException("boom"))
    with panic, pytest.raises(PolicyInvalid, match="PanicException"):
        load(OPEN)
