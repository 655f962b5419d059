"""What a TLS client says first, read as bytes (RFC 8446 section 4.1.2)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The lists of a ClientHello, in their order."""

    groups: list[int]
    shares: list[int]
    signatures: list[int]


def read_hello(sock: socket.socket) -> ClientHello:
    """The next bytes of this blocking socket as a ClientHello in one record."""
    sock.settimeout(20)
    kind, _version, size = struct.unpack(">BHH", _exactly(sock, 5))
    assert kind == 22
    content = _exactly(sock, size)
    assert content[0] == 1
    at = 4 + 2 + 32
    at += 1 + content[at]  # session id
    at += 2 + _short(content, at)  # cipher suites
    at += 1 + content[at]  # compression
    extensions = content[at + 2 : at + 2 + _short(content, at)]
    found: dict[int, bytes] = {}
    at = 0
    while at < len(extensions):
        length = _short(extensions, at + 2)
        found[_short(extensions, at)] = extensions[at + 4 : at + 4 + length]
        at += 4 + length
    shares, at = [], 2
    while at < len(found[51]):
        shares.append(_short(found[51], at))
        at += 4 + _short(found[51], at + 2)
    return ClientHello(groups=_list(found[10]), shares=shares, signatures=_list(found[13]))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more
        data += more
    return data


def _short(data: bytes, at: int) -> int:
    return int(struct.unpack_from(">H", data, at)[0])


def _list(data: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack(">H", data[2 : 2 + _short(data, 0)])]
