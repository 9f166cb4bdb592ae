"""A study in a real PostgreSQL server, which the test starts. Debian: `apt-get install postgresql`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

import cmh.study
from cmh.study import database
from cmh.study.storage import Store
from tests import servers
from tests.test_faults import BASE, play, rows, space
from tests.test_first_users import USERS, open_at_once

psycopg = pytest.importorskip("psycopg", reason="no driver: pip install cmh[postgresql]")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database."""
    with servers.running(servers.installed()) as url:
        yield url


def test_a_study_in_postgresql_is_the_one_in_sqlite(server: str, tmp_path: Path) -> None:
    play(server, space(), {}, limit=3)
    play(server, space(), {}, limit=10)
    play(f"sqlite:///{tmp_path / 'same.db'}", space(), {}, limit=10)
    assert rows(server, space()) == rows(f"sqlite:///{tmp_path / 'same.db'}", space())


def test_what_is_kept_and_opened(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(server, "mine", space(), BASE, seed=3, owner="me").propose(1)
    kept = database.without_password(server)
    assert "secret" not in kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.yml").write_text(f"identity: {{method: dcmh}}\nstorage: {kept}\n")
    monkeypatch.setenv("PGPASSWORD", "secret")
    study = cmh.study.open(tmp_path / "mine")
    assert [trial.number for trial in study.trials] == [0]
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.ask()


def test_a_server_that_restarts_and_one_that_is_gone(server: str) -> None:
    store = Store(server, "again", space(), BASE, seed=3)
    with store.study._storage._backend.engine.connect() as connection:  # type: ignore[attr-defined]
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND usename = 'cmh'"
        )
    assert store.propose(1) is not None
    gone = "postgresql://cmh@127.0.0.1:1/postgres"
    with pytest.raises(cmh.errors.StudyError, match="connection"), database.readable_errors(gone):
        Store(gone, "s", space(), BASE, seed=3)


def test_first_users_at_one_moment(server: str) -> None:
    urls = [server.replace("/postgres", f"/new{number}") for number in range(2)]
    with psycopg.connect(server, autocommit=True) as connection:
        for number in range(2):
            connection.execute(f"CREATE DATABASE new{number}")
    assert open_at_once(*urls) == [str([0] * USERS)] * 2
