"""Faults of a policy file: each is found, with its line, and all at once."""

from __future__ import annotations

from collections.abc import Callable

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.cedar import DEFAULT_POLICY, SCHEMA_TEXT, PolicyEngine
from auth.errors import PolicyInvalid, PolicyProblem
from auth.policytext import MAX_DEPTH, MAX_NESTING, MAX_TEXT, MAX_TOKENS, Policy, cut, examine

SCHEMA = cedarpy.Schema.from_str(SCHEMA_TEXT)


def problems(text: str) -> list[tuple[int | None, str]]:
    """(line, message) of every problem that loading `text` finds."""
    try:
        PolicyEngine.load(text, groups={"ops": []})
    except PolicyInvalid as error:
        return [(problem.line, problem.message) for problem in error.problems]
    return []


def body(condition: str) -> str:
    return f'@id("x")\npermit (principal, action, resource)\nwhen {{ {condition} }};'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (body("true").replace("when", "whem"), 3, "invalid policy condition: whem"),
        (body("true &&\n&& false"), 4, "unexpected token `&&`"),
        (body("\n\n1 # 2"), 5, "invalid token at #"),
        (body('"\n\\q" == ""'), 4, r"`\q` is not a valid escape"),
        (body("\ncontext.listener.shout()"), 4, "`shout` is not a valid method"),
        (body("true")[:-1], 1, "never ends"),
        (body("(true"), 3, "unexpected token `}`"),
        ('\n\n@id("a")\n@id("b") permit (principal, action, resource);', 3, "duplicate annotation"),
        (";", 1, "unexpected token"),
        ("\n\nhello", 3, "never ends"),
        ("\n\nhello there;", 3, "unexpected token `there`"),
        (body("\ncontext.digets == 1"), 4, "attribute `digets` in context not found"),
        (body('\n\ncontext.path == "/"'), 5, "ask first: `context has path && ...`"),
        (body('\nprincipal == Klient::"x"'), 4, "unrecognized entity type `Klient`"),
        (body("true").replace("principal", "principal is Worker").replace("true", "principal.pool == 1"), 1, "types"),
        ('@id("x")\npermit (principal,\naction == Action::"reqest", resource);', 3, "unrecognized action"),
        ('@id("x") permit (principal is Worker, action == Action::"dispatch", resource);', 1, "applicable action"),
        ("// a\n/* b */ permit (principal, action, resource);", 2, "unexpected token"),
        ("\npermit (principal, action, resource);", 2, "has no @id"),
        ("\n@id permit (principal, action, resource);", 2, "has no @id"),
        ('\n@id("") permit (principal, action, resource);', 2, "has no @id"),
        ('@id("t")\npermit (principal == ?principal, action, resource);', 1, "template"),
        ('@id("t") permit (principal in ?principal, action, resource == ?resource);', 1, "template"),
        (body('\nprincipal in Group::"opps"'), 4, 'Group::"opps" is not in [groups]'),
    ],
)
def test_fault_is_found_with_its_line(text: str, line: int, message: str) -> None:
    """Each kind of fault alone: one problem, on the line where a reader would put the finger."""
    found = problems(text)
    assert [line] * len(found) == [where for where, _ in found]
    assert message in found[0][1]


@pytest.mark.parametrize("between", ["\n", " "])
def test_duplicate_id_is_found_with_both_lines(between: str) -> None:
    """Cedar takes two policies with the same @id; we refuse the second and say where the first is, on one line too."""
    text = f'@id("x") permit (principal, action, resource);{between}@id("x") forbid (principal, action, resource);'
    line = 1 + between.count("\n")
    assert [(line, 'the @id "x" is taken by the policy on line 1; give it its own')] == problems(text)
    assert len(cedarpy.PolicySet.from_str(text)) == 2, "the trap is still there"


def test_all_problems_are_told_at_once_in_order() -> None:
    """One run shows everything: a fault does not hide those behind it, nor the good policies between."""
    text = "\n".join(
        [
            "permit (principal, action, resource);",
            '@id("a") permit (principal, action, resource) whem { true };',
            '@id("b") permit (principal, action, resource);',
            '@id("b") permit (principal in Group::"nobody", action, resource) when { context.nothing };',
            '@id("c") permit (principal == ?principal, action, resource);',
        ]
    )
    assert [line for line, _ in problems(text)] == [1, 2, 4, 4, 4, 5]


def test_problems_have_an_end() -> None:
    """A thousand faults are cut short, and it is said."""
    found = problems("permit (principal, action, resource);\n" * 1000)
    assert (len(found), found[-1]) == (101, (None, "too many problems; mend these first"))


@pytest.mark.parametrize(
    "text",
    [
        body("(" * MAX_NESTING + "true" + ")" * MAX_NESTING),
        body("[" * MAX_NESTING + "]" * MAX_NESTING + " == []"),
        body("{a:" * MAX_NESTING + "true" + "}" * MAX_NESTING + " has a"),
        body("(" * MAX_NESTING),
        body("true" + " || true" * MAX_DEPTH),
        body("context" + ".a" * MAX_DEPTH),
        body("[" + "1," * MAX_TOKENS + "1].contains(1)"),
        " " * (MAX_TEXT + 1),
        '"' + "\n" * 1000,
    ],
    ids=lambda text: text[40:56].strip() + f"-{len(text)}",
)
def test_text_beyond_a_limit_is_a_problem(text: str) -> None:
    """What is larger, longer or deeper than we let through is told as a problem; the engine never sees it."""
    assert problems(text) != []


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda n: body("(" * n + "true" + ")" * n), MAX_NESTING - 1),  # the braces of `when` are one more
        (lambda n: body("[" + "1," * n + "1].contains(1)"), (MAX_TOKENS - 25) // 2),
    ],
    ids=["nesting", "tokens"],
)
def test_limit_holds_at_its_edge(make: Callable[[int], str], most: int) -> None:
    """The largest that is allowed loads, one more does not."""
    assert (problems(make(most)), len(problems(make(most + 1)))) == ([], 1)


def test_long_chain_up_to_the_limit_loads() -> None:
    """A chain of a hundred alternatives is an ordinary policy."""
    assert problems(body(" || ".join(f'context.listener == "{n}"' for n in range(100)))) == []


def test_comments_and_strings_do_not_end_a_policy() -> None:
    """A semicolon, a quote or // counts only where Cedar's grammar says so."""
    text = (
        '// ; " (\n@id("a;b") permit (principal, action, resource) // ;\nwhen { context.listener != "//;\\"" }; // end'
    )
    (statement,) = cut(text)
    assert (statement.line, statement.text.endswith("};")) == (2, True)
    assert problems(text) == []


def test_default_policy_is_cut_and_examined() -> None:
    """The policy of a new home has nine policies, each with its line."""
    found = examine(DEFAULT_POLICY, SCHEMA, {}, "policy.cedar")
    lines = DEFAULT_POLICY.splitlines()
    assert all(isinstance(item, Policy) and f'@id("{item.id}")' in lines[item.line - 1] for item in found)
    assert len(found) == 9


def test_problem_reads_as_file_and_line() -> None:
    """Messages start like a compiler's, so editors can jump to them."""
    with pytest.raises(PolicyInvalid, match=r"^my\.cedar:1: the policy has no @id"):
        PolicyEngine.load("permit (principal, action, resource);", groups={}, file="my.cedar")


FRAGMENTS = st.sampled_from(
    [
        *(
            '@id("a")',
            '@id("b")',
            "permit",
            "forbid",
            "(principal, action, resource)",
            "when {",
            "}",
            ";",
            "true",
            "&&",
        ),
        *('"', "//", "\n", "context", ".", "has", "digest", "(", ")", "[", "?principal", '\\"', "=="),
    ]
)


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=30).map(" ".join))
def test_any_text_is_policies_or_problems_with_lines_inside(text: str) -> None:
    """Nothing raises, a problem's line is one of the file, and what loads is what Cedar reads, policy for policy."""
    found = examine(text, SCHEMA, {}, "f")
    bad = [item for item in found if isinstance(item, PolicyProblem)]
    assert all(item.line is not None and 1 <= item.line <= text.count("\n") + 1 for item in bad)
    if not bad:
        assert len(cedarpy.PolicySet.from_str(text)) == len(found)
    else:
        with pytest.raises(PolicyInvalid):
            PolicyEngine.load(text, groups={})


@settings(deadline=None)
@given(st.text(max_size=60))
def test_cut_loses_nothing_but_gaps(text: str) -> None:
    """Pieces come in order, stand in the text as they are, and start on the line that they name."""
    at = 0
    for statement in cut(text):
        at = text.index(statement.text, at)
        assert statement.line == text.count("\n", 0, at) + 1
        assert statement.ends[-1] == len(statement.text)
        at += len(statement.text)
