"""A study that is killed at any write of its storage goes on as if nothing had happened. No Ray, no training."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from cmh.cluster import ray
from cmh.errors import StudyError
from cmh.signals import Interrupts
from cmh.study import database, resources, tuner
from cmh.study.aside import Aside
from cmh.study.dispatcher import Dispatcher
from cmh.study.resources import Resources, gpu_share
from cmh.study.rungs import Rungs
from cmh.study.session import Session
from cmh.study.space import Asha, Range, Space
from cmh.study.storage import Proposal, Store
from cmh.study.trial_row import TrialRow
from cmh.study.work import Budget, RunningConfirmation, RunningTrial, Work

SAMPLERS = ("priorband", "tpe", "random", "gp", "cmaes", "grid", "qmc")
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

    def validated(self, one: Aside) -> None:
        pass


def session(
    store: Store,
    limit: int,
    folder: Path = Path(),
    budget: Budget = Budget(),  # noqa: B008
) -> Session:
    work = Work(store, limit, folder, {"epochs": EPOCHS}, None, Quiet())  # type: ignore[arg-type]
    return Session(work, budget)


def take(state: Session) -> RunningTrial | None:
    """The next trial; nothing is confirmed here."""
    work = state.take()
    assert work is None or isinstance(work, RunningTrial)
    return work


def value(config: dict[str, Any], epoch: int) -> float:
    bend = math.sin(17 * config["gamma"] + config["units"] + 3 * config["momentum"] + (config["optimizer"] == "sgd"))
    return 0.5 + 0.3 * bend + 0.02 * epoch


def outcome(config: dict[str, Any], epoch: int, best: float) -> dict[str, Any]:
    if config["units"] == 3 or config["units"] > 40:
        return {"failed": "nan", "reason": "loss = nan"}
    now = value(config, epoch)
    about = {"best_epoch": epoch, "best_i2t": now, "best_t2i": now, "device": "cpu"}
    about |= {"passes": 2.0 * epoch, "device_seconds": 1.0}
    return {"epoch": epoch, "val_map": now, "val_map_best": max(best, now), "seconds": 1.0, **about}


def train(trial: RunningTrial, session: Session, disk: dict[int, int]) -> Iterator[None]:
    """What a worker does: goes on from its checkpoint, whose epoch it reports again; one step a report."""
    number, config = trial.number, trial.proposal.config
    for epoch in range(max(disk.get(number, 0), 1), EPOCHS + 1):
        if epoch % 2 == 0:
            disk[number] = epoch
        best = max((value(config, past) for past in range(1, epoch)), default=0.0)
        stops = session.reported(trial, outcome(config, epoch, best))
        yield
        if stops or number not in session.running:
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
        while len(running) < concurrent and (trial := take(state)) is not None:
            running.append(train(trial, state, disk))
        if not running:
            break
        turn += 1
        one = running[turn % len(running)]
        if next(one, "done") == "done":
            running.remove(one)
    assert state.over


def rows(url: str, wanted: Space) -> list[TrialRow]:
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


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("strict", [False, True])
def test_a_kill_at_each_write_changes_nothing(strict: bool, step: int, tmp_path: Path) -> None:
    fresh, wanted = urls(tmp_path), space(asha=Asha(1, 2, strict))
    with killed_at(-1) as writes:
        play(url := next(fresh), wanted, {})
    whole = rows(url, wanted)
    assert {row.state for row in whole} == {"complete", "pruned", "failed"}
    assert writes[0] > 50
    for write in range(1, writes[0] + 1, step):
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


def ends(state: Session) -> list[int]:
    return state.work.view.seen  # type: ignore[attr-defined]


def run(state: Session, trial: RunningTrial) -> None:
    for _ in train(trial, state, {}):
        pass


@pytest.mark.parametrize("write", [3, 5, 9])
def test_a_kill_among_several_trials_loses_and_doubles_none(write: int, tmp_path: Path) -> None:
    """Two trials at once, killed again and again, with another interleaving each time."""
    url, disk = next(urls(tmp_path)), dict[int, int]()
    for start in range(200):
        with killed_at(write + start % 4):
            play(url, space(), disk, limit=9, concurrent=2, offset=start)
            break
    found = rows(url, space())
    assert [row.number for row in found] == list(range(9))
    assert {row.state for row in found} <= {"complete", "pruned", "failed"}
    assert [row.origin for row in found].count("default") == 1
    for row in found:
        assert list(row.curve) == list(range(1, row.epochs + 1))
        assert all(row.curve[epoch] == value(row.config, epoch) for epoch in row.curve)
        assert row.epochs == (EPOCHS if row.state == "complete" else row.rung or 0)


@pytest.mark.parametrize("asha", [Asha(1, 2), Asha(1, 2, strict=True)])
def test_rungs_after_a_restart_are_those_before(asha: Asha, tmp_path: Path) -> None:
    url, wanted = next(urls(tmp_path)), space(asha=asha)
    store = Store(url, "s", wanted, BASE, seed=3)
    state = session(store, 9)
    while (trial := take(state)) is not None:
        run(state, trial)
    again = session(Store(url, "s", wanted, BASE, seed=3), 9)
    assert state.rungs is not None
    assert again.rungs is not None
    before, after = state.rungs.reached, again.rungs.reached
    before.pop(EPOCHS, None)  # the last epoch is no rung
    after.pop(EPOCHS, None)
    assert after == before
    assert all(after.values())


@given(
    st.integers(2, 4),
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=9, max_size=9)), min_size=1, max_size=12
    ),
)
def test_the_strict_rule_lets_the_best_share_of_a_rung_go_on(
    reduction: int, trials: list[tuple[int, list[int]]]
) -> None:
    """Trials that take turns at random, against the rule in words."""
    rungs = Rungs(Asha(1, reduction, strict=True), 9, [])
    arrived: dict[int, list[int]] = {rung: [] for rung in Asha(1, reduction).rungs(9)}
    waiting = [(turn, number) for number, (turn, _) in enumerate(trials)]
    epochs = dict.fromkeys(range(len(trials)), 0)
    while waiting:
        waiting.sort()
        turn, number = waiting.pop(0)
        epochs[number] += 1
        epoch, values = epochs[number], trials[number][1]
        stops = rungs.stops(number, epoch, {past: float(values[past - 1]) for past in range(1, epoch + 1)})
        wanted = False
        if epoch in arrived:
            best = max(values[:epoch])
            arrived[epoch].append(best)
            go_on = sorted(arrived[epoch], reverse=True)[: len(arrived[epoch]) // reduction]
            wanted = best not in go_on
        assert stops is wanted
        if not stops and epoch < 8:
            waiting.append((turn + 1 + values[epoch] % 3, number))


def test_by_the_strict_rule_the_first_of_a_rung_stop_and_by_rays_they_go_on() -> None:
    for strict, stopped in ((False, [False, True, False]), (True, [True, True, False])):
        rungs = Rungs(Asha(2, 3, strict), 9, [])
        assert [rungs.stops(number, 2, {1: 0.9, 2: value}) for number, value in enumerate((1.0, 0.9, 1.1))] == stopped


def test_a_configuration_is_trained_once(tmp_path: Path) -> None:
    url, wanted = next(urls(tmp_path)), space("random", DISCRETE)
    state = session(Store(url, "s", wanted, BASE, seed=3), 30)
    trained = []
    while (trial := take(state)) is not None:
        trained.append(tuple(trial.proposal.config.values()))
        run(state, trial)
    assert len(trained) == len(set(trained)) <= 9 + 1
    found = rows(url, wanted)
    assert len(found) == 30
    copies = [row for row in found if row.copied_from is not None]
    assert len(copies) == 30 - len(trained)
    for row in copies:
        first = found[row.copied_from or 0]
        assert (row.config, row.curve, row.state, row.rung, row.failure) == (
            *(first.config, first.curve, first.state, first.rung),
            first.failure,
        )
        assert row.spent == 0
    assert sorted(ends(state)) == list(range(30))
    # What was copied stands in no rung: it says nothing new.
    assert all(
        number in {row.number for row in found} - {row.number for row in copies}
        for number, _, _ in Store(url, "s", wanted, BASE, seed=3).history()
    )


def test_a_twin_waits_for_the_running_one_and_runs_itself_if_that_breaks() -> None:
    one = Range("optimizer", "choice", choices=("adam",))
    state = session(Store(None, "s", Space("dcmh", (one,), (), "random", None, EPOCHS, 3), BASE, seed=3), 2)
    first = take(state)
    assert first is not None
    assert take(state) is None
    assert not state.over
    state.store.fail(first.number, "error", "broke by accident", {})
    state.note_end(first)
    second = take(state)
    assert second is not None
    assert second.number == 1
    run(state, second)
    assert take(state) is None
    assert state.over
    assert [row.state for row in state.store.rows()] == ["failed", "complete"]


def test_out_of_memory_is_tried_once_more_with_fewer_beside_it(tmp_path: Path) -> None:
    url, wanted = next(urls(tmp_path)), space(asha=None)
    work = session(Store(url, "s", wanted, BASE, seed=3), 5).work
    dispatcher = Dispatcher([work], Resources(1, 0, 4), Budget(), None, Interrupts())
    ids = [f"ray {number}" for number in range(9)]
    assert all(isinstance(dispatcher.next_task(name), dict) for name in ids[:4])
    assert dispatcher.next_task(ids[4]) is None  # no room
    dispatcher.reported(ids[0], {"failed": "oom", "reason": "CUDA out of memory"})
    assert dispatcher.room() == 2
    assert dispatcher.next_task(ids[4]) is None  # three are running still
    for name in ids[1:3]:
        dispatcher.reported(name, {"failed": "error", "reason": "x"})
    task = dispatcher.next_task(ids[5])
    assert isinstance(task, dict)
    assert task["values"]["folder"].endswith("/0")
    assert dispatcher.next_task(ids[6]) is None
    # A start after a kill knows that this is the second try.
    again = Store(url, "s", wanted, BASE, seed=3)
    assert again.memory_retry_waits()
    dispatcher.reported(ids[5], {"failed": "oom", "reason": "CUDA out of memory"})
    assert dispatcher.room() == 4
    assert [row.failure for row in work.store.rows()] == ["oom", "error", "error", ""]


def test_a_trial_that_kills_its_worker_fails_the_third_time_at_one_epoch() -> None:
    state = session(Store(None, "s", space(asha=None), BASE, seed=3), 1)
    for death in range(1, 5):
        trial = take(state)
        assert trial is not None
        if death == 2:  # it comes further: the count starts anew
            state.reported(trial, outcome(BASE, 1, 0.0))
        state.trial_died(trial, "ActorDiedError")
    assert take(state) is None
    (row,) = state.store.rows()
    assert row.state == "failed"
    assert "died 3 times" in row.error
    assert row.epochs == 1


def test_a_worker_killed_for_memory_counts_as_out_of_memory() -> None:
    state = session(Store(None, "s", space(asha=None), BASE, seed=3), 1)
    for _ in range(2):
        trial = take(state)
        assert trial is not None
        state.trial_died(
            trial, "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory"
        )
    assert [(row.state, row.failure) for row in state.store.rows()] == [("failed", "oom")]


def test_a_confirmation_whose_worker_dies_is_run_again_twice() -> None:
    one = session(Store(None, "s", space(asha=None), BASE, seed=3), 0)
    runs: list[dict[str, Any]] = [{"seed": 1, "folder": "a"}, {"seed": 2, "folder": "b"}]
    state = Session(dataclasses.replace(one.work, ended=lambda: runs), Budget())
    for number in (0, 1, 0, 0):
        work = state.take()
        assert isinstance(work, RunningConfirmation)
        assert work.values["folder"] == "ab"[number]
        if number:
            state.confirmed({"failed": "error", "reason": "ValueError: broke"})
        else:
            state.run_died(work)
    assert state.take() is None
    assert state.over
    assert state.problems == [
        "the confirmation failed: ValueError: broke",
        "the confirmation failed: its worker died three times; the same command goes on",
    ]


def test_a_confirmation_whose_worker_died_is_run_again_with_fewer_beside_it() -> None:
    """It may have been the memory: three at once are three times a trial."""
    runs: list[dict[str, Any]] = [{"seed": seed, "folder": str(seed)} for seed in range(4)]
    one = session(Store(None, "s", space(asha=None), BASE, seed=3), 0).work
    dispatcher = Dispatcher(
        [dataclasses.replace(one, ended=lambda: runs)], Resources(1, 0, 4), Budget(), None, Interrupts()
    )
    assert all(dispatcher.next_task(name) is not None for name in "abcd")
    dispatcher.died("a", "killed")
    assert dispatcher.room() == 2
    assert dispatcher.next_task("e") is None  # three are running still
    for name in "bc":
        dispatcher.reported(name, {"failed": "error", "reason": "x"})
    task = dispatcher.next_task("f")
    assert task is not None
    assert task["values"]["folder"] == "0"
    assert dispatcher.room() == 2
    dispatcher.reported("f", {"failed": "error", "reason": "x"})
    assert dispatcher.room() == 4


def spent(url: str) -> float:
    return sum(row.passes for row in rows(url, space(asha=None)))


def test_a_budget_of_passes_is_the_study_s_over_all_its_starts(tmp_path: Path) -> None:
    """Two passes an epoch, four epochs a trial; a trial that the end interrupts goes on where there is more."""
    url, disk, wanted = f"sqlite:///{tmp_path / 's.db'}", dict[int, int](), space(asha=None)

    def start(passes: float, epochs: int) -> Session:
        """As Ray would drive it, killed after so many epochs."""
        store = Store(url, "s", wanted, BASE, seed=3, owner="me")
        state = session(store, 50, budget=Budget(passes=passes))
        while epochs and (trial := take(state)) is not None:
            for _ in train(trial, state, disk):
                epochs -= 1
                if trial.number in state.running and state.budget_is_spent():
                    state.put_back(trial)
                if trial.number not in state.running or not epochs:
                    break
        return state

    assert not start(20, 3).over  # killed in the middle of the first trial
    assert 0 < spent(url) < 20
    assert start(20, 1000).over
    assert 20 <= spent(url) <= 21
    assert start(20, 1000).over  # nothing is left to spend
    assert 20 <= spent(url) <= 21
    assert start(30, 1000).over
    assert 30 <= spent(url) <= 31


def test_a_time_budget_is_the_study_s_over_all_its_starts(tmp_path: Path) -> None:
    url, wanted = f"sqlite:///{tmp_path / 's.db'}", space()
    for start, left in ((0, 60.0), (1, 20.0)):
        state = session(Store(url, "s", wanted, BASE, seed=3), 50, budget=Budget(seconds=60))
        trial = take(state)
        assert trial is not None
        assert state.deadline == pytest.approx(left), start
        state.now += 40  # as the dispatcher charges it
        state.count_seconds()
        assert state.budget_is_spent() == (start == 1)
    state = session(Store(url, "s", wanted, BASE, seed=3), 50, budget=Budget(seconds=60))
    assert take(state) is None
    assert state.over


def test_a_trial_that_goes_on_under_other_circumstances_is_trained_anew_as_another(tmp_path: Path) -> None:
    """Its first epochs were of another device: one curve is of one run."""
    url, wanted = f"sqlite:///{tmp_path / 's.db'}", space(asha=None)
    state = session(Store(url, "s", wanted, BASE, seed=3, owner="me"), 2)
    trial = take(state)
    assert trial is not None
    config = trial.proposal.config
    assert not state.reported(trial, outcome(config, 1, 0))
    state = session(Store(url, "s", wanted, BASE, seed=3, owner="me"), 2)  # that process was killed
    trial = take(state)
    assert trial is not None
    assert trial.number == 0
    assert state.reported(trial, outcome(config, 1, 0) | {"val_map": 0.123, "device": "cuda"})
    assert state.running == {}
    again = take(state)
    assert again is not None
    assert (again.number, again.proposal.config, again.proposal.origin) == (1, config, "default")
    for _ in train(again, state, {}):
        pass
    disk: dict[int, int] = {}
    play(url, wanted, disk, limit=2)
    found = rows(url, wanted)
    assert [row.state for row in found] == ["failed", "complete", "complete"]  # two trials, as was asked for
    assert found[0].failure == "moved"
    assert "epoch 1 was 0." in found[0].error
    assert "is now 0.123000 (cuda)" in found[0].error
    assert found[1].config == config


def test_a_full_disk_ends_the_run_and_no_trial() -> None:
    state = session(Store(None, "s", space(), BASE, seed=3), 3)
    trial = take(state)
    assert trial is not None
    with pytest.raises(StudyError, match="make room, then the same command goes on"):
        state.failed(trial, "disk", "OSError: No space left on device")
    assert [row.state for row in state.store.rows()] == ["interrupted"]


def test_pruned_trials_reach_the_sampler_as_pruned_with_their_curve(tmp_path: Path) -> None:
    url = next(urls(tmp_path))
    play(url, space(), {}, limit=8)
    found = optuna.load_study(study_name="s", storage=url).get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert found
    for trial in found:
        assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]
        assert trial.last_step == trial.user_attrs["result"]["rung"]


def test_a_database_that_stays_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    url = next(urls(tmp_path))
    store = Store(url, "s", space(), BASE, seed=3)
    other = sqlite3.connect(url.removeprefix("sqlite:///"))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyError, match="cannot be used: database is locked"), database.readable_errors(url):
        store.propose(3)
    other.rollback()
    play(url, space(), {}, limit=3)
    assert [row.number for row in rows(url, space())] == [0, 1, 2]


def test_a_reader_does_not_break_the_writer(tmp_path: Path) -> None:
    """A notebook that reads in a loop, in another thread, while trials are written."""
    url, stop, errors = next(urls(tmp_path)), threading.Event(), list[Exception]()
    play(url, space(), {}, limit=1)

    def read() -> None:
        while not stop.is_set():
            try:
                _ = database.open_study(url, "s").trials
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        play(url, space(), {}, limit=6)
    finally:
        stop.set()
        reader.join()
    assert not errors


def test_a_study_of_the_same_name_in_a_shared_storage_is_refused(tmp_path: Path) -> None:
    url = next(urls(tmp_path))
    Store(url, "s", space(), BASE, seed=3, owner="mine")
    Store(url, "s", space(), BASE, seed=3, owner="mine")
    with pytest.raises(StudyError, match="holds a study s of another folder"):
        Store(url, "s", space(), BASE, seed=3, owner="yours")


@pytest.mark.parametrize(
    ("peak", "total", "share"), [(2**30, 80 * 2**30, 1 / 8), (30 * 2**30, 80 * 2**30, 1 / 2), (2**40, 2**33, 1.0)]
)
def test_the_share_of_a_gpu_leaves_room(peak: int, total: int, share: float) -> None:
    assert gpu_share(peak, total) == share
    assert peak <= total * share or share == 1


def test_an_epoch_that_was_to_measure_a_trial_s_share_and_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_: object) -> None:
        raise ray.exceptions.OutOfMemoryError("Task was killed\ndue to the node running low on memory")

    probe = SimpleNamespace(remote=lambda *_: None)
    fake = SimpleNamespace(remote=lambda **_: lambda _: probe, get=get, exceptions=ray.exceptions)
    monkeypatch.setattr(resources, "ray", fake)
    monkeypatch.setattr(resources, "all_resources", lambda: {"GPU": 1.0})
    said = r"the epoch that measures it failed \(due to the node running low on memory\); say a number in place of auto"
    with pytest.raises(StudyError, match=said):
        resources.measured_gpus([], 1, joined=False)


@pytest.mark.parametrize("interrupted", [True, False])
def test_an_end_of_tune_with_work_left_is_an_interrupt(interrupted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune takes SIGINT and SIGUSR1 when it starts; until its first round they end it, and nobody else hears of it."""
    work = session(Store(None, "s", space(), BASE, seed=3), 3 if interrupted else 0).work

    def fit(dispatcher: Dispatcher) -> None:
        if not interrupted:
            dispatcher.next_task("a")  # sees that there is none

    nothing: Any = lambda *_, **__: None  # noqa: E731
    fake = SimpleNamespace(with_resources=nothing, with_parameters=nothing, RunConfig=nothing)
    fake.TuneConfig = lambda search_alg, **_: search_alg.dispatcher
    fake.Tuner = lambda _, tune_config, run_config: SimpleNamespace(fit=lambda: fit(tune_config))
    monkeypatch.setattr(tuner, "tune", fake)
    monkeypatch.setattr(tuner.node, "places", nothing)
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        tuner.search([work], Resources(1, 0, 1))


@pytest.mark.parametrize("kind", [tuner._Tasks, tuner._Reports, tuner._Rounds, tuner._Stops])
def test_what_ray_pickles_never_hangs_on_the_state(kind: Any) -> None:
    state = Dispatcher([], Resources(1, 0, 1), None, None, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(state.interrupts)
    assert len(pickle.dumps(kind(state))) < 2000
