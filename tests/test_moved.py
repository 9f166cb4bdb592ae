"""Studies, runs and data that were moved, or belong to somebody else: no path of this machine is in their files."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cmh import files, ledger, methods, reproduce, study, training, tune
from cmh.errors import ConfigError
from cmh.methods.__main__ import main as methods_main
from cmh.study import folder, opening, outcome, request
from cmh.study.storage import Store
from cmh.study.trial_row import TrialRow
from tests.test_address import asked
from tests.test_reproduce import SMALL, file, forget, here, made_study, make_data, recorded, run  # noqa: F401


def searched(out: str = "studies", method: str = "mine.py") -> Path:
    """A study of a method of one's own on data of one's own, as a search leaves it before its confirmation, without
    Ray: two trials of two epochs."""
    sizes = {key: value for key, value in SMALL.items() if key != "batch_size"}
    about = asked(Path(out))
    about = dataclasses.replace(
        about,
        methods=(method,),
        dataset="data",
        settings=tuple(f"{key}={value}" for key, value in sizes.items()),
        epochs=2,
        trials=2,
    )
    (wanted,) = request.check(about).studies
    with opening.begun(wanted):
        about_study = folder.read_study(wanted.folder)
        store = Store(wanted.url, about_study.name, wanted.space, wanted.base, wanted.seed, about_study.id)
        module = methods.get(wanted.space.method)
        for _ in range(2):
            proposal = store.propose(2)
            assert proposal is not None
            place = wanted.folder / "trials" / str(proposal.number)
            values = {**proposal.config, **wanted.noted_run, "folder": str(place)}
            settings, config = training.parse(module, values)
            fitted = training.fit(module, settings, config, wanted.dataset.search(), folder=place)
            for epoch in fitted.curve:
                store.report(proposal.number, epoch.epoch, epoch.val_map)
            found = {"best_i2t": fitted.best.val_map_i2t, "best_t2i": fitted.best.val_map_t2i}
            store.complete(proposal.number, {**found, "best_epoch": fitted.best.epoch})
        rows: list[TrialRow] = store.rows()
        folder.write_trials(wanted.folder, rows, list(rows[0].config))
        best = max(rows, key=lambda row: row.val_map_best or 0)
        outcome.write_winner(wanted, best, outcome.cost(rows, store))
    return wanted.folder


@pytest.fixture
def mine() -> None:
    assert methods_main(["new", "mine"]) == 0


@pytest.mark.usefixtures("mine")
def test_no_file_of_a_study_names_this_machines_folders(tmp_path: Path) -> None:
    place = searched()
    texts = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert len(texts) >= 10
    assert [path for path, text in texts.items() if str(tmp_path).encode() in text] == []
    best = yaml.safe_load((place / "best.yml").read_text())
    assert (best["method"], best["dataset"]) == ("../../mine.py", "../../data")
    about = yaml.safe_load((place / "study.yml").read_text())
    assert (about["method_file"], about["dataset"]) == ("../../mine.py", "../../data")
    # A run of it neither.
    assert run(place) == 0
    (made,) = recorded()
    assert [path for path in made.rglob("*") if path.is_file() and str(tmp_path).encode() in path.read_bytes()] == []


@pytest.mark.usefixtures("mine")
def test_all_of_it_moved_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = searched()
    number = yaml.safe_load((place / "best.yml").read_text())["search"]["trial"]
    assert run(place) == 0
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-there", ignore=shutil.ignore_patterns("cache"))
    there = tmp_path.parent / f"{tmp_path.name}-there"
    for name in ("mine.py", "data", "studies", "runs"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    forget()
    for target in (there / place, f"{there / place}:{number}"):
        capsys.readouterr()
        assert run(target, "--out", there / "more") == 0
    (done,) = (there / "runs").glob("mine-*")
    assert run(done, "--check") == 0
    assert capsys.readouterr().out.endswith("check: everything agrees\n")
    assert len(study.open(there / "studies" / place.name).trials) == 2


@pytest.mark.usefixtures("mine")
def test_what_was_moved_apart_is_named_with_its_cure(capsys: pytest.CaptureFixture[str]) -> None:
    place = searched()
    assert run(place) == 0
    shutil.move("data", "elsewhere")
    Path("other").mkdir()
    shutil.move("mine.py", "other/mine.py")
    forget()
    (made,) = recorded()
    for target in (place, made):
        capsys.readouterr()
        assert run(target) == 2
        error = capsys.readouterr().err
        assert "mine.py: no such file; --method FILE says where it is now" in error
        assert "data: no such folder; --dataset DIR says where it is now" in error
    for more, part in ((), "--method FILE"), (("--method", "other/mine.py"), "--dataset DIR"):
        assert run(f"{place}:0", *more) == 2
        assert part in capsys.readouterr().err
    now = ["--dataset", "elsewhere", "--method", "other/mine.py"]
    assert run(made, "--check", *now) == 0
    assert capsys.readouterr().out.endswith("check: everything agrees\n")
    assert run(f"{place}:0", "--check", *now) == 0
    assert run(place, *now) == 0
    assert "already trained" in capsys.readouterr().out
    assert {record.selection for rows in recorded().values() for record in rows} == {"validation"}
    # Other data in its place are not the study's selection.
    make_data(Path("edited"), changed=True)
    assert run(place, "--dataset", "edited", "--method", "other/mine.py", "--out", "others") == 0
    assert {record.selection for rows in recorded("others").values() for record in rows} == {"fixed"}


def test_files_that_name_what_lies_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a bare name, from wherever the command is given; and, as before, from the current folder."""
    file(dataset="data")
    file(name="from here.yml", dataset="./data")
    Path("below").mkdir()
    shutil.move("from here.yml", "below/it.yml")
    assert run("below/it.yml", "--out", "one") == 0
    monkeypatch.chdir(tmp_path / "below")
    assert run("../run.yml", "--out", "two") == 0
    assert [len(rows) for rows in recorded("../one", "two").values()] == [1, 1]


def test_weights_that_were_moved(capsys: pytest.CaptureFixture[str]) -> None:
    """`--set weights=` says where they are, and a path goes from the file that names it."""
    file(weights="w.pt", dataset="clipart", features="conv4")
    assert run("run.yml", "--set", "epochs=1") == 2
    assert str(Path("w.pt").resolve()) in capsys.readouterr().err
    assert run("run.yml", "--set", "epochs=1", "weights=below/v.pt") == 2
    assert str(Path("below/v.pt").resolve()) in capsys.readouterr().err


# Seeds and trials


@pytest.mark.usefixtures("mine")
def test_a_trial_with_other_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    place = searched()
    opened = len(ledger.openings(place / ledger.OWN))
    assert run(f"{place}:1", "--seeds", "3") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"trial 1, seed {seed}" for seed in (1, 2, 3)]
    assert len({line.partition("validation MAP")[2].partition(";")[0] for line in said}) == 3
    (made,) = Path("runs").glob("mine-made-8-trial-1-*")
    assert sorted(path.name for path in made.iterdir()) == ["seed-1", "seed-2", "seed-3"]
    assert len(ledger.openings(place / ledger.OWN)) == opened == 0
    assert run(f"{place}:1", "--test") == 2
    assert "is a trial of a search, which never meets the test split" in capsys.readouterr().err


def test_a_run_that_was_killed_between_two_seeds_goes_on_by_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file(seeds=[1, 2])) == 0
    (place,) = recorded()
    records_file = place / "records.jsonl"
    records_file.write_text(records_file.read_text().splitlines()[0] + "\n")
    shutil.rmtree(place / "seed-2")
    capsys.readouterr()
    assert run(place) == 0
    assert [record.identity.seed for record in recorded()[place]] == [1, 2]
    assert run(place, "--seeds", "3") == run(place) == 0
    assert capsys.readouterr().out.count("seed 3: already trained") == 1


# Of another user


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_study_that_cannot_be_written(
    confirmed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = made_study() if confirmed else searched()
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    monkeypatch.setattr("os.access", lambda path, mode: not Path(path).resolve().is_relative_to(place.resolve()))
    monkeypatch.setattr("cmh.files.write_atomic", refused_below(place))
    for target in (place, *([] if confirmed else [f"{place}:0"])):
        assert reproduce.main([str(target), "--out", "own"]) == 0
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert len(recorded("own")) == 1
    assert len(ledger.openings(Path("own") / f"{place.name}.{ledger.OWN}")) == 1


def refused_below(place: Path) -> Callable[[Path, bytes | str], None]:
    write = files.write_atomic

    def guarded(path: Path, data: bytes | str) -> None:
        if path.resolve().is_relative_to(place.resolve()):
            raise OSError(30, "Read-only file system", str(path))
        write(path, data)

    return guarded


@pytest.mark.parametrize("way", ["a file", "a disk that is read-only", "one that has become so"])
def test_results_where_nothing_can_be_written(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file()
    if way == "a file":
        Path("runs").write_text("")
    elif way == "one that has become so":
        assert run("run.yml") == 0
        monkeypatch.setattr("cmh.files.write_atomic", refused_below(Path("runs")))
    else:
        monkeypatch.setattr("cmh.files.write_atomic", refused_below(Path("runs")))
    assert run("run.yml") == 2
    assert "use --out for another folder" in capsys.readouterr().err


# The winner of another study as a base


@pytest.mark.usefixtures("mine")
def test_a_search_around_the_winner_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    place = searched()
    best = yaml.safe_load((place / "best.yml").read_text())["config"]
    Path("narrow.yml").write_text(
        "method: mine\nparams:\n  quantisation: {float: [1.0e-6, 100], log: true}\nstart_from: [default]\n"
    )
    about = dataclasses.replace(
        asked(Path("around")),
        methods=("mine.py",),
        spaces=("narrow.yml",),
        dataset="data",
        settings=("lr_text=0.005",),
        base=place,
    )
    (study_,) = request.check(about).studies
    rest = {key: value for key, value in best.items() if key != "quantisation"}
    assert study_.fixed == {**rest, "lr_text": 0.005}
    assert {key: study_.base[key] for key in rest} == dict(study_.fixed)
    starts = dict(study_.space.starts())
    assert list(starts) == ["default", "from"]
    assert starts["from"] == {**best, "lr_text": 0.005}
    with opening.begun(study_):
        written = yaml.safe_load((study_.folder / "study.yml").read_text())
    assert written["from"] == "../../studies/mine-made-8"
    assert written["identity"]["fixed"] == study_.fixed
    # The winner lies outside: it is no point to start from, but a base.
    Path("narrow.yml").write_text("method: mine\nparams:\n  quantisation: {float: [90, 99]}\nstart_from: []\n")
    if not 90 <= best["quantisation"] <= 99:
        (study_,) = request.check(dataclasses.replace(about, out=Path("more"))).studies
        assert study_.space.starts() == []
    arguments = ["--method", "ridge", "--dataset", "data", "--plan", "--from"]
    assert tune.main([*arguments, str(place)]) == 2
    assert f"--from {place}: is a study of mine, but must be one of ridge" in capsys.readouterr().err
    assert tune.main([*arguments, "data"]) == 2
    assert "--from data: has no best.yml" in capsys.readouterr().err
    document = yaml.safe_load((place / "best.yml").read_text())
    folder.write_yaml(place / "best.yml", {**document, "config": {**best, "colour": "red"}})
    with pytest.raises(ConfigError, match="'colour' is not known"):
        request.check(about)
