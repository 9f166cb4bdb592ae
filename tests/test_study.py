"""Whole studies on real Ray, real SQLite and the real clip art; and what the commands refuse."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy.exc
import yaml

from cmh import cache, datasets, leaderboard, ledger, records, reproduce, tune
from cmh.datasets import clipart
from cmh.errors import ConfigError, StudyError
from cmh.study import request
from cmh.study.database import readable_errors
from cmh.study.space import Asha, Range, Space
from cmh.study.storage import Store

SMALL = ["--bits", "8", "--epochs", "4", "--set", "hidden_image=16", "hidden_text=16"]
START = "[default, {lr_image: 0.01}]"  # points that run to their end
SPACE = """
method: dcmh
params:
  lr_image: {float: [1e-4, 5e-2], log: true}
  lr_text: {float: [1e-4, 5e-2], log: true}
  optimizer: {choice: [adam, sgd]}
  momentum: {float: [0, 0.9], when: {optimizer: sgd}}
start_from: [default, {lr_image: 0.01}]
schedule: {asha: {first_rung: 1, reduction: 2, epochs: 4}}
trials: 5
"""


def command(space: Path, out: Path, *more: str) -> list[str]:
    arguments = ["--method", "dcmh", "--space", str(space), "--out", str(out), "--max-concurrent", "1"]
    return [sys.executable, "-m", "cmh.tune", *arguments, *SMALL, *more]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=280, check=False)


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and confirmed study; `space.yml` and `first.txt` (its stdout) lie beside it."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "space.yml").write_text(SPACE)
    done = run(*command(folder / "space.yml", folder / "out", "--seeds", "2"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (folder / "first.txt").write_text(done.stdout)
    return folder / "out" / "dcmh-clipart-8"


@pytest.mark.ray
def test_a_study_leaves_what_it_promises(study: Path) -> None:
    rows = trials(study)
    assert [int(row["number"]) for row in rows] == list(range(5))
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert rows[0]["origin"] == "default"
    assert rows[0]["state"] == "complete"
    for row in rows:
        curve = (study / "trials" / row["number"] / "curve.csv").read_text().splitlines()
        assert len(curve) == int(row["epochs"]) + 1
    assert 1e6 < (study / "report.html").stat().st_size < 4e6
    text = (study.parent.parent / "first.txt").read_text()
    for name in ("chance", "ridge (control)", "library default", "tuned (trial", "cmh.reproduce", "cmh.leaderboard"):
        assert name in text
    found, problems = records.read(study)
    assert problems == []
    assert sorted(record.identity.seed for record in found) == [1, 2]
    assert {record.test_opened for record in found} == {1}
    assert all(record.search.epochs == sum(int(row["epochs"]) for row in rows) for record in found)
    assert np.mean(records.per_query(study, found[0]).i2t) == pytest.approx(found[0].test["map_i2t"], abs=1e-12)


@pytest.mark.ray
def test_the_same_command_again_changes_nothing(study: Path) -> None:
    before = trials(study), (study / "records.jsonl").read_text()
    done = run(*command(study.parent.parent / "space.yml", study.parent, "--seeds", "2"))
    assert done.returncode == 0, done.stderr
    assert (trials(study), (study / "records.jsonl").read_text()) == before
    assert len(ledger.openings(study / ledger.OWN)) == 1


@pytest.mark.ray
def test_another_request_is_refused_with_what_differs(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(study.parent.parent / "space.yml", study.parent, "--seed", "4", "--epochs", "3")[3:]
    assert tune.main(arguments) == 2
    message = capsys.readouterr().err
    assert "holds a study of another request" in message
    assert "seed: 0 there, 4 here" in message
    assert "epochs: 4 there, 3 here" in message


@pytest.mark.ray
def test_the_winner_is_reproduced_exactly(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([str(study), "--check", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("check: everything agrees\n")
    assert len(ledger.openings(study / ledger.OWN)) == 1
    complete = [int(row["number"]) for row in trials(study) if row["state"] == "complete"]
    assert complete[-1] > 0
    for number in (0, complete[-1]):  # the last one in a worker that has trained others; here the process is fresh
        assert reproduce.main([f"{study}:{number}", "--check", "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "compared without tolerance" in said
        assert said.endswith("check: everything agrees\n")
    # A record that does not hold is found out.
    path = tmp_path / "wrong.yml"
    best = yaml.safe_load((study / "best.yml").read_text())
    path.write_text(yaml.safe_dump({**best, "seeds": [1], "recorded": {1: {"map_i2t": 0.99, "map_t2i": 0.99}}}))
    assert reproduce.main([str(path), "--check", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "OUTSIDE" in said
    assert said.endswith("check: DIFFERS\n")


@pytest.mark.ray
def test_the_board_shows_the_study(study: Path, tmp_path: Path) -> None:
    assert leaderboard.main([str(study.parent), "--csv", str(tmp_path / "board.csv")]) == 0
    with (tmp_path / "board.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["method"] == "dcmh"
    assert row["n_seeds"] == "2"
    assert row["trials"] == "5"


@pytest.mark.ray
def test_strict_rungs_may_complete_no_trial_and_more_trials_cure_that(tmp_path: Path) -> None:
    file = tmp_path / "space.yml"
    file.write_text(SPACE.replace(START, "[]").replace("reduction: 2", "reduction: 4, strict: true"))
    once = run(*command(file, tmp_path / "out", "--trials", "3", "--no-confirm"))
    assert once.returncode == 2
    assert "no trial was completed" in once.stderr
    assert "trials pruned: 3; the same command with more --trials goes on" in once.stderr
    study = tmp_path / "out" / "dcmh-clipart-8"
    before = trials(study)
    assert [(row["state"], row["epochs"]) for row in before] == [("pruned", "1")] * 3
    again = run(*command(file, tmp_path / "out", "--trials", "12", "--no-confirm"))
    assert again.returncode == 0, again.stderr
    after = trials(study)
    assert after[:3] == before
    assert sum(row["state"] == "complete" for row in after) in range(1, 4)


@pytest.mark.ray
@pytest.mark.timeout(600)  # five sessions of Ray
def test_a_killed_study_goes_on_as_if_nothing_had_happened(study: Path, tmp_path: Path) -> None:
    whole = trials(study)
    arguments = command(study.parent.parent / "space.yml", tmp_path, "--no-confirm")
    folder = tmp_path / "dcmh-clipart-8"
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL
    for wanted, number in enumerate(numbers):
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and not (folder / "trials" / str(wanted)).exists():
            time.sleep(0.05)
        if number != signal.SIGKILL:
            process.send_signal(number)
            assert "interrupted; the same command goes on from here" in process.communicate(timeout=60)[1]
            assert process.returncode == 130
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert trials(folder) == whole


@pytest.mark.ray
def test_a_trial_that_breaks_stays_its_own(tmp_path: Path) -> None:
    bad = "[default, {optimizer: sgd, lr_image: 0.05, lr_text: 0.05, weight_std: 1.0, gamma: 10000, eta: 10000}]"
    (tmp_path / "space.yml").write_text(SPACE.replace(START, bad).replace("trials: 5", "trials: 2"))
    done = run(*command(tmp_path / "space.yml", tmp_path, "--no-confirm"))
    assert done.returncode == 0, done.stderr
    rows = trials(tmp_path / "dcmh-clipart-8")
    assert [(row["state"], row["failure"]) for row in rows] == [("complete", ""), ("failed", "nan")]
    assert "epoch 1" in rows[1]["error"]
    assert "Traceback" in (tmp_path / "dcmh-clipart-8" / "trials" / "1" / "log.txt").read_text()


@pytest.mark.ray
def test_a_storage_that_breaks_ends_the_study_and_loses_nothing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(study.parent.parent / "space.yml", tmp_path, "--no-confirm")[3:]
    report, count = Store.report, 0

    def full(*given: Any) -> bool:
        nonlocal count
        count += 1
        if count == 7:
            raise sqlalchemy.exc.OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))
        return report(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "report", full)
        assert tune.main(arguments) == 2
    assert "cannot be used: database or disk is full" in capsys.readouterr().err
    assert tune.main(arguments) == 0
    assert trials(tmp_path / "dcmh-clipart-8") == trials(study)


@pytest.mark.ray
def test_the_readmes_own_search(tmp_path: Path) -> None:
    """The snippet under "Under your own Ray Tune", with a small network."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(from ray import tune\n.*?)```", readme, re.DOTALL)
    small = '"epochs": 2, "hidden_image": 8, "hidden_text": 8'
    body = snippet.strip().replace('{"bits": 32', '{"bits": 8, ' + small)
    body = body.replace("\ntune.Tuner", "\nfound = tune.Tuner")
    assert small in body
    shown = "val_map", "val_map_i2t", "val_map_t2i", "val_map_best", "epoch"
    body += f"\nprint([found[0].metrics[key] for key in {shown!r}], found[0].checkpoint is not None)\n"
    (tmp_path / "own.py").write_text(body)
    # Ray writes its results below the home folder; the features stay where they are.
    own = {"HOME": str(tmp_path), "CMH_CACHE": str(cache.root())}
    done = subprocess.run(
        [sys.executable, "own.py"],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"\[(0\.\d+(e-\d+)?, ){4}2\] True", last), last


BAD_URLS = {
    "nonsense": "Could not parse",
    "nonsense://x": "Can't load plugin",
    "sqlite:////nowhere/at/all/x.db": "unable to open database file",
}


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_storage_that_is_none(url: str) -> None:
    space = Space("dcmh", (Range("gamma", "float", 0.1, 1),), (), "tpe", None, 4, 12)
    with pytest.raises(StudyError, match=re.escape(BAD_URLS[url])), readable_errors(url):
        Store(url, "s", space, {"gamma": 0.5}, seed=3)


REFUSED = {
    "method": (["--method", "dcm"], "did you mean 'dcmh'"),
    "dataset": (["--dataset", "clippart"], "did you mean 'clipart'"),
    "folder": (["--dataset", "."], "dataset.yml: does not exist"),
    "space": (["--space", "nowhere"], "built in: agah, cca_itq"),
    "space of no folder": (["--space", "no/such/folder/dcmh.yml"], "no/such/folder does not exist"),
    "set": (["--set", "gama=1"], "did you mean 'gamma'"),
    "set value": (["--set", "gamma=-1"], "gamma is '-1'"),
    "set form": (["--set", "gamma"], "must be KEY=VALUE"),
    "missing": (["--dataset", "mirflickr25k"], "MIRFlickr-25K is not complete here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMH_DATA", str(tmp_path))
    more, message = REFUSED[name]
    assert tune.main(["--method", "dcmh", "--space", "dcmh", "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_request_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yml").write_text(SPACE.replace("[1e-4, 5e-2]", "[5e-2, 1e-4]").replace("trials: 5", "trials: 0"))
    wrong = [f"--set={one}" for one in ("gammma=1", "hidden_text=-3", "finetune=maybe", "nope", "method=ridge")]
    assert tune.main(["--method", "dcmh", "--space", str(tmp_path / "s.yml"), "--dataset", "nope", *wrong]) == 2
    error = capsys.readouterr().err
    for part in ("did you mean 'gamma'", "hidden_text is '-3'", "finetune is 'maybe'", "--set nope: must be KEY=VALUE"):
        assert part in error
    assert "--set method=ridge: is an option of its own: --method ridge" in error
    for part in ("params.lr_image", "params.lr_text", "low must be < high", "trials is 0", "'nope' is not known"):
        assert part in error


@pytest.mark.parametrize(
    "arguments", [["--bits", "0"], ["--trials", "x"], ["--time-budget", "soon"], ["--cpus-per-trial", "-1"]]
)
def test_bad_arguments_name_their_rule(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        tune.main(["--method", "dcmh", "--space", "dcmh", *arguments])
    assert exit_.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--method", "dcmh", "--space", "dcmh", "--out"]
    assert tune.main([*arguments, str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1})())
    assert tune.main([*arguments, str(tmp_path / "full")]) == 2
    assert "0 MiB are free" in capsys.readouterr().err


def test_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.yml").write_text(SPACE)
    assert tune.main([*command(tmp_path / "space.yml", tmp_path / "out", "--plan")[3:]]) == 0
    text = capsys.readouterr().out
    assert "rungs: 1, 2" in text
    assert "0 (default)" in text
    assert not (tmp_path / "out").exists()


def test_a_plan_of_few_epochs_says_that_there_are_no_rungs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--method", "ridge", "dcmh", "--epochs", "2", "--bits", "8", "--trials", "2"]
    assert tune.main([*few, "--out", str(tmp_path / "out"), "--plan"]) == 0
    shown = capsys.readouterr()
    assert "dcmh: --epochs 2: the first rung would be at epoch 2, so there is none" in shown.err
    assert shown.out.count("rungs: none") == 2


def test_a_dataset_is_read_once_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, count = clipart.read, 0

    def counted() -> datasets.Source:
        nonlocal count
        count += 1
        return read()

    monkeypatch.setattr(clipart, "read", counted)
    (tmp_path / "space.yml").write_text(SPACE)
    assert tune.main([*command(tmp_path / "space.yml", tmp_path / "out", "--plan")[3:]]) == 0
    assert count == 1
    experiment = {"method": "random", "dataset": "clipart", "bits": 8, "config": {}}
    (tmp_path / "run.yml").write_text(yaml.safe_dump(experiment))
    assert reproduce.main([str(tmp_path / "run.yml"), "--out", str(tmp_path / "runs")]) == 0
    assert count == 2
    assert "records: " in capsys.readouterr().out


def test_a_request_is_a_value_that_python_can_make_too(tmp_path: Path) -> None:
    limits = request.Limits(1.0, None, None, None, None, None, None)
    asked = request.Asked(
        methods=("ridge", "dcmh", "ridge"),
        spaces=(),
        dataset="clipart",
        skip_bad=False,
        split="torchcmh",
        features=datasets.DEFAULT_FEATURES,
        weights=None,
        bits=(8, 16, 8),
        settings=("erase=0.5",),
        trials=None,
        epochs=7,
        seed=3,
        seeds=2,
        warm_start=(),
        base=None,
        out=tmp_path,
        storage=None,
        limits=limits,
    )
    found = request.check(asked)
    assert found.seeds == (4, 5)
    assert [study.folder.name for study in found.studies] == [
        f"{method}-clipart-{bits}" for method in ("ridge", "dcmh") for bits in (8, 16)
    ]
    assert {(study.run["epochs"], study.run["erase"], study.seed) for study in found.studies} == {(7, 0.5, 3)}
    assert found.studies[0].url == f"sqlite:///{tmp_path}/ridge-clipart-8/study.db"
    assert request.check(dataclasses.replace(asked, seeds=0)).seeds == ()
    with pytest.raises(ConfigError, match="erase is 'x'") as error:
        request.check(dataclasses.replace(asked, settings=("erase=x",), dataset="nope"))
    assert [problem.split(" is ")[0] for problem in error.value.problems] == ["--set: erase", "dataset 'nope'"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.seeds = (1,)  # type: ignore[misc]


def test_a_searched_hyperparameter_without_effect_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = "  lr_decay: {float: [0.9, 0.99]}\nstart_from"  # the default schedule is not the one that uses it
    (tmp_path / "space.yml").write_text(SPACE.replace("start_from", idle))
    assert tune.main([*command(tmp_path / "space.yml", tmp_path / "out", "--plan")[3:]]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "lr_decay" in warnings[0]


@pytest.mark.parametrize("target", ["nothing", "."])
def test_reproduce_refuses_what_is_no_target(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([str(tmp_path / target)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_dataset_that_is_not_here_is_said_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(__file__).parent.parent / "experiments"
    monkeypatch.setenv("CMH_DATA", str(tmp_path))
    assert reproduce.main([str(folder / "jiang2017_dcmh_mirflickr25k.yml"), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "mirflickr25k-yall.mat" in error
    assert "images" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("sampler", ["priorband", "tpe", "random", "gp", "cmaes", "qmc", "grid"])
def test_proposals_depend_on_seed_number_and_history_alone(sampler: str, tmp_path: Path) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    choices = Range("batch_size", "choice", choices=(64, 128, 256))
    ranges = (choices, Range("gamma", "float", 0.1, 1)) if sampler != "grid" else (choices,)
    space = Space("dcmh", ranges, (), sampler, Asha(1, 2), 4, 12)
    base = {"batch_size": 64, "gamma": 0.1}

    def history(interrupted: bool) -> list[tuple[object, ...]]:
        url = f"sqlite:///{tmp_path / f'{interrupted}.db'}"
        store, seen = Store(url, "s", space, base, seed=3), []
        for number in range(3 if sampler == "grid" else 11):
            proposal = store.propose(12)
            if interrupted and number in (1, 9):  # killed after the ask: the next start takes the same trial up
                store = Store(url, "s", space, base, seed=3)
                again = store.propose(12)
                assert again == proposal
            assert proposal is not None
            store.report(proposal.number, 1, 1 / (1 + float(proposal.config["gamma"])))
            store.complete(proposal.number, {})
            seen.append((proposal.number, *proposal.config.values()))
        return seen

    assert history(False) == history(True)
