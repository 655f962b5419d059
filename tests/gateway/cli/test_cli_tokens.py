"""`token create`, `token list`, `token revoke`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.homes import mode_of, new_home, refused, run_cli

from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.home.layout import Home
from gateway.state.database import open_state, reading
from gateway.state.tokens import read_grants
from rhttp.digest.formula import Algorithm, ha1

WORKER = ("--role", "worker", "--pool", "render")


def create(home: Home, *arguments: str | Path) -> tuple[str, str]:
    """The id and the secret of a new token."""
    result = run_cli(home, "token create", *arguments)
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    token_id, dot, secret = line.partition(".")
    assert dot
    return token_id, secret


def tokens(home: Home) -> list[dict[str, Any]]:
    result = run_cli(home, "token list", "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["tokens"]
    return found


def lines(home: Home) -> list[dict[str, Any]]:
    """What the audit log says of tokens."""
    text = "".join(file.read_text() for file in sorted((home.path / "audit").glob("cli-*.jsonl")))
    return [line for line in map(json.loads, text.splitlines()) if line["event"].startswith("token.")]


def test_create_prints_a_token_whose_secret_digest_will_take(home: Home) -> None:
    """Standard output is the token alone; the state keeps what Digest needs of it, for the home's realm."""
    token_id, secret = create(home, *WORKER)
    assert len(secret) == 32
    engine = open_state(home, DEFAULT_STATE_URL)
    with reading(engine) as connection:
        (found,) = read_grants(connection, home.state_key.read_bytes(), at=int(time.time()))
    engine.dispose()
    assert found.id == token_id
    assert found.ha1["SHA-256"] == ha1(token_id, home.basics().realm, secret, Algorithm.SHA_256)


def test_create_keeps_every_rule(home: Home) -> None:
    """What was asked for is listed, and is in the audit log, without the secret."""
    arguments = ("--label", "gpu=a100", "--label", "zone=1", "--name-prefix", "w-", "--uses", "3", "--ttl", "2h")
    token_id, secret = create(home, *WORKER, *arguments)
    (entry,) = tokens(home)
    assert (entry["id"], entry["role"], entry["pool"]) == (token_id, "worker", "render")
    assert (entry["name"], entry["name_prefix"], entry["uses"], entry["used"]) == (None, "w-", 3, 0)
    assert (entry["labels"], entry["status"]) == ({"gpu": "a100", "zone": "1"}, "live")
    (line,) = lines(home)
    assert (line["event"], line["outcome"]) == ("token.created", "done")
    assert line["detail"] == {
        "token": token_id,
        "role": "worker",
        "pool": "render",
        "prefix": "w-",
        "labels": "gpu=a100 zone=1",
        "uses": 3,
        "expires": entry["expires_at"],
    }
    for place in home.path.rglob("*"):
        assert not place.is_file() or secret.encode() not in place.read_bytes(), place


def test_create_by_default_is_for_one_use_within_an_hour(home: Home) -> None:
    """The narrowest that is of any use."""
    create(home, "--role", "client", "--name", "alice")
    (entry,) = tokens(home)
    assert (entry["uses"], entry["name"], entry["pool"]) == (1, "alice", None)
    shown = run_cli(home, "token list").stdout.splitlines()
    assert shown[1].split()[:6] == [entry["id"], "client", "-", "alice", "0/1", "live"]


def test_create_out_writes_a_private_file_and_prints_no_secret(home: Home, tmp_path: Path) -> None:
    """The token is in the file alone."""
    place = tmp_path / "token"
    result = run_cli(home, "token create", *WORKER, "--out", place)
    assert (result.exit_code, result.stdout, mode_of(place)) == (0, "", 0o600)
    token_id, _, secret = place.read_text().rstrip("\n").partition(".")
    assert token_id in result.stderr
    assert secret not in result.output
    assert [entry["id"] for entry in tokens(home)] == [token_id]


def test_create_out_overwrites_nothing(home: Home, tmp_path: Path) -> None:
    """A file that is there stays, and no token is made."""
    place = tmp_path / "token"
    place.write_text("mine")
    refused(run_cli(home, "token create", *WORKER, "--out", place), "exists; nothing is overwritten")
    assert place.read_text() == "mine"
    assert tokens(home) == lines(home) == []


def test_create_that_cannot_be_audited_makes_no_token(home: Home, tmp_path: Path) -> None:
    """Nobody is let in unseen: neither token nor file is left."""
    place = tmp_path / "token"
    (home.path / "audit").rename(home.path / "was")
    (home.path / "audit").write_text("")
    assert run_cli(home, "token create", *WORKER, "--out", place).exit_code == 1
    assert tokens(home) == []
    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--role", "worker"), "--pool is for --role worker"),
        (("--role", "client", "--pool", "render"), "--pool is for --role worker"),
        (("--role", "master", "--label", "a=b"), "--label is for --role worker"),
        ((*WORKER, "--name", "w1", "--name-prefix", "w"), "not both"),
        ((*WORKER, "--name", "W1"), "is no name"),
        ((*WORKER, "--name-prefix", "-w"), "begins no name"),
        ((*WORKER, "--uses", "0"), "1<=x<=10000"),
        ((*WORKER, "--uses", "10001"), "1<=x<=10000"),
        ((*WORKER, "--ttl", "31d"), "give 1s to 30d"),
        ((*WORKER, "--ttl", "0s"), "give 1s to 30d"),
        (("--role", "server"), "server"),
        ((), "--role"),
    ],
)
def test_create_of_what_makes_no_sense_is_wrong_usage(home: Home, arguments: tuple[str, ...], said: str) -> None:
    """Exit status 2, with what is wrong, and nothing is made."""
    result = run_cli(home, "token create", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert tokens(home) == []


def test_create_for_a_name_of_somebody_else_is_refused(home: Home) -> None:
    """What could never enrol is said now, with the mend; the name's own role and pool may have a token."""
    assert run_cli(home, "issue-worker", "w1", "--pool", "render").exit_code == 0
    refused(run_cli(home, "token create", "--role", "worker", "--pool", "other", "--name", "w1"), "rhttp-pki revoke w1")
    refused(run_cli(home, "token create", "--role", "master", "--name", "local"), "choose another")
    create(home, *WORKER, "--name", "w1")
    assert len(tokens(home)) == 1


def test_create_for_a_pool_that_is_not_there_warns(home: Home) -> None:
    """It may come later; a misspelt one is seen."""
    result = run_cli(home, "token create", *WORKER)
    assert "no [pools.render] yet" in result.stderr


def test_create_in_a_sealed_home_needs_the_passphrase(tmp_path: Path) -> None:
    """The secret is never kept under a key that lies open; listing and ending need none."""
    home = new_home(tmp_path / "home", passphrase=b"sesame")
    refused(run_cli(home, "token create", *WORKER), "--passphrase-file")
    phrase = tmp_path / "phrase"
    phrase.write_text("sesame\n")
    phrase.chmod(0o600)
    token_id, _ = create(home, *WORKER, "--passphrase-file", phrase)
    assert [entry["id"] for entry in tokens(home)] == [token_id]
    assert run_cli(home, "token revoke", token_id).exit_code == 0


def test_revoke_ends_a_token_and_says_so_once(home: Home) -> None:
    """A second time is no error and no line."""
    token_id, _ = create(home, *WORKER)
    first, second = (run_cli(home, "token revoke", token_id) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "is revoked" in first.stdout
    assert "was revoked before" in second.stdout
    (entry,) = tokens(home)
    assert entry["status"] == "revoked"
    assert entry["revoked_at"] is not None
    assert [(line["event"], line["detail"]["token"]) for line in lines(home)] == [
        ("token.created", token_id),
        ("token.revoked", token_id),
    ]


def test_revoke_of_an_unknown_token_is_one_line(home: Home) -> None:
    """With the command that shows which there are."""
    refused(run_cli(home, "token revoke", "et_0123456789abcdef"), "rhttp-pki token list")


def test_revoke_given_a_whole_token_never_repeats_the_secret(home: Home) -> None:
    """Whoever pastes too much is told what is wanted, and nothing is echoed."""
    token_id, secret = create(home, *WORKER)
    result = run_cli(home, "token revoke", f"{token_id}.{secret}")
    assert (result.exit_code, secret in result.output) == (2, False)
    assert "before the dot" in result.stderr


def test_revoke_works_while_the_configuration_is_broken(home: Home) -> None:
    """Locking somebody out hangs on no file that is being edited."""
    token_id, _ = create(home, *WORKER)
    home.config.write_text("= broken")
    assert run_cli(home, "token revoke", token_id).exit_code == 0


def test_list_without_tokens_says_so(home: Home) -> None:
    """No heading over nothing."""
    assert run_cli(home, "token list").stdout == "no tokens\n"
