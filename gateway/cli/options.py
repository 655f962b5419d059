"""Option values of several commands: a wrong one is wrong usage (exit status 2) and says how to write it."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "CA_KEY_TYPE",
    "INSTANT",
    "KEY_TYPE",
    "LABEL",
    "LIFETIME",
    "LIST_LIFETIME",
    "NAME",
    "PREFIX",
    "ROLE",
    "SAN",
    "SERIAL",
    "TOKEN_ID",
    "TOKEN_LIFETIME",
    "TRUST_DOMAIN",
    "absolute",
    "ca_key_table",
    "json_option",
    "label_map",
    "print_json",
]

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LABEL = re.compile(r"([a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)=([A-Za-z0-9](?:[A-Za-z0-9._:/-]{0,61}[A-Za-z0-9])?)")
_MAX_LABELS = 16
# 20 octets at most (RFC 5280 §4.1.2.2); colons as openssl prints them.
_SERIAL = re.compile(r"[0-9a-f]{1,40}")


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def __init__(self, shortest: str, longest: str) -> None:
        self._range = shortest, longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        seconds = _seconds(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no duration; write a number and s, m, h or d: 90s, 15m, 24h, 30d", param, ctx)
        shortest, longest = self._range
        if not (_seconds(shortest) or 0) <= seconds <= (_seconds(longest) or 0):
            self.fail(f"{value!r} is out of range; give {shortest} to {longest}", param, ctx)
        return timedelta(seconds=seconds)


def _seconds(text: str) -> int | None:
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


class _Parsed(click.ParamType[str]):
    """What a function of a module of `pki` takes; it answers the text to go on with."""

    def __init__(self, name: str, parser: str, fault: str = "", module: str = "pki.names") -> None:
        self.name = name
        self._parser = parser
        self._fault = fault
        self._module = module

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from pki.errors import NameInvalid

        try:
            found = getattr(importlib.import_module(self._module), self._parser)(str(value))
        except NameInvalid as error:
            self.fail(f"{self._fault}{error}", param, ctx)
        return found if isinstance(found, str) else str(value)


class _Label(click.ParamType[tuple[str, str]]):
    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        match = _LABEL.fullmatch(str(value))
        if match is None:
            self.fail(
                f"{value!r} is no label; write key=value: the key of a-z 0-9 . _ -, the value of letters, digits"
                " and . _ : / -, each up to 63 and with a letter or digit at both ends",
                param,
                ctx,
            )
        return match[1], match[2]


class _Serial(click.ParamType[str]):
    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).lower().removeprefix("0x").replace(":", "")
        if not _SERIAL.fullmatch(text):
            self.fail(f"{value!r} is no serial number; write it in hex, as `list` shows it", param, ctx)
        # An even number of digits, as in the inventory, whatever zeros were left out or put before.
        text = text.lstrip("0") or "0"
        return text.zfill(len(text) + len(text) % 2)


class _Instant(click.ParamType[datetime]):
    name = "rfc3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            found = None
        if found is None or found.tzinfo is None or "T" not in str(value).upper():
            self.fail(f"{value!r} is no RFC 3339 time with a zone; write 2026-01-31T12:00:00Z", param, ctx)
        return found


class _CaKeyType(click.ParamType[tuple[str | None, str]]):
    """``TYPE`` for all CAs, or ``CA=TYPE`` for one."""

    name = "ca-key-type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, str]:
        if isinstance(value, tuple):
            return value
        ca, equals, kind = str(value).rpartition("=")
        if kind not in KEY_TYPE.choices or (equals and ca not in _CAS):
            self.fail(
                f"{value!r} is no type of key; write one of {', '.join(KEY_TYPE.choices)}, for one CA with"
                f" {', '.join(f'{ca}=' for ca in _CAS)} before it",
                param,
                ctx,
            )
        return ca if equals else None, kind


_CAS = ("root", "server", "client", "worker", "master")
KEY_TYPE = click.Choice(["p256", "p384", "ed25519", "rsa3072", "mldsa44", "mldsa65", "mldsa87"])
"""The values of `pki.keys.KeyType`."""
CA_KEY_TYPE = _CaKeyType()
LIFETIME = _Duration("1s", "730d")
"""Of a certificate, as its profile has it."""
LIST_LIFETIME = _Duration("1m", "365d")
"""Of a revocation list."""
TOKEN_LIFETIME = _Duration("1s", "30d")
"""Of an enrolment token."""
NAME = _Parsed("name", "parse_name")
PREFIX = _Parsed("prefix", "parse_prefix", module="pki.enrolment")
TOKEN_ID = _Parsed("id", "parse_token_id", module="pki.enrolment")
SAN = _Parsed("san", "parse_san")
TRUST_DOMAIN = _Parsed("domain", "parse_trust_domain", "no trust domain: ")
LABEL = _Label()
SERIAL = _Serial()
INSTANT = _Instant()
ROLE = click.Choice(["client", "worker", "master", "server"])


def json_option(command: F) -> F:
    """Add ``--json`` as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: object) -> None:
    """Print one JSON value, indented."""
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def label_map(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Labels by key; each key once, and not too many."""
    labels = dict(pairs)
    if len(labels) != len(pairs):
        raise click.BadParameter("the same label is given twice", param_hint="--label")
    if len(labels) > _MAX_LABELS:
        raise click.BadParameter(f"at most {_MAX_LABELS} labels", param_hint="--label")
    return labels


def ca_key_table(pairs: tuple[tuple[str | None, str], ...]) -> dict[str | None, str]:
    """Types of key by the CA's name, None for all CAs; each once."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise click.BadParameter("the same CA is given twice", param_hint="--ca-key-type")
    return table


def absolute(path: Path) -> Path:
    """The path from the root, symbolic links kept."""
    return Path(os.path.abspath(path))
