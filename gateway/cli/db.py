"""``db``: the state database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli.common import Settings, common_options

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gateway.home.layout import Home


@click.group()
def db() -> None:
    """Look after the state database."""


@db.command()
@common_options
def upgrade(settings: Settings) -> None:
    """Bring the database to the schema of this version, wholly or not at all. Back up first: there is no way down.

    An empty database (a new PostgreSQL, say) gets the schema and the home's CAs; users and certificates are not copied
    from an earlier one.
    """
    from gateway.home.layout import Home
    from gateway.state.database import open_state, upgrade_schema

    home = Home.open(settings.home)
    engine = open_state(home, home.basics().state_url)
    try:
        before, after = upgrade_schema(engine)
        _enter_authorities(home, engine)
    finally:
        engine.dispose()
    click.echo(f"schema {after}, nothing to do" if before == after else f"schema {before or 'none'} -> {after}")


def _enter_authorities(home: Home, engine: Engine) -> None:
    from gateway.state.database import bump
    from pki.inventory import Inventory, fingerprint_of
    from pki.names import Role
    from pki.pem import read_certificates

    inventory = Inventory(engine, on_write=bump)
    known = {record.fingerprint for record in inventory.authorities()}
    places = {home.root_cert: None, **{home.ca_cert(role): role for role in Role}}
    for place, role in places.items():
        for certificate in read_certificates(place.read_bytes(), what=place.name):
            if fingerprint_of(certificate) not in known:
                inventory.add_authority(certificate, role=role)
