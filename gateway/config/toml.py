"""``gateway.toml``: read, checked as a whole, and turned into one immutable `Config`.

`parse_config` works on text alone, for processes that are handed what another has read; `load_config` reads the file
and looks whether the files that it names are there. Whether the policy is any good is for `auth.cedar` to say.

Trust: trusts the operator to mean well, not to type well.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.check import build_config
from gateway.config.tables import Notes, read_tables
from gateway.config.values import Config, ConfigInvalid, ConfigProblem
from rhttp.worker.text_file import NotText, decode_text

MAX_FILE: Final = 4 << 20
_POSITION: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


NO_OVERRIDES: Final[Mapping[str, object]] = {}


def parse_config(
    text: str, *, home: Path, overrides: Mapping[str, object] = NO_OVERRIDES, with_files: bool = False
) -> Config:
    """The configuration in `text`; relative paths in it are relative to `home`.

    `overrides` are top-level keys that the command line gives; they win over the text.

    Raises:
        ConfigInvalid: with all that is wrong; files that are not there only ``with_files``, or they are not looked for.
    """
    config, notes = _parse(text, home.absolute(), overrides)
    if with_files:
        for key, wanted in notes.files:
            if not wanted.is_file():
                notes.say(f"there is no file {wanted}; make it or name another", key)
        for key, wanted in notes.folders:
            if not wanted.is_dir():
                notes.say(f"there is no folder {wanted}; make it or choose another place", key)
    if config is None or notes.problems:
        raise ConfigInvalid(notes.told())
    return config


def load_config(path: Path, overrides: Mapping[str, object] = NO_OVERRIDES) -> Config:
    """The configuration in the file at `path`, whose folder is the home.

    Raises:
        ConfigInvalid: with all that is wrong, files that are not there included.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise _invalid(f"{path} has more than {MAX_FILE} bytes; shorten it")
        text = decode_text(data)
    except OSError as error:
        raise _invalid(f"cannot read {path}: {error.strerror}; make a home with `rhttp-pki init`") from error
    except NotText as error:
        raise _invalid(f"{path} {error}") from None
    return parse_config(text, home=path.parent, overrides=overrides, with_files=True)


def _invalid(message: str) -> ConfigInvalid:
    return ConfigInvalid((ConfigProblem(path="", message=message),))


def _parse(text: str, home: Path, overrides: Mapping[str, object]) -> tuple[Config | None, Notes]:
    notes = Notes(aliases={key: f"--{key}" for key in overrides})
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        notes.problems.append(_syntax_problem(str(error), text))
        return None, notes
    except RecursionError:
        notes.say("the file is nested too deeply to be a configuration; flatten it")
        return None, notes
    notes.order = tuple(data)
    return build_config(read_tables({**data, **overrides}, notes), home, notes), notes


def _syntax_problem(message: str, text: str) -> ConfigProblem:
    match = _POSITION.search(message)
    if match is None:
        return ConfigProblem(path="", message=f"the file is not TOML: {message}; mend the syntax")
    line, column = match.groups()
    if line is None:
        lines = text.split("\n")
        line, column = str(len(lines)), str(len(lines[-1]) + 1)
    what = message[: match.start()]
    return ConfigProblem(path=f"line {line}, column {column}", message=f"is not TOML: {what}; mend the syntax there")
