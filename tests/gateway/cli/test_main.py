"""The root command: every command is there, loads only what it needs, and fails in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli.main import _COMMANDS, cli


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_exists_and_takes_the_common_options(name: str) -> None:
    """Each command of the contract loads, has help, and takes --home and --passphrase-file (or its subcommands do)."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        options = {option for parameter in leaf.params for option in parameter.opts}
        assert {"--home", "--passphrase-file"} <= options, leaf.name


def test_help_lists_every_command_without_loading_one() -> None:
    """The list of commands is quick: it imports no command's module."""
    code = (
        "import sys; from gateway.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('gateway.cli.pki', 'sqlalchemy', 'cryptography'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.endswith("[]\n")
    assert all(f"  {name} " in out for name in _COMMANDS)


def test_refused_options_load_no_library() -> None:
    """Wrong usage is said before databases and certificates are even imported."""
    code = (
        "import sys; from gateway.cli.main import cli\n"
        "try: cli(['issue-worker', 'w1'])\n"
        "except SystemExit as error: print(error.code)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('sqlalchemy', 'alembic', 'rich')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == "2\n[]\n"


def test_unknown_command_is_wrong_usage() -> None:
    """A command that there is not is exit status 2."""
    assert CliRunner().invoke(cli, ["nonsense"]).exit_code == 2


def test_unknown_command_is_told_the_nearest() -> None:
    """A slip of the finger costs no look at the list."""
    result = CliRunner().invoke(cli, ["isue-client"])
    assert result.exit_code == 2
    assert "'issue-client'" in result.stderr


def test_command_that_is_cut_short_is_told_what_begins_like_that() -> None:
    """The common part of several names is near to none of them."""
    result = CliRunner().invoke(cli, ["issue", "alice"])
    assert result.exit_code == 2
    assert "'issue'. What begins like that: issue-client, issue-worker, issue-master, issue-server\n" in result.stderr


def test_version_is_that_of_the_package() -> None:
    """`--version` says what is installed, and whether it is compiled."""
    kind = "compiled" if os.environ.get("RHTTP_PKI_COMPILED") == "1" else "interpreted"
    out = CliRunner().invoke(cli, ["--version"], prog_name="rhttp-pki").output
    assert re.fullmatch(rf"rhttp-pki [0-9][0-9.]* \({kind}(: .+)?\)\n", out)


def test_home_from_the_environment_is_used(tmp_path: Path) -> None:
    """RHTTP_PKI_HOME names the home when --home does not."""
    result = CliRunner().invoke(cli, ["list"], env={"RHTTP_PKI_HOME": str(tmp_path / "from-env")})
    assert (result.exit_code, "from-env" in result.stderr) == (1, True)
