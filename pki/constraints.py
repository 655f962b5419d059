"""Names in certificates as a path sees them: comparing distinguished names, and name constraints (RFC 5280 §4.2.1.10).

Handled forms: dNSName, iPAddress, rfc822Name, uniformResourceIdentifier, directoryName. A constraint on any other form
refuses every later certificate that holds a name of that form; it cannot be processed, so it may not be ignored.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from pki.errors import CertificateInvalid, PathReason
from pki.extensions import find

__all__ = ["NameConstraintState", "normal_name"]

NormalName = tuple[frozenset[tuple[str, str]], ...]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_MAILBOX = re.compile(r"[\x21-\x3f\x41-\x7e]+@([\x21-\x3f\x41-\x7e]+)")
# Names times constraints is the work that a stranger's path can ask for.
_MAX_NAMES = 1024
_MAX_SUBTREES = 1024


@lru_cache(maxsize=1024)
def normal_name(name: x509.Name) -> NormalName:
    """A form that is equal for equal names under RFC 5280 §7.1: string type, case and runs of blanks do not count."""
    return tuple(frozenset((item.oid.dotted_string, _fold(item.value)) for item in rdn) for rdn in name.rdns)


def _fold(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return "\0" + value.hex()
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


class NameConstraintState:
    """permitted_subtrees and excluded_subtrees of §6.1.2 (b), (c); fed from the anchor's side to the leaf."""

    __slots__ = ("_count", "_excluded", "_permitted")

    def __init__(self) -> None:
        # Each certificate's permitted subtrees are one layer: a name must lie in every layer that speaks of its form.
        self._permitted: list[list[x509.GeneralName]] = []
        self._excluded: list[x509.GeneralName] = []
        self._count = 0

    def check(self, certificate: x509.Certificate) -> None:
        """Raise `CertificateInvalid` (name) unless every name of the certificate is inside the constraints so far."""
        if not self._permitted and not self._excluded:
            return
        for number, name in enumerate(_names(certificate)):
            if number >= _MAX_NAMES:
                raise CertificateInvalid(PathReason.NAME, "more names than are checked against constraints")
            if any(_is_within(name, base, excluding=True) for base in self._excluded if type(base) is type(name)):
                raise CertificateInvalid(PathReason.NAME, "a name is excluded by a name constraint")
            for layer in self._permitted:
                bases = [base for base in layer if type(base) is type(name)]
                if bases and not any(_is_within(name, base, excluding=False) for base in bases):
                    raise CertificateInvalid(PathReason.NAME, "a name is outside of a name constraint")

    def constrain(self, constraints: x509.NameConstraints) -> None:
        """Take over a CA's extension (§6.1.4 (g)); a subtree that breaks its own grammar is `CertificateInvalid`."""
        permitted = list(constraints.permitted_subtrees or ())
        excluded = list(constraints.excluded_subtrees or ())
        self._count += len(permitted) + len(excluded)
        if not permitted and not excluded:
            raise CertificateInvalid(PathReason.MALFORMED, "name constraints without a subtree")
        if self._count > _MAX_SUBTREES:
            raise CertificateInvalid(PathReason.NAME, "more name constraints than are checked")
        for base in (*permitted, *excluded):
            if not _is_well_formed(base):
                raise CertificateInvalid(PathReason.MALFORMED, "a name constraint breaks its grammar")
        if permitted:
            self._permitted.append(permitted)
        self._excluded.extend(excluded)


def _names(certificate: x509.Certificate) -> Iterator[x509.GeneralName]:
    """The names that constraints apply to: a subject that is not empty, every SAN, legacy e-mail addresses."""
    if certificate.subject.rdns:
        yield x509.DirectoryName(certificate.subject)
    alternatives = find(certificate.extensions, x509.SubjectAlternativeName) or ()
    has_mailbox = False
    for name in alternatives:
        has_mailbox |= isinstance(name, x509.RFC822Name)
        yield name
    if not has_mailbox:
        for item in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
            # Unchecked on purpose: what is no mailbox lies in no permitted subtree.
            yield x509.RFC822Name._init_without_validation(str(item.value))


def _is_well_formed(base: x509.GeneralName) -> bool:
    match base:
        case x509.DNSName():
            return base.value == "" or _is_host(base.value)
        case x509.IPAddress():
            return isinstance(base.value, ipaddress.IPv4Network | ipaddress.IPv6Network)
        case x509.RFC822Name():
            _, at, host = base.value.rpartition("@")
            return _mailbox_host(base.value) is not None if at else _is_host(host.removeprefix("."))
        case x509.UniformResourceIdentifier():
            return _is_host(base.value.removeprefix("."))
        case _:
            return True


def _is_within(name: x509.GeneralName, base: x509.GeneralName, *, excluding: bool) -> bool:
    """Whether the name is in the subtree. What cannot be told counts against the name: it is in every excluded subtree
    and in no permitted one."""
    match name, base:
        case x509.DNSName(), x509.DNSName():
            return _is_dns_within(name.value.lower(), base.value.lower(), excluding=excluding)
        case x509.IPAddress(), x509.IPAddress():
            address, network = name.value, base.value
            if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
                return isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network) and address in network
        case x509.RFC822Name(), x509.RFC822Name():
            host = _mailbox_host(name.value)
            if host is not None:
                if "@" not in base.value:
                    return _is_host_within(host, base.value.lower())
                local, _, base_host = base.value.rpartition("@")
                return name.value.rpartition("@")[0] == local and host == base_host.lower()
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            host = _uri_host(name.value)
            if host is not None:
                return _is_host_within(host, base.value.lower())
        case x509.DirectoryName(), x509.DirectoryName():
            prefix = normal_name(base.value)
            return normal_name(name.value)[: len(prefix)] == prefix
    return excluding


def _is_dns_within(name: str, base: str, *, excluding: bool) -> bool:
    """§4.2.1.10: labels added on the left stay within. A wildcard stands for every name that it may match, so it is
    excluded as soon as one of them is, and permitted only when all of them are."""
    wildcard = name.startswith("*.")
    name = name.removeprefix("*.")
    if not _is_host(name):
        return excluding
    if base == "" or name == base or name.endswith("." + base):
        return True
    if wildcard and excluding:
        label, dot, rest = base.partition(".")
        return bool(label and dot) and rest == name
    return False


def _is_host_within(host: str, base: str) -> bool:
    """For mailboxes and URIs: a base with a leading dot means any host below it, else exactly that host."""
    return host.endswith(base) if base.startswith(".") else host == base


def _is_host(text: str) -> bool:
    return len(text) <= 253 and _HOST.fullmatch(text.lower()) is not None


def _mailbox_host(text: str) -> str | None:
    match = _MAILBOX.fullmatch(text)
    return match[1].lower() if match and _is_host(match[1]) else None


def _uri_host(text: str) -> str | None:
    """The host of a URI with an authority; None for an IP address or no authority, which constraints must refuse."""
    try:
        host = urlsplit(text).hostname
    except ValueError:
        return None
    if not host or not _is_host(host) or host.rsplit(".", 1)[-1].isdigit():
        return None
    return host.lower()
