"""Addresses in ``gateway.toml``: what is one, and whether two of them are the same place.

No name is looked up: of names only ``localhost`` is known. Two addresses that differ in text but are one by DNS pass.

Trust: pure; trusts the operator to mean well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from gateway.config.values import MasterUrl, TcpAddress

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
# getaddrinfo reads "127.1", "2130706433" and "0x7f.1" as IPv4 addresses; we take the dotted form of four only.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_URL_MOST: Final = 200
_URL_PATH: Final = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_IPV4_ANY: Final = IPv4Address("0.0.0.0")  # noqa: S104 - compared with, not bound
_IPV6_ANY: Final = IPv6Address("::")

_HTTPS_ORIGIN: Final = re.compile(r"https://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ANY_HOST: Final = frozenset({"", "*", "0.0.0.0", "::", "[::]"})  # noqa: S104 - recognised, not bound

Place = IPv4Address | IPv6Address | str
_LOOPBACKS: Final[frozenset[Place]] = frozenset({IPv4Address("127.0.0.1"), IPv6Address("::1")})


def is_https_origin(text: str) -> bool:
    """Whether it is ``https://host`` or ``https://host:port``, and nothing behind."""
    return _HTTPS_ORIGIN.fullmatch(text) is not None


def public_url(host: str, port: int | str, names: Sequence[str]) -> str:
    """The URL of a TLS listener for others; a wildcard address becomes the first DNS name that is not localhost."""
    if host in _ANY_HOST:
        host = next((name for name in names if name != "localhost" and _ip(name) is None), "localhost")
    bare = host.strip("[]")
    return f"https://{f'[{bare}]' if ':' in bare else bare}:{port}"


def gateway_url(listen: str, names: Sequence[str] = ()) -> str:
    """`public_url` of a listener as ``gateway.toml`` writes it."""
    host, _, port = listen.rpartition(":")
    return public_url(host, port, names)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _split(text: str) -> tuple[str, str] | str:
    """Host without brackets and port text (empty: none given), or what is wrong with the host."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not isinstance(_ip(host), IPv6Address) or "%" in host or rest[:1] not in ("", ":"):
            return "is no IPv6 address in brackets with a port, as in '[::1]:8443'"
        return host, rest[1:]
    host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
    if ":" in host:
        return "an IPv6 address stands in brackets, as in '[::1]:8443'"
    if isinstance(_ip(host), IPv4Address):
        return host, port
    if not host or len(host) > 253 or not _HOST_NAME.fullmatch(host):
        return "has no valid host; write an IP address or a host name before the port, as in '127.0.0.1:8443'"
    if _NUMBER.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        return "has a host that is neither a name nor an IPv4 address of four numbers"
    return host.lower(), port


def _port(text: str, *, lowest: int) -> int | None:
    port = int(text) if _PORT.fullmatch(text) else -1
    return port if lowest <= port <= 65535 else None


def parse_tcp(text: str) -> TcpAddress | str:
    """An address to listen on, or what is wrong with the text and the mend. Port 0 lets the system choose."""
    if ":" not in text:
        return "needs a host and a port, as in '127.0.0.1:8443'"
    split = _split(text)
    if isinstance(split, str):
        return split
    port = _port(split[1], lowest=0)
    if port is None:
        return "needs a port from 0 to 65535 after the host, as in '127.0.0.1:8443'"
    return TcpAddress(host=split[0], port=port)


def parse_master_url(text: str) -> MasterUrl | str:
    """The URL of a master, or what is wrong with the text and the mend."""
    scheme, colon, rest = text.partition("://")
    if not colon:
        return "is no URL; write 'http://host:port'"
    match scheme.lower():
        case "http":
            pass
        case "https":
            return "https to masters is not supported yet; use http:// on a trusted network"
        case _:
            return "only http:// is supported; write 'http://host:port'"
    if "@" in rest:
        return "must not hold credentials; leave out what stands before '@'"
    authority, _, path = rest.partition("/")
    if path or any(mark in authority for mark in "?#"):
        bare = re.split(r"[/?#]", rest)[0]
        return f"must not have a path, query or fragment (the client's path is sent on); write 'http://{bare}'"
    split = _split(authority)
    if isinstance(split, str):
        return split
    port = _port(split[1] or "80", lowest=1)
    if port is None or authority.endswith(":"):
        return "needs a port from 1 to 65535, as in 'http://127.0.0.1:9000'"
    authority = str(TcpAddress(host=split[0], port=port))
    return MasterUrl(scheme="http", host=split[0], port=port, authority=authority.encode("ascii"))


def public_url_problem(text: str) -> str | None:
    """What is wrong with a URL where others ask about revocation (RFC 5280 §4.2.1.13), and the mend; None: nothing.

    It may have a path, which ends without a slash. ``https`` would ask for another certificate's status first.
    """
    scheme, colon, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    split = _split(authority)
    if scheme != "http" or not colon or isinstance(split, str) or len(text) > _URL_MOST:
        return "must be a URL with http, as in 'http://pki.example.com:8088'"
    if split[1] and _port(split[1], lowest=1) is None:
        return "needs a port from 1 to 65535 behind the colon, or no colon"
    if authority.endswith(":") or (slash and not _URL_PATH.fullmatch(path)):
        return "may have a path of plain segments, and nothing behind it: no slash, query or fragment"
    return None


def is_loopback_literal(host: str) -> bool:
    """Is it an address of the loopback interface, written as an address?"""
    ip = _ip(host)
    return ip is not None and ip.is_loopback and getattr(ip, "ipv4_mapped", None) is None


def is_loopback(host: str) -> bool:
    """Is it reachable from this machine only? ``localhost`` counts."""
    return is_loopback_literal(host) or host.rstrip(".") == "localhost"


def _places(host: str) -> frozenset[Place]:
    """What the host stands for; a name that is not ``localhost`` stands for itself."""
    ip = _ip(host)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip is not None:
        return frozenset({ip})
    name = host.rstrip(".").lower()
    return _LOOPBACKS if name == "localhost" or name.endswith(".localhost") else frozenset({name})


def _any_of(family: type[IPv4Address] | type[IPv6Address], places: frozenset[Place]) -> bool:
    return any(isinstance(place, family) for place in places)


def overlap(one: TcpAddress, other: TcpAddress) -> bool:
    """Can the two not be listened on together? ``0.0.0.0`` takes every IPv4 address, ``[::]`` every IPv6 address."""
    if one.port != other.port or one.port == 0:
        return False
    a, b = _places(one.host), _places(other.host)
    for first, second in ((a, b), (b, a)):
        if (_IPV4_ANY in first and _any_of(IPv4Address, second)) or (
            _IPV6_ANY in first and _any_of(IPv6Address, second)
        ):
            return True
    return bool(a & b)


def reaches(url: MasterUrl, listener: TcpAddress) -> bool:
    """Does the URL lead to our own listener? Told for loopback addresses, ``localhost`` and equal texts."""
    if url.port != listener.port:
        return False
    targets = _places(url.host)
    if targets & {_IPV4_ANY, _IPV6_ANY}:
        # Connecting to the unspecified address reaches this machine.
        targets = _LOOPBACKS
    ours = _places(listener.host)
    if _IPV4_ANY in ours and any(isinstance(place, IPv4Address) and place.is_loopback for place in targets):
        return True
    if _IPV6_ANY in ours and IPv6Address("::1") in targets:
        return True
    return bool(targets & ours)
