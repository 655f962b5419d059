"""The policy engine: Cedar behind `PolicyQuery -> Allowed | Denied`, with a bounded cache in front of it.

A decision of Cedar is far dearer than one out of the cache. What makes the cache correct is that Cedar is only ever
shown what the cache key is made of: the identity, the question, and those keys of the context that the loaded
policies read for that action (`now` cut to the minute, `source` normalized). A key that no policy reads is not passed
on at all.

Not thread-safe: one engine belongs to one event loop. A reload builds a new engine; the cache goes with the old one.

Trust: untrusted client + untrusted worker + untrusted master.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import cedarpy

from auth.errors import PolicyInvalid, PolicyProblem
from auth.policy import (
    ACTIONS,
    CONTEXT_KEYS,
    REQUIRED_KEYS,
    Context,
    Decision,
    Denied,
    DenyReason,
    PolicyQuery,
    QueryInvalid,
    fold,
    minute_text,
    source_text,
)
from auth.policyschema import DEFAULT_POLICY, SCHEMA_TEXT
from auth.policytext import Policy, examine
from auth.principal import Principal

__all__ = ["DEFAULT_POLICY", "SCHEMA_TEXT", "Decider", "Explanation", "PolicyEngine"]

MAX_IDENTITIES: Final = 16384  # entity handles kept; 0.2 KiB each
MAX_DECISIONS: Final = 65536  # of all identities together
MAX_DECISIONS_PER_IDENTITY: Final = 256
MAX_CACHED_TEXT: Final = 1024  # characters in resource and context; decisions about longer ones are not kept

_SCHEMA: Final = cedarpy.Schema.from_str(SCHEMA_TEXT)
_EVERYTHING: Final = frozenset(CONTEXT_KEYS)
_MEMBER: Final = re.compile(r"(?:client|worker|master)/[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_FAILED: Final = re.compile(r"error while evaluating policy `(policy\d+)`")
_UNREAD: Final = ""  # stands in for a key that the schema requires and no policy reads

_Key = Callable[[Context], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision and what it rests on.

    ``policies`` are the determining ones, each with effect and line; ``errors`` what Cedar said about policies that
    failed or about the query; ``reads`` the context keys that any policy for this action reads.
    """

    decision: Decision
    policies: tuple[Policy, ...]
    errors: tuple[str, ...]
    reads: frozenset[str]


class _Identity:
    """One principal: its entities as Cedar takes them, and the decisions about it. Mutable, so a plain class."""

    __slots__ = ("answers", "entities", "kept", "principal")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.answers: dict[tuple[object, object], Decision] = {}
        self.entities: cedarpy.Entities | None = None
        self.kept = False


class Decider:
    """One question (who, what, on what), ready to be decided under any circumstances. A plain class: on the hot path.

    Keep it as long as connection and engine live, or make it anew for each request. It stays correct when the engine's
    cache drops the identity. ``reads`` are the context keys that matter; the others may be left at None, except the
    required two.
    """

    __slots__ = ("_answers", "_decide", "_identity", "_key", "_question", "reads")

    def __init__(
        self,
        engine: PolicyEngine,
        identity: _Identity,
        question: tuple[str, str, str],
        reads: frozenset[str],
        key: _Key,
    ) -> None:
        self._decide = engine._decide
        self._identity = identity
        self._answers = identity.answers
        self._question = question
        self._key = key
        self.reads = reads

    def decide(self, context: Context) -> Decision:
        """The decision under `context`. Total: whatever goes wrong is `Denied`."""
        try:
            key = (self._question, self._key(context))
            answer = self._answers.get(key)
        except Exception:  # a value that is no text, number or None: no context of the gateway's
            return Denied(DenyReason.QUERY_INVALID)
        if answer is not None:
            return answer
        return self._decide(self._identity, self._question, self.reads, key, context)


class PolicyEngine:
    """Loaded policies. Make one with `load`."""

    def __init__(
        self,
        policies: cedarpy.PolicySet,
        facts: Sequence[Policy],
        groups: Mapping[str, Sequence[str]],
        *,
        max_identities: int = MAX_IDENTITIES,
        max_decisions: int = MAX_DECISIONS,
        max_decisions_per_identity: int = MAX_DECISIONS_PER_IDENTITY,
    ) -> None:
        self._policies = policies
        self._facts = {f"policy{number}": policy for number, policy in enumerate(facts)}
        self._groups: dict[str, list[str]] = {}
        for group, members in groups.items():
            for member in dict.fromkeys(members):
                self._groups.setdefault(member, []).append(group)
        self._reads: dict[str, tuple[frozenset[str], _Key]] = {}
        for action in ACTIONS:
            applicable = [policy.facts.context for policy in facts if action in policy.facts.actions]
            self._reads[action] = _reader(frozenset().union(*applicable))
        self._reads_all = _reader(_EVERYTHING)
        self._max_identities = max_identities
        self._max_decisions = max_decisions
        self._max_own = max_decisions_per_identity
        self._identities: OrderedDict[Principal, _Identity] = OrderedDict()
        self._stored = 0

    @classmethod
    def load(
        cls,
        text: str,
        *,
        groups: Mapping[str, Sequence[str]],
        resources: Mapping[str, Collection[str]] | None = None,
        file: str = "policy.cedar",
        max_identities: int = MAX_IDENTITIES,
        max_decisions: int = MAX_DECISIONS,
        max_decisions_per_identity: int = MAX_DECISIONS_PER_IDENTITY,
    ) -> PolicyEngine:
        """An engine for `text`; `groups` maps a group to members such as ``client/alice``; `file` is for messages only.

        `resources` are the names that there are, by ``Route`` and ``Pool``; without them these are not looked at.

        An empty text is valid and allows nothing.

        Raises:
            PolicyInvalid: with every problem: see `auth.policytext.examine`, and members that no principal could be.
        """
        problems = [
            PolicyProblem(file="gateway.toml", line=None, message=f"groups.{group}: {member!r} is not KIND/NAME")
            for group, members in groups.items()
            for member in members
            if not isinstance(member, str) or _MEMBER.fullmatch(member) is None
        ]
        policies: list[Policy] = []
        try:
            for item in examine(text, _SCHEMA, {"Group": groups, **(resources or {})}, file):
                policies.append(item) if isinstance(item, Policy) else problems.append(item)
            parsed = None if problems else cedarpy.PolicySet.from_str(text)
        except BaseException as error:
            parsed = None
            problems.append(PolicyProblem(file=file, line=None, message=f"the policy engine failed: {_reason(error)}"))
        if parsed is not None and not _same(text, policies):
            problems.append(
                PolicyProblem(file=file, line=None, message="the policy engine reads other policies than we")
            )
        if problems or parsed is None:
            raise PolicyInvalid(problems)
        return cls(
            parsed,
            policies,
            groups,
            max_identities=max_identities,
            max_decisions=max_decisions,
            max_decisions_per_identity=max_decisions_per_identity,
        )

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies in the order of the file."""
        return tuple(self._facts.values())

    def reads(self, action: str) -> frozenset[str]:
        """The context keys that some policy reads when `action` is asked about; all of them for an unknown action."""
        return self._reads.get(action, self._reads_all)[0]

    def decider(self, principal: Principal, action: str, resource_type: str, resource: str) -> Decider:
        """The question prepared. Never raises for values of the annotated types."""
        identity = self._identities.get(principal)
        if identity is None:
            identity = _Identity(principal)
            self._keep(identity)
        reads, key = self._reads.get(action, self._reads_all)
        return Decider(self, identity, (action, resource_type, resource), reads, key)

    def decide(self, query: PolicyQuery) -> Decision:
        """The decision on `query`. Total: whatever goes wrong is `Denied`."""
        try:
            decider = self.decider(query.principal, query.action, query.resource_type, query.resource)
        except Exception:
            return Denied(DenyReason.QUERY_INVALID)
        return decider.decide(query.context)

    def explain(self, query: PolicyQuery) -> Explanation:
        """The decision on `query`, asked anew, and what it rests on. Total like `decide`."""
        reads = self.reads(query.action)
        question = (query.action, query.resource_type, query.resource)
        decision, ids, errors = self._ask(_Identity(query.principal), question, reads, query.context)
        policies = tuple(self._facts[number] for number in ids if number in self._facts)
        return Explanation(decision=decision, policies=policies, errors=errors, reads=reads)

    def _decide(
        self,
        identity: _Identity,
        question: tuple[str, str, str],
        reads: frozenset[str],
        key: tuple[object, object],
        context: Context,
    ) -> Decision:
        decision = self._ask(identity, question, reads, context)[0]
        if isinstance(decision, Denied) and decision.reason in (DenyReason.ENGINE_FAULT, DenyReason.QUERY_INVALID):
            return decision
        if sum(len(text) for text in (*question, *context) if isinstance(text, str)) <= MAX_CACHED_TEXT:
            self._store(identity, key, decision)
        return decision

    def _ask(
        self, identity: _Identity, question: tuple[str, str, str], reads: frozenset[str], context: Context
    ) -> tuple[Decision, tuple[str, ...], tuple[str, ...]]:
        """Ask Cedar: the decision, its numbers of the determining policies, and its errors."""
        action, resource_type, resource = question
        try:
            if identity.entities is None:
                identity.entities = _entities(identity.principal, self._groups.get(identity.principal.identity, ()))
            result = cedarpy.is_authorized(
                {
                    "principal": {"type": identity.principal.kind, "id": identity.principal.name},
                    "action": {"type": "Action", "id": action},
                    "resource": {"type": resource_type, "id": resource},
                    "context": _project(context, reads),
                },
                self._policies,
                identity.entities,
                _SCHEMA,
            )
            verdict, reasons = result.decision.value, tuple(result.diagnostics.reasons)
            errors = tuple(result.diagnostics.errors)
            failed = tuple(match.group(1) if (match := _FAILED.match(error)) else "" for error in errors)
            decision = fold(verdict, [self._name(number) for number in reasons], [self._name(n) for n in failed])
        except QueryInvalid as error:
            return Denied(DenyReason.QUERY_INVALID), (), (str(error),)
        except BaseException as fault:
            # A panic in Cedar arrives as pyo3's PanicException, which is no Exception.
            return Denied(DenyReason.ENGINE_FAULT), (), (_reason(fault),)
        return decision, reasons + failed, errors

    def _name(self, number: str) -> str:
        policy = self._facts.get(number)
        return "" if policy is None else policy.id

    def _store(self, identity: _Identity, key: tuple[object, object], decision: Decision) -> None:
        if len(identity.answers) >= self._max_own:
            self._stored -= len(identity.answers)
            identity.answers.clear()
        while self._stored >= self._max_decisions and self._identities:
            self._drop(self._identities.popitem(last=False)[1])
        if identity.kept:
            self._identities.move_to_end(identity.principal)
        else:
            self._keep(identity)
        identity.answers[key] = decision
        self._stored += 1

    def _keep(self, identity: _Identity) -> None:
        """Enter the identity, in place of one for the same principal; the one that missed longest ago makes room."""
        if (other := self._identities.pop(identity.principal, None)) is not None:
            self._drop(other)
        while len(self._identities) >= self._max_identities:
            self._drop(self._identities.popitem(last=False)[1])
        self._identities[identity.principal] = identity
        identity.kept = True

    def _drop(self, identity: _Identity) -> None:
        """Forget what is known of an identity that was taken out; deciders that hold it start over."""
        self._stored -= len(identity.answers)
        identity.answers.clear()
        identity.entities = None
        identity.kept = False


def _reader(reads: frozenset[str]) -> tuple[frozenset[str], _Key]:
    """The keys, and the function that cuts their values out of a context."""
    indexes = [index for index, name in enumerate(CONTEXT_KEYS) if name in reads and name != "now"]
    fields: _Key = itemgetter(*indexes) if indexes else _nothing
    if "now" not in reads:
        return reads, fields

    def with_minute(context: Context) -> object:
        return fields(context), None if context.now is None else context.now // 60

    return reads, with_minute


def _nothing(_context: Context) -> object:
    return None


def _project(context: Context, reads: frozenset[str]) -> dict[str, str]:
    """The context as Cedar gets it: the keys that are read, and stand-ins for those that the schema wants besides.

    Raises:
        QueryInvalid: a value has no form in the schema.
    """
    values = dict.fromkeys(REQUIRED_KEYS - reads, _UNREAD)
    for name, value in zip(CONTEXT_KEYS, context, strict=True):
        if name not in reads or (value is None and name not in REQUIRED_KEYS):
            continue
        if name == "now" and isinstance(value, int | float):
            values[name] = minute_text(value)
        elif not isinstance(value, str):
            raise QueryInvalid(f"{name} is not text")
        else:
            values[name] = source_text(value) if name == "source" else value
    return values


def _entities(principal: Principal, groups: Sequence[str]) -> cedarpy.Entities:
    """The one entity that policies may look into, checked against the schema.

    The handle that is kept is parsed without the schema: with it Cedar adds every action, 4.6 KiB instead of 0.2.

    Raises:
        QueryInvalid: a worker or its token without a pool, a token of another role with one, or a label whose key holds
            ``=`` (two labels could look the same).
    """
    attributes: dict[str, object] = {}
    if principal.kind in ("Worker", "Token"):
        if (principal.pool is None) != (principal.kind == "Token" and principal.role != "worker"):
            raise QueryInvalid("a worker without a pool, or a pool without a worker")
        if any("=" in key for key, _ in principal.labels):
            raise QueryInvalid("a label key with an equals sign")
        if principal.pool is not None:
            attributes["pool"] = {"__entity": {"type": "Pool", "id": principal.pool}}
        attributes["labels"] = [f"{key}={value}" for key, value in principal.labels]
    if principal.kind == "Token":
        attributes["role"] = {"__entity": {"type": "Role", "id": principal.role}}
    text = json.dumps(
        [
            {
                "uid": {"type": principal.kind, "id": principal.name},
                "attrs": attributes,
                "parents": [{"type": "Group", "id": group} for group in groups],
            }
        ]
    )
    cedarpy.Entities.from_json_str(text, _SCHEMA)
    return cedarpy.Entities.from_json_str(text)


def _same(text: str, policies: Sequence[Policy]) -> bool:
    """Does Cedar number the policies of the whole text as we do? Its diagnostics name nothing but that number."""
    tree = json.loads(cedarpy.policies_to_json_str(text))
    named = {number: policy.get("annotations", {}).get("id") for number, policy in tree["staticPolicies"].items()}
    return named == {f"policy{number}": policy.id for number, policy in enumerate(policies)}


def _reason(error: BaseException) -> str:
    """A fault as text; what asks the process to end is no fault and goes on."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return f"{type(error).__name__}: {error}"
