"""Books against the audit log: every answer has its line, every line its counterpart, nothing ran twice unsaid.

Pure: it gets the books of the peers and the lines of the log, and answers what does not agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chaos.books import Books, Sent, Trouble

Line = Mapping[str, Any]

SENT_LINES: Final = frozenset({"request.sent", "dispatch.sent"})
CLOSING: Final = frozenset({"request", "dispatch", "auth.refused", "policy.denied"})
"""Events that end a request: each request has at most one line of them."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CUTTING: Final = frozenset(
    {"kill-process", "kill-gateway", "stop-process", "restart", "revoke", "disable", "kill-worker", "stop-worker"}
)
"""Troubles that may cut an answer on its way, or keep one from coming at all."""
KILLS: Final = frozenset({"kill-process", "kill-gateway"})
ENDING: Final = KILLS | {"restart"}
FULL_DISK: Final = "full-disk"
FULL_FOR: Final = 10.0
"""Seconds around an answer in which the end of its process loses the number of lines that are missing."""
SLACK: Final = 3.0
"""Seconds that the effect of a trouble may outlast it."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One place where books and log do not agree: the rule, the request's key, and what was found."""

    rule: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.key}: {self.text}"


class Log:
    """The audit log's lines of requests, by request id and by key (the last segment of the target)."""

    def __init__(self, lines: Iterable[Line], keys: frozenset[str]) -> None:
        self.closing: dict[str, list[Line]] = defaultdict(list)
        self.by_key: dict[str, list[Line]] = defaultdict(list)
        self.sent: Counter[str] = Counter()
        self.missing = 0
        """Lines that the log itself says are missing, since they could not be written."""
        for line in lines:
            event, key = str(line.get("event")), str(line.get("target", "")).rpartition("/")[2]
            if event in CLOSING and line.get("request_id"):
                self.closing[str(line["request_id"])].append(line)
                if key in keys:
                    self.by_key[key].append(line)
            elif event in SENT_LINES and key in keys:
                self.sent[key] += 1
            elif event == "admin.audit_resumed":
                self.missing += int(line["count"])


def near(troubles: Iterable[Trouble], names: frozenset[str], began: float, ended: float) -> bool:
    """Whether a trouble of these kinds touches this span of time."""
    return any(
        trouble.name in names and trouble.began - SLACK <= ended and began <= trouble.ended + SLACK
        for trouble in troubles
    )


def reconcile(books: Books, lines: Iterable[Line]) -> list[Discrepancy]:
    """Everything that does not agree."""
    by_key = {sent.key: sent for sent in books.sent}
    log = Log(lines, frozenset(by_key))
    found = [
        *answers_have_lines(books, log),
        *lines_have_counterparts(books, by_key, log),
        *runs_are_said(books, by_key, log),
        *shut_out_stay_out(books),
    ]
    if len(by_key) != len(books.sent):
        found.append(Discrepancy("books", "-", "two requests have one key: a fault of the books"))
    return [_with_time(one, by_key.get(one.key), books) for one in found]


def _with_time(found: Discrepancy, sent: Sent | None, books: Books) -> Discrepancy:
    """The same with when it was, and which troubles there were then."""
    if sent is None:
        return found
    since, until = sent.began - books.began, sent.ended - books.began
    beside = [
        f"{trouble.name} {trouble.began - books.began:.1f}-{trouble.ended - books.began:.1f}"
        for trouble in books.troubles
        if trouble.began - SLACK <= sent.ended and sent.began <= trouble.ended + SLACK
    ]
    where = f" ({since:.1f}-{until:.1f} s; {', '.join(beside) or 'in calm'})"
    return Discrepancy(found.rule, found.key, found.text + where)


def answers_have_lines(books: Books, log: Log) -> Iterator[Discrepancy]:
    """Every complete answer has exactly one closing line, with its status.

    The gateway's own answers lack theirs while the disk is full; the log says afterwards how many lines are missing,
    unless the process that knew the number was ended before it could.
    """
    unsaid: list[Sent] = []
    for sent in books.sent:
        if sent.how == "hung":
            yield Discrepancy("hung", sent.key, f"{sent.who} got nothing for {sent.ended - sent.began:.1f} s")
        if sent.status is None:
            continue
        if not sent.request_id:
            yield Discrepancy("answer", sent.key, f"{sent.status} has no Rhttp-Request-Id")
            continue
        if sent.echo and sent.echo != sent.key:
            yield Discrepancy("answer", sent.key, f"got the answer of {sent.echo}")
        statuses = [line.get("status") for line in log.closing.get(sent.request_id, ())]
        if statuses == [sent.status]:
            continue
        span = (sent.began, sent.ended)
        if not statuses and sent.problem and near(books.troubles, frozenset({FULL_DISK}), *span):
            unsaid.append(sent)
            continue
        if not statuses and sent.status == 401 and near(books.troubles, KILLS, *span):
            continue  # a first challenge: its line is written a moment later
        yield Discrepancy("answer", sent.key, f"{sent.status} ({sent.problem or 'passed on'}), lines say {statuses}")
    ended = [trouble for trouble in books.troubles if trouble.name in ENDING]
    known = [sent for sent in unsaid if not near(ended, ENDING, sent.began - FULL_FOR, sent.ended + FULL_FOR)]
    if len(known) > log.missing:
        yield Discrepancy("missing", "-", f"{len(known)} answers without a line, the log says {log.missing}")


def lines_have_counterparts(books: Books, by_key: Mapping[str, Sent], log: Log) -> Iterator[Discrepancy]:
    """Every closing line belongs to one request of the books; one that tells of an answer, to an answer or a cut."""
    for key, lines in log.by_key.items():
        sent = by_key[key]
        if len(lines) > 1:
            yield Discrepancy("line", key, f"{len(lines)} closing lines: {[line.get('status') for line in lines]}")
        for line in lines:
            if sent.status is not None:
                if line.get("request_id") != sent.request_id:
                    yield Discrepancy("line", key, f"of another request: {line.get('request_id')}")
            elif line.get("outcome") == "allowed" and not near(books.troubles, CUTTING, sent.began, sent.ended):
                yield Discrepancy("line", key, f"says {line.get('status')}, {sent.who} got none ({sent.how})")
    for sent in books.sent:
        if sent.status is not None or sent.how == "hung" or log.by_key.get(sent.key):
            continue
        if not near(books.troubles, CUTTING | {FULL_DISK}, sent.began, sent.ended):
            yield Discrepancy("lost", sent.key, f"no answer ({sent.how}) and no line")


def runs_are_said(books: Books, by_key: Mapping[str, Sent], log: Log) -> Iterator[Discrepancy]:
    """What ran was sent, an unsafe request once for each line that says so, a safe one once more than that."""
    for key, runs in Counter(ran.key for ran in books.ran).items():
        sent = by_key.get(key)
        if sent is None:
            yield Discrepancy("ran", key, "nobody sent it")
            continue
        is_dispatch = sent.who.startswith("master")
        said = log.sent[key] + (1 if sent.method in SAFE and not is_dispatch else 0)
        if runs > said:
            yield Discrepancy("ran", key, f"{sent.method} ran {runs} times, {log.sent[key]} lines say that it was sent")


def shut_out_stay_out(books: Books) -> Iterator[Discrepancy]:
    """Nobody who was revoked or disabled gets anything but a refusal for what was sent afterwards."""
    for shut in books.shut:
        for sent in books.sent:
            if sent.who == shut.who and shut.since < sent.began < shut.until and sent.status not in (None, 401, 403):
                if sent.problem in {"draining", "state-stale", "overloaded", "audit-unavailable"}:
                    continue
                yield Discrepancy("shut", sent.key, f"{sent.who} was shut out and got {sent.status}")
