"""Which HTTP proxy a dial goes through: ``HTTPS_PROXY`` and ``NO_PROXY``, as curl and Go's net/http read them.

No standard says it, so this is what the two agree on, and where they differ the narrower reading:

* ``https_proxy``, ``HTTPS_PROXY``, ``all_proxy``, ``ALL_PROXY``: the first one that is set and not empty.
* the value is ``http://[USER:PASSWORD@]HOST[:PORT]``; the scheme may be missing, the port is 80 then. User and password
  may be percent-encoded. Other schemes are refused, not passed by: a worker that dials around its network's proxy in
  silence is what nobody wants.
* ``no_proxy``, ``NO_PROXY``: a list by commas or spaces. ``*`` is everything; a name is itself and what ends in it; an
  address or a network in CIDR notation is itself; ``:PORT`` behind an entry means this port only.
* this host (``localhost``, loopback addresses) is never asked for through a proxy.

Trust: pure; trusts the environment, which is the operator's. An error never shows the value: it may hold a password.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from rhttp.http1.target import split_authority

VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")
_DEFAULT_PORT: Final = 80
_SEPARATOR: Final = re.compile(r"[,\s]+")


class ProxyInvalid(ValueError):  # noqa: N818 - says what is the case, like every error of ours
    """The variable's value is none that we can use; the text names the variable and the mend, never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where the proxy is, and what it is told of us."""

    variable: str
    """The environment variable that named it."""
    host: str
    port: int
    credentials: bytes | None = field(default=None, repr=False)
    """The value of ``Proxy-Authorization`` (RFC 7617), or None."""

    def __str__(self) -> str:
        return f"the proxy {f'[{self.host}]' if ':' in self.host else self.host}:{self.port} ({self.variable})"


def find_proxy(environment: Mapping[str, str], host: str, port: int) -> Proxy | None:
    """The proxy for a TLS connection to this host and port; None: dial it directly.

    Raises:
        ProxyInvalid: a variable is set and cannot be used.
    """
    name = next((name for name in VARIABLES if environment.get(name)), None)
    if name is None or _is_here(host):
        return None
    if any(_matches(entry, host, port) for entry in _exceptions(environment)):
        return None
    return _parse(name, environment[name])


def _exceptions(environment: Mapping[str, str]) -> list[str]:
    text = next((environment[name] for name in EXCEPTIONS if environment.get(name)), "")
    return [entry for entry in _SEPARATOR.split(text.lower()) if entry]


def _is_here(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address is not None else host.lower().rstrip(".") == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, only = _split_port(entry)
    if only is not None and only != port:
        return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    name, host = name.lstrip(".").rstrip("."), host.lower().rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """An entry without its port, and the port; an IPv6 address has its port behind brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, int(rest[1:]) if rest.startswith(":") and rest[1:].isdecimal() else None
    name, colon, rest = entry.rpartition(":")
    if colon and ":" not in name and rest.isdecimal():
        return name, int(rest)
    return entry, None


def _parse(variable: str, value: str) -> Proxy:
    scheme, mark, rest = value.strip().rpartition("://")
    if mark and scheme.lower() != "http":
        raise ProxyInvalid(f"{variable} names a proxy of another kind than http://; only those are built")
    rest = rest.rstrip("/")
    login, at, authority = rest.rpartition("@")
    try:
        found = split_authority(authority.encode("ascii"))
    except UnicodeEncodeError:
        found = None
    if found is None or not found[0]:
        raise ProxyInvalid(f"{variable} must be http://[USER:PASSWORD@]HOST:PORT")
    name, port = found
    credentials = None
    if at:
        user, _, password = login.partition(":")
        secret = unquote_to_bytes(user), unquote_to_bytes(password)
        if b":" in secret[0] or any(octet < 32 or octet == 127 for part in secret for octet in part):
            raise ProxyInvalid(f"{variable} has a user or password that RFC 7617 does not allow")
        credentials = b"Basic " + base64.b64encode(b":".join(secret))
    host = name.decode("ascii").strip("[]")
    return Proxy(variable=variable, host=host, port=_DEFAULT_PORT if port is None else port, credentials=credentials)
