"""Request targets (RFC 9112 section 3.2): one pure function from the bytes of the request line to raw and normal.

*Raw* serves only the Digest ``uri``. *Normal* serves everything else: the test for reserved paths, routes, policy,
audit and what is forwarded, so that no two of them ever see a different path. The normal path is that of RFC 3986
section 6.2.2 without the removal of dot segments: percent-encoded unreserved characters are decoded, hex is
upper-cased; what can be read in two ways is refused, not repaired. The query is opaque to us: its bytes are checked and
pass as they came, since masters sign them, compare them and read them by rules of their own.

Characters: those of RFC 3986 ``pchar`` and ``/``, in the query also ``?``. Outside of them we take, because browsers
and curl send them as they are, ``[ ] |`` in a path, where the normal form has them percent-encoded, and
``[ ] | { } ^ ` `` in a query. Refused everywhere: backslash, ``#``, space, controls, non-ASCII,
``" < >`` and malformed percent-encodings. Refused in paths: ``%5C``, encoded controls, dot segments in any spelling
(``..;x`` too: some servers cut parameters first), and, unless a route allows them, empty segments and ``%2F``. In a
query every percent-encoding is fine.

Not checked here: the length (the head's limit), whether the authority is ours, whether the scheme fits the listener.

Trust: untrusted client, untrusted worker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple


class TargetFault(StrEnum):
    """Why a target is refused; for the audit log, the peer is only told that the target is not acceptable."""

    FORM = "form"
    AUTHORITY = "authority"
    CHARACTER = "character"
    PERCENT_ENCODING = "percent-encoding"
    ENCODED_CHARACTER = "encoded-character"
    DOT_SEGMENT = "dot-segment"
    EMPTY_SEGMENT = "empty-segment"
    ENCODED_SLASH = "encoded-slash"


class Target(NamedTuple):
    """An accepted target. A tuple: one is made for each request, and a frozen dataclass costs four times as much.

    `path` is normal, `query` as it came (None: no ``?``). `authority` is there for the absolute form only, its grammar
    checked, spelled as it came. `asterisk`: the target was ``*`` and so is `path`.
    """

    raw: bytes
    path: bytes
    query: bytes | None
    authority: bytes | None = None
    asterisk: bool = False

    @property
    def normal(self) -> bytes:
        """The origin form to forward: the normal path, and the query as it came."""
        return self.path if self.query is None else self.path + b"?" + self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTarget:
    """A refused target.

    When empty segments or encoded slashes are *all* that is wrong, `literal_prefix` is the path up to the slash before
    the first of them: bytes that every receiver reads alike, by which a route that allows them may be sought. It is
    None when no allowance could help.
    """

    fault: TargetFault
    literal_prefix: bytes | None = None


_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PLAIN_PATH: Final = _UNRESERVED + b"!$&'()*+,;=:@/"
_PLAIN_QUERY: Final = _PLAIN_PATH + b"?"
# Sent as they are by clients in the field, percent-encoded by us.
_LAX_PATH: Final = b"[]|"
_LAX_QUERY: Final = _LAX_PATH + b"{}^`"
_LAX: Final = re.compile(rb"[\[\]|]")

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY: Final = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_](?:[A-Za-z0-9._-]{0,254})))(?::([0-9]{0,5}))?"
)
# Nearly every target needs no change. This sees it in one linear scan (possessive: it never tries twice); what it does
# not match, a segment with a leading dot for one, is looked at closely.
_SEGMENT: Final = rb"[A-Za-z0-9_~!$&'()*+,;=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*+"
_PLAIN: Final = re.compile(
    rb"/(?:" + _SEGMENT + rb"(?:/" + _SEGMENT + rb")*+/?)?(?:(\?)[A-Za-z0-9._~!$&'()*+,;=:@/?-]*+)?"
).fullmatch
_NEVER_ENCODED: Final = re.compile(rb"%(?:[01][0-9A-F]|7F|5C)")
"""Controls and the backslash, in upper-cased hex."""
_SLASH_RUN: Final = re.compile(rb"//+")


def _normal_octet(match: re.Match[bytes]) -> bytes:
    octet = int(match[1], 16)
    return bytes((octet,)) if octet in _UNRESERVED else match[0].upper()


def _encoded_octet(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def parse_target(
    target: bytes, *, method: bytes, allow_empty_segments: bool = False, allow_encoded_slash: bool = False
) -> Target | BadTarget:
    """Turn the request target into raw and normal form, or say why it is refused (400). Total: never raises.

    Accepts origin-form, absolute-form with the scheme http or https (an empty path becomes ``/``) and, for OPTIONS
    only, the asterisk. Authority-form is refused: CONNECT is not served.

    The two allowances belong to a route, and the route depends on the path: only
    `gateway.http.routes.RouteTable.resolve` passes them, after it made sure that every reading of the path leads to
    that one route.
    """
    plain = _PLAIN(target)
    if plain is not None:
        if plain.lastindex is None:
            return tuple.__new__(Target, (target, target, None, None, False))
        path, _, query = target.partition(b"?")
        return tuple.__new__(Target, (target, path, query, None, False))
    if target == b"*":
        if method != b"OPTIONS":
            return BadTarget(fault=TargetFault.FORM)
        return Target(target, target, None, None, True)
    authority: bytes | None = None
    rest = target
    if target[:1] != b"/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return BadTarget(fault=TargetFault.FORM)
        authority, rest = absolute[1], absolute[2]
        if split_authority(authority) is None:
            return BadTarget(fault=TargetFault.AUTHORITY)
        if rest[:1] != b"/":
            rest = b"/" + rest
    path, mark, query = rest.partition(b"?")
    fault = _fault_in(path, _PLAIN_PATH, _LAX_PATH) or _fault_in(query, _PLAIN_QUERY, _LAX_QUERY)
    if fault is not None:
        return BadTarget(fault=fault)
    # One pass: what decoding uncovers is never decoded again (%252F stays).
    normal_path = _LAX.sub(_encoded_octet, _ENCODED.sub(_normal_octet, path))
    bad = _look_at_segments(normal_path, allow_empty_segments, allow_encoded_slash)
    return Target(target, normal_path, query if mark else None, authority) if bad is None else bad


def _fault_in(text: bytes, plain: bytes, lax: bytes) -> TargetFault | None:
    """What is wrong with the characters and percent-encodings of a path or query."""
    strange = text.translate(None, plain)
    if strange.translate(None, lax + b"%"):
        return TargetFault.CHARACTER
    if b"%" in strange and b"%" in _ENCODED.sub(b"", text):
        return TargetFault.PERCENT_ENCODING
    return None


def _look_at_segments(path: bytes, allow_empty: bool, allow_slash: bool) -> BadTarget | None:
    """Refuse what servers are known to read in more than one way.

    An encoded slash counts as a slash here even where a route allows it: ``..%2F..`` has dot segments.
    """
    if _NEVER_ENCODED.search(path):
        return BadTarget(fault=TargetFault.ENCODED_CHARACTER)
    segments = path.replace(b"%2F", b"/").split(b"/")[1:]
    for segment in segments:
        if segment[:1] == b"." and segment.replace(b"%3B", b";").partition(b";")[0] in (b".", b".."):
            return BadTarget(fault=TargetFault.DOT_SEGMENT)
    # The last segment may be empty: the root, or a trailing slash.
    has_empty = not all(segments[:-1])
    has_slash = b"%2F" in path
    if has_slash and not allow_slash:
        return BadTarget(fault=TargetFault.ENCODED_SLASH, literal_prefix=_literal_prefix(path))
    if has_empty and not allow_empty:
        return BadTarget(fault=TargetFault.EMPTY_SEGMENT, literal_prefix=_literal_prefix(path))
    return None


def _literal_prefix(path: bytes) -> bytes:
    """The path up to and with the slash that ends the last segment before the first empty one or encoded slash."""
    empty, encoded = path.find(b"//"), path.find(b"%2F")
    cut = min(at for at in (empty + 1, encoded) if at > 0)
    return path[: path.rindex(b"/", 0, cut) + 1]


def readings(path: bytes) -> tuple[bytes, ...]:
    """Every way in which a receiver may read a normal path: slashes merged or not, ``%2F`` decoded or not.

    One for a path without empty segments and encoded slashes. The last one is the path with both undone.
    """
    merged = _SLASH_RUN.sub(b"/", path)
    decoded = path.replace(b"%2F", b"/")
    both = _SLASH_RUN.sub(b"/", decoded)
    return tuple(dict.fromkeys((path, merged, decoded, both)))


def split_authority(authority: bytes) -> tuple[bytes, int | None] | None:
    """Host (lower case, an IPv6 literal without brackets) and port of an authority or ``Host`` value; None: malformed.

    An empty port is none (RFC 3986 section 3.2.3). Stricter than RFC 3986: no user information, no percent-encoding, no
    empty host, no future IP literals.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = int(match[3]) if match[3] else None
    if port is not None and not 0 < port < 65536:
        return None
    if match[1] is None:
        return match[2].lower(), port
    try:
        return IPv6Address(match[1].decode("ascii")).compressed.encode("ascii"), port
    except AddressValueError:
        return None


def is_same_authority(one: bytes, other: bytes, *, default_port: int) -> bool:
    """Whether two authorities, each in any spelling, are one: host without case and final dot, and port.

    False when one of them is malformed.
    """
    if one == other:
        return split_authority(one) is not None
    mine, theirs = split_authority(one), split_authority(other)
    if mine is None or theirs is None:
        return False
    ports = mine[1] or default_port, theirs[1] or default_port
    return mine[0].removesuffix(b".") == theirs[0].removesuffix(b".") and ports[0] == ports[1]
