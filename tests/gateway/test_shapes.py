"""docs/reference.md shows JSON as it really comes: from every command, from our own paths, from the admin socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rig import Rig
from support.shapes import differences, examples
from support.wire import Wire

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"
CONFIG = """
[groups]
ops = ["worker/w1"]
[masters.jobs]
urls = ["http://127.0.0.1:9"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[pools.render]
[pools.other]
mode = "relay"
master = "jobs"
[metrics]
listen = "127.0.0.1:0"
"""
Documented = Callable[..., Any]


@pytest.fixture(scope="module")
def documented() -> Documented:
    """The example number `index` below a heading."""
    found = examples(PAGE)

    def example(title: str, index: int = 0) -> Any:
        return found[title][index]

    return example


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway with a worker connected, another one revoked, and some requests behind it."""
    peers = (
        "issue-client alice",
        "issue-worker w1 --pool render --label gpu=a100",
        "issue-worker w2 --pool render",
        "revoke w2",
        "token create --role worker --pool render --label gpu=a100",
    )
    with (
        Rig(tmp_path_factory.mktemp("shapes"), CONFIG, peers=peers) as rig,
        rig.worker("w1", "render", "Rhttp-Instance: first"),
    ):
        rig.wait_pool(lambda pool: pool["slots"]["free"] == 1)
        yield rig


def admin(rig: Rig, method: str, path: str, content: str | None = None) -> tuple[int, Any]:
    """A request over the admin socket."""
    connection = http.client.HTTPConnection("localhost", timeout=15)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(15)
    connection.sock.connect(str(rig.home / "run" / "admin.sock"))
    try:
        connection.request(method, path, content, {} if content is None else {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def read_event(wire: Wire) -> tuple[str, Any]:
    """The next server-sent event that is no comment."""
    while True:
        size = int(wire.until(b"\r\n"), 16)
        text = wire.read(size).decode()
        wire.read(2)
        if text.startswith("event: "):
            name, data = text.split("\n\n")[0].split("\n")
            return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.parametrize(
    "command",
    [
        "list --json",
        "show NAME --json",
        "user list --json",
        "token list --json",
        "policy check --json",
        "policy explain --json",
        "audit verify --json",
        "status --json",
    ],
)
def test_command_prints_its_documented_shape(rig: Rig, documented: Documented, command: str) -> None:
    """What a program reads from a command is what the reference shows."""
    words = command.replace("NAME", "alice").split()
    if words[:2] == ["policy", "explain"]:
        words += ["--as", "worker/w1", "--action", "reverse", "--on", "pool/render"]
    real = json.loads(rig.run(*words))
    assert differences(documented(f"rhttp-pki {command}"), real) == []


def test_revoke_prints_its_documented_shape(rig: Rig, documented: Documented) -> None:
    """What was revoked, and how many connections were cut for it."""
    rig.run("issue-worker", "w9", "--pool", "render", "--label", "gpu=a100")
    real = json.loads(rig.run("revoke", "w9", "--json"))
    assert (len(real["certificates"]), real["cut"]) == (1, 0)
    assert differences(documented("rhttp-pki revoke --json"), real) == []


def test_policy_problem_has_its_documented_shape(rig: Rig, documented: Documented, tmp_path: Path) -> None:
    """A policy that is refused lists problems as the reference shows them."""
    from support.homes import run_cli
    from support.runhomes import copy_home

    home = copy_home(tmp_path / "home")
    (home / "policy.cedar").write_text("permit (principal, action, resource);\n")
    real = json.loads(run_cli(home, "policy check", "--json").stdout)
    assert real["problems"]
    assert differences(documented("rhttp-pki policy check --json"), real) == []


def test_audit_finding_has_its_documented_shape(documented: Documented, tmp_path: Path) -> None:
    """A log that was tampered with lists findings as the reference shows them."""
    from support.homes import run_cli
    from support.runhomes import copy_home

    home = copy_home(tmp_path / "home")
    path = home / "audit" / "cli-000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"done"', b'"outcome":"dome"'))
    result = run_cli(home, "audit verify", "--json")
    assert result.exit_code == 1
    real = json.loads(result.stdout)
    assert real["findings"]
    assert differences(documented("rhttp-pki audit verify --json"), real) == []


def test_note_of_the_running_gateway_has_its_documented_shape(rig: Rig, documented: Documented) -> None:
    """Programs find the addresses of a gateway that runs."""
    real = json.loads((rig.home / "run" / "gateway.json").read_bytes())
    assert differences(documented("HOME/run/gateway.json"), real) == []


@pytest.mark.parametrize("title", ["GET /-/health", "GET /-/pools"])
def test_own_path_answers_its_documented_shape(rig: Rig, documented: Documented, title: str) -> None:
    """Our own paths answer on the dispatch listener what the reference shows."""
    with rig.dispatch() as wire:
        answer = wire.ask(title.removeprefix("GET "))
    assert answer.status == 200
    assert answer["content-type"] == "application/json"
    assert differences(documented(title), answer.json) == []


@pytest.mark.parametrize("pool", ["render", "other"])
def test_pool_answers_its_documented_shape(rig: Rig, documented: Documented, pool: str) -> None:
    """A hosted pool and a relayed one have the same shape."""
    assert differences(documented("GET /-/pools/{pool}"), rig.pool(pool)) == []


def test_events_have_their_documented_shapes(rig: Rig, documented: Documented) -> None:
    """The first event is `slots`; a worker that comes and goes is told."""
    title = "GET /-/pools/{pool}/events"
    with rig.dispatch() as wire:
        wire.send(b"GET /-/pools/render/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = wire.until(b"\r\n\r\n").lower()
        assert b"content-type: text/event-stream" in head
        name, data = read_event(wire)
        assert name == "slots"
        assert differences(documented(title, 0), data) == []
        rig.run("issue-worker", "w3", "--pool", "render")
        with rig.worker("w3"):
            seen = [read_event(wire) for _ in range(2)]
        while "worker-left" not in [name for name, _ in seen]:
            seen.append(read_event(wire))
    told = {name: data for name, data in seen if name.startswith("worker-")}
    assert sorted(told) == ["worker-joined", "worker-left"]
    assert [differences(documented(title, 1), data) for data in told.values()] == [[], []]


def test_problem_has_its_documented_shape(rig: Rig, documented: Documented) -> None:
    """An error of the gateway itself is an RFC 9457 object."""
    with rig.dispatch() as wire:
        answer = wire.ask("/-/pools/render/workers/nobody/x")
    assert (answer.status, answer.problem) == (503, "no-slot")
    assert differences(documented("Problems"), answer.json) == []


def test_admin_status_is_the_commands(rig: Rig, documented: Documented) -> None:
    """The admin socket tells what the command prints."""
    status, real = admin(rig, "GET", "/status")
    assert status == 200
    assert differences(documented("rhttp-pki status --json"), real) == []


@pytest.mark.parametrize("path", ["/refresh", "/revoke"])
def test_admin_refresh_has_its_documented_shape(rig: Rig, documented: Documented, path: str) -> None:
    """Reading the state now is answered with what it ended."""
    status, real = admin(rig, "POST", path)
    assert status == 200
    assert differences(documented("POST /refresh, POST /revoke"), real) == []


def test_admin_reload_has_its_documented_shapes(rig: Rig, documented: Documented) -> None:
    """A reload that is done, and one that is refused."""
    status, real = admin(rig, "POST", "/reload")
    assert status == 200
    assert differences(documented("POST /reload", 0), real) == []
    path = rig.home / "gateway.toml"
    text = path.read_text()
    path.write_text(f"{text}\n[pools.broken]\nmode = 'hostd'\n")
    status, real = admin(rig, "POST", "/reload")
    path.write_text(text)
    assert status == 409
    assert differences(documented("POST /reload", 1), real) == []


def test_admin_error_has_its_documented_shape(rig: Rig, documented: Documented) -> None:
    """Every other error is an object with its text."""
    status, real = admin(rig, "GET", "/nope")
    assert status == 404
    assert differences(documented("POST /refresh, POST /revoke", 1), real) == []


def test_admin_drain_has_its_documented_shape(documented: Documented, tmp_path: Path) -> None:
    """A drain that was begun says how long it may take, and how it went when it is over."""
    with Rig(tmp_path) as rig:
        assert admin(rig, "GET", "/drain")[0] == 409
        status, real = admin(rig, "POST", "/drain", '{"wait": true}')
        assert status == 202
        assert differences(documented("POST /drain"), real) == []
        status, real = admin(rig, "GET", "/drain")
        assert status == 200
        assert differences(documented("GET /drain"), real) == []
        assert rig.served.ended() == 0


def test_shape_that_differs_is_found() -> None:
    """The comparison itself: a key too many, one too few, another type; null and empty lists fit everything."""
    assert differences({"a": 1, "b": [{"c": "x"}]}, {"a": 2, "b": []}) == []
    assert differences({"a": None}, {"a": "x"}) == []
    assert differences({"a": 1}, {}) == [": a is documented only"]
    assert differences({}, {"a": 1}) == [": a is not documented"]
    assert differences({"a": [{"b": 1}]}, {"a": [{"b": "1"}]}) == [".a[].b: text where a number is documented"]
    assert differences({"a": True}, {"a": 1}) == [".a: a number where a boolean is documented"]
    assert differences({"labels": {"x": "y"}}, {"labels": {}}) == []
