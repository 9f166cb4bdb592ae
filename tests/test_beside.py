"""Runs beside a search: the library's default as a control, and further seeds of the best trials. No Ray."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import config, methods, records, tune
from cmh.errors import ConfigError, StudyError
from cmh.study import aside, beside, finals, folder, life, node, opening, outcome, request, weights
from cmh.study.aside import Aside
from cmh.study.session import Session
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow, from_stored
from cmh.study.work import Budget, RunningConfirmation, RunningTrial, RunningValidation, Work
from cmh.views import closing
from tests.test_address import asked
from tests.test_faults import BASE, EPOCHS, Quiet, killed_at, space, train
from tests.test_records import line, record
from tests.test_reproduce import forget, here, make_data  # noqa: F401

SEED = 3  # of the studies here


def row(number: int, value: float, state: str = "COMPLETE", copied_from: int | None = None) -> TrialRow:
    result = {} if copied_from is None else {"copied_from": copied_from}
    return from_stored(number, state, {1: value}, {"result": result}, {})


def scored(name: str, trial: int | None, seed: int, value: float) -> Aside:
    return Aside(name, trial, seed, value, value, value, 2, EPOCHS, 8.0, 1.0, 2.0, "cpu", "")


# Who wins


def test_the_best_half_goes_on_with_twice_the_seeds() -> None:
    assert list(finals.rounds(4)) == [(4, 1), (2, 2)]
    assert list(finals.rounds(5)) == [(5, 1), (3, 2), (2, 4)]
    assert list(finals.rounds(1)) == []
    assert [finals.runs(most) for most in range(6)] == [0, 0, 2, 5, 6, 12]


def second_way(values: list[float], finalists: int, fresh: Callable[[int, int], float | None]) -> tuple[int, int]:
    """(winner, runs): the same in the plainest words."""
    order = sorted(range(len(values)), key=lambda number: (-values[number], number))
    alive, seeds, used = order[:finalists], 1, set()
    while len(alive) > 1:
        scores = {}
        for number in alive:
            seen = [values[number]]
            for seed in range(seeds):
                used.add((number, seed))
                one = fresh(number, seed)
                seen.append(float("-inf") if one is None else one)
            scores[number] = sum(seen) / len(seen)
        keep = len(alive) - len(alive) // 2
        while len(alive) > keep:
            alive.remove(min(alive, key=lambda number: (scores[number], -number)))
        alive.sort(key=lambda number: (-scores[number], number))
        seeds *= 2
    return alive[0], len(used)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=7), st.integers(0, 6), st.randoms(use_true_random=False))
def test_the_winner_is_that_of_a_second_way(values: list[int], finalists: int, random: Any) -> None:
    table: dict[tuple[int, int], float | None] = {
        (number, seed): random.choice([None, 0.0, 1.0, 2.0, 4.0]) for number in range(7) for seed in range(8)
    }
    rows = [row(number, float(value)) for number, value in enumerate(values)]
    known: dict[tuple[int, int], float | None] = {}
    standing = finals.standing(rows, finalists, known, SEED)
    while standing.missing:
        known |= {(number, seed): table[number, seed - SEED - finals.FIRST_SEED] for number, seed in standing.missing}
        standing = finals.standing(rows, finalists, known, SEED)
    assert standing.winner is not None
    wanted = second_way([float(value) for value in values], max(finalists, 1), lambda *key: table[key])
    assert (standing.winner.number, len(known)) == wanted
    assert len(known) <= finals.runs(finalists)


def test_until_a_round_is_whole_the_one_before_it_counts() -> None:
    rows = [row(0, 0.5), row(1, 0.6), row(2, 0.4), row(3, 0.9, "PRUNED"), row(4, 0.6, copied_from=1)]
    first, second = SEED + 1001, SEED + 1002
    standing = finals.standing(rows, 2, {(1, first): 0.1}, SEED)
    assert (standing.winner, standing.missing) == (rows[1], ((0, first),))
    assert finals.standing(rows, 2, {(1, first): 0.1, (0, first): 0.5}, SEED) == finals.Standing(rows[0])
    assert finals.standing(rows, 2, {(1, first): None, (0, first): 0.0}, SEED).winner == rows[0]  # it failed
    standing = finals.standing(rows, 3, {(number, first): 0.5 for number in range(3)}, SEED)
    assert standing.missing == ((1, second), (0, second))
    assert finals.standing([row(0, 0.9, "PRUNED")], 4, {}, SEED) == finals.Standing(None)
    assert finals.standing(rows, 0, {}, SEED) == finals.Standing(weights.winner(rows))


# A session


def value(run: RunningValidation) -> float:
    """Of seed s: the second best trial has the better seeds."""
    return 0.9 - 0.2 * (run.trial or 0) + 0.01 * (int(run.values["seed"]) % 7)


def driver(url: str, told: list[Any], limit: int = 2) -> Session:
    """A start of the driver with three finalists and a control, as `life.Life` has them."""
    store = Store(url, "s", space(asha=None), BASE, seed=SEED, owner="me")
    store.study.set_user_attr(aside.FINALISTS, 3)

    def missing() -> list[RunningValidation]:
        found = aside.standing(store.rows(), store.kept(), SEED).missing
        return [RunningValidation({"seed": seed, "folder": f"f/{number}-{seed}"}, number) for number, seed in found]

    def ended() -> list[dict[str, Any]]:
        best = aside.standing(store.rows(), store.kept(), SEED).winner
        told.append(("winner", best and best.number))
        return [{"seed": 1, "folder": "confirm"}]

    known = aside.CONTROL in aside.kept(store.kept())
    control = [] if known else [RunningValidation({"seed": SEED, "folder": "c/default"})]
    work = Work(store, limit, Path(), {"epochs": EPOCHS}, None, Quiet(), ended=ended)  # type: ignore[arg-type]
    work = dataclasses.replace(work, control=control, finals=missing, validated=lambda one: told.append(one.name))
    return Session(work, Budget())


def play(url: str, told: list[Any]) -> Session:
    """One worker, until there is no more work."""
    state, disk = driver(url, told), dict[int, int]()
    while (work := state.take()) is not None:
        if isinstance(work, RunningTrial):
            for _ in train(work, state, disk):
                pass
        elif isinstance(work, RunningValidation):
            state.validated(work, {"validated": scored("", None, int(work.values["seed"]), value(work))})
        else:
            told.append("confirmed")
    assert state.over
    return state


def kept(url: str) -> Mapping[str, Aside]:
    return aside.kept(Store(url, "s", space(asha=None), BASE, seed=SEED).kept())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a study whose trials have ended, and nothing else."""
    file = tmp_path_factory.mktemp("searched") / "s.db"
    state = driver(f"sqlite:///{file}", [])
    while isinstance(work := state.take(), RunningTrial):
        for _ in train(work, state, {}):
            pass
    assert not kept(f"sqlite:///{file}")
    return file


def test_further_seeds_survive_a_kill_at_each_write(searched: Path, tmp_path: Path) -> None:
    def fresh(name: object) -> str:
        shutil.copy(searched, tmp_path / f"{name}.db")
        return f"sqlite:///{tmp_path / f'{name}.db'}"

    whole: list[Any] = []
    with killed_at(-1) as writes:
        play(url := fresh("whole"), whole)
    finalists = sum(row.completed for row in Store(url, "s", space(asha=None), BASE, seed=SEED).rows())
    assert finalists == 2
    assert len(kept(url)) == finals.runs(2) + 1
    assert whole[-2:] == ["confirmed", "default"]  # who is confirmed does not wait for the control
    assert whole[-3][0] == "winner"
    for write in range(1, writes[0] + 1, 2):  # a run is kept in one write, so that every second one is enough
        told: list[Any] = []
        with killed_at(write):
            play(url_ := fresh(write), told)
        with killed_at(-1):
            play(url_, told)
        assert kept(url_) == kept(url), f"killed at write {write}"
        assert [one for one in told if one[0] == "winner"][-1] == whole[-3]
        names = [one for one in told if isinstance(one, str) and one in kept(url)]
        assert len(set(names)) >= len(kept(url)) - 1  # one may have been kept in the write before the kill
    again: list[Any] = []
    play(url, again)
    assert again == [whole[-3], "confirmed"]  # nothing is trained twice


def test_no_sampler_and_no_rung_sees_what_runs_beside(searched: Path, tmp_path: Path) -> None:
    shutil.copy(searched, tmp_path / "a.db")
    url = f"sqlite:///{tmp_path / 'a.db'}"
    told: list[Any] = []
    play(url, told)
    urls = url, f"sqlite:///{shutil.copy(searched, tmp_path / 'b.db')}"
    with_them, without = (Store(one, "s", space(asha=None), BASE, seed=SEED) for one in urls)
    assert with_them.history() == without.history()
    assert with_them.rows() == without.rows()
    # What a search has cost has the further seeds in it, and not the control.
    spent, trials = outcome.cost(with_them.rows(), with_them), outcome.cost(without.rows(), without)
    assert spent.trials == trials.trials + 2
    assert spent.epochs == trials.epochs + 2 * EPOCHS
    assert (spent.passes, spent.device_seconds) == (trials.passes + 16, trials.device_seconds + 4)
    assert with_them.propose(5) == without.propose(5)


def test_what_runs_beside_may_fail_and_die() -> None:
    state = driver(None, [], limit=0)  # type: ignore[arg-type]
    control = state.take()
    while isinstance(control, RunningConfirmation):
        control = state.take()
    assert isinstance(control, RunningValidation)
    state.run_died(control)
    state.validated(control, {"failed": "oom", "reason": "out of memory"})
    assert state.retry_waits()
    assert [state.take() for _ in range(2)] == [control, control]
    with pytest.raises(StudyError, match="default: no space; make room"):
        state.validated(control, {"failed": "disk", "reason": "no space"})
    state.run_died(control)
    found = aside.kept(state.store.kept())["default"]
    assert (found.val_map, found.error) == (None, "its worker died three times")
    assert beside.line(found) == "library default (control): failed: its worker died three times"
    state.validated(control, {"failed": "nan", "reason": "loss = nan"})
    assert aside.kept(state.store.kept())["default"].error == "loss = nan"
    assert aside.kept({aside.KEPT: {"x": {"name": "x"}, "y": 3}}) == {}  # of another version, or damaged


@pytest.mark.parametrize(("passes", "trials", "seeds"), [(20.0, 2, 2), (16.0, 2, 0)])
def test_further_seeds_have_the_last_share_of_a_budget(passes: float, trials: int, seeds: int, tmp_path: Path) -> None:
    """Eight passes a trial; a quarter is kept."""
    told: list[Any] = []
    state = driver(f"sqlite:///{tmp_path / 's.db'}", told, limit=3)
    state.budget, state.work = Budget(passes=passes), dataclasses.replace(state.work, share=0.25, control=())
    state.waiting.clear()
    while (work := state.take()) is not None:
        if isinstance(work, RunningTrial):
            for epoch in range(1, EPOCHS + 1):
                about = {"val_map": 0.1 * epoch, "best_epoch": epoch, "passes": 2.0 * epoch}
                state.reported(work, {"epoch": epoch, **about})
        elif isinstance(work, RunningValidation):
            state.validated(work, {"validated": scored("", None, int(work.values["seed"]), 0.5)})
    assert len(state.store.rows()) == trials
    ran = [one for one in told if isinstance(one, str) and one != "confirmed"]
    assert len(ran) >= seeds if seeds else not ran


# A study on tiny data


def wanted(out: str = "studies", **more: Any) -> request.StudyRequest:
    about = dataclasses.replace(asked(Path(out)), dataset="data", trials=4, epochs=2, **more)
    (study,) = request.check(about).studies
    return study


def test_a_study_with_a_control_and_finalists_to_its_closing_table(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    study = wanted(finalists=2)
    assert (study.limit, study.space.finalists, study.prior) == (2, 2, "")
    assert beside.share(study) == 0.5
    shown: list[outcome.Outcome] = []
    view = Quiet()
    view.close = lambda: None  # type: ignore[attr-defined]
    reports: list[Any] = []
    monkeypatch.setattr(node.cluster, "report", reports.append)
    monkeypatch.setattr(node.cluster, "trial_gpus", lambda: 0)
    with opening.begun(study):
        about = folder.read_study(study.folder)
        store = Store(study.url, about.name, study.space, study.base, study.seed, about.id)
        store.study.set_user_attr(aside.FINALISTS, study.space.finalists)
        asked_for = request.Request((study,), (), asked(Path()).limits)
        chance: Any = {"chance": (0.0, 0.0, 0.0)}
        one = life.Life(study, store, asked_for, chance, "", view, shown.append)  # type: ignore[arg-type]
        state = Session(one.work(), Budget())
        places = node.places([one.work()], False, "")
        while (work := state.take()) is not None:
            if isinstance(work, RunningTrial):
                for epoch in (1, 2):
                    state.reported(work, {"epoch": epoch, "val_map": 0.3 + work.number / 10, "best_epoch": 1})
            elif isinstance(work, RunningValidation):
                node.do_task({"study": 0, "kind": "validate", "key": "", "values": work.values}, places)
                state.validated(work, reports.pop())
    (found,) = shown
    assert sorted(found.asides) == ["0-1001", "1-1001", "default"]
    control = found.asides["default"]
    assert control.seed == study.seed
    assert control.val_map is not None
    assert (control.epochs, control.device) == (1, "cpu, 1 thread") or control.epochs >= 1
    assert not list(study.folder.glob("*/*/checkpoint.*"))  # nobody needs them
    assert (study.folder / "controls" / "default" / "curve.csv").is_file()
    text = closing.table(found)
    assert f"library default         {control.val_map_i2t:>8.4f}" in text
    assert "library default: set by hand on the validation split of clipart\n" in text
    assert f"validation of trial {found.best.number}: " in text
    assert "the best trials get further seeds on validation (trial 1: 1001; trial 0: 1001)" in caplog.text
    best = yaml.safe_load((study.folder / "best.yml").read_text())["search"]
    assert (best["trials"], best["prior"]) == (4, "")
    # A run that fails is told, and takes nothing with it.
    bad: dict[str, Any] = {"gamma": 1, "folder": str(study.folder / "controls" / "x")}
    node.do_task({"study": 0, "kind": "validate", "key": "", "values": bad}, places)
    assert reports.pop()["failed"] == "error"


def test_the_default_is_a_start_point_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    study = wanted(warm_start=("defaults",))
    assert (study.prior, [name for name, _ in study.space.start_from]) == ("defaults", ["default"])
    store = Store(None, "s", study.space, study.base, 0)
    assert beside.control(study, store) == []
    first = store.propose(4)
    assert first is not None
    assert (first.origin, first.config) == ("default", study.base)
    with opening.begun(study):
        pass
    written = yaml.safe_load((study.folder / "study.yml").read_text())
    assert written["identity"]["start_from"] == ["default"]
    # It goes on so without the word: this is how studies began before.
    caplog.set_level(logging.INFO)
    again = wanted()
    assert "goes on as it began, with the library's default among its start points (a prior" in caplog.text
    with opening.begun(again):
        pass
    assert (again.space, again.prior) == (study.space, "defaults")
    # One that began from scratch does not take it up.
    with opening.begun(wanted("scratch")):
        pass
    with (
        pytest.raises(StudyError, match=r"start_from: \[\] there, \['default'\] here"),
        opening.begun(wanted("scratch", warm_start=("defaults",))),
    ):
        pass


def test_bad_starts_and_finalists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--warm-start a b: takes one study, and the word defaults beside it"):
        wanted(warm_start=("a", "defaults", "b"))
    text = "method: ridge\nparams:\n  lambda_image: {float: [90, 99]}\n  lambda_text: {float: [1, 2]}\nstart_from: []\n"
    Path("narrow.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"--warm-start defaults: lambda_image = .* of the default lies outside"):
        wanted(spaces=("narrow.yml",), warm_start=("defaults",))
    with pytest.raises(ConfigError, match=r"ridge: 4 finalists take 6 of the 4 trials .* --trials 10 or more"):
        wanted(finalists=4)
    Path("narrow.yml").write_text(text + "finalists: -1\n")
    with pytest.raises(ConfigError, match="finalists is -1, but must be an integer >= 0"):
        wanted(spaces=("narrow.yml",))
    Path("narrow.yml").write_text(text + "finalists: 2\n")
    assert wanted(spaces=("narrow.yml",)).space.finalists == 2
    assert wanted(spaces=("narrow.yml",), finalists=0).limit == 4
    assert tune.main(["--method", "ridge", "--dataset", "data", "--bits", "8", "--finalists", "9"]) == 2
    assert "9 finalists take" in capsys.readouterr().err


def test_shipped_spaces_start_from_the_papers_point_alone() -> None:
    files = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yml"))
    assert len(files) > 15
    for file in files:
        assert yaml.safe_load(file.read_text())["start_from"] in (["paper"], []), file.name


# What the closing table and the board say


def test_the_closing_table_shows_the_winners_optimism(monkeypatch: pytest.MonkeyPatch) -> None:
    study = wanted()
    best = row(1, 0.62)
    runs = {one.name: one for one in (scored("1-1001", 1, 1001, 0.6), scored("default", None, 0, 0.5))}
    made = [dataclasses.replace(record(seed=seed), validation={"map": 0.61}) for seed in (1, 2)]
    monkeypatch.setattr(closing, "_test", lambda _: ("", ""))
    text = closing.table(outcome.Outcome(study, [best], best, {}, made, runs))
    assert (
        "validation of trial 1: 0.6200 where it was selected, 0.6000 with 1 further seed, which named it, 0.6100 with"
        " 2 fresh seeds (optimism +0.0100)\n"
    ) in text
    failed = {"default": aside.failed("default", None, 0, "loss = nan")}
    text = closing.table(outcome.Outcome(study, [best], best, {}, [], failed))
    assert "library default (failed)" in text
    assert "validation of trial" not in text
    assert closing.about_default("clipart", "dcmh", "defaults") == [
        "library default: set by hand on the validation split of clipart, of this or an earlier version: "
        "no fresh value here",
        "the search started from it (a prior): tuned is not the search's merit alone",
    ]
    assert closing.about_default("data", "mine.py", "") == []


def test_a_board_says_which_searches_had_a_prior(tmp_path: Path) -> None:
    from cmh import leaderboard

    for name, text in (("new", line()), ("old", line().replace('"prior": "", ', ""))):
        (tmp_path / name).mkdir()
        assert ('"prior"' in text) == (name == "new")
        (tmp_path / name / "records.jsonl").write_text(text + "\n")
    (new,), (old,) = (records.read(tmp_path / name)[0] for name in ("new", "old"))
    assert (new.prior, old.prior) == ("", records.NOT_NOTED if old.selection == "validation" else "")
    points = [(name, ()) for name in ("paper", "default", "warm 1", "warm 2", "point 2", "from")]
    assert dataclasses.replace(space(), start_from=tuple(points)).prior == "defaults, warm start, points, from"
    assert leaderboard.main([str(tmp_path), "--csv", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "b.csv").read_text().splitlines()[0].endswith(",prior")


def test_keepers_keep_all_who_may_still_win(tmp_path: Path) -> None:
    keeper = weights.Keeper(tmp_path, [], 2)
    for number, best in enumerate((0.5, 0.4, 0.6, 0.1)):
        (tmp_path / "trials" / str(number)).mkdir(parents=True)
        (tmp_path / "trials" / str(number) / "checkpoint.pt").touch()
        keeper.ended(row(number, best))
    assert {path.parent.name for path in tmp_path.glob("trials/*/checkpoint.pt")} == {"0", "2"}
    rows = [row(number, best) for number, best in enumerate((0.5, 0.4, 0.6, 0.1))]
    assert [path.parent.name for path in weights.superfluous(tmp_path, rows)] == ["0"]
    assert weights.superfluous(tmp_path, rows, 2) == []


def test_the_control_is_the_library_s_default_under_what_is_fixed() -> None:
    study = wanted(settings=("lambda_text=2",))
    (run,) = beside.control(study, Store(None, "s", study.space, study.base, 0))
    defaults = config.defaults(methods.get("ridge").Config)
    assert {key: run.values[key] for key in defaults} == {**defaults, "lambda_text": 2.0}
    assert run.values["seed"] == study.seed
    assert str(run.values["folder"]).endswith("controls/default")
