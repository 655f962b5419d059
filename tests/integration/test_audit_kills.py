"""kill -9 of everything under load, over and over; at the end the books of the clients and the audit log agree.

Eight kills here; fifty with ``scripts/test --long``.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL
from support.origins import Origin
from support.rig import JOBS, Rig, wait_for
from support.wire import Ended, Wire

KILLS = 50 if os.environ.get("RHTTP_PKI_LONG") else 8
CLIENTS = 6
ANSWERS = 40
"""Answers, of all clients together, that each life of the gateway gives before it is killed."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


class Book:
    """What one client was answered, by the identifier of the request."""

    def __init__(self, rig: Rig, number: int) -> None:
        self.rig = rig
        self.number = number
        self.answers: dict[str, int] = {}
        self.asked = 0

    def work(self, stop: threading.Event) -> None:
        """Ask on one connection after another until told to stop; whatever breaks is no answer."""
        while not stop.is_set():
            try:
                with self.rig.connect("alice") as wire:
                    self._ask(wire, stop)
            except (OSError, Ended, SSL.Error):
                stop.wait(0.01)

    def _ask(self, wire: Wire, stop: threading.Event) -> None:
        digest = self.rig.digest("alice")
        digest.challenged(wire.ask("/-/pools"))  # not noted: refusals of one second may be one line with a count
        while not stop.is_set():
            self.asked += 1
            method = "POST" if self.asked % 3 == 0 else "GET"
            target = f"/jobs/{self.number}/{self.asked}"
            content = b"x" * 100 if method == "POST" else b""
            answer = wire.ask(target, method, digest.line(target, method), content=content)
            assert answer["rhttp-request-id"] not in self.answers
            self.answers[answer["rhttp-request-id"]] = answer.status


def kill_everything(rig: Rig) -> None:
    """The supervisor and every data process, none of which has a moment left."""
    pids = [int(one["pid"]) for one in rig.status()["processes"]]
    rig.served.signal(signal.SIGKILL)
    for pid in pids:
        with_signal(pid)
    rig.served.ended()


def with_signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # the kernel was quicker: it dies with its supervisor
        return


def test_everything_killed_again_and_again_every_answer_has_its_line(tmp_path: Path, origin: Origin) -> None:
    """The log is sound, and each answer that a client got whole has exactly one line, with that status."""
    with Rig(tmp_path, JOBS.format(port=origin.port), peers=("issue-client alice",), processes=2) as rig:
        books = [Book(rig, number) for number in range(CLIENTS)]
        for life in range(KILLS):
            if life:
                rig.start()
            before = sum(len(book.answers) for book in books)
            stop = threading.Event()
            threads = [threading.Thread(target=book.work, args=(stop,)) for book in books]
            for thread in threads:
                thread.start()
            try:
                wait_for(
                    lambda: sum(len(book.answers) for book in books),
                    lambda count, before=before: count >= before + ANSWERS,  # type: ignore[misc]
                    patience=60.0,
                )
                kill_everything(rig)
            finally:
                stop.set()
                for thread in threads:
                    thread.join(30)
        rig.start()
        assert rig.run("audit", "verify").splitlines()[-1].startswith("sound: 3 streams")
        lines = rig.audit()
    answered = {identifier: status for book in books for identifier, status in book.answers.items()}
    written = Counter(line["request_id"] for line in lines if "status" in line and line["event"] != "request.sent")
    statuses = {line["request_id"]: line["status"] for line in lines if "status" in line}
    assert len(answered) >= KILLS * ANSWERS
    assert set(answered.values()) == {200}
    assert {identifier: written[identifier] for identifier in answered} == dict.fromkeys(answered, 1)
    assert {identifier: statuses[identifier] for identifier in answered} == answered
    starts = [line["previous"] for line in lines if line["event"] == "gateway.start"]
    assert Counter(starts) == {"none": 2, "unclean": 2 * KILLS}
