"""``db``: the state database."""

from __future__ import annotations

import click

from gateway.cli.common import Settings, common_options


@click.group()
def db() -> None:
    """Look after the state database."""


@db.command()
@common_options
def upgrade(settings: Settings) -> None:
    """Bring the database to the schema of this version, wholly or not at all. Back up first: there is no way down."""
    from gateway.home import Home
    from gateway.state import open_state, upgrade_schema

    home = Home.open(settings.home)
    engine = open_state(home, home.basics().state_url)
    try:
        before, after = upgrade_schema(engine)
    finally:
        engine.dispose()
    click.echo(f"schema {after}, nothing to do" if before == after else f"schema {before or 'none'} -> {after}")
