"""What a home knows for a bundle that `rhttp.worker.bundle_texts` does not: the URL of its gateway."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.config.address import public_url

__all__ = ["gateway_url"]


def gateway_url(listen: str, server_names: Sequence[str] = ()) -> str:
    """The URL under which the listener is reached; a wildcard address becomes the first of the names, or localhost."""
    host, _, port = listen.rpartition(":")
    return public_url(host, port, server_names)
