"""Which user names and passwords are taken, and in which form. Pure."""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64encode
from typing import Final

from auth.errors import PasswordRefused, UserNameInvalid

PASSWORD_BYTES: Final = 1024  # UTF-8, after normalisation
GENERATED_ENTROPY: Final = 24  # bytes: 32 characters, 192 bits

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Control characters, surrogates (no UTF-8), line and paragraph separators: nobody types them, and files, prompts and
# configurations of clients cut a password at them.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# A byte order mark that strayed in. RFC 8265 §4.2 does not take it either.
_MARK: Final = "\ufeff"


def parse_user_name(text: str) -> str:
    """``text`` when it is a NAME: a user name must equal the NAME of a certificate to be of any use.

    Raises:
        UserNameInvalid: it is none.
    """
    if _NAME.fullmatch(text) is None:
        raise UserNameInvalid(
            f"{text[:80]!r} is no user name; use the NAME of a certificate: a-z, 0-9 and inner hyphens, at most 63"
        )
    return text


def normalise_password(text: str) -> str:
    """The password in NFC (RFC 7616 §4), which is what is hashed. Spaces stay, at the ends as well.

    Clients must send the same: curl, python-requests and httpx hash the UTF-8 of what they were given, so for anything
    but ASCII they need it in NFC, as keyboards make it.

    Raises:
        PasswordRefused: empty, over 1024 bytes of UTF-8, or with control characters, surrogates, line separators,
            or U+FEFF.
    """
    password = unicodedata.normalize("NFC", text)
    if not password:
        raise PasswordRefused("the password is empty; give one, or let one be made with --generate")
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in password) or _MARK in password:
        raise PasswordRefused("the password has control characters, line separators or U+FEFF; leave them out")
    if len(password.encode()) > PASSWORD_BYTES:
        raise PasswordRefused(f"the password is over {PASSWORD_BYTES} bytes; use a shorter one")
    return password


def build_password(entropy: bytes) -> str:
    """A password of 32 URL-safe characters out of exactly 24 unpredictable bytes.

    Raises:
        ValueError: another number of bytes.
    """
    if len(entropy) != GENERATED_ENTROPY:
        raise ValueError(f"a generated password takes {GENERATED_ENTROPY} bytes")
    return urlsafe_b64encode(entropy).decode()
