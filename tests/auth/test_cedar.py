"""The policy engine: what the default policy grants, how it fails closed, and that its cache changes nothing."""

from __future__ import annotations

import gc
import weakref
from unittest import mock

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import ALICE, M1, TLS, W1, ask_cedar, query

from auth import cedar
from auth.cedar import DEFAULT_POLICY, SCHEMA_TEXT, PolicyEngine
from auth.errors import PolicyInvalid
from auth.policy import ACTIONS, CONTEXT_KEYS, Allowed, Context, Denied, DenyReason, PolicyQuery
from auth.principal import LOCAL_MASTER, Principal

BARE = Context("tls", "http/1.1")
DISPATCH = Context("dispatch", "http/1.1")
OPEN = '@id("open") permit (principal, action, resource);\n'


def load(text: str, groups: dict[str, list[str]] | None = None, **bounds: int) -> PolicyEngine:
    return PolicyEngine.load(text, groups=groups or {}, **bounds)


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
        query(W1, "enroll", "Pool/render"),
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


READS_ALL = OPEN + "".join(
    f'@id("reads-{key}") forbid (principal, action, resource) when {{ context has {key} && {test} }};\n'
    for key, test in {
        "now": 'context.now < datetime("1980-01-01")',
        "source": 'context.source.isInRange(ip("10.0.0.0/8"))',
        "path": 'context.path like "/secret/*"',
    }.items()
)


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


# The cache --------------------------------------------------------------------------------------------------------

READS = """
@id("a") permit (principal, action == Action::"request", resource) when { context has digest };
@id("b") forbid (principal, action == Action::"request", resource)
  when { context has path && context.path like "/admin/*" && context has method && context.method != "GET" };
@id("c") permit (principal in Group::"ops", action in [Action::"request", Action::"inspect"], resource)
  when { context has source && context.source.isInRange(ip("10.0.0.0/8")) };
@id("d") forbid (principal, action == Action::"inspect", resource)
  unless { context has now && context.now > datetime("2024-01-01") };
@id("e") permit (principal is Worker, action, resource)
  when { principal.pool == resource && context.listener == "tls" };
@id("f") permit (principal is Master, action, resource == Pool::"render") when { context has tls_version };
@id("g") forbid (principal == Client::"eve", action, resource)
  when { context.protocol == "h2" && 9223372036854775807 + 1 > 0 };
"""
READS_GROUPS = {"ops": ["client/alice", "master/m1"]}

contexts = st.builds(
    Context,
    st.sampled_from(["tls", "dispatch"]),
    st.sampled_from(["http/1.1", "h2"]),
    st.sampled_from([None, "SHA-256"]),
    st.sampled_from([None, "TLSv1.3"]),
    st.sampled_from([None, "GET", "PUT"]),
    st.sampled_from([None, "/admin/x", "/x"]),
    st.sampled_from([None, "10.1.2.3", "::ffff:10.1.2.3", "fe80::1%e", "192.0.2.1"]),
    st.sampled_from([None, 1.7e9, 1_704_067_199.5, 1_704_067_260.25, 1_704_067_200.0]),
)
questions = st.builds(
    query,
    st.sampled_from([ALICE, Principal(kind="Client", name="eve"), W1, M1, LOCAL_MASTER]),
    st.sampled_from(ACTIONS),
    st.sampled_from(["Route/jobs", "Pool/render", "Pool/other"]),
    contexts,
)


@pytest.fixture(scope="module")
def warm() -> PolicyEngine:
    """One engine for all examples, with a cache so small that it also overflows."""
    return load(READS, READS_GROUPS, max_identities=3, max_decisions=24, max_decisions_per_identity=10)


@settings(max_examples=150, deadline=None)
@given(asked=st.lists(questions, min_size=1, max_size=12))
def test_cached_decision_equals_uncached_decision(warm: PolicyEngine, asked: list[PolicyQuery]) -> None:
    """Whatever was asked before, the answer is the one that Cedar gives to the whole context without any cache."""
    for one in asked:
        assert ask_cedar(READS, READS_GROUPS, one) == warm.decide(one)


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(questions, min_size=1, max_size=40))
def test_held_deciders_stay_right_while_the_cache_overflows(warm: PolicyEngine, asked: list[PolicyQuery]) -> None:
    """A decider that a connection keeps answers like a new one after its identity was dropped, and counts stay true."""
    held = [warm.decider(one.principal, one.action, one.resource_type, one.resource) for one in asked]
    fresh = load(READS, READS_GROUPS)
    for decider, one in zip(held, asked, strict=True):
        assert fresh.decide(one) == decider.decide(one.context)
    kept = warm._identities.values()
    assert warm._stored == sum(len(identity.answers) for identity in kept) <= 24
    assert len(kept) <= 3
    assert all(len(identity.answers) <= 10 for identity in kept)


def calls(engine: PolicyEngine, asked: list[PolicyQuery]) -> int:
    """How often Cedar was asked for these."""
    with mock.patch.object(cedarpy, "is_authorized", wraps=cedarpy.is_authorized) as seen:
        for one in asked:
            engine.decide(one)
    return seen.call_count


def test_cache_keys_only_what_policies_read() -> None:
    """Paths, times and sources that no policy reads do not cost a second question."""
    varied = [query(context=TLS._replace(path=f"/{n}", now=n * 100.0, source=f"10.0.0.{n}")) for n in range(50)]
    assert calls(load(DEFAULT_POLICY), varied) == 1


def test_cache_asks_again_for_what_policies_read() -> None:
    """A key that a policy reads for this action is part of the cache key; `now` counts by the minute."""
    engine = load(READS_ALL)
    assert calls(engine, [query(context=TLS._replace(now=60.0 + n)) for n in (0, 1, 59, 60)]) == 2
    assert calls(load(READS_ALL), [query(context=TLS._replace(path=p)) for p in ("/a", "/b", "/a", None)]) == 3


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ("context has digest", {"digest"}),
        ('context has "digest"', {"digest"}),
        ('context.listener == "tls"', {"listener"}),
        ('context["listener"] == "tls"', {"listener"}),
        ("{a: context}.a has digest", set(CONTEXT_KEYS)),
        ("(if principal == resource then context else context) has digest", set(CONTEXT_KEYS)),
        ('"context" == "context.path"', set()),
        ("true", set()),
    ],
)
def test_reads_are_found_or_all(condition: str, reads: set[str]) -> None:
    """Direct reads are seen key by key; a context that is used as a whole reads everything."""
    engine = load(f'@id("x") permit (principal, action, resource) when {{ {condition} }};')
    assert reads == engine.reads("request")


def test_reads_are_counted_by_action() -> None:
    """A policy that cannot apply to an action does not make its decisions depend on what it reads."""
    engine = load(READS, READS_GROUPS)
    assert {"digest", "path", "method", "source", "listener", "protocol", "tls_version"} == engine.reads("request")
    assert {"listener", "protocol", "tls_version"} == engine.reads("dispatch")
    assert set(CONTEXT_KEYS) == engine.reads("no-such-action")


def test_cache_keeps_no_long_texts() -> None:
    """Decisions about very long paths are right but not kept: a peer cannot fill memory with them."""
    engine = load(READS_ALL)
    asked = query(context=TLS._replace(path="/" + "x" * 2000))
    assert calls(engine, [asked, asked]) == 2
    assert engine._stored == 0


def test_identities_are_bounded() -> None:
    """However many principals ask, only so many are kept, and each gets its own answer."""
    engine = load('@id("odd") forbid (principal == Client::"c7", action, resource);' + OPEN, max_identities=5)
    asked = [query(Principal(kind="Client", name=f"c{n}")) for n in range(100)]
    assert [n for n, one in enumerate(asked) if isinstance(engine.decide(one), Denied)] == [7]
    assert len(engine._identities) == 5


def test_other_pool_or_labels_is_another_identity() -> None:
    """A worker that comes back with a certificate for another pool does not inherit decisions."""
    engine = load(DEFAULT_POLICY)
    moved = Principal(kind="Worker", name="w1", pool="other", labels=W1.labels)
    assert isinstance(engine.decide(query(W1, "reverse", "Pool/render")), Allowed)
    assert isinstance(engine.decide(query(moved, "reverse", "Pool/render")), Denied)


def test_engine_is_freed_when_a_reload_lets_go_of_it() -> None:
    """Engine, cache and deciders hold no cycle: memory comes back at once, with the garbage collector off too."""
    engine = load(DEFAULT_POLICY)
    decider = engine.decider(ALICE, "request", "Route", "jobs")
    decider.decide(TLS)
    seen = weakref.ref(engine)
    gc.disable()
    try:
        del engine, decider
        assert seen() is None
    finally:
        gc.enable()


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


@settings(deadline=None)
@given(questions)
def test_explain_agrees_with_decide(warm: PolicyEngine, asked: PolicyQuery) -> None:
    """`policy explain` says what the gateway would do."""
    assert warm.explain(asked).decision == warm.decide(asked)


def test_schema_names_the_context_that_we_fill() -> None:
    """The schema and `Context` have the same keys, and the same actions as `ACTIONS`."""
    assert [key for key in CONTEXT_KEYS if f" {key}: " not in SCHEMA_TEXT and f" {key}?: " not in SCHEMA_TEXT] == []
    assert [action for action in ACTIONS if f"\naction {action} " not in SCHEMA_TEXT] == []
    assert SCHEMA_TEXT.count("\naction ") == len(ACTIONS)


def test_load_engine_that_disagrees_about_numbers_is_refused() -> None:
    """Diagnostics name policies by number: were Cedar to number them otherwise, names in the audit log would lie."""
    with mock.patch.object(cedar, "_same", return_value=False), pytest.raises(PolicyInvalid, match="other policies"):
        load(OPEN)


def test_load_engine_panic_is_a_problem() -> None:
    """A panic while loading refuses the policies; the process lives."""

    class PanicException(BaseException):
        pass

    panic = mock.patch.object(cedarpy, "validate_policies", side_effect=PanicException("boom"))
    with panic, pytest.raises(PolicyInvalid, match="PanicException"):
        load(OPEN)
