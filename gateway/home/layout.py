"""The home directory: where everything of one gateway lies, and whether it may be used.

Trust: trusts the owner of the directory and nobody else; a home that others may enter is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.address import public_url_problem
from gateway.config.defaults import DEFAULT_LISTEN, DEFAULT_STATE_URL
from gateway.home.locks import write_note
from pki.errors import InputUnreadable, KeyUnavailable
from pki.keys import is_sealed, unseal
from pki.names import Role
from pki.template import Pointers
from rhttp.digest.formula import Algorithm
from rhttp.worker.secret_file import exposure
from rhttp.worker.text_file import NotText, decode_text

__all__ = ["Basics", "Home", "HomeInvalid"]

_MAX_CONFIG = 4 << 20
_MAX_KEY = 1 << 20


class HomeInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The home cannot be used; the message says what, why and the mend. It never holds the content of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basics:
    """The few settings of ``gateway.toml`` that commands need; the rest of the file is not looked at, nor checked."""

    trust_domain: str
    realm: str
    listen: str = DEFAULT_LISTEN
    state_url: str = DEFAULT_STATE_URL
    algorithms: tuple[str, ...] = (Algorithm.SHA_256.value,)
    pools: frozenset[str] = frozenset()
    pki_url: str | None = None
    ocsp: bool = False
    enroll_listen: str | None = None

    def pointers(self, role: Role) -> Pointers | None:
        """Where others ask whether a certificate of this role was revoked; None: it is not said."""
        if self.pki_url is None:
            return None
        ocsp = f"{self.pki_url}/-/pki/ocsp" if self.ocsp else None
        return Pointers(crl=f"{self.pki_url}/-/pki/{role.value}.crl", ocsp=ocsp)

    def __repr__(self) -> str:
        # A database URL may hold a password.
        return f"Basics(trust_domain={self.trust_domain!r}, realm={self.realm!r}, listen={self.listen!r})"


class Home:
    """Paths of a home directory. Making one touches nothing; `require` looks whether it may be used.

    The path is made absolute but symbolic links in it are kept: they are how people shorten unix socket paths.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.config = self.path / "gateway.toml"
        self.policy = self.path / "policy.cedar"
        self.bundles = self.path / "bundles"
        self.audit = self.path / "audit"
        self.run = self.path / "run"
        self.lock = self.run / "gateway.lock"
        self.issuing_lock = self.run / "issuing.lock"
        self.admin_socket = self.run / "admin.sock"
        self.keys = self.path / "keys"
        self.root_key = self.keys / "root.key"
        self.server_key = self.keys / "server.key"
        self.state_key = self.keys / "state.key"
        self.checkpoint_key = self.keys / "checkpoint.key"
        self.state_note = self.keys / "state.json"
        """Where the state is, as it was last used; under ``keys``, since a database's URL may hold a password."""
        self.certs = self.path / "certs"
        self.root_cert = self.certs / "root.pem"
        self.server_cert = self.certs / "server.pem"
        self.checkpoint_pub = self.certs / "checkpoint.pub"

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @classmethod
    def open(cls, path: Path) -> Home:
        """The home at `path`, looked at: see `require`."""
        home = cls(path)
        home.require()
        return home

    def require(self, *, with_config: bool = True) -> None:
        """Raise `HomeInvalid` unless this is a home that only we may enter.

        Looked at: it exists, is a directory of ours without permissions for anyone else, as is ``keys``, and holds
        ``gateway.toml``. Not looked at: whether what is in the files is any good.
        """
        try:
            self._require_private(self.path)
            if with_config and not self.config.is_file():
                if self.root_cert.exists():
                    raise HomeInvalid(f"{self.config} is missing, the rest of the home is there; restore that file")
                raise HomeInvalid(f"{self.path} is not a home (no gateway.toml in it); make one with `rhttp-pki init`")
            self._require_private(self.keys)
        except OSError as error:
            raise HomeInvalid(f"cannot look into the home {self.path}: {error.strerror}") from error

    def _require_private(self, path: Path) -> None:
        try:
            seen = path.stat()
        except FileNotFoundError:
            if path != self.path:
                raise HomeInvalid(f"{path} is missing; restore it from a backup") from None
            what = "is a symbolic link to nothing" if path.is_symlink() else "does not exist"
            raise HomeInvalid(
                f"the home {path} {what}; make it with `rhttp-pki init`, or name another with --home"
            ) from None
        except OSError as error:
            raise HomeInvalid(f"cannot look at {path}: {error.strerror}") from error
        if not stat.S_ISDIR(seen.st_mode):
            raise HomeInvalid(f"{path} is not a directory; name the home with --home")
        if seen.st_uid != os.geteuid():
            # Not even root: files that root makes in another's home would lock its owner out.
            raise HomeInvalid(
                f"{path} belongs to user {seen.st_uid}, not to you ({os.geteuid()}); run this as its owner"
            )
        if seen.st_mode & 0o077:
            raise HomeInvalid(f"{path} is open to others (mode {seen.st_mode & 0o777:04o}); run: chmod 700 {path}")

    def ca_key(self, role: Role) -> Path:
        return self.keys / f"{role.value}-ca.key"

    def ca_cert(self, role: Role) -> Path:
        return self.certs / f"{role.value}-ca.pem"

    def read_secret(self, path: Path, passphrase: bytes | None) -> bytes:
        """The content of a file under ``keys``, unsealed when it is sealed.

        Raises:
            HomeInvalid: it cannot be read, is open to others (`rhttp.worker.secret_file`), or needs a passphrase that
            is
                missing or wrong.
        """
        try:
            with path.open("rb") as file:
                exposed = exposure(path, file.fileno())
                data = file.read(_MAX_KEY + 1)
        except FileNotFoundError:
            raise HomeInvalid(f"{path} is missing; restore it from a backup") from None
        except OSError as error:
            raise HomeInvalid(f"cannot read {path}: {error.strerror}") from error
        if exposed is not None:
            raise HomeInvalid(exposed)
        if not data or len(data) > _MAX_KEY:
            raise HomeInvalid(f"{path} holds no key; restore it from a backup")
        if not is_sealed(data):
            return data
        if passphrase is None:
            raise HomeInvalid(f"{path} is sealed; give the passphrase with --passphrase-file")
        try:
            return unseal(data, passphrase)
        except KeyUnavailable:
            raise HomeInvalid(
                f"the passphrase does not open {path}; name the right file with --passphrase-file"
            ) from None
        except InputUnreadable as error:
            raise HomeInvalid(f"{path}: {error}; restore it from a backup") from None

    def is_sealed(self) -> bool:
        """Whether the keys of this home are sealed under a passphrase (told by the state key)."""
        try:
            with self.state_key.open("rb") as file:
                return is_sealed(file.read(64))
        except OSError as error:
            raise HomeInvalid(f"cannot read {self.state_key}: {error.strerror}") from error

    def fixed_settings(self) -> dict[str, str]:
        """What `init` fixed for good, by key of ``gateway.toml``: certificates and passwords are worth nothing without.

        Empty for a home whose record of it is gone; `HomeInvalid` when it cannot be read.
        """
        place = self.certs / "home.json"
        try:
            found = json.loads(place.read_bytes()[:_MAX_CONFIG])
            return {"trust_domain": str(found["trust_domain"]), "digest.realm": str(found["realm"])}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HomeInvalid(f"cannot read {place} ({type(error).__name__}); restore it from a backup") from error

    def changed_settings(self, values: Mapping[str, object]) -> list[tuple[str, str]]:
        """Key and message for each setting that `init` fixed and that is another one now."""
        return [
            (key, f"this home was made for {fixed!r}, and its certificates and passwords with it; put that back")
            for key, fixed in self.fixed_settings().items()
            if values.get(key) != fixed
        ]

    def basics(self) -> Basics:
        """The settings that commands need, read from ``gateway.toml``; `HomeInvalid` when it cannot be read."""
        try:
            with self.config.open("rb") as file:
                table = tomllib.loads(decode_text(file.read(_MAX_CONFIG)))
        except OSError as error:
            raise HomeInvalid(f"cannot read {self.config}: {error.strerror}") from error
        except NotText as error:
            raise HomeInvalid(f"{self.config} {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise HomeInvalid(f"{self.config} is not TOML: {error}; mend it and try again") from None
        digest, state = table.get("digest"), table.get("state")
        values = {
            "trust_domain": table.get("trust_domain"),
            "digest.realm": digest.get("realm") if isinstance(digest, dict) else None,
            "listen": table.get("listen", DEFAULT_LISTEN),
            "state.url": state.get("url", DEFAULT_STATE_URL) if isinstance(state, dict) else DEFAULT_STATE_URL,
        }
        for key, value in values.items():
            if not isinstance(value, str) or not value:
                raise HomeInvalid(f"{self.config}: `{key}` must be text; put back what `rhttp-pki init` wrote there")
        for key, message in self.changed_settings(values):
            raise HomeInvalid(f"{self.config}: `{key}`: {message}")
        names = digest.get("algorithms", [Algorithm.SHA_256]) if isinstance(digest, dict) else []
        if not isinstance(names, list) or not names or not set(map(str, names)) <= set(Algorithm):
            raise HomeInvalid(f"{self.config}: `digest.algorithms` must list some of {', '.join(Algorithm)}; mend it")
        pools, pki, enroll = table.get("pools"), table.get("pki"), table.get("enroll")
        url = pki.get("url") if isinstance(pki, dict) else None
        if url is not None and (problem := public_url_problem(str(url))) is not None:
            raise HomeInvalid(f"{self.config}: `pki.url` {problem}")
        enroll_listen = enroll.get("listen") if isinstance(enroll, dict) else None
        return Basics(
            algorithms=tuple(map(str, names)),
            pools=frozenset(pools) if isinstance(pools, dict) else frozenset(),
            pki_url=None if url is None else str(url),
            ocsp=isinstance(pki, dict) and pki.get("ocsp") is True,
            trust_domain=str(values["trust_domain"]),
            realm=str(values["digest.realm"]),
            listen=str(values["listen"]),
            state_url=str(values["state.url"]),
            enroll_listen=enroll_listen if isinstance(enroll_listen, str) else None,
        )

    def remember(self, state_url: str) -> None:
        """Note where the state is, for `last_basics`. A home that cannot be written keeps its old note."""
        with contextlib.suppress(OSError):
            if self._noted() != state_url:
                write_note(self.state_note, {"url": state_url})

    def last_basics(self) -> Basics:
        """The settings as the home was last used with, whatever ``gateway.toml`` says now; `HomeInvalid`: none known.

        For those who lock somebody out, which must not hang on a file that is being edited. Listener and algorithms are
        the default ones: such a command needs neither.
        """
        fixed, url = self.fixed_settings(), self._noted()
        if not fixed or url is None:
            raise HomeInvalid(f"nothing is known of where the state of {self.path} is; mend gateway.toml and try again")
        return Basics(trust_domain=fixed["trust_domain"], realm=fixed["digest.realm"], state_url=url)

    def _noted(self) -> str | None:
        try:
            found = json.loads(self.state_note.read_bytes()[:_MAX_CONFIG])
            return str(found["url"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
