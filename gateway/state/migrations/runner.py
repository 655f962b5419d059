"""Runs the history on a connection that is in a transaction already: an upgrade happens wholly or not at all."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

__all__ = ["known_revisions", "make_config", "run_upgrade"]


def make_config(connection: Connection | None = None) -> Config:
    """Alembic's settings for the history in this package; no ini file, no logging set-up."""
    config = Config()
    # "%" starts an interpolation in Alembic's options.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def known_revisions() -> frozenset[str]:
    """Every revision of the history: what this version can upgrade from, and the newest."""
    script = ScriptDirectory.from_config(make_config())
    return frozenset(revision.revision for revision in script.walk_revisions())


def run_upgrade(connection: Connection, revision: str) -> None:
    """Upgrade to `revision` inside the transaction that `connection` is in; the caller commits."""
    command.upgrade(make_config(connection), revision)
