"""Principals, contexts and an uncached oracle for tests of the policy engine."""

from __future__ import annotations

import json
import re

import cedarpy

from auth.cedar import SCHEMA_TEXT, PolicyEngine
from auth.policy import Context, Decision, PolicyQuery, fold, minute_text, source_text
from auth.principal import Principal

ALICE = Principal(kind="Client", name="alice")
W1 = Principal(kind="Worker", name="w1", pool="render", labels=(("gpu", "a100"), ("zone", "b")))
M1 = Principal(kind="Master", name="m1")
TLS = Context("tls", "http/1.1", "SHA-256")
OPEN = '@id("open") permit (principal, action, resource);\n'
READS_ALL = OPEN + "".join(
    f'@id("reads-{key}") forbid (principal, action, resource) when {{ context has {key} && {test} }};\n'
    for key, test in {
        "now": 'context.now < datetime("1980-01-01")',
        "source": 'context.source.isInRange(ip("10.0.0.0/8"))',
        "path": 'context.path like "/secret/*"',
    }.items()
)


def load(text: str, groups: dict[str, list[str]] | None = None, **bounds: int) -> PolicyEngine:
    """An engine for the text; `bounds` make its cache small."""
    return PolicyEngine.load(text, groups=groups or {}, **bounds)


def query(
    principal: Principal = ALICE,
    action: str = "request",
    on: str = "Route/jobs",
    context: Context = TLS,
) -> PolicyQuery:
    """A question; `on` is TYPE/NAME."""
    resource_type, _, resource = on.partition("/")
    return PolicyQuery(
        principal=principal,
        action=action,
        resource_type=resource_type,  # type: ignore[arg-type]
        resource=resource,
        context=context,
    )


def ask_cedar(text: str, groups: dict[str, list[str]], asked: PolicyQuery) -> Decision:
    """The decision on the whole context, straight from Cedar, everything parsed anew: no cache, no projection."""
    who = asked.principal
    attributes = {}
    if who.kind == "Worker":
        attributes = {
            "pool": {"__entity": {"type": "Pool", "id": who.pool}},
            "labels": [f"{key}={value}" for key, value in who.labels],
        }
    parents = [{"type": "Group", "id": name} for name, members in groups.items() if who.identity in members]
    context = {name: value for name, value in asked.context._asdict().items() if value is not None}
    if asked.context.source is not None:
        context["source"] = source_text(asked.context.source)
    if asked.context.now is not None:
        context["now"] = minute_text(asked.context.now)
    result = cedarpy.is_authorized(
        {
            "principal": {"type": who.kind, "id": who.name},
            "action": {"type": "Action", "id": asked.action},
            "resource": {"type": asked.resource_type, "id": asked.resource},
            "context": context,
        },
        text,
        json.dumps([{"uid": {"type": who.kind, "id": who.name}, "attrs": attributes, "parents": parents}]),
        SCHEMA_TEXT,
    )
    ids = [
        str(p["annotations"]["id"]) for p in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
    ]

    def named(numbers: list[str]) -> list[str]:
        return [ids[int(number.removeprefix("policy"))] for number in numbers]

    failed = re.findall(r"evaluating policy `(policy\d+)`", "\n".join(result.diagnostics.errors))
    return fold(result.decision.value, named(result.diagnostics.reasons), named(failed))
