"""Everything that a data process needs to serve, as one value that the supervisor read and checked beforehand.

A process opens no configuration, key, certificate or database itself: it builds its configuration, TLS context, policy
engine and credentials from this. The same value means the same behaviour in every process, and a reload is nothing but
another one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.toml import Overrides, parse_config
from gateway.config.values import Config
from gateway.state.snapshot import StateSnapshot


class ProcessInputsInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The wire form is not one that `ProcessInputs.to_wire` makes. The text names the field, never its content."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProcessInputs:
    """Inputs of one generation of a data process.

    ``trust`` holds PEM: ``root`` and one entry for each role whose issuing CA is trusted (``client``, ``worker``,
    ``master``, ``server``). ``server_cert`` is PEM, end-entity certificate first; ``server_key`` is unsealed PEM.
    ``nonce_key`` (32 bytes) is made when the gateway starts and shared by its processes. ``stream`` names the
    process's audit stream, ``p0`` and so on.
    """

    config_text: str
    overrides: Mapping[str, str]
    home: str
    policy_text: str
    trust: Mapping[str, bytes]
    server_cert: bytes
    server_key: bytes
    snapshot: StateSnapshot
    nonce_key: bytes
    stream: str

    def __repr__(self) -> str:
        return (
            f"ProcessInputs(home={self.home!r}, stream={self.stream!r}, state={self.snapshot.version}, <keys withheld>)"
        )

    def config(self) -> Config:
        """The configuration that the text and the command line's options make, for this home.

        Raises:
            ConfigInvalid: with all that is wrong.
        """
        return parse_config(self.config_text, home=Path(self.home), overrides=read_overrides(self.overrides))

    def to_wire(self) -> dict[str, object]:
        """The JSON object for the control socket. It contains the server's private key."""
        return {
            "config_text": self.config_text,
            "overrides": dict(self.overrides),
            "home": self.home,
            "policy_text": self.policy_text,
            "trust": {name: _armour(pem) for name, pem in self.trust.items()},
            "server_cert": _armour(self.server_cert),
            "server_key": _armour(self.server_key),
            "snapshot": self.snapshot.to_bytes().decode(),
            "nonce_key": _armour(self.nonce_key),
            "stream": self.stream,
        }

    @classmethod
    def from_wire(cls, value: Mapping[str, object]) -> ProcessInputs:
        """The value that `to_wire` was called on.

        Raises:
            ProcessInputsInvalid: a field is missing, unknown or of the wrong form.
        """
        names = set(cls.__slots__)
        if value.keys() != names:
            raise ProcessInputsInvalid(f"wrong fields: {', '.join(sorted(names ^ value.keys()))}")
        snapshot = _text(value, "snapshot")
        try:
            state = StateSnapshot.from_bytes(snapshot.encode())
        except Exception as error:  # whatever it is, these inputs cannot be used
            raise ProcessInputsInvalid(f"snapshot cannot be read ({type(error).__name__})") from None
        return cls(
            config_text=_text(value, "config_text"),
            overrides=_texts(value, "overrides"),
            home=_text(value, "home"),
            policy_text=_text(value, "policy_text"),
            trust={name: _bare(pem, "trust") for name, pem in _texts(value, "trust").items()},
            server_cert=_bare(_text(value, "server_cert"), "server_cert"),
            server_key=_bare(_text(value, "server_key"), "server_key"),
            snapshot=state,
            nonce_key=_bare(_text(value, "nonce_key"), "nonce_key"),
            stream=_text(value, "stream"),
        )


def read_overrides(values: Mapping[str, str]) -> Overrides:
    """The command line's options out of their wire form; ``processes`` is digits, click saw to that."""
    processes = values.get("processes")
    return Overrides(
        listen=values.get("listen"),
        dispatch=values.get("dispatch"),
        processes=None if processes is None else int(processes),
    )


def _armour(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bare(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProcessInputsInvalid(f"{name} is not base64") from None


def _text(value: Mapping[str, object], name: str) -> str:
    item = value[name]
    if not isinstance(item, str):
        raise ProcessInputsInvalid(f"{name} is not a string")
    return item


def _texts(value: Mapping[str, object], name: str) -> dict[str, str]:
    item = value[name]
    if not isinstance(item, dict) or not all(isinstance(entry, str) for pair in item.items() for entry in pair):
        raise ProcessInputsInvalid(f"{name} is not an object of strings")
    return dict(item)
