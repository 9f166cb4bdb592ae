"""Several processes open a storage that is new at one moment: each gets it, with the tables whole."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy.exc

from cmh.study import database

USERS = 4
OPEN = """
import multiprocessing, sys
from cmh.study.database import readable_errors
from cmh.study.storage import Store
from tests.test_faults import BASE, space

def user(barrier, url, number):
    barrier.wait()
    with readable_errors(url):
        Store(url, f"s{number}", space(), BASE, seed=3, owner=str(number)).propose(1)

fork = multiprocessing.get_context("fork")
for url in sys.argv[2:]:
    barrier = fork.Barrier(int(sys.argv[1]))
    users = [fork.Process(target=user, args=(barrier, url, number)) for number in range(int(sys.argv[1]))]
    for one in users:
        one.start()
    for one in users:
        one.join(120)
    print([one.exitcode for one in users], flush=True)
"""


def open_at_once(*urls: str) -> list[str]:
    """Exit codes of the users of each storage, as text; real processes that wait for each other."""
    command = [sys.executable, "-c", OPEN, str(USERS), *urls]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_sqlite(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(2)]
    assert open_at_once(*urls) == [str([0] * USERS)] * 2
    for url in urls:
        assert [len(database.open_study(url, f"s{number}").trials) for number in range(USERS)] == [1] * USERS


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (sqlalchemy.exc.IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed: a.b")), 9),
        (sqlalchemy.exc.ProgrammingError("CREATE", {}, Exception('relation "studies" already exists')), 9),
        (sqlalchemy.exc.OperationalError("CREATE", {}, Exception("connection refused")), 1),
    ],
)
def test_only_what_another_was_first_with_is_tried_again(
    error: Exception, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, tried = list[float](), list[str]()

    def never(url: str, **_: object) -> None:
        tried.append(url)
        raise error

    monkeypatch.setattr(database.optuna.storages, "RDBStorage", never)
    monkeypatch.setattr(database.time, "sleep", pauses.append)
    with pytest.raises(type(error)):
        database.open_storage("sqlite:///new.db", "s", begun=False)
    assert len(tried) == tries
    assert len(pauses) == tries - 1
    assert sum(pauses) < 13
