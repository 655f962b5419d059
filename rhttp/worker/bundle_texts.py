"""The texts of a bundle: what curl reads, and what our own programs read. Pure.

`curl.conf` names its files by absolute paths, because curl reads relative ones from where it is started, which is not
where the bundle lies; a bundle that is moved needs the paths there changed. `rhttp.toml` holds no paths: those who read
it look beside it.

Trust: the password goes into ``password`` and ``curl.conf``, both 0600, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rhttp.toml_text import toml_text
from rhttp.worker.versions import CERT, KEY, LEAF, TRUST

CURL: Final = "curl.conf"

_CURL_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\t": "\\t", "\n": "\\n", "\r": "\\r", "\v": "\\v"}
_CERT_ESCAPED: Final = re.compile(r"\\{2,}|\\(?=:)")


def build_certificate_files(path: Sequence[x509.Certificate], trust: bytes) -> dict[str, bytes]:
    """What changes with each certificate, without the key: its path, the leaf alone, what to trust.

    Some programs take no chain, or stumble over name constraints in a CA that they need not look at: they get the leaf.
    """
    pem = [certificate.public_bytes(Encoding.PEM) for certificate in path]
    return {CERT: b"".join(pem), LEAF: pem[0], TRUST: trust}


def build_curl_conf(place: Path, *, user: str | None, password: str | None, has_key: bool) -> bytes:
    """A file for ``curl -K``: trust only our root, present the certificate, answer the Digest challenge.

    `place` is the bundle's absolute path, whatever letters are in it. Without a password curl asks for it; without a
    key (the request was made elsewhere) its line is left to fill in.
    """
    lines = [
        "# Use: curl -K THIS-FILE https://...   The paths are absolute: change them when you move the bundle.",
        f"cacert = {_quote(str(place / TRUST))}",
        # Some builds of curl trust the system's folder of CAs beside cacert, unless they are given another folder.
        f"capath = {_quote(_folder_without_authorities(place))}",
        f"cert = {_quote(_certificate_name(str(place / CERT)))}",
    ]
    if has_key:
        lines.append(f"key = {_quote(str(place / KEY))}")
    else:
        lines.append('# key = "/path/to/the/key/of/your/request.pem"')
    if user is not None:
        lines += [f"user = {_quote(user if password is None else f'{user}:{password}')}", "digest"]
    # Paths are bytes: what is not UTF-8 goes through as it came.
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")


def _folder_without_authorities(place: Path) -> str:
    """The bundle's own folder. OpenSSL takes a colon for the end of a folder's name, and what follows is anybody's."""
    return "/" if ":" in str(place) else str(place)


def _certificate_name(path: str) -> str:
    """``cert`` alone is parted at a colon (before the key's passphrase); there a backslash escapes a colon and itself,
    and is one everywhere else."""
    return _CERT_ESCAPED.sub(lambda match: match.group() * 2, path).replace(":", "\\:")


def _quote(text: str) -> str:
    """A quoted parameter of curl's configuration."""
    return '"' + "".join(_CURL_ESCAPES.get(letter, letter) for letter in text) + '"'


def build_settings(*, gateway: str, pool: str | None, name: str, role: str, has_user: bool) -> bytes:
    """`rhttp.toml`: the gateway's URL and who the bundle is for. Its files lie beside it under their fixed names."""
    values = {"gateway": gateway, "pool": pool, "name": name, "role": role}
    if has_user:
        values["user"] = name
    lines = [f"{key} = {toml_text(value)}" for key, value in values.items() if value is not None]
    return ("\n".join(lines) + "\n").encode()
