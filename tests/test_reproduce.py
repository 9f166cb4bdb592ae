"""Runs by `cmh.reproduce` on a tiny dataset: what is trained, taken up, counted, recorded, compared and refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cmh import datasets, evaluate, leaderboard, ledger, methods, records, reproduce, training
from cmh.identity import BEFORE
from cmh.methods.__main__ import main as methods_main
from cmh.records import Cost, Record
from cmh.study import confirm, folder
from cmh.training import fitting, run_folder

SMALL = {"hidden_image": 8, "hidden_text": 8, "batch_size": 32}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with data, cache and ledger of its own; methods loaded from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMH_DATA", str(tmp_path / "ledgers"))
    make_data(tmp_path / "data")
    yield tmp_path
    forget()


def forget() -> None:
    """Own methods of this process, as a new process would."""
    for name in [name for name in sys.modules if name.startswith("cmh.methods.mine")]:
        del sys.modules[name]


def make_data(place: Path, *, left_out: int = 0, changed: bool = False) -> None:
    """5 classes, features of 32 and 40 columns, 20 + 20 queries, 100 to train, 30 more."""
    draw, n = np.random.default_rng(0), 170
    classes = draw.integers(0, 5, n)
    labels = np.eye(5, dtype=np.uint8)[classes]
    image = (labels @ draw.normal(size=(5, 32)) + 0.3 * draw.normal(size=(n, 32))).astype("f4")
    text = ((labels @ (draw.random((5, 40)) < 0.2)) > 0).astype("f4")
    text[draw.random(text.shape) < 0.2] = 0
    if changed:
        text[60, 0] = 1 - text[60, 0]
    split = np.array(["query"] * 20 + ["validation"] * 20 + ["train"] * 100 + ["database"] * 30)
    kept = slice(n - left_out)
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / "data.npz", image=image[kept], text=text[kept], labels=labels[kept], split=split[kept])
    (place / "dataset.yml").write_text("name: made\nfeatures: data.npz\n")


def file(method: str = "dcmh", name: str = "run.yml", **changes: Any) -> Path:
    """An experiment file in the working folder."""
    config = SMALL if method != "ridge" else {}
    about = {"method": method, "dataset": str(Path("data").resolve()), "bits": 8, "epochs": 2, "threads": 1}
    Path(name).write_text(yaml.safe_dump({**about, "config": dict(config), **changes}))
    return Path(name)


def run(*arguments: Any) -> int:
    return reproduce.main(list(map(str, arguments)))


def recorded(*roots: str) -> dict[Path, list[Record]]:
    """The records of all folders below, each read without a complaint."""
    places = sorted(path.parent for root in roots or ("runs",) for path in Path(root).rglob("records.jsonl"))
    found = {}
    for place in places:
        found[place], problems = records.read(place)
        assert problems == []
    return found


def made_study(name: str = "studies/dcmh-made-8", seeds: tuple[int, ...] = (11, 12, 13), **more: Any) -> Path:
    """A confirmed study as `cmh.tune` leaves it, without the search that it would make with Ray."""
    place = Path(name)
    run_settings = {"dataset": str(Path("data").resolve()), "bits": 8, "epochs": 2, "threads": 1}
    run_settings |= {key: getattr(training.Run, key) for key in BEFORE}  # as `cmh.tune` names them
    place.mkdir(parents=True)
    config = dataclasses.asdict(training.parse(methods.get("dcmh"), SMALL)[1])
    best = {"method": "dcmh", **run_settings, "seeds": [0], "selection": "validation", "config": config}
    folder.write_yaml(place / "best.yml", {**best, "search": {"trials": 4, "epochs": 8}})
    dataset = datasets.load(str(run_settings["dataset"]))
    values = {**config, **run_settings, **more}
    identity = confirm.identify("dcmh", values, dataset)
    opened = ledger.open_test(
        dataset.name, dataset.split_sha256, "a test", identity=identity, seeds=list(seeds), folder=place
    )
    for seed in seeds:
        found = confirm.run("dcmh", {**values, "seed": seed, "folder": str(place / "confirm" / str(seed))})
        confirm.write_record(place, found, selection="validation", search=Cost(4, 8), opened=opened)
    return place


def board(capsys: pytest.CaptureFixture[str], *roots: str) -> tuple[list[dict[str, str]], str]:
    """The rows, and the notes on stderr."""
    capsys.readouterr()
    assert leaderboard.main([*(roots or ("runs",)), "--csv", "board.csv"]) == 0
    with Path("board.csv").open(newline="") as rows:
        return list(csv.DictReader(rows)), capsys.readouterr().err


# What is trained, and what is taken up


def test_another_loss_is_another_run_and_a_comment_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert methods_main(["new", "mine"]) == 0
    experiment = file("mine.py")
    first = run(experiment), capsys.readouterr().out
    assert first[0] == 0
    assert "trained on" not in first[1]
    ((place, (record,)),) = recorded().items()

    source = Path("mine.py").read_text()
    Path("mine.py").write_text(source.replace("    pairs = ", "    # the pairs\n    pairs = "))
    forget()
    assert run(experiment) == 0
    assert f"seed 1: already trained on {record.date[:16]}; --fresh trains again" in capsys.readouterr().out
    assert list(recorded().values()) == [[record]]

    Path("mine.py").write_text(source.replace("    pairs = ", "    pairs = -"))
    forget()
    assert run(experiment) == 0
    assert "trained on" not in capsys.readouterr().out
    found = recorded()
    assert len(found) == 2
    ((other,),) = (rows for key, rows in found.items() if key != place)
    assert other.test["map"] != record.test["map"]
    assert other.identity.differences(record.identity) == [
        f"code: {other.identity.code} there, {record.identity.code} here"
    ]
    assert (record.test_opened, other.test_opened) == (1, 2)


def test_fresh_trains_again_and_gives_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = file()
    assert run(experiment) == run(experiment, "--fresh") == 0
    assert "already trained" not in capsys.readouterr().out
    ((first, second),) = recorded().values()
    assert second.test == first.test
    assert second.identity == first.identity
    assert second.training.seconds != first.training.seconds  # it was trained indeed
    assert (first.test_opened, second.test_opened) == (1, 1)  # and shows what was shown already


def test_a_finished_or_begun_training_without_a_record_is_taken_up_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
    experiment = file(epochs=3)
    assert run(experiment) == 0
    ((place, (whole,)),) = recorded().items()
    (place / "records.jsonl").unlink()
    capsys.readouterr()
    assert run(experiment) == 0
    said = capsys.readouterr().out
    assert "seed 1: already trained on 20" in said
    assert "--fresh trains again" in said
    (place / "records.jsonl").unlink()

    def killed(self: Any, dataset: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        append = run_folder.append

        def after_two(path: Path, row: Mapping[str, object], *, first: bool) -> None:
            if row["epoch"] == 3:
                raise KeyboardInterrupt
            append(path, row, first=first)

        patch.setattr(run_folder, "append", after_two)
        assert run(experiment, "--fresh") == 130
    assert run(experiment) == 0
    assert "seed 1: went on after epoch 2 of 20" in capsys.readouterr().out
    ((again,),) = recorded().values()
    assert again.test == whole.test


def test_the_record_of_a_closed_form_says_what_it_did() -> None:
    assert run(file("ridge", epochs=30)) == 0
    (((record,),)) = recorded().values()
    assert record.identity.epochs == record.training.epochs == record.chosen_epoch == 1
    passes = record.training.passes
    fitted = training.fit(
        *(module := methods.get("ridge"),),
        *training.parse(module, {"bits": 8, "threads": 1}),
        datasets.load("data").search(),
    )
    assert passes == fitted.curve[-1].passes


def test_a_run_of_other_threads_does_not_go_on(tmp_path: Path) -> None:
    data = datasets.load("data").search()

    def fit(threads: int) -> training.Fitted:
        run, config = training.parse(methods.get("dcmh"), {**SMALL, "bits": 8, "epochs": 3, "threads": threads})
        return training.fit(methods.get("dcmh"), run, config, data, folder=tmp_path / "own")

    assert fit(1).resumed == 0
    assert fit(1).resumed == 3
    assert fit(2).resumed == 0
    log = (tmp_path / "own" / "log.txt").read_text()
    assert "the checkpoint is of another run" in log
    assert "threads: 1 there, 2 here" in log
    assert "damaged" not in log
    assert (tmp_path / "own" / "checkpoint.other").is_file()
    assert len((tmp_path / "own" / "curve.csv").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "own" / "config.json").read_text())["identity"]["threads"] == 2


def test_a_checkpoint_of_other_code_is_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert methods_main(["new", "mine"]) == 0
    experiment = file("mine.py")
    assert run(experiment) == 0
    ((place, (first,)),) = recorded().items()
    shutil.rmtree("runs")
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = ", "    pairs = -"))
    forget()
    assert run(experiment) == 0
    ((other, (right,)),) = recorded().items()
    foreign = (other / "seed-1" / "checkpoint.pt").read_bytes()
    shutil.rmtree("runs")
    (place / "seed-1").mkdir(parents=True)
    (place / "seed-1" / "checkpoint.pt").write_bytes(foreign)
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = -", "    pairs = "))
    forget()
    capsys.readouterr()
    assert run(experiment) == 0
    assert "already trained" not in capsys.readouterr().out
    log = (place / "seed-1" / "log.txt").read_text()
    assert f"code: {right.identity.code} there, {first.identity.code} here" in log
    ((again,),) = recorded().values()
    assert again.test == first.test


# What is counted


def test_each_other_setting_is_a_further_opening_a_row_and_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    experiment, found = file(), []
    for changes in ("epochs=1",), ("epochs=1", "erase=0.2"), ("epochs=1", "erase=0.8"), ("epochs=2",):
        assert run(experiment, "--set", *changes) == 0
        (new,) = (rows for place, rows in recorded().items() if place not in [one for one, _ in found])
        found += [(place, rows[0]) for place, rows in recorded().items() if rows == new]
    assert [(one.test_opened, one.split_opened) for _, one in found] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert len(ledger.openings(Path("runs/run.openings.jsonl"))) == 4
    for place, record in found:
        ap = records.per_query(place, record)
        assert ap.i2t.mean() == pytest.approx(record.test["map_i2t"], abs=1e-12)
        assert ap.t2i.mean() == pytest.approx(record.test["map_t2i"], abs=1e-12)
    rows, notes = board(capsys)
    assert len(rows) == 4
    assert {row["n_seeds"] for row in rows} == {"1"}
    assert "left out" not in notes
    # The same again, and another run's count: none further, and one of its own.
    assert run(experiment, "--set", "epochs=1") == 0
    assert run(file(name="other.yml", label="library default"), "--set", "epochs=3") == 0
    last = max((record for rows in recorded().values() for record in rows), key=lambda record: record.split_opened)
    assert (last.test_opened, last.split_opened, last.label) == (1, 5, "epochs=3")


def test_changes_of_a_winner_are_rows_with_labels_and_count_in_its_study(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study(seeds=(11,))
    for value in "0.1", "0.2":
        assert run(study, "--set", f"gamma={value}", "--test") == 0
    assert "this is opening 2" in capsys.readouterr().err
    assert run(study, "--set", "gamma=0.3", "--label", "a third", "--test") == 0
    found = [record for rows in recorded().values() for record in rows]
    assert len(recorded()) == 3
    assert {record.label for record in found} == {"gamma=0.1", "gamma=0.2", "a third"}
    assert {record.selection for record in found} == {"fixed"}
    assert sorted(record.test_opened for record in found) == [2, 3, 4]
    assert len(ledger.openings(study / ledger.OWN)) == 4
    rows, _ = board(capsys, "studies", "runs")
    assert len(rows) == 4
    assert sorted(row["label"] for row in rows) == ["", "a third", "gamma=0.1", "gamma=0.2"]
    assert leaderboard.main(["studies", "runs", "--markdown", "board.md"]) == 0
    for shown in capsys.readouterr().out, Path("board.md").read_text():
        assert all(label in shown for label in ("gamma=0.1", "gamma=0.2", "a third"))


def test_changes_of_a_winner_are_validated_only(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study()
    assert run(study, "--set", "gamma=0.1", "--seeds", "2") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": epoch")[0] for line in said[:2]] == ["seed 1", "seed 2"]
    assert said[2] == "gamma=0.1: validated only; --test opens the test split and makes a row of the board"
    assert "test MAP" not in "".join(said)
    assert len(ledger.openings(study / ledger.OWN)) == 1
    assert recorded() == {}
    # What was trained is taken up.
    assert run(study, "--set", "gamma=0.1", "--seeds", "2", "--test") == 0
    assert "seed 1: already trained on" in capsys.readouterr().out
    assert [len(rows) for rows in recorded().values()] == [2]
    # Without a change the winner is tested, as a file is with one.
    assert run(study, "--seeds", "1") == run(file(), "--set", "epochs=1") == 0
    assert capsys.readouterr().out.count("test MAP") == 2


def test_the_winner_of_another_study_as_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study(seeds=(11,), gamma=0.7)
    best = yaml.safe_load((study / "best.yml").read_text())
    folder.write_yaml(study / "best.yml", {**best, "config": {**best["config"], "gamma": 0.7, "batch_size": 16}})
    assert run(file(), "--from", study, "--set", "batch_size=32") == 0
    (record,) = (record for rows in recorded().values() for record in rows)
    assert (record.identity.config["gamma"], record.identity.config["batch_size"]) == (0.7, 32)
    assert record.label == "from dcmh-made-8, batch_size=32"
    assert record.selection == "fixed"
    capsys.readouterr()
    for method, place, message in (
        ("ridge", study, f"--from {study}: is a study of dcmh, but must be one of ridge"),
        ("dcmh", "data", "--from data: has no best.yml, which a study writes when its search has ended"),
    ):
        assert run(file(method), "--from", place) == 2
        assert message in capsys.readouterr().err
    (study / "best.yml").write_text("[1]")
    assert run(file(), "--from", study) == 2
    assert "describes no winner" in capsys.readouterr().err


def test_a_ledger_that_cannot_be_written_opens_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "ledgers").write_text("a file, where the folder should be")
    assert run(file()) == 2
    error = capsys.readouterr().err
    assert "the ledger of test openings cannot be used" in error
    assert "set CMH_DATA" in error
    assert recorded() == {}


def test_a_file_twice_and_then_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """The first trains, the second says that this was done, and a check of the file says where its record is."""
    assert run(file(), "--check") == 2
    assert capsys.readouterr().err.endswith("recorded seeds: none\n")
    assert run(file()) == run(file()) == 0
    assert capsys.readouterr().out.count("already trained") == 1
    ((place, (record,)),) = recorded().items()
    assert (record.test_opened, record.split_opened) == (1, 1)
    assert run(file(), "--check") == 2
    assert f"its newest run: python -m cmh.reproduce {place} --check" in capsys.readouterr().err
    assert run(place, "--check") == 0


def test_results_that_have_no_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("")
    assert run(file(), "--out", "taken/below") == 2
    assert "cannot be written (Not a directory); use --out for another folder" in capsys.readouterr().err


# What is compared


def test_a_winner_is_compared_in_every_number(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study()
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.name[0] != "."}
    assert run(study, "--check") == 0
    said = capsys.readouterr().out
    assert said.endswith("check: everything agrees\n")
    assert "compared within" not in said
    for seed in (11, 12, 13):
        assert said.count(f"seed {seed}: ") == 10
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.name[0] != "."}
    assert after == before  # not even an opening: nothing new was shown
    assert not Path("runs").exists()

    assert run(study, "--check", "--seeds", "1") == 2
    assert "nothing was recorded" in (error := capsys.readouterr().err)
    assert "recorded seeds: 11, 12, 13" in error
    assert run(study, "--check", "--seeds", "11") == 1
    assert "seed 1: nothing was recorded that it could be compared with" in (said := capsys.readouterr().out)
    assert said.endswith("check: DIFFERS\n")
    assert run(study, "--check", "--set", "epochs=1") == 2
    assert "nothing was recorded" in capsys.readouterr().err

    shutil.copytree(study, here / "elsewhere" / "moved")
    assert run("elsewhere/moved", "--check") == 0


def test_other_data_is_named_and_the_same_data_elsewhere_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study(seeds=(11, 12))
    make_data(Path("fewer"), left_out=26)
    make_data(Path("edited"), changed=True)
    for name, hashes in {"fewer": ("dataset_sha256", "split_sha256"), "edited": ("dataset_sha256",)}.items():
        assert run(study, "--check", "--dataset", name) == 1
        said = capsys.readouterr().out
        assert all(f"is another run: {key}: " in said for key in hashes)
        assert "difference" not in said
    shutil.copytree("data", "again")
    assert run(study, "--check", "--dataset", "again") == 0
    assert capsys.readouterr().out.endswith("check: everything agrees\n")
    # In its place, too.
    make_data(Path("data"), changed=True)
    assert run(study, "--check") == 1
    assert "dataset_sha256" in capsys.readouterr().out


def test_other_threads_are_compared_within_what_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = file(seeds=[1, 2])
    assert run(experiment) == 0
    ((place, _),) = recorded().items()
    run_file = yaml.safe_load((place / "run.yml").read_text())
    folder.write_yaml(place / "run.yml", {**run_file, "threads": 2})
    code, said = run(place, "--check"), capsys.readouterr().out
    assert "3 times what its MAPs deviate at most over 2 recorded seeds" in said
    assert "threads: 1 there, 2 here" in said
    assert (code == 0) == ("OUTSIDE" not in said)


def test_a_changed_formula_is_found_and_a_record_alone_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert methods_main(["new", "mine"]) == 0
    assert run(file("mine.py")) == 0
    ((place, (record,)),) = recorded().items()
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = ", "    pairs = -"))
    forget()
    capsys.readouterr()
    assert run(place, "--check") == 1
    assert "the code has changed since" in (said := capsys.readouterr().out)
    assert "OUTSIDE" in said
    assert len(recorded()) == 1
    forget()
    values = {key: record.test[key] for key in ("map_i2t", "map_t2i")}
    numbers = {1: values}
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = -", "    pairs = "))
    assert run(file("mine.py", recorded=numbers), "--check") == 0
    assert "compared within a tolerance of 0.0200" in capsys.readouterr().out
    assert run(file("mine.py", recorded={1: {**values, "map_i2t": 0.99}}), "--check") == 1
    assert run(file("mine.py", recorded={1: {**values, "map_i2t": float("nan")}}), "--check") == 1
    assert run(file("mine.py", recorded={1: {"map_i2t": 0.5}}), "--check") == 2
    assert "recorded must map seeds to map_i2t and map_t2i" in capsys.readouterr().err


def test_what_choosing_the_epoch_on_test_is_worth(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study(seeds=(11, 12))
    assert evaluate.main([str(study), "--seed", "12"]) == 0
    plain = capsys.readouterr().out
    assert "best on test" not in plain
    assert evaluate.main([str(study), "--seed", "12", "--best-epoch", "--csv", "all.csv"]) == 0
    shown = capsys.readouterr()
    assert "every epoch meets the test split: opening 2 by this study, 2 by all" in shown.err
    assert "in the record" not in shown.err  # trained again, it is the same
    with Path("all.csv").open(newline="") as table:
        values = {(row["protocol"], row["direction"]): row["value"] for row in csv.DictReader(table)}
    record = records.read(study)[0][1]
    chosen = f"MAP@all, chosen on validation (epoch {record.chosen_epoch})"
    for way in ("i2t", "t2i"):
        assert float(values[chosen, way]) == pytest.approx(record.test[f"map_{way}"], abs=1e-12)
    (best,) = (name for name, way in values if "best on test, each direction" in name and way == "mean")
    assert float(values[best, "mean"]) >= float(values[chosen, "mean"])
    rest = plain[plain.index("MAP@all, ties: ") : plain.index("The same codes score")].split()
    assert " ".join(rest) in " ".join(shown.out.split())

    assert evaluate.main([str(study), "--best-epoch"]) == 0  # one seed; and a further look, as nobody knows at what
    shown = capsys.readouterr()
    assert "made, seed 11\n" in shown.out
    assert "opening 3 by this study" in shown.err
    best_file = yaml.safe_load((study / "best.yml").read_text())
    folder.write_yaml(study / "best.yml", {**best_file, "threads": 2})
    assert evaluate.main([str(study), "--best-epoch"]) == 0
    edited(study, 0, chosen_epoch=1, test={**records.read(study)[0][0].test, "map": 0.1})
    assert evaluate.main([str(study), "--best-epoch"]) == 0
    assert "but 0.100000 in the record" in capsys.readouterr().err
    make_data(here / "data", changed=True)
    assert evaluate.main([str(study), "--best-epoch"]) == 2
    assert "dataset_sha256: " in (error := capsys.readouterr().err)
    assert "cannot be trained again" in error
    assert len(ledger.openings(study / ledger.OWN)) == 5
    folder.write_yaml(study / "best.yml", {**best_file, "epochs": 3})
    assert evaluate.main([str(study), "--best-epoch"]) == 2
    assert "nothing that can be trained again was recorded with seed 11" in capsys.readouterr().err
    Path("codes.npz").write_bytes(next(study.glob("codes-*.npz")).read_bytes())
    assert evaluate.main(["codes.npz", "--best-epoch"]) == 2
    assert "is no folder of a study" in capsys.readouterr().err


# Bad input


def edited(place: Path, number: int, **changes: Any) -> None:
    """A record's line with other values, whatever the rules."""
    lines = (place / "records.jsonl").read_text().splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    (place / "records.jsonl").write_text("\n".join(lines) + "\n")


def test_lines_that_cannot_be_read_cost_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study()
    edited(study, 0, schema=3)
    edited(study, 1, selection="luck")
    assert run(study, "--check") == 0  # of what is left
    error = capsys.readouterr().err
    assert "records.jsonl:1: left out: is of schema 3" in error
    assert "records.jsonl:2: left out: selection is 'luck'" in error
    rows, notes = board(capsys, "studies")
    assert [row["n_seeds"] for row in rows] == ["1"]
    assert "records.jsonl:1: left out: is of schema 3" in notes
    edited(study, 2, schema=1)
    assert run(study, "--check") == 2
    assert "schema 1 left out, which say too little about their runs; `python -m cmh.reproduce " in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("damage", ["edited record", "file of another run", "no file", "no npz"])
def test_queries_of_another_run_are_found(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = file(seeds=[1, 2])
    assert run(experiment) == 0
    ((place, (first, second)),) = recorded().items()
    if damage == "edited record":
        edited(place, 0, test={**first.test, "map_i2t": 0.9})
    elif damage == "file of another run":
        shutil.copy(place / second.per_query, place / first.per_query)
    elif damage == "no file":
        (place / first.per_query).unlink()
    else:
        (place / first.per_query).write_bytes(b"PK")
    capsys.readouterr()
    assert run(place, "--check") == 1
    text = capsys.readouterr()
    assert "note: seed 1: " in text.err
    assert first.per_query in text.err
    assert "seed 1: nothing was recorded that it could be compared with" in text.out
    assert "seed 2: test map_i2t" in text.out
    _, notes = board(capsys)
    assert first.per_query in notes
    # The same command makes it again, and only it.
    assert run(experiment) == 0
    text = capsys.readouterr()
    assert first.per_query in text.err
    assert "seed 1: already trained" in text.out  # its checkpoint is whole
    assert f"seed 2: already trained on {second.date[:16]}" in text.out
    assert run(place, "--check") == 0
    assert "note: " not in board(capsys)[1]


def test_a_run_folder_is_made_again_where_it_is_and_checked_where_it_was_moved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(file()) == 0
    ((place, (record,)),) = recorded().items()
    assert run(place) == 0
    assert f"already trained on {record.date[:16]}" in capsys.readouterr().out
    assert run(place, "--fresh") == 0
    ((_, again),) = recorded().values()
    assert (again.test, again.test_opened) == (record.test, 1)
    shutil.move(place, "of my own")
    assert run("of my own", "--check") == 0
    assert run("of my own", "--set", "epochs=1") == 0
    (moved,) = recorded()
    assert moved.name.startswith("of my own-")


TARGETS = {
    "nothing": (["nowhere"], "is no experiment file"),
    "an empty folder": (["data"], "has no best.yml"),
    "a trial of no study": (["data:0"], "holds no study.yml"),
    "a bad setting": (["run.yml", "--set", "epochs=none"], "epochs is 'none'"),
    "an unknown setting": (["run.yml", "--set", "gama=1"], "gamma"),
    "no dataset": (["run.yml", "--dataset", "nowhere"], "nowhere"),
    "no device": (["run.yml", "--device", "abacus"], "device 'abacus' cannot be used"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_bad_requests_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file()
    arguments, message = TARGETS[name]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not Path("runs").exists()


def test_all_problems_of_a_file_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = file(seeds=[], selection="luck", bits=0, search=3, colour="red", config={"gamma": "x"})
    assert run(experiment) == 2
    error = capsys.readouterr().err
    for part in ("seeds is []", "selection is 'luck'", "bits is 0", "search is 3", "colour", "gamma is 'x'"):
        assert part in error
    wrong = ("gammma=1", "lr_text=-3", "epochs=x", "nope", "split=file")
    assert run(file(), *(f"--set={one}" for one in wrong)) == 2
    error = capsys.readouterr().err
    for part in ("did you mean 'gamma'", "lr_text is '-3'", "epochs is 'x'", "nope: must be KEY=VALUE", "--split file"):
        assert part in error
    for text, part in (("[1]", "must be a mapping"), ("method: dcmh\nconfig: 3", "dataset is missing")):
        experiment.write_text(text)
        assert run(experiment) == 2
        assert part in capsys.readouterr().err


def test_a_trial_without_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    study = made_study(seeds=(11,))
    folder.write_yaml(study / "study.yml", {"identity": {"method": "dcmh", "seed": 0}})
    assert run(f"{study}:0") == 2
    assert "has no trial 0; it has 0 trials" in capsys.readouterr().err
    (study / "trials.csv").write_text("number,state\n0,complete\n")
    assert run(f"{study}:0") == 2
    assert "config.json: cannot be read" in capsys.readouterr().err
