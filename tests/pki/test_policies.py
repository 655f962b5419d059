"""Certificate policies (RFC 5280 §6.1, RFC 9618): they matter where a path requires an explicit one."""

from __future__ import annotations

import pytest
from cryptography import x509
from support.certs import AT, Extension, forge, pem

from pki.der import parse_policy_mappings
from pki.errors import CertificateInvalid
from pki.names import Role
from pki.verify import verify_file

ANY, GOLD, SILVER = "2.5.29.32.0", "1.3.6.1.4.1.55555.7.1", "1.3.6.1.4.1.55555.7.2"


def policies(*oids: str) -> Extension:
    return x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(oid), None) for oid in oids]), False


def require(explicit: int | None = None, inhibit_mapping: int | None = None) -> Extension:
    return x509.PolicyConstraints(explicit, inhibit_mapping), True


def inhibit_any(skip: int) -> Extension:
    return x509.InhibitAnyPolicy(skip), True


def _der(tag: int, body: bytes) -> bytes:
    return bytes([tag, len(body)]) + body


def mapping(*pairs: tuple[str, str]) -> Extension:
    body = b"".join(_der(0x30, _oid(one) + _oid(other)) for one, other in pairs)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.33"), _der(0x30, body)), True


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([first * 40 + second])
    for arc in rest:
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(octets))
    return _der(6, bytes(content))


def is_valid(*layers: list[Extension], names: list[str] | None = None, anchor: list[Extension] | None = None) -> bool:
    """root -> a CA for each layer but the last -> leaf."""
    root = above = forge("root", ca=True, extensions=anchor or ())
    made = []
    for number, extensions in enumerate(layers):
        is_leaf = number == len(layers) - 1
        name = "leaf" if is_leaf else (names or [])[number] if names else f"ca{number}"
        above = forge(name, above, ca=not is_leaf, extensions=extensions)
        made.append(above)
    try:
        verify_file(pem(*reversed(made)), pem(root), role=Role.CLIENT, at=AT, profile="rfc5280")
    except CertificateInvalid:
        return False
    return True


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[], []], True),
        ([[policies(GOLD)], [policies(SILVER)]], True),
        ([[policies(GOLD), require(0)], [policies(GOLD)]], True),
        ([[policies(GOLD), require(0)], [policies(SILVER)]], False),
        ([[policies(GOLD), require(0)], []], False),
        ([[require(0)], [policies(GOLD)]], False),
        ([[policies(GOLD), require(5)], []], True),
        ([[policies(GOLD), require(1)], []], False),
        ([[policies(GOLD), require(2)], []], True),
        ([[policies(GOLD), require(1)], [policies(GOLD)]], True),
        ([[policies(ANY), require(0)], [policies(GOLD)]], True),
        ([[policies(GOLD), require(0)], [policies(ANY)]], True),
        ([[policies(GOLD), require(0), inhibit_any(0)], [policies(ANY)]], False),
        ([[policies(ANY), require(0), inhibit_any(0)], [policies(GOLD)]], True),
        ([[policies(GOLD), require(0)], [policies(ANY), inhibit_any(0)], [policies(GOLD)]], True),
        ([[policies(GOLD), require(0), inhibit_any(1)], [policies(ANY)], [policies(ANY)]], False),
        ([[policies(GOLD), require(0), inhibit_any(2)], [policies(ANY)], [policies(ANY)]], True),
        ([[policies(GOLD), require(0), mapping((GOLD, SILVER))], [policies(SILVER)]], True),
        ([[policies(GOLD), require(0), mapping((GOLD, SILVER))], [policies(GOLD)]], False),
        ([[policies(ANY), require(0), mapping((GOLD, SILVER))], [policies(SILVER)]], True),
        ([[policies(GOLD), require(0, 0)], [policies(GOLD), mapping((GOLD, SILVER))], [policies(SILVER)]], False),
        ([[policies(GOLD), require(0, 1)], [policies(GOLD), mapping((GOLD, SILVER))], [policies(SILVER)]], True),
        ([[policies(GOLD), mapping((ANY, SILVER))], [policies(SILVER)]], False),
        ([[policies(GOLD), mapping((GOLD, ANY))], [policies(SILVER)]], False),
        ([[policies(GOLD)], [policies(GOLD), require(0)], [policies(SILVER)]], False),
        ([[policies(GOLD)], [policies(GOLD), require(0)], [policies(GOLD)]], True),
    ],
)
def test_path_with_policies_is_valid_when_a_required_one_holds(layers: list[list[Extension]], expected: bool) -> None:
    """One row is the extensions of each certificate from the root's side."""
    assert expected == is_valid(*layers)


@pytest.mark.parametrize(
    ("anchor", "layers", "expected"),
    [
        ([policies(GOLD)], [[policies(GOLD), require(0)], [policies(GOLD)]], True),
        ([policies(SILVER)], [[policies(GOLD), require(0)], [policies(GOLD)]], False),
        ([policies(SILVER)], [[policies(GOLD)], [policies(GOLD)]], True),
        ([policies(ANY)], [[policies(GOLD), require(0)], [policies(GOLD)]], True),
        ([require(3)], [[], []], True),
        ([require(2)], [[], []], False),
        ([require(0)], [[policies(GOLD)], [policies(GOLD)]], True),
        ([require(0)], [[policies(GOLD)], [policies(SILVER)]], False),
        ([require(None, 0)], [[policies(GOLD), require(0), mapping((GOLD, SILVER))], [policies(SILVER)]], False),
        ([require(None, 1)], [[policies(GOLD), require(0), mapping((GOLD, SILVER))], [policies(SILVER)]], True),
        ([inhibit_any(0)], [[policies(ANY), require(0)], [policies(GOLD)]], False),
        ([inhibit_any(1)], [[policies(ANY), require(0)], [policies(GOLD)]], True),
        ([policies(GOLD), mapping((GOLD, SILVER))], [[policies(SILVER), require(0)], [policies(SILVER)]], True),
        ([policies(GOLD), mapping((GOLD, SILVER))], [[policies(GOLD), require(0)], [policies(GOLD)]], False),
    ],
)
def test_policies_of_the_anchor_hold_below_it(
    anchor: list[Extension], layers: list[list[Extension]], expected: bool
) -> None:
    """RFC 5937 section 3.2: what an operator trusts is trusted within its own bounds, as with names and lengths."""
    assert expected == is_valid(*layers, anchor=anchor)


def test_leaf_that_requires_a_policy_of_itself_needs_one() -> None:
    """§6.1.5 (b)."""
    assert is_valid([policies(GOLD)], [policies(GOLD), require(0)])
    assert not is_valid([policies(GOLD)], [policies(SILVER), require(0)])


def test_critical_policies_are_processed_not_refused() -> None:
    assert is_valid([(policies(GOLD)[0], True)], [(policies(GOLD)[0], True)])


def test_any_policy_stays_allowed_in_a_self_issued_intermediate() -> None:
    """§6.1.3 (d)(2): key rollover is exempt from inhibitAnyPolicy."""
    layers = ([policies(GOLD), require(0), inhibit_any(0)], [policies(ANY)], [policies(GOLD)])
    assert is_valid(*layers, names=["same", "same"])
    assert not is_valid(*layers, names=["one", "other"])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30\x00",
        b"\x30\x02\x30\x00",
        b"\x30\x80",
        b"\x31\x00",
        b"\x30\x05\x30\x03\x02\x01\x05",
        b"\x30\x04\x30\x02\x06\x00",
    ],
)
def test_policy_mappings_that_are_no_mappings_are_refused(value: bytes) -> None:
    """The reader refuses what does not fit, and a path with it is malformed."""
    with pytest.raises(ValueError):  # noqa: PT011
        parse_policy_mappings(value)
    broken = (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.33"), value), True)
    assert not is_valid([policies(GOLD), broken], [policies(GOLD)])


def test_policy_mappings_are_read_as_dotted_pairs() -> None:
    extension, _ = mapping((GOLD, SILVER), (SILVER, ANY))
    assert isinstance(extension, x509.UnrecognizedExtension)
    assert parse_policy_mappings(extension.value) == ((GOLD, SILVER), (SILVER, ANY))
