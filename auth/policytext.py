"""Reading Cedar policy text: cut it into policies, find the line of each fault, see what the policies look at.

Cedar's parser says neither line nor which policy, stops at the first fault, lets `@id` be missing, empty or used twice,
and does not survive every text. So the text is cut here, each policy is held against our limits and only then parsed
and validated, alone.

Trust: the text is the operator's: trusted to mean well, not to be right.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import cedarpy

from auth.errors import PolicyProblem
from auth.policy import ACTIONS, CONTEXT_KEYS

__all__ = ["Facts", "Policy", "Statement", "cut", "examine"]

MAX_TEXT = 1 << 20  # characters of a policy file
MAX_TOKENS = 8000  # of one policy; far below what the engine takes
MAX_NESTING = 64  # brackets in brackets; far below what the engine takes
MAX_DEPTH = 400  # levels of Cedar's JSON form, two for each operator of a chain; well within Python's recursion limit
MAX_PROBLEMS = 100  # told at once

# Cedar grammar: STR ::= '"' ( '\' any | any but '"' and '\' )* '"' ; comments run from '//' to the line's end. A lone
# '"' falls to the last branch and Cedar refuses it.
_TOKEN = re.compile(r'(?P<gap>\s+|//[^\n]*)|"(?:\\.|[^"\\])*"|\w+|::|&&|\|\||[=!<>]=|.', re.DOTALL)
_UNFINISHED = "unexpected end of input"
_QUOTED = re.compile(r"`([^`]+)`|: @?(\S+)$")
_OPTIONAL = re.compile(r"optional attribute `(\w+)` in context")
# The validator says everything once for each action, and numbers a policy that we show by its line.
_REPEATED = re.compile(r'for policy `policy0`, | for Action::"\w+"')

# What the validator adds whenever a scope names an entity type or an action that there is not.
_CONSEQUENCE = "unable to find an applicable action given the policy scope constraints"

_Faults = tuple[str, list[tuple[int, str]]]

_NAMED = frozenset({"Group", "Route", "Pool", "Role", "Client", "Worker", "Master", "Token"})
_PLACES = {"Group": "[groups]", "Route": "[[routes]]", "Pool": "[pools]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One policy as written, from first token to semicolon; `line` counts from 1, `ends` are token ends in `text`."""

    text: str
    line: int
    ends: tuple[int, ...]
    nesting: int

    def line_at(self, offset: int) -> int:
        """The line of the file that the character at `offset` of `text` stands on."""
        return self.line + self.text.count("\n", 0, offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one policy may look at: the actions that it can apply to and the keys of ``context`` that it reads.

    `named` are the groups, routes, pools, roles, clients, workers, masters and tokens that it names, as (type, id).
    """

    actions: frozenset[str]
    context: frozenset[str]
    named: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One valid policy of a file."""

    id: str
    effect: str
    line: int
    facts: Facts


def cut(text: str) -> Iterator[Statement]:
    """The policies in `text` in order, without comments between them. Total: what is no policy fails in the parser."""
    start: int | None = None
    ends: list[int] = []
    line, depth, nesting, counted = 1, 0, 0, 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "gap":
            continue
        if start is None:
            start, ends, depth, nesting = token.start(), [], 0, 0
            line += text.count("\n", counted, start)
            counted = start
        ends.append(token.end() - start)
        mark = token.group()
        if mark in ("(", "[", "{"):
            depth += 1
            nesting = max(nesting, depth)
        elif mark in (")", "]", "}"):
            depth -= 1
        elif mark == ";":
            yield Statement(text=text[start : token.end()], line=line, ends=tuple(ends), nesting=nesting)
            start = None
    if start is not None:
        yield Statement(text=text[start : start + ends[-1]], line=line, ends=tuple(ends), nesting=nesting)


def examine(
    text: str, schema: cedarpy.Schema, names: Mapping[str, Collection[str]], file: str
) -> list[Policy | PolicyProblem]:
    """Every policy of `text`, or the problems with it, in the order of the file.

    A policy must keep to our limits, parse, be no template (nothing here links templates), carry an ``@id`` that is not
    empty and that no other policy carries, pass Cedar's strict validation against `schema`, and name nothing that
    `names` lacks: a `forbid` on a misspelt group, route or pool would never apply. `names` are the ids that there are,
    by type (``Group``, ``Route``, ``Pool``). NOT checked: names of types that are not in `names`, so never clients,
    workers and masters, who may come later.
    """
    if len(text) > MAX_TEXT:
        return [PolicyProblem(file=file, line=None, message=f"longer than {MAX_TEXT} characters; split the rules up")]
    first_use: dict[str, Statement] = {}
    found: list[Policy | PolicyProblem] = []
    problems = 0
    for statement in cut(text):
        seen = _examine_one(statement, schema, names)
        name, faults = (seen.id, []) if isinstance(seen, Policy) else seen
        if name and (first := first_use.setdefault(name, statement)) is not statement:
            message = f'the @id "{name}" is taken by the policy on line {first.line}; give it its own'
            faults.append((statement.line, message))
        if isinstance(seen, Policy) and not faults:
            found.append(seen)
        found += [PolicyProblem(file=file, line=line, message=message) for line, message in faults]
        problems += len(faults)
        if problems >= MAX_PROBLEMS:
            found.append(PolicyProblem(file=file, line=None, message="too many problems; mend these first"))
            break
    return found


def _examine_one(
    statement: Statement, schema: cedarpy.Schema, names: Mapping[str, Collection[str]]
) -> Policy | _Faults:
    """The policy; or its id, as far as known, and (line, message) for each problem with it."""
    line = statement.line
    if len(statement.ends) > MAX_TOKENS:
        return "", [(line, f"the policy has more than {MAX_TOKENS} tokens; split it")]
    if statement.nesting > MAX_NESTING:
        return "", [(line, f"brackets are nested more than {MAX_NESTING} deep; make it simpler")]
    if (message := _parse_error(statement.text)) is not None:
        return "", [_locate(statement, message)]
    try:
        tree = json.loads(cedarpy.policies_to_json_str(statement.text))
        if tree["templates"]:
            return "", [
                (line, "a template (?principal, ?resource) cannot be linked here; write a policy for each case")
            ]
        (policy,) = tree["staticPolicies"].values()
        facts = _facts(policy)
    except RecursionError:
        return "", [(line, "too many operators in a chain; use a set, as in [...].contains(...), or split the policy")]
    name = policy.get("annotations", {}).get("id") or ""
    faults: list[tuple[int, str]] = []
    if not name:
        faults.append((line, 'the policy has no @id; write @id("a-name-of-its-own") before it'))
    for kind, id in sorted(facts.named):
        if kind in names and id not in names[kind]:
            where = _line_of(statement, json.dumps(id, ensure_ascii=False))
            faults.append((where, _unknown(kind, id, names[kind])))
    checked = cedarpy.validate_policies(statement.text, schema)
    told = list(dict.fromkeys(_REPEATED.sub("", str(error.error)) for error in checked.errors))
    if any(message.startswith("unrecognized") for message in told):
        told = [message for message in told if message != _CONSEQUENCE]
    faults += [(_line_of_quoted(statement, message), _with_mend(message)) for message in told]
    if not faults and not checked.validation_passed:
        faults.append((line, "does not pass the schema"))
    return (name, faults) if faults else Policy(id=name, effect=str(policy["effect"]), line=line, facts=facts)


def _unknown(kind: str, id: str, known: Collection[str]) -> str:
    """What is wrong with a name that gateway.toml does not have, and the mend."""
    if kind == "Role":
        return f'there is no Role::"{id}"; the roles are {", ".join(sorted(known))}'
    near = difflib.get_close_matches(id, known, n=1)
    mend = f"did you mean {near[0]!r}?" if near else "add it there or mend the name"
    return f'{kind}::"{id}" is not in {_PLACES[kind]} of gateway.toml; {mend}'


def _with_mend(message: str) -> str:
    """The validator's message, with what to do about the one that everybody meets."""
    if (optional := _OPTIONAL.search(message)) is not None:
        return f"{message}; ask first: `context has {optional.group(1)} && ...`"
    return message


def _parse_error(text: str) -> str | None:
    try:
        cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error)
    return None


def _locate(statement: Statement, message: str) -> tuple[int, str]:
    """The line and the text of a parse error.

    The parser tells "unfinished" from "wrong": the first token with which the text, cut off behind it, is not merely
    unfinished, is the one that it stumbled over. Faults that it sees only once the policy is complete are looked up by
    the word that the message quotes.
    """
    ends = statement.ends
    if message == _UNFINISHED:
        return statement.line, "the policy that starts here never ends; a semicolon or a bracket is missing"
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if _parse_error(statement.text[: ends[middle]]) == _UNFINISHED:
            low = middle + 1
        else:
            high = middle
    if low < len(ends) - 1:
        start = ends[low - 1] if low else 0
        word = statement.text[start : ends[low]].rsplit("\n", 1)[-1].strip()[:40]
        return statement.line_at(ends[low] - 1), message if word in message else f"{message} at {word}"
    return _line_of_quoted(statement, message), message


def _line_of(statement: Statement, piece: str) -> int:
    """The line on which `piece` first stands in the statement, or the statement's own."""
    return statement.line_at(max(0, statement.text.find(piece)))


def _line_of_quoted(statement: Statement, message: str) -> int:
    """The line of the first thing quoted in `message` that stands in the statement, or the statement's own."""
    for match in _QUOTED.finditer(message):
        piece = match.group(1) or match.group(2)
        if piece in statement.text:
            return _line_of(statement, piece)
    return statement.line


def _facts(policy: Mapping[str, object]) -> Facts:
    """What a policy (Cedar's JSON form) may look at. What we do not know counts as: everything.

    Raises:
        RecursionError: it is deeper than `MAX_DEPTH`, on whatever stack this runs.
    """
    context: set[str] = set()
    named: set[tuple[str, str]] = set()
    stack: list[tuple[int, object]] = [(0, policy)]
    while stack:
        depth, node = stack.pop()
        if depth > MAX_DEPTH:
            raise RecursionError("policy too deep")
        if isinstance(node, list):
            stack += [(depth + 1, child) for child in node]
        elif isinstance(node, dict):
            read = _context_read(node)
            if read is not None:
                context.add(read)
            elif node.get("Var") == "context":
                context.update(CONTEXT_KEYS)  # `context` as a whole
            else:
                if node.keys() == {"type", "id"} and node["type"] in _NAMED:
                    named.add((str(node["type"]), str(node["id"])))
                stack += [(depth + 1, child) for child in node.values()]
    if not context <= set(CONTEXT_KEYS):
        context.update(CONTEXT_KEYS)
    return Facts(actions=_actions(policy.get("action")), context=frozenset(context), named=frozenset(named))


def _context_read(node: Mapping[str, object]) -> str | None:
    """The key, if the node is exactly ``context.KEY`` or ``context has KEY``."""
    if len(node) != 1:
        return None
    body = node.get(".") or node.get("has")
    if isinstance(body, dict) and body.keys() == {"left", "attr"} and body["left"] == {"Var": "context"}:
        return str(body["attr"])
    return None


def _actions(scope: object) -> frozenset[str]:
    """The actions that a policy's scope admits; all of them where the scope is of a form that we do not know."""
    if isinstance(scope, dict):
        entities = scope.get("entities", [scope.get("entity")])
        if scope.get("op") in ("==", "in") and isinstance(entities, list):
            named = [entity.get("id") for entity in entities if isinstance(entity, dict)]
            if named and len(named) == len(entities) and all(name in ACTIONS for name in named):
                return frozenset(map(str, named))
    return frozenset(ACTIONS)
