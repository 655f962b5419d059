"""The books and the log: one small sound day, and each thing that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from chaos.books import Books, Ran, Sent, Shut, Trouble
from chaos.reconcile import reconcile

Lines = list[dict[str, Any]]


def day() -> tuple[Books, Lines]:
    """A GET and a POST over a route, a dispatch, a refusal, and a request that was cut by a killed process."""
    books = Books(
        sent=[
            Sent("c1-1", "c1", "GET", 1.0, 1.1, 200, "r1", "", "c1-1"),
            Sent("c1-2", "c1", "POST", 2.0, 2.1, 200, "r2", "", "c1-2"),
            Sent("master1-1", "master1", "GET", 3.0, 3.1, 200, "r3", "", "master1-1"),
            Sent("c2-1", "c2", "GET", 4.0, 4.1, 401, "r4", "unauthenticated"),
            Sent("c1-3", "c1", "POST", 20.0, 20.1, None, how="fin"),
            Sent("c2-2", "c2", "GET", 50.0, 50.1, 503, "r5", "audit-unavailable"),
        ],
        ran=[Ran("c1-1", "jobs"), Ran("c1-2", "jobs"), Ran("master1-1", "w1"), Ran("c1-3", "jobs")],
        troubles=[Trouble("kill-process", "1", 20.0, 20.5), Trouble("full-disk", "", 49.0, 51.0)],
        shut=[Shut("c2", 3.5, 4.5)],
    )
    lines: Lines = [
        {"event": "gateway.start"},
        {"event": "request", "request_id": "r1", "target": "/jobs/c1-1", "outcome": "allowed", "status": 200},
        {"event": "request.sent", "request_id": "r2", "target": "/jobs/c1-2"},
        {"event": "request", "request_id": "r2", "target": "/jobs/c1-2", "outcome": "allowed", "status": 200},
        {"event": "dispatch.sent", "request_id": "r3", "target": "/-/pools/render/any/master1-1"},
        {
            "event": "dispatch",
            "request_id": "r3",
            "target": "/-/pools/render/any/master1-1",
            "outcome": "allowed",
            "status": 200,
        },
        {"event": "auth.refused", "request_id": "r4", "target": "/jobs/c2-1", "outcome": "refused", "status": 401},
        {"event": "request.sent", "request_id": "r9", "target": "/jobs/c1-3"},
        {"event": "admin.audit_resumed", "count": 1},
    ]
    return books, lines


def without(index: int) -> Callable[[Books, Lines], None]:
    """A log that lacks one line."""
    return lambda _books, lines: lines.pop(index) and None


def test_reconcile_of_a_sound_day_finds_nothing() -> None:
    """Answers with their lines, a cut beside a kill, and a full disk that says so: all of it agrees."""
    assert reconcile(*day()) == []


def _another_status(books: Books, _lines: Lines) -> None:
    books.sent[0].status = 502


def _second_line(_books: Books, lines: Lines) -> None:
    lines.append(deepcopy(lines[1]))


def _answer_of_another(books: Books, _lines: Lines) -> None:
    books.sent[0].echo = "c7-7"


def _no_id(books: Books, _lines: Lines) -> None:
    books.sent[0].request_id = ""


def _ran_twice(books: Books, _lines: Lines) -> None:
    books.ran.append(Ran("c1-2", "jobs"))


def _safe_ran_twice(books: Books, _lines: Lines) -> None:
    books.ran.append(Ran("c1-1", "jobs"))


def _dispatch_ran_twice(books: Books, _lines: Lines) -> None:
    books.ran.append(Ran("master1-1", "w2"))


def _nobody_sent(books: Books, _lines: Lines) -> None:
    books.ran.append(Ran("c9-9", "jobs"))


def _hung(books: Books, _lines: Lines) -> None:
    books.sent[4].how = "hung"


def _claims_an_answer(_books: Books, lines: Lines) -> None:
    lines.append({"event": "request", "request_id": "r9", "target": "/jobs/c1-3", "outcome": "allowed", "status": 200})
    _books.troubles.clear()


def _lost_in_calm(books: Books, lines: Lines) -> None:
    books.troubles[0].began = books.troubles[0].ended = 100.0
    lines.pop(7)
    books.ran.pop()


def _unsaid_without_full_disk(books: Books, _lines: Lines) -> None:
    books.troubles.pop()


def _let_in(books: Books, lines: Lines) -> None:
    books.sent[3].status, lines[6]["status"] = 200, 200


def _twice_in_the_books(books: Books, _lines: Lines) -> None:
    books.sent.append(deepcopy(books.sent[0]))


@pytest.mark.parametrize(
    ("spoil", "rule", "key"),
    [
        (without(1), "answer", "c1-1"),
        (without(2), "ran", "c1-2"),
        (without(3), "answer", "c1-2"),
        (without(4), "ran", "master1-1"),
        (without(5), "answer", "master1-1"),
        (without(6), "answer", "c2-1"),
        (without(7), "ran", "c1-3"),
        (without(8), "missing", "-"),
        (_another_status, "answer", "c1-1"),
        (_second_line, "line", "c1-1"),
        (_answer_of_another, "answer", "c1-1"),
        (_no_id, "answer", "c1-1"),
        (_ran_twice, "ran", "c1-2"),
        (_dispatch_ran_twice, "ran", "master1-1"),
        (_safe_ran_twice, "ran", "c1-1"),
        (_nobody_sent, "ran", "c9-9"),
        (_hung, "hung", "c1-3"),
        (_claims_an_answer, "line", "c1-3"),
        (_lost_in_calm, "lost", "c1-3"),
        (_unsaid_without_full_disk, "answer", "c2-2"),
        (_let_in, "shut", "c2-1"),
        (_twice_in_the_books, "books", "-"),
    ],
)
def test_reconcile_of_a_spoilt_day_names_what_is_wrong(
    spoil: Callable[[Books, Lines], None], rule: str, key: str
) -> None:
    """Each kind of disagreement is found, under its rule and at its request."""
    books, lines = day()
    spoil(books, lines)
    assert (rule, key) in {(one.rule, one.key) for one in reconcile(books, lines)}
