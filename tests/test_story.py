"""A study read for its views: whole, half written, damaged."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh.errors import ConfigError
from cmh.study import aside
from cmh.views import curve_file, runs, story
from tests.made_study import EPOCHS, whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studies") / "dcmh-clipart-16"
    whole(place)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(made, tmp_path / made.name)


def test_a_whole_study_is_read(made: Path) -> None:
    found = story.read_study(made)
    assert found.problems == []
    assert (found.name, found.method, found.dataset, found.bits) == ("dcmh-clipart-16", "dcmh", "clipart", 16)
    states = ["complete", "pruned", "failed", "failed", "complete", "interrupted"]
    assert [trial.state for trial in found.trials] == states
    assert [len(trial.curve) for trial in found.trials] == [4, 1, 1, 0, 4, 2]
    first = found.trials[0]
    assert (first.best_epoch, first.best_val_map, first.best_i2t) == (3, 0.6, 0.4)
    assert first.curve[2]["image_loss"] == 0.5
    assert {len(trial.settings) for trial in found.trials} == {len(first.settings)}
    assert found.best == found.trials[4]
    assert found.controls["chance"] == (0.1, 0.1, 0.1)
    assert found.controls["library default"] == (0.4, 0.6, 0.6)
    assert [(run.name, run.seed, len(run.curve)) for run in found.confirmations] == [("4-1", 1, 4), ("4-2", 2, 4)]
    assert found.confirmations[0].test["map"] > 0
    assert found.confirmations[0].chosen_epoch == EPOCHS


def test_damaged_and_missing_curves_cost_their_lines_alone(place: Path) -> None:
    trials = place / "trials"
    (trials / "0" / "curve.csv").write_text("\n".join([*_lines(trials / "0")[:2], "what,is,this", "1,2"]) + "\n1,2")
    (trials / "1" / "curve.csv").unlink()
    (trials / "4" / "curve.csv").write_text((trials / "4" / "curve.csv").read_text().replace(",0.5,", ",0.51,"))
    (trials / "5" / "curve.csv").write_bytes(b"\x00\xff\n\xfe")
    found = story.read_study(place)
    assert len(found.problems) == 2
    assert "2 of 3 lines are damaged" in found.problems[0]
    assert "1 epochs are otherwise than in the storage, as 2" in found.problems[1]
    assert [[row["val_map"] for row in trial.curve.values()] for trial in found.trials] == [
        *([0.3, 0.5, 0.6, 0.4], [0.2], [0.25], []),
        *([0.4, 0.5, 0.65, 0.7], [0.3, 0.35]),
    ]
    assert "image_loss" in found.trials[0].curve[1]
    assert "image_loss" not in found.trials[0].curve[2]
    assert "image_loss" not in found.trials[4].curve[2]


def test_without_its_storage_a_study_is_shown_from_its_files(place: Path) -> None:
    (place / "study.db").unlink()
    (place / "trials.csv").write_text(
        "number,state,origin,rung,failure,error\n0,diverged,default,,,loss ended at 2e+10\n1,pruned,search,1,,\n"
    )
    found = story.read_study(place)
    assert "does not exist" in found.problems[0]
    assert found.problems[1] == "its trials are shown as their own files have them"
    assert [trial.state for trial in found.trials] == ["diverged", "pruned", *["interrupted"] * 4]
    assert (found.trials[0].origin, found.trials[0].best_val_map, found.trials[1].rung) == ("default", 0.6, 1)
    (place / "study.yml").write_text((place / "study.yml").read_text().replace("sqlite:///study.db", "nowhere"))
    assert "cannot be used: Could not parse" in story.read_study(place).problems[0]
    (place / "study.yml").unlink()
    (place / "trials.csv").unlink()
    found = story.read_study(place)
    assert "holds no study.yml" in found.problems[0]
    assert (found.method, found.bits, len(found.trials)) == ("dcmh", 16, 6)


def test_a_run_without_record_and_a_record_without_run_are_shown(place: Path) -> None:
    shutil.rmtree(place / "confirm" / "4-1")
    (place / "confirm" / "4-3").mkdir()
    (place / "confirm" / "4-3" / "config.json").write_text('{"seed": 3, "config": {"gamma": 1}}')
    (place / "records.jsonl").write_text((place / "records.jsonl").read_text() + "{half")
    found = story.read_study(place)
    assert [(run.seed, bool(run.test), bool(run.curve)) for run in found.confirmations] == [
        *((1, True, False), (2, True, True), (3, False, False)),
    ]
    assert "records.jsonl:3: left out" in found.problems[0]


def test_names_in_a_storage_lead_views_nowhere(place: Path) -> None:
    """Files and environments are named by them, and a storage may be another's."""
    known = {"(control)": [0.1] * 3, "../x (control)": [0.1] * 3, "ridge (control)": [0.1] * 3}
    names = "../../x", "a/b", "", ".", "4-1001"
    kept = {name: dataclasses.asdict(aside.failed(name, 4, 1001, "")) for name in names}
    found = runs.besides(place, {"controls": known, aside.KEPT: kept}, [])
    assert [one.name for one in found] == ["control-ridge", "finalist-4-1001"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no study\.yml"):
        story.read_study(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_curve_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "curve.csv"
    path.write_bytes(b"epoch,val_map\n" + data)
    problems: list[str] = []
    rows = curve_file.read_curve(path, problems)
    assert len(problems) <= 1
    assert all(set(row) == {"val_map"} for row in rows.values())


def _lines(home: Path) -> list[str]:
    return (home / "curve.csv").read_text().splitlines()
