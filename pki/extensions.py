"""Looking up one extension by its type."""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509

__all__ = ["find"]

T = TypeVar("T", bound=x509.ExtensionType)


def find(extensions: x509.Extensions, kind: type[T]) -> T | None:
    """The extension's value, None when it is absent."""
    for extension in extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None
