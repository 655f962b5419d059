"""Which proxy is used for which gateway, by the environment alone."""

from __future__ import annotations

import base64

import pytest

from rhttp.worker.proxies import Proxy, ProxyInvalid, find_proxy

GATEWAY = "gateway.example"


def found(environment: dict[str, str], host: str = GATEWAY, port: int = 8443) -> Proxy | None:
    return find_proxy(environment, host, port)


@pytest.mark.parametrize(
    ("environment", "host", "port"),
    [
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "proxy.example", 3128),
        ({"https_proxy": "http://proxy.example:3128/"}, "proxy.example", 3128),
        ({"https_proxy": "http://a.example:1", "HTTPS_PROXY": "http://b.example:2"}, "a.example", 1),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b.example:2"}, "b.example", 2),
        ({"ALL_PROXY": "http://c.example:3"}, "c.example", 3),
        ({"ALL_PROXY": "http://c.example:3", "HTTPS_PROXY": "http://b.example:2"}, "b.example", 2),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "proxy.example", 3128),
        ({"HTTPS_PROXY": "http://proxy.example"}, "proxy.example", 80),
        ({"HTTPS_PROXY": "HTTP://PROXY.example:3128"}, "proxy.example", 3128),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, "2001:db8::1", 3128),
        ({"HTTPS_PROXY": "http://user:secret@proxy.example:3128"}, "proxy.example", 3128),
    ],
)
def test_find_proxy_reads_the_first_variable_that_is_set(environment: dict[str, str], host: str, port: int) -> None:
    """Lower case before upper case, https before all, an empty value is none."""
    proxy = found(environment)
    assert proxy is not None
    assert (proxy.host, proxy.port) == (host, port)


@pytest.mark.parametrize("environment", [{}, {"HTTPS_PROXY": ""}, {"HTTP_PROXY": "http://proxy.example:3128"}])
def test_find_proxy_without_a_variable_dials_directly(environment: dict[str, str]) -> None:
    """``HTTP_PROXY`` is for plain HTTP, which no worker speaks."""
    assert found(environment) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1"])
def test_find_proxy_for_this_host_is_none(host: str) -> None:
    """A proxy's localhost is another host than ours."""
    assert found({"HTTPS_PROXY": "http://proxy.example:3128"}, host) is None


@pytest.mark.parametrize(
    ("exceptions", "host", "is_direct"),
    [
        ("*", GATEWAY, True),
        ("gateway.example", GATEWAY, True),
        ("GATEWAY.example.", GATEWAY, True),
        ("example", GATEWAY, True),
        (".example", GATEWAY, True),
        ("other.example, gateway.example", GATEWAY, True),
        ("other.example gateway.example", GATEWAY, True),
        ("gateway.example:8443", GATEWAY, True),
        ("gateway.example:443", GATEWAY, False),
        ("way.example", GATEWAY, False),
        ("other.example", GATEWAY, False),
        ("", GATEWAY, False),
        (" , ,", GATEWAY, False),
        (".", GATEWAY, False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8:8443", "10.1.2.3", True),
        ("192.168.0.0/16", "10.1.2.3", False),
        ("2.3", "10.1.2.3", False),
        ("2001:db8::/32", "2001:db8::7", True),
        ("[2001:db8::7]:8443", "2001:db8::7", True),
        ("[2001:db8::7]:1", "2001:db8::7", False),
        ("10.0.0.0/8", GATEWAY, False),
    ],
)
def test_find_proxy_heeds_no_proxy(exceptions: str, host: str, is_direct: bool) -> None:
    """Names with what ends in them, addresses, networks, ports; nothing by a part of a label or of an address."""
    environment = {"HTTPS_PROXY": "http://proxy.example:3128"}
    assert (found(environment | {"NO_PROXY": exceptions}, host) is None) is is_direct
    assert (found(environment | {"no_proxy": exceptions}, host) is None) is is_direct


def test_find_proxy_takes_user_and_password() -> None:
    """Percent-encoded as URLs are; sent as RFC 7617 says; shown nowhere."""
    proxy = found({"HTTPS_PROXY": "http://us%40er:p%3Aass%C3%A9@proxy.example:3128"})
    assert proxy is not None
    assert proxy.credentials == b"Basic " + base64.b64encode("us@er:p:assé".encode())
    assert "p:ass" not in f"{proxy!r} {proxy}"
    assert "Basic" not in repr(proxy)
    assert str(proxy) == "the proxy proxy.example:3128 (HTTPS_PROXY)"


@pytest.mark.parametrize(
    "value",
    [
        "https://proxy.example:3128",
        "socks5://secret@proxy.example:1080",
        "http://",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "http://proxy.example:port",
        "http://proxy example:3128",
        "http://secret@",
        "http://us%3Aer:secret@proxy.example:3128",
        "http://user:secret%0d%0a@proxy.example:3128",
        "http://pröxy.example:3128",
        "http://proxy.example:3128/secret/path",
    ],
)
def test_find_proxy_refuses_what_it_cannot_use(value: str) -> None:
    """No dial around a proxy that was named but not understood; the error names the variable, and not its value."""
    with pytest.raises(ProxyInvalid) as caught:
        found({"HTTPS_PROXY": value})
    assert "HTTPS_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)
