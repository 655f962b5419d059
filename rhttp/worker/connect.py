"""A TCP connection to a gateway, straight or through an HTTP proxy by CONNECT (RFC 9110 section 9.3.6) (I/O).

Trust: trusts nobody: TLS with the gateway begins on what this makes, so a proxy can only fail.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from rhttp.errors import RemoteProtocolError, RhttpError
from rhttp.http1.head import Http1ResponseHead, parse_response_head, section_end
from rhttp.worker.backoff import REFUSAL, TROUBLE, Pace
from rhttp.worker.bundle import GatewayAddress
from rhttp.worker.proxies import Proxy, ProxyInvalid, find_proxy

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one address."""
PROXY_TIMEOUT: Final = 30.0
"""Seconds for a proxy's answer: it resolves and dials in its turn."""
_MAX_HEAD: Final = 32768
"""Bytes of a proxy's answer."""
KEEPALIVE_IDLE: Final = 30
KEEPALIVE_INTERVAL: Final = 10
KEEPALIVE_COUNT: Final = 3
USER_TIMEOUT: Final = 75
"""Seconds that sent bytes may stay unacknowledged. Linux counts a peer that does not *read* as such, too: below the
time that back-pressure may take (`Http1Limits.content_timeout`) it would cut slow readers that are alive."""


class ConnectFailed(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """There is no connection. ``code`` is ``unresolved``, ``unreachable`` or ``proxy``; ``str()`` is for people."""

    def __init__(self, code: str, message: str, *, pace: Pace = TROUBLE) -> None:
        super().__init__(code, message)
        self.message = message
        self.pace = pace

    def __str__(self) -> str:
        return self.message


async def connect(gateway: GatewayAddress) -> socket.socket:
    """A connected, non-blocking socket to the gateway, through the proxy that the environment names, if any.

    Raises:
        ConnectFailed: nobody there, or the proxy refused.
    """
    try:
        proxy = find_proxy(os.environ, gateway.host, gateway.port)
    except ProxyInvalid as error:
        raise ConnectFailed("proxy", str(error), pace=REFUSAL) from None
    if proxy is None:
        return await _dial(gateway.host, gateway.port, str(gateway))
    sock = await _dial(proxy.host, proxy.port, str(proxy))
    try:
        async with asyncio.timeout(PROXY_TIMEOUT):
            await _ask(sock, proxy, gateway)
    except TimeoutError:
        sock.close()
        raise ConnectFailed("proxy", f"{proxy} did not answer in {PROXY_TIMEOUT:g} s") from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _dial(host: str, port: int, shown: str) -> socket.socket:
    """Every address is tried in its order. Names are resolved anew each time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer in time"
        raise ConnectFailed("unresolved", f"cannot resolve {host}: {why}") from None
    reason = "it has no address"
    for family, kind, number, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, number)
        try:
            sock.setblocking(False)
            _tune(sock)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(sock, address)
        except TimeoutError:
            sock.close()
            reason = f"no answer in {CONNECT_TIMEOUT:g} s"
        except OSError as error:
            sock.close()
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise ConnectFailed("unreachable", f"cannot reach {shown}: {reason}")


def _tune(sock: socket.socket) -> None:
    """Have the kernel notice a gateway that is gone: the protocol has no ping."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT * 1000),
    ):
        if (number := getattr(socket, option, None)) is not None:  # some systems lack some of them
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


# ---- CONNECT ----


def connect_request(proxy: Proxy, gateway: GatewayAddress) -> bytes:
    """The bytes that ask the proxy for a connection; the authority always has its port (RFC 9112 section 3.2.3)."""
    name = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    authority = f"{name}:{gateway.port}".encode("ascii")
    login = b"" if proxy.credentials is None else b"Proxy-Authorization: %b\r\n" % proxy.credentials
    return b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (authority, authority, login)


async def _ask(sock: socket.socket, proxy: Proxy, gateway: GatewayAddress) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(sock, connect_request(proxy, gateway))
        answer = await _read_head(sock, proxy)
    except OSError as error:
        raise ConnectFailed("proxy", f"{proxy} broke off: {error.strerror or type(error).__name__}") from None
    if 200 <= answer.status < 300:
        return
    reason = answer.reason.decode("latin-1")
    said = f"{answer.status} {reason if reason.isprintable() else ''}".strip()
    if answer.status == 407:
        mend = f"put http://USER:PASSWORD@{proxy.host}:{proxy.port} into {proxy.variable}"
        if proxy.credentials is not None:
            mend = f"it does not take the user and password in {proxy.variable}, or wants another scheme than Basic"
        raise ConnectFailed("proxy", f"{proxy} wants credentials: {said}; {mend}", pace=REFUSAL)
    pace = REFUSAL if answer.status < 500 else TROUBLE
    raise ConnectFailed("proxy", f"{proxy} does not connect us to {gateway}: {said}", pace=pace)


async def _read_head(sock: socket.socket, proxy: Proxy) -> Http1ResponseHead:
    loop = asyncio.get_running_loop()
    data = b""
    try:
        while (end := section_end(data)) < 0:
            if len(data) > _MAX_HEAD:
                raise ConnectFailed("proxy", f"{proxy} answers with more than {_MAX_HEAD} bytes of fields")
            more = await loop.sock_recv(sock, 4096)
            if not more:
                raise ConnectFailed("proxy", f"{proxy} closed the connection")
            data += more
        answer = parse_response_head(data[:end])
    except RemoteProtocolError as error:
        raise ConnectFailed("proxy", f"{proxy} does not speak HTTP/1.1: {error.detail}") from None
    # A gateway says nothing before we do, so what is behind the head is not from it.
    if 200 <= answer.status < 300 and len(data) > end:
        raise ConnectFailed("proxy", f"{proxy} sent bytes behind its answer")
    return answer
