"""Where a worker forwards requests to: ``http://HOST:PORT[/PREFIX]`` or ``unix:/PATH``.

Trust: pure. The URL is the operator's; request targets are the gateway's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from rhttp.http1.limits import UNIX_PATH_MAX
from rhttp.http1.target import split_authority

_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTarget:
    """A local server."""

    host: str
    port: int
    unix: str | None
    """A socket's path; then host and port mean nothing."""
    authority: bytes
    """For ``Host``."""
    prefix: bytes
    """Put before every path; empty or ``/…`` without a slash at its end."""

    def __str__(self) -> str:
        if self.unix is not None:
            return f"unix:{self.unix}"
        return f"http://{self.authority.decode('ascii')}{self.prefix.decode('ascii')}"

    @classmethod
    def parse(cls, url: str) -> ForwardTarget:
        """Take a URL apart.

        >>> str(ForwardTarget.parse("http://127.0.0.1:8000/api/"))
        'http://127.0.0.1:8000/api'

        Raises:
            ValueError: it has neither form; the text says which there are. https is not spoken: the server is local.
        """
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if not path.startswith("/") or "\0" in path or len(path.encode()) > UNIX_PATH_MAX:
                raise ValueError(f"{url!r}: a unix socket is given as unix:/PATH, at most {UNIX_PATH_MAX} bytes")
            return cls(host="", port=0, unix=path, authority=b"localhost", prefix=b"")
        parts = urlsplit(url)
        try:
            authority = split_authority(parts.netloc.encode("ascii"))
        except UnicodeEncodeError:
            authority = None
        if (
            parts.scheme != "http"
            or authority is None
            or parts.query
            or parts.fragment
            or _PREFIX.fullmatch(parts.path) is None
        ):
            raise ValueError(f"{url!r}: requests are forwarded to http://HOST[:PORT][/PREFIX] or unix:/PATH")
        return cls(
            host=authority[0].decode("ascii"),
            port=authority[1] or 80,
            unix=None,
            authority=parts.netloc.encode("ascii"),
            prefix=parts.path.rstrip("/").encode("ascii"),
        )

    def request_target(self, target: bytes) -> bytes | None:
        """The target of the request line towards the server; None for one that is no path.

        The gateway has refused dot segments; they are looked for again, since they could leave the prefix.
        """
        if target == b"*":
            return target
        if target[:1] != b"/":
            return None
        if self.prefix:
            path = target.partition(b"?")[0].lower().replace(b"%2e", b".").replace(b"%2f", b"/").replace(b"\\", b"/")
            if any(segment.partition(b";")[0] in (b".", b"..") for segment in path.split(b"/")):
                return None
            return self.prefix + target
        return target
