"""``policy check`` and ``policy explain``: the policy of a home held against its schema, and one decision laid open.

Libraries are imported inside the commands: a command that is refused by its options must not wait for them.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway.cli.common import Settings, common_options, fail
from gateway.cli.options import INSTANT, LABEL, NAME, json_option, label_map, print_json
from gateway.cli.policy_names import look_up, unknown_principals, warn_of_unknown_principals, worker_in_inventory
from rhttp.worker.text_file import NotText, decode_text

if TYPE_CHECKING:
    from auth.cedar import Explanation
    from auth.errors import PolicyProblem
    from auth.policy import PolicyQuery
    from auth.principal import Principal
    from gateway.config.values import Config
    from gateway.home.layout import Home

_ACTIONS = ("request", "reverse", "dispatch", "inspect", "enroll")  # auth.policy.ACTIONS, held together by a test
_KINDS = {"client": "Client", "worker": "Worker", "master": "Master"}
_RESOURCES = {"route": "Route", "pool": "Pool"}
_WHY = {
    "not_permitted": "no policy permits it",
    "forbidden": "forbidden by policy",
    "evaluation_error": "a policy could not be evaluated, so nothing is allowed",
    "no_decision": "no policy can allow this; the schema has no such question",
    "unnamed_allow": "the engine named no policy",
    "query_invalid": "the question has no form in the schema",
    "engine_fault": "the engine failed",
}


@click.group()
def policy() -> None:
    """Check the policy, or have a decision explained."""


@policy.command()
@common_options
@json_option
@click.pass_context
def check(context: click.Context, settings: Settings, as_json: bool) -> None:
    """Hold policy.cedar against the schema and the groups, routes and pools of gateway.toml; tell every problem.

    Clients, workers and masters that have no certificate are a warning: they may come later. Status 0: there is no
    problem, 1: there are some.
    """
    from auth.cedar import PolicyEngine
    from auth.errors import PolicyInvalid, PolicyProblem
    from gateway.config.toml import load_config
    from gateway.config.values import ConfigInvalid
    from gateway.home.layout import Home

    home = Home.open(settings.home)
    problems: list[PolicyProblem] = []
    path = home.policy
    try:
        config = load_config(home.config)
        groups, resources, path = config.groups, config.resources(), config.policy
    except ConfigInvalid as error:
        config = None
        problems += [PolicyProblem(file=home.config.name, line=None, message=str(each)) for each in error.problems]
        groups, resources = _groups_as_written(home), None
    policies: list[dict[str, Any]] = []
    warnings: list[PolicyProblem] = []
    try:
        engine = PolicyEngine.load(_text(path), groups=groups, resources=resources, file=path.name)
        policies = [{"id": each.id, "effect": each.effect, "line": each.line} for each in engine.policies]
        if config is not None:
            look = unknown_principals if as_json else warn_of_unknown_principals
            warnings = look(home, config, engine.policies)
    except PolicyInvalid as error:
        problems += error.problems
    if as_json:
        told = {"problems": _listed(problems), "warnings": _listed(warnings)}
        print_json({"valid": not problems, "policies": policies} | told)
    else:
        for problem in problems:
            click.echo(str(problem))
        if not problems:
            click.echo(f"{path.name}: {len(policies)} policies, no problem")
    if problems and as_json:
        context.exit(1)
    if problems:
        files = " and ".join(dict.fromkeys(problem.file for problem in problems))
        fail(f"{files} cannot be used: {len(problems)} problem{'s' if len(problems) > 1 else ''}, listed above")


def _listed(problems: Sequence[PolicyProblem]) -> list[dict[str, Any]]:
    return [{"file": each.file, "line": each.line, "message": each.message} for each in problems]


@dataclass(slots=True, kw_only=True)
class _Given:
    """What ``--context`` gave: keys of the context, and what stands in for the inventory."""

    context: dict[str, str | float | None] = field(default_factory=dict)
    pool: str | None = None
    labels: dict[str, str] | None = None


class _Entity(click.ParamType[tuple[str, str]]):
    """KIND/NAME with one of the given kinds."""

    name = "kind/name"

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        kind, _, name = str(value).partition("/")
        if kind not in self._kinds or not name:
            self.fail(f"{value!r} is not {' or '.join(f'{kind}/NAME' for kind in self._kinds)}", param, ctx)
        # Routes are named freely; everybody and every pool has a NAME.
        return kind, name if kind == "route" else NAME.convert(name, param, ctx)


@policy.command()
@common_options
@click.option(
    "--as", "who", type=_Entity(_KINDS), required=True, help="Who asks: client/NAME, worker/NAME, master/NAME."
)
@click.option("--action", type=click.Choice(_ACTIONS), required=True)
@click.option("--on", "on", type=_Entity(_RESOURCES), required=True, help="What for: route/NAME or pool/NAME.")
@click.option(
    "--context",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A circumstance, such as digest=SHA-256; or pool=P and label=k=v in place of the worker's certificate.",
)
@json_option
@click.pass_context
def explain(
    context: click.Context,
    settings: Settings,
    who: tuple[str, str],
    action: str,
    on: tuple[str, str],
    pairs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whether the policy allows something, and which policies decide that. Status 0: allow, 1: deny.

    The context is what --context gives, and no more, except: listener is tls and digest SHA-256, as for a peer with its
    password (master/local: dispatch, without Digest), protocol http/1.1, now the present. An empty value (digest=)
    leaves a key out. A route or pool that gateway.toml does not have, and a name that another role has, are denied
    unasked; a client or master without a certificate is a warning.
    """
    given = _given(context, who, pairs)
    from auth.cedar import PolicyEngine
    from auth.errors import PolicyInvalid
    from auth.policy import Allowed, Context, PolicyQuery
    from gateway.config.toml import load_config
    from gateway.config.values import ConfigInvalid
    from gateway.home.layout import Home

    home = Home.open(settings.home)
    try:
        config = load_config(home.config)
    except ConfigInvalid as error:
        _fail_with(error.problems)
    looked = look_up(home, config, who, on)
    for warning in looked.warnings:
        click.echo(f"warning: {warning}", err=True)
    if looked.refusal is not None:
        _deny_unasked(looked.refusal, who, action, on, as_json)
        context.exit(1)
    try:
        engine = PolicyEngine.load(
            _text(config.policy), groups=config.groups, resources=config.resources(), file=config.policy.name
        )
    except PolicyInvalid as error:
        _fail_with(error.problems)
    asked = PolicyQuery(
        principal=_principal(who, given, home, config),
        action=action,
        resource_type=_RESOURCES[on[0]],  # type: ignore[arg-type]  # the two literals
        resource=on[1],
        context=Context(**given.context),  # type: ignore[arg-type]  # by `_circumstance`
    )
    told = engine.explain(asked)
    hint = None
    if not isinstance(told.decision, Allowed) and asked.context.digest is None and asked.context.listener == "tls":
        algorithm = config.digest.algorithms[0]
        hinted = replace(asked, context=asked.context._replace(digest=algorithm))
        if isinstance(engine.decide(hinted), Allowed):
            hint = "with Digest credentials it is allowed: leave out --context digest="
    if as_json:
        print_json(_explanation(asked, told, config, hint))
    else:
        _show(asked, told, config, hint)
    context.exit(0 if isinstance(told.decision, Allowed) else 1)


def _fail_with(problems: Sequence[object]) -> NoReturn:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    fail(f"{problems[0]}{more}; `rhttp-pki policy check` tells them all")


def _deny_unasked(why: str, who: tuple[str, str], action: str, on: tuple[str, str], as_json: bool) -> None:
    """The answer to a question about nobody or nothing: no policy was asked."""
    if not as_json:
        click.echo(f"deny\nreason: {why}")
        return
    nobody: dict[str, object] = {"kind": who[0], "name": who[1], "pool": None, "labels": {}, "groups": []}
    told: dict[str, object] = {
        "decision": "deny",
        "reason": "unknown_name",
        "policies": [],
        "errors": [],
        "principal": nobody,
    }
    resource = {"kind": on[0], "name": on[1]}
    print_json(told | {"action": action, "resource": resource, "context": {}, "reads": [], "hint": why})


def _given(context: click.Context, who: tuple[str, str], pairs: tuple[str, ...]) -> _Given:
    """The context that ``--context`` describes; wrong usage when it describes none."""
    from auth.policy import CONTEXT_KEYS

    given = _Given()
    given.context = {
        "listener": "dispatch" if who == ("master", "local") else "tls",
        "protocol": "http/1.1",
        "now": time.time(),
    }
    if who != ("master", "local"):
        given.context["digest"] = "SHA-256"  # what an authenticated peer has; `--context digest=` asks without it
    seen: set[str] = set()
    labels: list[tuple[str, str]] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in (*CONTEXT_KEYS, "pool", "label"):
            known = ", ".join((*CONTEXT_KEYS, "pool", "label"))
            raise click.BadParameter(f"{pair!r}: write KEY=VALUE with a key of {known}", param_hint="--context")
        if key != "label" and key in seen:
            raise click.BadParameter(f"{key} is given twice", param_hint="--context")
        if key in ("pool", "label") and who[0] != "worker":
            raise click.BadParameter(f"{key} is for workers, not for a {who[0]}", param_hint="--context")
        seen.add(key)
        if key == "label":
            labels.append(LABEL.convert(value, None, context))
        elif key == "pool":
            given.pool = NAME.convert(value, None, context)
        else:
            given.context[key] = _circumstance(context, key, value)
    given.labels = label_map(tuple(labels)) if labels else None
    return given


def _circumstance(context: click.Context, key: str, value: str) -> str | float | None:
    """The value of one context key as the gateway would have it."""
    from auth.policy import REQUIRED_KEYS, QueryInvalid, source_text

    if not value:
        if key in REQUIRED_KEYS:
            raise click.BadParameter(f"{key} cannot be left out", param_hint="--context")
        return None
    if key == "now":
        moment: datetime = INSTANT.convert(value, None, context)
        return moment.timestamp()
    if key == "source":
        try:
            return source_text(value)
        except QueryInvalid:
            raise click.BadParameter(f"{value!r} is not an IP address", param_hint="--context") from None
    return value


def _principal(who: tuple[str, str], given: _Given, home: Home, config: Config) -> Principal:
    """Who asks; a worker with pool and labels from ``--context``, for the rest from its newest certificate."""
    from auth.principal import Principal

    kind, name = who
    pool, labels = given.pool, given.labels
    if kind == "worker" and (pool is None or labels is None):
        found = worker_in_inventory(home, config, name)
        if pool is None and isinstance(found, str):
            fail(f"{found}; or say its pool with --context pool=P")
        if not isinstance(found, str):
            pool = found[0] if pool is None else pool
            labels = found[1] if labels is None else labels
    return Principal(
        kind=_KINDS[kind],  # type: ignore[arg-type]  # the three literals
        name=name,
        pool=pool,
        labels=tuple(sorted((labels or {}).items())),
    )


def _explanation(asked: PolicyQuery, told: Explanation, config: Config, hint: str | None) -> dict[str, Any]:
    """The JSON shape of ``policy explain``."""
    from auth.policy import Denied, minute_text

    who = asked.principal
    context: dict[str, Any] = {key: value for key, value in asked.context._asdict().items() if value is not None}
    if asked.context.now is not None:
        context["now"] = minute_text(asked.context.now)
    return {
        "decision": "deny" if isinstance(told.decision, Denied) else "allow",
        "reason": str(told.decision.reason) if isinstance(told.decision, Denied) else None,
        "policies": [{"id": each.id, "effect": each.effect, "line": each.line} for each in told.policies],
        "errors": list(told.errors),
        "principal": {
            "kind": who.kind.lower(),
            "name": who.name,
            "pool": who.pool,
            "labels": dict(who.labels),
            "groups": sorted(group for group, members in config.groups.items() if who.identity in members),
        },
        "action": asked.action,
        "resource": {"kind": asked.resource_type.lower(), "name": asked.resource},
        "context": context,
        "reads": sorted(told.reads),
        "hint": hint,
    }


def _show(asked: PolicyQuery, told: Explanation, config: Config, hint: str | None) -> None:
    told_all = _explanation(asked, told, config, hint)
    click.echo(told_all["decision"])
    if told_all["reason"] is not None:
        click.echo(f"reason: {_WHY.get(told_all['reason'], told_all['reason'])}")
    for each in told.policies:
        click.echo(f"policy: {each.id} ({each.effect}, {config.policy.name}:{each.line})")
    for error in told.errors:
        click.echo(f"engine: {error}")
    principal = told_all["principal"]
    if principal["pool"] is not None:
        click.echo(f"pool: {principal['pool']}")
    if principal["labels"]:
        click.echo(f"labels: {' '.join(f'{key}={value}' for key, value in principal['labels'].items())}")
    if principal["groups"]:
        click.echo(f"groups: {' '.join(principal['groups'])}")
    click.echo(f"context: {' '.join(f'{key}={value}' for key, value in told_all['context'].items())}")
    if hint is not None:
        click.echo(f"hint: {hint}")


def _text(path: Any) -> str:
    try:
        return decode_text(path.read_bytes())
    except NotText as error:
        fail(f"{path} {error}")
    except OSError as error:
        fail(f"cannot read the policy {path}: {error.strerror}; restore it, or set `policy` in gateway.toml")


def _groups_as_written(home: Home) -> dict[str, tuple[str, ...]]:
    """The groups of a gateway.toml that has problems elsewhere, so that the policy is not blamed for naming them."""
    try:
        groups = tomllib.loads(decode_text(home.config.read_bytes())).get("groups", {})
    except (OSError, ValueError):
        return {}
    if not isinstance(groups, dict):
        return {}
    return dict.fromkeys(groups, ())
