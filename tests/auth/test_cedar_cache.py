"""The cache in front of Cedar changes no decision, asks no more than it must, and stays within its bounds."""

from __future__ import annotations

import gc
from unittest import mock

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import ALICE, M1, OPEN, READS_ALL, TLS, W1, ask_cedar, load, query

from auth.cedar import DEFAULT_POLICY, PolicyEngine
from auth.policy import ACTIONS, CONTEXT_KEYS, Allowed, Context, Denied, PolicyQuery
from auth.principal import LOCAL_MASTER, Principal

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
    st.sampled_from([None, "p256", "mldsa65"]),
    st.sampled_from([None, "x25519", "X25519MLKEM768"]),
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
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        del engine, decider
        gc.collect()
        assert not [left for left in gc.garbage if isinstance(left, PolicyEngine)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@settings(deadline=None)
@given(questions)
def test_explain_agrees_with_decide(warm: PolicyEngine, asked: PolicyQuery) -> None:
    """`policy explain` says what the gateway would do."""
    assert warm.explain(asked).decision == warm.decide(asked)
