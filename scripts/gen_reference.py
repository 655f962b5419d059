"""Writes docs/reference.md: commands, configuration, problem types and own paths, from the code that implements them.

Run through scripts/gen-reference. What no code can tell (the shapes that --json prints) is in docs/reference.shapes.md
and goes to the end of the page as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from gateway.cli.main import cli
from gateway.config.models import GROUPS_TEXT, TABLES, Key, TopTable, keys_of
from gateway.http.problems import PROBLEMS
from gateway.ingress.endpoints import OWN_PATHS, Endpoint
from pki.errors import REASON_TEXTS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
SHAPES = ROOT / "docs" / "reference.shapes.md"
OWN_PATHS_HERE = "<!-- own paths -->"
COMMON = ("home", "passphrase_file")
HEAD = """\
# Reference

<!-- Made by scripts/gen-reference; do not edit by hand. -->
"""


COMMAND_TEXT = """\
Every command takes `--home DIR` (environment `RHTTP_PKI_HOME`, default `./rhttp-home`) and `--passphrase-file FILE`
(environment `RHTTP_PKI_PASSPHRASE_FILE`). Exit status: 0 done, 1 refused or failed, with one line on stderr, 2 wrong
usage.
"""
CONFIG_TEXT = """\
Checked as a whole before anything starts or is reloaded: unknown keys, types, bounds, references, files. All that is
wrong is told at once. `rhttp-pki gateway --check` checks and exits."""
PROBLEM_TEXT = """\
Answers of the gateway itself on the TLS and dispatch listeners are `application/problem+json` (RFC 9457) with `type`,
`title`, `status`, `request_id` and, where more can be said, `detail`. Why
credentials or a policy refused is in the audit log only."""


REASON_TEXT = """\
One reason is told for a path, the most telling one; the same words stand in the audit log as the reason of a handshake
that was refused (`profile` there also for a chain of other than leaf, role CA and root). None is ever renamed. Behind
it, on standard error, is the detail, which is for people and may change. Exit status 2, without a reason, is for files
alone: one that is not there, holds no PEM of its kind or a damaged block, and a trust file with a certificate that
cannot be read."""


def cell(text: str) -> str:
    """Text that cannot break a table's row."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = list(heads)
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(cell(part) for part in row) + " |"
    yield ""


def option_name(option: click.Parameter, context: click.Context) -> str:
    """As it is typed: `--san TEXT`, `--json`, `NAME`."""
    if not isinstance(option, click.Option):
        return f"`{option.make_metavar(context)}`"
    names = ", ".join([*option.opts, *option.secondary_opts])
    return f"`{names}`" if option.is_flag or option.count else f"`{names} {option.make_metavar(context)}`"


def option_text(option: click.Parameter) -> str:
    parts = [option.help or ""] if isinstance(option, click.Option) else []
    if option.required:
        parts.append("Required.")
    if getattr(option, "multiple", False):
        parts.append("May be repeated.")
    if isinstance(option.default, str | int | float) and not isinstance(option.default, bool):
        parts.append(f"Default: `{option.default}`.")
    if option.envvar and option.name not in COMMON:
        parts.append(f"Environment: `{option.envvar}`.")
    return " ".join(part for part in parts if part)


def command_lines(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """The section of a command, then those of its subcommands."""
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'##' if parent is None else '###'} `{context.command_path}`"
    yield ""
    help_text = inspect.cleandoc(command.help or "").partition("\f")[0].replace("\b", "")
    yield from (help_text, "", "```", usage, "```", "")
    shown = [p for p in command.params if not getattr(p, "hidden", False) and (parent is None or p.name not in COMMON)]
    options = [p for p in shown if isinstance(p, click.Option)]
    if options:
        yield from table(("option", "what"), ((option_name(p, context), option_text(p)) for p in options))
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            if found is None:
                raise SystemExit(f"error: `{context.command_path} {sub}` is listed but not there; define it first")
            yield from command_lines(found, sub, context)


def toml(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case list():
            return "`[" + ", ".join(f'"{part}"' for part in value) + "]`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def key_rows(keys: Iterable[Key]) -> Iterator[tuple[str, str, str, str]]:
    for key in keys:
        yield f"`{key.name}`", key.expects, "must be there" if key.required else toml(key.default), key.description


def config_lines() -> Iterator[str]:
    yield from ("## `gateway.toml`", "")
    yield from (CONFIG_TEXT, "")
    heads = ("key", "is", "default", "what")
    yield from ("### Before the first table", "")
    yield from table(heads, key_rows(keys_of(TopTable)))
    for name, (written, model) in TABLES.items():
        if name == "masters":
            yield from ("### `[groups]`", "", f"`NAME = [...]`: {GROUPS_TEXT}", "")
        yield from (f"### `{written}`", "")
        yield from table(heads, key_rows(keys_of(model)))


def problem_lines() -> Iterator[str]:
    yield from ("## Problem types", "")
    yield from (PROBLEM_TEXT, "")
    rows = ((f"`{kind.type}`", str(kind.status), kind.title) for kind in PROBLEMS.values())
    yield from table(("type", "status", "title"), rows)


def reason_lines() -> Iterator[str]:
    yield from ("## Reasons of `verify`", "")
    yield from (REASON_TEXT, "")
    yield from table(("reason", "what"), ((f"`{reason.value}`", text) for reason, text in REASON_TEXTS.items()))


def methods_of(endpoint: Endpoint) -> str:
    """What a path takes; one that says nothing takes all methods."""
    return endpoint.how or ", ".join(method.decode() for method in endpoint.methods) or "all that are implemented"


def path_lines() -> Iterator[str]:
    """The table of the gateway's own paths."""
    heads = ("path", "listener, who", "methods", "policy is asked about", "answers beside those for every request")
    yield from table(
        heads,
        (
            (
                f"`{endpoint.pattern}`",
                endpoint.who,
                methods_of(endpoint),
                f"`{endpoint.action}` on {endpoint.resource}" if endpoint.action else "nothing",
                endpoint.answers,
            )
            for endpoint in OWN_PATHS
        ),
    )


def page() -> str:
    """The whole page."""
    lines = [
        HEAD,
        COMMAND_TEXT,
        *command_lines(cli, "rhttp-pki", None),
        *config_lines(),
        *problem_lines(),
        *reason_lines(),
    ]
    text = "\n".join(lines)
    if SHAPES.exists():
        shapes = SHAPES.read_text(encoding="utf-8")
        if shapes.count(OWN_PATHS_HERE) != 1:
            raise SystemExit(f"error: {SHAPES.name} must say once where the table of own paths stands; put it back")
        text += shapes.replace(OWN_PATHS_HERE, "\n".join(path_lines()).rstrip("\n"))
    return text.rstrip("\n") + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say whether the one that is there is up to date."""
    if arguments not in ([], ["--check"]):
        print("usage: scripts/gen-reference [--check]", file=sys.stderr)
        return 2
    text = page()
    if not arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("error: docs/reference.md is out of date; run scripts/gen-reference and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
