"""Reading a bundle: a directory with everything that its owner needs to be let in (I/O).

``rhttp.toml`` says where the gateway is and who we are; ``cert.pem``, ``key.pem``, ``trust.pem`` and ``password`` lie
beside it. Who may read the key and the password is `rhttp.worker.secret_file`'s rule. A renewal changes certificate,
key and trust at one moment (`rhttp.worker.versions`); a reading that met it is done again, so no bundle is a mixture.

Trust: the files are the operator's. Their secrets never reach an error, a log line or a repr.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from rhttp.errors import RhttpError
from rhttp.http1.target import split_authority
from rhttp.worker.secret_file import exposure
from rhttp.worker.text_file import NotText, decode_text, first_line
from rhttp.worker.versions import CERT, KEY, TRUST

SETTINGS: Final = "rhttp.toml"
PASSWORD: Final = "password"  # noqa: S105 - a file's name
FILES: Final = (SETTINGS, CERT, KEY, TRUST, PASSWORD)

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAX_BYTES: Final = 1048576
_CUSHION: Final = 300.0
"""Seconds: how long before they are issued certificates of ours begin."""
_ROLES: Final = ("worker", "client", "master")
_READINGS: Final = 3
"""More renewals than one while a few files are read are no renewals."""


class BundleInvalid(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """A bundle cannot be used; its text names the file and the mend."""

    def __init__(self, message: str) -> None:
        super().__init__("bundle", message)
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAddress:
    """Where the gateway listens."""

    host: str
    """A name or an address literal, without brackets."""
    port: int
    authority: bytes
    """For ``Host``: with brackets and port where they belong."""

    def __str__(self) -> str:
        return f"https://{self.authority.decode('ascii')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle's content, read at one moment."""

    place: Path
    gateway: GatewayAddress
    role: str
    """``worker``, ``client`` or ``master``."""
    pool: str
    """A worker's; others have none, and it is empty."""
    name: str
    user: str | None
    """The Digest user; None: this identity has no password."""
    password: str | None = field(repr=False)
    chain: bytes = field(repr=False)
    """PEM: our certificate and its issuing CA."""
    key: bytes = field(repr=False)
    """PEM."""
    trust: tuple[bytes, ...] = field(repr=False)
    """PEM of each trust anchor."""
    not_before: float
    """Epoch seconds."""
    expires: float
    """Epoch seconds."""
    serial: str
    """Lower-case hex, an even number of digits, as `rhttp-pki list` has it."""
    stamp: Stamp = field(repr=False)
    """What `bundle_stamp` said before the files were read."""
    renew: bool = True
    """Whether an agent that serves with it renews it."""

    @property
    def lifetime(self) -> float:
        """Seconds for which the certificate was issued; not those that CAs put before it for clocks that are slow."""
        whole = self.expires - self.not_before
        return max(whole - _CUSHION, whole / 6)


Stamp = tuple[tuple[int, int, int] | None, ...]


def bundle_stamp(place: Path) -> Stamp:
    """A value that changes when one of the bundle's files does; an absent file counts as None. Never raises."""
    found: list[tuple[int, int, int] | None] = []
    for name in FILES:
        try:
            status = (place / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def load_bundle(place: Path | str, *, gateway: str | None = None, pool: str | None = None) -> Bundle:
    """Read and check a worker's bundle; ``gateway`` and ``pool`` take the place of what ``rhttp.toml`` says.

    >>> load_bundle("bundles/w1").pool                                  # doctest: +SKIP
    'render'

    Raises:
        BundleInvalid: something is missing, malformed, readable by others, or does not fit together.

    Not checked: whether the certificate is in its time (the gateway decides that, by its clock), revoked, or for this
    gateway at all.
    """
    return _read_at_one_moment(Path(place), gateway, pool, ("worker",))


def read_bundle(place: Path, *, gateway: str | None = None) -> Bundle:
    """Read and check a bundle of any role; else as `load_bundle`."""
    return _read_at_one_moment(place, gateway, None, _ROLES)


def _read_at_one_moment(place: Path, gateway: str | None, pool: str | None, roles: tuple[str, ...]) -> Bundle:
    if not place.is_dir():
        _bad(f"{place} is no directory; name the directory that `rhttp-pki issue-worker` made")
    for _ in range(_READINGS):
        stamp = bundle_stamp(place)
        found: Bundle | BundleInvalid
        try:
            found = _load(place, stamp, gateway, pool, roles)
        except BundleInvalid as error:
            found = error
        if bundle_stamp(place) != stamp:
            continue
        if isinstance(found, BundleInvalid):
            raise found
        return found
    raise BundleInvalid(f"{place} changes all the time; look at who writes there")


def _load(place: Path, stamp: Stamp, gateway: str | None, pool: str | None, roles: tuple[str, ...]) -> Bundle:
    settings = _settings(place)
    role = settings.get("role", "worker")
    if role not in _ROLES:
        _bad(f"`role` in {place / SETTINGS} is none of {', '.join(_ROLES)}; issue the bundle again, or correct it")
    if role not in roles:
        _bad(f"{place / SETTINGS} is the bundle of a {role}; make a worker's: rhttp-pki issue-worker NAME --pool P")
    name = _named(place, settings, "name")
    chosen_pool = pool if pool is not None else settings.get("pool")
    if role != "worker":
        chosen_pool = ""
    elif not isinstance(chosen_pool, str) or _NAME.fullmatch(chosen_pool) is None:
        where = "--pool" if pool is not None else f"`pool` in {place / SETTINGS}"
        _bad(f"{where} is no pool's name; use lower-case letters, digits and inner hyphens, at most 63")
    renew = settings.get("renew", True)
    if not isinstance(renew, bool):
        _bad(f"`renew` in {place / SETTINGS} is neither true nor false; write one of the two, or remove the line")
    url = gateway if gateway is not None else settings.get("gateway")
    if not isinstance(url, str):
        _bad(f'{place / SETTINGS} names no gateway; add gateway = "https://HOST:PORT" or give --gateway')
    user = settings.get("user")
    if user is not None and (not isinstance(user, str) or not user):
        _bad(f"`user` in {place / SETTINGS} is no user name; write the name that the gateway knows, or remove the line")
    password = _password(place / PASSWORD) if user is not None else None
    chain, key = _read(place / CERT), _read(place / KEY, is_secret=True)
    certificate = _check_pair(place, chain, key)
    return Bundle(
        place=place,
        gateway=parse_gateway(url, "--gateway" if gateway is not None else f"`gateway` in {place / SETTINGS}"),
        role=str(role),
        pool=str(chosen_pool),
        name=name,
        user=user,
        password=password,
        chain=chain,
        key=key,
        trust=_anchors(place / TRUST),
        not_before=certificate.not_valid_before_utc.timestamp(),
        expires=certificate.not_valid_after_utc.timestamp(),
        serial=certificate.serial_number.to_bytes((certificate.serial_number.bit_length() + 7) // 8).hex(),
        stamp=stamp,
        renew=renew,
    )


def parse_gateway(url: str, where: str = "the gateway's URL") -> GatewayAddress:
    """Take an ``https://HOST[:PORT]`` apart.

    Raises:
        BundleInvalid: it is something else; ``where`` says where it stood.
    """
    mend = f"{where} is not of the form https://HOST[:PORT]"
    try:
        parts = urlsplit(url)
        authority = split_authority(parts.netloc.encode("ascii"))
    except ValueError:
        _bad(mend)
    if parts.scheme != "https" or authority is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        _bad(mend)
    host = authority[0].decode("ascii")
    port = authority[1] if authority[1] is not None else 443
    bracketed = f"[{host}]" if ":" in host else host
    return GatewayAddress(
        host=host, port=port, authority=(bracketed if port == 443 else f"{bracketed}:{port}").encode("ascii")
    )


def _bad(message: str) -> NoReturn:
    raise BundleInvalid(message)


def _read(path: Path, *, is_secret: bool = False) -> bytes:
    try:
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            exposed = exposure(path, file.fileno()) if is_secret else None
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        if path.is_symlink():
            _bad(f"{path} leads nowhere; copy the bundle whole: cp -r, scp -r, rsync -a or tar, of the folder itself")
        match path.name:
            case "key.pem":
                _bad(f"{path} is missing; with --csr the key stays with you: put it there, or issue the bundle again")
            case "password":
                again = f"rhttp-pki user passwd NAME --generate --out {path}"
                _bad(f"{path} is missing; copy it from an earlier bundle of this name, or make a new one: {again}")
            case _:
                _bad(f"{path} is missing; issue the bundle again, or complete it")
    except OSError as error:
        _bad(f"cannot read {path}: {error.strerror}; mend its owner or permissions")
    if exposed is not None:
        _bad(exposed)
    if len(data) > _MAX_BYTES:
        _bad(f"{path} is larger than 1 MiB; it is no file of a bundle")
    return data


def _settings(place: Path) -> dict[str, object]:
    path = place / SETTINGS
    try:
        return dict(tomllib.loads(decode_text(_read(path))))
    except NotText as error:
        _bad(f"{path} {error}")
    except tomllib.TOMLDecodeError as error:
        _bad(f"{path} is no TOML ({error}); correct it, or issue the bundle again")


def _named(place: Path, settings: dict[str, object], key: str) -> str:
    value = settings.get(key)
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        _bad(f"`{key}` in {place / SETTINGS} is no name; issue the bundle again, or correct it")
    return value


def _password(path: Path) -> str:
    try:
        line = decode_text(first_line(_read(path, is_secret=True)))
    except NotText as error:
        _bad(f"{path} {error}")
    if not line:
        _bad(f"{path} starts with an empty line; put the password there (`rhttp-pki user passwd` makes a new one)")
    return line


def _check_pair(place: Path, chain: bytes, key: bytes) -> x509.Certificate:
    """The leaf, after a look at whether the key is its own."""
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        _bad(f"{place / CERT} holds no PEM certificate; issue the bundle again")
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        _bad(f"{place / KEY} is sealed with a passphrase; a bundle's key is plain and protected by its mode 0600")
    except ValueError:
        _bad(f"{place / KEY} holds no PEM private key; issue the bundle again")
    ours = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    theirs = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if ours != theirs:
        _bad(f"{place / KEY} is not the key of {place / CERT}; put the two that belong together there, or renew")
    return certificate


def _anchors(path: Path) -> tuple[bytes, ...]:
    data = _read(path)
    try:
        return tuple(found.public_bytes(Encoding.PEM) for found in x509.load_pem_x509_certificates(data))
    except ValueError:
        _bad(f"{path} holds no PEM certificate; put the gateway's root there (`root.pem` of its home)")
