"""Ablations, curves and many studies at once, on real Ray: one session for all tests."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmh import cluster, ledger, records, tune
from cmh.study.folder import read_study
from tests.test_reproduce import make_data

pytestmark = pytest.mark.ray

SPACE = """
method: dcmh
params:
  lr_image: {float: [1.0e-4, 5.0e-2], log: true}
  gamma: {float: [1.0e-2, 10], log: true}
start_from: [default]
schedule: none
trials: 2
"""
SMALL = ["--bits", "8", "--epochs", "1", "--set", "hidden_image=4", "hidden_text=4"]
DCMH = ["--method", "dcmh", "--space", "space.yml", "--dataset", "a", *SMALL, "--seeds", "2", "--no-tensorboard"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with two datasets, `a` and `b`, and a session of Ray that each command finds."""
    folder = tmp_path_factory.mktemp("campaigns")
    with pytest.MonkeyPatch.context() as patch, cluster.session(None, on_server_death=lambda reason: None):
        patch.chdir(folder)
        patch.setenv("CMH_CACHE", str(folder / "cache"))
        patch.setenv("CMH_DATA", str(folder / "ledgers"))
        patch.setattr(cluster, "session", lambda *_, **__: contextlib.nullcontext())
        patch.setattr("cmh.views.report.write_softly", lambda _: None)  # tests of its own
        for name in ("a", "b"):
            make_data(Path(name), changed=name == "b")
            Path(name, "dataset.yml").write_text(f"name: {name}\nfeatures: data.npz\n")
        Path("space.yml").write_text(SPACE)
        yield folder


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def openings() -> int:
    return sum(len(ledger.openings(path)) for path in Path("ledgers").rglob("*.jsonl"))


def test_an_ablation_stays_on_validation_until_it_is_asked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*DCMH, "--ablate", "gamma", "optimizer", "--out", "ablated"]
    assert tune.main(command) == 0
    said = capsys.readouterr()
    assert "without its components; validation MAP, each searched with 2 trials of 1 epochs" in said.out
    assert "the test split stayed closed" in said.out
    rows = table("ablated/dcmh-a-8/ablation.csv")
    assert [row["without"] for row in rows] == ["", "gamma=0", "optimizer=sgd"]
    assert {row["n_seeds"] for row in rows} == {"2"}
    assert all(row["val_map_difference_ci95"] for row in rows[1:])
    assert openings() == 0
    assert {row["gamma"] for row in table("ablated/dcmh-a-8-gamma=0/trials.csv")} == {"0.0"}
    assert tune.main([*command, "--test"]) == 0  # the searches are there
    said = capsys.readouterr()
    assert said.err.count("going on with the study that is there") == 3
    assert "trial   1" not in said.err
    tested = table("ablated/dcmh-a-8/ablation.csv")
    assert all(row["test_map"] for row in tested)
    assert [row["selected_val_map"] for row in tested] == [row["selected_val_map"] for row in rows]
    found, _ = records.read(Path("ablated/dcmh-a-8-gamma=0"))
    assert {(one.label, one.selection) for one in found} == {("gamma=0", "validation")}
    assert openings() == 3
    assert "gamma=0" in Path("ablated/board.csv").read_text()


def test_a_curve_is_added_to_and_tested_when_it_is_asked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = openings()
    assert tune.main([*DCMH, "--sweep", "gamma=0.1:1:2", "--seeds", "1", "--out", "swept"]) == 0
    assert openings() == before
    study = Path("swept/dcmh-a-8-sweep-gamma")
    assert [row["n_seeds"] for row in table(f"{study}/sweep.csv")] == ["1", "1"]
    assert tune.main([*DCMH, "--sweep", "gamma=0.1,10", "--out", "swept", "--test"]) == 0
    said = capsys.readouterr()
    assert "test MAP" in said.out
    rows = table(f"{study}/sweep.csv")
    assert [(row["value"], row["n_seeds"]) for row in rows] == [("0.1", "2"), ("1.0", "1"), ("10.0", "2")]
    assert all(row["test_map"] for row in rows)
    assert openings() == before + 3
    trials = table(f"{study}/trials.csv")
    assert [row["origin"] for row in trials][:2] == ["gamma=0.1, seed 1", "gamma=1.0, seed 1"]
    assert len(trials) == 5
    assert read_study(study).method == "dcmh"
    assert {one.label for one in records.read(study)[0]} == {"gamma=0.1", "gamma=1.0", "gamma=10.0"}


def test_all_methods_of_a_kind_on_two_datasets_make_one_board(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many").mkdir()
    Path("many/cca_itq-b-8").write_text("")  # no folder can be there
    more = ["--bits", "8", "16", "--trials", "1", "--seeds", "1", "--no-tensorboard", "--out", "many"]
    assert tune.main(["--method", "shallow", "--dataset", "a", "b", *more]) == 2
    said = capsys.readouterr()
    assert "error: many/cca_itq-b-8: cannot be written" in said.err
    assert said.err.count("left out: ") == 1
    assert said.out.count("tuned (trial 0)") == 7
    rows = table("many/board.csv")
    assert len(rows) == 7
    assert {(row["dataset"], row["bits"]) for row in rows} == {(data, bits) for data in "ab" for bits in ("8", "16")}
    assert "ridge" in said.out.rpartition("tuned (trial 0)")[2]  # the board comes last
