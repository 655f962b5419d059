"""Everything that a data process needs to serve, as one value that the supervisor read and checked beforehand.

A process opens no configuration, key, certificate or database itself: it builds its configuration, TLS context, policy
engine and credentials from this. The same value means the same behaviour in every process, and a reload is nothing but
another one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from gateway.config.toml import parse_config
from gateway.config.values import Config
from gateway.control.channel import read_object, read_text
from gateway.state.snapshot import StateSnapshot


class ProcessInputsInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The wire form is not one that `ProcessInputs.to_wire` makes. The text names the field, never its content."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HomeInputs:
    """What a home gives to every data process alike.

    ``overrides`` are the keys of the configuration that the command line gives. ``trust`` holds PEM: ``root`` and one
    entry for each role whose issuing CA is trusted (``client``, ``worker``, ``master``, ``server``). ``server_cert`` is
    PEM, end-entity certificate first; ``server_key`` is unsealed PEM.
    """

    config_text: str
    overrides: Mapping[str, object]
    home: str
    policy_text: str
    trust: Mapping[str, bytes]
    server_cert: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProcessInputs(HomeInputs):
    """Inputs of one generation of a data process.

    ``nonce_key`` (32 bytes) is made when the gateway starts and shared by its processes. ``stream`` names the
    process's audit stream, ``p0`` and so on.
    """

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
        return parse_config(self.config_text, home=Path(self.home), overrides=self.overrides)

    def to_wire(self) -> dict[str, object]:
        """The JSON object for the control socket. It contains the server's private key."""
        return {field.name: _FORMS[str(field.type)][0](getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_wire(cls, value: Mapping[str, object]) -> ProcessInputs:
        """The value that `to_wire` was called on.

        Raises:
            ProcessInputsInvalid: a field is missing, unknown or of the wrong form.
        """
        forms = {field.name: _FORMS[str(field.type)][1] for field in fields(cls)}
        if value.keys() != forms.keys():
            raise ProcessInputsInvalid(f"wrong fields: {', '.join(sorted(forms.keys() ^ value.keys()))}")
        found: dict[str, Any] = {}
        for name, read in forms.items():
            try:
                found[name] = read(value[name])
            except Exception as error:  # whatever it is, these inputs cannot be used
                raise ProcessInputsInvalid(f"{name} cannot be read ({type(error).__name__})") from None
        return cls(**found)


def _armour(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bare(value: object) -> bytes:
    return base64.b64decode(read_text(value), validate=True)


_FORMS: Final[Mapping[str, tuple[Callable[[Any], object], Callable[[object], object]]]] = {
    "str": (str, read_text),
    "bytes": (_armour, _bare),
    "Mapping[str, object]": (dict, read_object),
    "Mapping[str, bytes]": (
        lambda pems: {name: _armour(pem) for name, pem in pems.items()},
        lambda value: {name: _bare(pem) for name, pem in read_object(value).items()},
    ),
    "StateSnapshot": (
        lambda snapshot: snapshot.to_bytes().decode(),
        lambda value: StateSnapshot.from_bytes(read_text(value).encode()),
    ),
}
"""By the type that a field declares: what writes one for the wire, and what reads it there."""
