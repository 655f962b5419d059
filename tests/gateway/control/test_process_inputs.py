"""Process inputs: the same value on both sides of the control socket, and no key in any text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from auth.credentials import UserCredentials
from gateway.config.values import ConfigInvalid
from gateway.control.process_inputs import ProcessInputs, ProcessInputsInvalid
from gateway.state.snapshot import StateSnapshot

CONFIG = 'trust_domain = "test.internal"\n[digest]\nrealm = "test"\n'


def inputs(**changes: Any) -> ProcessInputs:
    values: dict[str, Any] = {
        "config_text": CONFIG,
        "overrides": {"listen": "127.0.0.1:0", "processes": 1},
        "home": "/srv/home",
        "policy_text": "permit (principal, action, resource);",
        "trust": {"root": b"root pem", "client": b"\x00\xff"},
        "server_cert": b"certificate",
        "server_key": b"the-server-key",
        "snapshot": StateSnapshot(
            version=3,
            users={"alice": UserCredentials(name="alice", enabled=True, ha1={"SHA-256": "0123abcd"})},
            revoked=frozenset({"0a"}),
            labels={"0b": {"gpu": "yes"}},
        ),
        "nonce_key": b"the-nonce-key-of-thirty-two-byte",
        "stream": "p0",
    }
    return ProcessInputs(**(values | changes))


def wire(value: ProcessInputs) -> dict[str, Any]:
    """What arrives: JSON and back."""
    return dict(orjson.loads(orjson.dumps(value.to_wire())))


def test_process_inputs_through_the_wire_is_the_same() -> None:
    """A data process works from exactly what the supervisor checked."""
    assert ProcessInputs.from_wire(wire(inputs())) == inputs()


def test_process_inputs_shows_no_key_in_its_repr() -> None:
    """A inputs that ends up in a log or a traceback gives nothing away."""
    shown = repr(inputs())
    for secret in ("the-server-key", "the-nonce-key", "0123abcd"):
        assert secret not in shown


@pytest.mark.parametrize("name", sorted(inputs().to_wire()))
def test_process_inputs_without_a_field_is_refused(name: str) -> None:
    """Nothing is filled in by guessing."""
    value = wire(inputs())
    del value[name]
    with pytest.raises(ProcessInputsInvalid, match=name):
        ProcessInputs.from_wire(value)


@pytest.mark.parametrize("name", sorted(inputs().to_wire()))
def test_process_inputs_with_a_field_of_another_type_is_refused(name: str) -> None:
    """Types are looked at where values come in, and refused without being quoted."""
    with pytest.raises(ProcessInputsInvalid):
        ProcessInputs.from_wire(wire(inputs()) | {name: 7})


@pytest.mark.parametrize(
    "change", [{"more": "x"}, {"server_key": "secret!"}, {"trust": {"root": "$"}}, {"snapshot": "{}"}]
)
def test_process_inputs_malformed_is_refused_without_quoting_it(change: dict[str, Any]) -> None:
    """The error names the field; what was in it may have been a key."""
    with pytest.raises(ProcessInputsInvalid) as caught:
        ProcessInputs.from_wire(wire(inputs()) | change)
    assert "secret!" not in str(caught.value)


def test_process_inputs_config_is_that_of_text_and_options() -> None:
    """The process parses the same text with the same options as the supervisor did."""
    config = inputs().config()
    assert (config.trust_domain, config.listen.port, str(config.home)) == ("test.internal", 0, "/srv/home")
    with pytest.raises(ConfigInvalid):
        inputs(config_text="nonsense = 1").config()
