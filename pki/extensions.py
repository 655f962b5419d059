"""Looking up one extension by its type, and what reading a stranger's certificate may raise."""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

__all__ = ["UNREADABLE", "find"]

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises on fields that are malformed, or that it does not know; it parses most of them late."""

T = TypeVar("T", bound=x509.ExtensionType)


def find(extensions: x509.Extensions, kind: type[T]) -> T | None:
    """The extension's value, None when it is absent."""
    for extension in extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None
