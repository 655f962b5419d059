"""Name constraints: what lies inside, what outside, and what cannot be told."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.certs import AT, common_name, forge, pem

from pki.constraints import ComparisonBudget, NameConstraintState, normal_name
from pki.errors import CertificateInvalid, PathReason
from pki.names import Role
from pki.verify import verify_file

Names = Sequence[x509.GeneralName]


def dns(text: str) -> x509.DNSName:
    return x509.DNSName(text)


def ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


def mail(text: str) -> x509.RFC822Name:
    return x509.RFC822Name._init_without_validation(text)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def dn(*texts: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in texts]))


SMTP_UTF8 = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")
OTHER = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.55555.3"), b"\x05\x00")


def verdict(
    names: Names, permitted: Names, excluded: Names, subject: x509.Name | None = None, *, is_server: bool = False
) -> bool:
    """Whether a certificate of these names passes; bases bypass the library's own checks."""
    constraints = x509.NameConstraints([dns("x.example")], None)
    constraints._permitted_subtrees = list(permitted) or None  # type: ignore[attr-defined]
    constraints._excluded_subtrees = list(excluded) or None  # type: ignore[attr-defined]
    state = NameConstraintState()
    state.constrain(constraints)
    certificate = forge(subject or x509.Name([]), extensions=[(x509.SubjectAlternativeName(names), True)]).certificate
    try:
        state.check(certificate, is_server=is_server)
    except CertificateInvalid as error:
        return error.reason is not PathReason.NAME
    return True


INSIDE: list[tuple[x509.GeneralName, x509.GeneralName, bool]] = [
    (dns("a.example"), dns("a.example"), True),
    (dns("A.Example"), dns("a.example"), True),
    (dns("b.a.example"), dns("a.example"), True),
    (dns("ba.example"), dns("a.example"), False),
    (dns("example"), dns("a.example"), False),
    (dns("a.example"), dns(""), True),
    (ip("10.1.2.3"), ip("10.0.0.0/8"), True),
    (ip("11.1.2.3"), ip("10.0.0.0/8"), False),
    (ip("2001:db8::1"), ip("2001:db8::/32"), True),
    (ip("::ffff:10.1.2.3"), ip("10.0.0.0/8"), False),
    (ip("10.1.2.3"), ip("0.0.0.0/0"), True),
    (ip("10.1.2.3"), ip("::/0"), False),
    (mail("a@h.example"), mail("a@h.example"), True),
    (mail("a@H.Example"), mail("a@h.example"), True),
    (mail("A@h.example"), mail("a@h.example"), False),
    (mail("a@h.example"), mail("h.example"), True),
    (mail("a@x.h.example"), mail("h.example"), False),
    (mail("a@x.h.example"), mail(".h.example"), True),
    (mail("a@h.example"), mail(".h.example"), False),
    (uri("https://h.example/p"), uri("h.example"), True),
    (uri("https://u@h.example:8443/p"), uri("h.example"), True),
    (uri("https://x.h.example/p"), uri("h.example"), False),
    (uri("https://x.h.example/p"), uri(".h.example"), True),
    (dn("a", "b"), dn("a"), True),
    (dn("A", "b"), dn("a"), True),
    (dn("a"), dn("a", "b"), False),
    (dn("b", "a"), dn("a"), False),
    (dn("a"), x509.DirectoryName(x509.Name([])), True),
]


@pytest.mark.parametrize(("name", "base", "inside"), INSIDE, ids=[f"{n.value}|{b.value}" for n, b, _ in INSIDE])
def test_name_inside_a_subtree_is_permitted_or_excluded_by_it(
    name: x509.GeneralName, base: x509.GeneralName, inside: bool
) -> None:
    """Permitted and excluded are each other's reverse where it can be told."""
    assert inside == verdict([name], [base], [])
    assert inside != verdict([name], [], [base])


DOUBTFUL: list[tuple[x509.GeneralName, x509.GeneralName]] = [
    (dns(".a.example"), dns("a.example")),
    (dns("a..example"), dns("example")),
    (dns("a.example."), dns("example")),
    (dns("x*.a.example"), dns("a.example")),
    (ip("10.0.0.0/24"), ip("10.0.0.0/8")),
    (mail("a@b@h.example"), mail("h.example")),
    (mail("h.example"), mail("h.example")),
    (x509.OtherName(SMTP_UTF8, b"\x0c\x0bm@h.example"), mail("h.example")),
    (dns("a_b.example"), dns("example")),
    (dns("192.0.2.1"), dns("1")),
    (uri("urn:x:y"), uri("h.example")),
    (uri("https://10.0.0.1/"), uri("h.example")),
    (uri("https://[::1]/"), uri("h.example")),
    (uri("https://[::1]@h.example/"), uri("h.example")),
    (uri("https://h.example\\@x.example/"), uri("x.example")),
    (uri("https://x.example/\\@h.example/ "), uri("x.example")),
    (uri("https://x\t.example/"), uri("x.example")),
    (uri(" https://x.example/"), uri("x.example")),
    (uri("https://%78.example/"), uri("x.example")),
    (uri("https://x.example:80x/"), uri("x.example")),
    (uri("https:///x.example"), uri("x.example")),
    (OTHER, OTHER),
]


@pytest.mark.parametrize(("name", "base"), DOUBTFUL, ids=[str(n.value) for n, _ in DOUBTFUL])
def test_name_that_cannot_be_judged_is_refused_either_way(name: x509.GeneralName, base: x509.GeneralName) -> None:
    """A name that breaks its grammar, or of a form that is not handled, passes no constraint on its form."""
    assert not verdict([name], [base], [])
    assert not verdict([name], [], [base])


def test_constraint_on_one_form_says_nothing_of_others() -> None:
    """An unhandled form matters only when a name of it turns up."""
    assert verdict([dns("a.example")], [ip("10.0.0.0/8")], [OTHER])
    assert verdict([uri("spiffe://d.example/client/a")], [], [dns(""), ip("0.0.0.0/0"), ip("::/0")])


def test_excluded_wins_over_permitted() -> None:
    assert not verdict([dns("a.example")], [dns("a.example")], [dns("a.example")])


def test_every_name_counts() -> None:
    """One name outside spoils the certificate."""
    assert not verdict([dns("a.example"), dns("b.example")], [dns("a.example")], [])
    assert not verdict([dns("a.example"), dns("b.example")], [], [dns("b.example")])


@pytest.mark.parametrize(
    ("name", "permitted", "excluded", "expected"),
    [
        ("*.a.example", ["a.example"], [], True),
        ("*.a.example", ["b.a.example"], [], False),
        ("*.a.example", [], ["b.a.example"], False),
        ("*.a.example", [], ["c.b.a.example"], True),
        ("*.a.example", [], ["a.example"], False),
        ("*.a.example", [], ["b.example"], True),
    ],
)
def test_wildcard_stands_for_every_name_that_it_may_match(
    name: str, permitted: list[str], excluded: list[str], expected: bool
) -> None:
    """CVE-2025-61727: a wildcard must not step around a constraint on one of its names."""
    assert expected == verdict([dns(name)], [dns(text) for text in permitted], [dns(text) for text in excluded])


def test_subject_and_legacy_mail_address_are_names_too() -> None:
    """§4.2.1.10: directory names apply to the subject, mailboxes to emailAddress when no SAN has one."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a"), x509.NameAttribute(NameOID.EMAIL_ADDRESS, "m@h.example")]
    )
    some = [dns("a.example")]
    assert verdict(some, [dn("a")], [], subject)
    assert not verdict(some, [dn("b")], [], subject)
    assert not verdict(some, [], [dn("a")], subject)
    assert verdict(some, [mail("h.example")], [], subject)
    assert not verdict(some, [], [mail("h.example")], subject)
    assert verdict([mail("m@other.example")], [], [mail("h.example")], subject)


@pytest.mark.parametrize(
    "base",
    [dns(".a.example"), dns("*.a.example"), dns("a..b"), ip("10.0.0.1"), mail("a@b@c"), mail("@"), uri("https://h/")],
    ids=str,
)
def test_constraint_that_breaks_its_grammar_is_malformed(base: x509.GeneralName) -> None:
    """A CA whose constraint cannot be read issues nothing, whether it permits or excludes."""
    for permitted, excluded in (([base], []), ([], [base])):
        with pytest.raises(CertificateInvalid) as caught:
            verdict([dns("z.example")], permitted, excluded)
        assert caught.value.reason is PathReason.MALFORMED


def test_constraints_without_a_subtree_are_malformed() -> None:
    with pytest.raises(CertificateInvalid):
        verdict([dns("a.example")], [], [])


HOST = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
LOOKALIKES = [
    (HOST, [dns("b.example")], [], False),
    (HOST, [], [dns("example")], False),
    (HOST, [dns("example")], [], True),
    (HOST, [], [ip("0.0.0.0/0")], True),
    (common_name("*.a.example"), [], [dns("x.a.example")], False),
    (common_name("10.0.0.1"), [], [ip("10.0.0.0/8")], False),
    (common_name("10.0.0.1"), [], [dns("")], True),
    (common_name("The Server"), [], [dns("")], True),
]


@pytest.mark.parametrize(("subject", "permitted", "excluded", "expected"), LOOKALIKES)
def test_common_name_of_a_server_without_a_host_is_one(
    subject: x509.Name, permitted: Names, excluded: Names, expected: bool
) -> None:
    """Old clients go by it where no alternative name is a host; for others, and beside one, it is a name as any."""
    mailbox = [mail("m@h.example")]
    assert expected == verdict(mailbox, permitted, excluded, subject, is_server=True)
    assert verdict(mailbox, permitted, excluded, subject)
    assert verdict([uri("spiffe://d.example/a")], permitted, excluded, subject)
    assert verdict([dns("z.example"), *mailbox], [dns("z.example")], [], subject, is_server=True)


def constrained(*layers: tuple[Names, Names], critical: bool = True, leaf: Names = (), inner: Names = ()) -> str:
    """root -> one CA a layer -> leaf; `inner` are SANs of the last CA."""
    root = above = forge("root", ca=True)
    cas = []
    for number, (permitted, excluded) in enumerate(layers):
        extensions = []
        if permitted or excluded:
            extensions.append((x509.NameConstraints(list(permitted) or None, list(excluded) or None), critical))
        if number == len(layers) - 1 and inner:
            extensions.append((x509.SubjectAlternativeName(inner), False))  # type: ignore[arg-type]
        above = forge(f"ca{number}", above, ca=True, extensions=extensions)  # type: ignore[arg-type]
        cas.append(above)
    end = forge("leaf", above, extensions=[(x509.SubjectAlternativeName(leaf), False)])
    try:
        verify_file(pem(end, *cas), pem(root), role=Role.CLIENT, at=AT, profile="rfc5280")
    except CertificateInvalid as error:
        return error.reason.value
    return "valid"


def test_layers_of_constraints_only_narrow() -> None:
    """A CA below cannot widen what one above permits, nor lift what it excludes."""
    foo, bar = [dns("foo.example")], [dns("bar.example")]
    both = foo + bar
    assert constrained((both, ()), (bar, ()), leaf=foo) == "name"
    assert constrained((bar, ()), (both, ()), leaf=foo) == "name"
    assert constrained((both, ()), (bar, ()), leaf=bar) == "valid"
    assert constrained(((), foo), (both, ()), leaf=foo) == "name"


def test_names_of_intermediates_are_constrained_too() -> None:
    assert constrained(([dns("a.example")], ()), ((), ()), leaf=[dns("a.example")], inner=[dns("b.example")]) == "name"
    assert (
        constrained(([dns("a.example")], ()), ((), ()), leaf=[dns("a.example")], inner=[dns("x.a.example")]) == "valid"
    )


def test_constraints_that_are_not_critical_are_refused() -> None:
    """§4.2.1.10: MUST be critical, or old clients ignore them."""
    assert constrained(([dns("a.example")], ()), leaf=[dns("a.example")], critical=False) == "profile"


def test_self_issued_intermediate_is_exempt_and_a_leaf_is_not() -> None:
    """§6.1.3 (b): key rollover may go on under constraints that the CA's own name breaks."""
    outside = [dns("other.example")]
    barrier = (x509.NameConstraints([dns("a.example")], None), True)
    root = forge("same", ca=True, extensions=[barrier])
    rolled = forge("same", root, ca=True, extensions=[(x509.SubjectAlternativeName(outside), False)])
    good = forge("leaf", rolled, extensions=[(x509.SubjectAlternativeName([dns("a.example")]), False)])
    bad = forge("same", rolled, extensions=[(x509.SubjectAlternativeName(outside), False)])
    verify_file(pem(good, rolled), pem(root), role=Role.CLIENT, at=AT, profile="rfc5280")
    with pytest.raises(CertificateInvalid):
        verify_file(pem(bad, rolled), pem(root), role=Role.CLIENT, at=AT, profile="rfc5280")


def test_leaf_with_name_constraints_is_refused() -> None:
    """The extension belongs to CAs."""
    root = forge("root", ca=True)
    for critical in (True, False):
        leaf = forge("leaf", root, extensions=[(x509.NameConstraints([dns("peer.example.com")], None), critical)])
        with pytest.raises(CertificateInvalid) as caught:
            verify_file(pem(leaf), pem(root), role=Role.CLIENT, at=AT, profile="rfc5280")
        assert caught.value.reason is PathReason.PROFILE


def test_work_with_constraints_is_bounded() -> None:
    """Names times subtrees cannot be asked for without end."""
    many = [dns(f"n{number}.example") for number in range(1025)]
    assert not verdict(many, [], [dns("x.example")])
    assert verdict(many[:-1], [], [dns("x.example")])
    with pytest.raises(CertificateInvalid):
        verdict([dns("a.example")], [], many)


def test_work_of_all_paths_together_is_bounded() -> None:
    """Comparisons are paid from one purse, however many paths ask for them."""
    names, bases = [dns(f"n{number}.example") for number in range(4)], [dns("x.example"), dns("y.example")]
    state = NameConstraintState(ComparisonBudget(left=8))
    state.constrain(x509.NameConstraints(None, bases))
    certificate = forge(x509.Name([]), extensions=[(x509.SubjectAlternativeName(names), True)]).certificate
    state.check(certificate)
    with pytest.raises(CertificateInvalid, match="compared") as caught:
        state.check(certificate)
    assert caught.value.reason is PathReason.NAME


@given(st.text(alphabet="aA bB\t", min_size=1, max_size=12).filter(str.strip))
def test_normal_names_are_equal_under_case_and_blanks(text: str) -> None:
    variant = "  ".join(text.split()).swapcase()
    assert normal_name(common_name(text)) == normal_name(common_name(variant))


def test_normal_names_differ_by_order_kind_and_value() -> None:
    country, unit = x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a")
    assert normal_name(x509.Name([country])) != normal_name(x509.Name([unit]))
    assert normal_name(x509.Name([country, unit])) != normal_name(x509.Name([unit, country]))
    one = x509.Name([x509.RelativeDistinguishedName([country, unit])])
    assert normal_name(one) != normal_name(x509.Name([country, unit]))
