"""A study that is killed at any write of its storage goes on as if nothing had happened. No Ray, no training."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from sqlalchemy import event

from cmh.study import workers
from cmh.study.space import Asha, Range, Space
from cmh.study.storage import Proposal, Row, Store

SAMPLERS = ("tpe", "random", "gp", "cmaes", "grid", "qmc")
EPOCHS = 4
BASE: dict[str, Any] = {"optimizer": "adam", "momentum": 0.0, "gamma": 1.0, "units": 4}
RANGES = (
    Range("optimizer", "choice", choices=("adam", "sgd")),
    Range("gamma", "float", 0.1, 1),
    Range("units", "int", 2, 64, log=True),
    Range("momentum", "float", 0, 0.9, when=(("optimizer", "sgd"),)),
)
DISCRETE = (
    Range("optimizer", "choice", choices=("adam", "sgd")),
    Range("units", "int", 2, 4),
    Range("momentum", "choice", choices=(0.0, 0.5), when=(("optimizer", "sgd"),)),
)


def space(sampler: str = "tpe", ranges: tuple[Range, ...] = RANGES, asha: Asha | None = Asha(1, 2)) -> Space:  # noqa: B008
    ranges = DISCRETE if sampler == "grid" else ranges
    return Space("dcmh", ranges, (("default", tuple(BASE.items())),), sampler, asha, EPOCHS, 12)


class Quiet:
    """A view that only notes which trials have ended."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def started(self, proposal: Proposal) -> None:
        pass

    def reported(self, number: int, epoch: int, value: float) -> None:
        pass

    def ended(self, number: int) -> None:
        self.seen.append(number)


def session(store: Store, limit: int, folder: Path = Path(), budget: float | None = None) -> workers._Session:
    work = workers.Work(store, limit, folder, {"epochs": EPOCHS}, None, Quiet())  # type: ignore[arg-type]
    return workers._Session(0, work, budget)


def value(config: dict[str, Any], epoch: int) -> float:
    bend = math.sin(17 * config["gamma"] + config["units"] + 3 * config["momentum"] + (config["optimizer"] == "sgd"))
    return 0.5 + 0.3 * bend + 0.02 * epoch


def outcome(config: dict[str, Any], epoch: int, best: float) -> dict[str, Any]:
    if config["units"] == 3 or config["units"] > 40:
        return {"failed": "nan", "reason": "loss = nan"}
    now = value(config, epoch)
    about = {"best_epoch": epoch, "best_i2t": now, "best_t2i": now, "device": "cpu"}
    return {"epoch": epoch, "val_map": now, "val_map_best": max(best, now), "seconds": 1.0, **about}


def train(live: workers._Live, session: workers._Session, disk: dict[int, int]) -> Iterator[None]:
    """What a worker does: goes on from its checkpoint, whose epoch it reports again; one step a report."""
    assert live.proposal is not None
    number, config = live.number, live.proposal.config
    for epoch in range(max(disk.get(number, 0), 1), EPOCHS + 1):
        if epoch % 2 == 0:
            disk[number] = epoch
        best = max((value(config, past) for past in range(1, epoch)), default=0.0)
        stops = session.reported(live, outcome(config, epoch, best))
        yield
        if stops or number not in session.live:
            return


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def killed_at(write: int) -> Iterator[list[int]]:
    """Ends the block before commit number `write` of those that change the storage; yields their count."""
    count = [0]

    def changed(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split()[0].upper() in ("INSERT", "UPDATE", "DELETE", "CREATE"):
            connection.info["changed"] = True

    def commit(connection: Any) -> None:
        if connection.info.pop("changed", False):
            count[0] += 1
            if count[0] == write:
                connection.connection.driver_connection.rollback()  # what the database does when its client is gone
                raise Killed

    def fast(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    hooks = (("before_cursor_execute", changed), ("commit", commit), ("connect", fast))
    for name, hook in hooks:
        event.listen(sqlalchemy.engine.Engine, name, hook)
    try:
        with contextlib.suppress(Killed):
            yield count
    finally:
        for name, hook in hooks:
            event.remove(sqlalchemy.engine.Engine, name, hook)


def play(url: str, wanted: Space, disk: dict[int, int], limit: int = 6, concurrent: int = 1, offset: int = 0) -> None:
    """A whole start of the driver: trials in turn, `concurrent` of them interleaved."""
    store = Store(url, "s", wanted, BASE, seed=3, owner="me")
    state, running = session(store, limit), []
    turn = offset
    while True:
        while len(running) < concurrent and (live := state.take()) is not None:
            running.append(train(live, state, disk))
        if not running:
            break
        turn += 1
        one = running[turn % len(running)]
        if next(one, "done") == "done":
            running.remove(one)
    assert state.over


def rows(url: str, wanted: Space) -> list[Row]:
    return [dataclasses.replace(row, seconds=None) for row in Store(url, "s", wanted, BASE, seed=3).rows()]


def urls(folder: Path) -> Iterator[str]:
    """Databases that hold Optuna's tables and no study (to make them takes long)."""
    optuna.storages.RDBStorage(f"sqlite:///{folder / '0.db'}")
    number = 0
    while True:
        number += 1
        shutil.copy(folder / "0.db", folder / f"{number}.db")
        yield f"sqlite:///{folder / f'{number}.db'}"


@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_kill_while_the_tables_are_made(write: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with killed_at(write):
        play(url, space(), {}, limit=2)
    play(url, space(), {}, limit=2)
    assert [row.number for row in rows(url, space())] == [0, 1]


def test_a_kill_at_each_write_changes_nothing(tmp_path: Path) -> None:
    fresh, wanted = urls(tmp_path), space()
    with killed_at(-1) as writes:
        play(url := next(fresh), wanted, {})
    whole = rows(url, wanted)
    assert {row.state for row in whole} == {"complete", "pruned", "failed"}
    assert writes[0] > 50
    for write in range(1, writes[0] + 1):
        url, disk = next(fresh), dict[int, int]()
        with killed_at(write):
            play(url, wanted, disk)
        with killed_at(-1):
            play(url, wanted, disk)
        assert rows(url, wanted) == whole, f"killed at write {write}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_kills_at_every_write_of_one_study(sampler: str, tmp_path: Path) -> None:
    """Each start is killed after three to five writes; with conditionals, and under every sampler."""
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    fresh, wanted = urls(tmp_path), space(sampler)
    with killed_at(-1):
        play(whole := next(fresh), wanted, {}, limit=11)
    url, disk, starts = next(fresh), dict[int, int](), 0
    for starts in range(1, 500):
        with killed_at(4 + starts % 3):
            play(url, wanted, disk, limit=11)
            break
    assert starts > 20
    assert rows(url, wanted) == rows(whole, wanted)
