"""`revoke` of many: by role, pool and labels; what it shows before, and what it asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.homes import listed, refused, run_cli

from gateway.admin import client
from gateway.cli import revocation
from gateway.home.layout import Home


@pytest.fixture
def fleet(home: Home) -> Home:
    """Three workers of two pools, and a client."""
    for name, pool, zone in (("w1", "render", "a"), ("w2", "render", "b"), ("w3", "other", "a")):
        arguments = ("--pool", pool, "--label", "gpu=a100", "--label", f"zone={zone}", "--no-user")
        assert run_cli(home, "issue-worker", name, *arguments).exit_code == 0
    assert run_cli(home, "issue-client", "alice", "--no-user").exit_code == 0
    return home


def revoked(home: Home) -> set[object]:
    """The names of which a certificate is revoked."""
    return {entry["name"] for entry in listed(home) if entry["status"] == "revoked"}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--pool", "render"], {"w1", "w2"}),
        (["--role", "worker"], {"w1", "w2", "w3"}),
        (["--label", "gpu=a100", "--label", "zone=a"], {"w1", "w3"}),
        (["--pool", "render", "--label", "zone=a"], {"w1"}),
    ],
)
def test_revoke_of_many_is_one_act_that_is_logged_for_each(
    fleet: Home, arguments: list[str], names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that hold what is given are revoked, each with its audit line, and the gateway is told once."""
    calls: list[tuple[str, set[object]]] = []

    def call(_home: Path, _method: str, path: str, _body: object = None) -> dict[str, object]:
        calls.append((path, revoked(fleet)))
        return {"cut": 5}

    with monkeypatch.context() as patch:
        patch.setattr(client, "call", call)
        result = run_cli(fleet, "revoke", *arguments, "--yes", "--reason", "keyCompromise")
    assert result.exit_code == 0, result.output
    assert f"{len(names)} certificate(s) revoked; the gateway cut 5 connection(s)" in result.stdout
    assert calls == [("/revoke", names)]
    lines = [
        json.loads(line) for file in sorted(fleet.audit.glob("cli-*.jsonl")) for line in file.read_text().splitlines()
    ]
    seen = [(line["identity"].split("/")[1], line["reason"]) for line in lines if line["event"] == "pki.revoked"]
    assert sorted(seen) == [(name, "keyCompromise") for name in sorted(names)]
    verified = run_cli(fleet, "audit verify")
    assert verified.exit_code == 0, verified.output


def test_revoke_of_many_again_is_harmless(fleet: Home) -> None:
    """Nothing is left, nothing is asked, the exit status is 0: it may be a second try."""
    assert run_cli(fleet, "revoke", "--pool", "render", "--yes").exit_code == 0
    result = run_cli(fleet, "revoke", "--pool", "render")
    assert (result.exit_code, "nothing left to revoke" in result.stdout) == (0, True)


def test_revoke_of_many_without_yes_is_refused_where_nobody_can_be_asked(fleet: Home) -> None:
    """A script says that it means it; until then nothing happens."""
    refused(run_cli(fleet, "revoke", "--role", "worker"), "3 certificate(s) with the role worker would be revoked")
    assert revoked(fleet) == set()


@pytest.mark.parametrize(("answer", "names"), [("y", {"w1", "w2"}), ("n", set())])
def test_revoke_of_many_asks_at_a_terminal(
    fleet: Home, answer: str, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who says yes revokes, who says no has changed nothing; the question tells how many."""
    asked: list[str] = []

    def confirm(text: str, *, abort: bool, err: bool) -> None:
        assert (abort, err) == (True, True)
        asked.append(text)
        if answer == "n":
            raise revocation.click.Abort

    monkeypatch.setattr(revocation, "_is_interactive", lambda: True)
    monkeypatch.setattr(revocation.click, "confirm", confirm)
    assert run_cli(fleet, "revoke", "--pool", "render").exit_code == (0 if names else 1)
    assert asked == ["revoke 2 certificate(s) with the pool render, for good?"]
    assert revoked(fleet) == names


def test_revoke_dry_run_lists_and_changes_nothing(fleet: Home) -> None:
    """What would be revoked is listed as `list` does, for people and for programs."""
    text = run_cli(fleet, "revoke", "--pool", "render", "--dry-run").stdout
    assert ("w1" in text, "w2" in text, "w3" in text) == (True, True, False)
    value = json.loads(run_cli(fleet, "revoke", "--label", "zone=a", "--dry-run", "--json").stdout)
    assert {entry["name"] for entry in value["certificates"]} == {"w1", "w3"}
    assert (value["cut"], revoked(fleet)) == (None, set())


def test_revoke_json_tells_what_was_revoked(fleet: Home) -> None:
    """Programs get the certificates as they are now; without a gateway nothing was cut."""
    value = json.loads(run_cli(fleet, "revoke", "w1", "--reason", "superseded", "--json").stdout)
    (entry,) = value["certificates"]
    assert (entry["name"], entry["status"], entry["reason"], value["cut"]) == ("w1", "revoked", "superseded", None)
    assert entry in listed(fleet)


@pytest.mark.parametrize("arguments", [["--pool", "nowhere"], ["--label", "gpu=h100"], ["--role", "master"]])
@pytest.mark.parametrize("how", ["--yes", "--dry-run"])
def test_revoke_that_matches_nothing_is_refused(fleet: Home, arguments: list[str], how: str) -> None:
    """A pool, label or role that no certificate has is a mistake and said to be one."""
    refused(run_cli(fleet, "revoke", *arguments, how), "no certificate with the")


@pytest.mark.parametrize(
    "arguments", [["w1", "--pool", "render"], ["--serial", "0a", "--role", "worker"], ["--label", "no-value"]]
)
def test_revoke_of_mixed_kinds_is_wrong_usage(home: Home, arguments: list[str]) -> None:
    """A name, a serial, or what many have in common: not two of them at once."""
    assert run_cli(home, "revoke", *arguments).exit_code == 2


def test_revoke_of_the_servers_role_says_that_the_gateway_serves_one_of_them(home: Home) -> None:
    """The gateway's own certificates are a role, too."""
    result = run_cli(home, "revoke", "--role", "server", "--yes")
    assert (result.exit_code, "run: rhttp-pki issue-server" in result.stderr) == (0, True)
