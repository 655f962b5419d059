"""``rhttp-pki``: the root command, which knows every other by name and loads only the one that is called.

One place turns what can go wrong into one line on stderr and an exit status; a traceback is never shown, because its
frames may hold keys and passwords.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

from gateway.cli.common import Settings, common_options, fail
from rhttp.worker.output import DEBUG, describe_failure, stop_on_sigterm, tolerate_closed_pipes, version_option

__all__ = ["cli", "main"]

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("gateway.cli.pki", "Make a home: keys, certificates, configuration, policy."),
    "issue-client": ("gateway.cli.pki", "Issue a client its certificate, password and bundle."),
    "issue-worker": ("gateway.cli.pki", "Issue a worker of a pool its certificate, password and bundle."),
    "issue-master": ("gateway.cli.pki", "Issue a master its certificate, password and bundle."),
    "issue-server": ("gateway.cli.pki", "Issue the gateway a new server certificate."),
    "renew": ("gateway.cli.renewal", "Put new keys and certificates into bundles."),
    "revoke": ("gateway.cli.revocation", "Revoke certificates and cut what they hold open."),
    "export": ("gateway.cli.export", "Export a bundle as one PKCS #12 file."),
    "list": ("gateway.cli.certificates", "List the certificates that were issued."),
    "show": ("gateway.cli.certificates", "Show everything about one name."),
    "crl": ("gateway.cli.revocation", "Sign certificate revocation lists."),
    "verify": ("gateway.cli.certificates", "Validate a certification path as the gateway does."),
    "user": ("gateway.cli.users", "Manage Digest credentials."),
    "token": ("gateway.cli.tokens", "Manage enrolment tokens."),
    "policy": ("gateway.cli.policy", "Check the policy, or have a decision explained."),
    "gateway": ("gateway.cli.run", "Run the gateway."),
    "worker": ("gateway.cli.worker", "Run a worker: dial, authenticate, switch roles, serve."),
    "enroll": ("gateway.cli.enroll", "Get this machine a bundle, with an enrolment token."),
    "status": ("gateway.cli.run", "Show what is connected now."),
    "reload": ("gateway.cli.run", "Have the running gateway take up its files again."),
    "drain": ("gateway.cli.run", "Have the running gateway finish its work and end."),
    "audit": ("gateway.cli.audit", "Follow the audit log, or verify it."),
    "db": ("gateway.cli.db", "Look after the state database."),
}
"""Each command: the module that defines it (any attribute of it that is a command of that name), and what it does."""

_OURS = frozenset({"gateway", "auth", "pki", "rhttp"})


class Root(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        found = (
            thing for thing in vars(module).values() if isinstance(thing, click.Command) and thing.name == cmd_name
        )
        return next(found, None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # click looks for similar names among the commands that it holds itself, and we load ours by need.
            said, begun = error.command_name, [name for name in _COMMANDS if name.startswith(error.command_name)]
            message = None
            if said and begun:  # "issue" is too short to be near to any of them
                message = f"No such command {said!r}. What begins like that: {', '.join(begun)}"
            raise click.exceptions.NoSuchCommand(said, message, _COMMANDS if message is None else None, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if os.environ.get(DEBUG) == "1":
                raise
            fail(_describe(error))


def _describe(error: Exception) -> str:
    """What one line can say of a failure. Only texts written for people are shown: others may quote their input."""
    package = type(error).__module__.partition(".")[0]
    if package in _OURS:
        return str(error)
    if package == "sqlalchemy":
        from gateway.state.database import unavailable

        return str(unavailable(error))
    return describe_failure(error, install="rhttp-pki")


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("rhttp-pki")
@common_options
def cli(_settings: Settings) -> None:
    """Access-control gateway for Reverse HTTP: certificates by role, HTTP Digest, policies, audit."""


def main() -> None:
    """The entry point of the installed command."""
    stop_on_sigterm()  # `gateway` and `worker` put handlers of their own
    # Before anything opens: whatever is made without a mode of its own is the owner's alone.
    os.umask(0o077)
    tolerate_closed_pipes()
    cli(prog_name="rhttp-pki")


if __name__ == "__main__":
    main()
