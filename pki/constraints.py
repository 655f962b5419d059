"""Names in certificates as a path sees them: comparing distinguished names, and name constraints (RFC 5280 §4.2.1.10).

Handled forms: dNSName, iPAddress, rfc822Name, uniformResourceIdentifier, directoryName. A constraint on any other form
refuses every later certificate that holds a name of that form; it cannot be processed, so it may not be ignored.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

from pki.errors import CertificateInvalid, PathReason
from pki.extensions import find
from pki.generalnames import is_domain, is_host, mailbox_host, uri_host

__all__ = ["ComparisonBudget", "NameConstraintState", "normal_name"]

NormalName = tuple[frozenset[tuple[str, str]], ...]

# RFC 9598: mailboxes with a local part in UTF-8 hide in an otherName; constraints on mailboxes are for them too.
_SMTP_UTF8_MAILBOX = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")
# Names times constraints is the work that a stranger's paths can ask for.
_MAX_NAMES = 1024
_MAX_SUBTREES = 1024
_MAX_COMPARISONS = 1 << 18


@lru_cache(maxsize=1024)
def normal_name(name: x509.Name) -> NormalName:
    """A form that is equal for equal names under RFC 5280 §7.1: string type, case and runs of blanks do not count."""
    return tuple(frozenset((item.oid.dotted_string, _fold(item.value)) for item in rdn) for rdn in name.rdns)


def _fold(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return "\0" + value.hex()
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


@dataclass(slots=True)
class ComparisonBudget:
    """Comparisons of a name with a subtree that are left, for all paths of one certificate together."""

    left: int = _MAX_COMPARISONS

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise CertificateInvalid(PathReason.NAME, "more names and name constraints than are compared")


class NameConstraintState:
    """permitted_subtrees and excluded_subtrees of §6.1.2 (b), (c); fed from the anchor's side to the leaf."""

    __slots__ = ("_budget", "_count", "_excluded", "_permitted")

    def __init__(self, budget: ComparisonBudget | None = None) -> None:
        self._budget = budget or ComparisonBudget()
        # Each certificate's permitted subtrees are one layer: a name must lie in every layer that speaks of its form.
        self._permitted: list[list[x509.GeneralName]] = []
        self._excluded: list[x509.GeneralName] = []
        self._count = 0

    def check(self, certificate: x509.Certificate, *, is_server: bool = False) -> None:
        """Raise `CertificateInvalid` (name) unless every name of the certificate is inside the constraints so far.

        A server's common name counts as a host when it looks like one and no subject alternative name is a host: old
        clients go by it, so a CA that may not name a host must not get around that by naming it there.
        """
        if not self._permitted and not self._excluded:
            return
        for number, name in enumerate(_names(certificate, is_server=is_server)):
            if number >= _MAX_NAMES:
                raise CertificateInvalid(PathReason.NAME, "more names than are checked against constraints")
            self._budget.spend(self._count)
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


def _names(certificate: x509.Certificate, *, is_server: bool) -> Iterator[x509.GeneralName]:
    """The names that constraints apply to: a subject that is not empty, every SAN, legacy mail addresses and hosts."""
    if certificate.subject.rdns:
        yield x509.DirectoryName(certificate.subject)
    alternatives = list(find(certificate.extensions, x509.SubjectAlternativeName) or ())
    for name in alternatives:
        if isinstance(name, x509.OtherName) and name.type_id == _SMTP_UTF8_MAILBOX:
            # Its text lies in no permitted subtree and in every excluded one.
            yield x509.RFC822Name._init_without_validation("")
        yield name
    if not any(isinstance(name, x509.RFC822Name) for name in alternatives):
        for item in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
            # Unchecked on purpose: what is no mailbox lies in no permitted subtree.
            yield x509.RFC822Name._init_without_validation(str(item.value))
    if is_server and not any(isinstance(name, x509.DNSName | x509.IPAddress) for name in alternatives):
        for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            yield from _host_of(str(item.value))


def _host_of(text: str) -> Iterator[x509.GeneralName]:
    try:
        yield x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        if is_domain(text.removeprefix("*.")):
            yield x509.DNSName(text)


def _is_well_formed(base: x509.GeneralName) -> bool:
    match base:
        case x509.DNSName():
            return base.value == "" or is_host(base.value)
        case x509.IPAddress():
            return isinstance(base.value, ipaddress.IPv4Network | ipaddress.IPv6Network)
        case x509.RFC822Name():
            _, at, host = base.value.rpartition("@")
            return mailbox_host(base.value) is not None if at else is_host(host.removeprefix("."))
        case x509.UniformResourceIdentifier():
            return is_host(base.value.removeprefix("."))
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
            host = mailbox_host(name.value)
            if host is not None:
                if "@" not in base.value:
                    return _is_host_within(host, base.value.lower())
                local, _, base_host = base.value.rpartition("@")
                return name.value.rpartition("@")[0] == local and host == base_host.lower()
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            host = uri_host(name.value)
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
    if not is_domain(name):
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
