"""The grammar of a certificate's general names (RFC 5280 §4.2.1.6), for what others issued; `pki.names` is for ours."""

from __future__ import annotations

import ipaddress
import re

from cryptography import x509

__all__ = ["is_domain", "is_host", "is_well_formed", "mailbox_host", "uri_host"]

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
# Hosts of URIs may hold underscores: SPIFFE trust domains do.
_LOOSE_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:{_LOOSE_LABEL}\.)*{_LOOSE_LABEL}")
_MAILBOX = re.compile(r"[\x21-\x3f\x41-\x7e]+@([\x21-\x3f\x41-\x7e]+)")
# RFC 5321 §4.1.2: what else a mailbox may be. Constraints cannot judge it.
_RARE_MAILBOX = re.compile(r"(?:\"[\x20-\x7e]*\"|[\x21-\x3f\x41-\x7e]+)@(?:\[[0-9A-Za-z:.]+\]|([A-Za-z0-9.-]+))")
# RFC 3986 §3: a scheme, and behind `//` an authority up to `/`, `?` or `#`. No octet outside of its alphabet.
_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:"
    r"(?://(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?P<port>:[0-9]*)?"
    r"(?=[/?#]|\Z))?"
    r"(?P<rest>[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)"
)
_MAX_HOST = 253


def is_well_formed(name: x509.GeneralName) -> bool:
    """Whether a subject alternative name is what its form promises. A DNS name may have `*` as its whole first label.

    Of forms that nothing here goes by (otherName, registeredID) nothing is asked.
    """
    match name:
        case x509.DNSName():
            return is_domain(name.value.removeprefix("*."))
        case x509.IPAddress():
            return isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address)
        case x509.RFC822Name():
            return mailbox_host(name.value) is not None or _is_rare_mailbox(name.value)
        case x509.UniformResourceIdentifier():
            return _is_uri(name.value)
        case x509.DirectoryName():
            return bool(name.value.rdns)
        case _:
            return True


def is_domain(text: str) -> bool:
    """A DNS name in preferred syntax (RFC 1034 §3.5, RFC 1123 §2.1), in any case; its last label is no number, since
    the whole might be read as an IPv4 address then."""
    return len(text) <= _MAX_HOST and _DOMAIN.fullmatch(text.lower()) is not None and not _ends_in_number(text)


def is_host(text: str) -> bool:
    """As `is_domain`, with underscores, and any last label."""
    return len(text) <= _MAX_HOST and _HOST.fullmatch(text.lower()) is not None


def mailbox_host(text: str) -> str | None:
    """The host of a mailbox in lower case; None for what is none."""
    match = _MAILBOX.fullmatch(text)
    return match[1].lower() if match and is_domain(match[1]) else None


def uri_host(text: str) -> str | None:
    """The host of a URI in lower case; None for an IP address or no authority, which constraints must refuse."""
    match = _URI.fullmatch(text)
    host = match["host"] if match else None
    if not host or not is_host(host) or _ends_in_number(host):
        return None
    return host.lower()


def _is_uri(text: str) -> bool:
    """An absolute URI whose authority, where it has one, names a host."""
    match = _URI.fullmatch(text)
    if match is None:
        return False
    host, rest = match["host"], match["rest"]
    return rest != "" and not rest.startswith("//") if host is None else host != ""


def _is_rare_mailbox(text: str) -> bool:
    match = _RARE_MAILBOX.fullmatch(text)
    return match is not None and (match[1] is None or is_domain(match[1]))


def _ends_in_number(host: str) -> bool:
    return host.rsplit(".", 1)[-1].isdigit()
