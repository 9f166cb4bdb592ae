"""What stays of a study on disk, and the command that lists and cleans studies. No Ray, no training."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmh import files, studies
from cmh.study import address, folder, request, summary, weights
from cmh.study.life import Life
from cmh.study.opening import begun
from cmh.study.outcome import Outcome
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow, from_stored
from cmh.study.weights import Keeper
from cmh.study.work import Work
from cmh.views import closing, listing
from tests.made_study import MadeStudy
from tests.test_address import asked, study_of
from tests.test_faults import BASE, Quiet, killed_at, session, space, take, train, urls
from tests.test_records import line, record


def row(number: int, state: str, value: float, copied_from: int | None = None) -> TrialRow:
    result = {} if copied_from is None else {"copied_from": copied_from}
    return from_stored(number, state, {1: value}, {"result": result}, {})


def put(place: Path, *numbers: int) -> None:
    """Weights of trials, as workers leave them."""
    for number in numbers:
        (place / "trials" / str(number)).mkdir(parents=True, exist_ok=True)
        (place / "trials" / str(number) / "config.json").touch()
        (place / "trials" / str(number) / "checkpoint.pt").write_bytes(b"w" * 2**20)


def left(place: Path) -> set[int]:
    """The trials that have weights."""
    return {int(path.parent.name) for path in place.glob("trials/*/checkpoint.*")}


def test_only_the_winner_and_what_goes_on_keep_their_weights(tmp_path: Path) -> None:
    rows = [
        row(0, "COMPLETE", 0.5),
        row(1, "PRUNED", 0.9),
        row(2, "COMPLETE", 0.7),
        row(3, "FAIL", 0.1),
        row(4, "RUNNING", 0.2),
        row(5, "COMPLETE", 0.7, copied_from=2),
        row(6, "COMPLETE", 0.7),
    ]
    put(tmp_path, 0, 1, 2, 3, 4, 6)
    (tmp_path / "trials" / "3" / "checkpoint.damaged").touch()
    (tmp_path / "confirm" / "2-1").mkdir(parents=True)
    (tmp_path / "confirm" / "2-1" / "checkpoint.pt").touch()
    found = weights.superfluous(tmp_path, rows)
    assert [(path.parent.name, path.suffix) for path in found] == [
        *(("0", ".pt"), ("1", ".pt"), ("3", ".damaged"), ("3", ".pt"), ("6", ".pt"))
    ]
    weights.remove([*found, tmp_path / "gone"])
    assert left(tmp_path) == {2, 4}
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 3
    # Where the winner took over what another had trained, its weights are that one's.
    assert weights.superfluous(tmp_path, [row(1, "COMPLETE", 0.7, copied_from=2), row(2, "COMPLETE", 0.7)]) == []
    assert weights.winner([row(0, "PRUNED", 0.9), row(1, "FAIL", 0.9)]) is None


def play(url: str, place: Path, disk: dict[int, int]) -> None:
    """A start of the driver, two trials at once, whose workers write weights before each report."""
    store = Store(url, "s", space(), BASE, seed=3)
    state = session(store, 9, place)
    state.work = dataclasses.replace(state.work, keeper=Keeper(place, store.rows()))
    running: dict[int, Iterator[None]] = {}
    while True:
        while len(running) < 2 and (trial := take(state)) is not None:
            running[trial.number] = train(trial, state, disk)
        if not running:
            return
        for number, one in list(running.items()):
            put(place, number)
            if next(one, "done") == "done" or number not in state.running:
                del running[number]
                best = weights.winner(store.rows())
                assert left(place) - set(state.running) == ({best.number} if best else set())


def test_weights_go_as_the_search_goes(tmp_path: Path) -> None:
    """Also over kills: nothing that goes on is missed, and what a kill leaves goes with the next sweep."""
    fresh = urls(tmp_path)
    play(next(fresh), tmp_path / "whole", {})
    url, disk, place = next(fresh), dict[int, int](), tmp_path / "killed"
    for start in range(100):
        with killed_at(11 + start % 4):
            store = Store(url, "s", space(), BASE, seed=3)
            going = {one.number for one in store.rows() if one.state == "interrupted"}
            assert going & set(disk) <= left(place)
            weights.remove(weights.superfluous(place, store.rows()))
            play(url, place, disk)
            break
    assert start > 3
    rows = Store(url, "s", space(), BASE, seed=3).rows()
    weights.remove(weights.superfluous(place, rows))
    best = weights.winner(rows)
    assert best is not None
    assert left(place) == left(tmp_path / "whole") == {best.number}


@functools.cache
def checked() -> request.StudyRequest:
    return study_of(Path("studies"))


def made(out: Path) -> tuple[request.StudyRequest, Store]:
    """A study that has ended its search: trial 1 has won; trial 2 was pruned."""
    place = out / "ridge-clipart-8"
    study = dataclasses.replace(checked(), folder=place, url=address.of_file(place.resolve() / "study.db"))
    with begun(study):
        about = folder.read_study(study.folder)
        store = Store(study.url, about.name, study.space, study.base, study.seed, about.id)
    store.study.set_user_attr("asked", 3)
    for value in (0.5, 0.7, 0.6):
        proposal = store.propose(3)
        assert proposal is not None
        store.report(proposal.number, 1, value)
        if value == 0.6:
            store.prune(proposal.number, 1, {})
        else:
            store.complete(proposal.number, {})
    put(study.folder, 0, 1, 2)
    return study, store


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> request.StudyRequest:
    monkeypatch.chdir(tmp_path)
    return made(Path("my studies"))[0]


def test_cleaning_shows_first_and_removes_when_it_is_told(
    ended: request.StudyRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    place, before = ended.folder, sorted(ended.folder.rglob("*"))
    assert studies.main(["clean", "my studies"]) == 0
    shown = capsys.readouterr().out
    assert "1.0 MiB  my studies/ridge-clipart-8/trials/0/checkpoint.pt" in shown
    assert shown.endswith("2.0 MiB  would be freed; --delete frees them\n")
    assert sorted(place.rglob("*")) == before
    assert studies.main(["clean", str(place), "--delete"]) == 0
    assert "2.0 MiB  freed" in capsys.readouterr().out
    assert left(place) == {1}
    assert len(list(place.rglob("config.json"))) == 3
    assert studies.main(["clean", str(place), "--delete"]) == 0
    assert "0.0 MiB  freed" in capsys.readouterr().out


def test_a_running_study_is_not_cleaned(ended: request.StudyRequest, capsys: pytest.CaptureFixture[str]) -> None:
    with files.locked(ended.folder / ".lock"):
        assert studies.main(["clean", "my studies"]) == studies.main(["clean", "my studies", "--delete"]) == 2
        assert capsys.readouterr().err.count("is running, and cleans up by itself; interrupt it first") == 2
        assert studies.main([]) == 2  # there is no folder `studies` here
        assert "studies: is no folder" in capsys.readouterr().err
        for word, hint in (("reprot", "did you mean 'report'?"), ("foo", "commands: list, show, clean, report")):
            assert studies.main([word]) == 2
            assert f"{word}: is neither a command of cmh.studies nor a folder; {hint}" in capsys.readouterr().err
        assert studies.main(["my studies"]) == 0
        assert "running" in capsys.readouterr().out
    assert left(ended.folder) == {0, 1, 2}


def test_what_cannot_be_cleaned_is_named_and_the_rest_is(
    ended: request.StudyRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path("my studies") / "b").mkdir()
    (Path("my studies") / "b" / "study.yml").write_text("identity: {method: ridge}\nstorage: sqlite:///gone.db\n")
    assert studies.main(["clean", "my studies", "--delete"]) == 2
    shown = capsys.readouterr()
    assert "2.0 MiB  freed" in shown.out
    assert "my studies/b: the storage" in shown.err
    assert studies.main(["my studies"]) == 0
    assert "unreadable" in capsys.readouterr().out

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cmh.views.cleaning.files.locked", refuse)
    assert studies.main(["clean", str(ended.folder), "--delete"]) == 2
    assert "cannot be written (Permission denied); only its owner can clean it" in capsys.readouterr().err


def test_the_list_says_how_far_each_study_is(ended: request.StudyRequest, capsys: pytest.CaptureFixture[str]) -> None:
    place = ended.folder

    def shown() -> list[str]:
        assert studies.main(["list", "my studies"]) == 0
        header, line = capsys.readouterr().out.splitlines()
        assert header.split("  ")[0] == "study"
        return [cell.strip() for cell in line.split("  ") if cell.strip()]

    line_of = shown()
    assert line_of[:5] == ["my studies/ridge-clipart-8", "interrupted", "3/3", "0.7000", "trial 1"]
    assert line_of[-1] == "the command that began it goes on"
    (place / "best.yml").write_text(yaml.safe_dump({"config": record().identity.config}))
    assert (shown()[1], shown()[-1]) == ("searched", "python -m cmh.reproduce 'my studies/ridge-clipart-8'")
    other = json.loads(line())
    other["identity"]["config"] = {"of": "an earlier winner"}
    (place / "records.jsonl").write_text(json.dumps(other) + "\n")
    assert shown()[1] == "searched"
    (place / "records.jsonl").write_text(line() + "\n")
    assert (shown()[1], shown()[-1]) == ("confirmed", "python -m cmh.leaderboard 'my studies/ridge-clipart-8'")
    assert summary.read(place).confirmed == 1
    _, store = ended, Store(ended.url, folder.read_study(place).name, ended.space, ended.base, ended.seed)
    store.study.set_user_attr("asked", 5)
    assert shown()[1:3] == ["interrupted", "3/5"]
    assert studies.main([str(place / "trials")]) == 0
    assert "no studies in" in capsys.readouterr().out


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in studies.COMMANDS)
    with pytest.raises(SystemExit):
        studies.main(["clean", "--help"])
    assert "--delete" in capsys.readouterr().out


def test_a_study_keeps_what_it_was_told_to_keep(tmp_path: Path) -> None:
    def wanted(keep: str | None) -> request.StudyRequest:
        about, base = dataclasses.replace(asked(tmp_path), keep=keep), checked()
        study = request._study(about, base.space, {}, 8, {}, base.dataset)
        with begun(study):
            folder.note(study.folder, "keep", study.keep)
        return study

    assert [wanted(keep).keep for keep in (None, "all", None, "winner", None)] == [
        *("winner", "all", "all", "winner", "winner")
    ]


@pytest.mark.parametrize("keep", weights.KEEP)
def test_the_end_of_a_search_removes_what_a_late_worker_wrote(keep: str, tmp_path: Path) -> None:
    study, store = made(tmp_path)
    study = dataclasses.replace(study, keep=keep)
    view: Any = Quiet()
    view.close = lambda: None
    life = Life(study, store, request.Request((study,), (), asked(tmp_path).limits), {}, "", view, lambda _: None)
    work: Work = life.work()
    assert (work.keeper is None) == (keep == "all")
    life.close()
    life.tidy()
    assert left(study.folder) == ({0, 1, 2} if keep == "all" else {1})


def test_the_closing_lines_say_where_the_winners_weights_are(ended: request.StudyRequest) -> None:
    best, controls = row(1, "COMPLETE", 0.7), {"chance": (0.1, 0.1, 0.1)}
    text = closing.table(Outcome(ended, [best], best, controls, []))
    assert "the winner's weights  my studies/ridge-clipart-8/trials/1/checkpoint.pt\n" in text
    found = Outcome(ended, [best], best, controls, [record(seed=1), record(seed=2)])
    assert closing._weights(found) == "my studies/ridge-clipart-8/confirm/1-SEED/checkpoint.pt (seeds 1, 2)"


def test_a_study_of_given_points_is_measured_without_a_winner(tmp_path: Path) -> None:
    place = tmp_path / "dcmh-clipart-16-sweep-gamma"
    MadeStudy(place)
    folder.note(place, folder.POINTS, {"gamma=1.0, seed 1": {"gamma": 1.0, "seed": 1}})
    found = summary.read(place)
    assert (found.state, listing._next(found)) == ("measured", "the command that began it shows it")
    folder.note(place, folder.POINTS, {})
    assert summary.read(place).state == "interrupted"
