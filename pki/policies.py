"""Certificate policies along a path (RFC 5280 §6.1, in the form of RFC 9618: a graph, here only its newest level).

Inputs as most applications have them: every policy is acceptable, nothing is inhibited or required but by the anchor's
own extensions (RFC 5937). So the outcome matters only where a certificate on the path requires an explicit policy.
"""

from __future__ import annotations

from cryptography import x509

from pki.der import parse_policy_mappings
from pki.errors import CertificateInvalid, PathReason
from pki.extensions import find

__all__ = ["PolicyState"]

ANY = "2.5.29.32.0"
_MAPPINGS = x509.ObjectIdentifier("2.5.29.33")


class PolicyState:
    """The variables of §6.1.2 (a), (d), (e), (f); one object a path, fed from the anchor's side to the leaf."""

    __slots__ = ("_explicit", "_inhibit_any", "_length", "_level", "_mapping")

    def __init__(self, length: int) -> None:
        self._length = length
        # valid_policy -> expected_policy_set; None is the NULL graph
        self._level: dict[str, frozenset[str]] | None = {ANY: frozenset({ANY})}
        self._explicit = self._mapping = self._inhibit_any = length + 1

    def begin(self, anchor: x509.Certificate) -> None:
        """What the trust anchor's own extensions ask for (RFC 5937 §3.2): its policies are those that are acceptable to
        begin with, every one when it names none, and its constraints hold from the next certificate on."""
        extensions = anchor.extensions
        if find(extensions, x509.CertificatePolicies) is not None:
            self._intersect(extensions, may_be_any=True)
        self._map(_mappings(extensions))
        self._constrain(extensions)

    def feed(self, certificate: x509.Certificate, *, is_self_issued: bool, is_last: bool) -> None:
        """One certificate: §6.1.3 (d) to (f), then §6.1.4 (a), (b), (h) to (j) or §6.1.5 (a), (b)."""
        extensions = certificate.extensions
        self._intersect(extensions, may_be_any=self._inhibit_any > 0 or (is_self_issued and not is_last))
        self._require()
        mappings = _mappings(extensions)
        if not is_last:
            self._map(mappings)
            if not is_self_issued:
                self._explicit = max(0, self._explicit - 1)
                self._mapping = max(0, self._mapping - 1)
                self._inhibit_any = max(0, self._inhibit_any - 1)
            self._constrain(extensions)
            return
        self._explicit = max(0, self._explicit - 1)
        constraints = find(extensions, x509.PolicyConstraints)
        if constraints is not None and constraints.require_explicit_policy == 0:
            self._explicit = 0
        self._require()

    def _require(self) -> None:
        if self._explicit == 0 and not self._level:
            raise CertificateInvalid(PathReason.PROFILE, "an explicit policy is required and none is valid")

    def _intersect(self, extensions: x509.Extensions, *, may_be_any: bool) -> None:
        policies = find(extensions, x509.CertificatePolicies)
        if policies is None:
            self._level = None
            return
        named = {policy.policy_identifier.dotted_string for policy in policies}
        if not 1 <= len(named) == len(list(policies)):
            raise CertificateInvalid(PathReason.MALFORMED, "policies that are none, or one of them twice (§4.2.1.4)")
        if self._level is None:
            return
        expected = frozenset().union(*self._level.values())
        level = {oid: frozenset({oid}) for oid in named - {ANY} if oid in expected or ANY in self._level}
        if ANY in named and may_be_any:
            level |= {oid: frozenset({oid}) for oid in expected if oid not in level}
        self._level = level or None

    def _map(self, mappings: tuple[tuple[str, str], ...]) -> None:
        mapped: dict[str, set[str]] = {}
        for issuer_policy, subject_policy in mappings:
            if ANY in (issuer_policy, subject_policy):
                raise CertificateInvalid(PathReason.PROFILE, "policy mappings name anyPolicy")
            mapped.setdefault(issuer_policy, set()).add(subject_policy)
        if self._level is None:
            return
        level = dict(self._level)
        for issuer_policy, subject_policies in mapped.items():
            if self._mapping == 0:
                level.pop(issuer_policy, None)
            elif issuer_policy in level or ANY in level:
                level[issuer_policy] = frozenset(subject_policies)
        self._level = level or None

    def _constrain(self, extensions: x509.Extensions) -> None:
        constraints = find(extensions, x509.PolicyConstraints)
        if constraints is not None:
            if constraints.require_explicit_policy is not None:
                self._explicit = min(self._explicit, constraints.require_explicit_policy)
            if constraints.inhibit_policy_mapping is not None:
                self._mapping = min(self._mapping, constraints.inhibit_policy_mapping)
        inhibit = find(extensions, x509.InhibitAnyPolicy)
        if inhibit is not None:
            self._inhibit_any = min(self._inhibit_any, inhibit.skip_certs)


def _mappings(extensions: x509.Extensions) -> tuple[tuple[str, str], ...]:
    for extension in extensions:
        if extension.oid == _MAPPINGS and isinstance(extension.value, x509.UnrecognizedExtension):
            try:
                return parse_policy_mappings(extension.value.value)
            except ValueError as error:
                raise CertificateInvalid(PathReason.MALFORMED, f"policy mappings: {error}") from None
    return ()
