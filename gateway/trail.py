"""The supervisor's hand in the audit log: its own acts in the ``cli`` stream, and the signature under all streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.auditfiles import list_segments, locked, make_directory
from gateway.auditlog import append_cli
from gateway.auditstream import head_on_disk
from gateway.checkpoints import LOG, CheckpointLog, Head
from gateway.configvalues import AuditConfig
from gateway.retention import retire_files

RETIRE_EVERY: Final = 60
"""Checkpoints between two looks at files that are older than what is kept."""
_CLI: Final = "cli"


class HeadMalformed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A data process named a head that is none: a bug."""


class HomeTrail:
    """`gateway.supervisor.Trail` for a home. One thread at a time."""

    def __init__(self, home: Path, config: AuditConfig, key: Ed25519PrivateKey) -> None:
        self._home = home
        self._directory = home / "audit"
        self._config = config
        self._key = key
        self._log = CheckpointLog(self._directory, config)
        self._cli_size = -1
        self._signatures = 0

    def configure(self, config: AuditConfig) -> None:
        """Keep the log by these settings from now on."""
        self._config = config

    def record(self, event: str, outcome: str, detail: Mapping[str, object]) -> None:
        """Append to the ``cli`` stream; the next checkpoint signs it. Raises as `append_cli` does."""
        fields: dict[str, object] = {"detail": detail} if detail else {}
        append_cli(self._home, event, config=self._config, key=None, sign=False, outcome=outcome, **fields)

    def checkpoint(self, heads: Sequence[Mapping[str, object]]) -> None:
        """Sign these heads and that of ``cli``, whose lines the commands of a sealed home leave unsigned.

        Raises:
            HeadMalformed, AuditUnavailable, CheckpointRefused, OSError: nothing was signed.
        """
        named = dict(_head(value) for value in heads)
        cli = self._cli_head()
        if cli is not None:
            named[_CLI] = cli
        if named:
            self._log.append(named, self._key)
        self._signatures += 1
        if self._signatures % RETIRE_EVERY == 1:
            retire_files(self._directory, self._config, self._log, self._key)

    def settle(self) -> None:
        """Sign what is on disk of every stream: before the data processes start, and after the last one ended.

        Raises:
            AuditUnavailable, CheckpointRefused, OSError: nothing was signed.
        """
        make_directory(self._directory)
        named: dict[str, Head] = {}
        for stream in list_segments(self._directory).keys() - {LOG, _CLI}:
            head = head_on_disk(self._directory, stream)
            if head is not None:
                named[stream] = head
        cli = self._cli_head()
        if cli is not None:
            named[_CLI] = cli
        if named:
            self._log.append(named, self._key)

    def _cli_head(self) -> Head | None:
        """The end of ``cli`` when it has grown since the last look, found under its lock."""
        segments = list_segments(self._directory).get(_CLI)
        if not segments:
            return None
        size = segments[-1].path.stat().st_size + (segments[-1].index << 40)
        if size == self._cli_size:
            return None
        with locked(self._directory / "cli.lock"):
            head = head_on_disk(self._directory, _CLI)
        self._cli_size = size
        return head


def _head(value: Mapping[str, object]) -> tuple[str, Head]:
    match value:
        case {"stream": str(stream), "seq": int(seq), "hash": str(digest), "file": str(file)}:
            return stream, Head(seq=seq, hash=digest, file=file)
        case _:
            raise HeadMalformed("a data process named an audit head that is none")
