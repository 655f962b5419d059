"""A PostgreSQL server of one's own for tests: on a unix socket in a temporary folder, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest


def server_folder() -> Path | None:
    """Where the newest installed server's programs lie, None when there is none."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    # Debian keeps them off the PATH.
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda place: int(place.parts[-3]))
    return places[-1].parent if places else None


@contextmanager
def postgres(programs: Path) -> Iterator[Callable[[], str]]:
    """What makes an empty database and tells its URL, each time that it is called.

    The server refuses to run as root, so root starts it as the user ``postgres``.
    """
    # Not under the test's own folder: the path of a unix socket is short, and another user must get there.
    place = Path(tempfile.mkdtemp(prefix="rhttp-pg-"))
    as_user: Mapping[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(place, owner.pw_uid, owner.pw_gid)
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(place / "data"), *arguments]
        # Its output goes to a file: the server inherits it, and would keep a pipe open.
        with (place / "output").open("ab") as output:
            subprocess.run(command, check=True, stdout=output, stderr=output, timeout=60, cwd=place, **as_user)

    try:
        run("initdb", "-A", "trust", "-U", "rhttp", "--no-sync", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-w", "-l", str(place / "log"), "-o", f"-c listen_addresses= -k {place} -c fsync=off", "start")
        try:
            yield lambda: _make_database(place)
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def installed_postgres() -> Iterator[Callable[[], str]]:
    """As `postgres`, with the installed server; without one whoever needs it is skipped."""
    programs = server_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres(programs) as make:
        yield make


def _make_database(place: Path) -> str:
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"host={place} user=rhttp dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://rhttp@/{name}?host={quote(str(place))}"
