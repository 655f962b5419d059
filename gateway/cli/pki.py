"""``init``, ``issue-*``: commands that make certificates.

Libraries are imported inside the commands: a command that is refused by its options must not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.common import Settings, common_options, fail, open_session, tell_gateway
from gateway.cli.issued import read_request, say_issued
from gateway.cli.options import (
    CA_KEY_TYPE,
    KEY_TYPE,
    LABEL,
    LIFETIME,
    NAME,
    SAN,
    TRUST_DOMAIN,
    absolute,
    ca_key_table,
    label_map,
)

if TYPE_CHECKING:
    pass

_DEFAULT_TRUST_DOMAIN = "rhttp.internal"


@click.command()
@common_options
@click.option("--trust-domain", type=TRUST_DOMAIN, default=_DEFAULT_TRUST_DOMAIN, show_default=True)
@click.option("--san", "sans", type=SAN, multiple=True, help="A further name of the gateway: DNS:name or IP:address.")
@click.option("--key-type", type=KEY_TYPE, default="p256", show_default=True, help="Of the server certificate's key.")
@click.option(
    "--ca-key-type",
    "ca_key_types",
    type=CA_KEY_TYPE,
    multiple=True,
    metavar="[CA=]TYPE",
    help="Of the keys of root and issuing CAs (p256), or of one: root, server, client, worker, master.",
)
def init(
    settings: Settings,
    trust_domain: str,
    sans: tuple[str, ...],
    key_type: str,
    ca_key_types: tuple[tuple[str | None, str], ...],
) -> None:
    """Make a home: a root and issuing CAs, a server certificate, configuration, policy, state.

    The place may be missing or an empty directory; anything else is left alone and refused. With --passphrase-file
    all keys are sealed, and every command that needs one asks for it.
    """
    by_ca = ca_key_table(ca_key_types)
    passphrase = settings.passphrase()
    from gateway.home.create import HomePlan, make_home
    from gateway.home.layout import Home
    from pki.authority import HierarchyKeys
    from pki.files import DirectoryTaken
    from pki.keys import KeyType
    from pki.names import Role

    home = Home(settings.home)
    special = {None if ca == "root" else Role(ca): KeyType(kind) for ca, kind in by_ca.items() if ca is not None}
    # The realm is the trust domain's for good: every stored credential is made for it.
    plan = HomePlan(
        trust_domain=trust_domain,
        realm=f"rhttp@{trust_domain}",
        sans=sans,
        passphrase=passphrase,
        server_key=KeyType(key_type),
        ca_keys=HierarchyKeys(usual=KeyType(by_ca.get(None, "p256")), special=special),
    )
    try:
        make_home(home, plan, at=datetime.now(UTC))
    except DirectoryTaken:
        fail(
            f"{home.path} exists and is not an empty directory; nothing is overwritten: name another place with --home"
        )
    click.echo(f"home {home.path} of the trust domain {trust_domain}; issue certificates, then run: rhttp-pki gateway")
    with open_session(settings) as session:
        fingerprint = session.root_fingerprint()
    click.echo(f"root certificate, SHA-256 (for rhttp-pki enroll --fingerprint): {fingerprint}")


def _issue_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.argument("name", type=NAME),
            click.option(
                "--out", type=click.Path(path_type=Path), help="Where to put the bundle (default HOME/bundles/NAME)."
            ),
            click.option("--ttl", type=LIFETIME, help="Lifetime: 90s, 15m, 24h, 30d; at most 730d."),
            click.option(
                "--csr",
                type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
                help="Certify the key of this signing request (PKCS#10); of it only the key is used.",
            ),
            click.option("--no-user", is_flag=True, help="Make no Digest user."),
            click.option("--key-type", type=KEY_TYPE, help="Of a new key (p256)."),
        )
    ):
        command = option(command)
    return common_options(command)


@click.command("issue-client")
@_issue_options
def issue_client(settings: Settings, name: str, **options: Any) -> None:
    """Issue a client NAME its certificate, Digest password and bundle (30 days)."""
    _issue(settings, "client", name, None, **options)


@click.command("issue-worker")
@_issue_options
@click.option("--pool", type=NAME, required=True, help="The only pool that it may reverse into.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="key=value, for policies and dispatch.")
def issue_worker(settings: Settings, name: str, pool: str, **options: Any) -> None:
    """Issue a worker NAME its certificate, Digest password and bundle (24 hours)."""
    _issue(settings, "worker", name, pool, **options)


@click.command("issue-master")
@_issue_options
def issue_master(settings: Settings, name: str, **options: Any) -> None:
    """Issue a master NAME its certificate, Digest password and bundle (30 days)."""
    _issue(settings, "master", name, None, **options)


def _issue(
    settings: Settings,
    role: str,
    name: str,
    pool: str | None,
    *,
    out: Path | None,
    ttl: timedelta | None,
    csr: Path | None,
    no_user: bool,
    key_type: str | None,
    labels: tuple[tuple[str, str], ...] = (),
) -> None:
    label_table = label_map(labels)
    if csr is not None and key_type is not None:
        raise click.UsageError("--key-type is for a new key; with --csr the request has the key")
    from gateway.home.issue import IssueOrder, issue_bundle
    from pki.files import DirectoryTaken
    from pki.inventory import Identity
    from pki.keys import KeyType
    from pki.names import Role

    with open_session(settings) as session:
        order = IssueOrder(
            owner=Identity(name=name, role=Role(role), pool=pool),
            out=absolute(out) if out is not None else session.home.bundles / name,
            lifetime=ttl,
            key_type=KeyType(key_type or "p256"),
            csr=read_request(csr),
            labels=label_table,
            with_user=not no_user,
        )
        try:
            issued = issue_bundle(session, order)
        except DirectoryTaken:
            fail(f"{order.out} is not an empty directory; name another with --out, or renew the bundle that lies there")
        say_issued(session, issued.record, f"in {click.format_filename(issued.place)}")
        if pool is not None and pool not in session.basics.pools:
            click.echo(f"warning: {session.home.config.name} has no [pools.{pool}] yet; {name} waits for it", err=True)
        if issued.user_kept:
            click.echo(
                f"the user {name} was there before and keeps the password: no password file is written here; "
                f"copy it from the earlier bundle, or set a new one with: rhttp-pki user passwd {name}",
                err=True,
            )
        # The new user can sign in at once, and not only when the gateway looks at the state next.
        tell_gateway(session, "/refresh", must=False)


@click.command("issue-server")
@common_options
@click.option("--san", "sans", type=SAN, multiple=True, help="DNS:name or IP:address, beside localhost.")
@click.option("--ttl", type=LIFETIME, help="Lifetime: 24h, 30d; at most 730d.")
@click.option("--key-type", type=KEY_TYPE, help="Of the new key (that of the present one).")
def issue_server(settings: Settings, sans: tuple[str, ...], ttl: timedelta | None, key_type: str | None) -> None:
    """Issue the gateway a new server certificate (30 days), taken up without a restart.

    It always names localhost, 127.0.0.1 and ::1. Without --san it names what the present one does.
    """
    from gateway.home.issue import issue_server as issue
    from pki.keys import KeyType

    with open_session(settings) as session:
        record = issue(session, sans, ttl, None if key_type is None else KeyType(key_type))
        say_issued(session, record, f"in {session.home.server_cert}")
        tell_gateway(session, "/reload", must=True)
